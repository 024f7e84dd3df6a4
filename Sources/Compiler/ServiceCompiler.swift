import Addresses
import Dataplane
import Model

/// Compiles services and endpoint slices into the service table. Work is in proportion to the services that a change
/// concerns, whatever their number.
struct ServiceCompiler {
  /// The slices of each service.
  private var slices: [ObjectKey: Set<ObjectKey>] = [:]
  private var dirty: Set<ObjectKey> = []
  private var installed: [ObjectKey: [PortKey: InstalledPort]] = [:]
  /// Who wants an address and port, in the order of their claims: the first has it.
  private var claims: [Claim: [ObjectKey]] = [:]

  /// One port of a service in one family: the families are independent (KP-6).
  struct PortKey: Hashable {
    var family: IPFamily
    var name: String
    var transport: TransportProtocol
    var port: UInt16
  }

  struct InstalledPort {
    var index: ServiceIndex
    var port: Dataplane.ServicePort
    var frontends: [Frontend: FrontendPolicy]
  }

  /// What makes two frontends the same to a packet.
  struct Claim: Hashable {
    var address: IPAddress?
    var family: IPFamily
    var transport: UInt8
    var port: UInt16

    init(_ frontend: Frontend) {
      address = frontend.address
      family = frontend.family
      transport = frontend.transport
      port = frontend.port
    }
  }

  /// What services are looked at from.
  struct Viewpoint {
    var node: String
    var zone: String?
    var balancing: Model.LoadBalancing
  }

  // MARK: Changes

  mutating func note(service: ObjectKey) { dirty.insert(service) }

  mutating func enter(_ slice: EndpointSlice) {
    guard let service = slice.service, !slice.isHeadless else { return }
    slices[service, default: []].insert(slice.key)
    dirty.insert(service)
  }

  mutating func withdraw(_ slice: EndpointSlice) {
    guard let service = slice.service else { return }
    slices[service]?.remove(slice.key)
    if slices[service]?.isEmpty == true { slices[service] = nil }
    dirty.insert(service)
  }

  /// Every service has to be looked at: the node's zone or the configuration changed.
  mutating func noteAll(_ state: State) { dirty.formUnion(state.services.keys) }

  // MARK: Commit

  mutating func commit(to tables: inout Tables, _ state: State, _ view: Viewpoint) {
    // Services whose claims were given up let others have them, who are then looked at in turn.
    while !dirty.isEmpty {
      let batch = dirty.count == 1 ? Array(dirty) : dirty.sorted { ($0.namespace, $0.name) < ($1.namespace, $1.name) }
      dirty.removeAll(keepingCapacity: true)
      for key in batch { bringUpToDate(key, &tables, state, view) }
    }
  }

  private mutating func bringUpToDate(
    _ key: ObjectKey, _ tables: inout Tables, _ state: State, _ view: Viewpoint
  ) {
    let service = state.services[key].flatMap { $0.isServed ? $0 : nil }
    var wanted: [PortKey: (Dataplane.ServicePort, [Frontend: FrontendPolicy])] = [:]
    if let service {
      let own = (slices[key] ?? []).compactMap { state.endpointSlices[$0] }.sorted { $0.name < $1.name }
      for address in service.clusterIPs {
        for port in service.ports {
          let portKey = PortKey(
            family: address.family, name: port.name, transport: port.protocol, port: port.port)
          wanted[portKey] = compile(service, port, address, own, view)
        }
      }
    }
    var ports = installed[key] ?? [:]
    for (portKey, old) in ports where wanted[portKey] == nil {
      for frontend in old.frontends.keys { giveUp(frontend, key, &tables) }
      tables.removeService(old.index)
      ports[portKey] = nil
    }
    for (portKey, (port, frontends)) in wanted {
      var record: InstalledPort
      if let old = ports[portKey] {
        record = old
        if old.port != port { tables.updateService(old.index, port) }
        record.port = port
      } else {
        record = InstalledPort(index: tables.addService(port), port: port, frontends: [:])
      }
      for frontend in record.frontends.keys where frontends[frontend] == nil { giveUp(frontend, key, &tables) }
      for (frontend, policy) in frontends where claim(frontend, key) {
        if record.frontends[frontend] != policy || ports[portKey] == nil {
          tables.setFrontend(frontend, policy, service: record.index)
        }
      }
      record.frontends = frontends
      ports[portKey] = record
    }
    installed[key] = ports.isEmpty ? nil : ports
  }

