import Addresses
import CLinux
import Dataplane
import Glibc
import Lab
import Ports
import Testing

@testable import Node

/// Which of several sockets gets a packet.
@Suite("Flow spread")
struct FlowSpreadTests {
  private static func ipv4(
    _ proto: UInt8, _ payload: [UInt8], from source: UInt8 = 1, fragment: UInt16 = 0, options: Int = 0
  ) -> [UInt8] {
    let length = UInt16(20 + options + payload.count)
    return [0x45 + UInt8(options / 4), 0, UInt8(length >> 8), UInt8(length & 0xff), 0, 7]
      + [UInt8(fragment >> 8), UInt8(fragment & 0xff), 64, proto, 0, 0, 10, 0, 0, source, 10, 0, 0, 2]
      + [UInt8](repeating: 1, count: options) + payload
  }

  private static func ipv6(_ next: UInt8, _ payload: [UInt8], from source: UInt8 = 1) -> [UInt8] {
    [0x60, 0, 0, 0, 0, UInt8(payload.count), next, 64] + IPAddress("fd00::\(source)")!.octets
      + IPAddress("fd00::2")!.octets + payload
  }

  private static func ports(_ source: UInt16) -> [UInt8] {
    [UInt8(source >> 8), UInt8(source & 0xff), 0, 80, 0, 8, 0, 0]
  }

  private static func hash(_ packet: [UInt8]) -> UInt32? { interpret(FlowSpread.program, packet) }

  /// What carries a packet with ports, or with others.
  private static let carriers: [(name: String, wrap: @Sendable ([UInt8]) -> [UInt8])] = [
    ("UDP", { ipv4(17, $0) }), ("TCP", { ipv4(6, $0) }), ("SCTP", { ipv4(132, $0) }),
    ("UDP behind options", { ipv4(17, $0, options: 8) }), ("UDP over IPv6", { ipv6(17, $0) }),
    ("IPIP", { ipv4(4, ipv4(6, $0)) }), ("IPIP, inner options", { ipv4(4, ipv4(17, $0, options: 4), options: 4) }),
    ("IPv6 in IPv4", { ipv4(41, ipv6(6, $0)) }), ("IPv4 in IPv6", { ipv6(4, ipv4(17, $0)) }),
    ("GRE", { ipv4(47, [0, 0, 8, 0] + ipv4(17, $0)) }),
    ("GRE with key", { ipv4(47, [0x20, 0, 8, 0, 1, 2, 3, 4] + ipv4(17, $0)) }),
    ("GRE with all", { ipv4(47, [0xb0, 0, 0x86, 0xdd] + [UInt8](repeating: 9, count: 12) + ipv6(6, $0)) }),
    ("GRE over IPv6", { ipv6(47, [0, 0, 8, 0] + ipv4(6, $0)) }),
  ]

  @Test("flows are spread evenly by their ports, which may be in a tunnel; one flow's packets stay together")
  func spreads() {
    for (name, wrap) in FlowSpreadTests.carriers {
      var counts = [[Int]](repeating: [0, 0, 0], count: 4)
      for port: UInt16 in 1000..<1300 {
        let packet = wrap(FlowSpreadTests.ports(port))
        guard let hash = FlowSpreadTests.hash(packet) else {
          Issue.record("\(name): the program does not end")
          return
        }
        // What differs from packet to packet does not count: length, identification, what comes behind the ports.
        #expect(FlowSpreadTests.hash(packet + [1, 2, 3]) == hash, "\(name)")
        for number in 2...3 { counts[number][Int(hash) % number] += 1 }
      }
      #expect(counts[2][..<2].allSatisfy { $0 > 100 }, "\(name): \(counts[2])")
      #expect(counts[3].allSatisfy { $0 > 60 }, "\(name): \(counts[3])")
    }
  }

