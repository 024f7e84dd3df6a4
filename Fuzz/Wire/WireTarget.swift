import Addresses
import Dataplane
import FuzzEntry

/// Every view of the wire room over arbitrary octets. The first octet says where to begin; what a view finds inside is
/// read on, as the pipeline does. What is written must be found again.
final class WireTarget: FuzzTarget {
  private var arena = FrameArena(capacity: 1 << 17)
  /// Keeps the optimiser from leaving out what only reads.
  private(set) var sum: UInt64 = 0

  func run(_ input: UnsafeRawBufferPointer) {
    guard input.count > 1, input.count < 65_536 else { return }
    arena.reset()
    // At the very end of its memory an overrun is found by the checks of `Octets` alone, which is what they are for.
    guard let frame = arena.frame(length: input.count - 1) else { return }
    let octets = frame.octets
    for offset in 1..<input.count { unsafe octets[offset - 1] = input[offset] }
    switch unsafe input[0] % 14 {
    case 0: ethernet(octets)
    case 1: network(octets)
    case 2: arp(octets)
    case 3: tcp(octets)
    case 4: sctp(octets)
    case 5: neighbor(octets)
    case 6: gre(octets)
    case 7: geneve(octets)
    case 8: vxlan(octets)
    case 9: icmp(octets)
    case 10: layout(octets)
    case 11: fragment(frame)
    case 12: arithmetic(octets)
    default: udp(octets)
    }
  }

  private func see(_ value: some BinaryInteger) { sum = sum &* 31 &+ UInt64(truncatingIfNeeded: value) }

  private func ethernet(_ octets: Octets) {
    guard let header = EthernetHeader(octets) else { return }
    see(header.destination.rawValue)
    for tag in 0..<header.tagCount { see(header.tag(tag).identifier) }
    let payload = header.payload
    switch header.etherType {
    case .arp: arp(payload)
    case .ipv4, .ipv6: network(payload)
    default: see(payload.count)
    }
  }

  private func network(_ octets: Octets) {
    if let header = IPv4Header(octets) {
      see(header.payload.count)
      see(header.totalLength)
      var options = header.options
      while let option = options.next() {
        precondition(option.octets.count >= 2)
        see(option.type)
      }
      let wasValid = header.isChecksumValid
      if header.timeToLive > 0 { header.decrementTimeToLive() }
      header.rewriteTypeOfService(header.typeOfService ^ 3)
      precondition(header.isChecksumValid == wasValid, "an update must neither mend nor break a checksum")
      header.updateChecksum()
      precondition(header.isChecksumValid)
      transport(header.protocol, header.payload)
    } else if let header = IPv6Header(octets) {
      let upper = header.upperLayer
      guard upper.outcome == .found else { return }
      precondition(upper.offset >= 40 && upper.offset <= octets.count)
      transport(upper.protocol, octets.dropping(upper.offset))
    }
  }

  private func transport(_ number: IPProtocol, _ octets: Octets) {
    switch number {
    case .tcp: tcp(octets)
    case .udp: udp(octets)
    case .sctp: sctp(octets)
    case .icmp, .icmpv6: icmp(octets)
    case .gre: gre(octets)
    default: see(octets.count)
    }
  }

  private func arp(_ octets: Octets) {
    guard let arp = ARPPacket(octets) else { return }
    see(arp.senderHardwareAddress.rawValue)
    see(arp.targetProtocolAddress.rawValue)
    see(arp.isProbe ? 1 : 0)
    see(arp.isAnnouncement ? 1 : 0)
  }

  private func tcp(_ octets: Octets) {
    guard let header = TCPHeader(octets) else { return }
    var options = header.options
    while let option = options.next() { see(option.octets.count) }
    see(header.payload.count)
    let pseudoHeader = InternetChecksum(
      pseudoHeaderOf: IPv4Address(rawValue: 1), IPv4Address(rawValue: 2), protocol: .tcp, length: octets.count)
    header.updateChecksum(pseudoHeader)
    precondition(header.isChecksumValid(pseudoHeader))
  }

