/// An address family of the Internet protocol.
@frozen
public enum IPFamily: String, Sendable, CaseIterable {
  case ipv4 = "IPv4"
  case ipv6 = "IPv6"
}

/// An address of either family.
@frozen
public enum IPAddress: Hashable, Sendable {
  case v4(IPv4Address)
  case v6(IPv6Address)

  @inlinable
  public var family: IPFamily {
    switch self {
    case .v4: .ipv4
    case .v6: .ipv6
    }
  }

  @inlinable
  public var v4: IPv4Address? { if case .v4(let address) = self { address } else { nil } }

  @inlinable
  public var v6: IPv6Address? { if case .v6(let address) = self { address } else { nil } }

  /// Whether the address means something on one link alone: of 169.254.0.0/16 or fe80::/10.
  public var isLinkLocal: Bool {
    switch self {
    case .v4(let address): address.isLinkLocal
    case .v6(let address): address.isLinkLocal
    }
  }

  /// Whether the address is the machine's to itself: of 127.0.0.0/8, or ::1.
  public var isLoopback: Bool {
    switch self {
    case .v4(let address): address.isLoopback
    case .v6(let address): address.isLoopback
    }
  }
}

extension IPAddress: LosslessStringConvertible {
  public init?(_ text: String) { self.init(parsing: text) }

  /// Reads the text form out of a part of a string.
  public init?(parsing text: some StringProtocol) {
    if let v4 = IPv4Address(parsing: text) {
      self = .v4(v4)
    } else if let v6 = IPv6Address(parsing: text) {
      self = .v6(v6)
    } else {
      return nil
    }
  }

  public var description: String {
    switch self {
    case .v4(let address): address.description
    case .v6(let address): address.description
    }
  }
}

extension IPAddress: Comparable {
  /// IPv4 before IPv6, then by number.
  public static func < (a: IPAddress, b: IPAddress) -> Bool {
    switch (a, b) {
    case (.v4(let a), .v4(let b)): a < b
    case (.v6(let a), .v6(let b)): a < b
    case (.v4, .v6): true
    case (.v6, .v4): false
    }
  }
}
