import Addresses
import Model
import Reference
import Testing

@testable import Dataplane

/// Services and endpoint slices in, decisions about packets out.
@Suite struct ServiceCompilerTests {
  private static let pod = Origin.localPod(IPAddress("10.244.1.9")!)
  private static let pod6 = Origin.localPod(IPAddress("fd00:1::9")!)
  private static let client = Origin.elsewhere(IPAddress("198.51.100.7")!)
  private static let host = Origin.node(IPAddress("10.0.0.1")!)

  /// Node n1 in zone z1 with a pod, and node n2 in zone z2.
  private func bench(_ resources: Resource..., settings: NodeConfiguration.Spec? = nil, isListed: Bool = true)
    -> ClusterBench
  {
    var all: [Resource] = []
    for number in 1...2 {
      all.append(
        Node(
          metadata: ObjectMetadata(name: "n\(number)", labels: ["topology.kubernetes.io/zone": "z\(number)"]),
          podCIDRs: [IPPrefix("10.244.\(number).0/24")!, IPPrefix("fd00:\(number)::/64")!],
          addresses: [
            NodeAddress(.internalIP, IPAddress("10.0.0.\(number)")!),
            NodeAddress(.internalIP, IPAddress("fd00::\(number)")!),
            NodeAddress(.externalIP, IPAddress("192.0.2.\(number)")!),
          ]
        ).resource)
    }
    all.append(
      Pod(
        metadata: ObjectMetadata(name: "client", namespace: "default"), nodeName: "n1",
        addresses: [IPAddress("10.244.1.9")!, IPAddress("fd00:1::9")!], phase: .running
      ).resource)
    if let settings {
      all.append(NodeConfiguration(metadata: ObjectMetadata(name: "default"), spec: settings).resource)
    }
    return ClusterBench("n1", isListed: isListed, Change.ordered((all + resources).map { .upsert($0) }))
  }

  private func service(
    _ name: String = "web", _ ip: String = "10.96.0.1", namespace: String = "default",
    _ change: (inout Service) -> Void = { _ in }
  ) -> Resource {
    var service = Service(
      metadata: ObjectMetadata(name: name, namespace: namespace), clusterIPs: [IPAddress(ip)!],
      ports: [Model.ServicePort(name: "http", port: 80)])
    change(&service)
    return service.resource
  }

  private func slice(
    _ name: String = "web", _ addresses: [String], suffix: String = "x", namespace: String = "default",
    port: UInt16? = 8080,
    _ change: (inout EndpointSlice) -> Void = { _ in }
  ) -> Resource {
    let endpoints = addresses.map { address in
      EndpointSlice.Endpoint(
        [IPAddress(address)!], nodeName: address.contains("244.1.") || address.contains("fd00:1:") ? "n1" : "n2")
    }
    var slice = EndpointSlice(
      metadata: ObjectMetadata(
        name: "\(name)-\(suffix)", namespace: namespace, labels: [EndpointSlice.serviceNameLabel: name]),
      addressType: addresses.first?.contains("::") == true ? .ipv6 : .ipv4, endpoints: endpoints,
      ports: [EndpointSlice.Port(name: "http", port: port)])
    change(&slice)
    return slice.resource
  }

  /// `default/web:http translate 10.244.2.1:8080 …`
  private func ask(
    _ bench: ClusterBench, _ from: Origin = pod, _ address: String = "10.96.0.1", port: UInt16 = 80,
    _ transport: UInt8 = 6
  ) -> String {
    let decision = bench.send(from, to: IPAddress(address)!, transport, port: port).service
    return ([decision.name ?? "-", decision.verdict.rawValue] + decision.endpoints.map(\.description))
      .joined(separator: " ")
  }

  private let web = "default/web:http translate"

