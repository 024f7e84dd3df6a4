/// What the parser finds out about the packets of a batch that want a flow, for the look-up and the fast path's way out.
/// The frames themselves are not touched before they are sent.
struct PlainPackets: ~Copyable {
  private let columns = PacketColumns()

  /// See `MemoryView`.
  var view: PlainPacketsView {
    @inline(__always) get { PlainPacketsView(columns: columns.view) }
  }
}

/// The same for a loop: see `MemoryView`.
struct PlainPacketsView: BitwiseCopyable {
  let columns: PacketColumns.View

  /// The hash of a packet's flow key.
  @inline(__always)
  func hash(_ index: Int) -> UInt64 { columns[0, index] }
  /// Eight octets of the network-layer header, the first in the lowest bits: of IPv4 from the fifth on (identification to
  /// checksum), of IPv6 the first.
  @inline(__always)
  func word(_ index: Int) -> UInt64 { columns[1, index] }
  @inline(__always)
  func mark(_ index: Int) -> PlainMark { PlainMark(word: columns[2, index]) }

  /// Which packet the `number`th of the list is, and where its flow is in the table; negative where it has none.
  @inline(__always)
  func listed(_ number: Int) -> (index: Int, position: Int) {
    let word = columns[3, number]
    return (Int(UInt8(truncatingIfNeeded: word)), Int(Int64(bitPattern: word) >> 8))
  }

  @inline(__always)
  func setMark(_ index: Int, _ mark: PlainMark) { columns[2, index] = mark.word }
  /// Where the frame begins in its buffer, and its length: whoever changes them after the packet was read says so.
  @inline(__always)
  func setSpan(_ index: Int, of frame: Frame) { columns[5, index] = UInt64(frame.start) | UInt64(frame.length) << 32 }
  @inline(__always)
  func set(_ index: Int, _ hash: UInt64, _ word: UInt64, _ mark: PlainMark) {
    columns[0, index] = hash
    columns[1, index] = word
    columns[2, index] = mark.word
  }
}

/// What else is known of a plain packet, in one word: it is written and read whole.
struct PlainMark: BitwiseCopyable {
  /// From the lowest bit on: length (16), offset (8), tunnel (3), partial (bit 31), peer (16), traffic class (8), TCP flags
  /// (8).
  fileprivate(set) var word: UInt64

  /// A packet that goes the general way: the frame begins with it, and its context says what it is.
  static var general: PlainMark { PlainMark(word: 0) }

  @inline(__always)
  fileprivate init(word: UInt64) { self.word = word }

  /// A plain packet, of which the rest is added.
  @inline(__always)
  init(offset: Int, tunnel: Encapsulation.RawValue = 0) {
    word = UInt64(UInt8(truncatingIfNeeded: offset)) << 16 | UInt64(tunnel) << 24
  }

  /// The octets of the network-layer packet; 0 where it is not plain.
  var length: Int {
    @inline(__always) get { Int(UInt16(truncatingIfNeeded: word)) }
  }
  /// Where the network-layer header is in the frame as it came in.
  var offset: Int {
    @inline(__always) get { Int(UInt8(truncatingIfNeeded: word >> 16)) }
  }
  /// The encapsulation that it came in.
  var tunnel: Encapsulation.RawValue { UInt8(truncatingIfNeeded: word >> 24) & 7 }
  /// Whether the transport checksum covers only the pseudo header yet.
  var isPartial: Bool {
    @inline(__always) get { word & 1 << 31 != 0 }
  }
  /// The peer that it came from by tunnel.
  var peer: UInt16 { UInt16(truncatingIfNeeded: word >> 32) }
  var trafficClass: UInt8 {
    @inline(__always) get { UInt8(truncatingIfNeeded: word >> 48) }
  }
  /// Nothing that opens or closes a connection; of UDP packets, anything.
  var tcpFlags: UInt8 { UInt8(truncatingIfNeeded: word >> 56) }

  /// The same packet where the frame begins with it.
  var unfolded: PlainMark { PlainMark(word: word & ~0xff_0000) }
}

/// Where the parser leaves plain packets of a family: all that its loop needs, in values of its own (`MemoryView`).
struct PlainSink<Key: FlowKey> {
  let keys: PerPacketView<Key>
  let plain: PlainPacketsView
  /// Where the packets' flows are.
  let slots: MemoryView<FlowSlot<Key>>
  let tail: FlowKeyTail
  let port: PortIndex

  @inline(__always)
  init(_ family: borrowing Family<Key>, _ core: borrowing Core) {
    keys = family.keys.view
    plain = family.plain.view
    slots = family.flows.table.slots.view
    tail = FlowKeyTail(flags: FlowKeyTail.used, zone: core.ingressRecord.zone.rawValue)
    port = core.ingress
  }
}

extension Core {
  /// Makes of a plain packet what the general parser makes of it: the frame begins with the network-layer header and
  /// ends with the packet, and the context is filled in.
  @inline(never)
  mutating func unfold<Key: FlowKey>(
    _ index: Int, _ plain: PlainPacketsView, _: Key.Type, _ batch: inout FrameBatch
  ) {
    let mark = plain.mark(index)
    let word = plain.word(index)
    // What follows the packet is Ethernet's padding.
    batch[index].narrow(from: mark.offset, length: mark.length)
    plain.setMark(index, mark.unfolded)
    plain.setSpan(index, of: batch[index])
    var context = PacketContext()
    context.hash = plain.hash(index)
    context.length = UInt32(truncatingIfNeeded: mark.length)
    context.next = -1
    context.transport = UInt16(Key.Rewrite.headerLength)
    context.peer = mark.peer
    context.trafficClass = mark.trafficClass
    context.timeToLive = Key.Rewrite.timeToLive(word)
    context.transportProtocol = Key.Rewrite.transport(word)
    context.tcpFlags = context.transportProtocol == IPProtocol.tcp.rawValue ? mark.tcpFlags : 0
    context.flags = Key.isIPv6 ? [.ipv6, .dontFragment] : Key.Rewrite.dontFragment(word) ? .dontFragment : []
    context.tunnel = mark.tunnel
    contexts[index] = context
  }
}
