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

/// The candidate that a misspelt word was most likely meant to be: the one with the most pairs of neighbouring letters in
/// common, if that is more than half of them.
private func nearest(to word: String, in candidates: [String]) -> String? {
  func pairs(_ text: String) -> [String] {
    let letters = Array("^" + text.lowercased().prefix(64) + "$")
    return zip(letters, letters.dropFirst()).map { String([$0, $1]) }
  }
  let own = pairs(word)
  var best: (score: Double, candidate: String)?
  for candidate in candidates {
    var rest = pairs(candidate)
    let total = Double(own.count + rest.count)
    var common = 0.0
    for pair in own {
      if let place = rest.firstIndex(of: pair) {
        rest.remove(at: place)
        common += 1
      }
    }
    let score = 2 * common / total
    if score > 0.6, score > best?.score ?? 0 { best = (score, candidate) }
  }
  return best?.candidate
}
