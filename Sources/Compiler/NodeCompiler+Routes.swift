import Addresses
import Dataplane
import Model

/// Where a hop leads, apart from what may change about it: equal keys share a hop.
enum HopKey: Hashable {
  case pod(ObjectKey)
  case host
  /// Unwrapped, by the underlay, to a node or a router.
  case direct(IPAddress)
  case tunnel(ObjectKey, Encapsulation, IPFamily)
}

/// What a route does, with the hops it leads by.
struct RouteTarget: Equatable {
  var action: RouteAction
  var hops: [HopKey] = []
}

/// A hop that is in the tables.
struct InstalledHop {
  var index: HopIndex
  var hop: Hop
  /// The number of routes that lead by it.
  var users: Int
}

extension NodeCompiler {
  func commitRoutes(to tables: inout Tables) {
    // Sorted, so that the same state makes the same tables.
    for prefix in dirtyRoutes.sorted(by: { ($0.address, $0.length) < ($1.address, $1.length) }) {
      let wanted = target(prefix)
      let installed = installedRoutes[prefix]
      guard wanted != installed else { continue }
      let hops = (wanted?.hops ?? []).compactMap { acquire($0, &tables) }
      if let wanted {
        tables.setRoute(Route(prefix, wanted.action, hops: hops))
      } else {
        tables.removeRoute(prefix)
      }
      for key in installed?.hops ?? [] { giveUp(key, &tables) }
      installedRoutes[prefix] = wanted
    }
    dirtyRoutes.removeAll()
  }

  /// Where packets to a prefix go; nil: no route.
  private func target(_ prefix: IPPrefix) -> RouteTarget? {
    if prefix.length == 0 { return defaultTarget(prefix.family) }
    let owners = claims[prefix] ?? []
    let isHost = IPPrefix(host: prefix.address) == prefix
    // The node's packets to itself come back only as answers of a NodePort (KP-24).
    let isLocalhost = prefix.address == NodeCompiler.localhost && installedNodePortAddresses.contains(prefix.address)
    if isHost, isLocalhost || installedLocalAddresses.contains(prefix.address) {
      return RouteTarget(action: .local, hops: hostPort == nil ? [] : [.host])
    }
    // A pod of this node before one elsewhere: while a pod moves, both may be there for a moment.
    let pods = owners.compactMap { state.pods[$0] }.sorted { a, b in
      (a.nodeName == node.name ? 0 : 1, a.namespace, a.name) < (b.nodeName == node.name ? 0 : 1, b.namespace, b.name)
    }
    if let pod = pods.first {
      if pod.nodeName == node.name {
        return ports[pod.key] == nil ? nil : RouteTarget(action: .forward, hops: [.pod(pod.key)])
      }
      guard let host = state.nodes[ObjectKey(.node, name: pod.nodeName ?? "")] else { return nil }
      // Inside the node's block the block's route is enough.
      if host.podCIDRs.contains(where: { $0.contains(prefix.address) }) { return nil }
      return targetByNode(host, prefix)
    }
    guard let owner = owners.sorted(by: { $0.name < $1.name }).first.flatMap({ state.nodes[$0] }) else { return nil }
    if owner.key == node { return RouteTarget(action: .blackhole) }
    if owner.podCIDRs.contains(prefix) { return targetByNode(owner, prefix) }
    // The node itself is reached as it is.
    guard isHost, underlay != nil else { return nil }
    return RouteTarget(action: .forward, hops: [.direct(way(to: prefix.address))])
  }

  private func defaultTarget(_ family: IPFamily) -> RouteTarget? {
    // The host knows the way out, and what else it wants to do with such packets.
    if hostPort != nil { return RouteTarget(action: .forward, hops: [.host]) }
    guard let gateway = underlay?.gateways.first(where: { $0.family == family }) else { return nil }
    return RouteTarget(action: .forward, hops: [.direct(gateway)])
  }

  /// The route to a prefix of pods on another node: wrapped or not, as the pool says (NODE-5).
  private func targetByNode(_ node: Node, _ prefix: IPPrefix) -> RouteTarget? {
    guard underlay != nil else { return nil }
    if let (encapsulation, mode) = encapsulation(of: prefix), let outer = outerFamily(to: node) {
      let isNear = node.address(outer).map { isOnLink($0, peer: node) } ?? false
      if mode == .always || !isNear {
        return RouteTarget(action: .forward, hops: [.tunnel(node.key, encapsulation, outer)])
      }
    }
    let family: IPFamily = node.address(prefix.family) == nil ? (prefix.family == .ipv4 ? .ipv6 : .ipv4) : prefix.family
    guard let address = node.address(family) else { return nil }
    return RouteTarget(action: .forward, hops: [.direct(way(to: address))])
  }

  /// The tunnel of the longest pool that holds a prefix.
  private func encapsulation(of prefix: IPPrefix) -> (Encapsulation, IPPool.EncapsulationMode)? {
    let pool = state.ipPools.values.filter { $0.cidr.contains(prefix) }.max { $0.cidr.length < $1.cidr.length }
    guard let pool, let (tunnel, mode) = pool.encapsulation else { return nil }
    return (Encapsulation(tunnel), mode)
  }

