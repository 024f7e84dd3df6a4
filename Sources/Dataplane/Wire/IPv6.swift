import Addresses

/// An IPv6 header (RFC 8200, section 3).
@frozen
public struct IPv6Header: ~Escapable {
  /// The packet from the header on; may run on behind the packet's end (Ethernet padding).
  public let octets: Octets

  @inlinable
  public static var length: Int { 40 }

  /// Nil where the octets end inside the header or the version is wrong. The payload length is not looked at: see
  /// `hasValidLength`.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 40, octets[0] >> 4 == 6 else { return nil }
    self.octets = octets
  }

  /// Whether the payload does not exceed the octets in view.
  @inlinable
  public var hasValidLength: Bool { 40 + payloadLength <= octets.count }

  /// DSCP and ECN.
  @inlinable
  public var trafficClass: UInt8 {
    get { UInt8(truncatingIfNeeded: octets[u16: 0] >> 4) }
    nonmutating set { octets[u16: 0] = octets[u16: 0] & 0xf00f | UInt16(newValue) << 4 }
  }

  /// Differentiated services codepoint (RFC 2474).
  @inlinable
  public var dscp: UInt8 { trafficClass >> 2 }

  @inlinable
  public var ecn: ECN { ECN(trafficClass: trafficClass) }

  /// 20 bits.
  @inlinable
  public var flowLabel: UInt32 {
    get { octets[u32: 0] & 0xf_ffff }
    nonmutating set { octets[u32: 0] = octets[u32: 0] & 0xfff0_0000 | newValue & 0xf_ffff }
  }

  /// The octets behind this header, extension headers included.
  @inlinable
  public var payloadLength: Int {
    get { Int(octets[u16: 4]) }
    nonmutating set { octets[u16: 4] = UInt16(truncatingIfNeeded: newValue) }
  }

  @inlinable
  public var nextHeader: IPProtocol {
    get { IPProtocol(rawValue: octets[6]) }
    nonmutating set { octets[6] = newValue.rawValue }
  }

  @inlinable
  public var hopLimit: UInt8 {
    get { octets[7] }
    nonmutating set { octets[7] = newValue }
  }

  @inlinable
  public var source: IPv6Address {
    get { octets[ipv6: 8] }
    nonmutating set { octets[ipv6: 8] = newValue }
  }

  @inlinable
  public var destination: IPv6Address {
    get { octets[ipv6: 24] }
    nonmutating set { octets[ipv6: 24] = newValue }
  }

  /// What follows this header, as far as the octets in view go; padding behind the packet is left out.
  @inlinable
  public var payload: Octets {
    @_lifetime(copy self) get { octets.prefix(min(40 + payloadLength, octets.count)).dropping(40) }
  }

  /// Where the headers behind this one end.
  @inlinable
  public var upperLayer: IPv6UpperLayer { IPv6UpperLayer(self) }

  /// Writes a header into the first 40 octets.
  @inlinable
  public static func write(
    to octets: Octets, trafficClass: UInt8 = 0, flowLabel: UInt32 = 0, payloadLength: Int, nextHeader: IPProtocol,
    hopLimit: UInt8 = 64, source: IPv6Address, destination: IPv6Address
  ) {
    precondition(payloadLength >= 0 && payloadLength <= 65535)
    octets[u32: 0] = 0x6000_0000 | UInt32(trafficClass) << 20 | flowLabel & 0xf_ffff
    octets[u32: 4] =
      UInt32(truncatingIfNeeded: payloadLength) << 16 | UInt32(nextHeader.rawValue) << 8 | UInt32(hopLimit)
    octets[ipv6: 8] = source
    octets[ipv6: 24] = destination
  }
}

/// Where the chain of IPv6 extension headers ends and what it held (RFC 8200, section 4).
@frozen
public struct IPv6UpperLayer: BitwiseCopyable, Sendable {
  /// How the walk ended.
  @frozen
  public enum Outcome: UInt8, Sendable {
    /// At a header that is no extension header this walk knows: TCP, UDP, ICMPv6, ESP, "no next header", the unknown.
    case found
    /// The packet ends inside an extension header.
    case truncated
    /// More extension headers than any honest packet has.
    case tooManyHeaders
    /// Hop-by-hop options elsewhere than first (RFC 8200, section 4.1), or a second fragment header.
    case misplaced
  }

