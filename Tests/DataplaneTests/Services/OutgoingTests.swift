import Addresses
import Ports
import Testing

@testable import Dataplane

/// Pods on their way out of the cluster, and the node's own connections to services.
@Suite(.bothSubjects) struct OutgoingTests {
  private static let pools = ["10.244.0.0/16", "fd00::/16"].map { IPPrefix($0)! }

  private func bench(byHost: Bool = false) -> Bench {
    let bench = Bench.forServices {
      $0.poolBlocks = OutgoingTests.pools
      $0.natOutgoingBlocks = OutgoingTests.pools
    }
    if byHost {
      // As the agent has it: the host knows the way out.
      for prefix in ["0.0.0.0/0", "::/0", "198.51.100.0/24", "2001:db8:c::/64"] {
        bench.tables.setRoute(Route(IPPrefix(prefix)!, hops: [bench.hopHost]))
      }
    }
    return bench
  }

  @Test("NODE-8 a pod goes out as its node, from a free port, and the answer comes back to it", arguments: Wire.all)
  func masquerade(_ wire: Wire) throws {
    for byHost in [false, true] {
      let bench = bench(byHost: byHost)
      let (pod, client) = (bench.pod(10, wire.family), bench.client(wire.family))
      let out = byHost ? bench.host : bench.underlay
      let sent = bench.send(bench.fromPod(packet(wire.transport, pod, client, from: 4000, to: 80)), at: bench.podA)
      let tuple = try sent.tuple(out)
      #expect(tuple.source == bench.node(wire.family) && tuple.destination == client && tuple.destinationPort == 80)
      #expect((61000...65535).contains(tuple.sourcePort))
      // Whoever forwarded it, the answer comes by the underlay.
      let answer = packet(
        wire.transport, client, bench.node(wire.family), from: 80, to: tuple.sourcePort, flags: Flag.syn | Flag.ack)
      let back = bench.send(bench.fromNode(answer), at: bench.underlay)
      #expect(
        back.only(bench.podA)
          == bench.toPod(hopped(packet(wire.transport, client, pod, from: 80, to: 4000, flags: Flag.syn | Flag.ack))))
      #expect(!back.trace.contains(.flowMissing) && !back.trace.contains(.flowStale))
    }
  }

  @Test(
    "NODE-8 other pods, the own node and other pools are sent to as the pod; so is all where no pool wants it",
    arguments: bothFamilies)
  func exceptions(_ family: IPFamily) throws {
    let wire = Wire(family: family, transport: .tcp)
    let bench = bench()
    let pod = bench.pod(10, family)
    func source(_ destination: IPAddress, _ out: PortIndex) throws -> IPAddress {
      try bench.send(bench.fromPod(packet(wire.transport, pod, destination, from: 4000, to: 80)), at: bench.podA)
        .tuple(out).source
    }
    #expect(try source(bench.pod(11, family), bench.podB) == pod)
    #expect(try source(bench.remote(10, family), bench.underlay) == pod)
    #expect(try source(bench.node(family), bench.host) == pod)
    #expect(try source(bench.client(family), bench.underlay) == bench.node(family))
    bench.tables.settings.natOutgoingBlocks = []
    #expect(try source(bench.client(family, 8), bench.underlay) == pod)
    // ipMasq of CNI: the pod's port wants it where no pool does.
    var port = bench.tables.port(bench.podA)!
    port.masquerades = true
    bench.tables.updatePort(bench.podA, port)
    #expect(try source(bench.client(family, 7), bench.underlay) == bench.node(family))
    #expect(try source(bench.remote(10, family), bench.underlay) == pod)
    bench.tables.settings.natOutgoingBlocks = OutgoingTests.pools
    bench.tables.settings.poolBlocks += [IPPrefix(host: bench.client(family, 9))]
    #expect(try source(bench.client(family, 9), bench.underlay) == pod)
  }

  @Test("NODE-8 a service with an endpoint outside of all pools is reached as the node", arguments: Wire.all)
  func externalEndpoint(_ wire: Wire) throws {
    let bench = bench()
    bench.serve(wire, [ServicePort.Endpoint(bench.client(wire.family), 8080)])
    let request = packet(wire.transport, bench.pod(10, wire.family), bench.vip(wire.family), from: 4000, to: 80)
    let tuple = try bench.send(bench.fromPod(request), at: bench.podA).tuple(bench.underlay)
    #expect(tuple.source == bench.node(wire.family) && tuple.destination == bench.client(wire.family))
  }

  @Test("NODE-8 a ping goes out under another identifier, and errors about it come back under its own")
  func ping() throws {
    let bench = bench()
    let (pod, client) = (bench.pod(10), bench.client())
    func echo(_ source: IPAddress, _ destination: IPAddress, _ type: Int, _ identifier: Int) -> [UInt8] {
      icmp(source, destination, type, rest: identifier << 16 | 1, Array("ping".utf8))
    }
    let request = echo(pod, client, 8, 77)
    let sent = bench.send(bench.fromPod(request), at: bench.podA).only(bench.underlay)
    let identifier = Int(sent[14 + 24]) << 8 | Int(sent[14 + 25])
    #expect((61000...65535).contains(identifier))
    let error = icmp(bench.otherNode(), bench.node(), 3, 1, Array(sent[14..<42]))
    let told = bench.send(bench.fromNode(error), at: bench.underlay).only(bench.podA)
    // The error quotes what the pod had sent: its address, its identifier, the checksum of before.
    let quoted = Array(told[(14 + 28)...])
    #expect(Array(quoted[12..<20]) == Array(request[12..<20]))
    #expect(Array(quoted[22..<26]) == Array(request[22..<26]))
    let answer = bench.send(bench.fromNode(echo(client, bench.node(), 0, identifier)), at: bench.underlay)
    #expect(answer.only(bench.podA) == bench.toPod(hopped(echo(client, pod, 0, 77))))
  }

  @Test(
    "KP-36 the node's own connection to a service on another node comes from a masquerade port of its own address",
    arguments: Wire.all)
  func ownConnection(_ wire: Wire) throws {
    let bench = bench()
    bench.serve(wire, [bench.endpoint(30, wire.family)])
    let request = packet(wire.transport, bench.node(wire.family), bench.vip(wire.family), from: 40000, to: 80)
    let tuple = try bench.send(bench.fromHost(request), at: bench.host).tuple(bench.underlay)
    #expect(tuple.source == bench.node(wire.family))
    #expect((61000...65535).contains(tuple.sourcePort), "by its port the host knows that the answer is not its own")
    let answer = packet(
      wire.transport, bench.remote(10, wire.family), bench.node(wire.family), from: 8080, to: tuple.sourcePort,
      flags: Flag.ack)
    #expect(
      bench.send(bench.fromNode(answer), at: bench.underlay).only(bench.host)
        == bench.toHost(
          hopped(
            packet(
              wire.transport, bench.vip(wire.family), bench.node(wire.family), from: 80, to: 40000, flags: Flag.ack))))
  }

  @Test(
    "NODE-3 an answer to a masqueraded connection that nobody knows is dropped under its own name", arguments: Wire.all)
  func unknownAnswer(_ wire: Wire) {
    let bench = bench()
    func drops(_ port: Int) -> [DropReason: Int] {
      let answer = packet(
        wire.transport, bench.client(wire.family), bench.node(wire.family), from: 80, to: port, flags: Flag.ack)
      return bench.send(bench.fromNode(answer), at: bench.underlay).drops
    }
    #expect(drops(61000) == [.unknownMasquerade: 1])
    #expect(drops(60999) == [.leftToHost: 1])
  }
}
