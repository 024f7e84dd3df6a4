import Addresses

/// An IPv4 header (RFC 791, section 3.1).
@frozen
public struct IPv4Header: ~Escapable {
  /// The packet from the header on; may run on behind the packet's end (Ethernet padding).
  public let octets: Octets
  /// The length of the header with its options in octets: 20 to 60.
  public let headerLength: Int

  /// The length without options.
  @inlinable
  public static var length: Int { 20 }

  /// Nil where the octets end inside the header, or version or header length are wrong. The total length is not looked
  /// at: see `hasValidLength`.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 20 else { return nil }
    let first = octets[0]
    let length = Int(first & 0xf) * 4
    guard first >> 4 == 4, length >= 20, length <= octets.count else { return nil }
    self.octets = octets
    headerLength = length
  }

  /// Whether the total length covers the header and does not exceed the octets in view.
  @inlinable
  public var hasValidLength: Bool { totalLength >= headerLength && totalLength <= octets.count }

  /// DSCP and ECN.
  @inlinable
  public var typeOfService: UInt8 {
    get { octets[1] }
    nonmutating set { octets[1] = newValue }
  }

  /// Differentiated services codepoint (RFC 2474).
  @inlinable
  public var dscp: UInt8 { octets[1] >> 2 }

  @inlinable
  public var ecn: ECN { ECN(trafficClass: octets[1]) }

  /// Header and payload in octets.
  @inlinable
  public var totalLength: Int {
    get { Int(octets[u16: 2]) }
    nonmutating set { octets[u16: 2] = UInt16(truncatingIfNeeded: newValue) }
  }

  @inlinable
  public var identification: UInt16 {
    get { octets[u16: 4] }
    nonmutating set { octets[u16: 4] = newValue }
  }

  @inlinable
  public var dontFragment: Bool { octets[6] & 0x40 != 0 }

  @inlinable
  public var moreFragments: Bool { octets[6] & 0x20 != 0 }

  /// Where the payload belongs in the datagram, in octets.
  @inlinable
  public var fragmentOffset: Int { Int(octets[u16: 6] & 0x1fff) * 8 }

  /// Whether the packet is a part of a datagram: more fragments follow, *or* others came before (TUN-8).
  @inlinable
  public var isFragment: Bool { octets[u16: 6] & 0x3fff != 0 }

  /// Whether the transport header is not in this packet.
  @inlinable
  public var isLaterFragment: Bool { octets[u16: 6] & 0x1fff != 0 }

  /// Flags and fragment offset as they lie in the header: bit 14 is DF, bit 13 MF, the offset in units of eight octets.
  @inlinable
  public var fragmentField: UInt16 {
    get { octets[u16: 6] }
    nonmutating set { octets[u16: 6] = newValue }
  }

  @inlinable
  public var timeToLive: UInt8 {
    get { octets[8] }
    nonmutating set { octets[8] = newValue }
  }

  @inlinable
  public var `protocol`: IPProtocol {
    get { IPProtocol(rawValue: octets[9]) }
    nonmutating set { octets[9] = newValue.rawValue }
  }

  @inlinable
  public var checksum: UInt16 {
    get { octets[u16: 10] }
    nonmutating set { octets[u16: 10] = newValue }
  }

  @inlinable
  public var source: IPv4Address {
    get { octets[ipv4: 12] }
    nonmutating set { octets[ipv4: 12] = newValue }
  }

  @inlinable
  public var destination: IPv4Address {
    get { octets[ipv4: 16] }
    nonmutating set { octets[ipv4: 16] = newValue }
  }

  @inlinable
  public var hasOptions: Bool { headerLength > 20 }

  @inlinable
  public var options: IPv4Options {
    @_lifetime(copy self) get { IPv4Options(octets.prefix(headerLength).dropping(20)) }
  }

  /// What the packet carries, as far as the octets in view go; padding behind the packet is left out.
  @inlinable
  public var payload: Octets {
    @_lifetime(copy self)
    get { octets.prefix(max(min(totalLength, octets.count), headerLength)).dropping(headerLength) }
  }

  /// Whether the header checksum is right.
  @inlinable
  public var isChecksumValid: Bool {
    var sum = InternetChecksum()
    sum.addHeader(octets, headerLength)
    return sum.folded == 0xffff
  }

  /// Computes the header checksum anew.
  @inlinable
  public func updateChecksum() {
    octets[u16Native: 10] = 0
    var sum = InternetChecksum()
    sum.addHeader(octets, headerLength)
    octets[u16Native: 10] = ~sum.folded
  }

  /// Decrements the time to live and updates the checksum (RFC 1624). The field must not be 0.
  @inlinable
  public func decrementTimeToLive() {
    let old = octets[u16Native: 8]
    octets[8] &-= 1
    octets[u16Native: 10] = ChecksumDelta(replacing: old, with: octets[u16Native: 8]).applied(to: octets[u16Native: 10])
  }

  /// Replaces the time to live and updates the checksum (RFC 1624).
  @inlinable
  public func rewriteTimeToLive(_ value: UInt8) {
    let old = octets[u16Native: 8]
    octets[8] = value
    octets[u16Native: 10] = ChecksumDelta(replacing: old, with: octets[u16Native: 8]).applied(to: octets[u16Native: 10])
  }

  /// Replaces DSCP and ECN and updates the checksum (RFC 1624).
  @inlinable
  public func rewriteTypeOfService(_ value: UInt8) {
    let old = octets[u16Native: 0]
    octets[1] = value
    octets[u16Native: 10] = ChecksumDelta(replacing: old, with: octets[u16Native: 0]).applied(to: octets[u16Native: 10])
  }

  /// Writes a header without options into the first 20 octets, with its checksum.
  @inlinable
  public static func write(
    to octets: Octets, typeOfService: UInt8 = 0, totalLength: Int, identification: UInt16 = 0,
    dontFragment: Bool = false, timeToLive: UInt8 = 64, protocol: IPProtocol, source: IPv4Address,
    destination: IPv4Address
  ) {
    precondition(totalLength >= 20 && totalLength <= 65535)
    octets[u32: 0] = 0x4500_0000 | UInt32(typeOfService) << 16 | UInt32(truncatingIfNeeded: totalLength)
    octets[u32: 4] = UInt32(identification) << 16 | (dontFragment ? 0x4000 : 0)
    octets[u32: 8] = UInt32(timeToLive) << 24 | UInt32(`protocol`.rawValue) << 16
    octets[ipv4: 12] = source
    octets[ipv4: 16] = destination
    var sum = InternetChecksum()
    sum.addHeader(octets, 20)
    octets[u16Native: 10] = ~sum.folded
  }
}

