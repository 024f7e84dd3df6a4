import Addresses
import EBPF
import Glibc
import Lab
import Ports
import Testing

@testable import Dataplane

/// What the kernel's programs for policy do beyond the vectors that they share with the pipeline (`PolicyTests`).
@Suite("Policy in the kernel", .kernelPolicy, .enabled(if: Lab.isAvailable, "needs root"))
struct KernelPolicyTests {
  @Test(
    "NP-1, NP-2, NP-3, NP-4, NP-5, NP-6, NP-7, NP-8, NP-9: random policies that change, and random packets: the kernel's programs say what the pipeline says",
    arguments: 1...20)
  func sameAsPipeline(seed: UInt64) throws {
    var random = SeededGenerator(seed &* 0x9e37_79b9)
    let bench = Bench.forServices()
    bench.pipeline.isTracing = false
    bench.validates = false
    for family in bothFamilies {
      bench.tables.setRoute(Route(IPPrefix(host: bench.otherNode(family)), hops: [bench.hop]))
    }
    var world = PolicyWorld(bench)
    for _ in 0..<12 {
      // What is changed together is followed at once, which waits for the kernel.
      for _ in 0..<4 { world.change(&random) }
      for _ in 0..<170 {
        let (frames, port) = world.packets(&random)
        for frame in frames { bench.send([MemoryFrame(frame)], at: port) }
      }
    }
    let subject = try #require(bench.policySubject)
    #expect(subject.judged - subject.skipped > 1900, "skipped: \(subject.skipped) of \(subject.judged)")
    // Neither all nor nothing.
    #expect(subject.dropped > 200 && subject.dropped < 1900, "dropped: \(subject.dropped) of \(subject.judged)")
  }

  @Test(
    "NODE-4 a pod sends only from its own addresses, and no frames that policy cannot read", arguments: bothFamilies)
  func sources(_ family: IPFamily) throws {
    let bench = Bench.forServices()
    let subject = try #require(bench.policySubject)
    try subject.follow(bench)
    func judge(_ packet: [UInt8]) throws -> String? {
      try subject.judge(bench.fromPod(packet), at: bench.podA, bench)
    }
    #expect(try judge(udp(bench.pod(10, family), bench.client(family))) == nil)
    #expect(try judge(udp(bench.pod(11, family), bench.client(family))) == "sourceAddress")
    #expect(try judge(udp(bench.client(family), bench.remote(10, family))) == "sourceAddress")
    let odd = IPAddress(family == .ipv4 ? "224.0.0.1" : "ff02::1")!
    #expect(try judge(udp(odd, bench.client(family))) == "invalidSource")
    var frame = bench.fromPod(udp(bench.pod(10, family), bench.client(family)))
    frame[12] = 0x88
    frame[13] = 0x47
    #expect(try subject.judge(frame, at: bench.podA, bench) == "unknownEtherType")
    frame[12] = 0x81
    frame[13] = 0
    #expect(try subject.judge(frame, at: bench.podA, bench) == "unknownVLAN")
    frame[12] = 0x08
    frame[13] = 0x06
    #expect(try subject.judge(frame, at: bench.podA, bench) == nil)
  }

