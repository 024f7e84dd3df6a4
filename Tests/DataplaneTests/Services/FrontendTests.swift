import Addresses
import Ports
import Testing

@testable import Dataplane

/// Which frontend a packet meets, who may use it, and which endpoints it leads to.
@Suite(.bothSubjects) struct FrontendTests {
  /// Where a packet comes from (KP-33).
  private enum From: CaseIterable { case pod, host, outside, remotePod }

  private func source(_ from: From, _ bench: Bench, _ family: IPFamily) -> IPAddress {
    switch from {
    case .pod: bench.pod(10, family)
    case .host: bench.node(family)
    case .outside: bench.client(family)
    case .remotePod: bench.remote(11, family)
    }
  }

  /// Sends the first packet of a connection and says where it went.
  private func connect(
    _ from: From, _ bench: Bench, _ wire: Wire, to destination: IPAddress, port: Int, client: Int,
    source given: IPAddress? = nil
  ) -> (sent: Sent, tuple: Tuple?) {
    let request = packet(
      wire.transport, given ?? source(from, bench, wire.family), destination, from: client, to: port)
    let sent: Sent
    switch from {
    case .pod: sent = bench.send(bench.fromPod(request), at: bench.podA)
    case .host: sent = bench.send(bench.fromHost(request), at: bench.host)
    case .outside, .remotePod: sent = bench.send(bench.fromNode(request), at: bench.underlay)
    }
    let ways = [bench.podA, bench.podB, bench.underlay, bench.host]
    return (sent, ways.flatMap { sent.tuples($0) }.first)
  }

  @Test("KP-7 the same port of another protocol is another frontend", arguments: bothFamilies)
  func protocols(_ family: IPFamily) {
    let bench = Bench.forServices()
    for (number, transport) in Transport.allCases.enumerated() {
      bench.serve(Wire(family: family, transport: transport), [bench.endpoint(11, family, port: UInt16(9000 + number))])
    }
    for (number, transport) in Transport.allCases.enumerated() {
      let wire = Wire(family: family, transport: transport)
      let (_, tuple) = connect(.pod, bench, wire, to: bench.vip(family), port: 80, client: 5000)
      #expect(tuple?.destinationPort == 9000 + number)
    }
  }

