import Addresses
import Dataplane

/// The first packet of a flow, made up.
struct ProbePacket {
  var source: IPAddress
  /// Of the same family as `source`.
  var destination: IPAddress
  var transport: IPProtocol
  var sourcePort: UInt16
  var destinationPort: UInt16
  /// The octets of the IP packet; nil: as few as there can be.
  var size: Int?

  private var headerLength: Int { source.family == .ipv4 ? IPv4Header.length : IPv6Header.length }

  private var transportLength: Int {
    switch transport {
    case .tcp: 20
    // Common header and an INIT chunk.
    case .sctp: 32
    default: 8
    }
  }

  /// The least size that a probe can have.
  var leastSize: Int { headerLength + transportLength }

  /// The frame: Ethernet header and packet, checksums right.
  func frame(destination mac: MACAddress, source sourceMAC: MACAddress, timeToLive: UInt8 = 64) -> [UInt8] {
    let total = max(size ?? 0, leastSize)
    var octets = [UInt8](repeating: 0, count: EthernetHeader.length + total)
    withOctets(&octets) { octets in
      EthernetHeader.write(
        to: octets, destination: mac, source: sourceMAC, etherType: source.family == .ipv4 ? .ipv4 : .ipv6)
      let network = octets.dropping(EthernetHeader.length)
      let segment = network.dropping(headerLength)
      var pseudoHeader = InternetChecksum()
      switch (source, destination) {
      case (.v4(let source), .v4(let destination)):
        IPv4Header.write(
          to: network, totalLength: total, dontFragment: size != nil, timeToLive: timeToLive, protocol: transport,
          source: source, destination: destination)
        pseudoHeader = InternetChecksum(
          pseudoHeaderOf: source, destination, protocol: transport, length: segment.count)
      case (.v6(let source), .v6(let destination)):
        IPv6Header.write(
          to: network, payloadLength: total - IPv6Header.length, nextHeader: transport, hopLimit: timeToLive,
          source: source, destination: destination)
        pseudoHeader = InternetChecksum(
          pseudoHeaderOf: source, destination, protocol: transport, length: segment.count)
      default: preconditionFailure("a packet of two families")
      }
      writeTransport(to: segment, pseudoHeader)
    }
    return octets
  }

  private func writeTransport(to segment: Octets, _ pseudoHeader: InternetChecksum) {
    switch transport {
    case .tcp:
      TCPHeader.write(
        to: segment, sourcePort: sourcePort, destinationPort: destinationPort, sequenceNumber: 1,
        acknowledgmentNumber: 0, flags: .syn, window: 64_240)
      TCPHeader(segment)?.updateChecksum(pseudoHeader)
    case .udp:
      UDPHeader.write(
        to: segment, sourcePort: sourcePort, destinationPort: destinationPort, length: segment.count)
      UDPHeader(segment)?.updateChecksum(pseudoHeader)
    case .sctp:
      SCTPHeader.write(
        to: segment, sourcePort: sourcePort, destinationPort: destinationPort, verificationTag: 0)
      // INIT: one stream each way (RFC 9260, section 3.3.2).
      segment[u32: 12] = 0x0100_0000 | UInt32(truncatingIfNeeded: segment.count - 12)
      segment[u32: 16] = 1
      segment[u32: 20] = 65_536
      segment[u32: 24] = 0x0001_0001
      segment[u32: 28] = 1
      SCTPHeader(segment)?.updateChecksum()
    case .icmp:
      ICMPv4Header.write(to: segment, type: .echoRequest, code: 0, rest: UInt32(sourcePort) << 16 | 1)
      ICMPv4Header(segment)?.updateChecksum()
    default:
      ICMPv6Header.write(to: segment, type: .echoRequest, code: 0, rest: UInt32(sourcePort) << 16 | 1)
      ICMPv6Header(segment)?.updateChecksum(pseudoHeader)
    }
  }
}
