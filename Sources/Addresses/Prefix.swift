/// A block of IPv4 addresses in CIDR notation (RFC 4632). Host bits are always zero.
@frozen
public struct IPv4Prefix: Hashable, Sendable {
  public let address: IPv4Address
  /// The number of leading bits that count, 0 to 32.
  public let length: Int

  /// The block of `length` bits that holds `address`.
  @inlinable
  public init(_ address: IPv4Address, length: Int) {
    precondition(length >= 0 && length <= 32)
    self.length = length
    self.address = IPv4Address(rawValue: address.rawValue & IPv4Prefix.mask(length))
  }

  @inlinable
  public static func mask(_ length: Int) -> UInt32 { ~(UInt32.max >> UInt32(length)) }

  @inlinable
  public func contains(_ other: IPv4Address) -> Bool {
    other.rawValue & IPv4Prefix.mask(length) == address.rawValue
  }
}

/// A block of IPv6 addresses (RFC 4291, section 2.3). Host bits are always zero.
@frozen
public struct IPv6Prefix: Hashable, Sendable {
  public let address: IPv6Address
  /// The number of leading bits that count, 0 to 128.
  public let length: Int

  /// The block of `length` bits that holds `address`.
  @inlinable
  public init(_ address: IPv6Address, length: Int) {
    precondition(length >= 0 && length <= 128)
    self.length = length
    self.address = address.masked(length)
  }

  @inlinable
  public func contains(_ other: IPv6Address) -> Bool { other.masked(length) == address }
}

extension IPv6Address {
  /// The address with all but its first `length` bits cleared.
  @inlinable
  public func masked(_ length: Int) -> IPv6Address {
    IPv6Address(
      high: high & ~(UInt64.max >> UInt64(min(length, 64))),
      low: low & ~(UInt64.max >> UInt64(max(length - 64, 0))))
  }
}

/// A block of addresses of either family.
@frozen
public enum IPPrefix: Hashable, Sendable {
  case v4(IPv4Prefix)
  case v6(IPv6Prefix)

  /// The block of `length` bits that holds `address`; nil where the family has no such length.
  @inlinable
  public init?(_ address: IPAddress, length: Int) {
    switch address {
    case .v4(let a) where (0...32).contains(length): self = .v4(IPv4Prefix(a, length: length))
    case .v6(let a) where (0...128).contains(length): self = .v6(IPv6Prefix(a, length: length))
    default: return nil
    }
  }

  /// The block that holds `address` alone.
  @inlinable
  public init(host address: IPAddress) {
    switch address {
    case .v4(let a): self = .v4(IPv4Prefix(a, length: 32))
    case .v6(let a): self = .v6(IPv6Prefix(a, length: 128))
    }
  }

  @inlinable
  public var family: IPFamily {
    switch self {
    case .v4: .ipv4
    case .v6: .ipv6
    }
  }

  @inlinable
  public var address: IPAddress {
    switch self {
    case .v4(let p): .v4(p.address)
    case .v6(let p): .v6(p.address)
    }
  }

  @inlinable
  public var length: Int {
    switch self {
    case .v4(let p): p.length
    case .v6(let p): p.length
    }
  }

  @inlinable
  public func contains(_ other: IPAddress) -> Bool {
    switch (self, other) {
    case (.v4(let p), .v4(let a)): p.contains(a)
    case (.v6(let p), .v6(let a)): p.contains(a)
    default: false
    }
  }

  /// Whether every address of `other` is in this block.
  @inlinable
  public func contains(_ other: IPPrefix) -> Bool { length <= other.length && contains(other.address) }
}

extension IPPrefix: LosslessStringConvertible {
  /// Reads `address/length`. Host bits after the prefix are accepted and cleared, as Kubernetes does.
  public init?(_ text: String) { self.init(parsing: text) }

  /// Reads the text form out of a part of a string.
  public init?(parsing text: some StringProtocol) {
    let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, let address = IPAddress(parsing: parts[0]), let length = decimal(parts[1], max: 128) else {
      return nil
    }
    self.init(address, length: length)
  }

  public var description: String { "\(address)/\(length)" }
}
