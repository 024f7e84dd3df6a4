import Addresses
import CEBPF
import CLinux
import Glibc
import Testing

@testable import Node

/// Runs a classic BPF program as the kernel does, for the instructions that the programs here use. nil for an instruction that
/// it does not know, or a program that runs off its end.
func interpret(_ program: [sock_filter], _ packet: [UInt8], vlan: UInt16 = 0) -> UInt32? {
  var a: UInt32 = 0
  var x: UInt32 = 0
  var memory = [UInt32](repeating: 0, count: 16)
  var pc = 0
  func load(_ offset: Int, _ code: UInt16) -> UInt32? {
    let size = code & 0x18 == 0 ? 4 : code & 0x18 == 8 ? 2 : 1
    guard offset >= 0, offset + size <= packet.count else { return nil }
    return packet[offset..<offset + size].reduce(0) { $0 << 8 | UInt32($1) }
  }
  while pc < program.count {
    let i = program[pc]
    pc += 1
    switch i.code {
    case 0x20 where i.k == UInt32(bitPattern: -0x1000 + 44): a = UInt32(vlan)
    case 0x20, 0x28, 0x30:
      guard let value = load(Int(i.k), i.code) else { return 0 }
      a = value
    case 0x40, 0x48, 0x50:
      guard let value = load(Int(x) + Int(i.k), i.code) else { return 0 }
      a = value
    case 0x80: a = UInt32(packet.count)
    case 0xb1:
      guard let value = load(Int(i.k), 0x10) else { return 0 }
      x = (value & 0xf) * 4
    case 0x54: a &= i.k
    case 0x04: a = a &+ i.k
    case 0x24: a = a &* i.k
    case 0x74: a >>= i.k
    case 0x0c: a = a &+ x
    case 0xac: a ^= x
    case 0x00: a = i.k
    case 0x07: x = a
    case 0x87: a = x
    case 0x01: x = i.k
    case 0x02: memory[Int(i.k)] = a
    case 0x60: a = memory[Int(i.k)]
    case 0x61: x = memory[Int(i.k)]
    case 0x05: pc += Int(i.k)
    case 0x15: pc += Int(a == i.k ? i.jt : i.jf)
    case 0x35: pc += Int(a >= i.k ? i.jt : i.jf)
    case 0x45: pc += Int(a & i.k != 0 ? i.jt : i.jf)
    case 0x06: return i.k
    case 0x16: return a
    default: return nil
    }
  }
  return nil
}

/// An Ethernet header for `type`.
private func ethernet(_ type: UInt16) -> [UInt8] {
  [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, UInt8(type >> 8), UInt8(type & 0xff)]
}

/// An IPv4 packet from 192.0.2.9 with `options` (a multiple of 4 octets) and `flags`: MF and the fragment offset.
private func ipv4(
  to: [UInt8], _ proto: UInt8, flags: UInt16 = 0, options: [UInt8] = [], _ payload: [UInt8] = []
) -> [UInt8] {
  let length = 20 + options.count + payload.count
  return ethernet(0x0800) + [0x45 + UInt8(options.count / 4), 0, UInt8(length >> 8), UInt8(length & 0xff), 0, 1]
    + [UInt8(flags >> 8), UInt8(flags & 0xff), 64, proto, 0, 0, 192, 0, 2, 9] + to + options + payload
}

private func ipv6(to: String, _ next: UInt8, _ payload: [UInt8]) -> [UInt8] {
  ethernet(0x86dd) + [0x60, 0, 0, 0, 0, UInt8(payload.count), next, 64] + IPAddress("2001:db8::9")!.octets
    + IPAddress(to)!.octets + payload
}

private func udp(_ port: UInt16) -> [UInt8] {
  [0xc0, 0, UInt8(port >> 8), UInt8(port & 0xff), 0, 12, 0, 0, 8, 0, 0, 0]
}

@Suite("Packet classifier (NODE-3)")
struct ClassifierTests {
  let classifier = PacketClassifier(
    localAddresses: [IPAddress("192.0.2.1")!, IPAddress("2001:db8::1")!], udpPorts: [4789, 6081],
    protocols: [4, 41, 47],
    destinations: [IPPrefix("10.244.0.0/16")!, IPPrefix("10.96.0.10/32")!, IPPrefix("fd00:10:244::/48")!])

