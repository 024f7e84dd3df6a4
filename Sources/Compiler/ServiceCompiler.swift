import Addresses
import Dataplane
import Model

/// Compiles services and endpoint slices into the service table. Work is in proportion to the services that a change
/// concerns, whatever their number.
struct ServiceCompiler {
  /// The slices of each service.
  private var slices: [ObjectKey: Set<ObjectKey>] = [:]
  private var dirty: Set<ObjectKey> = []
  private var installed: [ObjectKey: [InstalledPort]] = [:]
  /// Who wants an address and port, the first of whom has it.
  private var claims: [Claim: [Claimant]] = [:]
  private var view: Viewpoint?
  /// Where services are met, for those who lead packets there.
  private(set) var doors = ServiceDoors()
  /// The services whose health somebody asks for.
  private(set) var health: [ObjectKey: ServiceHealth] = [:]
  /// The number of services that are programmed.
  var count: Int { installed.count }

  /// One port of a service in one family: the families are independent (KP-6).
  struct PortKey: Hashable {
    var family: IPFamily
    var name: String
    var transport: TransportProtocol
    var port: UInt16
  }

  /// What the tables have of a port. Lists, not sets: there are few of each, and many services.
  struct InstalledPort {
    var key: PortKey
    var index: ServiceIndex
    var port: Dataplane.ServicePort
    var frontends: [(frontend: Frontend, policy: FrontendPolicy)]

    func policy(of frontend: Frontend) -> FrontendPolicy? { frontends.first { $0.frontend == frontend }?.policy }
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

  /// A service port that wants an address and port. Cluster IPs come before external IPs, these before load balancers'
  /// and these before NodePorts (KP-25); then the names decide, so that the order of changes is of no importance.
  struct Claimant: Equatable, Comparable {
    var kind: Frontend.Kind
    var service: ObjectKey
    var port: PortKey

    static func < (a: Claimant, b: Claimant) -> Bool {
      (a.kind.rawValue, a.service.namespace, a.service.name, a.port.name)
        < (b.kind.rawValue, b.service.namespace, b.service.name, b.port.name)
    }
  }

  /// What services are looked at from.
  struct Viewpoint: Equatable {
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

  // MARK: Commit

  mutating func commit(to tables: inout Tables, _ state: State, _ view: Viewpoint) {
    if view != self.view {
      self.view = view
      dirty.formUnion(state.services.keys)
    }
    let batch = exchange(&dirty, with: [])
    for key in batch { bringUpToDate(key, &tables, state, view) }
  }

  private mutating func bringUpToDate(
    _ key: ObjectKey, _ tables: inout Tables, _ state: State, _ view: Viewpoint
  ) {
    var wanted: [InstalledPort] = []
    if let service = state.services[key], service.isServed {
      let own = (slices[key] ?? []).compactMap { state.endpointSlices[$0] }.sorted { $0.name < $1.name }
      for address in service.clusterIPs {
        for port in service.ports {
          let portKey = PortKey(
            family: address.family, name: port.name, transport: port.protocol, port: port.port)
          if !wanted.contains(where: { $0.key == portKey }) {
            wanted.append(compile(service, port, portKey, address, own, view))
          }
        }
      }
      let told = ServiceHealth(
        service, own, node: view.node, ports: wanted.lazy.map { ($0.port.cluster.count, $0.port.local.count) })
      if told.isOfInterest || health[key] != nil { health[key] = told.isOfInterest ? told : nil }
    } else if health[key] != nil {
      health[key] = nil
    }
    let old = installed[key] ?? []
    // The addresses and ports that somebody may have now who did not before, or in another way.
    var disputed: [Claim] = []
    for record in old {
      let now = wanted.first { $0.key == record.key }
      for (frontend, _) in record.frontends where now?.policy(of: frontend) == nil {
        giveUp(frontend, Claimant(kind: frontend.kind, service: key, port: record.key))
        disputed.append(Claim(frontend))
      }
    }
    for place in wanted.indices {
      let new = wanted[place]
      let record = old.first { $0.key == new.key }
      if let record {
        wanted[place].index = record.index
        if record.port != new.port { tables.updateService(record.index, new.port) }
      } else {
        wanted[place].index = tables.addService(new.port)
      }
      for (frontend, policy) in new.frontends where record?.policy(of: frontend) != policy {
        if claim(frontend, Claimant(kind: frontend.kind, service: key, port: new.key)) {
          tables.setFrontend(frontend, policy, service: wanted[place].index)
        } else {
          disputed.append(Claim(frontend))
        }
      }
    }
    installed[key] = wanted.isEmpty ? nil : wanted
    for claim in disputed { settle(claim, &tables) }
    for record in old where !wanted.contains(where: { $0.key == record.key }) { tables.removeService(record.index) }
  }

