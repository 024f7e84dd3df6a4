import Glibc

/// Processor time, as the kernel counts it.
enum Processors {
  /// Nanoseconds that all threads of a process have run so far, by the scheduler's own account.
  static func time(of pid: Int32) -> UInt64 {
    var total: UInt64 = 0
    guard let folder = unsafe opendir("/proc/\(pid)/task") else { return 0 }
    defer { unsafe closedir(folder) }
    while let entry = unsafe readdir(folder) {
      let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) {
        unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      guard let text = read("/proc/\(pid)/task/\(name)/schedstat") else { continue }
      total += text.split(separator: " ").first.flatMap { UInt64($0) } ?? 0
    }
    return total
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
