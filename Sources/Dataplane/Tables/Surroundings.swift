public import Addresses

/// Where addresses are and what is to be heeded there: what another data path that translates packets to services has to
/// know of the tables beside the services themselves.
public struct Surroundings: Sendable, Equatable {
  /// How packets reach an address.
  public enum Way: Sendable, Hashable {
    /// Not at all, or only as this data path can send them: through a tunnel.
    case own
    /// By the machine's own routes.
    case machine
    /// By `port`, in this Ethernet header.
    case frame(destination: MACAddress, source: MACAddress)
  }

  /// Whose Ethernet addresses are told; to all others the machine's routes lead, which keep neighbours up to date when
  /// nobody runs.
  public enum Neighbours: Sendable {
    case none, pods, all
  }

  public struct Place: Sendable, Hashable {
    public var way: Way
    /// The port that its packets leave and come in by, where that is known.
    public var port: PortIndex?
    /// The largest network-layer packet; 0: as the machine says.
    public var mtu = 0
    /// Whether it is a pod of this node.
    public var isPod = false
    /// Whether a policy decides what a pod of this node receives.
    public var hasIngressPolicy = false
    /// Whether it lies in one of the cluster's blocks (KP-34), and in a pool (NODE-8).
    public var isCluster = false
    public var isPool = false

    public init(way: Way, port: PortIndex? = nil) {
      self.way = way
      self.port = port
    }
  }

  /// A pod's port.
  public struct Pod: Sendable, Hashable {
    public var addresses: [IPAddress]
    /// Whether a policy decides what it sends.
    public var hasEgressPolicy = false
    /// Whether what it sends out of all pools is masqueraded (NODE-8).
    public var masquerades = false
  }

  /// The place of an address is that of the longest prefix that it has here.
  public var places: [IPPrefix: Place] = [:]
  public var pods: [PortIndex: Pod] = [:]

  public init() {}
}

extension Tables {
  /// The surroundings as they are.
  public func surroundings(_ neighbours: Surroundings.Neighbours) -> Surroundings {
    var all = Surroundings()
    for address in podAddresses.addresses {
      guard let value = podAddresses.find(address), ports.descriptions[Int(value)]?.hasLimit == false else { continue }
      let port = PortIndex(UInt16(value))
      var pod = all.pods[port] ?? Surroundings.Pod(addresses: [])
      pod.addresses.append(address)
      pod.hasEgressPolicy = pod.hasEgressPolicy || policies.records[Int(policies.pod(address))].egress != 0
      pod.masquerades =
        pod.masquerades || ports.records[Int(value)].masquerades
        || settings.natOutgoingBlocks.contains { $0.contains(address) }
      all.pods[port] = pod
    }
    var prefixes = Set(routes.allPrefixes)
    prefixes.formUnion(settings.clusterCIDRs)
    prefixes.formUnion(settings.poolBlocks)
    for prefix in prefixes { all.places[prefix] = place(prefix, neighbours) }
    return all
  }

  private func place(_ prefix: IPPrefix, _ neighbours: Surroundings.Neighbours) -> Surroundings.Place {
    var place = Surroundings.Place(way: .own)
    func isIn(_ blocks: [IPPrefix]) -> Bool {
      blocks.contains { $0.length <= prefix.length && $0.contains(prefix.address) }
    }
    place.isCluster = isIn(settings.clusterCIDRs)
    place.isPool = isIn(settings.poolBlocks)
    let route = routes.route(to: prefix)
    guard route != 0 else {
      if neighbours != .all { place.way = .machine }
      return place
    }
    let record = routes.records[Int(route)]
    guard [RouteAction.forward, .local].contains(RouteAction(rawValue: record.action)), record.hopCount == 1,
      let hop = hops.hop(record.firstHop), let port = ports.descriptions[Int(hop.port.rawValue)], hop.tunnel == nil
    else { return place }
    place.port = hop.port
    place.mtu = hop.mtu
    switch port.role {
    case .pod:
      guard IPPrefix(host: prefix.address) == prefix, podAddresses.find(prefix.address) == UInt32(hop.port.rawValue),
        !port.hasLimit
      else { return place }
      place.isPod = true
      place.hasIngressPolicy = policies.records[Int(policies.pod(prefix.address))].ingress != 0
      if neighbours == .none {
        place.way = .machine
        return place
      }
    case .host:
      // What is the host's own the machine's routes tell from what it forwards.
      if neighbours != .all { place.way = .machine }
      return place
    case .underlay, .wire:
      if neighbours != .all {
        place.way = .machine
        return place
      }
    }
    guard let destination = hop.destination else { return place }
    place.way = .frame(destination: destination, source: hop.source)
    return place
  }
}
