// The room's unsafe code: system calls and C strings, each wrapped so that the rest of the room needs none of it.

import CLinux
import Glibc

/// The kernel's words for an error number.
func errorText(_ number: Int32) -> String {
  guard let text = unsafe strerror(number) else { return "error \(number)" }
  return unsafe String(cString: text)
}

func failure(_ what: String, _ number: Int32 = errno) -> LabError { .system(what: what, errno: number) }

/// A descriptor that closes itself.
final class Descriptor: Sendable {
  let number: Int32

  init(_ number: Int32, _ what: @autoclosure () -> String) throws {
    let error = errno
    guard number >= 0 else { throw failure(what(), error) }
    self.number = number
  }

  deinit { _ = close(number) }

  /// Waits for `events` of poll(2); false when the time is up first.
  func wait(for events: Int32, until deadline: Deadline) throws -> Bool {
    let result = lab_poll(number, Int16(truncatingIfNeeded: events), deadline.millisecondsLeft)
    if result < 0 { throw failure("poll") }
    return result > 0
  }
}

/// A moment after which waiting ends.
struct Deadline {
  let instant: ContinuousClock.Instant
  let bound: Duration

  init(after bound: Duration) {
    self.bound = bound
    instant = ContinuousClock.now + bound
  }

  var hasPassed: Bool { ContinuousClock.now >= instant }
  var millisecondsLeft: Int64 { max(0, ContinuousClock.now.duration(to: instant).milliseconds) }
}

extension Duration {
  /// The whole milliseconds, rounded up.
  var milliseconds: Int64 {
    let (seconds, attoseconds) = components
    return seconds * 1000 + (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000
  }

  /// The duration in seconds.
  public var inSeconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}

func pause(_ time: Duration) { _ = usleep(UInt32(clamping: time.milliseconds * 1000)) }

/// What can be done with files by their path.
enum Files {
  static func read(_ path: String) throws -> String {
    let file = try Descriptor(unsafe open(path, O_RDONLY | O_CLOEXEC), "open \(path)")
    return String(decoding: try read(file, path), as: UTF8.self)
  }

  /// All that a file holds from `offset` on; the descriptor's own position is left alone where the file has one.
  static func read(_ file: Descriptor, _ name: String, from offset: Int = 0) throws -> [UInt8] {
    var bytes: [UInt8] = []
    var part = [UInt8](repeating: 0, count: 65536)
    while true {
      let count = unsafe part.withUnsafeMutableBytes {
        unsafe pread(file.number, $0.baseAddress, $0.count, off_t(offset + bytes.count))
      }
      if count < 0 && errno == EINTR { continue }
      if count < 0 { throw failure("read \(name)") }
      if count == 0 { return bytes }
      bytes.append(contentsOf: part[..<count])
    }
  }

  static func write(_ text: String, to file: Descriptor, _ name: String) throws {
    let bytes = Array(text.utf8)
    var done = 0
    while done < bytes.count {
      let count = unsafe bytes.withUnsafeBytes {
        unsafe Glibc.write(file.number, $0.baseAddress! + done, $0.count - done)
      }
      if count < 0 && errno == EINTR { continue }
      if count <= 0 { throw failure("write \(name)") }
      done += count
    }
  }

  /// Writes into a file that is there already, such as those under /proc/sys.
  static func write(_ text: String, to path: String) throws {
    try write(text, to: Descriptor(unsafe open(path, O_WRONLY | O_CLOEXEC), "open \(path)"), path)
  }

  static func create(_ path: String) throws -> Descriptor {
    try Descriptor(unsafe open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644), "create \(path)")
  }

