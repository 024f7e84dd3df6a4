import Model
import Synchronization

/// Desired state in a directory of Kubernetes manifests: `*.yaml`, `*.yml` and `*.json` of the directory and of its
/// subfolders one level down. Hidden files and editors' copies are skipped.
///
/// A look costs one `stat` a file, the reading of the files that changed, and the parsing of the documents in them that
/// changed. A file that is no YAML keeps its last good
/// objects, and an object that is not valid keeps its last good version, while all others apply. Where two files hold
/// the same object, the one whose path sorts first counts and the other is reported; where two services claim the same
/// cluster IP or node port, the one whose name sorts first does.
public final class ManifestDirectory: Sendable {
  public let path: String
  /// The largest manifest that is read, in bytes.
  public let fileSizeLimit: Int
  private let contents = Mutex(Contents())

  private struct Contents {
    var files: [String: ManifestFile] = [:]
    /// The files that hold an object, in the order of their paths; only the first counts.
    var holders: [ObjectKey: [String]] = [:]
    /// The objects that more than one file holds.
    var contested: Set<ObjectKey> = []
    /// Which services count where several claim the same address or port.
    var admission = ServiceAdmission()
    var scanErrors: [ManifestError] = []
    var folders: [String] = []
    var problems: [ManifestError] = []
    var reportedSubjects: Set<String> = []
    var state = State()
  }

  public init(_ path: String, fileSizeLimit: Int = 64 << 20) {
    self.path = path
    self.fileSizeLimit = fileSizeLimit
  }

  /// The state as of the last look.
  public var state: State { contents.withLock { $0.state } }

  /// All that is wrong as of the last look, by file and line.
  public var problems: [ManifestError] { contents.withLock { $0.problems } }

  /// The subfolders as of the last look.
  var folders: [String] { contents.withLock { $0.folders } }

  /// The first look. Throws where the directory cannot be read; whatever is wrong inside of it is in the update.
  public func load() throws(ManifestError) -> Update {
    let scan = try DirectoryScan(path)
    return contents.withLock { apply(scan, minimumAge: .zero, to: &$0).update }
  }

  /// A further look: what changed since the last one. A directory that cannot be read any more keeps its last state and
  /// is reported among the problems.
  public func refresh() -> Update { refresh(minimumAge: .zero).update }

  /// A further look that leaves alone what changed less than `minimumAge` ago and may still be in the making: a file
  /// that is rewritten in place is empty for a moment. `isPending`: there are such files.
  func refresh(minimumAge: Duration) -> (update: Update, isPending: Bool) {
    contents.withLock { contents in
      do throws(ManifestError) {
        return apply(try DirectoryScan(path), minimumAge: minimumAge, to: &contents)
      } catch {
        var error = error
        if !contents.files.isEmpty { error.message += " (its last good objects stay)" }
        contents.scanErrors = [error]
        return (finish([], &contents), false)
      }
    }
  }

  private func apply(
    _ scan: DirectoryScan, minimumAge: Duration, to contents: inout Contents
  ) -> (update: Update, isPending: Bool) {
    var touched: Set<ObjectKey> = []
    var isPending = false
    for (name, stamp) in scan.files.sorted(by: { $0.key < $1.key }) {
      if let known = contents.files[name], known.stamp == stamp { continue }
      if stamp.isYounger(than: minimumAge) {
        isPending = true
        continue
      }
      let file = reread(name, contents.files[name] ?? ManifestFile())
      replace(name, with: file, in: &contents, touched: &touched)
    }
    for name in contents.files.keys where scan.files[name] == nil && !scan.isUnknown(name) {
      replace(name, with: nil, in: &contents, touched: &touched)
    }
    contents.folders = scan.folders
    contents.scanErrors = scan.errors.sorted { $0.key < $1.key }.map(\.value)
    return (finish(touched, &contents), isPending)
  }

  /// Reads a file whose stamp has changed.
  private func reread(_ name: String, _ known: ManifestFile) -> ManifestFile {
    var file = known
    let path = join(self.path, name)
    file.stamp = nil
    do {
      guard let (bytes, stamp) = try FileSystem.read(path, limit: fileSizeLimit) else {
        file.contentHash = 0
        file.fail(
          ManifestError(
            file: path, message: "is larger than \(fileSizeLimit >> 20) MiB; split it into several files"))
        return file
      }
      // An unsettled stamp could hide the next change: such a file is read again at the next look.
      file.stamp = stamp.isSettled ? stamp : nil
      let hash = contentHash(bytes)
      guard hash != known.contentHash else { return file }
      file.contentHash = hash
      file.update(bytes, path: path)
    } catch {
      file.contentHash = 0
      file.fail(ManifestError(file: path, message: "cannot be read: \(error); \(DirectoryScan.remedy(error))"))
    }
    return file
  }

