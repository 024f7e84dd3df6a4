import Addresses
import Ports
import Testing

@testable import Dataplane

/// Connections that get another source: masquerade, hairpin, and clients that would look alike.
@Suite(.bothSubjects) struct MasqueradeTests {
  @Test("KP-36 masquerade: the node's address, a free port of the range, and back; exact octets", arguments: Wire.all)
  func exact(_ wire: Wire) throws {
    let bench = Bench.forServices()
    let family = wire.family
    let service = bench.addService([bench.endpoint(30, family)])
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service)
    let client = bench.client(family)
    let request = packet(wire.transport, client, bench.node(family), from: 5000, to: 30080)
    let sent = bench.send(bench.fromNode(request), at: bench.underlay)
    let port = try sent.tuple(bench.underlay).sourcePort
    #expect((61000...65535).contains(port))
    #expect(
      sent.only(bench.underlay)
        == bench.toNode(
          hopped(packet(wire.transport, bench.node(family), bench.remote(10, family), from: port, to: 8080))))
    let answer = packet(
      wire.transport, bench.remote(10, family), bench.node(family), from: 8080, to: port, flags: Flag.syn | Flag.ack)
    let back = bench.send(bench.fromNode(answer), at: bench.underlay)
    #expect(
      back.only(bench.underlay)
        == bench.toRouter(
          hopped(packet(wire.transport, bench.node(family), client, from: 30080, to: 5000, flags: Flag.syn | Flag.ack)))
    )
    #expect(!back.trace.contains(.flowMissing) && !back.trace.contains(.flowStale))
    // Another packet of the connection keeps the port.
    let more = packet(wire.transport, client, bench.node(family), from: 5000, to: 30080, flags: Flag.ack)
    #expect(try bench.send(bench.fromNode(more), at: bench.underlay).tuple(bench.underlay).sourcePort == port)
  }

  @Test("KP-36 a flow is described with its service and what its answers look like", arguments: Wire.all)
  func described(_ wire: Wire) throws {
    // What the pipeline alone knows.
    guard Subject.current == .pipeline else { return }
    let bench = Bench.forServices()
    let family = wire.family
    let service = bench.addService([bench.endpoint(30, family)])
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service)
    let request = packet(wire.transport, bench.client(family), bench.node(family), from: 5000, to: 30080)
    let port = try bench.send(bench.fromNode(request), at: bench.underlay).tuple(bench.underlay).sourcePort
    let flow = try #require(bench.pipeline.flows().first)
    #expect(flow.source == bench.client(family) && flow.sourcePort == 5000)
    #expect(flow.destination == bench.node(family) && flow.destinationPort == 30080)
    #expect(
      flow.answer
        == FlowDescription.Ends(
          source: bench.remote(10, family), destination: bench.node(family), sourcePort: 8080,
          destinationPort: UInt16(port)))
    #expect(flow.isTranslated)
    #expect(bench.tables.serviceName(of: flow) == "test/web:http")
    // The endpoint goes and its place is another service's: the connection is the first one's still.
    bench.tables.updateService(service, ServicePort(name: "test/web:http", cluster: [], local: []))
    bench.addService("other", [bench.endpoint(11, family)])
    #expect(try bench.tables.serviceName(of: #require(bench.pipeline.flows().first)) == "test/web:http")
    bench.tables.removeFrontend(
      Frontend(.nodePort, address: nil, family: family, transport: wire.transport.number, port: 30080))
    #expect(try bench.tables.serviceName(of: #require(bench.pipeline.flows().first)) == nil)
    // What goes as it is.
    let plain = packet(wire.transport, bench.pod(10, family), bench.pod(11, family), from: 1, to: 2)
    _ = bench.send(bench.fromPod(plain), at: bench.podA)
    let other = try #require(bench.pipeline.flows().first { $0.sourcePort == 1 })
    #expect(!other.isTranslated && bench.tables.serviceName(of: other) == nil)
    #expect(other.answer.source == bench.pod(11, family) && other.answer.destinationPort == 1)
  }

  @Test("KP-36 ports are unique for an endpoint, spread over the range, and of no pattern", arguments: Wire.all)
  func ports(_ wire: Wire) {
    let bench = Bench.forServices()
    bench.validates = false
    let family = wire.family
    let service = bench.addService([bench.endpoint(30, family)])
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service)
    let frames = (10000..<12000).map { port in
      MemoryFrame(
        bench.fromNode(packet(wire.transport, bench.client(family), bench.node(family), from: port, to: 30080)))
    }
    let ports = bench.send(frames, at: bench.underlay).tuples(bench.underlay).map(\.sourcePort)
    #expect(ports.count == 2000)
    #expect(Set(ports).count == 2000)
    #expect(ports.allSatisfy { (61000...65535).contains($0) })
    // Eight parts of the range, each 250 expected.
    for part in 0..<8 {
      let count = ports.count { ($0 - 61000) / 567 == part }
      #expect((180...320).contains(count), "part \(part): \(count)")
    }
    #expect(zip(ports, ports.dropFirst()).count { $1 == $0 + 1 } < 20)
  }

  @Test("KP-36 when no port is left the packet is dropped and counted; another endpoint has ports of its own")
  func exhaustion() {
    let bench = Bench.forServices { $0.masqueradePorts = 61000...61003 }
    let wire = Wire(family: .ipv4, transport: .udp)
    let service = bench.addService([bench.endpoint(30)])
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service)
    let second = bench.addService("other", [bench.endpoint(31)])
    bench.setFrontend(.nodePort, nil, wire, port: 30081, second)
    func request(_ client: Int, _ port: Int = 30080) -> Sent {
      bench.send(bench.fromNode(udp(bench.client(), bench.node(), from: client, to: port)), at: bench.underlay)
    }
    var ports: Set<Int> = []
    for client in 0..<4 { ports.formUnion(request(5000 + client).tuples(bench.underlay).map(\.sourcePort)) }
    #expect(ports == [61000, 61001, 61002, 61003])
    let refused = request(5004)
    #expect(refused.isSilent)
    #expect(refused.drops == [.noFreePort: 1])
    if bench.kernel == nil { #expect(bench.pipeline.flowCount == 4) }
    #expect(request(5000).octets(bench.underlay).count == 1)
    #expect(request(5004, 30081).octets(bench.underlay).count == 1)
    // A flow that ends gives its port back.
    bench.tick(121)
    // The kernel's clock is its own.
    if bench.kernel == nil { #expect(request(5004).octets(bench.underlay).count == 1) }
  }

  @Test("KP-36 without an address of the family nothing goes out in its name") func noAddress() {
    let bench = Bench.forServices { $0.nodeAddress6 = nil }
    let wire = Wire(family: .ipv6, transport: .tcp)
    let service = bench.addService([bench.endpoint(30, .ipv6)])
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service)
    let request = tcp(bench.client(.ipv6), bench.node(.ipv6), from: 5000, to: 30080, Flag.syn)
    #expect(bench.send(bench.fromNode(request), at: bench.underlay).drops == [.noFreePort: 1])
  }

  @Test("KP-35 hairpin: an endpoint that calls itself, there and back, on every frontend", arguments: Wire.all)
  func hairpin(_ wire: Wire) throws {
    let bench = Bench.forServices()
    let family = wire.family
    let pod = bench.pod(10, family)
    let service = bench.addService([bench.endpoint(10, family)], local: [bench.endpoint(10, family)])
    let external = bench.client(family, 200)
    let balancer = bench.client(family, 201)
    for isLocal in [false, true] {
      bench.setFrontend(.clusterIP, bench.vip(family), wire, service, isLocal: isLocal)
      bench.setFrontend(.externalIP, external, wire, service, isLocal: isLocal)
      bench.setFrontend(.loadBalancer, balancer, wire, service, isLocal: isLocal)
      bench.setFrontend(.nodePort, nil, wire, port: 30080, service, isLocal: isLocal)
      for (number, (address, port)) in [
        (bench.vip(family), 80), (external, 80), (balancer, 80), (bench.node(family), 30080),
      ].enumerated() {
        let client = 5000 + number + (isLocal ? 10 : 0)
        let request = packet(wire.transport, pod, address, from: client, to: port)
        let sent = bench.send(bench.fromPod(request), at: bench.podA)
        let masked = try sent.tuple(bench.podA).sourcePort
        #expect(
          sent.only(bench.podA)
            == bench.toPod(hopped(packet(wire.transport, bench.node(family), pod, from: masked, to: 8080))))
        let answer = packet(wire.transport, pod, bench.node(family), from: 8080, to: masked, flags: Flag.ack)
        let back = bench.send(bench.fromPod(answer), at: bench.podA)
        #expect(
          back.only(bench.podA)
            == bench.toPod(hopped(packet(wire.transport, address, pod, from: port, to: client, flags: Flag.ack))))
      }
    }
  }

  @Test(
    "two connections whose answers would look alike: the second gets another port, and both live", arguments: Wire.all)
  func alike(_ wire: Wire) throws {
    let bench = Bench.forServices()
    let family = wire.family
    let (client, pod) = (bench.pod(10, family), bench.pod(11, family))
    let service = bench.serve(wire, [bench.endpoint(11, family)])
    bench.setFrontend(.externalIP, bench.client(family, 200), wire, service)
    bench.setFrontend(.clusterIP, bench.vip(family, 2), wire, service)
    // By a cluster IP, by another, and directly: always the same client port and endpoint.
    var seen: Set<Int> = []
    let targets = [(bench.vip(family), 80), (bench.vip(family, 2), 80), (pod, 8080)]
    var ports: [Int] = []
    for (address, port) in targets {
      let sent = bench.send(
        bench.fromPod(packet(wire.transport, client, address, from: 5000, to: port)), at: bench.podA)
      let tuple = try sent.tuple(bench.podB)
      #expect(tuple.source == client)
      #expect(tuple.destination == pod)
      seen.insert(tuple.sourcePort)
      ports.append(tuple.sourcePort)
    }
    #expect(seen.count == 3)
    #expect(ports[0] == 5000)
    for ((address, port), masked) in zip(targets, ports) {
      let answer = packet(wire.transport, pod, client, from: 8080, to: masked, flags: Flag.ack)
      #expect(
        bench.send(bench.fromPod(answer, 11), at: bench.podB).only(bench.podA)
          == bench.toPod(hopped(packet(wire.transport, address, client, from: port, to: 5000, flags: Flag.ack))))
    }
    if bench.kernel == nil { #expect(bench.pipeline.flowCount == 3) }
    #expect(bench.pipeline.flowStatistics.replaced == 0)
  }
}
