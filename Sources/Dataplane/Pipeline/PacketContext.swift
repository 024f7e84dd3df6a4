/// What the stages know of a packet of the batch besides its octets: written once by the parser, read by all others.
struct PacketContext: BitwiseCopyable {
  /// The hash of the flow key; also spreads flows over next hops and outer source ports.
  var hash: UInt64
  /// The octets of the network-layer packet on the wire.
  var length: UInt32
  /// The next packet of the batch that leaves by the same port.
  var next: Int32
  /// Where the transport header starts, from the start of the network-layer header.
  var transport: UInt16
  /// The peer that the packet came from by tunnel.
  var peer: UInt16
  var hop: HopIndex
  var trafficClass: UInt8
  var timeToLive: UInt8
  var transportProtocol: UInt8
  var tcpFlags: UInt8
  var flags: Flags
  /// The encapsulation that the packet came in.
  var tunnel: Encapsulation.RawValue

  struct Flags: OptionSet, BitwiseCopyable {
    var rawValue: UInt16
    static var ipv6: Flags { Flags(rawValue: 1) }
    /// A part of a datagram: not the first.
    static var laterFragment: Flags { Flags(rawValue: 2) }
    /// Any part of a datagram.
    static var fragment: Flags { Flags(rawValue: 4) }
    static var dontFragment: Flags { Flags(rawValue: 8) }
    static var hasOptions: Flags { Flags(rawValue: 16) }
    /// An ICMP error: belongs to another flow and makes none.
    static var icmpError: Flags { Flags(rawValue: 32) }
    /// Made here: no source check, no TTL decrement.
    static var originated: Flags { Flags(rawValue: 64) }
    /// Sent to a group at the link layer.
    static var linkGroup: Flags { Flags(rawValue: 128) }
  }

  init() {
    hash = 0
    length = 0
    next = -1
    transport = 0
    peer = 0
    hop = 0
    trafficClass = 0
    timeToLive = 0
    transportProtocol = 0
    tcpFlags = 0
    flags = []
    tunnel = 0
  }

  var isIPv6: Bool {
    @inline(__always) get { flags.contains(.ipv6) }
  }
}