  /// The number of extension headers that are walked before giving up.
  @inlinable
  public static var maximumHeaders: Int { 8 }

  public var outcome: Outcome
  /// The first protocol that is not an extension header, or the next header of a later fragment, whose payload does not
  /// start with it.
  public var `protocol`: IPProtocol
  /// Where its header starts, from the start of the IPv6 header.
  public var offset: Int
  /// Where the field is that names the last header, from the start of the IPv6 header: 6 without extension headers.
  public var nextHeaderOffset: Int
  /// Where the fragment header is, from the start of the IPv6 header; 0 if there is none.
  public var fragmentHeaderOffset: Int
  /// Where the field is that names the fragment header, from the start of the IPv6 header; 0 if there is none.
  public var fragmentNextHeaderOffset: Int
  /// Where the payload belongs in the datagram, in octets; 0 without fragment header.
  public var fragmentOffset: Int
  public var moreFragments: Bool
  /// Whether the packet carries hop-by-hop options, which routers may have to look at.
  public var hasHopByHopOptions: Bool
  /// The type of the first routing header with segments left; 255 if there is none.
  public var routingType: UInt8

  /// Whether the packet is a part of a datagram: more follow, *or* others came before (TUN-8). A fragment header with
  /// neither makes an atomic fragment (RFC 6946), which is whole.
  @inlinable
  public var isFragment: Bool { moreFragments || fragmentOffset != 0 }

  /// Whether the transport header is not in this packet.
  @inlinable
  public var isLaterFragment: Bool { fragmentOffset != 0 }

  @inlinable
  public init(_ header: IPv6Header) {
    outcome = .found
    self.protocol = header.nextHeader
    offset = 40
    nextHeaderOffset = 6
    fragmentHeaderOffset = 0
    fragmentNextHeaderOffset = 0
    fragmentOffset = 0
    moreFragments = false
    hasHopByHopOptions = false
    routingType = 255
    switch self.protocol {
    case .hopByHop, .routing, .destinationOptions, .fragment, .ah: outcome = walk(header)
    default: break
    }
  }

  @usableFromInline
  mutating func walk(_ header: IPv6Header) -> Outcome {
    let octets = header.octets
    let end = min(40 + header.payloadLength, octets.count)
    var index = 0
    while true {
      let length: Int
      switch self.protocol {
      case .hopByHop, .routing, .destinationOptions, .fragment, .ah: break
      default: return .found
      }
      guard index < IPv6UpperLayer.maximumHeaders else { return .tooManyHeaders }
      guard offset + 8 <= end else { return .truncated }
      switch self.protocol {
      case .hopByHop:
        guard index == 0 else { return .misplaced }
        hasHopByHopOptions = true
        length = (Int(octets[offset + 1]) + 1) * 8
      case .fragment:
        guard fragmentHeaderOffset == 0 else { return .misplaced }
        fragmentHeaderOffset = offset
        fragmentNextHeaderOffset = nextHeaderOffset
        fragmentOffset = Int(octets[u16: offset + 2] & 0xfff8)
        moreFragments = octets[offset + 3] & 1 != 0
        length = 8
      case .ah:
        length = (Int(octets[offset + 1]) + 2) * 4
      case .routing:
        if octets[offset + 3] != 0, routingType == 255 { routingType = octets[offset + 2] }
        length = (Int(octets[offset + 1]) + 1) * 8
      default:
        length = (Int(octets[offset + 1]) + 1) * 8
      }
      guard offset + length <= end else { return .truncated }
      nextHeaderOffset = offset
      self.protocol = IPProtocol(rawValue: octets[offset])
      offset += length
      // What follows in a later fragment is the middle of something.
      if fragmentOffset != 0 { return .found }
      index += 1
    }
  }
}