  /// The encapsulations that any pool uses.
  public var encapsulations: [Encapsulation] {
    Encapsulation.allCases.filter { wanted in
      state.ipPools.values.contains { $0.encapsulation.map { Encapsulation($0.tunnel) } == wanted }
    }
  }

  /// The family of the outer header to a node; nil: there is none that both have.
  private func outerFamily(to node: Node) -> IPFamily? {
    let possible = IPFamily.allCases.filter { node.address($0) != nil && ownAddress($0) != nil }
    if let wanted = settings.tunnelIPFamily { return possible.contains(wanted) ? wanted : nil }
    return possible.first
  }

  /// The address that tunnels of a family start from.
  public func ownAddress(_ family: IPFamily) -> IPAddress? {
    ownNode?.address(family) ?? underlay?.addresses.first { $0.address.family == family }?.address
  }

  /// Whether an address is in a subnet of the own underlay. Where no subnet is known, only the own node's annotation or
  /// interface could tell, and the answer is no.
  private func isOnLink(_ address: IPAddress, peer: Node? = nil) -> Bool {
    let own = subnets
    return own.contains { $0.contains(address) }
  }

  private var subnets: [IPPrefix] {
    var subnets = underlay?.addresses.map(\.prefix) ?? []
    for family in IPFamily.allCases {
      if let subnet = ownNode?.subnet(family) { subnets.append(subnet) }
    }
    return subnets
  }

  /// The neighbour that leads to an address on the underlay: itself, or a router.
  func way(to address: IPAddress) -> IPAddress {
    if isOnLink(address) { return address }
    return underlay?.gateways.first { $0.family == address.family } ?? address
  }

  // MARK: Hops

  private func acquire(_ key: HopKey, _ tables: inout Tables) -> HopIndex? {
    if let installed = installedHops[key] {
      installedHops[key]?.users += 1
      return installed.index
    }
    guard let hop = hop(key) else { return nil }
    let index = tables.addHop(hop)
    installedHops[key] = InstalledHop(index: index, hop: hop, users: 1)
    markFailure(hop, index, &tables)
    return index
  }

  private func giveUp(_ key: HopKey, _ tables: inout Tables) {
    guard let installed = installedHops[key] else { return }
    if installed.users > 1 {
      installedHops[key]?.users -= 1
    } else {
      tables.removeHop(installed.index)
      installedHops[key] = nil
    }
  }

  func refreshHops(_ tables: inout Tables) {
    for key in Array(installedHops.keys) { refresh(key, &tables) }
  }

  /// Writes what is known of a hop now.
  func refresh(_ key: HopKey, _ tables: inout Tables) {
    guard let installed = installedHops[key], let hop = hop(key) else { return }
    if hop != installed.hop {
      tables.updateHop(installed.index, hop)
      installedHops[key]?.hop = hop
    }
    markFailure(hop, installed.index, &tables)
  }

  private func markFailure(_ hop: Hop, _ index: HopIndex, _ tables: inout Tables) {
    if let neighbour = hop.neighbour, neighbours[neighbour] == .failed { tables.failHop(index) }
  }

  private func hop(_ key: HopKey) -> Hop? {
    switch key {
    case .pod(let pod):
      guard let attachment = attachments[pod], let port = ports[pod] else { return nil }
      return Hop(port: port, source: PodAttachment.hostMAC, destination: attachment.mac, linkMTU: attachment.mtu)
    case .host:
      guard let hostPort else { return nil }
      return Hop(port: hostPort.port, source: hostPort.mac, destination: hostPort.hostMAC, linkMTU: hostPort.mtu)
    case .direct(let address):
      guard let underlay else { return nil }
      return Hop(
        port: underlay.port, source: underlay.mac, destination: mac(of: address), neighbour: address,
        linkMTU: linkMTU(underlay))
    case .tunnel(let key, let encapsulation, let family):
      guard let underlay, let peer = state.nodes[key], let local = ownAddress(family), let remote = peer.address(family)
      else { return nil }
      var tunnel = Tunnel(encapsulation, local: local, remote: remote)
      configure(&tunnel, peer: peer)
      let neighbour = way(to: remote)
      return Hop(
        port: underlay.port, source: underlay.mac, destination: mac(of: neighbour), neighbour: neighbour,
        linkMTU: linkMTU(underlay), tunnel: tunnel)
    }
  }

  private func mac(of neighbour: IPAddress) -> MACAddress? {
    if let fixed = settings.neighbors.first(where: { $0.address == neighbour }) { return fixed.macAddress }
    if case .reachable(let mac) = neighbours[neighbour] { return mac }
    guard derivesNeighbours else { return nil }
    return MACAddress(derivedFrom: node(at: neighbour)?.name ?? neighbour.description)
  }
}
