import Glibc
import Model
import Ports

/// Why a replay or a trace could not be carried out: one line that names the file, port or field and says what to do.
public struct ReplayError: Error, Sendable, Equatable, CustomStringConvertible {
  public enum Kind: Sendable {
    /// The command line asks for something that cannot be.
    case usage
    /// The contents of a file are not what they should be.
    case data
    /// A file or an object is not there.
    case missing
    /// Reading or writing failed.
    case io
    case permission
    /// A signal has come.
    case interrupted
  }

  public var kind: Kind
  public var message: String
  public var description: String { message }

  public init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  public init(_ error: PortError) {
    let kind: Kind =
      switch error.code {
      case 0: .data
      case ENOENT, EISDIR: .missing
      case EACCES, EPERM: .permission
      default: .io
      }
    // What `PortError` advises is for devices.
    self.init(kind, error.description)
  }

  public init(_ error: ManifestError) { self.init(.missing, error.description) }
}

/// `did you mean A?`, or the first few candidates.
func hint(for word: String, among candidates: [String], none: String) -> String {
  guard !candidates.isEmpty else { return none }
  if let near = nearest(to: word, in: candidates) { return "did you mean \(near)?" }
  let shown = candidates.prefix(8).joined(separator: ", ")
  return "known are \(shown)" + (candidates.count > 8 ? " and \(candidates.count - 8) more" : "")
}
