import Addresses
import Dataplane
import Glibc
import Lab
import Testing

@testable import Ports

/// TCP super-frames in tunnels that the kernel cuts.
@Suite("Super-frames in tunnels", .enabled(if: Lab.isAvailable, "needs root and network namespaces"))
struct TunnelTests {
  private static let payload = 5000
  private static let segment = 1300

  /// The outer headers of a tunnel, from the network layer on, for `length` octets inside.
  private func outer(_ kind: String, isIPv6: Bool, inside: UInt16, length: Int) -> [UInt8] {
    var middle: [UInt8] = []
    let number: UInt8
    switch kind {
    case "vxlan":
      let size = 30 + length
      middle = [0xc3, 0x50, 0x12, 0xb5] + words(size) + [0, 0, 8, 0, 0, 0, 0, 0x10, 0, 0]
      middle += [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8] + words(Int(inside))
      number = 17
    case "gre":
      middle = [0, 0] + words(Int(inside))
      number = 47
    default: number = inside == 0x0800 ? 4 : 41
    }
    if isIPv6 {
      return [0x60, 0, 0, 0] + words(middle.count + length) + [number, 64] + address6(1) + address6(2) + middle
    }
    var header =
      [0x45, 0] + words(20 + middle.count + length) + [0, 100, 0, 0, 64, number, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
    header.replaceSubrange(10..<12, with: words(Int(~sum(header))))
    return header + middle
  }

  private func words(_ value: Int) -> [UInt8] {
    [UInt8(truncatingIfNeeded: value >> 8), UInt8(truncatingIfNeeded: value)]
  }

  private func address6(_ last: UInt8) -> [UInt8] { [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last] }

  private func sum(_ octets: [UInt8]) -> UInt16 {
    var sum = 0
    for i in stride(from: 0, to: octets.count - 1, by: 2) { sum += Int(octets[i]) << 8 | Int(octets[i + 1]) }
    while sum > 0xffff { sum = sum & 0xffff + sum >> 16 }
    return UInt16(sum)
  }

  /// A TCP packet whose checksum field holds the sum of the pseudo header.
  private func inner(isIPv6: Bool) -> [UInt8] {
    let length = 20 + TunnelTests.payload
    var network: [UInt8]
    let pseudo: [UInt8]
    if isIPv6 {
      network = [0x60, 0, 0, 0] + words(length) + [6, 63] + address6(0x11) + address6(0x12)
      pseudo = Array(network[8...]) + [0, 0] + words(length) + [0, 0, 0, 6]
    } else {
      network = [0x45, 0] + words(20 + length) + [0, 7, 0x40, 0, 63, 6, 0, 0, 10, 244, 0, 2, 10, 244, 1, 2]
      network.replaceSubrange(10..<12, with: words(Int(~sum(network))))
      pseudo = Array(network[12...]) + [0, 6] + words(length)
    }
    let tcp: [UInt8] =
      [0, 1, 0, 2, 0, 0, 3, 0xe8, 0, 0, 0, 1, 0x50, 0x18, 0x20, 0] + words(Int(sum(pseudo))) + [0, 0]
    return network + tcp + (0..<TunnelTests.payload).map { UInt8(truncatingIfNeeded: $0 &* 31) }
  }

  private func superFrame(_ kind: String, isOuterIPv6: Bool, isInnerIPv6: Bool) -> MemoryFrame {
    let packet = inner(isIPv6: isInnerIPv6)
    let headers = outer(
      kind, isIPv6: isOuterIPv6, inside: isInnerIPv6 ? 0x86dd : 0x0800, length: packet.count)
    let ethernet: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1] + (isOuterIPv6 ? [0x86, 0xdd] : [8, 0])
    var frame = MemoryFrame(
      ethernet + headers + packet, partialChecksumStart: 14 + headers.count + (isInnerIPv6 ? 40 : 20),
      partialChecksumOffset: 16, segmentation: isInnerIPv6 ? .tcp6 : .tcp4, segmentSize: TunnelTests.segment)
    frame.tunnelLength = headers.count
    return frame
  }

  private static let forms: [(String, Bool, Bool)] = ["ipip", "gre", "vxlan"].flatMap { kind in
    [(kind, false, false), (kind, false, true), (kind, true, false), (kind, true, true)]
  }

