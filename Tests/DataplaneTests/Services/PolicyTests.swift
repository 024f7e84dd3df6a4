import Addresses
import Ports
import Testing

@testable import Dataplane

/// Network policy on packets. What policies mean is compiled elsewhere; here the tables are filled by hand.
@Suite(.bothSubjects, .kernelPolicy) struct PolicyTests {
  // Identities.
  private let a: IdentityIndex = 1
  private let b: IdentityIndex = 2
  private let remote: IdentityIndex = 3

  /// Pods A and B and one of the other node with identities, and groups of rules for those that are given.
  private func bench(
    _ family: IPFamily, egress: [PeerIndex: PolicyPorts]? = nil, ingress: [PeerIndex: PolicyPorts]? = nil
  ) -> Bench {
    let bench = Bench.forServices()
    // Each identity is a peer of its own, by the same number.
    for identity in [a, b, remote] { bench.tables.setPolicyIdentity(identity, peers: [identity], ports: []) }
    // Group 1: what A may send. Group 2: what may be sent to B.
    if let egress { bench.tables.setPolicyGroup(1, egress, pods: []) }
    if let ingress { bench.tables.setPolicyGroup(2, ingress, pods: []) }
    bench.tables.setPodPolicy(bench.pod(10, family), PodPolicy(identity: a, egress: egress == nil ? 0 : 1))
    bench.tables.setPodPolicy(bench.pod(11, family), PodPolicy(identity: b, ingress: ingress == nil ? 0 : 2))
    bench.tables.setPodPolicy(bench.remote(10, family), PodPolicy(identity: remote))
    return bench
  }

  private func fromA(
    _ bench: Bench, _ wire: Wire, to destination: IPAddress, port: Int = 80, client: Int = 5000, flags: Int = Flag.syn
  ) -> Sent {
    bench.send(
      bench.fromPod(
        packet(wire.transport, bench.pod(10, wire.family), destination, from: client, to: port, flags: flags)),
      at: bench.podA)
  }

  private func toB(
    _ bench: Bench, _ wire: Wire, from source: IPAddress, port: Int = 80, client: Int = 5000
  ) -> Sent {
    let request = packet(wire.transport, source, bench.pod(11, wire.family), from: client, to: port)
    if source == bench.node(wire.family) { return bench.send(bench.fromHost(request), at: bench.host) }
    if source == bench.pod(10, wire.family) { return bench.send(bench.fromPod(request), at: bench.podA) }
    return bench.send(bench.fromNode(request), at: bench.underlay)
  }

  @Test("NP-1 a pod that no policy selects talks and is talked to", arguments: Wire.all)
  func notIsolated(_ wire: Wire) {
    let bench = bench(wire.family)
    #expect(fromA(bench, wire, to: bench.pod(11, wire.family)).drops.isEmpty)
    #expect(fromA(bench, wire, to: bench.client(wire.family)).drops.isEmpty)
    #expect(toB(bench, wire, from: bench.client(wire.family)).drops.isEmpty)
  }

  @Test("NP-2 an empty rule list denies all in its direction, and only in that", arguments: Wire.all)
  func denyAll(_ wire: Wire) {
    let family = wire.family
    let quiet = bench(family, egress: [:])
    for destination in [quiet.pod(11, family), quiet.remote(10, family), quiet.client(family)] {
      let sent = fromA(quiet, wire, to: destination)
      #expect(sent.isSilent)
      #expect(sent.drops == [.policyEgress: 1])
    }
    #expect(quiet.pipeline.flowCount == 0)
    let request = packet(wire.transport, quiet.pod(11, family), quiet.pod(10, family), from: 5000, to: 80)
    #expect(quiet.send(quiet.fromPod(request, 11), at: quiet.podB).octets(quiet.podA).count == 1)

    let closed = bench(family, ingress: [:])
    for source in [closed.pod(10, family), closed.remote(10, family), closed.client(family)] {
      let sent = toB(closed, wire, from: source)
      #expect(sent.isSilent)
      #expect(sent.drops == [.policyIngress: 1])
    }
    let out = packet(wire.transport, closed.pod(11, family), closed.client(family), from: 5000, to: 80)
    #expect(closed.send(closed.fromPod(out, 11), at: closed.podB).octets(closed.underlay).count == 1)
  }

