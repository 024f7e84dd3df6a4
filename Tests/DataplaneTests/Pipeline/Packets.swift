import Addresses
import Ports

@testable import Dataplane

// Packets built the plain way, apart from the code that is tested, and a judge of what comes out.

extension IPAddress {
  var octets: [UInt8] {
    switch self {
    case .v4(let a): (0..<4).map { UInt8(truncatingIfNeeded: a.rawValue >> (24 - 8 * UInt32($0))) }
    case .v6(let a):
      (0..<16).map { UInt8(truncatingIfNeeded: ($0 < 8 ? a.high : a.low) >> (56 - 8 * UInt64($0 % 8))) }
    }
  }
}

extension MACAddress {
  var octets: [UInt8] { (0..<6).map { UInt8(truncatingIfNeeded: rawValue >> (40 - 8 * UInt64($0))) } }
}

func u16(_ value: Int) -> [UInt8] { [UInt8(value >> 8 & 0xff), UInt8(value & 0xff)] }
func u32(_ value: Int) -> [UInt8] { u16(value >> 16) + u16(value) }
func u16(_ octets: [UInt8], _ offset: Int) -> Int { Int(octets[offset]) << 8 | Int(octets[offset + 1]) }
func u32(_ octets: [UInt8], _ offset: Int) -> Int { u16(octets, offset) << 16 | u16(octets, offset + 2) }

func ethernet(to: MACAddress, from: MACAddress, _ type: Int, _ payload: [UInt8]) -> [UInt8] {
  to.octets + from.octets + u16(type) + payload
}

/// What may be odd about an IP packet.
struct IPFields {
  var tos = 0
  var ttl = 64
  var identification = 0
  var dontFragment = false
  var more = false
  /// In octets.
  var offset = 0
  /// IPv4 options, a multiple of four octets.
  var options: [UInt8] = []
}

func ip(
  _ source: IPAddress, _ destination: IPAddress, _ number: Int, _ payload: [UInt8], with fields: IPFields = IPFields()
) -> [UInt8] {
  if case .v6 = source {
    var payload = payload
    var number = number
    if fields.more || fields.offset > 0 {
      payload = [UInt8(number), 0] + u16(fields.offset | (fields.more ? 1 : 0)) + u32(fields.identification) + payload
      number = 44
    }
    return u32(6 << 28 | fields.tos << 20) + u16(payload.count) + [UInt8(number), UInt8(fields.ttl)] + source.octets
      + destination.octets + payload
  }
  let flags = fields.offset / 8 | (fields.dontFragment ? 0x4000 : 0) | (fields.more ? 0x2000 : 0)
  let header = 20 + fields.options.count
  var packet = [UInt8(0x40 | header / 4), UInt8(fields.tos)] + u16(header + payload.count)
  packet += u16(fields.identification) + u16(flags) + [UInt8(fields.ttl), UInt8(number), 0, 0]
  packet += source.octets + destination.octets + fields.options
  packet.replaceSubrange(10..<12, with: u16(Int(slowChecksum(packet))))
  return packet + payload
}

/// The pseudo header of a transport.
func pseudo(_ source: IPAddress, _ destination: IPAddress, _ number: Int, _ length: Int) -> [UInt8] {
  if case .v4 = source { return source.octets + destination.octets + [0, UInt8(number)] + u16(length) }
  return source.octets + destination.octets + u32(length) + [0, 0, 0, UInt8(number)]
}

func udp(
  _ source: IPAddress, _ destination: IPAddress, from: Int = 1000, to: Int = 2000,
  _ payload: [UInt8] = Array("ok".utf8),
  checksum: Bool = true, with fields: IPFields = IPFields()
) -> [UInt8] {
  var datagram = u16(from) + u16(to) + u16(8 + payload.count) + [0, 0] + payload
  if checksum {
    let sum = slowChecksum(pseudo(source, destination, 17, datagram.count), datagram)
    datagram.replaceSubrange(6..<8, with: u16(sum == 0 ? 0xffff : Int(sum)))
  }
  return ip(source, destination, 17, datagram, with: fields)
}

enum Flag { static let fin = 1, syn = 2, rst = 4, psh = 8, ack = 16, cwr = 128 }

func tcp(
  _ source: IPAddress, _ destination: IPAddress, from: Int = 1000, to: Int = 80, _ flags: Int = Flag.ack,
  sequence: Int = 1, _ payload: [UInt8] = [], with fields: IPFields = IPFields()
) -> [UInt8] {
  var segment =
    u16(from) + u16(to) + u32(sequence) + u32(1) + [0x50, UInt8(flags)] + u16(8192) + [0, 0, 0, 0] + payload
  segment.replaceSubrange(
    16..<18, with: u16(Int(slowChecksum(pseudo(source, destination, 6, segment.count), segment))))
  return ip(source, destination, 6, segment, with: fields)
}