  private func makeLine() throws -> (Lab, Namespace, AFPacketPort, AFPacketPort) {
    let lab = try Lab(name: "tunnels")
    let (a, b) = (try lab.namespace("a"), try lab.namespace("b"))
    for namespace in [a, b] { try namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1") }
    try lab.veth(Endpoint(a, "eth0"), Endpoint(b, "eth0"))
    var options = AFPacketPort.Options.underlay
    options.namespace = a.path
    let near = try AFPacketPort(interface: "eth0", options: options)
    options = .pod
    options.superFrames = .ring
    options.namespace = b.path
    return (lab, a, near, try AFPacketPort(interface: "eth0", options: options))
  }

  @Test("TUN-9: where the device carries them, super-frames in every tunnel pass whole, as they were made")
  func whole() throws {
    let (lab, _, near, far) = try makeLine()
    defer { lab.cleanUp() }
    try #require(near.tunnelRefusal == nil, "needs Linux 6.6")
    #expect(near.capabilities.contains(.tunnels) && !far.capabilities.contains(.tunnels))
    for (kind, isOuterIPv6, isInnerIPv6) in TunnelTests.forms {
      let frame = superFrame(kind, isOuterIPv6: isOuterIPv6, isInnerIPv6: isInnerIPv6)
      #expect(send([frame], by: near) == 1)
      let received = drain(far)
      #expect(received.map(\.octets) == [frame.octets], "\(kind) \(isOuterIPv6) \(isInnerIPv6)")
      #expect(received.first?.segmentation == frame.segmentation)
      #expect(received.first?.segmentSize == frame.segmentSize)
      #expect(received.first?.partialChecksumStart == frame.partialChecksumStart)
    }
  }

  @Test("TUN-9: where it does not, the kernel cuts them, and every segment is right to the last checksum")
  func cut() throws {
    let (lab, a, near, far) = try makeLine()
    defer { lab.cleanUp() }
    try #require(near.tunnelRefusal == nil, "needs Linux 6.6")
    try a.setOffloads(false, of: "eth0")
    let file = "\(try lab.directory())/wire.pcap"
    let capture = try a.capture(on: "eth0", to: file)
    for (kind, isOuterIPv6, isInnerIPv6) in TunnelTests.forms {
      let frame = superFrame(kind, isOuterIPv6: isOuterIPv6, isInnerIPv6: isInnerIPv6)
      let plain = MemoryFrame(Array(arp) + [UInt8](repeating: 0, count: 18))
      #expect(send([plain, frame, plain], by: near) == 3)
      let received = drain(far)
      // What was sent before and after is not overtaken.
      #expect(received.count == 6)
      #expect(received.first?.octets == plain.octets && received.last?.octets == plain.octets)
      let segments = received.dropFirst().dropLast()
      let headers = 14 + frame.tunnelLength + (isInnerIPv6 ? 60 : 40)
      #expect(segments.allSatisfy { $0.segmentation == .none && $0.partialChecksumStart == nil })
      #expect(segments.flatMap { $0.octets[headers...] } == Array(frame.octets[headers...]))
    }
    _ = try capture.stop()
    #expect(try PacketCheck.count(in: file, filter: "tcp") == 4 * TunnelTests.forms.count)
    #expect(try PacketCheck.findMalformed(in: file) == [])
  }

  @Test("the program at the device's egress leaves other packets alone, and lets no half of a packet pass")
  func others() throws {
    let lab = try Lab(name: "others")
    defer { lab.cleanUp() }
    let (a, b) = (try lab.namespace("a"), try lab.namespace("b"))
    try lab.veth(
      Endpoint(a, "eth0", addresses: ["10.7.0.1/24"]), Endpoint(b, "eth0", addresses: ["10.7.0.2/24"]))
    var options = AFPacketPort.Options.underlay
    options.namespace = a.path
    var port: AFPacketPort? = try AFPacketPort(interface: "eth0", options: options)
    try #require(port?.tunnelRefusal == nil, "needs Linux 6.6")
    #expect(try a.ping("10.7.0.2", count: 2, interval: .milliseconds(20)).isComplete)
    // A second port of the same device, as an agent has that takes over.
    let second = try AFPacketPort(interface: "eth0", options: options)
    #expect(second.tunnelRefusal == nil)
    port = nil
    #expect(port == nil)
    #expect(try a.ping("10.7.0.2", count: 2, interval: .milliseconds(20)).isComplete)
    // Where the headers are not there nothing leaves: no half of a packet.
    options.namespace = b.path
    let far = try AFPacketPort(interface: "eth0", options: options)
    var frame = MemoryFrame(arp)
    frame.tunnelLength = 40
    _ = send([frame], by: second)
    #expect(drain(far).allSatisfy { $0.octets[6...11] != frame.octets[6...11] })
  }
}
