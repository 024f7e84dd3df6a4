import Addresses
import CDataplane

/// The fast path's parser for eight frames at once (`kalsae_plain_read`), where the processor can. It reads what
/// `PlainSink.enter` and `TunnelReader` read, and leaves out whatever they might decide otherwise.
///
/// Unsafe: hands the columns that the parser fills to C.
@safe
struct PlainVector {
  /// Whether the processor can, and frames lie as the C code believes.
  static let isUsable =
    unsafe kalsae_plain_vector() != 0 && MemoryLayout<Frame>.stride == MemoryLayout<kalsae_frame>.stride
    && MemoryLayout<Frame>.offset(of: \.start) == 12 && MemoryLayout<Frame>.offset(of: \.length) == 16
    && MemoryLayout<Frame>.offset(of: \.checksumStart) == 32 && MemoryLayout<Frame>.offset(of: \.port) == 40
    && MemoryLayout<Frame>.offset(of: \.flags) == 46 && MemoryLayout<Frame>.offset(of: \.segmentation) == 47
    && MemoryLayout<FlowKey4>.size == 16 && FrameFlags.checksumPartial.rawValue == 1
    && FrameFlags.truncated.rawValue == 8

  private var plain = unsafe kalsae_plain()

  /// For bare packets that begin as `link` says, but not for the UDP ports `excluded`.
  @inline(__always)
  init(_ sink: PlainSink<FlowKey4>, _ frames: FrameBatchView, _ link: LinkGuard, excluded: (UInt16, UInt16)?) {
    unsafe plain.frames = UnsafeMutableRawPointer(frames.pointer).assumingMemoryBound(to: kalsae_frame.self)
    unsafe plain.keys = UnsafeMutableRawPointer(sink.keys.pointer)
      .assumingMemoryBound(to: (UInt64, UInt64).self)
    unsafe plain.sources = sink.plain.columns.pointer(0)
    unsafe plain.words = sink.plain.columns.pointer(1)
    unsafe plain.marks = sink.plain.columns.pointer(2)
    unsafe plain.tail = sink.tail.word
    unsafe plain.room = UInt32(HopRecord.templateSize)
    unsafe plain.port = sink.port.rawValue
    unsafe plain.excluded = (0x10000, 0x10000)
    if let excluded { unsafe plain.excluded = (UInt32(excluded.0.bigEndian), UInt32(excluded.1.bigEndian)) }
    let (first, second) = (link.pattern.first, link.pattern.second)
    // Two octets further on, and little-endian: what lies first is lowest.
    unsafe plain.outer.0 = first.value << 16
    unsafe plain.outer_mask.0 = first.mask << 16
    unsafe plain.outer.1 = first.value >> 48 | second.value << 16
    unsafe plain.outer_mask.1 = first.mask >> 48 | second.mask << 16
    unsafe plain.outer.2 = 0x45
    unsafe plain.outer_mask.2 = 0xff3f_0000_0000_00ff
    unsafe plain.mark = PlainMark(offset: EthernetHeader.length).word
  }

  /// From now on for packets in a tunnel to `local`, which is as it lies in the packet.
  mutating func expect(_ encapsulation: Encapsulation, to local: UInt32, _ core: borrowing Core, uniformDSCP: Bool) {
    var offset = EthernetHeader.length + PlainIPv4.length
    var transport = IPProtocol.udp
    var shim = TunnelGuard.none
    unsafe plain.outer.4 = UInt64(local)
    unsafe plain.outer_mask.4 = 0xffff_ffff
    switch encapsulation {
    case .none: return
    case .ipip: transport = .ipv4
    case .gre:
      transport = .gre
      offset += 4
      unsafe plain.outer.4 |= UInt64(UInt32(EtherType.ipv4.rawValue).bigEndian) << 32
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
      unsafe plain.inner = UInt64(EtherType.ipv4.rawValue.bigEndian) << 48
      unsafe plain.inner_mask = 0xffff << 48
      unsafe plain.has_udp = 1
    }
    unsafe plain.offset = UInt32(offset)
    unsafe plain.mark = PlainMark(offset: offset, tunnel: encapsulation.rawValue).word
    unsafe plain.uniform_dscp = uniformDSCP ? 1 : 0
  }

  /// Reads bare packets; returns the place of the first that was not read.
  @inline(__always)
  func read(_ part: Range<Int>) -> Int {
    unsafe withUnsafePointer(to: plain) { unsafe Int(kalsae_plain_read($0, part.lowerBound, part.upperBound)) }
  }

  /// Reads packets in the tunnel that is expected; returns the place of the first that was not read. Where they come from
  /// is left in the first column.
  @inline(__always)
  func unwrap(_ part: Range<Int>) -> Int {
    unsafe withUnsafePointer(to: plain) { unsafe Int(kalsae_plain_unwrap($0, part.lowerBound, part.upperBound)) }
  }
}

/// Octets that something is compared with, as they lie in memory, and which bits of them count.
struct MaskedWord {
  var value: UInt64
  var mask: UInt64
}
