import Addresses
import CDataplane

/// The fast path's parser (`kalsae_plain_read`), some frames at a time where the processor can.
///
/// Unsafe: hands to C where frames are and where to leave what is read of them.
@safe
struct PlainReader<Key: FlowKey> {
  private var plain = unsafe kalsae_plain()

  /// For bare packets that begin as they do at the port.
  @inline(__always)
  init(_ sink: PlainSink<Key>, _ frames: FrameBatchView, _ core: borrowing Core, part start: Int) {
    unsafe plain.frames = UnsafeMutableRawPointer(frames.pointer).assumingMemoryBound(to: kalsae_frame.self)
    unsafe plain.keys = UnsafeMutableRawPointer(sink.keys.pointer)
      .assumingMemoryBound(to: (UInt64, UInt64).self)
    unsafe plain.columns = sink.plain.columns.pointer(part: start)
    unsafe plain.slots = UnsafeRawPointer(sink.slots.pointer)
    unsafe plain.slot_count = sink.slots.count
    unsafe plain.tail = sink.tail.word
    unsafe plain.room = UInt32(HopRecord.templateSize)
    unsafe plain.port = sink.port.rawValue
    unsafe plain.lanes = core.lanes
    begin(with: core.link, isIPv6: Key.isIPv6)
    unsafe plain.mark = PlainMark(offset: EthernetHeader.length).word
  }

  /// What frames begin with: an Ethernet header, and a packet of this family.
  @inline(__always)
  private mutating func begin(with link: LinkGuard, isIPv6: Bool) {
    let (first, second) = link.pattern(isIPv6: isIPv6)
    // Two octets further on, and little-endian: what lies first is lowest.
    unsafe plain.outer.0 = first.value << 16
    unsafe plain.outer_mask.0 = first.mask << 16
    unsafe plain.outer.1 = first.value >> 48 | second.value << 16
    unsafe plain.outer_mask.1 = first.mask >> 48 | second.mask << 16
    // Version 4, five words, neither "more fragments" nor an offset; or version 6.
    unsafe plain.outer.2 = isIPv6 ? 0x60 : 0x45
    unsafe plain.outer_mask.2 = isIPv6 ? 0xf0 : 0xff3f_0000_0000_00ff
  }

  /// From now on one by one.
  mutating func readsSingly() { unsafe plain.singly = 1 }

  /// From now on not for two UDP ports.
  mutating func exclude(_ first: UInt16, _ second: UInt16) {
    unsafe plain.excludes = 1
    unsafe plain.excluded = (first.bigEndian, second.bigEndian)
  }

  /// From now on for packets in a tunnel to the address that the last one was sent to.
  mutating func expect(_ encapsulation: Encapsulation, _ core: borrowing Core, _ settings: Settings) {
    var offset = EthernetHeader.length + IPv4Header.length
    var transport = IPProtocol.udp
    let carried = Key.isIPv6 ? EtherType.ipv6 : .ipv4
    var shim = TunnelGuard.none
    begin(with: core.link, isIPv6: false)
    unsafe plain.outer.4 = core.arrival.local & 0xffff_ffff
    unsafe plain.outer_mask.4 = 0xffff_ffff
    switch encapsulation {
    case .none: return
    case .ipip: transport = Key.isIPv6 ? .ipv6 : .ipv4
    case .gre:
      transport = .gre
      offset += 4
      unsafe plain.outer.4 |= UInt64(UInt32(carried.rawValue).bigEndian) << 32
      unsafe plain.outer_mask.4 = .max
    case .vxlan: shim = core.vxlan
    case .geneve: shim = core.geneve
    }
    unsafe plain.outer.3 = UInt64(transport.rawValue) << 8
    unsafe plain.outer_mask.3 = 0xff00
    if encapsulation == .vxlan || encapsulation == .geneve {
      offset = TunnelGuard.length
      let pattern = shim.pattern
      unsafe plain.outer.4 |= pattern.udp.value << 32
      unsafe plain.outer_mask.4 |= pattern.udp.mask << 32
      unsafe plain.outer.5 = pattern.udp.value >> 32 | pattern.shim.value << 32
      unsafe plain.outer_mask.5 = pattern.udp.mask >> 32 | pattern.shim.mask << 32
      unsafe plain.outer.6 = pattern.shim.value >> 32 | pattern.link.value << 32
      unsafe plain.outer_mask.6 = pattern.shim.mask >> 32 | pattern.link.mask << 32
      unsafe plain.outer.7 = pattern.link.value >> 32
      unsafe plain.outer_mask.7 = pattern.link.mask >> 32
      unsafe plain.inner = UInt64(carried.rawValue.bigEndian) << 48
      unsafe plain.inner_mask = 0xffff << 48
      unsafe plain.has_udp = 1
    }
    unsafe plain.offset = UInt32(offset)
    unsafe plain.mark = PlainMark(offset: offset, tunnel: encapsulation.rawValue).word
    unsafe plain.uniform_dscp = settings.uniformDSCP ? 1 : 0
    unsafe plain.uniform_ttl = settings.uniformTTL ? 1 : 0
  }

  // (`mutating`, though nothing is changed: the pointer is to the structure itself, and not to a copy of its 300 octets.)

  /// Reads bare packets; returns the place of the first that was not read.
  @inline(__always)
  mutating func read(_ part: Range<Int>) -> Int {
    unsafe withUnsafePointer(to: &plain) {
      let next =
        unsafe Key.isIPv6
        ? kalsae_plain_read6($0, part.lowerBound, part.upperBound)
        : kalsae_plain_read($0, part.lowerBound, part.upperBound)
      return Int(next)
    }
  }

  /// Notes which peers packets came from that were unwrapped; returns the place of the first that may not come so (NODE-4).
  @inline(__always)
  mutating func trust(_ peers: borrowing PeerTable, _ encapsulation: Encapsulation, _ part: Range<Int>) -> Int {
    let (words, shift) = peers.view
    var known = unsafe kalsae_peers()
    unsafe known.words = UnsafePointer(words.pointer)
    unsafe known.count = words.count
    unsafe known.shift = shift
    unsafe known.bit = 1 << (48 + UInt64(encapsulation.rawValue))
    return unsafe withUnsafePointer(to: &plain) { plain in
      unsafe withUnsafePointer(to: known) {
        unsafe Int(kalsae_plain_trust(plain, $0, part.lowerBound, part.upperBound))
      }
    }
  }

  /// Reads packets in the tunnel that is expected; returns the place of the first that was not read. Where they come from
  /// is left where `trust` looks for it.
  @inline(__always)
  mutating func unwrap(_ part: Range<Int>) -> Int {
    unsafe withUnsafePointer(to: &plain) {
      let next =
        unsafe Key.isIPv6
        ? kalsae_plain_unwrap6($0, part.lowerBound, part.upperBound)
        : kalsae_plain_unwrap($0, part.lowerBound, part.upperBound)
      return Int(next)
    }
  }
}

/// Octets that something is compared with, as they lie in memory, and which bits of them count.
struct MaskedWord {
  var value: UInt64
  var mask: UInt64
}

extension Core {
  /// How many words of 64 bits the processor's vectors hold: 8, 4 or 1.
  static var mostLanes: UInt8 { UInt8(kalsae_plain_lanes()) }
}
