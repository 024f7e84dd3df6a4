public import Addresses
public import Dataplane
public import Model

/// Compiles what is desired and what is found on the machine into the tables of one node.
///
/// Changes of resources and facts are taken in by `apply` and the `set…` methods, which only note what they concern;
/// `commit` then brings the tables up to date, with work in proportion to what was noted. Used from one thread.
public final class NodeCompiler {
  public let node: ObjectKey
  public private(set) var state = State()
  public private(set) var settings = NodeSettings()

  public private(set) var underlay: Underlay?
  public private(set) var hostPort: HostPort?
  var ports: [ObjectKey: PortIndex] = [:]
  var neighbours: [IPAddress: Neighbour] = [:]
  /// The addresses of the machine, on whatever device, that others can use.
  private var machineAddresses: Set<IPAddress> = []
  /// Whether neighbours that nobody has told of get an address made from their name: where there is no wire to ask.
  public let derivesNeighbours: Bool

  /// The ports that pods of this node need.
  public private(set) var attachments: [ObjectKey: PodAttachment] = [:]

  /// Whether services and endpoint slices have both been listed once. Before that no service is programmed: one without
  /// its endpoints would refuse connections that others could serve (KP-4).
  public var servicesAreListed = true

  private(set) var services = ServiceCompiler()
  var overlay: Overlay
  private var policies: PolicyCompiler

  // What is noted for the next commit.
  var dirtyRoutes: Set<IPPrefix> = []
  var dirtyPeers: Set<ObjectKey> = []
  var dirtyPods: Set<ObjectKey> = []
  private var isEverythingDirty = true

  // What was found out about the resources, so that a change need not look at all of them.
  /// Who wants a route: the prefix of a node's block or the address of a pod, by owner.
  var claims: [IPPrefix: [ObjectKey]] = [:]
  /// Nodes by address.
  private var nodesByAddress: [IPAddress: ObjectKey] = [:]

  // What the tables hold.
  var installedRoutes: [IPPrefix: RouteTarget] = [:]
  var installedHops: [HopKey: InstalledHop] = [:]
  var installedPeers: [ObjectKey: [IPAddress: Peer]] = [:]
  var installedPodAddresses: [ObjectKey: Set<IPAddress>] = [:]
  private var podAddressPorts: [IPAddress: PortIndex] = [:]
  var installedLocalAddresses: Set<IPAddress> = []
  private var installedOwnAddresses: Set<IPAddress> = []
  var installedNodePortAddresses: Set<IPAddress> = []

  /// `explains`: policies of pods on other nodes are compiled too, so that what they say can be traced.
  public init(node name: String, derivesNeighbours: Bool = false, explains: Bool = false) {
    node = ObjectKey(.node, name: name)
    self.derivesNeighbours = derivesNeighbours
    overlay = Overlay(owner: name)
    policies = PolicyCompiler(node: name, explains: explains)
  }

  /// This node's own object, where there is one.
  public var ownNode: Node? { state.nodes[node] }

  // MARK: Facts

  public func setUnderlay(_ underlay: Underlay?) {
    guard underlay != self.underlay else { return }
    self.underlay = underlay
    isEverythingDirty = true
  }

  /// Tells what addresses the machine has on its devices; those that mean something on one link alone do not count.
  public func setMachineAddresses(_ addresses: Set<IPAddress>) {
    guard addresses != machineAddresses else { return }
    machineAddresses = addresses
    isEverythingDirty = true
  }

  public func setHostPort(_ port: HostPort?) {
    guard port != hostPort else { return }
    hostPort = port
    isEverythingDirty = true
  }

  /// Tells by which port a pod is reached; nil: its port is gone.
  public func setPort(_ port: PortIndex?, for pod: ObjectKey) {
    guard ports[pod] != port else { return }
    ports[pod] = port
    touch(pod: pod)
  }

  /// Tells what became of a neighbour; nil: nothing is known any more.
  public func setNeighbour(_ address: IPAddress, _ neighbour: Neighbour?) {
    guard neighbours[address] != neighbour else { return }
    neighbours[address] = neighbour
    changedNeighbours.insert(address)
  }
  var changedNeighbours: Set<IPAddress> = []

  // MARK: Resources

  /// Takes in changes of the desired state.
  public func apply(_ changes: [Change]) {
    for change in changes {
      guard overlay.concerns(change) else {
        applyAsIs(change)
        continue
      }
      for change in overlay.changes(for: change, state) { applyAsIs(change) }
    }
  }

  /// Takes in a change of an object as it counts, with what is laid over it.
  func applyAsIs(_ change: Change) {
    switch change {
    case .upsert(let resource):
      if let old = state[resource.key] {
        if old == resource { return }
        withdraw(old)
      }
      state.apply(change)
      enter(resource)
    case .delete(let key):
      guard let old = state[key] else { return }
      state.apply(change)
      withdraw(old)
    }
  }