  @Test("NP-3 any peer, any port; peers and ports together; several of either", arguments: Wire.all)
  func rules(_ wire: Wire) {
    let family = wire.family
    let transport = wire.transport.number
    func allowed(_ rules: [PeerIndex: PolicyPorts], _ source: (Bench) -> IPAddress, port: Int) -> Bool {
      let bench = bench(family, ingress: rules)
      return toB(bench, wire, from: source(bench), port: port).drops.isEmpty
    }
    let fromA: (Bench) -> IPAddress = { $0.pod(10, family) }
    let fromRemote: (Bench) -> IPAddress = { $0.remote(10, family) }
    let fromOutside: (Bench) -> IPAddress = { $0.client(family) }
    for source in [fromA, fromRemote, fromOutside] {
      #expect(allowed([.anyPeer: .any], source, port: 80))
      #expect(allowed([.anyPeer: .ports(transport)], source, port: 80))
      #expect(allowed([.anyPeer: .ports(transport, 80...80)], source, port: 80))
      #expect(!allowed([.anyPeer: .ports(transport, 80...80)], source, port: 81))
    }
    let both: [PeerIndex: PolicyPorts] = [a: .ports(transport, 80...80), remote: .ports(transport, 81...81)]
    #expect(allowed(both, fromA, port: 80))
    #expect(!allowed(both, fromA, port: 81))
    #expect(allowed(both, fromRemote, port: 81))
    #expect(!allowed(both, fromRemote, port: 80))
    #expect(!allowed(both, fromOutside, port: 80))
  }

  @Test("NP-4 blocks: by longest prefix, with exceptions that another block may take back", arguments: Wire.all)
  func blocks(_ wire: Wire) {
    let family = wire.family
    let names =
      family == .ipv4
      ? ["198.51.100.0/24", "198.51.100.64/26", "198.51.100.77/32"]
      : ["2001:db8:c::/64", "2001:db8:c::/112", "2001:db8:c::77/128"]
    let blocks = names.map { IPPrefix($0)! }
    // All but the second; and of that the third.
    let bench = bench(family, ingress: [.block(1): .any, .block(2): .any])
    bench.tables.setPolicyBlock(blocks[0], peers: [.block(1)])
    bench.tables.setPolicyBlock(blocks[1], peers: [])
    bench.tables.setPolicyBlock(blocks[2], peers: [.block(2)])
    let addresses =
      family == .ipv4
      ? ["198.51.100.1", "198.51.100.65", "198.51.100.77"] : ["2001:db8:c::1:1", "2001:db8:c::65", "2001:db8:c::77"]
    #expect(toB(bench, wire, from: IPAddress(addresses[0])!).drops.isEmpty)
    #expect(toB(bench, wire, from: IPAddress(addresses[1])!).drops == [.policyIngress: 1])
    #expect(toB(bench, wire, from: IPAddress(addresses[2])!).drops.isEmpty)
    #expect(toB(bench, wire, from: bench.remote(10, family)).drops == [.policyIngress: 1])
  }