/// An option of an IPv4 header (RFC 791, section 3.1).
@frozen
public struct IPv4Option: ~Escapable {
  /// Copied flag, class and number.
  public let type: UInt8
  /// The whole option with type and length.
  public let octets: Octets

  @inlinable
  @_lifetime(copy octets)
  init(type: UInt8, octets: Octets) {
    self.type = type
    self.octets = octets
  }

  /// Whether fragments after the first carry the option too.
  @inlinable
  public var isCopied: Bool { type & 0x80 != 0 }

  /// Whether the packet names its route (loose or strict source routing).
  @inlinable
  public var isSourceRoute: Bool { type == 131 || type == 137 }
}

/// The options of an IPv4 header, one after the other. No-operation options are left out.
@frozen
public struct IPv4Options: ~Escapable {
  @usableFromInline var rest: Octets
  /// Whether an option reaches beyond the header; the iteration ends there.
  public private(set) var isMalformed = false

  @inlinable
  @_lifetime(copy octets)
  public init(_ octets: Octets) { rest = octets }

  @inlinable
  @_lifetime(copy self)
  public mutating func next() -> IPv4Option? {
    while rest.count > 0 {
      let type = rest[0]
      if type == 0 { break }
      if type == 1 {
        rest = rest.dropping(1)
        continue
      }
      guard rest.count >= 2, rest[1] >= 2, Int(rest[1]) <= rest.count else {
        malformed()
        break
      }
      let option = IPv4Option(type: type, octets: rest.prefix(Int(rest[1])))
      rest = rest.dropping(Int(rest[1]))
      return option
    }
    rest = rest.prefix(0)
    return nil
  }

  @usableFromInline
  @_lifetime(self: copy self)
  mutating func malformed() { isMalformed = true }
}
