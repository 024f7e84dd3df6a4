import Addresses
import Compiler
import Model
import Testing

/// What a node tells of its services to load balancers and to whoever reads its metrics.
@Suite struct ServiceHealthTests {
  private static let key = ObjectKey(.service, namespace: "shop", name: "web")

  private func service(_ change: (inout Service) -> Void = { _ in }) -> Resource {
    var service = Service(
      metadata: ObjectMetadata(name: "web", namespace: "shop"), type: .loadBalancer,
      clusterIPs: [IPAddress("10.96.0.1")!, IPAddress("fd00:96::1")!],
      ports: [
        Model.ServicePort(name: "http", port: 80, nodePort: 30080),
        Model.ServicePort(name: "dns", protocol: .udp, port: 53, nodePort: 30053),
      ])
    service.externalTrafficPolicy = .local
    service.healthCheckNodePort = 30180
    change(&service)
    return service.resource
  }

  private func slice(
    _ name: String, _ endpoints: [EndpointSlice.Endpoint], _ type: EndpointSlice.AddressType = .ipv4
  ) -> Resource {
    EndpointSlice(
      metadata: ObjectMetadata(
        name: name, namespace: "shop", labels: [EndpointSlice.serviceNameLabel: "web"]),
      addressType: type, endpoints: endpoints,
      ports: [EndpointSlice.Port(name: "http", port: 8080), EndpointSlice.Port(name: "dns", protocol: .udp, port: 53)]
    ).resource
  }

  private func health(_ resources: Resource...) -> ServiceHealth? {
    let nodes = ["n1", "n2"].map { Node(metadata: ObjectMetadata(name: $0)).resource }
    return ClusterBench("n1", (nodes + resources).map { .upsert($0) }).compiler.serviceHealth[Self.key]
  }

  private func here(_ address: String, isReady: Bool = true, isTerminating: Bool = false) -> EndpointSlice.Endpoint {
    EndpointSlice.Endpoint([IPAddress(address)!], isReady: isReady, isTerminating: isTerminating, nodeName: "n1")
  }

  @Test("KP-52 a health check has the endpoints of this node that are ready, each once") func endpoints() {
    let elsewhere = EndpointSlice.Endpoint([IPAddress("10.244.2.1")!], nodeName: "n2")
    #expect(health(service(), slice("a", [elsewhere]))?.localEndpoints == 0)
    #expect(health(service(), slice("a", [elsewhere, here("10.244.1.1")]))?.localEndpoints == 1)
    #expect(
      health(
        service(), slice("a", [here("10.244.1.1"), here("10.244.1.2"), here("10.244.1.3", isReady: false)]),
        slice("b", [here("10.244.1.2"), here("10.244.1.4", isReady: false, isTerminating: true)]))?.localEndpoints == 2)
    // A pod has an address of each family; two are two.
    #expect(
      health(
        service(), slice("a", [here("10.244.1.1"), here("10.244.1.2")]), slice("b", [here("fd00:1::1")], .ipv6))?
        .localEndpoints == 2)
    #expect(health(service(), slice("a", [here("fd00:1::1")], .ipv6))?.localEndpoints == 1)
    #expect(health(service())?.localEndpoints == 0)
  }

  @Test("KP-52 only a LoadBalancer with externalTrafficPolicy Local has a health check") func whoHasOne() {
    let endpoint = slice("a", [here("10.244.1.1")])
    #expect(health(service(), endpoint)?.port == 30180)
    #expect(health(service { $0.type = .nodePort }, endpoint)?.port == nil)
    #expect(health(service { $0.externalTrafficPolicy = .cluster }, endpoint)?.port == nil)
    #expect(health(service { $0.healthCheckNodePort = nil }, endpoint)?.port == nil)
    // Another proxy's service is none of ours.
    #expect(health(service { $0.metadata.labels[Service.proxyNameLabel] = "other" }, endpoint) == nil)
  }

  @Test("KP-55 service ports are counted that have endpoints but none here, where only those count") func without() {
    let elsewhere = slice("a", [EndpointSlice.Endpoint([IPAddress("10.244.2.1")!], nodeName: "n2")])
    func counts(_ endpoints: Resource, _ change: (inout Service) -> Void = { _ in }) -> [Int] {
      let found = health(service(change), endpoints)
      return [found?.withoutLocalInternal ?? 0, found?.withoutLocalExternal ?? 0]
    }
    // Two ports of one family have endpoints.
    #expect(counts(elsewhere) == [0, 2])
    #expect(counts(elsewhere) { $0.internalTrafficPolicy = .local } == [2, 2])
    #expect(
      counts(elsewhere) {
        $0.internalTrafficPolicy = .local
        $0.externalTrafficPolicy = .cluster
      } == [2, 0])
    #expect(counts(elsewhere) { $0.externalTrafficPolicy = .cluster } == [0, 0])
    #expect(counts(slice("a", [here("10.244.1.1")])) == [0, 0])
    // Without any endpoint there is none missing here.
    #expect(counts(slice("a", [])) == [0, 0])
    #expect(counts(slice("a", [here("10.244.1.1", isReady: false)])) == [0, 0])
  }
}