  @Test("NP-5 a named port is what the destination calls so, as peer of any kind", arguments: Wire.all)
  func namedPorts(_ wire: Wire) {
    let family = wire.family
    let transport = wire.transport.number
    let name = family == .ipv4 ? "10.244.2.0/24" : "fd00:2::/64"
    for peer in [PeerIndex.anyPeer, .block(1), remote] {
      let bench = bench(family, egress: [peer: .named(7)])
      bench.tables.setPolicyBlock(IPPrefix(name)!, peers: [.block(1)])
      bench.tables.setPolicyIdentity(
        remote, peers: [remote],
        ports: [
          NamedPolicyPort(transport: transport, port: 8080, name: 7),
          NamedPolicyPort(transport: transport, port: 8081, name: 8),
        ])
      // Another pod in the block has the name for another port, and B, which is not in it, for the same.
      bench.tables.setPolicyIdentity(
        9, peers: [remote], ports: [NamedPolicyPort(transport: transport, port: 9090, name: 7)])
      bench.tables.setPolicyIdentity(
        b, peers: [b], ports: [NamedPolicyPort(transport: transport, port: 8080, name: 7)])
      bench.tables.setPodPolicy(bench.remote(11, family), PodPolicy(identity: 9))
      #expect(fromA(bench, wire, to: bench.remote(10, family), port: 8080).drops.isEmpty)
      #expect(fromA(bench, wire, to: bench.remote(10, family), port: 8081).drops == [.policyEgress: 1])
      #expect(fromA(bench, wire, to: bench.remote(10, family), port: 9090).drops == [.policyEgress: 1])
      #expect(fromA(bench, wire, to: bench.remote(11, family), port: 9090).drops.isEmpty)
      #expect(fromA(bench, wire, to: bench.remote(11, family), port: 8080).drops == [.policyEgress: 1])
      // In the block, but no pod.
      #expect(fromA(bench, wire, to: bench.remote(12, family), port: 8080).drops == [.policyEgress: 1])
      let toB = fromA(bench, wire, to: bench.pod(11, family), port: 8080).drops
      #expect(toB == (peer == .anyPeer ? [:] : [.policyEgress: 1]))
    }
  }

  @Test("NP-3 a peer is found among any number of a group's, and of its own")
  func longLists() {
    var generator = SeededGenerator(0x4b61_6c73_6165)
    for (rules, peers) in [(1, 1), (1, 500), (500, 1), (3, 40), (40, 3), (300, 300)] {
      for _ in 0..<20 {
        var table = PolicyTable()
        let wanted = Set((0..<rules).map { _ in PeerIndex(generator.next() % 2000 + 1) })
        let own = Set((0..<peers).map { _ in PeerIndex(generator.next() % 2000 + 1) })
        let address = IPAddress("10.1.1.1")!
        table.setIdentity(5, peers: own, ports: [])
        table.setPod(address, PodPolicy(identity: 5))
        table.setGroup(1, Dictionary(uniqueKeysWithValues: wanted.map { ($0, .ports(6, UInt16($0)...UInt16($0))) }))
        for port in wanted.union(own).shuffled(using: &generator).prefix(60) {
          let isAllowed = table.allows(
            1, peer: address, pod: table.pod(address), receiver: 0, transport: 6, port: UInt16(port))
          #expect(isAllowed == (wanted.contains(port) && own.contains(port)))
        }
      }
    }
  }

  @Test("NP-5 port ranges are exact at both ends, whatever their size", arguments: Wire.all)
  func ranges(_ wire: Wire) {
    for range in [1...1, 80...81, 1000...1999, 1...65535, 32768...65535, 65535...65535, 7...40000]
      as [ClosedRange<UInt16>]
    {
      let bench = bench(wire.family, ingress: [.anyPeer: .ports(wire.transport.number, range)])
      let low = Int(range.lowerBound)
      let high = Int(range.upperBound)
      for port in Set([low - 1, low, low + 1, (low + high) / 2, high - 1, high, high + 1])
      where (1...65535).contains(port) {
        let sent = toB(bench, wire, from: bench.pod(10, wire.family), port: port, client: 5000)
        #expect(sent.drops.isEmpty == range.contains(UInt16(port)), "\(port) in \(range)")
      }
    }
  }