  @Test(
    "NODE-4 no tunnels, groups or source routes out of a pod, and discovery only on the link", arguments: bothFamilies)
  func unfit(_ family: IPFamily) throws {
    let bench = Bench.forServices()
    let subject = try #require(bench.policySubject)
    try subject.follow(bench)
    let (own, other) = (bench.pod(10, family), bench.client(family))
    func judge(_ packet: [UInt8], toGroup: Bool = false) throws -> String? {
      var frame = bench.fromPod(packet)
      if toGroup { frame[0] |= 1 }
      return try subject.judge(frame, at: bench.podA, bench)
    }
    #expect(try judge(udp(own, other), toGroup: true) == "multicast")
    #expect(try judge(udp(own, IPAddress(family == .ipv4 ? "224.0.0.251" : "ff02::fb")!)) == "multicast")
    #expect(try judge(udp(own, IPAddress(family == .ipv4 ? "127.0.0.1" : "::1")!)) == "invalidDestination")
    #expect(try judge(ip(own, other, 47, [0, 0, 8, 0])) == "tunnelFromPod")
    #expect(try judge(udp(own, other, to: 4789)) == "tunnelFromPod")
    #expect(try judge(udp(own, other, to: 4790)) == nil)
    if family == .ipv4 {
      let routed = IPFields(options: [1, 131, 7, 4, 10, 9, 8, 7])
      #expect(try judge(udp(own, other, with: routed)) == "sourceRoute")
      #expect(try judge(udp(own, other, with: IPFields(options: [1, 1, 1, 0]))) == nil)
    } else {
      let transport = Array(udp(own, other)[40...])
      func routing(_ type: UInt8) -> [UInt8] { [17, 2, type, 1, 0, 0, 0, 0] + [UInt8](repeating: 1, count: 16) }
      #expect(try judge(ip(own, other, 43, routing(0) + transport)) == "sourceRoute")
      #expect(try judge(ip(own, other, 43, routing(2) + transport)) == nil)
      #expect(try judge(ip(own, other, 60, [17, 9, 0, 0, 0, 0, 0, 0] + transport)) == "badExtensionHeader")
      // What would be taken for the IPv4 address of another.
      let dressed = IPAddress("::ffff:10.244.1.10")!
      #expect(try judge(udp(dressed, other)) == "sourceAddress")
      #expect(try judge(udp(own, dressed)) == "invalidDestination")
      for (target, isHere) in [("fe80::ecee:eeff:feee:eeee", true), ("ff02::1", true), ("2001:db8:c::7", false)] {
        let solicitation = icmp(own, IPAddress(target)!, 135, rest: 0, [UInt8](repeating: 1, count: 16))
        #expect(try judge(solicitation) == (isHere ? nil : "invalidDestination"), "\(target)")
      }
    }
    // The gateway is the node's, whatever a policy says.
    bench.tables.setPodPolicy(own, PodPolicy(identity: 1, egress: 1))
    try subject.follow(bench)
    #expect(try judge(udp(own, other, to: 4791)) == "policyEgress")
    guard family == .ipv4 else { return }
    let gateway = IPAddress("169.254.1.1")!
    #expect(try judge(icmp(own, gateway, 8)) == nil)
    // NP-7: where the node itself sends by it, and nobody else does.
    bench.tables.setPodPolicy(own, PodPolicy(identity: 1, egress: 1, ingress: 1))
    try subject.follow(bench)
    let fromGateway = udp(gateway, own)
    #expect(try subject.judge(bench.fromNode(fromGateway), at: bench.underlay, bench) == "policyIngress")
    #expect(try subject.judge(bench.fromHost(fromGateway), at: bench.host, bench) == nil)
  }

  @Test("KP-39 where connections have to begin with a SYN, one that is met in the middle is dropped")
  func strict() throws {
    let bench = Bench.forServices(settings: { $0.tcpBeLiberal = false })
    let subject = try #require(bench.policySubject)
    try subject.follow(bench)
    func judge(_ flags: Int) throws -> String? {
      try subject.judge(bench.fromPod(tcp(bench.pod(10), bench.client(.ipv4), flags)), at: bench.podA, bench)
    }
    #expect(try judge(Flag.ack) == "tcpNoSYN")
    #expect(try judge(Flag.syn) == nil)
    #expect(try judge(Flag.ack) == nil)
  }

