import Addresses

/// Where a packet came in, as far as flows care: each pod is a zone of its own; the host, all underlay ports and tunnels
/// are one.
struct Zone: Equatable, BitwiseCopyable {
  var rawValue: UInt16
  static var underlay: Zone { Zone(rawValue: 0xffff) }
}

/// What tells one direction of one flow from all others. Free slots have the key whose octets are all zero.
protocol FlowKey: BitwiseCopyable, Equatable, Sendable {
  /// What fills a slot up to whole cache lines.
  associatedtype Padding: BitwiseCopyable
  static var padding: Padding { get }
  static var free: Self { get }
  static var isIPv6: Bool { get }
  var isFree: Bool { get }
  var hash: UInt64 { get }
  var tail: FlowKeyTail { get set }
  var sourceAddress: IPAddress { get }
  var destinationAddress: IPAddress { get }
  /// An address of the keys' family, whose bits are the last of these.
  static func address(_ high: UInt64, _ low: UInt64) -> IPAddress
  /// The key of the packets that answer, which come in at `zone`.
  func reversed(zone: Zone) -> Self

  /// The key of a packet whose network-layer header is at the start of `octets`.
  init(addressesOf octets: Octets, _ tail: FlowKeyTail)

  /// The same packets after a translation of the destination, and of the source where one is given. Ports are in host
  /// byte order.
  func translated(destination: IPAddress, port: UInt16, source: (IPAddress, UInt16)?) -> Self

  /// What a packet's addresses and ports become.
  associatedtype Rewrite: FlowRewrite where Rewrite.Key == Self
}

/// New addresses and ports of a flow's packets, with what that does to their checksums.
protocol FlowRewrite: BitwiseCopyable, Sendable {
  associatedtype Key: FlowKey
  /// Nothing changes.
  static var none: Self { get }
  /// What makes packets of flow `key` those of flow `other`.
  init(_ key: Key, to other: Key)
  /// What makes the answers to packets that `rewrite` changed those of flow `key`.
  init(undoing rewrite: Self, to key: Key)
  var destinationAddress: IPAddress { get }
  /// What the new addresses do to a checksum that covers them.
  var addresses: ChecksumDelta { get }
  /// The length of the network-layer header of a plain packet.
  static var headerLength: Int { get }
  /// What a plain packet's `PlainPackets.words` says.
  static func timeToLive(_ word: UInt64) -> UInt8
  static func transport(_ word: UInt64) -> UInt8
  static func dontFragment(_ word: UInt64) -> Bool
  /// Writes the new values into a packet whose network-layer header is at the start of `octets`.
  func apply(to octets: Octets, _ context: PacketContext, isPartial: Bool)
  /// The same for a packet that an error quotes, of which perhaps only the first octets are there.
  func applyToQuoted(_ octets: Octets, transport offset: Int, _ carried: UInt8, isPartial: Bool)
}

/// What keys of both families have, in one word: it is written and compared whole.
struct FlowKeyTail: BitwiseCopyable, Equatable, Sendable {
  /// From the lowest bit on: ports, transport, flags, zone.
  private(set) var word: UInt64

  @inline(__always)
  init(ports: UInt32 = 0, transport: UInt8 = 0, flags: UInt8 = 0, zone: UInt16 = 0) {
    word = UInt64(ports) | UInt64(transport) << 32 | UInt64(flags) << 40 | UInt64(zone) << 48
  }

  /// The same with ports as they lie in the packet, and a transport, where both were none.
  @inline(__always)
  func adding(ports: UInt32, transport: UInt8) -> FlowKeyTail {
    var tail = self
    tail.word |= UInt64(ports) | UInt64(transport) << 32
    return tail
  }

  /// Source and destination port (or the identifier of an ICMP query, twice) as they lie in the packet.
  var ports: UInt32 {
    @inline(__always) get { UInt32(truncatingIfNeeded: word) }
    @inline(__always) set { word = word & ~0xffff_ffff | UInt64(newValue) }
  }