  static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }
  static func isExecutable(_ path: String) -> Bool { unsafe access(path, X_OK) == 0 }

  static func makeDirectory(_ path: String, mode: mode_t = 0o755) throws {
    if unsafe mkdir(path, mode) != 0 && errno != EEXIST { throw failure("mkdir \(path)") }
  }

  /// The names in a folder, without `.` and `..`; none if there is no such folder.
  static func list(_ path: String) -> [String] {
    guard let folder = unsafe opendir(path) else { return [] }
    defer { unsafe closedir(folder) }
    var names: [String] = []
    while let entry = unsafe readdir(folder) {
      let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) {
        unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names
  }

  /// Device and inode of the file behind a path: what tells one namespace from another.
  static func identity(_ path: String) -> (device: UInt64, inode: UInt64)? {
    var status = stat()
    guard unsafe stat(path, &status) == 0 else { return nil }
    return (UInt64(status.st_dev), UInt64(status.st_ino))
  }

  /// An anonymous file in memory.
  static func inMemory(_ name: String) throws -> Descriptor { try Descriptor(unsafe lab_memfd(name), "memfd_create") }

  static func removeTree(_ path: String) throws {
    let number = unsafe lab_remove_tree(path)
    if number != 0 { throw failure("remove \(path)", number) }
  }
}

private final class BorrowedCall {
  let run: () -> Void
  init(run: @escaping () -> Void) { self.run = run }
}

/// Runs `body` on a new thread in the network namespace of a file.
func onThread<R>(inNamespaceOf path: String, _ body: () throws -> R) throws -> R {
  var result: Result<R, any Error>?
  func visit(_ run: @escaping () -> Void) -> Int32 {
    let call = BorrowedCall(run: run)
    defer { withExtendedLifetime(call) {} }
    // The thread is joined before this returns, so what it borrows is alive all the while.
    return unsafe lab_run_in_netns(
      path, { unsafe Unmanaged<BorrowedCall>.fromOpaque($0!).takeUnretainedValue().run() },
      Unmanaged.passUnretained(call).toOpaque())
  }
  let step = { result = Result { try body() } }
  let number = withoutActuallyEscaping(step) { visit($0) }
  if number != 0 { throw failure("enter network namespace \(path)", number) }
  return try result!.get()
}

/// Runs `body` on a new thread of its own.
public func startThread(_ body: @escaping @Sendable () -> Void) throws {
  final class Call: Sendable {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }
  let call = unsafe Unmanaged.passRetained(Call(body))
  let number = unsafe lab_start_thread(
    { unsafe Unmanaged<Call>.fromOpaque($0!).takeRetainedValue().run() }, call.toOpaque())
  if number != 0 {
    unsafe call.release()
    throw failure("start a thread", number)
  }
}

/// An environment variable's value.
func environment(_ name: String) -> String? {
  guard let value = unsafe getenv(name) else { return nil }
  return unsafe String(cString: value)
}

func currentDirectory() throws -> String {
  guard let path = unsafe getcwd(nil, 0) else { throw failure("getcwd") }
  defer { unsafe free(path) }
  return unsafe String(cString: path)
}

/// Starts a program; see `lab_spawn`.
func spawnProcess(
  _ path: String, _ arguments: [String], netns: String?, input: Descriptor, output: Descriptor, errors: Descriptor
) throws -> pid_t {
  var argv = unsafe arguments.map { unsafe strdup($0) }
  unsafe argv.append(nil)
  defer { for index in unsafe argv.indices { unsafe free(argv[index]) } }
  var pid: pid_t = 0
  var step: Int32 = 0
  let number = unsafe argv.withUnsafeBufferPointer { argv in
    func start(_ netns: UnsafePointer<CChar>?) -> Int32 {
      unsafe path.withCString { path in
        var request = unsafe lab_spawn_request(
          path: path, argv: argv.baseAddress!, envp: environ, netns: netns, standard_input: input.number,
          standard_output: output.number, standard_error: errors.number)
        return unsafe lab_spawn(&request, &pid, &step)
      }
    }
    if let netns { return unsafe netns.withCString { unsafe start($0) } }
    return start(nil)
  }
  if number != 0 {
    let what =
      switch UInt32(step) {
      case LAB_SPAWN_OPEN_NAMESPACE.rawValue, LAB_SPAWN_ENTER_NAMESPACE.rawValue: "enter \(netns ?? "")"
      case LAB_SPAWN_MOUNT.rawValue: "mount /sys for \(netns ?? "")"
      case LAB_SPAWN_DESCRIPTORS.rawValue: "set up descriptors"
      case LAB_SPAWN_EXEC.rawValue: "exec \(path)"
      default: "fork"
      }
    throw failure("start `\(arguments.joined(separator: " "))`: \(what)", number)
  }
  return pid
}
