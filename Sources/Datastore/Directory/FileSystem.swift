import Glibc

/// A system call that failed.
struct SystemError: Error, CustomStringConvertible {
  let code: Int32

  /// The error of the system call that just failed.
  static var last: SystemError { SystemError(code: errno) }

  var description: String { unsafe String(cString: strerror(code)) }
}

/// What `stat` says of a file: two equal stamps mean an unchanged file, except within the clock's grain.
struct FileStamp: Equatable {
  enum FileType: Equatable { case directory, regular, other }

  var device: UInt64
  var inode: UInt64
  var size: Int
  /// Time of the last change of contents and of the inode, in nanoseconds since 1970.
  var modified: Int
  var changed: Int
  var type: FileType

  init(_ status: stat) {
    device = UInt64(status.st_dev)
    inode = UInt64(status.st_ino)
    size = Int(status.st_size)
    modified = status.st_mtim.tv_sec * 1_000_000_000 + status.st_mtim.tv_nsec
    changed = status.st_ctim.tv_sec * 1_000_000_000 + status.st_ctim.tv_nsec
    switch status.st_mode & S_IFMT {
    case S_IFDIR: type = .directory
    case S_IFREG: type = .regular
    default: type = .other
    }
  }

  /// Whether a later change is sure to show in the stamp: the kernel's file clock ticks every few milliseconds, so a
  /// file that was just written can change again without a trace.
  var isSettled: Bool { !isYounger(than: .milliseconds(100)) }

  /// Whether the last change is less than this ago. One in the future is not: clocks are set back now and then.
  func isYounger(than age: Duration) -> Bool {
    var now = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &now)
    let elapsed = now.tv_sec * 1_000_000_000 + now.tv_nsec - max(modified, changed)
    return elapsed >= 0 && .nanoseconds(elapsed) < age
  }
}

/// The few system calls that reading a directory takes.
enum FileSystem {
  /// The stamp of the file that a path leads to; symbolic links are followed.
  static func stamp(_ path: String) throws(SystemError) -> FileStamp {
    var status = stat()
    guard unsafe stat(path, &status) == 0 else { throw .last }
    return FileStamp(status)
  }

  /// Whether a directory has an entry of that name, be it a symbolic link that leads nowhere.
  static func linkExists(_ path: String) -> Bool {
    var status = stat()
    return unsafe lstat(path, &status) == 0
  }

  /// The names in a directory, sorted by their bytes, without `.` and `..`.
  static func names(in path: String) throws(SystemError) -> [String] {
    guard let directory = unsafe opendir(path) else { throw .last }
    defer { unsafe _ = closedir(directory) }
    var names: [String] = []
    while true {
      errno = 0
      guard let entry = unsafe readdir(directory) else { break }
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if name != ".", name != ".." { names.append(name) }
    }
    if errno != 0 { throw .last }
    return names.sorted()
  }

  /// The contents of a regular file and the stamp that it had when they were read; nil where it is larger than `limit`
  /// bytes. Never waits: what is no regular file gives `EINVAL`.
  static func read(_ path: String, limit: Int) throws(SystemError) -> (bytes: [UInt8], stamp: FileStamp)? {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw .last }
    defer { _ = close(descriptor) }
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else { throw .last }
    let stamp = FileStamp(status)
    guard stamp.type == .regular else { throw SystemError(code: EINVAL) }
    guard stamp.size <= limit else { return nil }
    // One byte more than expected shows that the file grew while it was read.
    var bytes = [UInt8](repeating: 0, count: stamp.size + 1)
    var count = 0
    while count < bytes.count {
      let offset = count
      let got = unsafe bytes.withUnsafeMutableBytes { buffer in
        unsafe Glibc.read(descriptor, buffer.baseAddress! + offset, buffer.count - offset)
      }
      if got == 0 { break }
      if got < 0 {
        if errno == EINTR { continue }
        throw .last
      }
      count += got
      if count == bytes.count {
        guard count <= limit else { return nil }
        bytes.append(contentsOf: repeatElement(0, count: max(4096, count)))
      }
    }
    bytes.removeSubrange(count...)
    return (bytes, stamp)
  }
}
