import Addresses
import Ports
import Testing

@testable import Dataplane

/// How a new connection gets its endpoint.
@Suite(.bothSubjects) struct SelectionTests {
  /// Opens connections from ports `ports` to the cluster IP and returns the pods' addresses that they go to.
  private func choices(
    _ bench: Bench, _ wire: Wire, _ ports: Range<Int>, source: IPAddress? = nil, vip: Int = 1
  ) -> [IPAddress] {
    let frames = ports.map { port in
      MemoryFrame(
        bench.fromPod(
          packet(
            wire.transport, source ?? bench.pod(10, wire.family), bench.vip(wire.family, vip), from: port, to: 80,
            [1, 2])))
    }
    return bench.send(frames, at: bench.podA).tuples(bench.underlay).map(\.destination)
  }

  private func many(_ bench: Bench, _ count: Int, _ family: IPFamily = .ipv4) -> [ServicePort.Endpoint] {
    (1...count).map { ServicePort.Endpoint(bench.remote($0, family), 8080) }
  }

  @Test("KP-15 endpoints are chosen uniformly at random", arguments: Wire.all)
  func uniform(_ wire: Wire) {
    for seed in [UInt64(0), .max] {
      let bench = Bench.forServices(seed: seed)
      bench.validates = false
      let endpoints = many(bench, 5, wire.family)
      bench.serve(wire, endpoints)
      let found = choices(bench, wire, 10000..<12000)
      #expect(found.count == 2000)
      let counts = endpoints.map { endpoint in found.count { $0 == endpoint.address } }
      let chiSquare = counts.reduce(0.0) { $0 + (Double($1) - 400) * (Double($1) - 400) / 400 }
      // Four degrees of freedom: less in 99,999 of 100,000 cases (the kernel's choices are others in each run). And not
      // suspiciously even either: less than this in 3 of a million.
      #expect(chiSquare < 28.5, "seed \(seed): \(counts)")
      #expect(chiSquare > 0.005, "seed \(seed): \(counts)")
      // One choice says nothing about the next.
      let repeats = zip(found, found.dropFirst()).count { $0 == $1 }
      #expect((320...480).contains(repeats), "seed \(seed): \(repeats)")
    }
  }

