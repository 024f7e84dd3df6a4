/// The header of a whole IPv4 packet without options, read in three words, each once.
///
/// The octets of a word are counted from its lowest bits, so that the first of them is `word & 0xff` on every machine.
struct PlainIPv4 {
  private let head: UInt32
  /// Octets 4 to 11: identification, flags and offset, time to live, protocol, checksum.
  let middle: UInt64
  /// Source and destination address as they lie in the packet.
  let addresses: UInt64

  static var length: Int { 20 }

  /// Nil where the packet is anything else, or wrong: the general way says what. That the length covers the header is for
  /// the caller to look after, who wants more. `isChecked`: the first octet is known to be right.
  @inline(__always)
  init?(_ octets: Octets, isChecked: Bool) {
    guard octets.count >= PlainIPv4.length else { return nil }
    let first = octets[u32Native: 0]
    let second = octets[u64Native: 4]
    addresses = octets[u64Native: 12]
    head = UInt32(littleEndian: first)
    middle = UInt64(littleEndian: second)
    // Version 4, five words, and in the third word of 16 bits neither "more fragments" nor an offset.
    let version = isChecked ? 0 : (head ^ 0x45) & 0xff
    guard version | UInt32(truncatingIfNeeded: middle) & 0xff3f_0000 == 0, totalLength <= octets.count else {
      return nil
    }
    // The one's complement sum in 64 bits: 2^16 and 2^64 are both 1 modulo 65535, so it is right when that divides it.
    let (a, carryA) = second.addingReportingOverflow(addresses)
    let (b, carryB) = a.addingReportingOverflow(UInt64(first) &+ (carryA ? 1 : 0))
    // A multiple of 65535 is what the inverse of 65535 makes small.
    guard (b &+ (carryB ? 1 : 0)) &* 0xfffe_fffe_fffe_ffff <= UInt64.max / 0xffff else { return nil }
  }

  var trafficClass: UInt8 {
    @inline(__always) get { UInt8(truncatingIfNeeded: head >> 8) }
  }
  var totalLength: Int {
    @inline(__always) get { Int(UInt16(truncatingIfNeeded: head >> 16).byteSwapped) }
  }
  var timeToLive: UInt8 {
    @inline(__always) get { FlowRewrite4.timeToLive(middle) }
  }
  var transport: UInt8 {
    @inline(__always) get { FlowRewrite4.transport(middle) }
  }
}