  var transport: UInt8 {
    @inline(__always) get { UInt8(truncatingIfNeeded: word >> 32) }
    @inline(__always) set { word = word & ~(0xff << 32) | UInt64(newValue) << 32 }
  }

  var flags: UInt8 {
    @inline(__always) get { UInt8(truncatingIfNeeded: word >> 40) }
    @inline(__always) set { word = word & ~(0xff << 40) | UInt64(newValue) << 40 }
  }

  var zone: UInt16 {
    @inline(__always) get { UInt16(truncatingIfNeeded: word >> 48) }
    @inline(__always) set { word = word & ~(0xffff << 48) | UInt64(newValue) << 48 }
  }

  /// Every key in use has this flag, so that none is all zero.
  static var used: UInt8 { 0x80 }
  /// An ICMP reply: the answers to A's queries and B's own queries with the same identifier are different flows.
  static var icmpReply: UInt8 { 0x01 }

  @inline(__always)
  var isQuery: Bool { transport == 1 || transport == 58 }

  /// Whether the transport has ports, or identifiers that do the same.
  @inline(__always)
  var hasPorts: Bool { isQuery || transport == 6 || transport == 17 || transport == 132 }

  /// The source port in host byte order.
  @inline(__always)
  var sourcePort: UInt16 { UInt16(truncatingIfNeeded: ports).byteSwapped }
  /// The destination port in host byte order.
  @inline(__always)
  var destinationPort: UInt16 { UInt16(truncatingIfNeeded: ports >> 16).byteSwapped }

  /// With other ports, in host byte order. Queries have one identifier, in both places.
  @inline(__always)
  func with(source: UInt16?, destination: UInt16?) -> FlowKeyTail {
    var tail = self
    if isQuery {
      if let source { tail.ports = UInt32(source.byteSwapped) << 16 | UInt32(source.byteSwapped) }
      return tail
    }
    if let source { tail.ports = tail.ports & 0xffff_0000 | UInt32(source.byteSwapped) }
    if let destination { tail.ports = tail.ports & 0xffff | UInt32(destination.byteSwapped) << 16 }
    return tail
  }

  @inline(__always)
  func reversed(zone: Zone) -> FlowKeyTail {
    FlowKeyTail(
      ports: ports << 16 | ports >> 16, transport: transport, flags: isQuery ? flags ^ FlowKeyTail.icmpReply : flags,
      zone: zone.rawValue)
  }
}

struct FlowKey4: FlowKey {
  /// Source and destination address as they lie in the packet.
  var addresses: UInt64
  var tail: FlowKeyTail

  init(addresses: UInt64, tail: FlowKeyTail) {
    self.addresses = addresses
    self.tail = tail
  }

  init(addressesOf octets: Octets, _ tail: FlowKeyTail) { self.init(addresses: octets[u64Native: 12], tail: tail) }

  typealias Rewrite = FlowRewrite4
  typealias Padding = ()
  static var padding: Void { () }
  static var isIPv6: Bool { false }
  static var free: FlowKey4 { FlowKey4(addresses: 0, tail: FlowKeyTail()) }

  @inline(__always)
  var isFree: Bool { tail.flags == 0 }
  @inline(__always)
  var hash: UInt64 { mix(addresses, tail.word) }

  @inline(__always)
  static func == (a: FlowKey4, b: FlowKey4) -> Bool {
    (a.addresses ^ b.addresses) | (a.tail.word ^ b.tail.word) == 0
  }

  @inline(__always)
  static func address(_ high: UInt64, _ low: UInt64) -> IPAddress {
    .v4(IPv4Address(rawValue: UInt32(truncatingIfNeeded: low)))
  }

  @inline(__always)
  var source: IPv4Address { IPv4Address(rawValue: UInt32(truncatingIfNeeded: addresses).byteSwapped) }
  @inline(__always)
  var destination: IPv4Address { IPv4Address(rawValue: UInt32(truncatingIfNeeded: addresses >> 32).byteSwapped) }
  @inline(__always)
  var sourceAddress: IPAddress { .v4(source) }
  @inline(__always)
  var destinationAddress: IPAddress { .v4(destination) }

