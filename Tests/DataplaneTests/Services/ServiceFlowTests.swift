import Addresses
import Ports
import Testing

@testable import Dataplane

/// What becomes of connections as endpoints, routes and neighbours change.
@Suite(.bothSubjects) struct ServiceFlowTests {
  private func service(_ cluster: [ServicePort.Endpoint], affinity: UInt32 = 0) -> ServicePort {
    ServicePort(name: "test/web:http", cluster: cluster, local: [], affinity: affinity)
  }

  private func request(
    _ bench: Bench, _ wire: Wire, from port: Int = 5000, flags: Int = Flag.ack, vip: Int = 1
  ) -> Sent {
    bench.send(
      bench.fromPod(
        packet(
          wire.transport, bench.pod(10, wire.family), bench.vip(wire.family, vip), from: port, to: 80, flags: flags)),
      at: bench.podA)
  }

  private func goes(_ sent: Sent, _ bench: Bench) -> IPAddress? {
    (sent.tuples(bench.underlay) + sent.tuples(bench.podB)).first?.destination
  }

  /// What a capture says of its time may be anything.
  @Test(
    "KP-50 at the end of the clock's seconds flows are entered, followed and closed as before",
    arguments: [UInt64(UInt32.max) * 1_000_000_000, UInt64.max - 4_000_000_000_000])
  func endOfTime(_ now: UInt64) {
    let bench = Bench.forServices()
    bench.now = now
    let wire = Wire.all.first { $0.transport == .tcp }!
    bench.serve(wire, [bench.endpoint(30, wire.family)])
    for flags in [Flag.syn, Flag.ack, Flag.rst] { #expect(goes(request(bench, wire, flags: flags), bench) != nil) }
    bench.tick(3600)
    #expect(goes(request(bench, wire, from: 5001, flags: Flag.syn), bench) != nil)
  }

  // MARK: Endpoints that go

  @Test("KP-51 when its endpoint goes, a UDP flow moves with its next packet; TCP and SCTP stay", arguments: Wire.all)
  func removed(_ wire: Wire) {
    let bench = Bench.forServices()
    let endpoints = [bench.endpoint(30, wire.family), bench.endpoint(31, wire.family)]
    let index = bench.serve(wire, endpoints)
    let first = goes(request(bench, wire, flags: Flag.syn), bench)
    let gone = endpoints.first { $0.address == first }!
    let rest = endpoints.first { $0.address != first }!
    bench.tables.updateService(index, service([rest]))
    #expect(goes(request(bench, wire), bench) == (wire.transport == .udp ? rest.address : first))
    if bench.kernel == nil { #expect(bench.pipeline.flowCount == 1) }
    // The way back follows.
    let answerer = wire.transport == .udp ? rest.address : gone.address
    let answer = packet(wire.transport, answerer, bench.pod(10, wire.family), from: 8080, to: 5000, flags: Flag.ack)
    #expect(
      bench.send(bench.fromNode(answer), at: bench.underlay).only(bench.podA)
        == bench.toPod(
          hopped(
            packet(
              wire.transport, bench.vip(wire.family), bench.pod(10, wire.family), from: 80, to: 5000, flags: Flag.ack)))
    )
    // Even when the endpoint comes back, in the same place of the table, nothing moves again.
    bench.tables.updateService(index, service(endpoints))
    #expect(goes(request(bench, wire), bench) == (wire.transport == .udp ? rest.address : first))
  }

  @Test("KP-51 an answer of an endpoint that went is not sent on, and its flow is forgotten", arguments: bothFamilies)
  func lateAnswer(_ family: IPFamily) {
    let bench = Bench.forServices()
    let wire = Wire(family: family, transport: .udp)
    let index = bench.serve(wire, [bench.endpoint(30, family)])
    _ = request(bench, wire)
    bench.tables.updateService(index, service([bench.endpoint(31, family)]))
    let answer = udp(bench.remote(10, family), bench.pod(10, family), from: 8080, to: 5000)
    let sent = bench.send(bench.fromNode(answer), at: bench.underlay)
    #expect(sent.isSilent)
    #expect(sent.drops == [.noEndpoint: 1])
    #expect(bench.pipeline.flowCount == 0)
  }

  @Test("KP-51 to the last endpoint and from none at all", arguments: bothFamilies)
  func zero(_ family: IPFamily) {
    let bench = Bench.forServices()
    let wire = Wire(family: family, transport: .udp)
    let index = bench.serve(wire, [bench.endpoint(30, family)])
    _ = request(bench, wire)
    bench.tables.updateService(index, service([]))
    let refused = request(bench, wire)
    #expect(refused.drops == [.noEndpoint: 1])
    #expect(refused.octets(bench.podA).count == 1)
    #expect(bench.pipeline.flowCount == 0)
    bench.tables.updateService(index, service([bench.endpoint(31, family)]))
    #expect(goes(request(bench, wire), bench) == bench.remote(11, family))
  }

  @Test("KP-51 a UDP flow to an address that becomes a service's is no longer sent there as it is", arguments: Wire.all)
  func appears(_ wire: Wire) {
    // The kernel's programs follow no connection that is no service's.
    if Subject.current == .kernel, wire.transport == .tcp { return }
    let bench = Bench.forServices()
    let outside = bench.client(wire.family, 200)
    func ask() -> Sent {
      bench.send(
        bench.fromPod(packet(wire.transport, bench.pod(10, wire.family), outside, from: 5000, to: 80, flags: Flag.ack)),
        at: bench.podA)
    }
    #expect(goes(ask(), bench) == outside)
    let index = bench.addService([bench.endpoint(11, wire.family)])
    bench.setFrontend(.externalIP, outside, wire, index)
    #expect(goes(ask(), bench) == (wire.transport == .udp ? bench.pod(11, wire.family) : outside))
    // And a NodePort that comes to be.
    let node = bench.node(wire.family)
    func own() -> Sent {
      bench.send(
        bench.fromPod(packet(wire.transport, bench.pod(10, wire.family), node, from: 5000, to: 30080, flags: Flag.ack)),
        at: bench.podA)
    }
    #expect(own().octets(bench.host).count == 1)
    bench.setFrontend(.nodePort, nil, wire, port: 30080, index)
    #expect(own().octets(bench.host).count == (wire.transport == .udp ? 0 : 1))
  }

  @Test("KP-51 a UDP flow follows its frontend to another service") func handedOver() {
    let bench = Bench.forServices()
    let wire = Wire(family: .ipv4, transport: .udp)
    let first = bench.serve(wire, [bench.endpoint(30)])
    let second = bench.addService("other", [bench.endpoint(31)])
    #expect(goes(request(bench, wire), bench) == bench.remote(10))
    bench.setFrontend(.clusterIP, bench.vip(), wire, second)
    #expect(goes(request(bench, wire), bench) == bench.remote(11))
    bench.setFrontend(.clusterIP, bench.vip(), wire, first)
    #expect(goes(request(bench, wire), bench) == bench.remote(10))
  }

  @Test("KP-51 a UDP flow by a frontend that goes is not led to the endpoint any longer, though that is still there")
  func withdrawn() {
    for family in bothFamilies {
      let bench = Bench.forServices()
      let wire = Wire(family: family, transport: .udp)
      let service = bench.serve(wire, [bench.endpoint(30, family)])
      let external = bench.client(family, 200)
      bench.setFrontend(.externalIP, external, wire, service)
      func ask() -> Sent {
        let request = packet(.udp, bench.pod(10, family), external, from: 40000, to: 80)
        return bench.send(bench.fromPod(request), at: bench.podA)
      }
      for _ in 0..<2 { #expect(ask().tuples(bench.underlay).first?.destination == bench.remote(10, family)) }
      bench.tables.removeFrontend(
        Frontend(.externalIP, address: external, family: family, transport: wire.transport.number, port: 80))
      for _ in 0..<2 { #expect(ask().tuples(bench.underlay).first?.destination == external) }
    }
  }

  @Test("KP-51 changes of other services move nothing and classify nothing") func unrelated() {
    for transport in Transport.allCases {
      let bench = Bench.forServices()
      let wire = Wire(family: .ipv4, transport: transport)
      let index = bench.serve(wire, (1...20).map { ServicePort.Endpoint(bench.remote($0), 8080) })
      let other = bench.addService("other", [bench.endpoint(30)])
      let first = goes(request(bench, wire, flags: Flag.syn), bench)
      for round in 0..<50 {
        bench.tables.updateService(
          other, ServicePort(name: "test/other:http", cluster: [bench.endpoint(round % 2 == 0 ? 31 : 30)], local: []))
        // Nor do other endpoints of its own service.
        bench.tables.updateService(
          index,
          service(
            (1...20).map { ServicePort.Endpoint(bench.remote($0), 8080) }
              .filter { $0.address == first || Int($0.address.octets[3]) % 5 != round % 5 }))
        let sent = request(bench, wire)
        #expect(goes(sent, bench) == first)
        #expect(!sent.trace.contains { if case .serviceDecided = $0 { true } else { false } })
      }
      if bench.kernel == nil { #expect(bench.pipeline.flowCount == 1) }
    }
  }

  @Test("KP-15 a SYN on the ports of a connection that has ended chooses anew") func reopened() {
    let bench = Bench.forServices()
    let wire = Wire(family: .ipv4, transport: .tcp)
    bench.serve(wire, (1...50).map { ServicePort.Endpoint(bench.remote($0), 8080) })
    var chosen: Set<IPAddress> = []
    for _ in 0..<10 {
      let first = goes(request(bench, wire, flags: Flag.syn), bench)!
      chosen.insert(first)
      // A SYN that is sent again belongs to the connection.
      #expect(goes(request(bench, wire, flags: Flag.syn), bench) == first)
      #expect(goes(request(bench, wire, flags: Flag.ack), bench) == first)
      #expect(goes(request(bench, wire, flags: Flag.rst | Flag.ack), bench) == first)
    }
    #expect(chosen.count > 4)
    if bench.kernel == nil { #expect(bench.pipeline.flowCount == 1) }
  }

  // MARK: Races and bounds

  @Test("two first packets of one flow in one batch agree (kubernetes#56903)", arguments: Wire.all)
  func race(_ wire: Wire) {
    let bench = Bench.forServices()
    bench.serve(wire, (1...50).map { ServicePort.Endpoint(bench.remote($0, wire.family), 8080) })
    for port in 5000..<5020 {
      let frame = bench.fromPod(
        packet(wire.transport, bench.pod(10, wire.family), bench.vip(wire.family), from: port, to: 80))
      let sent = bench.send(frame, frame, frame, at: bench.podA)
      #expect(sent.tuples(bench.underlay).count == 3)
      #expect(Set(sent.tuples(bench.underlay)).count == 1)
      if bench.kernel == nil { #expect(sent.trace.count { if case .serviceDecided = $0 { true } else { false } } == 1) }
    }
    if bench.kernel == nil { #expect(bench.pipeline.flowCount == 20) }
  }

  @Test("a flood of first packets evicts those that were never answered, counts them, and leaves connections alone")
  func flood() {
    // What the pipeline alone knows.
    guard Subject.current == .pipeline else { return }
    let bench = Bench.forServices(flowLimit: 1024)
    bench.validates = false
    let wire = Wire(family: .ipv4, transport: .udp)
    bench.serve(wire, [bench.endpoint(11)])
    for port in 5000..<5050 {
      _ = request(bench, wire, from: port)
      let answer = udp(bench.pod(11), bench.pod(10), from: 8080, to: port)
      #expect(bench.send(bench.fromPod(answer, 11), at: bench.podB).octets(bench.podA).count == 1)
    }
    var sent = 0
    for round in 0..<20 {
      bench.now += 1_000_000_000
      let frames = (0..<256).map { number in
        MemoryFrame(
          bench.fromPod(udp(bench.pod(10), bench.vip(), from: 10000 + round * 256 + number, to: 80)))
      }
      sent += bench.send(frames, at: bench.podA).octets(bench.podB).count
    }
    #expect(sent == 20 * 256)
    if bench.kernel == nil { #expect(bench.pipeline.flowCount <= 1024) }
    let statistics = bench.pipeline.flowStatistics
    if bench.kernel == nil { #expect(statistics.evicted == UInt64(50 + 20 * 256 - bench.pipeline.flowCount)) }
    #expect(statistics.refused == 0)
    for port in 5000..<5050 {
      let answer = udp(bench.pod(11), bench.pod(10), from: 8080, to: port)
      #expect(bench.send(bench.fromPod(answer, 11), at: bench.podB).tuples(bench.podA).first?.source == bench.vip())
    }
  }

  @Test("a full table that nothing can be evicted from: what is to be translated is dropped with its reason")
  func full() {
    // What the pipeline alone knows.
    guard Subject.current == .pipeline else { return }
    // A table of one flow has no neighbours to evict.
    let bench = Bench.forServices(flowLimit: 0)
    let wire = Wire(family: .ipv4, transport: .tcp)
    bench.serve(wire, [bench.endpoint(11)])
    let sent = request(bench, wire)
    #expect(sent.isSilent)
    #expect(sent.drops == [.flowTableFull: 1])
    if bench.kernel == nil { #expect(bench.pipeline.flowStatistics.refused == 1) }
    // What is not, can go.
    let direct = tcp(bench.pod(10), bench.pod(11), from: 5000, to: 8080, Flag.syn)
    #expect(bench.send(bench.fromPod(direct), at: bench.podA).octets(bench.podB).count == 1)
  }

  // MARK: Ways

  @Test(
    "the route of a translated flow changes: it follows, there and back, without another choice", arguments: Wire.all)
  func rerouted(_ wire: Wire) {
    let bench = Bench.forServices()
    let family = wire.family
    let moving = ServicePort.Endpoint(IPAddress(family == .ipv4 ? "10.244.9.9" : "fd00:9::9")!, 8080)
    let prefix = IPPrefix(host: moving.address)
    bench.tables.setRoute(Route(prefix, hops: [bench.hop]))
    bench.serve(wire, [moving])
    #expect(goes(request(bench, wire, flags: Flag.syn), bench) == moving.address)
    // Its pod is on this node now.
    bench.tables.setRoute(Route(prefix, hops: [bench.hopB]))
    bench.tables.setPodAddress(moving.address, port: bench.podB)
    let sent = request(bench, wire)
    #expect(sent.tuples(bench.podB).map(\.destination) == [moving.address])
    #expect(!sent.trace.contains { if case .serviceDecided = $0 { true } else { false } })
    let answer = packet(wire.transport, moving.address, bench.pod(10, family), from: 8080, to: 5000, flags: Flag.ack)
    let back = bench.send(bench.fromPod(answer, 11), at: bench.podB)
    #expect(
      back.only(bench.podA)
        == bench.toPod(
          hopped(packet(wire.transport, bench.vip(family), bench.pod(10, family), from: 80, to: 5000, flags: Flag.ack)))
    )
    if bench.kernel == nil { #expect(bench.pipeline.flowCount == 1) }
    #expect(!back.trace.contains(.flowMissing))
  }

  @Test("while the neighbour is asked for a translated packet waits as it is, and goes out once", arguments: Wire.all)
  func pending(_ wire: Wire) {
    // What the pipeline alone knows.
    guard Subject.current == .pipeline else { return }
    let bench = Bench.forServices()
    let family = wire.family
    bench.serve(wire, [bench.endpoint(30, family)])
    let resolved = Bench.hopDescription(from: 1, to: 2, .none, .ipv4, port: bench.underlay)
    var unresolved = resolved
    unresolved.destination = nil
    bench.tables.updateHop(bench.hop, unresolved)
    #expect(request(bench, wire, flags: Flag.syn).isSilent)
    #expect(request(bench, wire, flags: Flag.ack).isSilent)
    bench.tables.updateHop(bench.hop, resolved)
    let sent = bench.tick(0.1)
    let expected = [Flag.syn, Flag.ack].map { flags in
      bench.toNode(
        hopped(
          packet(
            wire.transport, bench.pod(10, family), bench.remote(10, family), from: 5000, to: 8080, flags: flags)))
    }
    #expect(sent.octets(bench.underlay) == expected)
    #expect(bench.tick(5).isSilent)
    if bench.kernel == nil { #expect(bench.pipeline.flows().first?.forward.packets == 2) }
  }

  @Test(
    "TUN-7 no neighbour for a translated packet: its sender is told of the packet that it sent", arguments: Wire.all)
  func noNeighbour(_ wire: Wire) {
    // What the pipeline alone knows.
    guard Subject.current == .pipeline else { return }
    let family = wire.family
    for isMasqueraded in [false, true] {
      let bench = Bench.forServices { $0.masqueradeAll = isMasqueraded }
      bench.serve(wire, [bench.endpoint(30, family)])
      var unresolved = Bench.hopDescription(from: 1, to: 2, .none, .ipv4, port: bench.underlay)
      unresolved.destination = nil
      bench.tables.updateHop(bench.hop, unresolved)
      let asked = packet(wire.transport, bench.pod(10, family), bench.vip(family), from: 5000, to: 80, flags: Flag.syn)
      func error(_ packet: [UInt8]) -> [UInt8] {
        let (type, code) = family == .ipv4 ? (3, 1) : (1, 3)
        return bench.toPod(
          icmp(
            bench.node(family), bench.pod(10, family), type, code, packet,
            with: IPFields(tos: family == .ipv4 ? 0xc0 : 0)))
      }
      #expect(bench.send(bench.fromPod(asked), at: bench.podA).isSilent)
      let told = bench.tick(3.1).only(bench.podA)
      // Of an SCTP packet that was translated the checksum cannot be put back.
      if wire.transport != .sctp { #expect(hex(told) == hex(error(asked))) }
      bench.tables.failHop(bench.hop)
      #expect(hex(bench.send(bench.fromPod(asked), at: bench.podA).only(bench.podA)) == hex(error(asked)))
    }
  }
}
