import Addresses
import Compiler
import Dataplane
import Model

/// Whether a packet came out as it should: read with the views, but decided apart from the pipeline.
enum PipelineCheck {
  /// What is wrong with `output`, which `input` became; nil: nothing.
  static func problem(_ bench: PipelineCase, _ input: [UInt8], _ output: [UInt8]) -> String? {
    var input = input
    var output = output
    return withOctets(&input) { sent in
      withOctets(&output) { received in
        switch bench.kind {
        case .arp: arp(received)
        case .reject: rejected(received)
        case .send:
          bench.shape.tunnel.map { tunnelled(sent, received, $0, isTranslated: false) }
            ?? passed(sent.dropping(14), received.dropping(14), isTranslated: false)
        case .service, .newFlow:
          bench.shape.tunnel.map { tunnelled(sent, received, $0, isTranslated: true) }
            ?? passed(sent.dropping(14), received.dropping(14), isTranslated: true)
        case .receive: passed(inner(sent, bench.shape.tunnel ?? .vxlan), received.dropping(14), isTranslated: false)
        case .reply: passed(sent.dropping(14), received.dropping(14), isTranslated: true)
        }
      }
    }
  }

  /// The inner packet of a tunnel packet in an Ethernet frame.
  @_lifetime(copy frame)
  private static func inner(_ frame: Octets, _ tunnel: IPPool.Tunnel) -> Octets {
    switch tunnel {
    case .ipip: frame.dropping(34)
    case .gre: frame.dropping(38)
    case .vxlan, .geneve: frame.dropping(64)
    }
  }

  private static func tunnelled(
    _ sent: Octets, _ received: Octets, _ tunnel: IPPool.Tunnel, isTranslated: Bool
  ) -> String? {
    guard let outer = IPv4Header(received.dropping(14)), outer.isChecksumValid, outer.hasValidLength,
      outer.totalLength == received.count - 14, outer.source == BenchNode.nodeAddress
    else { return "a wrong outer header" }
    return passed(sent.dropping(14), inner(received, tunnel), isTranslated: isTranslated)
  }

  /// A packet that a router passed on: one hop less, right checksums, the same payload; translated or not.
  private static func passed(_ sent: Octets, _ received: Octets, isTranslated: Bool) -> String? {
    if let before = IPv6Header(sent) {
      guard let after = IPv6Header(received), after.hopLimit == before.hopLimit - 1, after.source == before.source,
        after.destination == before.destination, received.count == sent.count,
        received.dropping(40).isEqual(to: sent.dropping(40))
      else { return "a wrong IPv6 packet" }
      return nil
    }
    guard let before = IPv4Header(sent), let after = IPv4Header(received), after.isChecksumValid,
      after.timeToLive == before.timeToLive - 1, after.totalLength == before.totalLength
    else { return "a wrong IPv4 header" }
    let isSame = after.source == before.source && after.destination == before.destination
    guard isSame != isTranslated else { return isTranslated ? "not translated" : "other addresses" }
    guard let udp = UDPHeader(after.payload), udp.isChecksumValid(after.pseudoHeader(length: after.payload.count)),
      udp.payload.isEqual(to: before.payload.dropping(8))
    else { return "a wrong UDP datagram" }
    return nil
  }

  private static func arp(_ received: Octets) -> String? {
    guard let arp = ARPPacket(received.dropping(14)), arp.operation == .reply,
      arp.senderHardwareAddress == PodAttachment.hostMAC, arp.senderProtocolAddress == PodAttachment.gateway4,
      arp.targetProtocolAddress == BenchNode.podAddress
    else { return "a wrong ARP reply" }
    return nil
  }

  private static func rejected(_ received: Octets) -> String? {
    guard let header = IPv4Header(received.dropping(14)), header.isChecksumValid, header.protocol == .icmp,
      let icmp = ICMPv4Header(header.payload), icmp.isChecksumValid, icmp.type == .destinationUnreachable,
      icmp.code == ICMPv4Header.Unreachable.port
    else { return "no port unreachable" }
    return nil
  }
}
