import CLinux

/// Why the agent cannot start or go on, in words that say what to do, and the exit code that says it to scripts.
public struct AgentError: Error, Sendable, CustomStringConvertible {
  /// Exit codes as in sysexits(3).
  public enum Code: Int32, Sendable {
    /// Something else went wrong.
    case failed = 1
    /// The desired state makes no sense.
    case data = 65
    /// A directory, node or device is not there.
    case missing = 66
    /// No agent answers.
    case unavailable = 69
    /// Another agent of the node runs already.
    case alreadyRunning = 75
    /// A privilege is missing.
    case notPermitted = 77
  }

  public let code: Code
  public let description: String

  public init(_ code: Code, _ description: String) {
    self.code = code
    self.description = description
  }
}

/// `ENODEV (No such device)`
func systemErrorText(_ number: Int32) -> String {
  unsafe "\(String(cString: kalsae_errno_name(number))) (\(String(cString: kalsae_errno_text(number))))"
}