  private func compile(
    _ service: Service, _ port: Model.ServicePort, _ clusterIP: IPAddress, _ slices: [EndpointSlice],
    _ view: Viewpoint
  ) -> (Dataplane.ServicePort, [Frontend: FrontendPolicy]) {
    let family = clusterIP.family
    let sets = EndpointSets(slices, port: port, family: family, node: view.node, zone: view.zone)
    let compiled = Dataplane.ServicePort(
      name: "\(service.namespace)/\(service.name):\(port.name.isEmpty ? String(port.port) : port.name)",
      cluster: sets.cluster, local: sets.local, affinity: service.affinitySeconds ?? 0,
      balancing: (service.loadBalancing ?? view.balancing) == .maglev ? .maglev : .random)
    let transport = port.protocol.number
    let isLocal = service.externalTrafficPolicy == .local
    var frontends: [Frontend: FrontendPolicy] = [:]
    func add(_ kind: Frontend.Kind, _ address: IPAddress?, _ number: UInt16, _ policy: FrontendPolicy) {
      let frontend = Frontend(kind, address: address, family: family, transport: transport, port: number)
      frontends[frontend] = policy
    }
    // KP-20
    add(.clusterIP, clusterIP, port.port, FrontendPolicy(isLocal: service.internalTrafficPolicy == .local))
    // KP-21
    for address in service.externalIPs where address.family == family && address != clusterIP {
      add(.externalIP, address, port.port, FrontendPolicy(isLocal: isLocal))
    }
    if service.type == .loadBalancer {
      // KP-22, KP-38
      let ranges = service.loadBalancerSourceRanges.filter { $0.family == family }
      let isOpen = ranges.isEmpty || ranges.contains { $0.length == 0 }
      for address in service.loadBalancerVIPs where address.family == family {
        add(.loadBalancer, address, port.port, FrontendPolicy(isLocal: isLocal, sourceRanges: isOpen ? nil : ranges))
      }
    }
    if service.type != .clusterIP, let nodePort = port.nodePort {
      // KP-23
      add(.nodePort, nil, nodePort, FrontendPolicy(isLocal: isLocal))
    }
    return (compiled, frontends)
  }

  // MARK: Claims

  /// Whether the service has the frontend now; where another has it, the service waits for it.
  private mutating func claim(_ frontend: Frontend, _ key: ObjectKey) -> Bool {
    let claim = Claim(frontend)
    guard let owners = claims[claim] else {
      claims[claim] = [key]
      return true
    }
    if !owners.contains(key) { claims[claim]?.append(key) }
    return owners.first == key
  }

  private mutating func giveUp(_ frontend: Frontend, _ key: ObjectKey, _ tables: inout Tables) {
    let claim = Claim(frontend)
    guard var owners = claims[claim], let place = owners.firstIndex(of: key) else { return }
    owners.remove(at: place)
    claims[claim] = owners.isEmpty ? nil : owners
    guard place == 0 else { return }
    tables.removeFrontend(frontend)
    if let heir = owners.first {
      // The heir's frontend is written when it is looked at; what it thinks is there is not.
      var ports = installed[heir] ?? [:]
      for portKey in ports.keys { ports[portKey]?.frontends.removeAll { Claim($0) == claim } }
      installed[heir] = ports
      dirty.insert(heir)
    }
  }
}

extension Dictionary {
  /// Takes out the entries whose keys meet a condition.
  fileprivate mutating func removeAll(where condition: (Key) -> Bool) {
    for key in keys where condition(key) { removeValue(forKey: key) }
  }
}
