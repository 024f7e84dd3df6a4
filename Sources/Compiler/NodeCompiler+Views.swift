public import Addresses
public import Dataplane
public import Model

/// What the last commit has made, for those who look after the machine and for people.
extension NodeCompiler {
  /// The neighbours on the underlay that hops need and whose addresses are to be found out.
  public var neighboursInUse: Set<IPAddress> {
    Set(installedHops.values.compactMap(\.hop.neighbour)).subtracting(settings.neighbors.map(\.address))
  }

  /// The node's own addresses on the underlay.
  public var nodeAddresses: Set<IPAddress> { installedLocalAddresses }

  /// What is known of a neighbour on the underlay.
  public func neighbour(_ address: IPAddress) -> Neighbour? {
    if let fixed = settings.neighbors.first(where: { $0.address == address }) { return .reachable(fixed.macAddress) }
    return neighbours[address]
  }

  /// The name of the node that has an address.
  public func nodeName(at address: IPAddress) -> String? { node(at: address)?.name }

  /// The port by which a pod is reached; nil while there is none.
  public func port(of pod: ObjectKey) -> PortIndex? { ports[pod] }

  /// A route of the tables.
  public struct InstalledRoute: Sendable {
    public var prefix: IPPrefix
    public var action: RouteAction
    public var hops: [HopIndex]
  }

  /// All routes, in the order of their prefixes.
  public var routes: [InstalledRoute] {
    installedRoutes.sorted { ($0.key.address, $0.key.length) < ($1.key.address, $1.key.length) }.map {
      InstalledRoute(
        prefix: $0.key, action: $0.value.action, hops: $0.value.hops.compactMap { installedHops[$0]?.index })
    }
  }

  /// A hop of the tables, with the number of routes that lead by it.
  public struct HopInUse: Sendable {
    public var index: HopIndex
    public var hop: Hop
    public var routes: Int
    /// The node or pod that it leads to; nil where it leads to the host or to a router.
    public var target: ObjectKey?
  }

  /// All hops, by index.
  public var hops: [HopInUse] {
    installedHops.map { key, installed in
      let target: ObjectKey? =
        switch key {
        case .pod(let pod): pod
        case .tunnel(let node, _, _): node
        case .direct(let address): node(at: address)?.key
        case .host: nil
        }
      return HopInUse(index: installed.index, hop: installed.hop, routes: installed.users, target: target)
    }.sorted { $0.index < $1.index }
  }

  /// The nodes that tunnel packets are accepted from, by address.
  public var peers: [(address: IPAddress, peer: Peer)] {
    installedPeers.values.flatMap { $0.map { (address: $0.key, peer: $0.value) } }.sorted { $0.address < $1.address }
  }

  /// The blocks and pools that pods' addresses are from: what the host reaches through its own port.
  public var podPrefixes: [IPPrefix] {
    var prefixes = state.ipPools.values.map(\.cidr) + state.nodes.values.flatMap(\.podCIDRs)
    prefixes += attachments.values.flatMap { $0.addresses.map(IPPrefix.init(host:)) }
    return prefixes.outermost
  }

  /// Where services are met on this node.
  public var serviceDoors: ServiceDoors { services.doors }

  /// What services' health checks say on this node, and what it cannot serve.
  public var serviceHealth: [ObjectKey: ServiceHealth] { services.health }

  /// The number of services that are programmed.
  public var serviceCount: Int { services.count }

  /// The node's own addresses that NodePorts are served on (KP-23, KP-24).
  public var nodePortAddresses: Set<IPAddress> { installedNodePortAddresses }

  /// The source ports of masqueraded connections (KP-36).
  public var masqueradePorts: ClosedRange<UInt16> { Settings().masqueradePorts }

  /// Whether connections of pods to the outside are masqueraded (NODE-8).
  public var masqueradesOutgoing: Bool {
    state.ipPools.values.contains(where: \.natOutgoing) || attachments.values.contains(where: \.masquerades)
  }

  /// What packets from the underlay must be addressed to in order to reach pods of this node.
  public var ownPodPrefixes: [IPPrefix] {
    let own = ownNode?.podCIDRs ?? []
    return (own + attachments.values.flatMap { $0.addresses.map(IPPrefix.init(host:)) }).outermost
  }
}

extension [IPPrefix] {
  /// The prefixes without those that another one of them holds, in order.
  var outermost: [IPPrefix] {
    var kept: [IPPrefix] = []
    // Prefixes nest or are apart, so what holds one of them stands right before it.
    for prefix in Set(self).sorted(by: { ($0.address, $0.length) < ($1.address, $1.length) })
    where kept.last?.contains(prefix) != true {
      kept.append(prefix)
    }
    return kept
  }
}
