import CLinux
import Glibc

/// Why a port could not be opened or used, with what to do about it.
public struct PortError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The interface or file.
  public let device: String
  /// What was attempted: `create the receive ring`.
  public let operation: String
  /// The system's error number; 0 where it was not the system that refused.
  public let code: Int32
  /// More about the cause, where it is not in `code`.
  public let detail: String?
  /// What the user can do.
  public let remedy: String?

  public init(device: String, operation: String, code: Int32 = 0, detail: String? = nil, remedy: String? = nil) {
    self.device = device
    self.operation = operation
    self.code = code
    self.detail = detail
    self.remedy = remedy ?? PortError.remedy(code, device)
  }

  public var description: String {
    var text = "\(device): cannot \(operation)"
    if code != 0 { text += ": \(errorText(code))" }
    if let detail { text += ": \(detail)" }
    if let remedy { text += " (\(remedy))" }
    return text
  }

  private static func remedy(_ code: Int32, _ device: String) -> String? {
    switch code {
    case EPERM, EACCES: "run as root or with CAP_NET_RAW and CAP_NET_ADMIN"
    case ENODEV, ENXIO: "no interface \(device) in this network namespace; `ip link` lists them"
    case ENOMEM: "lower the number of ring slots, or free memory"
    case EBUSY: "another process has the device open"
    case EMFILE: "raise the limit of open files: `ulimit -n`"
    case ENOSPC: "free space on the file system"
    default: nil
    }
  }
}

/// `ENODEV (No such device)`
func errorText(_ code: Int32) -> String {
  unsafe "\(String(cString: kalsae_errno_name(code))) (\(String(cString: kalsae_errno_text(code))))"
}
