import Addresses
import Compiler
import Dataplane
import Datastore
import Model
import Ports

/// A node without a machine: the tables that a state makes for it, one worker, and a port for the underlay, the host and
/// each of its pods. Neighbours on the underlay have addresses made from their names, so that nothing is asked for.
public final class VirtualNode {
  public let dataPath: DataPath
  public let compiler: NodeCompiler
  /// In the order of their indices: underlay, host, then pods by namespace and name.
  public private(set) var ports: [NodePort] = []
  public var lane: Lane { dataPath.lanes[0] }
  public var state: State { compiler.state }
  public var name: String { compiler.node.name }

  /// Addresses of ports that differ from what the state makes them, by the name of the port: the underlay's own; of a
  /// pod or the host the one that it sends from.
  public typealias MACs = [String: MACAddress]

  /// The node `name` of `state`. Where `flowLimit` is nil, the configuration's `flowTableSize` counts.
  public init(_ name: String, in state: State, macs: MACs = [:], flowLimit: Int? = nil) throws(ReplayError) {
    guard let node = state.node(name) else {
      let known = state.nodes.values.map(\.name).sorted()
      throw ReplayError(
        .missing,
        "no Node \(name) in the state: \(hint(for: name, among: known, none: "it holds no Node; add its manifest"))")
    }
    let settings = state.settings(ofNode: name)
    dataPath = DataPath(workers: 1, flowLimit: flowLimit ?? settings.flowTableSize)
    compiler = NodeCompiler(node: name, derivesNeighbours: true, explains: true)
    compiler.apply(VirtualNode.changes(state, macs: macs))
    let underlayMAC = macs["underlay"] ?? MACAddress(derivedFrom: name)
    let mtu = settings.mtu ?? 1500
    let addresses = IPFamily.allCases.compactMap { family in
      node.address(family).map { InterfaceAddress($0, prefix: node.subnet(family) ?? IPPrefix(host: $0)) }
    }
    let hostMAC = macs["host"] ?? MACAddress(derivedFrom: "\(name)/host")
    dataPath.change { tables in
      add(NodePort.Role.underlay, "underlay", mac: underlayMAC, mtu: mtu, &tables)
      add(.host, "host", mac: PodAttachment.hostMAC, peerMAC: hostMAC, mtu: mtu, &tables)
      compiler.setUnderlay(Underlay(port: ports[0].index, mac: underlayMAC, mtu: mtu, addresses: addresses))
      compiler.setHostPort(
        HostPort(port: ports[1].index, mac: PodAttachment.hostMAC, hostMAC: hostMAC, mtu: mtu))
      compiler.commit(to: &tables)
      for attachment in compiler.attachments.values.sorted(by: { $0.pod < $1.pod }) {
        let index = tables.addPort(attachment.portDescription(capabilities: []))
        ports.append(
          NodePort(
            role: .pod(attachment.pod), name: "\(attachment.pod.namespace)/\(attachment.pod.name)",
            interface: attachment.interface, mac: PodAttachment.hostMAC, peerMAC: attachment.mac,
            mtu: attachment.mtu, index: index))
        compiler.setPort(index, for: attachment.pod)
      }
      compiler.commit(to: &tables)
    }
  }

  /// Wires that lead to one port named `out`: any capture can be run without a state.
  public init(wires: [String], flowLimit: Int? = nil) {
    dataPath = DataPath(workers: 1, flowLimit: flowLimit ?? NodeSettings().flowTableSize)
    compiler = NodeCompiler(node: "", derivesNeighbours: true)
    dataPath.change { tables in
      for name in wires { add(.wire, name, mac: MACAddress(derivedFrom: name), mtu: 65_535, &tables) }
      add(.wire, "out", mac: MACAddress(derivedFrom: "out"), mtu: 65_535, &tables)
      let hop = tables.addHop(
        Hop(
          port: ports[wires.count].index, source: ports[wires.count].mac,
          destination: MACAddress(derivedFrom: "next"), linkMTU: 65_535))
      for prefix in ["0.0.0.0/0", "::/0"] { tables.setRoute(Route(IPPrefix(prefix)!, .forward, hops: [hop])) }
    }
  }

