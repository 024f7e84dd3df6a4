/// What went wrong in a lab, told so that the reader knows what to do about it.
public enum LabError: Error, Sendable, CustomStringConvertible {
  /// This machine, or this user, cannot make network namespaces. The text holds the remedy.
  case unavailable(String)
  /// A program that the lab needs is not installed.
  case missingProgram(name: String, package: String)
  /// A system call failed; `what` names the call and what it was made on.
  case system(what: String, errno: Int32)
  /// A program exited with another status than 0.
  case failed(command: [String], status: ProcessResult.Status, output: String)
  /// Something did not happen within its bound.
  case timedOut(what: String, after: Duration)
  /// The lab has been cleaned up already.
  case closed(lab: String)
  /// Bytes arrived other than they were sent.
  case corrupted(String)
  /// The caller asked for something that makes no sense.
  case invalid(String)

  public var description: String {
    switch self {
    case .unavailable(let remedy): remedy
    case .missingProgram(let name, let package):
      "\(name) is not installed: run `tools/bootstrap --test`, or as root `apt-get install \(package)`"
    case .system(let what, let number): "\(what): \(errorText(number))"
    case .failed(let command, let status, let output):
      "`\(command.joined(separator: " "))` \(status)" + (output.isEmpty ? "" : ":\n\(output)")
    case .timedOut(let what, let bound): "\(what): not within \(bound)"
    case .closed(let lab): "lab \(lab) has been cleaned up; nothing more can be done in it"
    case .corrupted(let what): what
    case .invalid(let what): what
    }
  }
}