  @Test("NP-5 rules for ports add up, whatever their order, and never spill into another protocol")
  func unions() {
    var generator = SeededGenerator(7)
    for _ in 0..<200 {
      var ports = PolicyPorts()
      var parts: [PolicyPorts] = []
      var allowed = [Set<UInt16>](repeating: [], count: 3)
      for _ in 0..<(generator.next() % 12) {
        let transport = Int(generator.next() % 3)
        let first = UInt16(truncatingIfNeeded: generator.next() % 40)
        let last = generator.next() % 4 == 0 ? 65535 - first : first + UInt16(generator.next() % 9)
        parts.append(.ports(UInt8(5 + transport), first...max(first, last)))
        for port in [UInt16](0...60) + [65000, 65534, 65535] where (first...max(first, last)).contains(port) {
          allowed[transport].insert(port)
        }
      }
      ports.formUnion(parts)
      var table = PolicyTable()
      table.setGroup(1, [.anyPeer: ports])
      for transport in 0..<3 {
        for port in [UInt16](0...60) + [65000, 65534, 65535] {
          let isAllowed = table.allows(
            1, peer: IPAddress("10.1.1.1")!, pod: 0, receiver: 0, transport: UInt8(5 + transport), port: port)
          #expect(isAllowed == allowed[transport].contains(port))
        }
      }
      var reversed = PolicyPorts()
      reversed.formUnion(parts.reversed())
      #expect(reversed == ports)
    }
  }

  @Test("NP-6 both sides must agree; answers are implied, also of TCP, UDP, SCTP and echo", arguments: Wire.all)
  func replies(_ wire: Wire) {
    let family = wire.family
    let open: [PeerIndex: PolicyPorts] = [.anyPeer: .ports(wire.transport.number, 80...80)]
    let none: [PeerIndex: PolicyPorts] = [:]
    let cases: [([PeerIndex: PolicyPorts], [PeerIndex: PolicyPorts], [DropReason: Int])] = [
      (open, none, [.policyIngress: 1]), (none, open, [.policyEgress: 1]), (open, open, [:]),
    ]
    for (egress, ingress, drops) in cases {
      let bench = bench(family, egress: egress, ingress: ingress)
      #expect(fromA(bench, wire, to: bench.pod(11, family)).drops == drops)
    }
    // Both pods are closed in both directions but for A to B's port 80.
    let bench = bench(family, egress: open, ingress: open)
    bench.tables.setPolicyGroup(3, [:], pods: [])
    bench.tables.setPodPolicy(bench.pod(10, family), PodPolicy(identity: a, egress: 1, ingress: 3))
    bench.tables.setPodPolicy(bench.pod(11, family), PodPolicy(identity: b, egress: 3, ingress: 2))
    #expect(fromA(bench, wire, to: bench.pod(11, family)).drops.isEmpty)
    for flags in [Flag.syn | Flag.ack, Flag.ack] {
      let answer = packet(
        wire.transport, bench.pod(11, family), bench.pod(10, family), from: 80, to: 5000, flags: flags)
      let back = bench.send(bench.fromPod(answer, 11), at: bench.podB)
      #expect(back.octets(bench.podA).count == 1)
      #expect(!back.trace.contains(.flowMissing))
    }
    // What is not an answer is none.
    let other = packet(
      wire.transport, bench.pod(11, family), bench.pod(10, family), from: 80, to: 5001, flags: Flag.ack)
    #expect(bench.send(bench.fromPod(other, 11), at: bench.podB).drops == [.policyEgress: 1])
  }

