/// Why addresses could not be given, taken back or looked at. The message says what to do next (CNI-9).
public struct IPAMError: Error, Sendable, Hashable, CustomStringConvertible {
  public enum Kind: Sendable, Hashable {
    /// The configuration makes no sense.
    case configuration
    /// There is no free address.
    case exhausted
    /// The address that was asked for cannot be given.
    case refused
    /// An attachment has not what it should have.
    case mismatch
    /// The store is busy, or a helper does not answer: trying again may help.
    case busy
    /// The store cannot be read or written.
    case storage
    /// Another IPAM plugin failed with this code of its own.
    case plugin(code: Int)
  }

  public var kind: Kind
  public var message: String

  public init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  public var description: String { message }

  /// The error code of a CNI plugin: the specification's where it has one, else those of `CNIError.Code`.
  public var code: Int {
    switch kind {
    case .configuration: 7
    case .busy: 11
    case .storage: 5
    case .exhausted: 101
    case .refused: 102
    case .mismatch: 104
    case .plugin(let code): code
    }
  }
}
