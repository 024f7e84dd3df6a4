public import Addresses
public import Model

/// A small cluster made from a seed, with all that services and policies may be, and drawn from so few names, addresses
/// and ports that they meet. It keeps the rules of the API server and of the manifests directory: what it holds is what a
/// data plane may be given.
public struct RandomCluster: Sendable {
  public let seed: UInt64
  /// The node that decides.
  public let node = "n1"
  /// The desired state as it is now.
  public private(set) var state = State()

  var random: SeededGenerator
  /// All objects, with the services that do not count.
  private var objects: [ObjectKey: Resource] = [:]
  private var admission = ServiceAdmission()

  public init(seed: UInt64) {
    self.seed = seed
    random = SeededGenerator(seed: seed)
    // One after the other, because what comes later is made to fit what is there.
    for key in Self.keys where random.chance(70) || key == ObjectKey(.node, name: node) { _ = put([(key, make(key))]) }
  }

  /// Changes one to a few objects at random, and returns the changes that the data plane is told of.
  public mutating func step() -> [Change] {
    var batch: [(ObjectKey, Resource?)] = []
    for _ in 0..<Int.random(in: 1...3, using: &random) {
      let key = random.pick(Self.keys)
      if batch.contains(where: { $0.0 == key }) { continue }
      let isOwnNode = key == ObjectKey(.node, name: node)
      batch.append((key, random.chance(25) && !isOwnNode ? nil : make(key)))
    }
    return put(batch)
  }

  /// The changes that lead from nothing to the present state.
  public var changes: [Change] {
    Change.ordered(Self.keys.compactMap { state[$0] }.map { Change.upsert($0) })
  }

  private mutating func put(_ batch: [(key: ObjectKey, resource: Resource?)]) -> [Change] {
    for (key, resource) in batch { objects[key] = resource }
    let services = batch.filter { $0.key.kind == .service }.map { ($0.key, $0.resource?.object as? Service) }
    let concerned = admission.update(services)
    var changes: [Change] = []
    for key in Set(batch.map(\.key)).union(concerned) {
      switch (state[key], admission.refusals[key] == nil ? objects[key] : nil) {
      case (let old, let new?) where old != new: changes.append(.upsert(new))
      case (.some, nil): changes.append(.delete(key))
      default: break
      }
    }
    changes = Change.ordered(changes)
    for change in changes { state.apply(change) }
    return changes
  }

  /// All objects that there may be, sorted.
  static let keys: [ObjectKey] = {
    var keys = (1...3).map { ObjectKey(.node, name: "n\($0)") }
    keys += namespaces.map { ObjectKey(.namespace, name: $0) }
    keys += ["default", "n1"].map { ObjectKey(.nodeConfiguration, name: $0) }
    keys += (0..<10).map { ObjectKey(.pod, namespace: namespaces[$0 % 3], name: "p\($0)") }
    for index in 0..<7 {
      let namespace = namespaces[index % 3]
      keys.append(ObjectKey(.service, namespace: namespace, name: "s\(index)"))
      keys += ["x", "y"].map { ObjectKey(.endpointSlice, namespace: namespace, name: "s\(index)-\($0)") }
      keys.append(ObjectKey(.networkPolicy, namespace: namespace, name: "np\(index)"))
    }
    return keys.sorted()
  }()

  static let namespaces = ["a", "b", "c"]
}

// MARK: - What to ask

/// A first packet to ask services about.
public struct ServiceProbe: Sendable, Hashable {
  public var source: Origin
  public var destination: IPAddress
  public var `protocol`: TransportProtocol
  public var port: UInt16
}

/// A first packet to ask policies about, with the addresses that they see (NP-10).
public struct PolicyProbe: Sendable, Hashable {
  public var source: IPAddress
  public var destination: IPAddress
  /// The number in the IP header.
  public var `protocol`: UInt8
  public var port: UInt16
}

extension RandomCluster {
  /// Packets to ask services about, three of four of them to a frontend that there is.
  public mutating func serviceProbes(_ count: Int) -> [ServiceProbe] {
    let frontends = ReferenceServices(state: state, node: node).frontends
    let own = state.node(node).map(addresses(of:)) ?? []
    let pods = state.pods.values.filter(\.hasOwnNetwork).sorted { $0.key < $1.key }
    let localPods = pods.filter { $0.nodeName == node }.flatMap(\.addresses)
    let others =
      pods.filter { $0.nodeName != node }.flatMap(\.addresses) + Self.addresses(Self.outside)
      + state.nodes.values.filter { $0.name != node }.flatMap(addresses(of:)).sorted()
    let known = Self.clusterIPs + Self.externalIPs + Self.balancers + Self.loopback
    let targets = own + localPods + others + Self.addresses(known)
    var probes: [ServiceProbe] = []
    while probes.count < count {
      var destination = random.pick(targets)
      var transport = random.pick(TransportProtocol.allCases)
      var port = random.pick(Self.servicePorts + Self.nodePorts)
      if random.chance(75), let frontend = frontends.randomElement(using: &random) {
        (destination, port, transport) = (frontend.address.address, frontend.address.port, frontend.protocol)
      }
      func sources(_ addresses: [IPAddress]) -> [IPAddress] { addresses.filter { $0.family == destination.family } }
      let source: Origin?
      switch Int.random(in: 0..<3, using: &random) {
      case 0: source = sources(localPods).randomElement(using: &random).map { .localPod($0) }
      case 1:
        // The host takes the address that it sends to where it is its own.
        let local = Self.addresses(Self.loopback) + own
        let address = local.contains(destination) ? destination : sources(own).randomElement(using: &random)
        source = address.map { .node($0) }
      default: source = sources(others).randomElement(using: &random).map { .elsewhere($0) }
      }
      guard let source else { continue }
      probes.append(ServiceProbe(source: source, destination: destination, protocol: transport, port: port))
    }
    return probes
  }

  /// Packets to ask policies about, most of them from and to pods.
  public mutating func policyProbes(_ count: Int) -> [PolicyProbe] {
    let pods = state.pods.values.filter { !$0.addresses.isEmpty }.sorted { $0.key < $1.key }.flatMap(\.addresses)
    let nodes = state.nodes.values.flatMap(addresses(of:)).sorted()
    let all = pods + pods + nodes + Self.addresses(Self.outside)
    var probes: [PolicyProbe] = []
    while probes.count < count {
      let source = random.pick(all)
      guard let destination = all.filter({ $0.family == source.family }).randomElement(using: &random) else { continue }
      let icmp: UInt8 = source.family == .ipv4 ? 1 : 58
      let transport = random.pick([6, 6, 6, 17, 17, 132, icmp])
      let port = transport == icmp ? 0 : random.pick(Self.podPorts + [81, 9090, 443])
      probes.append(PolicyProbe(source: source, destination: destination, protocol: transport, port: port))
    }
    return probes
  }

  static func addresses(_ texts: [String]) -> [IPAddress] { texts.map { IPAddress($0)! } }
}

extension RandomCluster: CustomStringConvertible {
  /// What a failing test prints: enough to make the same cluster again, and to see what is in it.
  public var description: String {
    "RandomCluster(seed: \(seed)) with "
      + Self.keys.compactMap { state[$0] }.map { "\($0)" }.joined(separator: "\n  ")
  }
}