  @Test(
    "NP-6 ICMP: rules with ports do not allow it, rules without do; errors about a connection are answers",
    arguments: bothFamilies)
  func controlMessages(_ family: IPFamily) {
    let echo = family == .ipv4 ? 8 : 128
    let (type, code) = family == .ipv4 ? (3, 3) : (1, 4)
    let rules: [([PeerIndex: PolicyPorts], Bool)] = [
      ([.anyPeer: .any], true), ([b: .any], true), ([.anyPeer: .ports(6)], false), ([.anyPeer: .ports(17)], false),
    ]
    for (rule, isAllowed) in rules {
      let bench = bench(family, egress: rule)
      let ping = icmp(bench.pod(10, family), bench.pod(11, family), echo, rest: 0x0007_0001)
      let sent = bench.send(bench.fromPod(ping), at: bench.podA)
      #expect(sent.drops == (isAllowed ? [:] : [.policyEgress: 1]))
      let pong = icmp(
        bench.pod(11, family), bench.pod(10, family), echo + (family == .ipv4 ? -8 : 1), rest: 0x0007_0001)
      if isAllowed { #expect(bench.send(bench.fromPod(pong, 11), at: bench.podB).octets(bench.podA).count == 1) }
    }
    // B is closed, and so may report only about what it was sent.
    let bench = bench(family)
    bench.tables.setPolicyGroup(3, [:], pods: [])
    bench.tables.setPodPolicy(bench.pod(11, family), PodPolicy(identity: b, egress: 3))
    let datagram = udp(bench.pod(10, family), bench.pod(11, family), from: 5000, to: 53)
    let error = icmp(bench.pod(11, family), bench.pod(10, family), type, code, datagram)
    #expect(bench.send(bench.fromPod(error, 11), at: bench.podB).drops == [.policyEgress: 1])
    #expect(bench.send(bench.fromPod(datagram), at: bench.podA).octets(bench.podB).count == 1)
    #expect(bench.send(bench.fromPod(error, 11), at: bench.podB).octets(bench.podA).count == 1)
    // And to nobody but who sent it.
    let astray = icmp(bench.pod(11, family), bench.remote(10, family), type, code, datagram)
    #expect(bench.send(bench.fromPod(astray, 11), at: bench.podB).drops == [.policyEgress: 1])
  }

  @Test("NP-7 a pod and its own node, and a pod and itself, are never kept apart", arguments: Wire.all)
  func ownNode(_ wire: Wire) {
    let family = wire.family
    let bench = bench(family, egress: [:], ingress: [:])
    #expect(fromA(bench, wire, to: bench.node(family)).octets(bench.host).count == 1)
    #expect(toB(bench, wire, from: bench.node(family)).octets(bench.podB).count == 1)
    #expect(fromA(bench, wire, to: bench.otherNode(family)).drops == [.policyEgress: 1])
    // On whatever device the node has the address.
    let elsewhere = bench.client(family, 9)
    func fromHost() -> Sent {
      let request = packet(wire.transport, elsewhere, bench.pod(11, family), from: 5001, to: 80)
      return bench.send(bench.fromHost(request), at: bench.host)
    }
    #expect(fromHost().drops == [.policyIngress: 1])
    bench.tables.addOwnAddress(elsewhere)
    #expect(fromHost().octets(bench.podB).count == 1)
    bench.tables.removeOwnAddress(elsewhere)
    #expect(fromHost().drops == [.policyIngress: 1])
    // Itself, by a service.
    bench.tables.setPolicyGroup(4, [:], pods: [])
    bench.tables.setPodPolicy(bench.pod(10, family), PodPolicy(identity: a, egress: 4, ingress: 4))
    bench.serve(wire, [bench.endpoint(10, family)])
    #expect(fromA(bench, wire, to: bench.vip(family)).octets(bench.podA).count == 1)
  }

  @Test("NP-8 a rule for one protocol never matches another's port", arguments: bothFamilies)
  func protocols(_ family: IPFamily) {
    for rule in Transport.allCases {
      for transport in Transport.allCases {
        let bench = bench(family, ingress: [.anyPeer: .ports(rule.number, 80...80)])
        let sent = toB(bench, Wire(family: family, transport: transport), from: bench.pod(10, family))
        #expect(sent.drops == (rule == transport ? [:] : [.policyIngress: 1]))
      }
    }
  }

  @Test("NP-10 policy sees the client before masquerade and the endpoint after translation", arguments: Wire.all)
  func translated(_ wire: Wire) {
    let family = wire.family
    let transport = wire.transport.number
    // B takes A on 8080; the node's address, and port 80, are nobody.
    let bench = bench(
      family, egress: [b: .ports(transport, 8080...8080)],
      ingress: [a: .ports(transport, 8080...8080)])
    bench.tables.settings.masqueradeAll = true
    bench.serve(wire, [bench.endpoint(11, family)])
    let sent = fromA(bench, wire, to: bench.vip(family))
    #expect(sent.tuples(bench.podB).first?.source == bench.node(family))
    // Nor does the cluster IP's port open anything.
    let closed = self.bench(family, egress: [.anyPeer: .ports(transport, 80...80)])
    closed.serve(wire, [closed.endpoint(11, family)])
    #expect(fromA(closed, wire, to: closed.vip(family)).drops == [.policyEgress: 1])
    // From outside by a NodePort with the client's address kept.
    let outside = family == .ipv4 ? "198.51.100.7/32" : "2001:db8:c::7/128"
    let node = self.bench(family, ingress: [.block(1): .ports(transport, 8080...8080)])
    node.tables.setPolicyBlock(IPPrefix(outside)!, peers: [.block(1)])
    let service = node.addService([node.endpoint(11, family)], local: [node.endpoint(11, family)])
    for isLocal in [true, false] {
      node.setFrontend(.nodePort, nil, wire, port: 30080, service, isLocal: isLocal)
      for (client, isAllowed) in [(node.client(family), true), (node.client(family, 8), false)] {
        let request = packet(wire.transport, client, node.node(family), from: isLocal ? 5000 : 5001, to: 30080)
        let sent = node.send(node.fromNode(request), at: node.underlay)
        #expect(sent.drops == (isAllowed ? [:] : [.policyIngress: 1]))
        #expect(sent.octets(node.podB).count == (isAllowed ? 1 : 0))
      }
    }
  }

  // MARK: Changes

  @Test(
    "NP-1 a change decides established connections anew: of the pods it touches, and of no others", arguments: Wire.all)
  func change(_ wire: Wire) {
    let family = wire.family
    let bench = bench(family, egress: [.anyPeer: .any])
    #expect(fromA(bench, wire, to: bench.pod(11, family)).drops.isEmpty)
    #expect(fromA(bench, wire, to: bench.remote(10, family)).drops.isEmpty)
    let other = packet(wire.transport, bench.pod(11, family), bench.remote(10, family), from: 5000, to: 80)
    #expect(bench.send(bench.fromPod(other, 11), at: bench.podB).octets(bench.underlay).count == 1)
    if bench.kernel == nil { #expect(bench.pipeline.flowCount == 3) }
    // A may talk to B only.
    bench.tables.setPolicyGroup(1, [b: .any], pods: [bench.pod(10, family)])
    let kept = fromA(bench, wire, to: bench.pod(11, family), flags: Flag.ack)
    #expect(kept.octets(bench.podB).count == 1)
    #expect(kept.trace.contains(.flowStale) && !kept.trace.contains(.flowMissing))
    let cut = fromA(bench, wire, to: bench.remote(10, family), flags: Flag.ack)
    #expect(cut.drops == [.policyEgress: 1])
    // What the other side sends now is a connection of its own, which nothing forbids.
    let answer = packet(
      wire.transport, bench.remote(10, family), bench.pod(10, family), from: 80, to: 5000, flags: Flag.ack)
    #expect(bench.send(bench.fromNode(answer), at: bench.underlay).octets(bench.podA).count == 1)
    let untouched = bench.send(bench.fromPod(other, 11), at: bench.podB)
    #expect(untouched.octets(bench.underlay).count == 1)
    #expect(!untouched.trace.contains { if case .policyDecided = $0 { true } else { false } })
    if bench.kernel == nil {
      #expect(bench.pipeline.flows().contains { $0.source == bench.pod(11, family) && $0.forward.packets == 2 })
    }
  }

  @Test("NP-1 an answer of a connection that is not allowed any more ends it, too", arguments: Wire.all)
  func changeBeforeAnswer(_ wire: Wire) {
    let family = wire.family
    let bench = bench(family)
    #expect(fromA(bench, wire, to: bench.pod(11, family)).drops.isEmpty)
    bench.tables.setPolicyGroup(2, [:], pods: [])
    bench.tables.setPodPolicy(bench.pod(11, family), PodPolicy(identity: b, ingress: 2))
    let answer = packet(
      wire.transport, bench.pod(11, family), bench.pod(10, family), from: 80, to: 5000, flags: Flag.ack)
    #expect(bench.send(bench.fromPod(answer, 11), at: bench.podB).drops == [.policyIngress: 1])
    #expect(bench.pipeline.flowCount == 0)
  }

  @Test("NP-1 a translated connection is judged again by the endpoint that it has", arguments: Wire.all)
  func changeOfTranslated(_ wire: Wire) {
    let family = wire.family
    for isAllowed in [true, false] {
      let bench = bench(family)
      bench.serve(wire, [bench.endpoint(11, family)])
      #expect(fromA(bench, wire, to: bench.vip(family)).octets(bench.podB).count == 1)
      let port: UInt16 = isAllowed ? 8080 : 80
      bench.tables.setPolicyGroup(
        2, [a: .ports(wire.transport.number, port...port)], pods: [])
      bench.tables.setPodPolicy(bench.pod(11, family), PodPolicy(identity: b, ingress: 2))
      let sent = fromA(bench, wire, to: bench.vip(family), flags: Flag.ack)
      #expect(sent.drops == (isAllowed ? [:] : [.policyIngress: 1]))
      #expect(sent.octets(bench.podB).count == (isAllowed ? 1 : 0))
    }
  }

  @Test("NP-9 an address that becomes a pod's is isolated at once, whatever was known of it", arguments: Wire.all)
  func appears(_ wire: Wire) {
    let family = wire.family
    let bench = Bench.forServices()
    bench.tables.setPolicyIdentity(remote, peers: [remote], ports: [])
    // Nothing is known of the pods yet.
    #expect(fromA(bench, wire, to: bench.remote(10, family)).drops.isEmpty)
    #expect(fromA(bench, wire, to: bench.pod(11, family)).drops.isEmpty)
    bench.tables.setPolicyGroup(1, [remote: .any], pods: [])
    bench.tables.setPodPolicy(bench.pod(10, family), PodPolicy(identity: a, egress: 1))
    #expect(fromA(bench, wire, to: bench.remote(10, family), flags: Flag.ack).drops == [.policyEgress: 1])
    #expect(fromA(bench, wire, to: bench.pod(11, family), flags: Flag.ack).drops == [.policyEgress: 1])
    bench.tables.setPodPolicy(bench.remote(10, family), PodPolicy(identity: remote))
    #expect(fromA(bench, wire, to: bench.remote(10, family), flags: Flag.ack).drops.isEmpty)
    // Its place goes to another pod, and back to nobody.
    bench.tables.removePodPolicy(bench.remote(10, family))
    #expect(fromA(bench, wire, to: bench.remote(10, family), flags: Flag.ack).drops == [.policyEgress: 1])
    bench.tables.removePodPolicy(bench.pod(10, family))
    #expect(fromA(bench, wire, to: bench.remote(10, family), flags: Flag.ack).drops.isEmpty)
  }

  @Test("NP-1 groups, identities and blocks that come and go leave nothing behind") func tables() {
    var table = PolicyTable()
    let prefix = IPPrefix("10.0.0.0/8")!
    let address = IPAddress("10.1.1.1")!
    table.setPod(address, PodPolicy(identity: 5, egress: 1))
    let rules: [PeerIndex: PolicyPorts] = [
      .block(1): .ports(6, 80...80), 9: .ports(17), 8: .ports(132, 9...9), .anyPeer: .ports(6, 1024...2047),
    ]
    let pod = table.pod(address)
    func allows(_ transport: UInt8, _ port: UInt16, group: PolicyGroupIndex = 1) -> Bool {
      table.allows(group, peer: address, pod: pod, receiver: pod, transport: transport, port: port)
    }
    for _ in 0..<100 {
      table.setBlock(prefix, peers: [.block(1)])
      table.setIdentity(5, peers: [7, 8, 9], ports: [])
      table.setGroup(1, rules)
      #expect(allows(6, 80) && allows(17, 4) && allows(132, 9) && allows(6, 1024) && allows(6, 2047))
      #expect(!allows(6, 81) && !allows(132, 10) && !allows(6, 2048) && !allows(6, 80, group: 2))
      table.setIdentity(5, peers: [], ports: [])
      #expect(!allows(17, 4) && allows(6, 80))
      table.removeBlock(prefix)
      #expect(!allows(6, 80))
      table.setGroup(1, [:])
      #expect(!allows(6, 1024))
    }
    #expect(table.octets == PolicyTable().octets)
  }
}