  private func compile(
    _ service: Service, _ port: Model.ServicePort, _ key: PortKey, _ clusterIP: IPAddress, _ slices: [EndpointSlice],
    _ view: Viewpoint
  ) -> InstalledPort {
    let family = clusterIP.family
    let sets = EndpointSets(slices, port: port, family: family, node: view.node, zone: view.zone)
    let compiled = Dataplane.ServicePort(
      name: "\(service.namespace)/\(service.name):\(port.name.isEmpty ? String(port.port) : port.name)",
      cluster: sets.cluster, local: sets.local, affinity: service.affinitySeconds ?? 0,
      balancing: (service.loadBalancing ?? view.balancing) == .maglev ? .maglev : .random)
    let transport = port.protocol.number
    let isLocal = service.externalTrafficPolicy == .local
    var frontends: [(frontend: Frontend, policy: FrontendPolicy)] = []
    func add(_ kind: Frontend.Kind, _ address: IPAddress?, _ number: UInt16, _ policy: FrontendPolicy) {
      let frontend = Frontend(kind, address: address, family: family, transport: transport, port: number)
      if !frontends.contains(where: { $0.frontend == frontend }) { frontends.append((frontend, policy)) }
    }
    // KP-20
    add(.clusterIP, clusterIP, port.port, FrontendPolicy(isLocal: service.internalTrafficPolicy == .local))
    // KP-21
    for address in service.externalIPs where address.family == family {
      add(.externalIP, address, port.port, FrontendPolicy(isLocal: isLocal))
    }
    // KP-22, KP-38
    let ranges = service.loadBalancerSourceRanges.filter { $0.family == family }
    let isOpen = ranges.isEmpty || ranges.contains { $0.length == 0 }
    for address in service.loadBalancerVIPs where address.family == family {
      add(.loadBalancer, address, port.port, FrontendPolicy(isLocal: isLocal, sourceRanges: isOpen ? nil : ranges))
    }
    if let nodePort = port.nodePort {
      // KP-23
      add(.nodePort, nil, nodePort, FrontendPolicy(isLocal: isLocal))
    }
    return InstalledPort(key: key, index: 0, port: compiled, frontends: frontends)
  }

  // MARK: Claims

  /// Enters a claim. Whether nobody else has it, or ever had it while this one did not.
  private mutating func claim(_ frontend: Frontend, _ claimant: Claimant) -> Bool {
    let claim = Claim(frontend)
    guard var claimants = claims.updateValue([claimant], forKey: claim) else {
      doors.enter(claim)
      return true
    }
    if !claimants.contains(claimant) {
      let place = claimants.firstIndex { claimant < $0 } ?? claimants.endIndex
      claimants.insert(claimant, at: place)
    }
    claims[claim] = claimants
    return claimants.count == 1
  }

  private mutating func giveUp(_ frontend: Frontend, _ claimant: Claimant) {
    let claim = Claim(frontend)
    guard var claimants = claims[claim] else { return }
    claimants.removeAll { $0 == claimant }
    claims[claim] = claimants.isEmpty ? nil : claimants
    if claimants.isEmpty { doors.withdraw(claim) }
  }

  /// Tells which addresses are led to the data plane block by block, so that they need not be known one by one.
  mutating func setServiceBlocks(_ blocks: [IPPrefix]) {
    if blocks != doors.blocks { doors.setBlocks(blocks, claims.keys) }
  }

  /// Leads an address and port to the first of those who want it.
  private func settle(_ claim: Claim, _ tables: inout Tables) {
    func frontend(_ kind: Frontend.Kind) -> Frontend {
      Frontend(kind, address: claim.address, family: claim.family, transport: claim.transport, port: claim.port)
    }
    guard let winner = claims[claim]?.first,
      let record = installed[winner.service]?.first(where: { $0.key == winner.port }),
      let policy = record.policy(of: frontend(winner.kind))
    else { return tables.removeFrontend(frontend(.clusterIP)) }
    tables.setFrontend(frontend(winner.kind), policy, service: record.index)
  }
}