  @Test("TUN-8 later fragments go the first one's way; without it they are dropped", arguments: bothFamilies)
  func fragments(_ family: IPFamily) throws {
    let bench = Bench.forServices()
    let subject = try #require(bench.policySubject)
    bench.tables.setPolicyIdentity(1, peers: [1], ports: [])
    bench.tables.setPolicyGroup(1, [.anyPeer: .ports(17, 80...80)], pods: [])
    bench.tables.setPodPolicy(bench.pod(10, family), PodPolicy(identity: 1, egress: 1))
    try subject.follow(bench)
    for (port, isAllowed) in [(80, true), (81, false)] {
      let whole = udp(
        bench.pod(10, family), bench.client(family), from: 5000, to: port, [UInt8](repeating: 7, count: 3000))
      let parts = fragmentsOf(whole, family, identification: UInt32(port))
      #expect(parts.count > 1)
      func judge(_ part: Int) throws -> String? {
        try subject.judge(bench.fromPod(parts[part]), at: bench.podA, bench)
      }
      #expect(try judge(1) == "fragmentNoFirst")
      #expect(try judge(0) == (isAllowed ? nil : "policyEgress"))
      #expect(try judge(1) == (isAllowed ? nil : "policyEgress"))
    }
  }

  /// A packet cut after 1200 octets of payload, as a host does it.
  private func fragmentsOf(_ packet: [UInt8], _ family: IPFamily, identification: UInt32) -> [[UInt8]] {
    let header = family == .ipv4 ? 20 : 40
    let payload = Array(packet[header...])
    return stride(from: 0, to: payload.count, by: 1200).map { offset in
      let part = Array(payload[offset..<min(offset + 1200, payload.count)])
      let more = offset + 1200 < payload.count
      var head = Array(packet[..<header])
      if family == .ipv4 {
        let length = header + part.count
        (head[2], head[3]) = (UInt8(length >> 8), UInt8(length & 255))
        (head[4], head[5]) = (UInt8(identification >> 8 & 255), UInt8(identification & 255))
        (head[6], head[7]) = (UInt8((offset / 8) >> 8) | (more ? 0x20 : 0), UInt8((offset / 8) & 255))
        rechecksum(&head)
        return head + part
      }
      let length = 8 + part.count
      let next = head[6]
      (head[4], head[5], head[6]) = (UInt8(length >> 8), UInt8(length & 255), 44)
      let field = offset | (more ? 1 : 0)
      let fragment: [UInt8] = [
        next, 0, UInt8(field >> 8), UInt8(field & 255), 0, 0, UInt8(identification >> 8 & 255),
        UInt8(identification & 255),
      ]
      return head + fragment + part
    }
  }

  @Test("NP-9 a connection that a change forbids is cut with its next packet; one that it does not forbid goes on")
  func cut() throws {
    let bench = Bench.forServices()
    let subject = try #require(bench.policySubject)
    bench.tables.setPolicyIdentity(1, peers: [1], ports: [])
    bench.tables.setPodPolicy(bench.pod(10), PodPolicy(identity: 1))
    try subject.follow(bench)
    func judge(_ port: Int) throws -> String? {
      let packet = tcp(bench.pod(10), bench.client(.ipv4), to: port, Flag.ack)
      return try subject.judge(bench.fromPod(packet), at: bench.podA, bench)
    }
    for port in [80, 81] { #expect(try judge(port) == nil) }
    bench.tables.setPolicyGroup(1, [.anyPeer: .ports(6, 80...80)], pods: [])
    bench.tables.setPodPolicy(bench.pod(10), PodPolicy(identity: 1, egress: 1))
    try subject.follow(bench)
    #expect(try judge(80) == nil)
    #expect(try judge(81) == "policyEgress")
    bench.tables.setPodPolicy(bench.pod(10), PodPolicy(identity: 1))
    try subject.follow(bench)
    #expect(try judge(81) == nil)
  }
}

/// Policies that change at random, as a compiler changes them, and packets that they concern.
private struct PolicyWorld {
  private let bench: Bench
  private var groups: [PolicyGroupIndex: [PeerIndex: PolicyPorts]] = [:]
  private var identification = 0
  private let blocks = [
    "198.51.100.0/24", "198.51.100.0/25", "198.51.100.4/30", "10.244.0.0/16", "10.244.2.0/24", "0.0.0.0/0",
    "2001:db8:c::/64", "2001:db8:c::/120", "fd00:2::/64", "::/0",
  ].map { IPPrefix($0)! }