  @Test("fragments of a datagram go together, whatever stands where ports would")
  func fragments() {
    for wrap: ([UInt8], UInt16) -> [UInt8] in [
      { FlowSpreadTests.ipv4(17, $0, fragment: $1) },
      { FlowSpreadTests.ipv4(4, FlowSpreadTests.ipv4(17, $0, fragment: $1)) },
    ] {
      let first = FlowSpreadTests.hash(wrap(FlowSpreadTests.ports(1000), 0x2000))
      #expect(first != nil && first != 0)
      #expect(FlowSpreadTests.hash(wrap(FlowSpreadTests.ports(7), 0x2010)) == first)
      #expect(FlowSpreadTests.hash(wrap(FlowSpreadTests.ports(9), 0x0020)) == first)
    }
  }

  @Test("addresses alone spread what has no ports, and what is no IP packet is the first socket's")
  func others() {
    let hashes = Set((1...100).map { FlowSpreadTests.hash(FlowSpreadTests.ipv4(1, [8, 0, 0, 0], from: $0)) })
    #expect(hashes.count > 90)
    // ARP; an empty packet.
    #expect(FlowSpreadTests.hash([0, 1, 8, 0, 6, 4, 0, 1]) == 0)
    #expect(FlowSpreadTests.hash([]) == 0)
  }

  @Test("a packet that is cut short anywhere is some socket's")
  func short() {
    for (name, wrap) in FlowSpreadTests.carriers {
      let packet = wrap(FlowSpreadTests.ports(1000))
      for count in 0..<packet.count { #expect(FlowSpreadTests.hash(Array(packet[..<count])) != nil, "\(name)") }
    }
  }

  @Test(
    "two sockets of a device share its packets: each comes once, those of a flow to one of them, and those of one that goes to the other",
    .enabled(if: Lab.isAvailable, "needs root and network namespaces"))
  func group() throws {
    let lab = try Lab(name: "spread")
    defer { lab.cleanUp() }
    let (a, b) = (try lab.namespace("a"), try lab.namespace("b"))
    try lab.veth(Endpoint(a, "eth0", addresses: ["10.0.0.1/24"]), Endpoint(b, "eth0", addresses: ["10.0.0.2/24"]))
    var options = AFPacketPort.Options.underlay
    options.finishesTunnels = false
    options.namespace = b.path
    let leader = try AFPacketPort(interface: "eth0", options: options)
    try leader.lead(FlowSpread.program)
    var follower: AFPacketPort? = try AFPacketPort(interface: "eth0", options: options)
    try follower?.follow(leader)
    // Again makes no difference, as where sockets were handed over.
    try leader.lead(FlowSpread.program)
    try follower?.follow(leader)
    // What came before they shared.
    func take(_ port: AFPacketPort?) -> [UInt16: Int] {
      var counts: [UInt16: Int] = [:]
      var batch = FrameBatch()
      while let port, port.receive(into: &batch) > 0 {
        for index in 0..<batch.count {
          let octets = batch[index].octets.array
          guard octets.count > 36, octets[12] == 8, octets[13] == 0, octets[23] == 17 else { continue }
          counts[UInt16(octets[34]) << 8 | UInt16(octets[35]), default: 0] += 1
        }
        port.release(&batch)
      }
      return counts
    }
    let send = """
      import socket
      for round in range(5):
        for port in range(2000, 2064):
          with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("10.0.0.1", port)); s.sendto(b"x", ("10.0.0.2", 9))
      """
    _ = (take(leader), take(follower))
    try a.run("python3", "-c", send).check()
    let (one, other) = (take(leader), take(follower))
    #expect(one.count > 10 && other.count > 10, "\(one.count) and \(other.count) flows")
    #expect(Set(one.keys).isDisjoint(with: other.keys))
    #expect(one.merging(other) { $0 + $1 } == Dictionary(uniqueKeysWithValues: (2000..<2064).map { ($0, 5) }))
    follower = nil
    AFPacketPort.waitForClosing()
    try a.run("python3", "-c", send).check()
    #expect(take(leader) == Dictionary(uniqueKeysWithValues: (2000..<2064).map { ($0, 5) }))
  }
}
