import Addresses
import Model

@testable import Reference

/// A state that is put together object by object: two nodes in two zones, their pods in 10.244.0.0/16.
struct Cluster {
  var state = State()
  var configuration = NodeConfiguration.Spec() {
    didSet { put(NodeConfiguration(metadata: ObjectMetadata(name: "default"), spec: configuration).resource) }
  }

  init() {
    for (number, zone) in [(1, "z1"), (2, "z2")] {
      put(
        Node(
          metadata: ObjectMetadata(name: "n\(number)", labels: ["topology.kubernetes.io/zone": zone]),
          addresses: [
            NodeAddress(.internalIP, IPAddress("10.0.0.\(number)")!),
            NodeAddress(.internalIP, IPAddress("fd00::\(number)")!),
            NodeAddress(.externalIP, IPAddress("192.0.2.\(number)")!),
          ]
        ).resource)
    }
  }

  mutating func put(_ resource: Resource) { state.apply(.upsert(resource)) }

  /// A service `default/web` with the cluster IP 10.96.0.1 and the port 80, as `change` leaves it.
  mutating func service(_ name: String = "web", _ change: (inout Service) -> Void = { _ in }) {
    var service = Service(
      metadata: ObjectMetadata(name: name, namespace: "default"), clusterIPs: [IPAddress("10.96.0.1")!],
      ports: [ServicePort(name: "http", port: 80)])
    change(&service)
    put(service.resource)
  }

  /// An IPv4 slice of `default/web` with the port 8080, as `change` leaves it.
  mutating func slice(
    _ name: String, _ endpoints: [EndpointSlice.Endpoint], _ change: (inout EndpointSlice) -> Void = { _ in }
  ) {
    var slice = EndpointSlice(
      metadata: ObjectMetadata(
        name: name, namespace: "default", labels: [EndpointSlice.serviceNameLabel: "web"]),
      endpoints: endpoints, ports: [EndpointSlice.Port(name: "http", port: 8080)])
    change(&slice)
    put(slice.resource)
  }

  mutating func slice(
    _ endpoints: [EndpointSlice.Endpoint], _ change: (inout EndpointSlice) -> Void = { _ in }
  ) { slice("web-x", endpoints, change) }

  /// A pod whose address tells its node: 10.244.1.x is on n1.
  mutating func pod(_ name: String, _ address: String, labels: [String: String] = [:], namespace: String = "default") {
    let node = address.split(separator: ".")[2]
    put(
      Pod(
        metadata: ObjectMetadata(name: name, namespace: namespace, labels: labels), nodeName: "n\(node)",
        addresses: [IPAddress(address)!], phase: .running
      ).resource)
  }

  func decide(
    _ source: Origin, _ destination: String, _ transport: TransportProtocol = .tcp, _ port: UInt16 = 80
  ) -> ServiceDecision {
    ReferenceServices(state: state, node: "n1").decide(
      source: source, destination: IPAddress(destination)!, protocol: transport, port: port)
  }
}

/// An endpoint of 10.244.NODE.x.
func endpoint(
  _ address: String, ready: Bool = true, serving: Bool = true, terminating: Bool = false, zones: [String] = [],
  nodes: [String] = []
) -> EndpointSlice.Endpoint {
  EndpointSlice.Endpoint(
    [IPAddress(address)!], isReady: ready, isServing: serving, isTerminating: terminating,
    nodeName: "n\(address.split(separator: ".")[2])", zoneHints: zones, nodeHints: nodes)
}

let localPod = Origin.localPod(IPAddress("10.244.1.9")!)
let ownNode = Origin.node(IPAddress("10.0.0.1")!)
let client = Origin.elsewhere(IPAddress("198.51.100.7")!)

extension ServiceDecision {
  /// The verdict, the endpoints and whether masqueraded, in short: `translate 10.244.1.2:8080 masquerade`.
  var text: String {
    ([verdict.rawValue] + endpoints.sorted().map(\.description) + (masquerade ? ["masquerade"] : []))
      .joined(separator: " ")
  }
}