/// An ICMP message of the family of the addresses; `rest` is the second word.
func icmp(
  _ source: IPAddress, _ destination: IPAddress, _ type: Int, _ code: Int = 0, rest: Int = 0, _ payload: [UInt8] = [],
  with fields: IPFields = IPFields()
) -> [UInt8] {
  var message = [UInt8(type), UInt8(code), 0, 0] + u32(rest) + payload
  let isIPv6 = source.family == .ipv6
  let sum = isIPv6 ? slowChecksum(pseudo(source, destination, 58, message.count), message) : slowChecksum(message)
  message.replaceSubrange(2..<4, with: u16(Int(sum)))
  return ip(source, destination, isIPv6 ? 58 : 1, message, with: fields)
}

extension Bench {
  /// The frame in which pod 10 or 11 sends a packet.
  func fromPod(_ packet: [UInt8], _ pod: Int = 10) -> [UInt8] {
    ethernet(
      to: Bench.gatewayMAC, from: Bench.podMAC(own, pod), packet.first.map { $0 >> 4 == 6 } == true ? 0x86dd : 0x800,
      packet)
  }

  /// The frame in which the other node sends a packet.
  func fromNode(_ packet: [UInt8]) -> [UInt8] {
    ethernet(
      to: Bench.underlayMAC(own), from: Bench.underlayMAC(other), packet[0] >> 4 == 6 ? 0x86dd : 0x800, packet)
  }

  /// The frame in which the host sends a packet.
  func fromHost(_ packet: [UInt8]) -> [UInt8] {
    ethernet(
      to: MACAddress("02:00:00:00:00:fe")!, from: MACAddress("02:00:00:00:00:ff")!,
      packet[0] >> 4 == 6 ? 0x86dd : 0x800, packet)
  }

  /// The frame in which a packet reaches pod 10 or 11.
  func toPod(_ packet: [UInt8], _ pod: Int = 10) -> [UInt8] {
    ethernet(to: Bench.podMAC(own, pod), from: Bench.gatewayMAC, packet[0] >> 4 == 6 ? 0x86dd : 0x800, packet)
  }

  /// The frame in which a packet reaches the other node.
  func toNode(_ packet: [UInt8]) -> [UInt8] {
    ethernet(
      to: Bench.underlayMAC(other), from: Bench.underlayMAC(own), packet[0] >> 4 == 6 ? 0x86dd : 0x800, packet)
  }

  func pod(_ number: Int, _ family: IPFamily = .ipv4) -> IPAddress {
    family == .ipv4 ? Bench.pod4(own, number) : Bench.pod6(own, number)
  }

  func remote(_ number: Int, _ family: IPFamily = .ipv4) -> IPAddress {
    family == .ipv4 ? Bench.pod4(other, number) : Bench.pod6(other, number)
  }
}

/// A packet as a router passes it on: time to live one less.
func hopped(_ packet: [UInt8]) -> [UInt8] {
  var packet = packet
  if packet[0] >> 4 == 6 {
    packet[7] -= 1
  } else {
    packet[8] -= 1
    rechecksum(&packet)
  }
  return packet
}

/// Computes the checksum of the IPv4 header that `packet` starts with.
func rechecksum(_ packet: inout [UInt8]) {
  let length = Int(packet[0] & 15) * 4
  packet.replaceSubrange(10..<12, with: [0, 0])
  let sum = slowChecksum(Array(packet[..<length]))
  packet.replaceSubrange(10..<12, with: u16(Int(sum)))
}

// MARK: The judge

/// What is wrong with a frame that went out; nil: nothing. Looks into tunnels.
func problem(in frame: MemoryFrame) -> String? {
  let octets = frame.octets
  guard octets.count >= 14 else { return "no Ethernet header" }
  // A frame that is not finished has no right checksums inside; its port must know what to do with it.
  let isFinished = frame.partialChecksumStart == nil && frame.segmentation == .none
  return problem(behindEthernet: octets, isFinished)
}

private func problem(behindEthernet octets: [UInt8], _ isFinished: Bool) -> String? {
  guard octets.count >= 14 else { return "no Ethernet header" }
  let payload = Array(octets[14...])
  switch u16(octets, 12) {
  case 0x800: return problem(inIPv4: payload, isFinished)
  case 0x86dd: return problem(inIPv6: payload, isFinished)
  case 0x806: return payload.count == 28 ? nil : "ARP of \(payload.count) octets"
  case 0x8100, 0x88a8: return nil
  case let type: return "EtherType \(type)"
  }
}

