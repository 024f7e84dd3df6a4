public import Addresses
public import Model

/// Where a packet comes from, with its source address before any translation.
public enum Origin: Hashable, Sendable {
  /// A pod of the node that decides.
  case localPod(IPAddress)
  /// The node that decides.
  case node(IPAddress)
  /// Anywhere else: pods of other nodes, other nodes, the world.
  case elsewhere(IPAddress)

  public var address: IPAddress {
    switch self {
    case .localPod(let address), .node(let address), .elsewhere(let address): address
    }
  }
}

/// What becomes of a new connection as far as services go.
public struct ServiceDecision: Equatable, Sendable {
  public enum Verdict: String, Sendable, CaseIterable {
    /// To one of the endpoints.
    case translate
    case reject
    case drop
    /// The packet is for no service.
    case none
  }

  /// `namespace/name:port` of the service's port that the packet is for; nil where there is none.
  public var service: String?
  public var verdict: Verdict
  /// Every endpoint that may be chosen; a client's remembered one counts only while it is among them (KP-50).
  public var endpoints: Set<SocketAddress> = []
  /// Whether the source is masqueraded whichever endpoint is chosen; see ``masquerades(to:)``.
  public var masquerade = false
  /// How long a client keeps its endpoint, in seconds (KP-50); nil for no affinity.
  public var affinitySeconds: UInt32?
  /// The packet's source, for KP-35.
  var source: IPAddress

  /// Whether the source is masqueraded where this endpoint was chosen (KP-35).
  public func masquerades(to endpoint: SocketAddress) -> Bool { masquerade || endpoint.address == source }
}

/// What the rules KP-1 to KP-38 say about packets on one node, straight from their text: every question is answered by
/// looking at every object.
///
/// Where the rules leave open which of several services is meant, because they share an external or load-balancer
/// address and port: cluster IPs come before external IPs, these before load-balancer IPs, and these before node ports
/// (KP-25); within one of these the service whose namespace and name sort first, then the first of its ports.
public struct ReferenceServices: Sendable {
  let state: State
  let nodeName: String
  let settings: NodeSettings
  let localAddresses: Set<IPAddress>
  let isSynced: Bool

  /// `localAddresses`: the node's own addresses without loopback; nil = those of its Node object. `isSynced`: whether
  /// services and endpoint slices have both been listed (KP-4).
  public init(state: State, node: String, localAddresses: Set<IPAddress>? = nil, isSynced: Bool = true) {
    self.state = state
    nodeName = node
    settings = state.settings(ofNode: node)
    self.localAddresses = localAddresses ?? Set(state.node(node).map(addresses(of:)) ?? [])
    self.isSynced = isSynced
  }

  /// What becomes of the first packet of a connection.
  public func decide(
    source: Origin, destination: IPAddress, protocol transport: TransportProtocol, port: UInt16
  ) -> ServiceDecision {
    let nothing = ServiceDecision(verdict: .none, source: source.address)
    // KP-4
    if !isSynced { return nothing }

    // KP-24: packets to 127/8 from elsewhere.
    if case .v4(let address) = destination, address.isLoopback {
      guard case .node = source else { return ServiceDecision(verdict: .drop, source: source.address) }
    }

    for frontend in Frontend.Class.allCases {
      for service in services(destination.family) {
        for servicePort in service.ports where servicePort.protocol == transport {
          let number = frontend == .nodePort ? servicePort.nodePort : servicePort.port
          if number == port, isServed(destination, frontend, of: service) {
            return decide(source, destination, frontend, service, servicePort)
          }
        }
      }
    }

    // KP-37: a known cluster IP on a port nobody defined; an address of the service CIDR that no service has.
    if services(destination.family).contains(where: { $0.clusterIPs.contains(destination) }) {
      return ServiceDecision(verdict: .reject, source: source.address)
    }
    if settings.serviceCIDRs.contains(where: { $0.contains(destination) }) {
      return ServiceDecision(verdict: .drop, source: source.address)
    }
    return nothing
  }