  @Test("KP-1 KP-2 services of another proxy, headless, without a cluster IP, and external names are not served")
  func notServed() {
    let bench = bench(service(), slice(["10.244.2.1"]))
    #expect(ask(bench) == "\(web) 10.244.2.1:8080")
    let changes: [(inout Service) -> Void] = [
      { $0.metadata.labels[Service.proxyNameLabel] = "" }, { $0.isHeadless = true }, { $0.clusterIPs = [] },
      { $0.type = .externalName },
    ]
    for change in changes {
      bench.apply([.upsert(service("web", change))])
      #expect(ask(bench) == "- none")
      #expect(bench.contents["services"] == 0)
      bench.apply([.upsert(service())])
      #expect(ask(bench) == "\(web) 10.244.2.1:8080")
    }
    bench.apply([.delete(ObjectKey(.service, namespace: "default", name: "web"))])
    #expect(ask(bench) == "- none")
  }

  @Test("KP-1 slices with the headless label do not count, KP-3 nor those of no service or another namespace")
  func slices() {
    let bench = bench(service(), slice(["10.244.2.1"]))
    for change in [
      { $0.metadata.labels[EndpointSlice.headlessLabel] = "" }, { $0.metadata.labels = [:] },
      { $0.metadata.labels[EndpointSlice.serviceNameLabel] = "other" },
    ] as [(inout EndpointSlice) -> Void] {
      bench.apply([.upsert(slice(["10.244.2.1"], change))])
      #expect(ask(bench) == "default/web:http reject")
      bench.apply([.upsert(slice(["10.244.2.1"]))])
      #expect(ask(bench) == "\(web) 10.244.2.1:8080")
    }
    bench.apply([.upsert(slice(["10.244.2.9"], namespace: "elsewhere"))])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080")
  }

  @Test(
    "KP-3 the other family, ports that are nil, 0 or of another name do not count; one address in two slices counts once"
  )
  func endpoints() {
    let bench = bench(
      service(), slice(["10.244.2.1", "10.244.2.2"]), slice(["10.244.2.2", "10.244.2.3"], suffix: "y"))
    #expect(ask(bench) == "\(web) 10.244.2.1:8080 10.244.2.2:8080 10.244.2.3:8080")
    bench.apply([.upsert(slice(["10.244.2.2", "10.244.2.3"], suffix: "y", port: nil))])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080 10.244.2.2:8080")
    bench.apply([.upsert(slice(["10.244.2.2", "10.244.2.3"], suffix: "y", port: 0))])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080 10.244.2.2:8080")
    bench.apply([.upsert(slice(["10.244.2.3"], suffix: "y") { $0.ports[0].name = "other" })])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080 10.244.2.2:8080")
    bench.apply([.upsert(slice(["10.244.2.3"], suffix: "y") { $0.ports[0].protocol = .udp })])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080 10.244.2.2:8080")
    bench.apply([.upsert(slice(["fd00:2::1"], suffix: "y"))])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080 10.244.2.2:8080")
    // Only the first address of an endpoint.
    bench.apply([.upsert(slice(["10.244.2.1"]) { $0.endpoints[0].addresses.append(IPAddress("10.244.2.77")!) })])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080")
    // The same address, terminating in one slice and not in the other.
    bench.apply([
      .upsert(
        slice(["10.244.2.1"]) {
          $0.endpoints[0].isReady = false
          $0.endpoints[0].isTerminating = true
        }),
      .upsert(slice(["10.244.2.1", "10.244.2.2"], suffix: "y")),
    ])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080 10.244.2.2:8080")
  }

  @Test("KP-4 nothing is programmed until services and slices were listed") func listed() {
    let bench = bench(service(), isListed: false)
    #expect(ask(bench) == "- none")
    bench.apply([.upsert(slice(["10.244.2.1"]))])
    #expect(ask(bench) == "- none")
    bench.compiler.servicesAreListed = true
    bench.apply([])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080")
  }

