import Addresses
import Ports
import Testing

@testable import Dataplane

/// What the tables say of themselves before they are full.
@Suite struct TableUseTests {
  private let wire = Wire(family: .ipv4, transport: .udp)

  private func uses(_ bench: Bench) -> [TableUse.Table: TableUse] {
    Dictionary(uniqueKeysWithValues: (bench.pipeline.tableUse + bench.tables.use).map { ($0.table, $0) })
  }

  private func entries(_ bench: Bench) -> [TableUse.Table: Int] { uses(bench).mapValues(\.entries) }

  @Test("KP-50 KP-54 every table tells its entries, its room and its memory") func everyTable() throws {
    let bench = Bench.forServices()
    let before = uses(bench)
    #expect(Set(before.keys) == Set(TableUse.Table.allCases))
    for use in before.values {
      #expect(use.octets > 0 && use.capacity > 0 && use.entries <= use.capacity, "\(use)")
    }
    #expect(
      Set(before.values.filter { !$0.grows }.map(\.table))
        == [.flowsIPv4, .flowsIPv6, .affinity, .fragments, .reassembly, .waiting])
    // Nothing is in use that nobody has entered.
    for (table, count) in before.mapValues(\.entries) where table != .hops { #expect(count == 0, "\(table)") }
    let hops = try #require(before[.hops]).entries

    let service = bench.serve(
      wire, [bench.endpoint(11), bench.endpoint(30)], local: [bench.endpoint(11)], affinity: 100)
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service)
    bench.tables.setPolicyIdentity(1, peers: [7, 8], ports: [])
    bench.tables.setPolicyBlock(IPPrefix("10.0.0.0/8")!, peers: [.block(1)])
    bench.tables.setPolicyGroup(1, [7: .any, .block(1): .ports(6, 80...80)], pods: [])
    bench.tables.setPodPolicy(bench.pod(11), PodPolicy(identity: 1, ingress: 1))
    var now = entries(bench)
    #expect(now[.services] == 1 && now[.frontends] == 2 && now[.backends] == 2 && now[.hops] == hops)
    #expect(now[.serviceLists] == 4, "three places, in a list of four words")
    #expect(now[.policyPods] == 1 && now[.policyBlocks] == 1 && now[.policyPorts] == 2)
    #expect(now[.policyLists] ?? 0 >= 7)

    // What goes is not counted any longer.
    bench.tables.removePodPolicy(bench.pod(11))
    bench.tables.setPolicyGroup(1, [:], pods: [])
    bench.tables.setPolicyIdentity(1, peers: [], ports: [])
    bench.tables.removePolicyBlock(IPPrefix("10.0.0.0/8")!)
    bench.tables.removeFrontend(
      Frontend(.nodePort, address: nil, family: .ipv4, transport: wire.transport.number, port: 30080))
    bench.tables.updateService(service, ServicePort(name: "test/web:http", cluster: [bench.endpoint(11)], local: []))
    now = entries(bench)
    #expect(now[.services] == 1 && now[.frontends] == 1 && now[.backends] == 1 && now[.serviceLists] == 1)
    for table in [TableUse.Table.policyPods, .policyBlocks, .policyPorts, .policyLists] {
      #expect(now[table] == 0, "\(table)")
    }
  }

  @Test(
    "KP-50 clients, flows, fragments and packets that wait are counted while they are there, in both families",
    arguments: bothFamilies)
  func byPackets(_ family: IPFamily) {
    let wire = Wire(family: family, transport: .udp)
    let bench = Bench.forServices()
    bench.serve(wire, [bench.endpoint(11, family)], affinity: 100)
    for port in 0..<3 {
      let request = packet(.udp, bench.pod(10, family), bench.vip(family), from: 5000 + port, to: 80)
      #expect(bench.send(bench.fromPod(request), at: bench.podA).drops.isEmpty)
    }
    // The first of two fragments, and the second of another datagram, which waits.
    let octets = u16(1000) + u16(2000) + u16(48) + u16(0) + [UInt8](repeating: 7, count: 40)
    for (number, offset) in [(1, 0), (2, 24)] {
      let part = ip(
        bench.pod(10, family), bench.remote(10, family), 17, Array(octets[offset..<offset + 24]),
        with: IPFields(identification: number, more: offset == 0, offset: offset))
      _ = bench.send(bench.fromPod(part), at: bench.podA)
    }
    let now = entries(bench)
    #expect(now[.affinity] == 1)
    #expect(now[family == .ipv4 ? .flowsIPv4 : .flowsIPv6] == 4)
    #expect(now[family == .ipv4 ? .flowsIPv6 : .flowsIPv4] == 0)
    #expect(now[.fragments] == 2)
    #expect(now[.waiting] == 1)
    // All but the flows are over after a while.
    _ = bench.tick(101)
    let later = entries(bench)
    #expect(later[.affinity] == 0 && later[.fragments] == 0 && later[.waiting] == 0)
  }

  @Test("Fragments that give way to others before their time are counted") func evictions() {
    let bench = Bench.forServices()
    bench.validates = false
    let octets = u16(1000) + u16(2000) + u16(48) + u16(0) + [UInt8](repeating: 7, count: 40)
    for number in 0..<3000 {
      let part = ip(
        bench.pod(10), bench.remote(10), 17, Array(octets[0..<24]), with: IPFields(identification: number, more: true))
      _ = bench.send(bench.fromPod(part), at: bench.podA)
    }
    let evicted = bench.pipeline.evictions.first { $0.table == .fragments }?.entries ?? 0
    let held = entries(bench)[.fragments] ?? 0
    #expect(held > 900 && held <= 1024)
    #expect(evicted == UInt64(3000 - held))
  }
}

/// Places of ports and peers.
@Suite struct PlaceTests {
  @Test("the places of ports and peers that are gone are given again, each once") func reuse() {
    var tables = Tables()
    func port(_ name: String) -> PortDescription {
      PortDescription(name: name, role: .pod, mac: MACAddress("02:00:00:00:00:01")!, mtu: 1500)
    }
    let first = (0..<100).map { tables.addPort(port("p\($0)")) }
    #expect(Set(first).count == 100)
    for index in [first[3], first[70], first[70]] { tables.removePort(index) }
    let second = (0..<3).map { tables.addPort(port("q\($0)")) }
    #expect(Set(second.prefix(2)) == [first[3], first[70]] && !first.contains(second[2]))
    #expect(second.map { tables.port($0)?.name } == ["q0", "q1", "q2"])

    func address(_ number: Int) -> IPAddress { IPAddress("10.0.0.\(number)")! }
    func peer(_ name: String) -> Peer { Peer(name: name, encapsulations: [.vxlan]) }
    for number in 1...20 { tables.setPeer(peer("n\(number)"), at: address(number)) }
    for number in [4, 9, 9] { tables.removePeer(at: address(number)) }
    for number in [30, 31, 32] { tables.setPeer(peer("n\(number)"), at: address(number)) }
    #expect(tables.peers.count == 21)
    for number in [1, 20, 30, 31, 32] {
      #expect(tables.peerAddresses.find(address(number)).flatMap { tables.peers[Int($0)]?.name } == "n\(number)")
    }
    #expect(tables.peerAddresses.find(address(9)) == nil)
  }
}
