import Addresses

/// What the first 16 octets of a plain packet's frame must be at a port: its own Ethernet address, the sender's where
/// that is checked (NODE-4), and the beginning of an IPv4 packet without options, or of an IPv6 packet. Prepared once a
/// batch, and compared in two words.
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

  /// What the first 16 octets of a frame with a packet of either family are compared with.
  func pattern(isIPv6: Bool) -> (first: MaskedWord, second: MaskedWord) {
    let (value, mask) = isIPv6 ? (second6, second6Mask) : (second, secondMask)
    return (MaskedWord(value: first & firstMask, mask: firstMask), MaskedWord(value: value & mask, mask: mask))
  }

  /// What a frame says that it carries; 0 where it is too short to say it.
  @inline(__always)
  static func type(_ octets: Octets) -> UInt16 { octets.count >= EthernetHeader.length ? octets[u16: 12] : 0 }
}

/// What a plain packet in VXLAN or Geneve over IPv4 has between the outer and the inner network-layer header: the tunnel's
/// UDP port and no checksum, the network's identifier, no options, the node's own address as the inner frame's destination.
/// Prepared when the batch begins.
struct TunnelGuard: BitwiseCopyable {
  /// Octets 34 to 41 (UDP), 42 to 49 (VXLAN or Geneve) and 50 to 57 (Ethernet) of the frame; as they lie in memory.
  private var udp: UInt64
  private var udpMask: UInt64
  private var shim: UInt64
  private var shimMask: UInt64
  private var link: UInt64

  /// Where the inner network-layer header is.
  static var length: Int {
    EthernetHeader.length + IPv4Header.length + UDPHeader.length + VXLANHeader.length + EthernetHeader.length
  }

  /// Lets nothing pass.
  static var none: TunnelGuard { TunnelGuard(port: 0, shim: 1, mask: 0, mac: .zero) }

  private init(port: UInt16, shim: UInt64, mask: UInt64, mac: MACAddress) {
    udp = (UInt64(port) << 32).bigEndian
    udpMask = UInt64(0xffff_0000_ffff).bigEndian
    self.shim = shim.bigEndian
    shimMask = mask.bigEndian
    link = (mac.rawValue << 16).bigEndian
  }

  /// TUN-3: of the flags only I counts.
  static func vxlan(_ settings: Settings) -> TunnelGuard {
    TunnelGuard(
      port: settings.vxlanPort, shim: 0x0800_0000_0000_0000 | UInt64(settings.vxlanVNI) << 8,
      mask: 0x0800_0000_ffff_ff00, mac: settings.vtepMAC)
  }

  /// Version 0, no options, no control packet, Ethernet inside.
  static func geneve(_ settings: Settings) -> TunnelGuard {
    TunnelGuard(
      port: settings.genevePort, shim: 0x6558_0000_0000 | UInt64(settings.geneveVNI) << 8,
      mask: 0xffff_ffff_ffff_ff00, mac: settings.vtepMAC)
  }

  private static var linkMask: UInt64 { UInt64(0xffff_ffff_ffff_0000).bigEndian }

  /// What the octets between the headers are compared with, but for the inner packet's type.
  var pattern: (udp: MaskedWord, shim: MaskedWord, link: MaskedWord) {
    (
      MaskedWord(value: udp & udpMask, mask: udpMask), MaskedWord(value: shim & shimMask, mask: shimMask),
      MaskedWord(value: link & TunnelGuard.linkMask, mask: TunnelGuard.linkMask)
    )
  }
}