  @inline(__always)
  func translated(destination: IPAddress, port: UInt16, source: (IPAddress, UInt16)?) -> FlowKey4 {
    var key = self
    if case .v4(let address) = destination {
      key.addresses = key.addresses & 0xffff_ffff | UInt64(address.rawValue.byteSwapped) << 32
    }
    if case .v4(let address)? = source?.0 {
      key.addresses = key.addresses & 0xffff_ffff_0000_0000 | UInt64(address.rawValue.byteSwapped)
    }
    key.tail = tail.with(source: source?.1, destination: port)
    return key
  }

  @inline(__always)
  func reversed(zone: Zone) -> FlowKey4 {
    FlowKey4(addresses: addresses << 32 | addresses >> 32, tail: tail.reversed(zone: zone))
  }
}

struct FlowKey6: FlowKey {
  /// Source and destination address as they lie in the packet.
  var source0: UInt64
  var source1: UInt64
  var destination0: UInt64
  var destination1: UInt64
  var tail: FlowKeyTail

  init(source0: UInt64, source1: UInt64, destination0: UInt64, destination1: UInt64, tail: FlowKeyTail) {
    self.source0 = source0
    self.source1 = source1
    self.destination0 = destination0
    self.destination1 = destination1
    self.tail = tail
  }

  init(addressesOf octets: Octets, _ tail: FlowKeyTail) {
    self.init(
      source0: octets[u64Native: 8], source1: octets[u64Native: 16], destination0: octets[u64Native: 24],
      destination1: octets[u64Native: 32], tail: tail)
  }

  typealias Rewrite = FlowRewrite6
  typealias Padding = (UInt64, UInt64)
  static var padding: Padding { (0, 0) }
  static var isIPv6: Bool { true }
  static var free: FlowKey6 {
    FlowKey6(source0: 0, source1: 0, destination0: 0, destination1: 0, tail: FlowKeyTail())
  }

  @inline(__always)
  var isFree: Bool { tail.flags == 0 }
  @inline(__always)
  var hash: UInt64 { mix(mix(source0, source1), mix(destination0, destination1) ^ tail.word) }

  @inline(__always)
  static func == (a: FlowKey6, b: FlowKey6) -> Bool {
    (a.source0 ^ b.source0) | (a.source1 ^ b.source1) | (a.destination0 ^ b.destination0)
      | (a.destination1 ^ b.destination1) | (a.tail.word ^ b.tail.word) == 0
  }

  @inline(__always)
  static func address(_ high: UInt64, _ low: UInt64) -> IPAddress { .v6(IPv6Address(high: high, low: low)) }

  @inline(__always)
  var source: IPv6Address { IPv6Address(high: source0.byteSwapped, low: source1.byteSwapped) }
  @inline(__always)
  var destination: IPv6Address { IPv6Address(high: destination0.byteSwapped, low: destination1.byteSwapped) }
  @inline(__always)
  var sourceAddress: IPAddress { .v6(source) }
  @inline(__always)
  var destinationAddress: IPAddress { .v6(destination) }

  @inline(__always)
  func translated(destination: IPAddress, port: UInt16, source: (IPAddress, UInt16)?) -> FlowKey6 {
    var key = self
    if case .v6(let address) = destination {
      key.destination0 = address.high.byteSwapped
      key.destination1 = address.low.byteSwapped
    }
    if case .v6(let address)? = source?.0 {
      key.source0 = address.high.byteSwapped
      key.source1 = address.low.byteSwapped
    }
    key.tail = tail.with(source: source?.1, destination: port)
    return key
  }

  @inline(__always)
  func reversed(zone: Zone) -> FlowKey6 {
    FlowKey6(
      source0: destination0, source1: destination1, destination0: source0, destination1: source1,
      tail: tail.reversed(zone: zone))
  }
}
