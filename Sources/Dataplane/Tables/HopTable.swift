import Addresses

/// A way to carry pods' packets to another node (NODE-5).
public enum Encapsulation: UInt8, Sendable, CaseIterable {
  case none = 0
  case ipip = 1
  case gre = 2
  case vxlan = 3
  case geneve = 4
}

/// What is known of the Ethernet address that a hop sends to.
public enum NeighbourState: UInt8, Sendable {
  /// Being asked for; packets wait.
  case pending = 0
  case resolved = 1
  /// Did not answer.
  case failed = 2
}

/// How the fast path puts a hop's headers before a packet. What is not here goes the general way.
enum PlainHop: UInt8 {
  /// Not by the fast path: the neighbour is not known, or the headers depend on more than the packet's length and hash.
  case no
  /// An Ethernet header.
  case link
  /// An outer IPv4 header.
  case ipip
  /// The same and GRE without options.
  case gre
  /// The same and UDP without a checksum, VXLAN or Geneve, Ethernet.
  case udp
}

/// What the packet path knows of a next hop: where to send, and the octets to push before the network-layer header. Two
/// cache lines, of which the second holds all that packets need that leave without a tunnel.
struct HopRecord: BitwiseCopyable {
  /// Where `template` ends: it is right-aligned, so that one copy of fixed size puts it before the packet.
  /// The longest is Ethernet, IPv6, UDP, VXLAN or Geneve, Ethernet: 84 octets.
  static var templateSize: Int { 88 }

  var encapsulation: Encapsulation.RawValue
  var neighbour: NeighbourState.RawValue
  /// Whether the outer header is IPv6.
  var outerIPv6: Bool
  var inUse: Bool
  /// The largest inner packet.
  var mtu: UInt32
  /// The outer network-layer header's place, from the start of the octets that count.
  var outerOffset: UInt16
  /// The octets between the start of the outer network-layer header and the inner one.
  var overhead: UInt16
  /// Tunnel flags: see `HopOptions`.
  var options: HopOptions
  /// Folded sum of the outer IPv4 header as in the template.
  var headerSum: UInt16
  /// Which of the hops that had this place in turn.
  var serial: UInt32
  /// The VNI or GRE key, for display.
  var identifier: UInt32
  var template: Template
  // What follows the fast path reads as two words.
  var port: PortIndex
  /// The octets of `template` that count.
  var length: UInt16
  /// What the fast path does with packets to this hop; `encapsulation`, `neighbour` and `options` in one.
  var plain: PlainHop.RawValue
  /// The bits of the inner traffic class that the outer header takes over: all, or ECN alone (TUN-5, TUN-6).
  var trafficClassMask: UInt8
  /// The largest inner packet that the fast path sends: `mtu`, or 0 where it sends none.
  var plainMTU: UInt16
  /// `headerSum` as a number, with the overhead added.
  var plainSum: UInt16
  private var padding: UInt16 = 0
  /// The first four octets of the outer IPv4 header as a number: version, traffic class, overhead for a length.
  var plainStart: UInt32

  struct Template: BitwiseCopyable {
    var words:
      (
        UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64
      ) = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  }
}

/// What a tunnel's encapsulator does besides copying the template.
public struct HopOptions: OptionSet, Hashable, Sendable, BitwiseCopyable {
  public var rawValue: UInt16
  public init(rawValue: UInt16) { self.rawValue = rawValue }

  /// GRE carries a checksum (RFC 2784).
  public static var greChecksum: HopOptions { HopOptions(rawValue: 1) }
  /// GRE carries a sequence number (RFC 2890).
  public static var greSequence: HopOptions { HopOptions(rawValue: 2) }
  /// The outer UDP header carries a checksum.
  public static var udpChecksum: HopOptions { HopOptions(rawValue: 4) }
  /// The outer TTL is the inner one, not the template's (RFC 2983's uniform model; TUN-6).
  public static var uniformTTL: HopOptions { HopOptions(rawValue: 8) }
  /// The outer DSCP is the template's, not the inner one (RFC 2983's pipe model; TUN-6).
  public static var pipeDSCP: HopOptions { HopOptions(rawValue: 16) }
  /// GRE carries a key (RFC 2890).
  public static var greKey: HopOptions { HopOptions(rawValue: 32) }
}
