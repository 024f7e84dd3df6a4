import CLinux
import Glibc

/// Why the kernel's networking could not be read or changed, with what to do about it.
public struct NodeError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The device, address or namespace that it is about.
  public let subject: String
  /// What was attempted: `set the MTU`.
  public let operation: String
  /// The system's error number; 0 where it was not the system that refused.
  public let code: Int32
  /// The kernel's own explanation, where it gave one.
  public let detail: String?
  /// What the user can do.
  public let remedy: String?

  public init(subject: String, operation: String, code: Int32 = 0, detail: String? = nil, remedy: String? = nil) {
    self.subject = subject
    self.operation = operation
    self.code = code
    self.detail = detail
    self.remedy = remedy ?? NodeError.remedy(code)
  }

  public var description: String {
    var text = "\(subject): cannot \(operation)"
    if code != 0 {
      text += unsafe ": \(String(cString: kalsae_errno_name(code))) (\(String(cString: kalsae_errno_text(code))))"
    }
    if let detail { text += ": \(detail)" }
    if let remedy { text += " (\(remedy))" }
    return text
  }

  private static func remedy(_ code: Int32) -> String? {
    switch code {
    case EPERM, EACCES: "run as root or with CAP_NET_ADMIN"
    case ENODEV, ENXIO: "no such device in this network namespace; `ip link` lists them"
    case ENOTSUP: "the kernel lacks the feature; see its configuration"
    case EMFILE: "raise the limit of open files: `ulimit -n`"
    case ENETUNREACH: "the next hop must be on a connected network, or the route be `onlink`"
    default: nil
    }
  }
}