  init(_ bench: Bench) { self.bench = bench }

  private func pods(_ family: IPFamily) -> [IPAddress] {
    [bench.pod(10, family), bench.pod(11, family), bench.remote(10, family), bench.remote(11, family)]
  }

  private var allPods: [IPAddress] { pods(.ipv4) + pods(.ipv6) }

  private func ports(_ random: inout SeededGenerator) -> PolicyPorts {
    var ports = PolicyPorts()
    for _ in 0...Int(random.next() % 4) {
      switch random.next() % 8 {
      case 0: ports.formUnion([.any])
      case 1: ports.formUnion([.ports([6, 17, 132][Int(random.next() % 3)])])
      case 2, 3: ports.formUnion([.named(PortNameIndex(random.next() % 3 + 1))])
      default:
        let first = UInt16(78 + random.next() % 8)
        ports.formUnion([
          .ports([6, 17, 132][Int(random.next() % 3)], first...first + UInt16(random.next() % 3))
        ])
      }
    }
    return ports
  }

  private func peer(_ random: inout SeededGenerator) -> PeerIndex {
    switch random.next() % 6 {
    case 0: .anyPeer
    case 1, 2: .block(UInt32(random.next() % 4 + 1))
    default: PeerIndex(random.next() % 6 + 1)
    }
  }

  mutating func change(_ random: inout SeededGenerator) {
    for _ in 0...Int(random.next() % 3) {
      switch random.next() % 12 {
      case 0, 1, 2:
        let identity = IdentityIndex(random.next() % 5 + 1)
        let peers = Set((0..<random.next() % 4).map { _ in PeerIndex(random.next() % 6 + 1) })
        let named = (0..<random.next() % 3).map { _ in
          NamedPolicyPort(
            transport: [6, 17, 132][Int(random.next() % 3)], port: UInt16(78 + random.next() % 8),
            name: PortNameIndex(random.next() % 3 + 1))
        }
        bench.tables.setPolicyIdentity(identity, peers: peers, ports: named)
      case 3, 4, 5:
        let group = PolicyGroupIndex(random.next() % 4 + 1)
        var rules: [PeerIndex: PolicyPorts] = [:]
        for _ in 0..<random.next() % 4 { rules[peer(&random)] = ports(&random) }
        groups[group] = rules
      case 6, 7, 8:
        func group() -> PolicyGroupIndex { PolicyGroupIndex(random.next() % 5) }
        bench.tables.setPodPolicy(
          allPods[Int(random.next() % 8)],
          PodPolicy(
            identity: IdentityIndex(random.next() % 6), egress: group(), ingress: group(),
            node: UInt32(random.next() % 3)))
      case 9:
        bench.tables.removePodPolicy(allPods[Int(random.next() % 8)])
      case 10:
        let block = blocks[Int(random.next() % UInt64(blocks.count))]
        if random.next() % 3 == 0 {
          bench.tables.removePolicyBlock(block)
        } else {
          let peers = Set((0..<random.next() % 4).map { _ in PeerIndex.block(UInt32(random.next() % 4 + 1)) })
          bench.tables.setPolicyBlock(block, peers: peers)
        }
      default:
        let address = [bench.otherNode(.ipv4), bench.otherNode(.ipv6), bench.client(.ipv4)][Int(random.next() % 3)]
        bench.tables.setPolicyNode(address, node: UInt32(random.next() % 3))
      }
    }
    // What a rule means may have changed for everybody.
    for group in 1...PolicyGroupIndex(4) {
      bench.tables.setPolicyGroup(group, groups[group] ?? [:], pods: allPods)
    }
  }