  private func decide(
    _ source: Origin, _ destination: IPAddress, _ frontend: Frontend.Class, _ service: Service, _ port: ServicePort
  ) -> ServiceDecision {
    let candidates = candidates(service, port, destination.family)
    let clusterSet = clusterSet(candidates)
    let localSet = localSet(candidates)
    var decision = ServiceDecision(service: service.title(of: port), verdict: .drop, source: source.address)

    // KP-30: no usable endpoint anywhere, on every frontend.
    if clusterSet.isEmpty {
      decision.verdict = .reject
      return decision
    }

    let chosen: [Candidate]
    if frontend == .clusterIP {
      // KP-31
      chosen = service.internalTrafficPolicy == .local ? localSet : clusterSet
      // KP-34
      let podBlocks = settings.clusterCIDRs.filter { $0.family == destination.family }
      let isPod = podBlocks.contains { $0.contains(source.address) }
      decision.masquerade = settings.masqueradeAll || (!podBlocks.isEmpty && !isPod)
    } else {
      // KP-25, KP-38
      if frontend == .loadBalancer, !isAllowed(source, to: destination, service) { return decision }
      switch (service.externalTrafficPolicy, source) {
      case (.cluster, _):
        // KP-32
        chosen = clusterSet
        decision.masquerade = true
      case (.local, .localPod):
        // KP-33 (1)
        chosen = clusterSet
        decision.masquerade = false
      case (.local, .node):
        // KP-33 (2)
        chosen = clusterSet
        decision.masquerade = true
      case (.local, .elsewhere):
        // KP-33 (3)
        chosen = localSet
        decision.masquerade = false
      }
    }
    // KP-31: endpoints exist but none is local.
    if chosen.isEmpty {
      decision.masquerade = false
      return decision
    }
    decision.verdict = .translate
    decision.endpoints = Set(chosen.map(\.address))
    decision.affinitySeconds = service.affinitySeconds
    return decision
  }

  // MARK: Services

  /// The services that have something to do in a family, in the order of their names (KP-1, KP-2, KP-6).
  private func services(_ family: IPFamily) -> [Service] {
    state.services.values
      .filter { service in
        service.metadata.labels["service.kubernetes.io/service-proxy-name"] == nil
          && !service.isHeadless
          && service.type != .externalName
          && service.clusterIPs.contains { $0.family == family }
      }
      .sorted { ($0.namespace, $0.name) < ($1.namespace, $1.name) }
  }

  /// Whether an address is one of a service's frontends of a class.
  private func isServed(_ address: IPAddress, _ frontend: Frontend.Class, of service: Service) -> Bool {
    switch frontend {
    // KP-20
    case .clusterIP: service.clusterIPs.contains(address)
    // KP-21
    case .externalIP: service.externalIPs.contains(address)
    // KP-22
    case .loadBalancer: service.loadBalancerIngress.contains { $0.address == address && $0.ipMode == .vip }
    case .nodePort: servesNodePorts(address)
    }
  }

  /// KP-23, KP-24
  private func servesNodePorts(_ address: IPAddress) -> Bool {
    let localhost = IPAddress("127.0.0.1")!
    if address == IPAddress("::1")! { return false }
    if address == localhost {
      if !settings.localhostNodePorts { return false }
    } else if !localAddresses.contains(address) {
      return false
    }
    switch settings.nodePortAddresses {
    case .all: return true
    case .primary: return state.node(nodeName)?.address(address.family) == address
    case .blocks(let blocks):
      let own = blocks.filter { $0.family == address.family }
      return own.isEmpty || own.contains { $0.contains(address) }
    }
  }

  /// KP-38
  private func isAllowed(_ source: Origin, to destination: IPAddress, _ service: Service) -> Bool {
    let ranges = service.loadBalancerSourceRanges.filter { $0.family == destination.family }
    if ranges.isEmpty || ranges.contains(where: { $0.length == 0 }) { return true }
    // The node's own traffic to the address counts as coming from it.
    if case .node = source { return ranges.contains { $0.contains(destination) } }
    return ranges.contains { $0.contains(source.address) }
  }

  /// Every address, protocol and port that a packet may be sent to with a service as its answer.
  public var frontends: [Frontend] {
    var frontends: [Frontend] = []
    for family in IPFamily.allCases {
      for service in services(family) {
        for port in service.ports {
          for frontend in Frontend.Class.allCases {
            guard let number = frontend == .nodePort ? port.nodePort : port.port else { continue }
            let possible =
              service.clusterIPs + service.externalIPs + service.loadBalancerIngress.compactMap(\.address)
              + localAddresses + [IPAddress("127.0.0.1")!]
            for address in Set(possible).sorted()
            where address.family == family && isServed(address, frontend, of: service) {
              frontends.append(Frontend(frontend, SocketAddress(address, port: number), port.protocol))
            }
          }
        }
      }
    }
    return frontends
  }
}

/// An address at which a service is reached.
public struct Frontend: Hashable, Sendable {
  /// In the order in which they are asked (KP-25).
  public enum Class: Sendable, Hashable, CaseIterable {
    case clusterIP
    case externalIP
    case loadBalancer
    case nodePort
  }

  public var `class`: Class
  public var address: SocketAddress
  public var `protocol`: TransportProtocol

  init(_ class: Class, _ address: SocketAddress, _ protocol: TransportProtocol) {
    self.class = `class`
    self.address = address
    self.protocol = `protocol`
  }
}

/// The addresses that a Node object tells.
func addresses(of node: Node) -> [IPAddress] {
  [node.underlayIPv4?.address, node.underlayIPv6?.address].compactMap { $0 }
    + node.addresses.filter { $0.type == .internalIP || $0.type == .externalIP }.map(\.address)
}
