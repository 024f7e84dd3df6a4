import Glibc
import Model

/// The manifests of a directory and of its subfolders, one level down, by their paths below the directory.
struct DirectoryScan {
  var files: [String: FileStamp] = [:]
  /// The subfolders whose files are read.
  var folders: [String] = []
  /// Paths that could not be looked at. What is below them counts as unchanged.
  var errors: [String: ManifestError] = [:]

  /// Looks at names and stamps only. Throws where the directory itself cannot be read.
  init(_ root: String) throws(ManifestError) {
    do {
      let stamp = try FileSystem.stamp(root)
      guard stamp.type == .directory else {
        throw ManifestError(file: root, message: "is not a directory; name the directory that holds the manifests")
      }
      try scan(root, below: "")
    } catch let error as ManifestError {
      throw error
    } catch let error as SystemError {
      throw ManifestError(file: root, message: "cannot read the directory: \(error); \(Self.remedy(error))")
    } catch {
      throw ManifestError(file: root, message: "cannot read the directory: \(error)")
    }
  }

  private mutating func scan(_ root: String, below folder: String) throws(SystemError) {
    for name in try FileSystem.names(in: join(root, folder)) where !Self.isIgnored(name) {
      let path = join(folder, name)
      let stamp: FileStamp
      do {
        stamp = try FileSystem.stamp(join(root, path))
      } catch {
        // Files come and go between the listing and the look at them. A link that leads nowhere is a mistake.
        if error.code != ENOENT || Self.isManifest(name) { report(path, in: root, error) }
        continue
      }
      switch stamp.type {
      case .regular where Self.isManifest(name): files[path] = stamp
      case .directory where folder.isEmpty:
        folders.append(path)
        do { try scan(root, below: path) } catch { report(path, in: root, error) }
      default: break
      }
    }
  }

  private mutating func report(_ path: String, in root: String, _ error: SystemError) {
    // Gone since it was listed, and no link either: it was deleted.
    if error.code == ENOENT, !FileSystem.linkExists(join(root, path)) { return }
    errors[path] = ManifestError(
      file: join(root, path), message: "cannot be read: \(error); \(Self.remedy(error))")
  }

  /// Whether a path below the directory could not be looked at.
  func isUnknown(_ path: String) -> Bool {
    errors[path] != nil || path.firstIndex(of: "/").map { errors[String(path[..<$0])] != nil } ?? false
  }

  static func isManifest(_ name: String) -> Bool {
    name.hasSuffix(".yaml") || name.hasSuffix(".yml") || name.hasSuffix(".json")
  }

  /// Hidden files, and those that editors keep beside the real one.
  static func isIgnored(_ name: String) -> Bool { name.hasPrefix(".") || name.hasPrefix("#") || name.hasSuffix("~") }

  static func remedy(_ error: SystemError) -> String {
    switch error.code {
    case ENOENT: "create it, or check the spelling of its path"
    case EACCES, EPERM: "give this user the right to read it"
    case ELOOP: "remove the loop of symbolic links"
    default: "check the file system it is on"
    }
  }
}

/// One path below another; an empty part adds nothing.
func join(_ folder: String, _ name: String) -> String {
  if folder.isEmpty { return name }
  if name.isEmpty { return folder }
  return folder.hasSuffix("/") ? folder + name : "\(folder)/\(name)"
}