  /// Frames, one but where they are fragments, and the port that they come in by.
  mutating func packets(_ random: inout SeededGenerator) -> ([[UInt8]], PortIndex) {
    let family: IPFamily = random.next() % 2 == 0 ? .ipv4 : .ipv6
    let pods = pods(family)
    func one<T>(_ list: [T]) -> T { list[Int(random.next() % UInt64(list.count))] }
    // Whence: a pod, the node, or outside.
    let origin = one([0, 0, 0, 1, 1, 2, 3, 3, 3])
    var source = pods[min(origin, 1)]
    if origin == 2 { source = one([bench.node(family), bench.client(family)]) }
    if origin == 3 {
      source = one([bench.client(family), bench.client(family, 3), bench.otherNode(family), pods[2], pods[3]])
    }
    // Now and then somebody else's; what the node's own programs send with such the pipeline takes as it is.
    if origin != 2, random.next() % 24 == 0 { source = one(pods) }
    var destination = one(pods[..<2].filter { $0 != source })
    if origin < 2, random.next() % 2 == 0 {
      destination = one([
        bench.client(family), bench.client(family, 3), bench.otherNode(family), bench.node(family), pods[2], pods[3],
      ])
    }
    // Few ports, so that there are answers.
    let (high, low) = (5000 + Int(random.next() % 2), 78 + Int(random.next() % 8))
    let isAnswer = random.next() % 3 == 0
    let (from, to) = isAnswer ? (low, high) : (high, low)
    var frames: [[UInt8]]
    switch random.next() % 12 {
    case 0, 1, 2:
      let flags = one([Flag.syn, Flag.syn, Flag.syn | Flag.ack, Flag.ack, Flag.ack, Flag.fin | Flag.ack, Flag.rst])
      frames = [tcp(source, destination, from: from, to: to, flags)]
    case 3, 4: frames = [udp(source, destination, from: from, to: to)]
    case 5: frames = [sctp(source, destination, from: from, to: to)]
    case 6:
      let echo = family == .ipv4 ? (isAnswer ? 0 : 8) : (isAnswer ? 129 : 128)
      frames = [icmp(source, destination, echo, rest: one([0x0007_0001, 0x0008_0001]))]
    case 7: frames = [ip(source, destination, one([50, 1, 58, 4, 103]), [UInt8](repeating: 9, count: 16))]
    case 8:
      // In two parts.
      let datagram = udp(source, destination, from: from, to: to, [UInt8](repeating: 7, count: 32))
      let payload = Array(datagram[(family == .ipv4 ? 20 : 40)...])
      identification += 1
      frames = [(0, 24), (24, payload.count)].map { start, end in
        ip(
          source, destination, 17, Array(payload[start..<end]),
          with: IPFields(identification: identification, more: start == 0, offset: start))
      }
    default:
      // An error about something that was sent to its source, or not.
      let (type, code) = family == .ipv4 ? one([(3, 3), (11, 0), (12, 0)]) : one([(1, 4), (2, 0), (3, 0)])
      var (sender, target) = (destination, source)
      switch random.next() % 8 {
      case 0: target = one(pods)
      case 1: sender = one(pods)
      case 2: (sender, target) = (target, sender)
      default: break
      }
      let quoted =
        switch random.next() % 4 {
        case 0: tcp(sender, target, from: to, to: from, Flag.ack)
        case 1: sctp(sender, target, from: to, to: from)
        case 2: icmp(sender, target, family == .ipv4 ? (isAnswer ? 0 : 8) : (isAnswer ? 129 : 128), rest: 0x0007_0001)
        default: udp(sender, target, from: to, to: from)
        }
      frames = [icmp(source, destination, type, code, Array(quoted.dropLast(Int(random.next() % 3) * 4)))]
    }
    switch origin {
    case 0, 1: return (frames.map { bench.fromPod($0, 10 + origin) }, origin == 0 ? bench.podA : bench.podB)
    case 2: return (frames.map { bench.fromHost($0) }, bench.host)
    default: return (frames.map { bench.fromNode($0) }, bench.underlay)
    }
  }
}