  /// Never 0, which stands for contents that were not read.
  private func contentHash(_ bytes: [UInt8]) -> Int {
    let hash = DocumentCache.key(bytes[...])
    return hash == 0 ? 1 : hash
  }

  /// Puts a file's new objects in the place of its old ones; nil = the file is gone.
  private func replace(
    _ name: String, with file: ManifestFile?, in contents: inout Contents, touched: inout Set<ObjectKey>
  ) {
    let old = contents.files[name]?.objects ?? [:]
    let new = file?.objects ?? [:]
    contents.files[name] = file
    for key in old.keys where new[key] == nil {
      var holders = contents.holders[key] ?? []
      holders.removeAll { $0 == name }
      contents.holders[key] = holders.isEmpty ? nil : holders
      if holders.count < 2 { contents.contested.remove(key) }
      touched.insert(key)
    }
    for (key, object) in new where old[key]?.resource != object.resource {
      touched.insert(key)
      guard old[key] == nil else { continue }
      var holders = contents.holders[key] ?? []
      holders.insert(name, at: holders.firstIndex { $0 > name } ?? holders.endIndex)
      contents.holders[key] = holders
      if holders.count > 1 { contents.contested.insert(key) }
    }
  }

  /// Turns touched objects into changes, and tells what is newly wrong.
  private func finish(_ touched: Set<ObjectKey>, _ contents: inout Contents) -> Update {
    var update = Update()
    let services = touched.filter { $0.kind == .service }.map { key in
      (key: key, service: counting(key, contents)?.loaded.resource.object as? Service)
    }
    let concerned = contents.admission.update(services)
    for key in touched.union(concerned) {
      let isRefused = contents.admission.refusals[key] != nil
      switch (contents.state[key], isRefused ? nil : counting(key, contents)?.loaded.resource) {
      case (let old, let new?) where old != new: update.changes.append(.upsert(new))
      case (.some, nil): update.changes.append(.delete(key))
      default: break
      }
    }
    update.changes = Change.ordered(update.changes)
    for change in update.changes { contents.state.apply(change) }

    let problems = currentProblems(contents)
    let before = Set(contents.problems)
    let now = Set(problems)
    update.problems = problems.filter { !before.contains($0) }
    update.resolved = contents.problems.filter { !now.contains($0) }
    contents.problems = problems

    for (_, file) in contents.files.sorted(by: { $0.key < $1.key }) {
      for notice in file.notices where contents.reportedSubjects.insert(notice.subject).inserted {
        update.notices.append(notice)
      }
    }
    return update
  }

  /// The object of a key that counts, and the file that it is in.
  private func counting(_ key: ObjectKey, _ contents: Contents) -> (file: String, loaded: ManifestFile.Loaded)? {
    guard let name = contents.holders[key]?.first, let loaded = contents.files[name]?.objects[key] else { return nil }
    return (name, loaded)
  }

  private func currentProblems(_ contents: Contents) -> [ManifestError] {
    var problems = contents.scanErrors
    for file in contents.files.values { problems += file.problems }
    for key in contents.contested {
      let holders = contents.holders[key] ?? []
      for name in holders.dropFirst() {
        guard let position = contents.files[name]?.objects[key]?.position else { continue }
        problems.append(
          ManifestError(
            file: join(path, name), line: Int(position.line), column: Int(position.column), object: key.description,
            message: "stands in \(join(path, holders[0])) already, which counts; remove it from one of the files"))
      }
    }
    for (key, refusal) in contents.admission.refusals {
      guard let (name, loaded) = counting(key, contents) else { continue }
      let field = (loaded.resource.object as? Service)?.field(of: refusal.claim)
      let holder = counting(refusal.holder, contents).map { join(path, $0.file) } ?? path
      problems.append(
        ManifestError(
          file: join(path, name), line: Int(loaded.position.line), column: Int(loaded.position.column),
          object: key.description, field: field, message: refusal.message(place: holder)))
    }
    return problems.sorted { ($0.file, $0.line, $0.column, $0.message) < ($1.file, $1.line, $1.column, $1.message) }
  }
}

/// The whole state of a directory for commands that look once: `trace`, `replay`. Throws where the directory cannot be
/// read.
public func loadState(
  directory: String
) throws(ManifestError) -> (state: State, problems: [ManifestError], notices: [ManifestNotice]) {
  let source = ManifestDirectory(directory)
  let update = try source.load()
  return (source.state, update.problems, update.notices)
}
