import Addresses
import Dataplane

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
}