  @Test("KP-15 every connection chooses anew, a packet of a known one never") func perConnection() {
    let bench = Bench.forServices()
    let wire = Wire(family: .ipv4, transport: .udp)
    bench.serve(wire, many(bench, 4))
    let first = choices(bench, wire, 5000..<5100)
    #expect(Set(first).count == 4)
    for _ in 0..<3 { #expect(choices(bench, wire, 5000..<5100) == first) }
  }

  // MARK: Maglev

  @Test("KP-15 Maglev: a prime of a hundred places an endpoint or more, shares within a hundredth")
  func shares() throws {
    for count in [1, 2, 3, 7, 8, 9, 50, 64, 100, 300, 1024, 5000] {
      let size = Maglev.size(for: count)
      #expect(size >= 100 * count)
      try #require((2..<size).prefix { $0 * $0 <= size }.allSatisfy { size % $0 != 0 }, "\(size) is no prime")
      if count > 300 { continue }
      let endpoints = (0..<count).map {
        ServicePort.Endpoint(.v4(IPv4Address(rawValue: 0x0af4_0000 + UInt32($0))), 8080)
      }
      var counts = [Int](repeating: 0, count: count)
      for place in Maglev.table(endpoints, size: size) { counts[Int(place)] += 1 }
      let least = counts.min()!
      let most = counts.max()!
      #expect(Double(most - least) <= 0.01 * Double(size) / Double(count) + 1, "\(count): \(least) to \(most)")
      // In any order the same.
      let shuffled = endpoints.reversed().map { $0 }
      let again = Maglev.table(shuffled, size: size)
      let straight = Maglev.table(endpoints, size: size)
      #expect((0..<size).allSatisfy { shuffled[Int(again[$0])] == endpoints[Int(straight[$0])] })
    }
  }

  @Test("KP-15 Maglev: when one of 100 endpoints leaves, at most a hundredth of the others' places moves")
  func disruption() {
    for family in bothFamilies {
      let endpoints = (0..<100).map { number in
        ServicePort.Endpoint(IPAddress(family == .ipv4 ? "10.244.2.\(number + 1)" : "fd00:2::\(number + 1)")!, 8080)
      }
      let size = Maglev.size(for: 100)
      #expect(Maglev.size(for: 99) == size)
      let before = Maglev.table(endpoints, size: size).map { endpoints[Int($0)] }
      for gone in [0, 37, 99] {
        var rest = endpoints
        let left = rest.remove(at: gone)
        let after = Maglev.table(rest, size: size).map { rest[Int($0)] }
        let moved = (0..<size).count { before[$0] != left && before[$0] != after[$0] }
        #expect(Double(moved) <= 0.01 * Double(size), "\(moved) of \(size)")
        #expect(!after.contains(left))
      }
    }
  }

  @Test("KP-15 Maglev on packets: nodes agree, and those that stay keep their connections", arguments: Wire.all)
  func agreement(_ wire: Wire) {
    let one = Bench.forServices(seed: 1)
    let two = Bench.forServices(seed: 2)
    for bench in [one, two] { bench.validates = false }
    let endpoints = many(one, 100, wire.family)
    let service = one.serve(wire, endpoints, balancing: .maglev)
    two.serve(wire, endpoints.reversed(), balancing: .maglev)
    let before = choices(one, wire, 10000..<12000)
    // The same packets elsewhere, by another port.
    let frames = (10000..<12000).map { port in
      MemoryFrame(
        two.fromNode(
          packet(wire.transport, two.pod(10, wire.family), two.vip(wire.family), from: port, to: 80, [1, 2])))
    }
    two.tables.removePodAddress(two.pod(10, wire.family))
    #expect(two.send(frames, at: two.underlay).tuples(two.underlay).map(\.destination) == before)
    #expect(Set(before).count == 100)
    let left = endpoints[41]
    one.tables.updateService(
      service,
      ServicePort(name: "test/web:http", cluster: endpoints.filter { $0 != left }, local: [], balancing: .maglev))
    one.forgetFlows()
    let after = choices(one, wire, 10000..<12000)
    let moved = zip(before, after).count { $0 != left.address && $0 != $1 }
    #expect(moved <= 20, "\(moved) of 2000")
    #expect(!after.contains(left.address))
  }

  @Test("KP-15 Maglev: the set of this node has a table of its own") func localMaglev() {
    let bench = Bench.forServices()
    let wire = Wire(family: .ipv4, transport: .tcp)
    let service = bench.addService(many(bench, 3), local: [bench.endpoint(11)], balancing: .maglev)
    bench.setFrontend(.clusterIP, bench.vip(), wire, service, isLocal: true)
    for port in 5000..<5020 {
      let request = tcp(bench.pod(10), bench.vip(), from: port, to: 80, Flag.syn)
      #expect(bench.send(bench.fromPod(request), at: bench.podA).octets(bench.podB).count == 1)
    }
  }

  // MARK: Affinity

  @Test(
    "KP-50 a client stays with its endpoint, whatever its port, until it is silent for the time", arguments: Wire.all)
  func affinity(_ wire: Wire) {
    let bench = Bench.forServices()
    bench.serve(wire, many(bench, 50, wire.family), affinity: 100)
    let first = choices(bench, wire, 5000..<5001)
    #expect(first.count == 1)
    // Each new connection refreshes it.
    for round in 1...5 {
      bench.now += 99_000_000_000
      #expect(choices(bench, wire, (5000 + round * 10)..<(5003 + round * 10)) == [first[0], first[0], first[0]])
    }
    // Packets of known connections do not.
    var later: Set<IPAddress> = []
    for round in 0..<6 {
      bench.now += 60_000_000_000
      _ = choices(bench, wire, 5050..<5051)
      bench.now += 60_000_000_000
      later.formUnion(choices(bench, wire, (6000 + round)..<(6001 + round)))
    }
    // The kernel's clock is its own.
    if bench.kernel == nil { #expect(later.count > 1) }
  }

  @Test(
    "KP-50 clients are apart; frontends of a port share, ports and families do not", arguments: [Transport.tcp, .udp])
  func sharing(_ transport: Transport) {
    let bench = Bench.forServices()
    let wire = Wire(family: .ipv4, transport: transport)
    let endpoints = many(bench, 200)
    let service = bench.serve(wire, endpoints, affinity: 10800)
    let external = bench.client(.ipv4, 200)
    bench.setFrontend(.externalIP, external, wire, service)
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service)
    let other = bench.addService("other", endpoints, affinity: 10800)
    bench.setFrontend(.clusterIP, bench.vip(.ipv4, 2), wire, other)
    let first = choices(bench, wire, 5000..<5001)
    for (address, port) in [(external, 80), (bench.node(), 30080), (bench.vip(), 80)] {
      let request = packet(transport, bench.pod(10), address, from: 5100, to: port)
      #expect(bench.send(bench.fromPod(request), at: bench.podA).tuples(bench.underlay).map(\.destination) == first)
    }
    // Two of 200 agree by chance once in 200 times; ten clients do not.
    var chosen: Set<IPAddress> = []
    for number in 1...10 {
      let destinations = (0..<3).map { connection in
        let request = packet(transport, bench.client(.ipv4, number), external, from: 5100 + connection, to: 80)
        return bench.send(bench.fromNode(request), at: bench.underlay).tuples(bench.underlay).first?.destination
      }
      #expect(Set(destinations).count == 1)
      if let destination = destinations[0] { chosen.insert(destination) }
    }
    #expect(chosen.count > 3)
    #expect(choices(bench, wire, 5200..<5201, vip: 2) != first)
  }

  @Test("KP-50 an endpoint that is no longer eligible is chosen anew, and the new one kept") func ineligible() {
    let bench = Bench.forServices()
    let wire = Wire(family: .ipv4, transport: .tcp)
    var endpoints = many(bench, 50)
    let service = bench.serve(wire, endpoints, affinity: 10800)
    func update(_ cluster: [ServicePort.Endpoint]) {
      bench.tables.updateService(
        service, ServicePort(name: "test/web:http", cluster: cluster, local: [], affinity: 10800))
    }
    let first = choices(bench, wire, 5000..<5001)[0]
    let kept = endpoints.first { $0.address == first }!
    endpoints.removeAll { $0 == kept }
    update(endpoints)
    let second = choices(bench, wire, 5010..<5011)[0]
    #expect(second != first)
    #expect(choices(bench, wire, 5020..<5023) == [second, second, second])
    // Coming back, the first has no claim: its place may even be another's.
    update(endpoints + [kept])
    #expect(choices(bench, wire, 5030..<5033) == [second, second, second])
  }

  @Test("KP-50 what is remembered for one set counts in the other only where it is in it") func affinityAndSets() {
    let bench = Bench.forServices()
    let wire = Wire(family: .ipv4, transport: .tcp)
    let service = bench.addService(
      [bench.endpoint(30), bench.endpoint(11)], local: [bench.endpoint(11)], affinity: 10800)
    bench.setFrontend(.clusterIP, bench.vip(), wire, service)
    bench.setFrontend(.clusterIP, bench.vip(.ipv4, 2), wire, service, isLocal: true)
    var port = 5000
    func goes(_ vip: Int) -> IPAddress? {
      port += 1
      let request = tcp(bench.pod(10), bench.vip(.ipv4, vip), from: port, to: 80, Flag.syn)
      let sent = bench.send(bench.fromPod(request), at: bench.podA)
      return (sent.tuples(bench.podB) + sent.tuples(bench.underlay)).first?.destination
    }
    for _ in 0..<10 { #expect(goes(2) == bench.pod(11)) }
    // The local choice is in the cluster's set, and so is kept there.
    for _ in 0..<10 { #expect(goes(1) == bench.pod(11)) }
    // An endpoint of the cluster's set alone is none of the local set: it is chosen anew there, and then kept here.
    bench.tables.updateService(
      service,
      ServicePort(name: "test/web:http", cluster: [bench.endpoint(30)], local: [bench.endpoint(11)], affinity: 10800))
    for _ in 0..<3 {
      #expect(goes(1) == bench.remote(10))
      #expect(goes(2) == bench.pod(11))
    }
  }

  @Test("KP-50 a service that takes the place of another inherits no clients") func reusedPlace() {
    let bench = Bench.forServices()
    let wire = Wire(family: .ipv4, transport: .tcp)
    let service = bench.serve(wire, many(bench, 50), affinity: 10800)
    _ = choices(bench, wire, 5000..<5001)
    bench.tables.removeService(service)
    let others = (100..<150).map { ServicePort.Endpoint(bench.remote($0), 8080) }
    #expect(bench.serve(wire, others, affinity: 10800) == service)
    let chosen = choices(bench, wire, 5010..<5012)
    #expect(others.contains { $0.address == chosen[0] })
    #expect(chosen[0] == chosen[1])
  }

  @Test("KP-50 the table is bounded: of many clients some are forgotten early, and counted") func bounded() {
    var table = AffinityTable(limit: 256)
    for number in 0..<10_000 {
      table.store(.v4(IPv4Address(rawValue: UInt32(number))), 1, 7, 1, second: 100, timeout: 50)
    }
    let kept = (0..<10_000).count { number in
      table.find(.v4(IPv4Address(rawValue: UInt32(number))), 1, second: 120)?.backend == 7
    }
    #expect(kept == 256)
    #expect(table.evicted == 10_000 - 256)
    #expect(table.find(.v4(IPv4Address(rawValue: 9_999)), 1, second: 149) != nil)
    #expect(table.find(.v4(IPv4Address(rawValue: 9_999)), 1, second: 150) == nil)
    #expect(table.find(.v4(IPv4Address(rawValue: 9_999)), 2, second: 120) == nil)
    // Time alone makes room.
    let before = table.evicted
    for number in 0..<100 { table.store(.v4(IPv4Address(rawValue: UInt32(number))), 2, 7, 1, second: 200, timeout: 50) }
    #expect(table.evicted <= before + 20)
  }
}
