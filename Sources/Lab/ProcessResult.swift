import Glibc

/// What became of a program that ran to its end.
public struct ProcessResult: Sendable {
  /// How a program ended.
  public enum Status: Sendable, Equatable, CustomStringConvertible {
    case exited(Int32)
    case signalled(Int32)

    /// Reads what waitpid(2) stored.
    init(waitStatus: Int32) {
      let signal = waitStatus & 0x7f
      self = signal == 0 ? .exited(waitStatus >> 8 & 0xff) : .signalled(signal)
    }

    public var isSuccess: Bool { self == .exited(0) }

    public var description: String {
      switch self {
      case .exited(let code): "exited with status \(code)"
      case .signalled(let number): "was ended by signal \(number)"
      }
    }
  }

  /// The program and its arguments.
  public let command: [String]
  public let status: Status
  public let standardOutput: String
  public let standardError: String
  public let duration: Duration

  public var isSuccess: Bool { status.isSuccess }

  /// Throws `LabError.failed` with all that the program printed, unless it exited with 0.
  @discardableResult
  public func check() throws -> ProcessResult {
    guard isSuccess else {
      throw LabError.failed(command: command, status: status, output: trimmed(standardError + standardOutput))
    }
    return self
  }
}

/// Text without white space at its ends.
func trimmed(_ text: some StringProtocol) -> String {
  guard let first = text.firstIndex(where: { !$0.isWhitespace }) else { return "" }
  return String(text[first...text.lastIndex { !$0.isWhitespace }!])
}

/// Finds programs on PATH, and in the folders of the system's administration that a user's PATH may lack.
enum Programs {
  static func find(_ name: String) throws -> String {
    if name.contains("/") {
      guard Files.isExecutable(name) else { throw failure("execute \(name)") }
      return name
    }
    let folders = (environment("PATH") ?? "").split(separator: ":") + ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
    for folder in folders where Files.isExecutable("\(folder)/\(name)") { return "\(folder)/\(name)" }
    throw LabError.missingProgram(name: name, package: packages[name] ?? name)
  }

  /// The Debian packages of programs that are not named like theirs.
  static let packages = [
    "ip": "iproute2", "ping": "iputils-ping", "arping": "iputils-arping", "sha256sum": "coreutils", "nft": "nftables",
    "tc": "iproute2", "ctr": "containerd", "unshare": "util-linux", "bridge": "iproute2", "ss": "iproute2",
    "qemu-system-x86_64": "qemu-system-x86", "ovsdb-tool": "openvswitch-switch", "ovsdb-server": "openvswitch-switch",
    "ovs-vswitchd": "openvswitch-switch", "ovs-vsctl": "openvswitch-switch",
  ]
}
