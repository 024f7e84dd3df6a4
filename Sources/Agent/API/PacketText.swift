import Addresses
import Dataplane

/// A packet in one line, much as tcpdump(8) shows it.
enum PacketText {
  /// The reasons that are found before the link-layer header is off.
  private static let linkLayerReasons: Set<DropReason> = [
    .truncatedFrame, .badEthernet, .badARP, .notOurMAC, .unknownVLAN, .unknownEtherType, .sourceMAC, .arpIgnored,
  ]

  static func line(_ sample: DropSample) -> String {
    var octets = sample.octets
    let isWithLink = linkLayerReasons.contains(sample.reason) || !looksLikeNetworkLayer(octets)
    return withOctets(&octets) { isWithLink ? ethernet($0) : network($0) }
  }

  /// An ARP packet that was refused for its sender still has its link-layer header.
  private static func looksLikeNetworkLayer(_ octets: [UInt8]) -> Bool {
    guard let first = octets.first else { return false }
    return first >> 4 == 4 || first >> 4 == 6
  }

  private static func ethernet(_ octets: Octets) -> String {
    guard let header = EthernetHeader(octets) else { return "\(octets.count) octets" }
    let addresses = "\(header.source) > \(header.destination)"
    let payload = octets.dropping(min(header.headerLength, octets.count))
    switch header.etherType {
    case .ipv4, .ipv6: return "\(addresses): \(network(payload))"
    case .arp:
      guard let arp = ARPPacket(payload) else { return "\(addresses): ARP" }
      let isRequest = arp.operation == .request
      return isRequest
        ? "\(addresses): ARP who has \(arp.targetProtocolAddress), tell \(arp.senderProtocolAddress)"
        : "\(addresses): ARP \(arp.senderProtocolAddress) is at \(arp.senderHardwareAddress)"
    default: return "\(addresses): type 0x\(String(header.etherType.rawValue, radix: 16))"
    }
  }

  private static func network(_ octets: Octets) -> String {
    guard octets.count > 0 else { return "nothing" }
    if octets[0] >> 4 == 6 {
      guard let header = IPv6Header(octets) else { return "IPv6, cut short" }
      let upper = header.upperLayer
      let text = "IPv6 \(header.source)"
      guard upper.outcome == .found, upper.offset <= octets.count else { return "\(text) > \(header.destination)" }
      return transport(
        "IPv6", "\(header.source)", "\(header.destination)", upper.protocol, octets.dropping(upper.offset),
        isLater: upper.isLaterFragment) + ", hlim \(header.hopLimit), length \(header.payloadLength + 40)"
    }
    guard octets.count >= 20 else { return "IPv4, cut short" }
    guard let header = IPv4Header(octets) else { return "IPv4 with a bad header" }
    let length = Int(octets[u16: 2])
    return transport(
      "IP", "\(header.source)", "\(header.destination)", header.protocol, octets.dropping(header.headerLength),
      isLater: header.isLaterFragment) + ", ttl \(header.timeToLive), length \(length)"
  }

  private static func transport(
    _ family: String, _ source: String, _ destination: String, _ number: IPProtocol, _ octets: Octets, isLater: Bool
  ) -> String {
    if isLater { return "\(family) \(source) > \(destination): \(number.label) fragment" }
    switch number {
    case .tcp, .udp, .sctp:
      guard octets.count >= 4 else { break }
      let ends = "\(family) \(source).\(octets[u16: 0]) > \(destination).\(octets[u16: 2])"
      return number == .tcp && octets.count >= 14 ? "\(ends): tcp [\(flags(octets[13]))]" : "\(ends): \(number.label)"
    case .icmp, .icmpv6:
      guard octets.count >= 2 else { break }
      return "\(family) \(source) > \(destination): \(number.label) type \(octets[0]) code \(octets[1])"
    default: break
    }
    return "\(family) \(source) > \(destination): \(number.label)"
  }

  /// `S.` for SYN and ACK, as tcpdump writes it.
  private static func flags(_ octet: UInt8) -> String {
    let names: [(UInt8, String)] = [(2, "S"), (1, "F"), (4, "R"), (8, "P"), (32, "U"), (16, ".")]
    return names.filter { octet & $0.0 != 0 }.map(\.1).joined()
  }
}
