import CNI
import Glibc

/// Locks on files by flock(2), which other programs take too. They end with their holder at the latest.
enum FileLock {
  /// Runs `body` under the lock, and waits for it at most `wait`. Asks at short, random intervals: a process that was
  /// stopped while it holds the lock must not stop everybody for good.
  static func with<R>(
    _ path: String, wait: Duration = .seconds(20), _ body: () throws(IPAMError) -> R
  ) throws(IPAMError) -> R {
    let descriptor = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw IPAMError(.storage, "cannot open the lock \(path): \(systemError())") }
    defer { close(descriptor) }
    let deadline = ContinuousClock.now + wait
    while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
      let code = errno
      guard code == EWOULDBLOCK || code == EINTR else {
        throw IPAMError(.storage, "cannot lock \(path): \(systemError(code))")
      }
      guard ContinuousClock.now < deadline else {
        throw IPAMError(
          .busy,
          "\(path) is held by another process; try again, and look for a stopped one with `fuser \(path)` if "
            + "this stays")
      }
      usleep(UInt32.random(in: 100...900))
    }
    return try body()
  }
}

/// What errno says.
func systemError(_ code: Int32 = errno) -> String { unsafe String(cString: strerror(code)) }

/// The few things that the address managers do with files.
enum Files {
  /// Makes a folder and those above it.
  static func makeFolder(_ path: String, mode: mode_t = 0o755) throws(IPAMError) {
    if let refused = Folders.make(path, mode: mode) {
      throw IPAMError(.storage, "cannot make the folder \(refused): \(systemError()); choose another one, or make it")
    }
  }

  /// The names in a folder, in order; nil where there is none.
  static func names(in folder: String) throws(IPAMError) -> [String]? {
    guard let names = Folders.names(in: folder) else {
      if errno == ENOENT { return nil }
      throw IPAMError(.storage, "cannot read the folder \(folder): \(systemError())")
    }
    return names
  }

  /// The first part of a file, more than enough for an owner or an address; nil where there is no file.
  static func contents(_ path: String, limit: Int = 4096) throws(IPAMError) -> String? {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else {
      if errno == ENOENT { return nil }
      throw IPAMError(.storage, "cannot read \(path): \(systemError())")
    }
    defer { close(file) }
    var octets = [UInt8](repeating: 0, count: limit)
    let count = unsafe octets.withUnsafeMutableBytes { unsafe read(file, $0.baseAddress, $0.count) }
    guard count >= 0 else {
      if errno == EISDIR { return "" }
      throw IPAMError(.storage, "cannot read \(path): \(systemError())")
    }
    return String(decoding: octets[..<count], as: UTF8.self)
  }

  /// Makes a file with its contents in one step: nobody ever sees it empty. False where it is there already.
  static func create(_ path: String, _ text: String, by hidden: String, mode: mode_t = 0o644) throws(IPAMError) -> Bool
  {
    try write(hidden, text, mode: mode)
    defer { remove(hidden) }
    if unsafe link(hidden, path) == 0 { return true }
    guard errno == EEXIST else { throw IPAMError(.storage, "cannot make \(path): \(systemError())") }
    return false
  }

  /// Puts a file in the place of another in one step.
  static func replace(_ path: String, _ text: String, by hidden: String, mode: mode_t = 0o644) throws(IPAMError) {
    try write(hidden, text, mode: mode)
    guard unsafe rename(hidden, path) == 0 else {
      let code = errno
      remove(hidden)
      throw IPAMError(.storage, "cannot write \(path): \(systemError(code))")
    }
  }

  private static func write(_ path: String, _ text: String, mode: mode_t) throws(IPAMError) {
    let file = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
    guard file >= 0 else { throw IPAMError(.storage, "cannot write \(path): \(systemError())") }
    defer { close(file) }
    var text = text
    let code: Int32 = text.withUTF8 { octets in
      var done = 0
      while done < octets.count {
        let count = unsafe Glibc.write(file, octets.baseAddress! + done, octets.count - done)
        if count >= 0 { done += count } else if errno != EINTR { return errno }
      }
      return 0
    }
    guard code == 0 else {
      remove(path)
      throw IPAMError(.storage, "cannot write \(path): \(systemError(code))")
    }
  }

  static func remove(_ path: String) { _ = unsafe unlink(path) }

  static func isWritable(_ path: String) -> Bool { unsafe access(path, W_OK | X_OK) == 0 }
}
