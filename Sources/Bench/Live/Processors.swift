import Glibc

/// Processor time, as the kernel counts it.
enum Processors {
  /// Nanoseconds that a process's threads have run so far, those that have ended too; 0: there is no such process.
  static func time(of pid: Int32) -> UInt64 {
    var clock = clockid_t()
    var time = timespec()
    guard unsafe clock_getcpuclockid(pid, &clock) == 0, unsafe clock_gettime(clock, &time) == 0 else { return 0 }
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  static var count: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }

  /// The first line of a file that says `key : value`.
  static var model: String {
    guard let text = read("/proc/cpuinfo", limit: 4096) else { return "unknown processor" }
    let line = text.split(separator: "\n").first { $0.hasPrefix("model name") }
    return line.flatMap { $0.split(separator: ":").last }.map { String($0.drop { $0 == " " }) } ?? "unknown processor"
  }

  static var kernel: String { read("/proc/sys/kernel/osrelease")?.split(separator: "\n").first.map(String.init) ?? "?" }

  private static func read(_ path: String, limit: Int = 512) -> String? {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var octets = [UInt8](repeating: 0, count: limit)
    let count = unsafe Glibc.read(file, &octets, limit)
    return count > 0 ? String(decoding: octets[..<count], as: UTF8.self) : nil
  }
}