private func problem(inIPv4 packet: [UInt8], _ isFinished: Bool) -> String? {
  guard packet.count >= 20, packet[0] >> 4 == 4 else { return "no IPv4 header" }
  let header = Int(packet[0] & 15) * 4
  guard u16(packet, 2) == packet.count else { return "total length \(u16(packet, 2)) in \(packet.count) octets" }
  guard slowChecksum(Array(packet[..<header])) == 0 else { return "IPv4 header checksum" }
  guard u16(packet, 6) & 0x3fff == 0 else { return nil }
  return problem(
    inTransport: Array(packet[header...]), Int(packet[9]), isIPv6: false, isFinished
  ) { pseudoHeader(packet, network: 0, protocol: packet[9], length: $0) }
}

private func problem(inIPv6 packet: [UInt8], _ isFinished: Bool) -> String? {
  guard packet.count >= 40, packet[0] >> 4 == 6 else { return "no IPv6 header" }
  guard u16(packet, 4) == packet.count - 40 else { return "payload length \(u16(packet, 4)) in \(packet.count) octets" }
  return problem(inTransport: Array(packet[40...]), Int(packet[6]), isIPv6: true, isFinished) {
    pseudoHeader(packet, network: 0, protocol: packet[6], length: $0)
  }
}

private func problem(
  inTransport octets: [UInt8], _ number: Int, isIPv6: Bool, _ isFinished: Bool, _ pseudo: (Int) -> [UInt8]
) -> String? {
  func isWrong() -> Bool { isFinished && slowChecksum(pseudo(octets.count), octets) != 0 }
  switch number {
  case 6: return isWrong() ? "TCP checksum" : nil
  case 58: return isWrong() ? "ICMPv6 checksum" : nil
  case 1: return isFinished && slowChecksum(octets) != 0 ? "ICMP checksum" : nil
  case 4: return problem(inIPv4: octets, isFinished)
  case 41: return problem(inIPv6: octets, isFinished)
  case 47:
    guard octets[0] & 0x80 == 0 || slowChecksum(octets) == 0 else { return "GRE checksum" }
    let header = 4 + 4 * (octets[0] & 0xb0).nonzeroBitCount
    let inner = Array(octets[header...])
    return u16(octets, 2) == 0x800 ? problem(inIPv4: inner, isFinished) : problem(inIPv6: inner, isFinished)
  case 17:
    guard u16(octets, 4) == octets.count else { return "UDP length" }
    if u16(octets, 6) != 0, isWrong() { return "UDP checksum" }
    guard u16(octets, 2) == 4789 || u16(octets, 2) == 6081, u16(octets, 0) >= 0xc000 else { return nil }
    return problem(behindEthernet: Array(octets[16...]), isFinished)
  case 132:
    guard octets.count >= 12 else { return "no SCTP header" }
    let found = (0..<4).reduce(UInt32(0)) { $0 | UInt32(octets[8 + $1]) << (8 * UInt32($1)) }
    let computed = slowCRC32c(Array(octets[..<8]) + [0, 0, 0, 0] + Array(octets[12...]))
    return isFinished && found != computed ? "SCTP checksum" : nil
  default: return nil
  }
}

/// One of so many frames is not as it should be: cut, lengthened, or with other octets in its headers.
///
/// `leaving`: the octets that the frame has at least.
func bent(
  _ frame: MemoryFrame, oneOf share: UInt64, leaving least: Int = 0, _ random: inout SeededGenerator
) -> MemoryFrame {
  var frame = frame
  guard random.next() % share == 0 else { return frame }
  switch random.next() % 5 {
  case 0: frame.octets[Int(random.next() % UInt64(min(frame.octets.count, 90)))] ^= 1 << UInt8(random.next() % 8)
  case 1: frame.octets.removeLast(Int.random(in: 1...min(60, frame.octets.count - least), using: &random))
  case 2: frame.octets += random.bytes(Int.random(in: 1...30, using: &random))
  default:
    // One octet of the headers, and the checksum of the outer one made right again.
    guard frame.octets.count >= 34 else { break }
    let position = 14 + Int(random.next() % UInt64(min(frame.octets.count - 14, 70)))
    frame.octets[position] = UInt8(truncatingIfNeeded: random.next())
    if frame.octets[14] == 0x45 {
      var header = Array(frame.octets[14..<34])
      rechecksum(&header)
      frame.octets.replaceSubrange(14..<34, with: header)
    }
  }
  frame.wireLength = frame.octets.count
  return frame
}
