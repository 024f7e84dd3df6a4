import Addresses
import Model
import Reference
import Testing

@testable import Dataplane

/// Services and endpoint slices in, decisions about packets out.
@Suite struct ServiceCompilerTests {
  static let pod = Origin.localPod(IPAddress("10.244.1.9")!)
  static let pod6 = Origin.localPod(IPAddress("fd00:1::9")!)
  static let client = Origin.elsewhere(IPAddress("198.51.100.7")!)
  static let host = Origin.node(IPAddress("10.0.0.1")!)

  /// Node n1 in zone z1 with a pod, and node n2 in zone z2.
  func bench(_ resources: Resource..., settings: NodeConfiguration.Spec? = nil, isListed: Bool = true)
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

  func service(
    _ name: String = "web", _ ip: String = "10.96.0.1", namespace: String = "default",
    _ change: (inout Service) -> Void = { _ in }
  ) -> Resource {
    var service = Service(
      metadata: ObjectMetadata(name: name, namespace: namespace), clusterIPs: [IPAddress(ip)!],
      ports: [Model.ServicePort(name: "http", port: 80)])
    change(&service)
    return service.resource
  }

  func slice(
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
  func ask(
    _ bench: ClusterBench, _ from: Origin = pod, _ address: String = "10.96.0.1", port: UInt16 = 80,
    _ transport: UInt8 = 6
  ) -> String {
    let decision = bench.send(from, to: IPAddress(address)!, transport, port: port).service
    return ([decision.name ?? "-", decision.verdict.rawValue] + decision.endpoints.map(\.description))
      .joined(separator: " ")
  }

  var web: String { "default/web:http translate" }

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

  func ask(_ bench: ClusterBench, _ transport: UInt8) -> String {
    ask(bench, Self.pod, "10.96.0.1", port: 80, transport)
  }

  func ask(_ bench: ClusterBench, _ from: Origin, _ address: String, _ transport: UInt8) -> String {
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

  func service(_ name: String, _ change: (inout Service) -> Void) -> Resource {
    service(name, "10.96.0.1", change)
  }
  func slice(
    _ addresses: [String], suffix: String = "x", namespace: String = "default", port: UInt16? = 8080,
    _ change: (inout EndpointSlice) -> Void = { _ in }
  ) -> Resource {
    slice("web", addresses, suffix: suffix, namespace: namespace, port: port, change)
  }
}