  private func add(
    _ role: NodePort.Role, _ name: String, mac: MACAddress, peerMAC: MACAddress? = nil, mtu: Int,
    _ tables: inout Tables
  ) {
    let kind: PortRole =
      switch role {
      case .underlay: .underlay
      case .host: .host
      case .pod: .pod
      case .wire: .wire
      }
    let index = tables.addPort(PortDescription(name: name, role: kind, mac: mac, mtu: mtu))
    ports.append(NodePort(role: role, name: name, mac: mac, peerMAC: peerMAC, mtu: mtu, index: index))
  }

  private static func changes(_ state: State, macs: MACs) -> [Change] {
    var resources: [Resource] = state.namespaces.values.map(\.resource) + state.nodes.values.map(\.resource)
    resources += state.ipPools.values.map(\.resource) + state.nodeConfigurations.values.map(\.resource)
    for var pod in state.pods.values {
      if let mac = macs["\(pod.namespace)/\(pod.name)"] { pod.attachment.macAddress = mac }
      resources.append(pod.resource)
    }
    resources += state.services.values.map(\.resource) + state.endpointSlices.values.map(\.resource)
    resources += state.networkPolicies.values.map(\.resource)
    return Change.ordered(resources.map(Change.upsert))
  }

  /// Makes the lane send by `port(of:)`.
  public func connect(_ port: (NodePort) -> any Port) {
    dataPath.change { _ in
      for described in ports { lane[port: described.index] = port(described) }
    }
  }

  /// The port that a user means by `name`.
  public func port(named name: String) throws(ReplayError) -> NodePort {
    if let port = ports.first(where: { $0.isNamed(name) }) { return port }
    let known = ports.map(\.name)
    throw ReplayError(.usage, "no port \(name) on this node: \(hint(for: name, among: known, none: ""))")
  }

  public func port(_ index: PortIndex) -> NodePort? { ports.first { $0.index == index } }

  /// Where a hop leads, in words: `default/web`, `node-b by VXLAN`.
  public func describe(_ index: HopIndex) -> String {
    guard let hop = dataPath.change({ $0.hop(index) }) else { return "nowhere" }
    let out = port(hop.port)?.name ?? "?"
    guard let neighbour = hop.tunnel?.remote ?? hop.neighbour else { return out }
    let node = nodeName(neighbour) ?? neighbour.description
    return hop.tunnel.map { "\(node) by \($0.encapsulation.displayName)" } ?? "\(node) by \(out)"
  }

  /// The name of the node that has an address on the underlay.
  public func nodeName(_ address: IPAddress) -> String? {
    state.nodes.values.filter { node in
      node.addresses.contains { $0.address == address } || node.address(address.family) == address
    }.map(\.name).min()
  }
}

extension Encapsulation {
  /// As people write it.
  public var displayName: String {
    switch self {
    case .none: "nothing"
    case .ipip: "IPIP"
    case .gre: "GRE"
    case .vxlan: "VXLAN"
    case .geneve: "Geneve"
    }
  }
}

/// Reads a directory of manifests for a command that looks once. Whatever is wrong in it is an error: a result from half
/// a state would mislead.
public func loadWholeState(_ directory: String) throws(ReplayError) -> State {
  let (state, problems) = try loadUsableState(directory)
  guard let first = problems.first else { return state }
  throw ReplayError(.data, first.description + (problems.count > 1 ? " (and \(problems.count - 1) more)" : ""))
}

/// Reads a directory of manifests as the agent does it: what is wrong is told, and the rest counts.
public func loadUsableState(
  _ directory: String
) throws(ReplayError) -> (state: State, problems: [ManifestError]) {
  do throws(ManifestError) {
    let (state, problems, _) = try loadState(directory: directory)
    return (state, problems)
  } catch {
    throw ReplayError(error)
  }
}
