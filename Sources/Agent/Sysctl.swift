import Glibc

/// Parameters of the kernel, as files under /proc/sys.
enum Sysctl {
  /// The value of `net/ipv4/conf/eth0/rp_filter` for example; nil where it cannot be read.
  static func read(_ name: String) -> String? {
    file("/proc/sys/\(name)").map { String($0.prefix { !$0.isWhitespace }) }
  }

  /// The first 256 octets of a file.
  static func file(_ path: String) -> String? {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var octets = [UInt8](repeating: 0, count: 256)
    let count = unsafe octets.withUnsafeMutableBytes { unsafe Glibc.read(file, $0.baseAddress, $0.count) }
    guard count >= 0 else { return nil }
    return String(decoding: octets[..<count], as: UTF8.self)
  }

  @discardableResult
  static func write(_ value: String, to name: String) -> Bool {
    let file = unsafe open("/proc/sys/\(name)", O_WRONLY | O_CLOEXEC)
    guard file >= 0 else { return false }
    defer { close(file) }
    let octets = Array(value.utf8)
    return unsafe octets.withUnsafeBytes { unsafe Glibc.write(file, $0.baseAddress, $0.count) } == octets.count
  }
}