  private static let own: [UInt8] = [192, 0, 2, 1]
  private static let other: [UInt8] = [192, 0, 2, 2]

  struct Case: Sendable, CustomTestStringConvertible {
    var testDescription: String
    var packet: [UInt8]
    var isOurs: Bool
    var vlan: UInt16 = 0
    init(_ name: String, _ isOurs: Bool, _ packet: [UInt8], vlan: UInt16 = 0) {
      (testDescription, self.packet, self.isOurs, self.vlan) = (name, packet, isOurs, vlan)
    }
  }

  static let cases: [Case] = [
    Case("VXLAN to the own address", true, ipv4(to: own, 17, udp(4789))),
    Case("Geneve to the own address", true, ipv4(to: own, 17, udp(6081))),
    Case("VXLAN behind IPv4 options", true, ipv4(to: own, 17, options: [1, 1, 1, 0, 1, 1, 1, 0], udp(4789))),
    Case(
      "a UDP payload that looks like the port", false, ipv4(to: own, 17, options: [], [0x12, 0xb5, 0, 53, 0x12, 0xb5])),
    Case("VXLAN to another address", false, ipv4(to: other, 17, udp(4789))),
    Case("DNS to the own address", false, ipv4(to: own, 17, udp(53))),
    Case("TCP with the number of the VXLAN port", false, ipv4(to: own, 6, udp(4789))),
    Case("the first fragment of a VXLAN packet", true, ipv4(to: own, 17, flags: 0x2000, udp(4789))),
    Case("a later fragment, whose octets look like the port", false, ipv4(to: own, 17, flags: 0x20b9, udp(4789))),
    Case("the last fragment", false, ipv4(to: own, 17, flags: 0x00b9, udp(4789))),
    Case("don't fragment is no fragment", true, ipv4(to: own, 17, flags: 0x4000, udp(4789))),
    Case("IPIP", true, ipv4(to: own, 4, [0x45])),
    Case("6in4", true, ipv4(to: own, 41, [0x60])),
    Case("GRE", true, ipv4(to: own, 47, [0, 0, 8, 0])),
    Case("a later fragment of GRE", true, ipv4(to: own, 47, flags: 0x00b9, [1, 2, 3])),
    Case("ESP", false, ipv4(to: own, 50, [1, 2, 3, 4])),
    Case("GRE to another address", false, ipv4(to: other, 47, [0, 0, 8, 0])),
    Case("TCP to a pod", true, ipv4(to: [10, 244, 3, 4], 6, [0, 1, 0, 2])),
    Case("a later fragment to a pod", true, ipv4(to: [10, 244, 3, 4], 17, flags: 0x00b9, [0])),
    Case("the address after the pods'", false, ipv4(to: [10, 245, 0, 0], 6, [0, 1, 0, 2])),
    Case("a service", true, ipv4(to: [10, 96, 0, 10], 17, udp(53))),
    Case("the address beside the service", false, ipv4(to: [10, 96, 0, 11], 17, udp(53))),
    Case("ARP", false, ethernet(0x0806) + [UInt8](repeating: 0, count: 46)),
    Case("an IPv4 header cut short", false, Array(ipv4(to: own, 4).dropLast(4))),
    Case("a UDP header cut short", false, ipv4(to: own, 17, [0xc0, 0])),
    Case("nothing at all", false, []),
    Case("VXLAN in VLAN 7", false, ipv4(to: own, 17, udp(4789)), vlan: 7),
    Case("a pod in VLAN 7", false, ipv4(to: [10, 244, 3, 4], 6, [0, 1]), vlan: 0x6007),
    Case("VXLAN with a priority tag", true, ipv4(to: own, 17, udp(4789)), vlan: 0x6000),
    Case(
      "VXLAN behind a tag that was not stripped", false,
      ethernet(0x8100) + [0, 7] + ipv4(to: own, 17, udp(4789)).dropFirst(12)),
    Case("VXLAN over IPv6", true, ipv6(to: "2001:db8::1", 17, udp(4789))),
    Case("VXLAN over IPv6 to another address", false, ipv6(to: "2001:db8::2", 17, udp(4789))),
    Case("an address that differs in its first word", false, ipv6(to: "2001:db9::1", 17, udp(4789))),
    Case("DNS over IPv6", false, ipv6(to: "2001:db8::1", 17, udp(53))),
    Case("GRE over IPv6", true, ipv6(to: "2001:db8::1", 47, [0, 0, 8, 0])),
    Case("4in6 with an encapsulation limit", true, ipv6(to: "2001:db8::1", 60, [4, 0, 4, 1, 4, 1, 1, 0, 0x45])),
    Case("TCP behind destination options", false, ipv6(to: "2001:db8::1", 60, [6, 0, 4, 1, 4, 1, 1, 0, 0x45])),
    Case(
      "the first fragment of VXLAN over IPv6", true, ipv6(to: "2001:db8::1", 44, [17, 0, 0, 1, 0, 0, 0, 1] + udp(4789))),
    Case(
      "a later fragment of UDP over IPv6", false, ipv6(to: "2001:db8::1", 44, [17, 0, 0, 8, 0, 0, 0, 1] + udp(4789))),
    Case("a later fragment of GRE over IPv6", true, ipv6(to: "2001:db8::1", 44, [47, 0, 0, 8, 0, 0, 0, 1, 5])),
    Case("neighbour discovery", false, ipv6(to: "2001:db8::1", 58, [135, 0, 0, 0])),
    Case("an IPv6 pod", true, ipv6(to: "fd00:10:244:ffff::5", 6, [0, 1, 0, 2])),
    Case("the network after the IPv6 pods'", false, ipv6(to: "fd00:10:245::5", 6, [0, 1, 0, 2])),
  ]

