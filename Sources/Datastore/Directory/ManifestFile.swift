import Model

/// What is known of one manifest: its last good objects and what is wrong with it now.
struct ManifestFile {
  struct Loaded {
    var resource: Resource
    /// Where the object stands, or stood when it was last good.
    var position: Position
  }

  /// The stamp at the time of reading; nil where the file has to be read again in any case.
  var stamp: FileStamp?
  var contentHash = 0
  var documents = DocumentCache()
  var objects: [ObjectKey: Loaded] = [:]
  var problems: [ManifestError] = []
  var notices: [ManifestNotice] = []

  /// Takes in new contents. What cannot be read keeps its last good version.
  mutating func update(_ bytes: [UInt8], path: String) {
    let contents: ManifestContents
    do {
      contents = try ManifestText.contents(bytes, file: path, cache: &documents)
    } catch {
      return fail(error)
    }
    notices = contents.notices
    problems = []
    let previous = objects
    objects = [:]
    var lines: [ObjectKey: Int32] = [:]
    var hasUnidentified = false
    for object in contents.objects {
      guard let key = object.key else {
        hasUnidentified = true
        problems += object.errors
        continue
      }
      if let line = lines[key] {
        problems.append(
          ManifestError(
            file: path, line: Int(object.position.line), column: Int(object.position.column), object: key.description,
            message: "stands in this file twice, first in line \(line); remove one of them"))
        continue
      }
      lines[key] = object.position.line
      if let resource = object.resource {
        objects[key] = Loaded(resource: resource, position: object.position)
      } else if let last = previous[key] {
        objects[key] = last
        problems += object.errors.map(Self.keepingLast)
      } else {
        problems += object.errors
      }
    }
    // An object that cannot be told by its name may be any of those that are missing: none of them goes.
    if hasUnidentified { objects.merge(previous) { current, _ in current } }
  }

  /// Notes that the file as a whole cannot be read. Its objects stay.
  mutating func fail(_ error: ManifestError) {
    problems = [objects.isEmpty ? error : Self.keepingLast(error)]
  }

  private static func keepingLast(_ error: ManifestError) -> ManifestError {
    var error = error
    error.message += error.object == nil ? " (its last good objects stay)" : " (its last good version stays)"
    return error
  }
}
