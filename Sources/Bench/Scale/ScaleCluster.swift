import Addresses
import Model

/// Large clusters, as their objects look when they are parsed.
enum ScaleCluster {
  static let node = "node-0"
  static let peers = 1000

  /// An address in the block of a peer: 1,000 peers with 1,022 addresses each.
  static func address(_ number: Int) -> IPv4Address {
    IPv4Address(rawValue: 0x0a80_0000 + UInt32(number % peers + 1) << 10 + UInt32(number / peers % 1022 + 1))
  }

  static func peerName(_ number: Int) -> String { "node-\(number % peers + 1)" }

  /// The own node, its peers, and the pool of their blocks.
  static var nodes: [Resource] {
    var resources: [Resource] = [
      .ipPool(IPPool(metadata: ObjectMetadata(name: "pods"), cidr: IPPrefix("10.128.0.0/9")!))
    ]
    for number in 0...peers {
      let block = IPv4Prefix(IPv4Address(rawValue: 0x0a80_0000 + UInt32(number) << 10), length: 22)
      let address = IPv4Address(rawValue: 0xc0a8_0001 + UInt32(number))
      resources.append(
        .node(
          Node(
            metadata: ObjectMetadata(name: "node-\(number)"), podCIDRs: [.v4(block)],
            addresses: [NodeAddress(.internalIP, .v4(address))], underlayIPv4: InterfaceAddress("\(address)/16"))))
    }
    return resources
  }

  /// An address in the own node's block.
  static func localAddress(_ number: Int) -> IPv4Address { IPv4Address(rawValue: 0x0a80_0000 + UInt32(number + 1)) }

  // MARK: Services

  static let endpointsPerService = 3

  static func clusterIP(_ service: Int) -> IPv4Address { IPv4Address(rawValue: 0x0a60_0000 + UInt32(service)) }

  static func service(_ number: Int) -> Resource {
    let name = "service-\(number)"
    var service = Service(
      metadata: ObjectMetadata(name: name, namespace: "team-\(number % 1000)", labels: ["app": name]),
      clusterIPs: [.v4(clusterIP(number))],
      ports: [ServicePort(name: "dns", protocol: .udp, port: 53, targetPort: .number(5353))])
    service.selector = ["app": name]
    return .service(service)
  }

  /// The numbers of a service's endpoints at first.
  static func endpoints(of service: Int) -> [Int] {
    (0..<endpointsPerService).map { service * endpointsPerService + $0 }
  }

  /// The slice of a service whose endpoints have these numbers.
  static func slice(_ service: Int, _ endpoints: [Int]) -> Resource {
    let namespace = "team-\(service % 1000)"
    let name = "service-\(service)"
    return .endpointSlice(
      EndpointSlice(
        metadata: ObjectMetadata(
          name: "\(name)-x7k2p", namespace: namespace,
          labels: [
            EndpointSlice.serviceNameLabel: name,
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
          ]),
        endpoints: endpoints.map { number in
          EndpointSlice.Endpoint(
            [.v4(address(number))], nodeName: peerName(number), zone: "zone-\(number % 3)",
            pod: ObjectKey(.pod, namespace: namespace, name: "\(name)-\(number)"))
        }, ports: [EndpointSlice.Port(name: "dns", protocol: .udp, port: 5353)]))
  }

  static let client = ObjectKey(.pod, namespace: "default", name: "client")

  /// A cluster with a client and `count` services.
  static func services(_ count: Int) -> [Resource] {
    var resources = nodes
    resources.append(
      .pod(
        Pod(
          metadata: ObjectMetadata(name: client.name, namespace: client.namespace), nodeName: node,
          addresses: [.v4(localAddress(0))], phase: .running)))
    for number in 0..<count { resources.append(service(number)) }
    for number in 0..<count { resources.append(slice(number, endpoints(of: number))) }
    return resources
  }
}