  private func enter(_ resource: Resource) {
    switch resource {
    case .pod(let pod):
      claim(pod)
      policies.note(pod: pod.key)
    case .node(let node):
      claim(node)
      policies.note(node: node.key)
    case .ipPool, .nodeConfiguration: isEverythingDirty = true
    case .service(let service): services.note(service: service.key)
    case .endpointSlice(let slice): services.enter(slice)
    case .namespace(let namespace): policies.note(namespace: namespace.name)
    case .networkPolicy(let policy): policies.note(policy: policy.key, isPresent: true)
    // What is given to nobody has no place in the tables.
    case .ipReservation: break
    }
  }

  private func withdraw(_ resource: Resource) {
    switch resource {
    case .pod(let pod):
      disclaim(pod)
      policies.note(pod: pod.key)
    case .node(let node):
      disclaim(node)
      policies.note(node: node.key)
    case .ipPool, .nodeConfiguration: isEverythingDirty = true
    case .service(let service): services.note(service: service.key)
    case .endpointSlice(let slice): services.withdraw(slice)
    case .namespace(let namespace): policies.note(namespace: namespace.name)
    case .networkPolicy(let policy): policies.note(policy: policy.key, isPresent: false)
    case .ipReservation: break
    }
  }

  private func claim(_ pod: Pod) {
    touch(pod: pod.key)
    guard pod.hasOwnNetwork, pod.nodeName != nil else { return }
    for address in pod.addresses { claims[IPPrefix(host: address), default: []].append(pod.key) }
  }

  private func disclaim(_ pod: Pod) {
    touch(pod: pod.key)
    for address in pod.addresses { drop(pod.key, from: IPPrefix(host: address)) }
  }

  private func claim(_ node: Node) {
    dirtyPeers.insert(node.key)
    if node.key == self.node { isEverythingDirty = true }
    for prefix in node.podCIDRs {
      claims[prefix, default: []].append(node.key)
      dirtyRoutes.insert(prefix)
    }
    for address in underlayAddresses(node) {
      claims[IPPrefix(host: address), default: []].append(node.key)
      dirtyRoutes.insert(IPPrefix(host: address))
      nodesByAddress[address] = node.key
    }
    touchPods(of: node.name)
  }

  private func disclaim(_ node: Node) {
    dirtyPeers.insert(node.key)
    if node.key == self.node { isEverythingDirty = true }
    for prefix in node.podCIDRs { drop(node.key, from: prefix) }
    for address in underlayAddresses(node) {
      drop(node.key, from: IPPrefix(host: address))
      nodesByAddress[address] = nil
    }
    touchPods(of: node.name)
  }

  /// Pods whose address is in none of their node's blocks have routes of their own, which lead by the node.
  private func touchPods(of node: String) {
    for pod in state.pods.values where pod.nodeName == node { touch(pod: pod.key) }
  }

  private func drop(_ owner: ObjectKey, from prefix: IPPrefix) {
    claims[prefix]?.removeAll { $0 == owner }
    if claims[prefix]?.isEmpty == true { claims[prefix] = nil }
    dirtyRoutes.insert(prefix)
  }

  private func touch(pod: ObjectKey) {
    dirtyPods.insert(pod)
    for address in state.pods[pod]?.addresses ?? [] { dirtyRoutes.insert(IPPrefix(host: address)) }
  }

  /// The addresses of a node that other nodes send to.
  func underlayAddresses(_ node: Node) -> [IPAddress] { NodeCompiler.addresses(node) }

  static func addresses(_ node: Node) -> [IPAddress] {
    var addresses = node.addresses.filter { $0.type == .internalIP || $0.type == .externalIP }.map(\.address)
    for family in IPFamily.allCases {
      if let address = node.address(family), !addresses.contains(address) { addresses.append(address) }
    }
    return addresses
  }

  func node(at address: IPAddress) -> Node? { nodesByAddress[address].flatMap { state.nodes[$0] } }

  // MARK: Commit

  /// Brings the tables up to date.
  public func commit(to tables: inout Tables) {
    if isEverythingDirty { noteEverything(&tables) }
    // NP-9: a pod is isolated before anything can reach it.
    policies.commit(to: &tables, state)
    refreshAttachments()
    commitPods(to: &tables)
    commitPeers(to: &tables)
    commitRoutes(to: &tables)
    commitNeighbours(to: &tables)
    guard servicesAreListed else { return }
    services.commit(
      to: &tables, state,
      ServiceCompiler.Viewpoint(node: node.name, zone: ownNode?.zone, balancing: settings.loadBalancing))
  }

