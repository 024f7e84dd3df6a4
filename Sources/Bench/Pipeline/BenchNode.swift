import Addresses
import Compiler
import Dataplane
import Model

/// A node whose tables the real compiler made, with a source where packets come in and sinks where they leave.
///
/// The node `bench` has one pod, 10.244.0.2 and fd00:244::2; `peers` other nodes have a block each. Where there are
/// services, each has endpoints on the other nodes; where there are policies, they select the pod.
final class BenchNode {
  let path: DataPath
  let compiler = NodeCompiler(node: "bench", derivesNeighbours: true)
  let pod: PortIndex
  let underlay: PortIndex
  /// Of each lane.
  let podSinks: [SinkPort]
  let underlaySinks: [SinkPort]
  let podMAC: MACAddress
  let shape: Shape

  struct Shape {
    var tunnel: IPPool.Tunnel?
    var peers = 1000
    var services = 0
    var endpoints = 10
    /// Rules that the pod is subject to in each direction.
    var rules = 0
  }

  static let podAddress = IPv4Address(10, 244, 0, 2)
  static let podAddress6 = IPv6Address("fd00:244::2")!
  static let nodeAddress = IPv4Address(192, 168, 0, 1)
  static let podMAC = pod.macAddress!
  private static let pod = Pod(
    metadata: ObjectMetadata(name: "pod", namespace: "default", labels: ["app": "bench"]), nodeName: "bench",
    addresses: [.v4(podAddress), .v6(podAddress6)], phase: .running)
  static let underlayMAC = MACAddress("02:00:00:00:00:01")!
  static let mtu = 65_535

  /// `workers`: the number of lanes; `sharing`: what these have in common.
  init(_ shape: Shape, workers: Int = 1, sharing: DataPath.Sharing = .tables) {
    self.shape = shape
    path = DataPath(workers: workers, sharing: sharing, flowLimit: 1 << 21)
    podSinks = (0..<workers).map { _ in SinkPort(name: "pod") }
    underlaySinks = (0..<workers).map { _ in SinkPort(name: "underlay") }
    let pod = BenchNode.pod
    podMAC = BenchNode.podMAC
    compiler.apply(Change.ordered(BenchNode.resources(shape, pod).map(Change.upsert)))
    let (compiler, path, podSinks, underlaySinks) = (compiler, path, podSinks, underlaySinks)
    (self.pod, underlay) = path.change { tables in
      let underlay = tables.addPort(
        PortDescription(name: "underlay", role: .underlay, mac: BenchNode.underlayMAC, mtu: BenchNode.mtu))
      compiler.setUnderlay(Underlay(port: underlay, mac: BenchNode.underlayMAC, mtu: BenchNode.mtu))
      compiler.commit(to: &tables)
      let port = tables.addPort(compiler.attachments[pod.key]!.portDescription(capabilities: []))
      compiler.setPort(port, for: pod.key)
      compiler.commit(to: &tables)
      for (number, lane) in path.lanes.enumerated() {
        lane[port: port] = podSinks[number]
        lane[port: underlay] = underlaySinks[number]
      }
      return (port, underlay)
    }
  }

  // MARK: The cluster

  static func peerAddress(_ peer: Int) -> IPv4Address { IPv4Address(192, 168, UInt8(1 + peer >> 8), UInt8(peer & 255)) }
  /// An address in the block of a peer.
  static func remote(_ peer: Int, _ host: Int) -> IPv4Address {
    IPv4Address(10, UInt8(peer >> 8), UInt8(peer & 255), UInt8(2 + host % 250))
  }
  static func remote6(_ peer: Int, _ host: Int) -> IPv6Address {
    IPv6Address(high: 0xfd00_0244_0000_0001 + UInt64(peer), low: UInt64(2 + host))
  }
  static func clusterIP(_ service: Int) -> IPv4Address {
    IPv4Address(10, 96, UInt8(service >> 8), UInt8(service & 255))
  }

  private static func resources(_ shape: Shape, _ pod: Pod) -> [Resource] {
    var resources: [Resource] = [.pod(pod)]
    func node(_ name: String, _ address: IPv4Address, _ blocks: [IPPrefix]) {
      resources.append(
        .node(
          Node(
            metadata: ObjectMetadata(name: name), podCIDRs: blocks,
            addresses: [NodeAddress(.internalIP, .v4(address))],
            underlayIPv4: InterfaceAddress("\(address)/16"))))
    }
    node("bench", nodeAddress, [IPPrefix("10.244.0.0/24")!, IPPrefix("fd00:244::/64")!])
    for peer in 0..<shape.peers {
      let block = IPv4Prefix(IPv4Address(10, UInt8(peer >> 8), UInt8(peer & 255), 0), length: 24)
      node("n\(peer)", peerAddress(peer), [.v4(block), .v6(IPv6Prefix(remote6(peer, 0), length: 64))])
    }
    for (name, cidr) in [("v4", "10.0.0.0/8"), ("v6", "fd00:244::/48")] {
      func mode(_ tunnel: IPPool.Tunnel) -> IPPool.EncapsulationMode { shape.tunnel == tunnel ? .always : .never }
      resources.append(
        .ipPool(
          IPPool(
            metadata: ObjectMetadata(name: name), cidr: IPPrefix(cidr)!, ipipMode: mode(.ipip), vxlanMode: mode(.vxlan),
            greMode: mode(.gre), geneveMode: mode(.geneve))))
    }
    for service in 0..<shape.services { resources += self.service(service, shape) }
    for rule in 0..<shape.rules { resources.append(policy(rule)) }
    return resources
  }

  private static func service(_ number: Int, _ shape: Shape) -> [Resource] {
    let name = "s\(number)"
    let port = Model.ServicePort(name: "dns", protocol: .udp, port: 53)
    let service = Service(
      metadata: ObjectMetadata(name: name, namespace: "default"), clusterIPs: [.v4(clusterIP(number))], ports: [port])
    let endpoints = (0..<shape.endpoints).map { endpoint in
      EndpointSlice.Endpoint([.v4(remote((number + endpoint) % shape.peers, endpoint))], nodeName: "n0")
    }
    let slice = EndpointSlice(
      metadata: ObjectMetadata(
        name: "\(name)-1", namespace: "default", labels: [EndpointSlice.serviceNameLabel: name]),
      endpoints: endpoints, ports: [EndpointSlice.Port(name: "dns", protocol: .udp, port: 5353)])
    return [.service(service), .endpointSlice(slice)]
  }

  /// One rule of many; together they allow the ports that the benchmark uses.
  private static func policy(_ number: Int) -> Resource {
    let block = NetworkPolicy.Peer.block(NetworkPolicy.IPBlock(IPPrefix("10.0.0.0/8")!))
    let first = UInt16(number == 0 ? 1 : 20_000 + number)
    let ports = [NetworkPolicy.Port(.udp, .range(first...(number == 0 ? 19_999 : first)))]
    let rule = NetworkPolicy.Rule(peers: [block], ports: ports)
    return .networkPolicy(
      NetworkPolicy(
        metadata: ObjectMetadata(name: "p\(number)", namespace: "default"), policyTypes: [.ingress, .egress],
        ingress: [rule], egress: [rule]))
  }
}