  @Test("KP-5 KP-10 KP-11 ready, serving and terminating, in both sets") func conditions() {
    let local = "10.244.1.1"
    let remote = "10.244.2.1"
    func conditions(_ endpoint: inout EndpointSlice.Endpoint, _ text: String) {
      endpoint.isReady = text.contains("r")
      endpoint.isServing = text.contains("s")
      endpoint.isTerminating = text.contains("t")
    }
    let bench = bench(
      service { service in
        service.type = .nodePort
        service.ports[0].nodePort = 30080
        service.externalTrafficPolicy = .local
      })
    for (here, there, cluster, own) in [
      ("rs", "rs", [local, remote], [local]), ("rs", "", [local], [local]), ("", "rs", [remote], []),
      ("st", "rs", [remote], [local]), ("st", "st", [local, remote], [local]), ("st", "", [local], [local]),
      ("t", "t", [], []), ("s", "s", [], []), ("", "st", [remote], []), ("rt", "rs", [local, remote], [local]),
    ] {
      bench.apply([
        .upsert(
          slice([local, remote]) { slice in
            conditions(&slice.endpoints[0], here)
            conditions(&slice.endpoints[1], there)
          })
      ])
      func text(_ set: [String], _ none: String) -> String {
        set.isEmpty ? "default/web:http \(none)" : "\(web) " + set.map { "\($0):8080" }.joined(separator: " ")
      }
      #expect(ask(bench) == text(cluster, "reject"), "\(here) \(there)")
      #expect(
        ask(bench, Self.client, "10.0.0.1", port: 30080) == text(own, cluster.isEmpty ? "reject" : "drop"),
        "\(here) \(there)")
    }
  }

  @Test("KP-6 KP-7 families and protocols are apart: each has endpoints of its own") func families() {
    let dual = service { service in
      service.clusterIPs.append(IPAddress("fd00:96::1")!)
      service.ports.append(Model.ServicePort(name: "dns", protocol: .udp, port: 80))
    }
    let bench = bench(
      dual, slice(["10.244.2.1"]) { $0.ports.append(.init(name: "dns", protocol: .udp, port: 53)) },
      slice(["fd00:2::1"], suffix: "y"))
    #expect(ask(bench) == "\(web) 10.244.2.1:8080")
    #expect(ask(bench, 17) == "default/web:dns translate 10.244.2.1:53")
    #expect(ask(bench, Self.pod6, "fd00:96::1") == "\(web) [fd00:2::1]:8080")
    #expect(ask(bench, Self.pod6, "fd00:96::1", 17) == "default/web:dns reject")
    #expect(ask(bench, 132) == "- reject")
    // One family goes, the other stays.
    bench.apply([.upsert(service { $0.ports.append(Model.ServicePort(name: "dns", protocol: .udp, port: 80)) })])
    #expect(ask(bench, Self.pod6, "fd00:96::1") == "- none")
    #expect(ask(bench) == "\(web) 10.244.2.1:8080")
  }

  private func ask(_ bench: ClusterBench, _ transport: UInt8) -> String {
    ask(bench, Self.pod, "10.96.0.1", port: 80, transport)
  }

  private func ask(_ bench: ClusterBench, _ from: Origin, _ address: String, _ transport: UInt8) -> String {
    ask(bench, from, address, port: 80, transport)
  }

  @Test("KP-13 hints: this node, else this zone, else all; never for the set of this node") func topology() {
    let bench = bench(
      service { service in
        service.type = .nodePort
        service.ports[0].nodePort = 30080
        service.externalTrafficPolicy = .local
      })
    func endpoints(_ hints: [(nodes: [String], zones: [String])]) {
      bench.apply([
        .upsert(
          slice(["10.244.1.1", "10.244.2.1", "10.244.2.2"]) { slice in
            for (index, hint) in hints.enumerated() {
              slice.endpoints[index].nodeHints = hint.nodes
              slice.endpoints[index].zoneHints = hint.zones
            }
          })
      ])
    }
    let all = "\(web) 10.244.1.1:8080 10.244.2.1:8080 10.244.2.2:8080"
    endpoints([([], []), ([], []), ([], [])])
    #expect(ask(bench) == all)
    endpoints([(["n2"], ["z2"]), (["n1"], ["z1"]), (["n2"], ["z1"])])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080")
    // The endpoint here is meant for others, and still the one of this node.
    #expect(ask(bench, Self.client, "10.0.0.1", port: 30080) == "\(web) 10.244.1.1:8080")
    endpoints([([], ["z2"]), (["n1"], ["z1"]), (["n2"], ["z1"])])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080 10.244.2.2:8080")
    endpoints([(["n2"], ["z2"]), (["n2"], ["z1"]), (["n2"], [])])
    #expect(ask(bench) == all)
    endpoints([([], ["z2"]), ([], ["z2"]), ([], ["z2"])])
    #expect(ask(bench) == all)
    #expect(ask(bench, Self.client, "10.0.0.1", port: 30080) == "\(web) 10.244.1.1:8080")
    // The node moves to the other zone.
    endpoints([([], ["z1"]), ([], ["z2"]), ([], ["z2"])])
    #expect(ask(bench) == "\(web) 10.244.1.1:8080")
    var node = bench.compiler.state.node("n1")!
    node.metadata.labels["topology.kubernetes.io/zone"] = "z2"
    bench.apply([.upsert(node.resource)])
    #expect(ask(bench) == "\(web) 10.244.2.1:8080 10.244.2.2:8080")
    node.metadata.labels = [:]
    bench.apply([.upsert(node.resource)])
    #expect(ask(bench) == all)
  }

  @Test("KP-20 KP-21 KP-22 KP-23 every kind of frontend, and none too many") func frontends() {
    let resource = service { service in
      service.type = .loadBalancer
      service.ports[0].nodePort = 30080
      service.externalIPs = [IPAddress("203.0.113.1")!, IPAddress("fd00:ee::1")!]
      service.loadBalancerIngress = [
        LoadBalancerIngress(IPAddress("203.0.113.2")!), LoadBalancerIngress(IPAddress("203.0.113.3")!, ipMode: .proxy),
        LoadBalancerIngress(hostname: "lb.example.com"), LoadBalancerIngress(IPAddress("fd00:cb::1")!),
      ]
    }
    let bench = bench(resource, slice(["10.244.2.1"]))
    for (address, port) in [
      ("10.96.0.1", 80), ("203.0.113.1", 80), ("203.0.113.2", 80), ("10.0.0.1", 30080), ("192.0.2.1", 30080),
    ] as [(String, UInt16)] {
      #expect(ask(bench, Self.client, address, port: port) == "\(web) 10.244.2.1:8080", "\(address)")
    }
    for (address, port) in [
      ("203.0.113.3", 80), ("10.0.0.2", 30080), ("10.0.0.1", 80), ("203.0.113.1", 30080),
    ] as [(String, UInt16)] { #expect(ask(bench, Self.client, address, port: port) == "- none", "\(address)") }
    let client6 = Origin.elsewhere(IPAddress("2001:db8::7")!)
    for address in ["fd00:ee::1", "fd00:cb::1"] { #expect(ask(bench, client6, address, port: 80) == "- none") }
    #expect(bench.contents["frontends"] == 4)
  }

  @Test("KP-23 KP-24 nodePortAddresses: primary, blocks, all; and 127.0.0.1 where that is wanted") func nodePorts() {
    func serves(_ change: (inout NodeConfiguration.Spec) -> Void) -> String {
      var spec = NodeConfiguration.Spec()
      change(&spec)
      let bench = bench(
        service { service in
          service.type = .nodePort
          service.clusterIPs.append(IPAddress("fd00:96::1")!)
          service.ports[0].nodePort = 30080
        }, slice(["10.244.2.1"]), slice(["fd00:2::1"], suffix: "y"), settings: spec)
      var served: [String] = []
      for (name, from, address) in [
        ("primary", Self.client, "10.0.0.1"), ("second", Self.client, "192.0.2.1"),
        ("v6", Origin.elsewhere(IPAddress("2001:db8::7")!), "fd00::1"),
        ("localhost", Origin.node(IPAddress("127.0.0.1")!), "127.0.0.1"), ("127.0.0.2", Self.host, "127.0.0.2"),
        ("::1", Origin.node(IPAddress("fd00::1")!), "::1"),
      ] where ask(bench, from, address, port: 30080).hasPrefix(web) { served.append(name) }
      return served.joined(separator: " ")
    }
    #expect(serves { _ in } == "primary second v6")
    #expect(serves { $0.nodePortAddresses = .primary } == "primary v6")
    #expect(serves { $0.nodePortAddresses = .blocks([IPPrefix("192.0.2.0/24")!]) } == "second v6")
    #expect(serves { $0.nodePortAddresses = .blocks([IPPrefix("fd01::/64")!]) } == "primary second")
    #expect(serves { $0.nodePortAddresses = .blocks([IPPrefix("172.16.0.0/12")!, IPPrefix("fd00::/64")!]) } == "v6")
    #expect(serves { $0.localhostNodePorts = true } == "primary second v6 localhost")
    #expect(
      serves {
        $0.localhostNodePorts = true
        $0.nodePortAddresses = .primary
      } == "primary v6")
    #expect(
      serves {
        $0.localhostNodePorts = true
        $0.nodePortAddresses = .blocks([IPPrefix("127.0.0.0/8")!])
      } == "v6 localhost")
  }

  @Test("KP-23 KP-33 NodePorts are served on all addresses of the machine, as these come and go") func allAddresses() {
    func nodePort(_ change: (inout NodeConfiguration.Spec) -> Void = { _ in }) -> ClusterBench {
      var spec = NodeConfiguration.Spec()
      change(&spec)
      return bench(
        service { service in
          service.type = .nodePort
          service.externalTrafficPolicy = .local
          service.ports[0].nodePort = 30080
        }, slice(["10.244.2.1"]), settings: spec)
    }
    let (second, third) = ("172.31.0.1", "172.31.0.2")
    let node = nodePort()
    let other = Origin.node(IPAddress(second)!)
    #expect(ask(node, Self.host, second, port: 30080) == "- none")
    node.compiler.setMachineAddresses([IPAddress(second)!, IPAddress(third)!])
    node.commit()
    for address in [second, third, "10.0.0.1"] {
      // KP-31: none of the endpoints is here; KP-33 (2): the node itself reaches the others, from whatever address.
      #expect(ask(node, Self.client, address, port: 30080) == "default/web:http drop", "\(address)")
      #expect(ask(node, Self.host, address, port: 30080).hasPrefix("\(web) 10.244.2.1"), "\(address)")
      #expect(ask(node, other, address, port: 30080).hasPrefix("\(web) 10.244.2.1"), "\(address)")
      // What the host forwards for others is from elsewhere.
      #expect(
        ask(node, .node(IPAddress("172.31.0.77")!), address, port: 30080) == "default/web:http drop", "\(address)")
    }
    node.compiler.setMachineAddresses([IPAddress(third)!])
    node.commit()
    #expect(ask(node, Self.host, second, port: 30080) == "- none")
    #expect(ask(node, other, third, port: 30080) == "default/web:http drop")
    let primary = nodePort { $0.nodePortAddresses = .primary }
    primary.compiler.setMachineAddresses([IPAddress(second)!])
    primary.commit()
    #expect(ask(primary, Self.host, second, port: 30080) == "- none")
    let block = nodePort { $0.nodePortAddresses = .blocks([IPPrefix("172.31.0.0/31")!]) }
    block.compiler.setMachineAddresses([IPAddress(second)!, IPAddress(third)!])
    block.commit()
    #expect(ask(block, Self.host, second, port: 30080).hasPrefix(web))
    #expect(ask(block, Self.host, third, port: 30080) == "- none")
    #expect(ask(block, Self.host, "10.0.0.1", port: 30080) == "- none")
  }

  @Test("KP-37 the port of a cluster IP that nobody defined, the address that nobody has") func unknown() {
    var spec = NodeConfiguration.Spec()
    spec.serviceCIDRs = [IPPrefix("10.96.0.0/16")!]
    let bench = bench(service(), slice(["10.244.2.1"]), settings: spec)
    #expect(ask(bench, Self.pod, "10.96.0.1", port: 81) == "- reject")
    #expect(ask(bench, Self.pod, "10.96.0.2", port: 80) == "- drop")
    bench.apply([.upsert(service("web", "10.96.0.2"))])
    #expect(ask(bench, Self.pod, "10.96.0.1", port: 81) == "- drop")
    #expect(ask(bench, Self.pod, "10.96.0.2", port: 81) == "- reject")
  }

  @Test("KP-38 source ranges are filtered by family, and any /0 opens all") func ranges() {
    func isOpen(_ ranges: [String]) -> Bool {
      let bench = bench(
        service { service in
          service.type = .loadBalancer
          service.loadBalancerIngress = [LoadBalancerIngress(IPAddress("203.0.113.2")!)]
          service.loadBalancerSourceRanges = ranges.map { IPPrefix($0)! }
        }, slice(["10.244.2.1"]))
      let text = ask(bench, Self.client, "203.0.113.2")
      #expect(text == "\(web) 10.244.2.1:8080" || text == "default/web:http drop")
      return text.hasPrefix(web)
    }
    #expect(isOpen([]))
    #expect(isOpen(["198.51.100.0/24"]))
    #expect(!isOpen(["198.51.99.0/24"]))
    #expect(isOpen(["198.51.99.0/24", "0.0.0.0/0"]))
    #expect(isOpen(["fd00::/16"]))
    #expect(!isOpen(["::/0", "198.51.99.0/24"]))
  }

  // MARK: Claims

  @Test("two services with one frontend: the rank decides, whatever the order, and the next one follows") func claims()
  {
    func external(_ name: String, _ ip: String) -> Resource {
      service(name, ip) { $0.externalIPs = [IPAddress("203.0.113.1")!] }
    }
    func balanced(_ name: String, _ ip: String) -> Resource {
      service(name, ip) {
        $0.type = .loadBalancer
        $0.loadBalancerIngress = [LoadBalancerIngress(IPAddress("203.0.113.1")!)]
      }
    }
    let clusterIP = service("z", "203.0.113.1")
    let contenders = [
      clusterIP, external("b", "10.96.0.2"), external("c", "10.96.0.3"), balanced("a", "10.96.0.1"),
      balanced("d", "10.96.0.4"),
    ]
    let ranking = ["z", "b", "c", "a", "d"]
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 1, 3]] {
      let bench = bench()
      for name in ranking { bench.apply([.upsert(slice(name, ["10.244.2.1"]))]) }
      for index in order { bench.apply([.upsert(contenders[index])]) }
      for (place, name) in ranking.enumerated() {
        #expect(ask(bench, Self.client, "203.0.113.1") == "default/\(name):http translate 10.244.2.1:8080")
        #expect(ask(bench, Self.client, "203.0.113.1", port: 81) == (place == 0 ? "- reject" : "- none"))
        bench.apply([.delete(ObjectKey(.service, namespace: "default", name: name))])
      }
      #expect(ask(bench, Self.client, "203.0.113.1") == "- none")
    }
  }

  @Test("a service whose address is an external IP and a load balancer's at once, and one that turns into the other")
  func ownClaims() {
    func resource(external: Bool, balanced: Bool) -> Resource {
      service { service in
        service.type = .loadBalancer
        service.loadBalancerSourceRanges = [IPPrefix("192.0.2.0/24")!]
        if external { service.externalIPs = [IPAddress("203.0.113.1")!] }
        if balanced { service.loadBalancerIngress = [LoadBalancerIngress(IPAddress("203.0.113.1")!)] }
      }
    }
    let bench = bench(slice(["10.244.2.1"]))
    for (external, balanced, expected) in [
      (true, true, "\(web) 10.244.2.1:8080"), (false, true, "default/web:http drop"),
      (true, false, "\(web) 10.244.2.1:8080"),
      (false, false, "- none"), (false, true, "default/web:http drop"), (true, true, "\(web) 10.244.2.1:8080"),
    ] {
      bench.apply([.upsert(resource(external: external, balanced: balanced))])
      #expect(ask(bench, Self.client, "203.0.113.1") == expected)
    }
  }

  // MARK: Work in proportion

  @Test("a change touches the service that it is about, and nothing of any other") func proportion() {
    let bench = bench()
    var changes: [Change] = []
    for number in 0..<300 {
      changes.append(.upsert(service("s\(number)", "10.96.\(1 + number / 200).\(number % 200)")))
      changes.append(.upsert(slice("s\(number)", ["10.244.2.1", "10.244.2.2", "10.244.1.3"])))
    }
    bench.apply(changes)
    func picture() -> [String] {
      (0..<400).map { index in
        let record = bench.tables.services.services[index]
        let list = (0..<Int(record.clusterCount + record.localCount)).map {
          bench.tables.services.lists[Int(record.list) + $0]
        }
        return "\(record) \(list) \(list.map { bench.tables.services.backends[Int($0)].generation })"
      }
    }
    let before = picture()
    let used = bench.tables.services.lists.octets
    for round in 0..<50 {
      let addresses = ["10.244.2.1", round % 2 == 0 ? "10.244.2.9" : "10.244.2.2", "10.244.1.3"]
      bench.apply([.upsert(slice("s77", addresses))])
    }
    let after = picture()
    let changed = (0..<400).filter { before[$0] != after[$0] }
    #expect(changed.count == 1)
    // The endpoints that stayed kept their places and generations.
    let index = changed[0]
    let stayed = bench.tables.services.installed[index].first {
      $0.endpoint == .init(IPAddress("10.244.2.1")!, 8080)
    }!
    #expect(bench.tables.services.backends[Int(stayed.place)].generation == 1)
    // And nothing grew.
    #expect(bench.tables.services.lists.octets == used)
    #expect(bench.contents["backends"] == 900)
    // What says the same says nothing.
    let epoch = bench.tables.epoch
    bench.apply([.upsert(slice("s77", ["10.244.2.1", "10.244.2.2", "10.244.1.3"]))])
    bench.apply([.upsert(service("s78", "10.96.1.78"))])
    #expect(bench.tables.epoch == epoch)
  }

  @Test("KP-15 Maglev: chosen by a service or by all") func balancing() {
    func isMaglev(_ change: (inout Service) -> Void, _ spec: NodeConfiguration.Spec? = nil) -> Bool {
      let bench = bench(service("web", change), slice(["10.244.2.1"]), settings: spec)
      let index = (0..<256).first { bench.tables.services.services[$0].inUse }!
      return bench.tables.services.services[index].clusterMaglevSize > 0
    }
    var spec = NodeConfiguration.Spec()
    #expect(!isMaglev({ _ in }))
    #expect(isMaglev({ $0.loadBalancing = .maglev }))
    spec.loadBalancing = .maglev
    #expect(isMaglev({ _ in }, spec))
    #expect(!isMaglev({ $0.loadBalancing = .random }, spec))
  }

  private func service(_ name: String, _ change: (inout Service) -> Void) -> Resource {
    service(name, "10.96.0.1", change)
  }
  private func slice(
    _ addresses: [String], suffix: String = "x", namespace: String = "default", port: UInt16? = 8080,
    _ change: (inout EndpointSlice) -> Void = { _ in }
  ) -> Resource {
    slice("web", addresses, suffix: suffix, namespace: namespace, port: port, change)
  }
}