  @Test("KP-23 a NodePort is served on the chosen addresses of the node, and on no other", arguments: Wire.all)
  func nodePorts(_ wire: Wire) {
    let bench = Bench.forServices()
    let second = IPAddress(wire.family == .ipv4 ? "192.0.2.101" : "2001:db8::101")!
    let third = IPAddress(wire.family == .ipv4 ? "192.0.2.102" : "2001:db8::102")!
    for address in [second, third] {
      bench.tables.addLocalAddress(address)
      bench.tables.setRoute(Route(IPPrefix(host: address), .local, hops: [bench.hopHost]))
    }
    bench.tables.addNodePortAddress(second)
    let service = bench.addService([bench.endpoint(11, wire.family)])
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service)
    for (number, address) in [bench.node(wire.family), second].enumerated() {
      for from in [From.outside, .pod] {
        let (_, tuple) = connect(from, bench, wire, to: address, port: 30080, client: 5000 + number)
        #expect(tuple?.destination == bench.pod(11, wire.family))
        #expect(tuple?.destinationPort == 8080)
      }
    }
    // Not on the third, not on other ports, not on another node's address.
    #expect(connect(.outside, bench, wire, to: third, port: 30080, client: 6000).sent.drops == [.leftToHost: 1])
    #expect(
      connect(.outside, bench, wire, to: second, port: 30081, client: 6000).sent.drops == [.leftToHost: 1])
    let elsewhere = connect(.pod, bench, wire, to: bench.otherNode(wire.family), port: 30080, client: 6000)
    #expect(elsewhere.sent.drops == [.noRoute: 1])
    bench.tables.removeNodePortAddress(second)
    #expect(connect(.outside, bench, wire, to: second, port: 30080, client: 7000).sent.drops == [.leftToHost: 1])
  }

  @Test("KP-25 NodePorts match last, and source ranges never apply to them", arguments: Wire.all)
  func nodePortsLast(_ wire: Wire) {
    let bench = Bench.forServices()
    let node = bench.node(wire.family)
    let byNodePort = bench.addService("node", [bench.endpoint(11, wire.family, port: 1)])
    let byExternalIP = bench.addService("external", [bench.endpoint(11, wire.family, port: 2)])
    bench.setFrontend(
      .nodePort, nil, wire, port: 80, byNodePort, ranges: [IPPrefix(host: bench.client(wire.family, 99))])
    #expect(connect(.outside, bench, wire, to: node, port: 80, client: 5000).tuple?.destinationPort == 1)
    bench.setFrontend(.externalIP, node, wire, port: 80, byExternalIP)
    #expect(connect(.outside, bench, wire, to: node, port: 80, client: 5001).tuple?.destinationPort == 2)
    bench.tables.removeFrontend(
      Frontend(.externalIP, address: node, family: wire.family, transport: wire.transport.number, port: 80))
    #expect(connect(.outside, bench, wire, to: node, port: 80, client: 5002).tuple?.destinationPort == 1)
  }

  @Test(
    "KP-24 127.0.0.1 serves NodePorts to the node alone, where that is wanted, masqueraded",
    arguments: Transport.allCases)
  func localhost(_ transport: Transport) throws {
    let bench = Bench.forServices()
    let localhost = IPAddress("127.0.0.1")!
    let wire = Wire(family: .ipv4, transport: transport)
    let service = bench.addService([bench.endpoint(30)])
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service)
    func ask(port: Int = 30080, client: Int = 5000, to: String = "127.0.0.1", from: IPAddress? = nil) -> Sent {
      connect(.host, bench, wire, to: IPAddress(to)!, port: port, client: client, source: from ?? localhost).sent
    }
    #expect(ask().drops == [.invalidDestination: 1])
    bench.tables.addNodePortAddress(localhost)
    bench.tables.setRoute(Route(IPPrefix(host: localhost), .local, hops: [bench.hopHost]))
    let sent = ask()
    let tuple = try sent.tuple(bench.underlay)
    #expect(tuple.source == bench.node())
    #expect(tuple.destination == bench.remote(10))
    let answer = packet(transport, bench.remote(10), bench.node(), from: 8080, to: tuple.sourcePort, flags: Flag.ack)
    let back = bench.send(bench.fromNode(answer), at: bench.underlay)
    #expect(
      back.only(bench.host)
        == bench.toHost(hopped(packet(transport, localhost, localhost, from: 30080, to: 5000, flags: Flag.ack))))
    #expect(ask(port: 30081).drops == [.invalidDestination: 1])
    #expect(ask(to: "127.0.0.2").drops == [.invalidDestination: 1])
    // From nowhere else, and to nowhere else.
    for from in [From.pod, .outside] {
      #expect(
        connect(from, bench, wire, to: localhost, port: 30080, client: 5001).sent.drops == [.invalidDestination: 1])
    }
    for source in [localhost, IPAddress("127.0.0.2")!] {
      #expect(
        connect(.outside, bench, wire, to: bench.node(), port: 30080, client: 5002, source: source).sent.drops
          == [.invalidSource: 1])
    }
    #expect(
      connect(.host, bench, wire, to: bench.remote(10), port: 1, client: 5003, source: localhost).sent.drops
        == [.invalidSource: 1])
  }

  @Test("KP-10 KP-11 KP-12 KP-31 KP-33 which set each kind of client gets", arguments: Wire.all)
  func sets(_ wire: Wire) {
    let bench = Bench.forServices()
    let family = wire.family
    let cluster = [bench.endpoint(30, family)]
    let local = [bench.endpoint(11, family)]
    let service = bench.addService(cluster, local: local)
    let external = bench.client(family, 200)
    let balancer = bench.client(family, 201)
    bench.setFrontend(.clusterIP, bench.vip(family), wire, service, isLocal: true)
    bench.setFrontend(.clusterIP, bench.vip(family, 2), wire, service)
    bench.setFrontend(.externalIP, external, wire, service, isLocal: true)
    bench.setFrontend(.loadBalancer, balancer, wire, service, isLocal: true)
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service, isLocal: true)
    var client = 5000
    func goes(_ from: From, _ address: IPAddress, _ port: Int) -> IPAddress? {
      client += 1
      return connect(from, bench, wire, to: address, port: port, client: client).tuple?.destination
    }
    for from in From.allCases {
      #expect(goes(from, bench.vip(family), 80) == local[0].address, "internal Local from \(from)")
      #expect(goes(from, bench.vip(family, 2), 80) == cluster[0].address, "internal Cluster from \(from)")
      let isNear = from == .pod || from == .host
      for (address, port) in [(external, 80), (balancer, 80), (bench.node(family), 30080)] {
        #expect(goes(from, address, port) == (isNear ? cluster : local)[0].address, "external from \(from)")
      }
    }
  }

  @Test("KP-31 endpoints, but none here: dropped without a word; (1) and (2) of KP-33 still work", arguments: Wire.all)
  func noneLocal(_ wire: Wire) {
    let bench = Bench.forServices()
    let family = wire.family
    let service = bench.addService([bench.endpoint(30, family)])
    bench.setFrontend(.clusterIP, bench.vip(family), wire, service, isLocal: true)
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service, isLocal: true)
    for from in From.allCases {
      let sent = connect(from, bench, wire, to: bench.vip(family), port: 80, client: 5000).sent
      #expect(sent.isSilent)
      #expect(sent.drops == [.noLocalEndpoint: 1])
      let (other, tuple) = connect(from, bench, wire, to: bench.node(family), port: 30080, client: 5001)
      if from == .pod || from == .host {
        #expect(tuple?.destination == bench.remote(10, family))
      } else {
        #expect(other.drops == [.noLocalEndpoint: 1])
        #expect(other.isSilent)
      }
    }
  }

  @Test("KP-32 KP-33 KP-34 who is masqueraded", arguments: Wire.all)
  func masquerade(_ wire: Wire) {
    let family = wire.family
    for isLocal in [false, true] {
      for cidr in [nil, IPPrefix(family == .ipv4 ? "10.244.0.0/16" : "fd00:1::/32")!] {
        for all in [false, true] {
          let bench = Bench.forServices {
            $0.clusterCIDRs = [cidr].compactMap { $0 }
            $0.masqueradeAll = all
          }
          let service = bench.addService([bench.endpoint(11, family)], local: [bench.endpoint(11, family)])
          let external = bench.client(family, 200)
          let balancer = bench.client(family, 201)
          bench.setFrontend(.clusterIP, bench.vip(family), wire, service)
          bench.setFrontend(.externalIP, external, wire, service, isLocal: isLocal)
          bench.setFrontend(.loadBalancer, balancer, wire, service, isLocal: isLocal)
          bench.setFrontend(.nodePort, nil, wire, port: 30080, service, isLocal: isLocal)
          for from in From.allCases {
            // The cluster's blocks hold pods of this node; of the other one only for IPv4.
            let isPod = from == .pod || from == .remotePod && family == .ipv4
            let expected: [(IPAddress, Int, Bool)] = [
              (bench.vip(family), 80, all || cidr != nil && !isPod),
              (external, 80, isLocal ? from == .host : true),
              (balancer, 80, isLocal ? from == .host : true),
              (bench.node(family), 30080, isLocal ? from == .host : true),
            ]
            for (number, (address, port, isMasqueraded)) in expected.enumerated() {
              let (_, tuple) = connect(from, bench, wire, to: address, port: port, client: 5000 + number)
              let note: Comment =
                "from \(from) to \(address) \(port), local \(isLocal), blocks \(cidr != nil), all \(all)"
              #expect(tuple?.destination == bench.pod(11, family), note)
              if isMasqueraded {
                #expect(tuple?.source == bench.node(family), note)
                #expect((61000...65535).contains(tuple?.sourcePort ?? 0), note)
              } else {
                #expect(tuple?.source == source(from, bench, family), note)
                #expect(tuple?.sourcePort == 5000 + number, note)
              }
            }
          }
        }
      }
    }
  }

  @Test("KP-37 a cluster IP on a port nobody defined is refused, an address nobody has is dropped", arguments: Wire.all)
  func unknown(_ wire: Wire) {
    let bench = Bench.forServices()
    let family = wire.family
    bench.tables.setServiceBlocks([IPPrefix("10.96.0.0/16")!, IPPrefix("fd00:96::/112")!])
    bench.serve(wire, [bench.endpoint(11, family)])
    let refused = connect(.pod, bench, wire, to: bench.vip(family), port: 81, client: 5000).sent
    #expect(refused.octets(bench.podA).count == 1)
    #expect(refused.drops == [.noServicePort: 1])
    let dropped = connect(.pod, bench, wire, to: bench.vip(family, 99), port: 80, client: 5000).sent
    #expect(dropped.isSilent)
    #expect(dropped.drops == [.noService: 1])
    // An echo request finds nobody either.
    let ping = icmp(bench.pod(10, family), bench.vip(family), family == .ipv4 ? 8 : 128)
    #expect(bench.send(bench.fromPod(ping), at: bench.podA).drops == [.noServicePort: 1])
    // With its last port the address is nobody's.
    bench.tables.removeFrontend(
      Frontend(.clusterIP, address: bench.vip(family), family: family, transport: wire.transport.number, port: 80))
    #expect(
      connect(.pod, bench, wire, to: bench.vip(family), port: 81, client: 5001).sent.drops == [.noService: 1])
  }

  @Test("KP-38 source ranges: who may use a load balancer's address", arguments: Wire.all)
  func sourceRanges(_ wire: Wire) {
    let family = wire.family
    let vip = Bench.forServices().client(family, 200)
    func attempt(_ ranges: [IPPrefix]?, _ from: From, source: IPAddress? = nil, kind: Frontend.Kind = .loadBalancer)
      -> Sent
    {
      let bench = Bench.forServices()
      let service = bench.addService([bench.endpoint(11, family)])
      bench.setFrontend(kind, vip, wire, service, ranges: ranges)
      return connect(from, bench, wire, to: vip, port: 80, client: 5000, source: source).sent
    }
    let bench = Bench.forServices()
    let refused: [DropReason: Int] = [.sourceRange: 1]
    let own = [IPPrefix(host: bench.client(family))]
    #expect(attempt(own, .outside).drops.isEmpty)
    let other = attempt(own, .outside, source: bench.client(family, 8))
    #expect(other.drops == refused)
    #expect(other.isSilent)
    #expect(
      attempt(own + [IPPrefix(host: bench.client(family, 8))], .outside, source: bench.client(family, 8)).drops.isEmpty)
    // For pods too, before translation.
    #expect(attempt(own, .pod).drops == refused)
    #expect(attempt([IPPrefix(host: bench.pod(10, family))], .pod).drops.isEmpty)
    // The node's own packets count as coming from the address itself.
    #expect(attempt([IPPrefix(host: bench.node(family))], .host).drops == refused)
    #expect(attempt([IPPrefix(host: vip)], .host).drops.isEmpty)
    // But not those of somebody who says to be the node.
    #expect(attempt([IPPrefix(host: vip)], .outside, source: bench.node(family)).drops == refused)
    #expect(attempt(nil, .outside).drops.isEmpty)
    // The other frontends know no ranges.
    #expect(attempt(own, .outside, source: bench.client(family, 8), kind: .externalIP).drops.isEmpty)
  }
}
