import Glibc

/// What the rooms that keep files need of folders.
public enum Folders {
  /// The names in a folder in order, without `.` and `..`; nil where it cannot be read, and errno says why.
  public static func names(in folder: String) -> [String]? {
    guard let directory = unsafe opendir(folder) else { return nil }
    defer { unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names.sorted()
  }

  /// Makes a folder and those above it; nil, or which one could not be made, and errno says why.
  public static func make(_ path: String, mode: mode_t) -> String? {
    var current = ""
    for part in path.split(separator: "/") {
      current += (path.hasPrefix("/") || !current.isEmpty ? "/" : "") + part
      if unsafe mkdir(current, mode) != 0, errno != EEXIST { return current }
    }
    return nil
  }
}