  @Test("each packet goes where it belongs, by the socket's filter and by the ingress filter", arguments: cases)
  func classifies(_ c: Case) throws {
    let socket = interpret(try classifier.socketFilter(), c.packet, vlan: c.vlan)
    let ingress = interpret(try classifier.ingressFilter(), c.packet, vlan: c.vlan)
    #expect(socket == (c.isOurs ? .max : 0))
    // A packet too short for the program ends it with 0, TC_ACT_OK; otherwise it is TC_ACT_UNSPEC. Both let it pass.
    if c.isOurs { #expect(ingress == 2) } else { #expect(ingress == .max || ingress == 0) }
  }

  @Test("everything is everything, and nothing is nothing")
  func extremes() throws {
    for c in ClassifierTests.cases {
      #expect(interpret(try PacketClassifier.everything.socketFilter(), c.packet, vlan: c.vlan) == .max)
      #expect(interpret(try PacketClassifier.everything.ingressFilter(), c.packet, vlan: c.vlan) == 2)
      #expect(interpret(try PacketClassifier().socketFilter(), c.packet, vlan: c.vlan) == 0)
    }
  }

  static let doors = PacketClassifier(
    localAddresses: [IPAddress("192.0.2.1")!, IPAddress("2001:db8::1")!], udpPorts: [4789], protocols: [4],
    doors: [
      .init(
        [IPAddress("192.0.2.1")!, IPAddress("2001:db8::1")!], transport: 6, ports: [30080...30080, 61000...65535]),
      .init([IPAddress("192.0.2.1")!], transport: 17, ports: [30053...30055]),
      .init([IPAddress("192.0.2.2")!], transport: 132, ports: [443...443]),
    ])

  /// Source and destination port, and what else a header needs.
  private static func ports(_ destination: UInt16) -> [UInt8] {
    [0x80, 0, UInt8(destination >> 8), UInt8(destination & 0xff)] + [UInt8](repeating: 0, count: 16)
  }

  static let doorCases: [Case] = [
    Case("a NodePort", true, ipv4(to: own, 6, ports(30080))),
    Case("the port after it", false, ipv4(to: own, 6, ports(30081))),
    Case("the port before it", false, ipv4(to: own, 6, ports(30079))),
    Case("its number in UDP", false, ipv4(to: own, 17, ports(30080))),
    Case("a NodePort at another address", false, ipv4(to: other, 6, ports(30080))),
    Case("the first of a range", true, ipv4(to: own, 17, ports(30053))),
    Case("the last of a range", true, ipv4(to: own, 17, ports(30055))),
    Case("after the range", false, ipv4(to: own, 17, ports(30056))),
    Case("a tunnel's port beside NodePorts", true, ipv4(to: own, 17, ports(4789))),
    Case("a masqueraded connection's", true, ipv4(to: own, 6, ports(61000))),
    Case("the last masqueraded connection's", true, ipv4(to: own, 6, ports(65535))),
    Case("a port of the host's programs", false, ipv4(to: own, 6, ports(60999))),
    Case("a service at another address of the host", true, ipv4(to: other, 132, ports(443))),
    Case("a tunnel to an address where none ends", false, ipv4(to: other, 4, [0x45])),
    Case("a later fragment", false, ipv4(to: own, 6, flags: 0x00b9, ports(30080))),
    Case("a NodePort behind options", true, ipv4(to: own, 6, options: [1, 1, 1, 0], ports(30080))),
    Case("an ICMP error", false, ipv4(to: own, 1, [3, 1, 0, 0])),
    Case("an echo reply", false, ipv4(to: own, 1, [0, 0, 0, 0])),
    Case("a NodePort over IPv6", true, ipv6(to: "2001:db8::1", 6, ports(30080))),
    Case("beside it over IPv6", false, ipv6(to: "2001:db8::1", 6, ports(30081))),
    Case("UDP's NodePort over IPv6, where none is", false, ipv6(to: "2001:db8::1", 17, ports(30053))),
    Case(
      "the first fragment over IPv6", true, ipv6(to: "2001:db8::1", 44, [6, 0, 0, 1, 0, 0, 0, 1] + ports(30080))),
    Case(
      "a later fragment over IPv6", false, ipv6(to: "2001:db8::1", 44, [6, 0, 0, 8, 0, 0, 0, 1] + ports(30080))),
  ]

  @Test(
    "KP-23 KP-36: NodePorts and masqueraded ports are the data plane's, all beside them the host's",
    arguments: doorCases)
  func classifiesDoors(_ c: Case) throws {
    let ingress = interpret(try ClassifierTests.doors.ingressFilter(), c.packet, vlan: c.vlan)
    #expect(interpret(try ClassifierTests.doors.socketFilter(), c.packet, vlan: c.vlan) == (c.isOurs ? .max : 0))
    if c.isOurs { #expect(ingress == 2) } else { #expect(ingress == .max || ingress == 0) }
  }

  @Test("the socket sees what is shared: later fragments, errors, and where pods are masqueraded answers to queries")
  func shared() throws {
    var classifier = ClassifierTests.doors
    classifier.takesShared = true
    let (own, other) = (ClassifierTests.own, ClassifierTests.other)
    func takes(_ packet: [UInt8]) throws -> Bool { interpret(try classifier.socketFilter(), packet) == .max }
    #expect(try takes(ipv4(to: own, 6, flags: 0x00b9, [1, 2, 3, 4])))
    #expect(try takes(ipv4(to: other, 132, flags: 0x00b9, [1, 2, 3, 4])))
    #expect(try !takes(ipv4(to: other, 6, flags: 0x00b9, [1, 2, 3, 4])))
    #expect(try takes(ipv4(to: own, 1, [3, 1, 0, 0])))
    #expect(try takes(ipv6(to: "2001:db8::1", 58, [2, 0, 0, 0])))
    for isMasqueraded in [false, true] {
      classifier.takesQueryReplies = isMasqueraded
      #expect(try takes(ipv4(to: own, 1, [0, 0, 0, 0])) == isMasqueraded)
      #expect(try takes(ipv4(to: own, 1, flags: 0x00b9, [0, 0, 0, 0])) == isMasqueraded)
      #expect(try takes(ipv6(to: "2001:db8::1", 58, [129, 0, 0, 0])) == isMasqueraded)
      // A query is the host's to answer.
      #expect(try !takes(ipv4(to: own, 1, [8, 0, 0, 0])))
    }
  }

  @Test("any number of ports is found, and no other: all ports asked")
  func search() throws {
    for count in [1, 3, 4, 5, 60, 700] {
      let wanted = Set((1...count).map { UInt16(truncatingIfNeeded: $0 * 40503) })
      let classifier = PacketClassifier(doors: [
        .init([IPAddress("192.0.2.1")!], transport: 6, ports: wanted.map { $0...$0 })
      ])
      let program = try classifier.socketFilter()
      var found: Set<UInt16> = []
      for port in (1...65535)
      where interpret(program, ipv4(to: ClassifierTests.own, 6, ClassifierTests.ports(UInt16(port)))) == .max {
        found.insert(UInt16(port))
      }
      #expect(found == wanted)
    }
  }

  @Test("a thousand NodePorts that lie apart fit, at addresses of both families")
  func manyPorts() throws {
    let ports = (0..<1000).map { UInt16(30000 + 2 * $0) }
    let classifier = PacketClassifier(
      localAddresses: [IPAddress("192.0.2.1")!, IPAddress("2001:db8::1")!], udpPorts: [4789],
      doors: [
        .init([IPAddress("192.0.2.1")!, IPAddress("2001:db8::1")!], transport: 6, ports: ports.map { $0...$0 })
      ])
    let program = try classifier.socketFilter()
    for port in [UInt16(30000), 31000, 31998] {
      #expect(interpret(program, ipv4(to: ClassifierTests.own, 6, ClassifierTests.ports(port))) == .max)
      #expect(interpret(program, ipv6(to: "2001:db8::1", 6, ClassifierTests.ports(port))) == .max)
      #expect(interpret(program, ipv6(to: "2001:db8::1", 6, ClassifierTests.ports(port + 1))) == 0)
    }
  }

  @Test("The program for a socket that a filter becomes says the same of every packet", .enabled(if: geteuid() == 0))
  func translated() throws {
    var shared = classifier
    shared.takesShared = true
    let ports = (0..<1000).map { UInt16(30000 + 2 * $0) }
    let many = PacketClassifier(
      localAddresses: [IPAddress("192.0.2.1")!, IPAddress("2001:db8::1")!], udpPorts: [4789],
      doors: [
        .init([IPAddress("192.0.2.1")!, IPAddress("2001:db8::1")!], transport: 6, ports: ports.map { $0...$0 })
      ])
    var packets = ClassifierTests.cases.filter { $0.vlan == 0 }.map(\.packet)
    packets += [UInt16(30000), 30001, 31998].flatMap {
      [
        ipv4(to: ClassifierTests.own, 6, ClassifierTests.ports($0)),
        ipv6(to: "2001:db8::1", 6, ClassifierTests.ports($0)),
      ]
    }
    // Every beginning too.
    packets += packets.flatMap { packet in (1..<max(1, packet.count)).map { Array(packet.prefix($0)) } }
    var taken = 0
    for filter in try [classifier, shared, ClassifierTests.doors, many, .everything].map({ try $0.socketFilter() }) {
      let program = unsafe filter.withUnsafeBytes { unsafe kalsae_bpf_load_classic($0.baseAddress!, filter.count) }
      try #require(program >= 0, "error \(-program)")
      defer { close(program) }
      for packet in packets where packet.count > 20 {
        // A program for sockets is run on what is behind an Ethernet header.
        var frame = [UInt8](repeating: 0, count: 12) + [0x88, 0xb5] + packet
        var capacity = UInt32(frame.count)
        var verdict: UInt32 = 0
        var time: UInt32 = 0
        let length = capacity
        let result = unsafe kalsae_bpf_run(program, 1, 0, 0, &frame, length, &capacity, 1, &verdict, &time)
        #expect(result == 0)
        let expected = interpret(filter, packet)
        if verdict == .max { taken += 1 }
        #expect(verdict == expected, "\(packet)")
      }
    }
    #expect(taken > 100)
  }

  @Test("more prefixes than the kernel takes are refused with a remedy, and as many as it takes work")
  func size() throws {
    func classifier(_ count: UInt32) -> PacketClassifier {
      PacketClassifier(
        destinations: (0..<count).map { .v4(IPv4Prefix(IPv4Address(rawValue: 10 << 24 | $0 << 9), length: 24)) })
    }
    // Every other one, so that they cannot be joined.
    let many = try classifier(700).socketFilter()
    #expect(many.count > 255, "far jumps are part of what is tested")
    #expect(interpret(many, ipv4(to: [10, 0, 0, 1], 6)) == .max)
    #expect(interpret(many, ipv4(to: [10, 0, 1, 1], 6)) == 0)
    #expect(interpret(many, ipv4(to: [10, 5, 118, 1], 6)) == .max)
    #expect(interpret(many, ipv4(to: [10, 5, 120, 1], 6)) == 0)
    let error = #expect(throws: NodeError.self) { try classifier(2000).socketFilter() }
    #expect(error?.description.contains("join neighbouring prefixes") == true)
  }
}
