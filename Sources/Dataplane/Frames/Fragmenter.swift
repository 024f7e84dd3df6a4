/// An IPv4 packet that is being cut into fragments (RFC 791, section 2.3; RFC 1812, section 4.2.2.7): it is longer than
/// the next link takes, and may be fragmented.
///
/// `FragmentPlan(…)` checks the packet once; `emit` makes fragments as long as batch and arena have room and can be
/// called again when they were sent, until `isComplete`. The octets of the packet must stay as they are until then.
/// Whatever is in front of the IP header (Ethernet) is copied before each fragment.
public struct FragmentPlan: BitwiseCopyable {
  let frame: Frame
  let network: Int
  /// The length of the header of the first fragment: the packet's own.
  let headerLength: Int
  /// The length of the header of later fragments: only copied options.
  let laterHeaderLength: Int
  /// The payload octets of all fragments but the last.
  let size: Int
  let payloadLength: Int
  /// DF, MF and offset of the packet.
  let field: UInt16

  /// The number of fragments in all.
  public let count: Int
  /// The number of fragments made so far.
  public private(set) var emitted = 0

  public var isComplete: Bool { emitted == count }

  /// The least MTU that every link must take (RFC 791, section 3.2).
  public static var minimumMTU: Int { 68 }

  /// Nil where the packet must not or cannot be fragmented: DF is set, it is a super-frame, its checksum is partial (see
  /// `Frame.completeChecksum`), its lengths are wrong, its options are malformed, or the MTU is below 68.
  ///
  /// `network` is the offset of the IPv4 header from the start of the packet, `mtu` the octets of the longest IP packet
  /// that the link takes.
  public init?(_ frame: Frame, network: Int, mtu: Int) {
    let octets = frame.octets
    guard frame.segmentation == .none, !frame.flags.contains(.checksumPartial), mtu >= FragmentPlan.minimumMTU,
      network >= 0, network <= octets.count, let header = IPv4Header(octets.dropping(network)), header.hasValidLength,
      !header.dontFragment, let copied = FragmentPlan.copiedOptions(header)
    else { return nil }
    self.frame = frame
    self.network = network
    headerLength = header.headerLength
    laterHeaderLength = 20 + (copied + 3) & ~3
    payloadLength = header.totalLength - headerLength
    field = header.fragmentField
    size = (mtu - headerLength) & ~7
    // Beyond 65535 the offset of the last fragment would not be a datagram's any more.
    guard header.fragmentOffset + payloadLength <= 65535 else { return nil }
    count = max(1, (payloadLength + size - 1) / size)
  }

  /// Makes the next fragments and returns their number: as many as batch and arena have room for.
  public mutating func emit(into batch: inout FrameBatch, arena: inout FrameArena) -> Int {
    let first = emitted
    while emitted < count, !batch.isFull {
      let offset = emitted * size
      let length = min(size, payloadLength - offset)
      let headers = network + (emitted == 0 ? headerLength : laterHeaderLength)
      guard let made = arena.frame(length: headers + length) else { break }
      fill(made.octets, headers: headers, offset: offset, length: length)
      var fragment = made
      fragment.timestamp = frame.timestamp
      fragment.port = frame.port
      fragment.vlanTPID = frame.vlanTPID
      fragment.vlanTCI = frame.vlanTCI
      fragment.flags = frame.flags.intersection(.vlanStripped)
      fragment.slot = frame.slot
      batch.append(fragment)
      emitted &+= 1
    }
    return emitted - first
  }

  private func fill(_ octets: Octets, headers: Int, offset: Int, length: Int) {
    let source = frame.octets
    let packet = source.dropping(network)
    octets.copy(from: source.prefix(network), to: 0)
    let header = octets.dropping(network)
    if emitted == 0 {
      header.copy(from: packet.prefix(headerLength), to: 0)
    } else {
      header.copy(from: packet.prefix(20), to: 0)
      header[0] = 0x40 | UInt8(truncatingIfNeeded: laterHeaderLength / 4)
      copyOptions(packet, to: header)
    }
    octets.copy(from: packet.dropping(headerLength + offset).prefix(length), to: headers)
    header[u16: 2] = UInt16(truncatingIfNeeded: header.count)
    // The last fragment of a fragment that was not the last one still has more behind it.
    let more: UInt16 = emitted < count - 1 ? 0x2000 : 0
    header[u16: 6] = (field + UInt16(truncatingIfNeeded: offset / 8)) | more
    IPv4Header(header)?.updateChecksum()
  }

  /// Copies the options that every fragment carries, and pads them with end-of-options.
  private func copyOptions(_ packet: Octets, to header: Octets) {
    header.fill(from: 20, count: laterHeaderLength - 20)
    var options = IPv4Options(packet.prefix(headerLength).dropping(20))
    var offset = 20
    while let option = options.next() {
      guard option.isCopied else { continue }
      header.copy(from: option.octets, to: offset)
      offset += option.octets.count
    }
  }

  /// The octets of the options that every fragment carries; nil where the options are malformed.
  private static func copiedOptions(_ header: IPv4Header) -> Int? {
    var options = header.options
    var length = 0
    while let option = options.next() {
      if option.isCopied { length += option.octets.count }
    }
    return options.isMalformed ? nil : length
  }
}
