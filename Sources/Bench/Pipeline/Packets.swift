import Addresses
import Compiler
import Dataplane
import Model

/// Makes packets for benchmarks.
enum Packets {
  /// A UDP packet from pod to pod in an Ethernet frame of `size` octets.
  static func udp(
    _ source: IPAddress, _ destination: IPAddress, ports: (UInt16, UInt16), size: Int, sourceMAC: MACAddress,
    destinationMAC: MACAddress
  ) -> [UInt8] {
    let isIPv6 = source.family == .ipv6
    let network = isIPv6 ? 40 : 20
    var bytes = [UInt8](repeating: 0, count: max(size, 14 + network + 8))
    let length = bytes.count - 14
    withOctets(&bytes) { octets in
      EthernetHeader.write(
        to: octets, destination: destinationMAC, source: sourceMAC, etherType: isIPv6 ? .ipv6 : .ipv4)
      let packet = octets.dropping(14)
      let transport = packet.dropping(network)
      for offset in 8..<max(8, transport.count) { transport[offset] = UInt8(truncatingIfNeeded: offset) }
      UDPHeader.write(
        to: transport, sourcePort: ports.0, destinationPort: ports.1, length: length - network)
      switch (source, destination) {
      case (.v4(let a), .v4(let b)):
        IPv4Header.write(to: packet, totalLength: length, dontFragment: true, protocol: .udp, source: a, destination: b)
        if let header = IPv4Header(packet) {
          UDPHeader(transport)?.updateChecksum(header.pseudoHeader(length: length - network))
        }
      case (.v6(let a), .v6(let b)):
        IPv6Header.write(to: packet, payloadLength: length - 40, nextHeader: .udp, source: a, destination: b)
        if let header = IPv6Header(packet) {
          UDPHeader(transport)?.updateChecksum(header.pseudoHeader(.udp, length: length - network))
        }
      default: preconditionFailure("addresses of two families")
      }
    }
    return bytes
  }

  /// A pod's question for its gateway.
  static func arpRequest(from node: BenchNode) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 60)
    withOctets(&bytes) { octets in
      EthernetHeader.write(to: octets, destination: .broadcast, source: node.podMAC, etherType: .arp)
      ARPPacket.write(
        to: octets.dropping(EthernetHeader.length), operation: .request, senderHardwareAddress: node.podMAC,
        senderProtocolAddress: BenchNode.podAddress, targetHardwareAddress: .zero,
        targetProtocolAddress: PodAttachment.gateway4)
    }
    return bytes
  }

  /// The packet of an Ethernet frame in a tunnel from a peer to the node, as a kernel would wrap it.
  static func encapsulated(_ frame: [UInt8], _ tunnel: IPPool.Tunnel, from peer: Int) -> [UInt8] {
    let inner = Array(frame[EthernetHeader.length...])
    var bytes = [UInt8](repeating: 0, count: EthernetHeader.length + 20)
    let transport: IPProtocol
    switch tunnel {
    case .ipip:
      transport = .ipv4
      bytes += inner
    case .gre:
      transport = .gre
      bytes += [0, 0, 8, 0] + inner
    case .vxlan, .geneve:
      transport = .udp
      let shim: [UInt8] = tunnel == .vxlan ? [8, 0, 0, 0, 0, 16, 0, 0] : [0, 0, 0x65, 0x58, 0, 16, 0, 0]
      var ethernet = [UInt8](repeating: 0, count: EthernetHeader.length)
      withOctets(&ethernet) {
        EthernetHeader.write(
          to: $0, destination: MACAddress(derivedFrom: "bench"), source: MACAddress(derivedFrom: "n\(peer)"),
          etherType: .ipv4)
      }
      bytes += [UInt8](repeating: 0, count: 8) + shim + ethernet + inner
    }
    let length = bytes.count - EthernetHeader.length
    withOctets(&bytes) { octets in
      EthernetHeader.write(
        to: octets, destination: BenchNode.underlayMAC, source: MACAddress(derivedFrom: "n\(peer)"), etherType: .ipv4)
      let network = octets.dropping(EthernetHeader.length)
      IPv4Header.write(
        to: network, totalLength: length, dontFragment: true, protocol: transport, source: BenchNode.peerAddress(peer),
        destination: BenchNode.nodeAddress)
      if transport == .udp {
        UDPHeader.write(
          to: network.dropping(20), sourcePort: UInt16(49_152 + peer % 16_000),
          destinationPort: tunnel == .vxlan ? VXLANHeader.port : GeneveHeader.port, length: length - 20)
      }
    }
    return bytes
  }

  /// The answer of whoever receives a frame on the underlay: addresses and ports the other way round.
  static func answer(to frame: [UInt8]) -> [UInt8] {
    var bytes = frame
    withOctets(&bytes) { octets in
      octets[mac: 0] = BenchNode.underlayMAC
      octets[mac: 6] = MACAddress(rawValue: 0x02_00_00_00_00_02)
      guard let header = IPv4Header(octets.dropping(14)), let udp = UDPHeader(header.payload) else { return }
      (header.source, header.destination) = (header.destination, header.source)
      header.timeToLive = 64
      header.updateChecksum()
      (udp.sourcePort, udp.destinationPort) = (udp.destinationPort, udp.sourcePort)
    }
    return bytes
  }
}