  /// Configuration, pools, the own node or the underlay changed: all that depends on them is looked at, and what came
  /// out the same is left alone.
  private func noteEverything(_ tables: inout Tables) {
    isEverythingDirty = false
    settings = NodeSettings(
      default: state.nodeConfigurations[ObjectKey(.nodeConfiguration, name: NodeConfiguration.defaultName)]?.spec,
      node: state.nodeConfigurations[ObjectKey(.nodeConfiguration, name: node.name)]?.spec)
    tables.settings = packetSettings()
    tables.addGatewayAddress(.v4(PodAttachment.gateway4))
    tables.addGatewayAddress(.v6(PodAttachment.gateway6))
    let local = localAddresses
    for address in installedLocalAddresses.subtracting(local) { tables.removeLocalAddress(address) }
    for address in local.subtracting(installedLocalAddresses) { tables.addLocalAddress(address) }
    for address in local.symmetricDifference(installedLocalAddresses) { dirtyRoutes.insert(IPPrefix(host: address)) }
    installedLocalAddresses = local
    tables.setServiceBlocks(settings.serviceCIDRs)
    services.setServiceBlocks(settings.serviceCIDRs)
    let own = local.union(machineAddresses)
    for address in installedOwnAddresses.subtracting(own) { tables.removeOwnAddress(address) }
    for address in own.subtracting(installedOwnAddresses) { tables.addOwnAddress(address) }
    installedOwnAddresses = own
    let nodePorts = nodePortAddresses(of: own)
    for address in installedNodePortAddresses.subtracting(nodePorts) { tables.removeNodePortAddress(address) }
    for address in nodePorts.subtracting(installedNodePortAddresses) { tables.addNodePortAddress(address) }
    for address in nodePorts.symmetricDifference(installedNodePortAddresses) {
      dirtyRoutes.insert(IPPrefix(host: address))
    }
    installedNodePortAddresses = nodePorts
    dirtyRoutes.formUnion(claims.keys)
    dirtyRoutes.formUnion(installedRoutes.keys)
    dirtyRoutes.formUnion([IPPrefix("0.0.0.0/0")!, IPPrefix("::/0")!])
    dirtyPeers.formUnion(state.nodes.keys)
    for pod in state.pods.values where pod.nodeName == node.name { dirtyPods.insert(pod.key) }
    refreshHops(&tables)
  }

  /// The node's own addresses: those of its object and those of the interface.
  var localAddresses: Set<IPAddress> {
    var addresses = Set(underlay?.addresses.map(\.address) ?? [])
    if let ownNode { addresses.formUnion(underlayAddresses(ownNode)) }
    return addresses
  }

  private func refreshAttachments() {
    for key in dirtyPods {
      guard let pod = state.pods[key], pod.nodeName == node.name, pod.hasOwnNetwork, let mac = pod.macAddress else {
        attachments[key] = nil
        continue
      }
      var attachment = PodAttachment(
        pod: key, interface: pod.attachment.interface ?? PodAttachment.interfaceName(pod: key),
        type: pod.attachment.type, networkNamespace: pod.attachment.networkNamespace,
        containerInterface: pod.attachment.containerInterface, addresses: pod.addresses, mac: mac,
        mtu: podMTU, checksSource: settings.sourceCheck)
      attachment.masquerades = pod.attachment.masquerades
      attachment.ingress = pod.attachment.ingress.map(RateLimit.init)
      attachment.egress = pod.attachment.egress.map(RateLimit.init)
      attachments[key] = attachment
    }
  }

  private func commitPods(to tables: inout Tables) {
    for key in dirtyPods {
      let addresses = Set(attachments[key]?.addresses ?? []).union(installedPodAddresses[key] ?? [])
      installedPodAddresses[key] = attachments[key].map { Set($0.addresses) }
      for address in addresses {
        settlePodAddress(address, &tables)
        dirtyRoutes.insert(IPPrefix(host: address))
      }
      refresh(.pod(key), &tables)
    }
    dirtyPods.removeAll()
  }

  /// Lets an address be sent from by the port of the pod that has it. While one pod takes the place of another both may
  /// say so: then it is the one that its route leads to.
  private func settlePodAddress(_ address: IPAddress, _ tables: inout Tables) {
    let owner = (claims[IPPrefix(host: address)] ?? [])
      .filter { ports[$0] != nil && attachments[$0]?.addresses.contains(address) == true }.min()
    let port = owner.flatMap { ports[$0] }
    guard podAddressPorts[address] != port else { return }
    podAddressPorts[address] = port
    if let port { tables.setPodAddress(address, port: port) } else { tables.removePodAddress(address) }
  }

  private func commitPeers(to tables: inout Tables) {
    for key in dirtyPeers {
      var wanted: [IPAddress: Peer] = [:]
      if key != node, let node = state.nodes[key] {
        let peer = Peer(name: node.name, encapsulations: Set(encapsulations))
        for address in underlayAddresses(node) { wanted[address] = peer }
      }
      let installed = installedPeers[key] ?? [:]
      for (address, _) in installed where wanted[address] == nil { tables.removePeer(at: address) }
      for (address, peer) in wanted where installed[address] != peer { tables.setPeer(peer, at: address) }
      installedPeers[key] = wanted.isEmpty ? nil : wanted
      for encapsulation in Encapsulation.allCases {
        for family in IPFamily.allCases { refresh(.tunnel(key, encapsulation, family), &tables) }
      }
    }
    dirtyPeers.removeAll()
  }

  private func commitNeighbours(to tables: inout Tables) {
    guard !changedNeighbours.isEmpty else { return }
    let changed = changedNeighbours
    changedNeighbours.removeAll()
    for (key, installed) in installedHops {
      guard let neighbour = installed.hop.neighbour, changed.contains(neighbour) else { continue }
      refresh(key, &tables)
    }
  }
}
