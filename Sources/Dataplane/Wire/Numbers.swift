/// What an Ethernet frame carries (IEEE 802 Numbers registry). GRE and Geneve use the same numbers.
@frozen
public struct EtherType: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
  public var rawValue: UInt16

  @inlinable
  public init(rawValue: UInt16) { self.rawValue = rawValue }

  @inlinable public static var ipv4: EtherType { EtherType(rawValue: 0x0800) }
  @inlinable public static var arp: EtherType { EtherType(rawValue: 0x0806) }
  @inlinable public static var ipv6: EtherType { EtherType(rawValue: 0x86dd) }
  /// An Ethernet frame inside another protocol (RFC 1701: Transparent Ethernet Bridging).
  @inlinable public static var ethernet: EtherType { EtherType(rawValue: 0x6558) }
  /// The tag of 802.1Q: a customer's VLAN.
  @inlinable public static var vlan: EtherType { EtherType(rawValue: 0x8100) }
  /// The tag of 802.1ad: a provider's VLAN.
  @inlinable public static var serviceVLAN: EtherType { EtherType(rawValue: 0x88a8) }

  /// Whether the value announces a VLAN tag.
  @inlinable
  public var isTag: Bool { self == .vlan || self == .serviceVLAN }

  /// Whether the value is the length of an 802.3 frame, not a type.
  @inlinable
  public var isLength: Bool { rawValue < 0x0600 }
}

/// What an IP packet carries (Assigned Internet Protocol Numbers registry).
@frozen
public struct IPProtocol: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
  public var rawValue: UInt8

  @inlinable
  public init(rawValue: UInt8) { self.rawValue = rawValue }

  /// IPv6 hop-by-hop options.
  @inlinable public static var hopByHop: IPProtocol { IPProtocol(rawValue: 0) }
  @inlinable public static var icmp: IPProtocol { IPProtocol(rawValue: 1) }
  /// IPv4 in IP (RFC 2003).
  @inlinable public static var ipv4: IPProtocol { IPProtocol(rawValue: 4) }
  @inlinable public static var tcp: IPProtocol { IPProtocol(rawValue: 6) }
  @inlinable public static var udp: IPProtocol { IPProtocol(rawValue: 17) }
  /// IPv6 in IP (RFC 2473, RFC 4213).
  @inlinable public static var ipv6: IPProtocol { IPProtocol(rawValue: 41) }
  @inlinable public static var routing: IPProtocol { IPProtocol(rawValue: 43) }
  @inlinable public static var fragment: IPProtocol { IPProtocol(rawValue: 44) }
  @inlinable public static var gre: IPProtocol { IPProtocol(rawValue: 47) }
  /// Encapsulating Security Payload (RFC 4303).
  @inlinable public static var esp: IPProtocol { IPProtocol(rawValue: 50) }
  /// Authentication Header (RFC 4302).
  @inlinable public static var ah: IPProtocol { IPProtocol(rawValue: 51) }
  @inlinable public static var icmpv6: IPProtocol { IPProtocol(rawValue: 58) }
  /// Nothing follows.
  @inlinable public static var noNextHeader: IPProtocol { IPProtocol(rawValue: 59) }
  @inlinable public static var destinationOptions: IPProtocol { IPProtocol(rawValue: 60) }
  @inlinable public static var sctp: IPProtocol { IPProtocol(rawValue: 132) }
}

/// Explicit congestion notification (RFC 3168, section 5): the lower two bits of the traffic class.
@frozen
public enum ECN: UInt8, Sendable {
  /// The transport does not take part.
  case notECT = 0
  case ect1 = 1
  case ect0 = 2
  /// Congestion experienced.
  case ce = 3

  /// The field of a traffic class or type of service octet.
  @inlinable
  public init(trafficClass: UInt8) {
    switch trafficClass & 3 {
    case 0: self = .notECT
    case 1: self = .ect1
    case 2: self = .ect0
    default: self = .ce
    }
  }
}
