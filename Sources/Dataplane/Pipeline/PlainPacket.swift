/// What the parser finds out about a packet that wants a flow, for the look-up and the fast path's way out. Half a cache
/// line; the frame itself is not touched before it is sent.
struct PlainPacket: BitwiseCopyable {
  /// The hash of the flow key.
  var hash: UInt64
  /// Eight octets of the network-layer header, the first in the lowest bits: of IPv4 from the fifth on (identification to
  /// checksum), of IPv6 the first.
  var word: UInt64
  /// The octets of the network-layer packet. 0 where it is not plain: then the frame begins with it, and its context
  /// says what it is.
  var length: UInt32
  /// Where the network-layer header is in the frame as it came in.
  var offset: UInt16
  /// The peer that it came from by tunnel.
  var peer: UInt16
  var trafficClass: UInt8
  /// Nothing that opens or closes a connection.
  var tcpFlags: UInt8
  /// The encapsulation that it came in.
  var tunnel: Encapsulation.RawValue
  /// Whether the transport checksum covers only the pseudo header yet.
  var isPartial: Bool

  /// A packet that goes the general way.
  @inline(__always)
  static func general(_ hash: UInt64) -> PlainPacket {
    PlainPacket(
      hash: hash, word: 0, length: 0, offset: 0, peer: 0, trafficClass: 0, tcpFlags: 0, tunnel: 0, isPartial: false)
  }
}

extension Core {
  /// Makes of a plain packet what the general parser makes of it: the frame begins with the network-layer header and
  /// ends with the packet, and the context is filled in.
  @inline(never)
  mutating func unfold<Key: FlowKey>(_ index: Int, _ packet: PlainPacket, _: Key.Type, _ batch: inout FrameBatch) {
    // What follows the packet is Ethernet's padding.
    batch[index].narrow(from: Int(packet.offset), length: Int(packet.length))
    var context = PacketContext()
    context.hash = packet.hash
    context.length = packet.length
    context.next = -1
    context.transport = UInt16(Key.Rewrite.headerLength)
    context.peer = packet.peer
    context.trafficClass = packet.trafficClass
    context.timeToLive = Key.Rewrite.timeToLive(packet.word)
    context.transportProtocol = Key.Rewrite.transport(packet.word)
    context.tcpFlags = packet.tcpFlags
    context.flags = Key.isIPv6 ? [.ipv6, .dontFragment] : Key.Rewrite.dontFragment(packet.word) ? .dontFragment : []
    context.tunnel = packet.tunnel
    contexts[index] = context
  }
}