  private func udp(_ octets: Octets) {
    guard let header = UDPHeader(octets), header.hasValidLength else { return }
    let payload = header.payload
    switch header.destinationPort {
    case VXLANHeader.port: vxlan(payload)
    case GeneveHeader.port: geneve(payload)
    default: see(payload.count)
    }
  }

  private func sctp(_ octets: Octets) {
    guard let header = SCTPHeader(octets) else { return }
    var chunks = header.chunks
    while let chunk = chunks.next() { see(chunk.octets.count) }
    header.updateChecksum()
    precondition(header.isChecksumValid)
  }

  private func neighbor(_ octets: Octets) {
    guard let message = NeighborMessage(octets) else { return }
    see(message.targetAddress.low)
    var options = message.options
    while let option = options.next() { see(option.sourceLinkAddress?.rawValue ?? 0) }
    see(options.isMalformed ? 1 : 0)
  }

  private func gre(_ octets: Octets) {
    guard let header = GREHeader(octets) else { return }
    see(header.key ?? 0)
    see(header.sequenceNumberOffset ?? 0)
    if !header.isChecksumValid {
      header.updateChecksum()
      precondition(header.isChecksumValid)
    }
    let payload = octets.dropping(header.headerLength)
    header.protocolType == .ethernet ? ethernet(payload) : network(payload)
  }

  private func geneve(_ octets: Octets) {
    guard let header = GeneveHeader(octets) else { return }
    see(header.hasCriticalOptions ? 1 : 0)
    var options = header.options
    while let option = options.next() { see(option.octets.count) }
    ethernet(octets.dropping(header.headerLength))
  }

  private func vxlan(_ octets: Octets) {
    guard let header = VXLANHeader(octets) else { return }
    see(header.identifier)
    ethernet(header.payload)
  }

  private func icmp(_ octets: Octets) {
    if let header = ICMPv4Header(octets) {
      see(header.nextHopMTU)
      header.updateChecksum()
      precondition(header.isChecksumValid)
    }
    if let header = ICMPv6Header(octets) {
      see(header.mtu)
      if header.type.isNeighborDiscovery { neighbor(octets) }
    }
  }

  private func layout(_ octets: Octets) {
    guard let layout = HeaderLayout(octets, network: 0) else { return }
    precondition(layout.network <= layout.transport && layout.transport <= layout.payload)
    precondition(layout.payload <= octets.count)
  }

  /// A packet is cut, and the pieces together are as long as it was.
  private func fragment(_ frame: Frame) {
    guard frame.octets.count > 40, let header = IPv4Header(frame.octets) else { return }
    let payload = header.payload.count
    let mtu = 68 + Int(frame.octets[1])
    guard var plan = FragmentPlan(frame, network: 0, mtu: mtu) else { return }
    var batch = FrameBatch(capacity: 64)
    var total = 0
    for _ in 0..<4096 where !plan.isComplete {
      batch.removeAll()
      var scratch = FrameArena(capacity: 1 << 16)
      guard plan.emit(into: &batch, arena: &scratch) > 0 else { break }
      for index in 0..<batch.count {
        let piece = batch[index]
        guard let part = IPv4Header(piece.octets) else { preconditionFailure("a fragment without a header") }
        precondition(piece.octets.count <= mtu && part.isChecksumValid && part.totalLength == piece.octets.count)
        total += part.payload.count
      }
    }
    precondition(!plan.isComplete || total == payload)
  }

  /// Sums over parts are sums over the whole, whatever the cut.
  private func arithmetic(_ octets: Octets) {
    guard octets.count > 4 else { return }
    let cut = Int(octets[0]) % octets.count & ~1
    var whole = InternetChecksum()
    whole.add(octets)
    var parts = InternetChecksum()
    parts.add(octets.prefix(cut))
    parts.add(octets.dropping(cut))
    precondition(whole.folded == parts.folded || whole.folded &+ parts.folded == 0xffff)
    precondition(
      octets.crc32c(continuing: .max)
        == octets.dropping(cut).crc32c(continuing: octets.prefix(cut).crc32c(continuing: .max)))
  }
}
