import Addresses

/// A neighbour solicitation (RFC 4861, section 4.3) or advertisement (section 4.4).
@frozen
public struct NeighborMessage: ~Escapable {
  /// The whole ICMPv6 message.
  public let octets: Octets

  /// The length without options.
  @inlinable
  public static var length: Int { 24 }

  /// The flags of an advertisement.
  @frozen
  public struct Flags: OptionSet, Hashable, Sendable, BitwiseCopyable {
    public var rawValue: UInt8
    @inlinable
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    @inlinable public static var router: Flags { Flags(rawValue: 0x80) }
    @inlinable public static var solicited: Flags { Flags(rawValue: 0x40) }
    @inlinable public static var override: Flags { Flags(rawValue: 0x20) }
  }

  /// Nil where the octets end too early, or type or code say that it is another message.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 24, octets[0] == 135 || octets[0] == 136, octets[1] == 0 else { return nil }
    self.octets = octets
  }

  @inlinable
  public var isSolicitation: Bool { octets[0] == 135 }

  /// Meaningful in an advertisement.
  @inlinable
  public var flags: Flags {
    get { Flags(rawValue: octets[4] & 0xe0) }
    nonmutating set { octets[4] = newValue.rawValue }
  }

  /// The address that is asked for, or that the advertisement is about.
  @inlinable
  public var targetAddress: IPv6Address {
    get { octets[ipv6: 8] }
    nonmutating set { octets[ipv6: 8] = newValue }
  }

  @inlinable
  public var options: NDPOptions {
    @_lifetime(copy self) get { NDPOptions(octets.dropping(24)) }
  }

  /// The length of what `writeSolicitation` and `writeAdvertisement` write with a link-layer address option.
  @inlinable
  public static var lengthWithAddress: Int { 32 }

  /// Writes a solicitation with checksum 0 and returns its length: 32 with a source link-layer address, else 24 (as
  /// duplicate address detection sends it, RFC 4862).
  @inlinable
  @discardableResult
  public static func writeSolicitation(to octets: Octets, target: IPv6Address, sourceLinkAddress: MACAddress?) -> Int {
    octets[u64: 0] = 135 << 56
    octets[ipv6: 8] = target
    guard let sourceLinkAddress else { return 24 }
    octets[u64: 24] = 0x0101_0000_0000_0000 | sourceLinkAddress.rawValue
    return 32
  }

  /// Writes an advertisement with checksum 0 and a target link-layer address, and returns its length, 32.
  @inlinable
  @discardableResult
  public static func writeAdvertisement(
    to octets: Octets, target: IPv6Address, targetLinkAddress: MACAddress, flags: Flags
  ) -> Int {
    octets[u64: 0] = 136 << 56 | UInt64(flags.rawValue) << 24
    octets[ipv6: 8] = target
    octets[u64: 24] = 0x0201_0000_0000_0000 | targetLinkAddress.rawValue
    return 32
  }
}

/// A router advertisement (RFC 4861, section 4.2).
@frozen
public struct RouterAdvertisement: ~Escapable {
  /// The whole ICMPv6 message.
  public let octets: Octets

  /// The length without options.
  @inlinable
  public static var length: Int { 16 }

  /// Nil where the octets end too early, or type or code say that it is another message.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 16, octets[0] == 134, octets[1] == 0 else { return nil }
    self.octets = octets
  }

  /// 0 where the router does not say.
  @inlinable
  public var currentHopLimit: UInt8 { octets[4] }

  /// Seconds; 0 where the router is no default router.
  @inlinable
  public var routerLifetime: UInt16 { octets[u16: 6] }

  /// Milliseconds.
  @inlinable
  public var reachableTime: UInt32 { octets[u32: 8] }

  /// Milliseconds.
  @inlinable
  public var retransmissionTimer: UInt32 { octets[u32: 12] }

  @inlinable
  public var options: NDPOptions {
    @_lifetime(copy self) get { NDPOptions(octets.dropping(16)) }
  }

  /// Writes an advertisement without options and with checksum 0 into the first 16 octets. `lifetime` is in seconds.
  @inlinable
  public static func write(to octets: Octets, currentHopLimit: UInt8 = 64, routerLifetime: UInt16) {
    octets[u64: 0] = 134 << 56 | UInt64(currentHopLimit) << 24 | UInt64(routerLifetime)
    octets[u64: 8] = 0
  }
}

/// A router solicitation (RFC 4861, section 4.1).
@frozen
public struct RouterSolicitation: ~Escapable {
  /// The whole ICMPv6 message.
  public let octets: Octets

  /// The length without options.
  @inlinable
  public static var length: Int { 8 }

  /// Nil where the octets end too early, or type or code say that it is another message.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 8, octets[0] == 133, octets[1] == 0 else { return nil }
    self.octets = octets
  }

  @inlinable
  public var options: NDPOptions {
    @_lifetime(copy self) get { NDPOptions(octets.dropping(8)) }
  }

  /// Writes a solicitation with checksum 0 and returns its length: 16 with a source link-layer address, else 8.
  @inlinable
  @discardableResult
  public static func write(to octets: Octets, sourceLinkAddress: MACAddress?) -> Int {
    octets[u64: 0] = 133 << 56
    guard let sourceLinkAddress else { return 8 }
    octets[u64: 8] = 0x0101_0000_0000_0000 | sourceLinkAddress.rawValue
    return 16
  }
}

/// An option of a neighbour discovery message (RFC 4861, section 4.6). The accessors are nil for an option of another
/// type or length.
@frozen
public struct NDPOption: ~Escapable {
  /// The whole option with type and length.
  public let octets: Octets

  @inlinable
  @_lifetime(copy octets)
  init(_ octets: Octets) { self.octets = octets }

  @inlinable
  public var type: UInt8 { octets[0] }

  @inlinable
  public var sourceLinkAddress: MACAddress? { type == 1 && octets.count == 8 ? octets[mac: 2] : nil }

  @inlinable
  public var targetLinkAddress: MACAddress? { type == 2 && octets.count == 8 ? octets[mac: 2] : nil }

  /// RFC 4861, section 4.6.4.
  @inlinable
  public var mtu: UInt32? { type == 5 && octets.count == 8 ? octets[u32: 4] : nil }

  /// RFC 4861, section 4.6.2; nil also where the length of the prefix makes no sense.
  @inlinable
  public var prefix: IPv6Prefix? {
    guard type == 3, octets.count == 32, octets[2] <= 128 else { return nil }
    return IPv6Prefix(octets[ipv6: 16], length: Int(octets[2]))
  }
}

/// The options of a neighbour discovery message, one after the other.
@frozen
public struct NDPOptions: ~Escapable {
  @usableFromInline var rest: Octets
  /// Whether an option has length 0 or reaches beyond the message; the iteration ends there and the message must be
  /// dropped (RFC 4861, sections 6.1 and 7.1).
  public private(set) var isMalformed = false

  @inlinable
  @_lifetime(copy octets)
  public init(_ octets: Octets) { rest = octets }

  @inlinable
  @_lifetime(copy self)
  public mutating func next() -> NDPOption? {
    guard rest.count > 0 else { return nil }
    guard rest.count >= 2, rest[1] > 0, Int(rest[1]) * 8 <= rest.count else {
      malformed()
      rest = rest.prefix(0)
      return nil
    }
    let length = Int(rest[1]) * 8
    let option = NDPOption(rest.prefix(length))
    rest = rest.dropping(length)
    return option
  }

  @usableFromInline
  @_lifetime(self: copy self)
  mutating func malformed() { isMalformed = true }
}
