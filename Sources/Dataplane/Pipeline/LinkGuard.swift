/// What the first 16 octets of a plain packet's frame must be at a port: its own Ethernet address, the sender's where
/// that is checked (NODE-4), and the beginning of an IPv4 packet without options. Prepared once a batch, and compared in
/// two words.
struct LinkGuard: BitwiseCopyable {
  /// Octets 0 to 7 and 8 to 15, and which bits of them count; as they lie in memory.
  private var first: UInt64
  private var firstMask: UInt64
  private var second: UInt64
  private var secondMask: UInt64
  /// Octets 8 to 15 where the packet is IPv6.
  private var second6: UInt64
  private var second6Mask: UInt64

  /// Lets nothing pass.
  static var none: LinkGuard { LinkGuard(first: 1) }

  private init(first: UInt64) {
    self.first = first
    firstMask = 0
    second = 0
    secondMask = 0
    second6 = 0
    second6Mask = 0
  }

  init(_ port: PortRecord) {
    // On a wire everything is accepted that was not sent to a group.
    let isWire = port.role == PortRole.wire.rawValue
    let destinationMask: UInt64 = isWire ? 0x0100_0000_0000 : 0xffff_ffff_ffff
    let sourceMask: UInt64 = port.peerMAC == 0 ? 0 : 0xffff_ffff_ffff
    let destination = isWire ? 0 : port.mac
    // A port's own address is never a group's, else its packets would not be plain.
    guard destination & 0x0100_0000_0000 == 0 else {
      self = .none
      return
    }
    first = (destination << 16 | port.peerMAC >> 32 & 0xffff).bigEndian
    firstMask = (destinationMask << 16 | sourceMask >> 32 & 0xffff).bigEndian
    second = ((port.peerMAC & 0xffff_ffff) << 32 | UInt64(EtherType.ipv4.rawValue) << 16 | 0x4500).bigEndian
    secondMask = ((sourceMask & 0xffff_ffff) << 32 | 0xffff_ff00).bigEndian
    second6 = ((port.peerMAC & 0xffff_ffff) << 32 | UInt64(EtherType.ipv6.rawValue) << 16 | 0x6000).bigEndian
    second6Mask = ((sourceMask & 0xffff_ffff) << 32 | 0xffff_f000).bigEndian
  }

  var isUsable: Bool { secondMask != 0 }

  /// Whether a frame of at least 16 octets begins so, with an IPv4 packet.
  @inline(__always)
  func admits(_ octets: Octets) -> Bool {
    (octets[u64Native: 0] ^ first) & firstMask | (octets[u64Native: 8] ^ second) & secondMask == 0
  }

  /// Whether a frame says that it carries IPv6.
  @inline(__always)
  static func isIPv6(_ octets: Octets) -> Bool {
    octets.count >= EthernetHeader.length && octets[u16: 12] == EtherType.ipv6.rawValue
  }

  /// The same as `admits` with an IPv6 packet.
  @inline(__always)
  func admits6(_ octets: Octets) -> Bool {
    (octets[u64Native: 0] ^ first) & firstMask | (octets[u64Native: 8] ^ second6) & second6Mask == 0
  }
}
