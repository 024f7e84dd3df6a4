import Addresses
import Compiler
import Dataplane
import Model

/// Whether a packet came out as it should: read with the views, but decided apart from the pipeline.
package enum PipelineCheck {
  /// What is wrong with `output`, which `input` became; nil: nothing.
  package static func problem(_ bench: PipelineCase, _ input: [UInt8], _ output: [UInt8]) -> String? {
    var input = input
    var output = output
    return withOctets(&input) { sent in
      withOctets(&output) { received in
        switch bench.kind {
        case .arp: arp(received)
        case .reject: rejected(sent, received)
        case .send:
          bench.shape.tunnel.map { tunnelled(sent, received, $0, nil) }
            ?? passed(sent.dropping(14), received.dropping(14), nil) ?? link(received)
        case .service, .newFlow:
          bench.shape.tunnel.map { tunnelled(sent, received, $0, .toEndpoint(bench.shape)) }
            ?? passed(sent.dropping(14), received.dropping(14), .toEndpoint(bench.shape)) ?? link(received)
        case .receive:
          passed(inner(sent, bench.shape.tunnel), received.dropping(14), nil)
            ?? delivered(received, bench.isIPv6 ? .ipv6 : .ipv4)
        case .reply: passed(sent.dropping(14), received.dropping(14), .toClient) ?? delivered(received)
        }
      }
    }
  }

  /// How a packet's addresses should have been translated.
  private enum Translation {
    /// From the cluster IP of a service to one of its endpoints.
    case toEndpoint(BenchNode.Shape)
    /// From an endpoint back to the cluster IP that the pod called.
    case toClient

    func isRight(from before: IPv4Header, to after: IPv4Header) -> Bool {
      switch self {
      case .toEndpoint(let shape):
        let service = Int(before.destination.rawValue & 0xffff)
        return after.source == before.source
          && (0..<shape.endpoints).contains {
            after.destination == BenchNode.remote((service + $0) % shape.peers, $0)
          }
          && UDPHeader(after.payload)?.destinationPort == 5353
          && UDPHeader(after.payload)?.sourcePort == UDPHeader(before.payload)?.sourcePort
      case .toClient:
        return after.destination == before.destination && after.source.rawValue >> 16 == 10 << 8 | 96
          && UDPHeader(after.payload)?.sourcePort == 53
          && UDPHeader(after.payload)?.destinationPort == UDPHeader(before.payload)?.destinationPort
      }
    }
  }

  /// The packet in an Ethernet frame: that in the tunnel, where there is one.
  @_lifetime(copy frame)
  private static func inner(_ frame: Octets, _ tunnel: IPPool.Tunnel?) -> Octets {
    switch tunnel {
    case nil: frame.dropping(14)
    case .ipip: frame.dropping(34)
    case .gre: frame.dropping(38)
    case .vxlan, .geneve: frame.dropping(64)
    }
  }

  /// A packet in a tunnel to the node that has its destination: every field of the outer headers, then the packet.
  private static func tunnelled(
    _ sent: Octets, _ received: Octets, _ tunnel: IPPool.Tunnel, _ translation: Translation?
  ) -> String? {
    let packet = inner(received, tunnel)
    guard let outer = IPv4Header(received.dropping(14)), outer.isChecksumValid, outer.hasValidLength,
      outer.totalLength == received.count - 14, outer.source == BenchNode.nodeAddress, outer.timeToLive == 64,
      outer.octets[u16: 4] == 0, outer.octets[u16: 6] == 0x4000,
      outer.typeOfService == sent[15]
    else { return "a wrong outer header" }
    guard let header = IPv4Header(packet) else { return "no inner packet" }
    let peer = Int(header.destination.rawValue >> 8 & 0xffff)
    guard outer.destination == BenchNode.peerAddress(peer) else { return "sent to another node" }
    let payload = outer.payload
    switch tunnel {
    case .ipip: guard outer.protocol == .ipv4 else { return "not IPIP" }
    case .gre: guard outer.protocol == .gre, payload[u32: 0] == 0x0800 else { return "not GRE" }
    case .vxlan, .geneve:
      let shim: UInt64 = tunnel == .vxlan ? 0x0800_0000_0010_0000 : 0x0000_6558_0010_0000
      let port = tunnel == .vxlan ? VXLANHeader.port : GeneveHeader.port
      guard outer.protocol == .udp, payload[u16: 0] >= 49_152, payload[u16: 2] == port,
        payload[u16: 4] == UInt16(payload.count), payload[u16: 6] == 0, payload[u64: 8] == shim
      else { return "wrong headers of the tunnel" }
      guard payload[mac: 16] == MACAddress(derivedFrom: "n\(peer)"),
        payload[mac: 22] == MACAddress(derivedFrom: "bench"), payload[u16: 28] == 0x0800
      else { return "a wrong inner Ethernet header" }
    }
    return passed(sent.dropping(14), packet, translation) ?? link(received, 0x0800, peer)
  }

  /// The Ethernet header of what leaves by the underlay without a tunnel: to the node that has the destination.
  private static func link(_ received: Octets) -> String? {
    let packet = received.dropping(14)
    if let header = IPv6Header(packet) { return link(received, 0x86dd, Int(header.destination.high & 0xffff) - 1) }
    guard let header = IPv4Header(packet) else { return "no packet" }
    return link(received, 0x0800, Int(header.destination.rawValue >> 8 & 0xffff))
  }

  private static func link(_ received: Octets, _ type: UInt16, _ peer: Int) -> String? {
    guard received[mac: 0] == MACAddress(derivedFrom: "n\(peer)"), received[mac: 6] == BenchNode.underlayMAC,
      received[u16: 12] == type
    else { return "a wrong Ethernet header" }
    return nil
  }

  /// The Ethernet header of what the pod gets.
  private static func delivered(_ received: Octets, _ type: EtherType = .ipv4) -> String? {
    guard received[mac: 0] == BenchNode.podMAC, received[mac: 6] == PodAttachment.hostMAC,
      received[u16: 12] == type.rawValue
    else { return "a wrong Ethernet header" }
    return nil
  }

  /// A packet that a router passed on: one hop less, right checksums, the same payload; translated or not.
  private static func passed(_ sent: Octets, _ received: Octets, _ translation: Translation?) -> String? {
    if let before = IPv6Header(sent) {
      guard let after = IPv6Header(received), after.hopLimit == before.hopLimit - 1, after.source == before.source,
        after.destination == before.destination, received.count == sent.count,
        received.prefix(7).isEqual(to: sent.prefix(7)),
        received.dropping(40).isEqual(to: sent.dropping(40))
      else { return "a wrong IPv6 packet" }
      return nil
    }
    guard let before = IPv4Header(sent), let after = IPv4Header(received), after.isChecksumValid,
      after.timeToLive == before.timeToLive - 1, after.totalLength == before.totalLength,
      after.octets.count == before.totalLength
    else { return "a wrong IPv4 header" }
    if let translation {
      guard translation.isRight(from: before, to: after) else { return "wrongly translated" }
    } else {
      guard after.source == before.source, after.destination == before.destination,
        after.payload.isEqual(to: before.payload)
      else { return "other addresses, ports or payload" }
    }
    guard let udp = UDPHeader(after.payload), udp.checksum != 0,
      udp.isChecksumValid(after.pseudoHeader(length: after.payload.count)),
      udp.payload.isEqual(to: before.payload.dropping(8))
    else { return "a wrong UDP datagram" }
    return nil
  }

  private static func arp(_ received: Octets) -> String? {
    guard let arp = ARPPacket(received.dropping(14)), arp.operation == .reply,
      arp.senderHardwareAddress == PodAttachment.hostMAC, arp.senderProtocolAddress == PodAttachment.gateway4,
      arp.targetHardwareAddress == BenchNode.podMAC, arp.targetProtocolAddress == BenchNode.podAddress,
      received[mac: 0] == BenchNode.podMAC, received[mac: 6] == PodAttachment.hostMAC, received[u16: 12] == 0x0806
    else { return "a wrong ARP reply" }
    return nil
  }

  /// A port unreachable about the packet, to its sender.
  private static func rejected(_ sent: Octets, _ received: Octets) -> String? {
    guard let header = IPv4Header(received.dropping(14)), header.isChecksumValid, header.protocol == .icmp,
      let icmp = ICMPv4Header(header.payload), icmp.isChecksumValid, icmp.type == .destinationUnreachable,
      icmp.code == ICMPv4Header.Unreachable.port, header.destination == BenchNode.podAddress,
      header.payload.count > 8,
      sent.dropping(14).prefix(header.payload.count - 8).isEqual(to: header.payload.dropping(8))
    else { return "no port unreachable" }
    return delivered(received)
  }
}
