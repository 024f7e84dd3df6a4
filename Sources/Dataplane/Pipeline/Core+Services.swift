import Addresses

/// What the services say about a new connection.
enum ServiceOutcome {
  /// The destination belongs to no service.
  case none
  /// Goes to an endpoint, whose record is asked for; with `masquerade` from an address of the node.
  case translate(BackendIndex, masquerade: Bool)
  /// The packet was dropped or rejected.
  case refused
}

/// Who opens a connection, as far as services treat them differently (KP-33).
enum ServiceOrigin {
  /// A pod of this node.
  case pod
  /// The node itself.
  case node
  /// Anybody else, pods of other nodes too.
  case outside
}

extension Core {
  /// Finds the service that a first packet is for, and an endpoint for it.
  @inline(__always)
  mutating func balance(
    _ index: Int, _ tail: FlowKeyTail, _ sender: Sender, source: IPAddress, destination: IPAddress,
    _ known: UInt32?, _ services: ServiceTableView, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> ServiceOutcome {
    let found =
      known
      ?? (tail.isQuery
        ? nil
        : tables.frontend(
          destination, isIPv6: contexts[index].isIPv6, transport: tail.transport, port: tail.destinationPort))
    guard let found else { return unknownService(index, destination, &batch, tables) }
    let frontend = services.frontends[Int(found)]
    let service = services.services[Int(frontend.service)]
    let isClusterIP = frontend.kind == Frontend.Kind.clusterIP.rawValue
    if frontend.hasSourceRanges, !admits(source, destination, found, tables) {
      traceService(frontend.service, .drop, tables)
      drop(index, .sourceRange, batch)
      return .refused
    }
    var isLocalOnly = frontend.isLocal
    if isLocalOnly, !isClusterIP { isLocalOnly = origin(of: source, tables) == .outside }
    guard isLocalOnly ? service.localCount > 0 : service.clusterCount > 0 else {
      return refuse(index, frontend.service, isLocalOnly: isLocalOnly, &batch, tables)
    }
    let backend = choose(
      frontend.service, service, isLocal: isLocalOnly, source: source, destination: destination, tail, services)
    services.backends.prefetch(Int(backend))
    var masquerade = true
    if isClusterIP {
      // KP-34
      masquerade = sender.isForeign
    } else if frontend.isLocal {
      // KP-32, KP-33
      masquerade = origin(of: source, tables) == .node
    }
    if isTracing {
      // KP-35, which is decided with the rest of the way.
      masquerade = masquerade || services.backends[Int(backend)].address == source
      trace.append(
        .serviceDecided(
          ServiceDecision(
            name: tables.services.name(of: frontend.service), verdict: .translate,
            endpoints: tables.services.endpoints(of: frontend.service, isLocal: isLocalOnly), masquerade: masquerade)))
    }
    return .translate(backend, masquerade: masquerade)
  }

  /// Whether a client may connect by a frontend that says who may (KP-38). Where nobody could answer, that comes first.
  @inline(never)
  private mutating func admits(
    _ source: IPAddress, _ destination: IPAddress, _ number: UInt32, _ tables: borrowing Tables
  ) -> Bool {
    let frontend = tables.services.frontendRecords[Int(number)]
    let service = tables.services.services[Int(frontend.service)]
    guard service.clusterCount > 0 || service.localCount > 0, frontend.kind == Frontend.Kind.loadBalancer.rawValue,
      let ranges = tables.services.ranges(of: number)
    else { return true }
    // The node's own traffic counts as coming from the address itself.
    let client = origin(of: source, tables) == .node ? destination : source
    return ranges.contains(where: { $0.contains(client) })
  }

  /// Says no for a service without an endpoint for the connection.
  @inline(never)
  private mutating func refuse(
    _ index: Int, _ service: ServiceIndex, isLocalOnly: Bool, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> ServiceOutcome {
    if isLocalOnly, tables.services.services[Int(service)].clusterCount > 0 {
      // KP-31: others could answer, so the client should try elsewhere.
      traceService(service, .drop, tables)
      drop(index, .noLocalEndpoint, batch)
    } else {
      // KP-30: nobody could answer, so whoever asks is told.
      traceService(service, .reject, tables)
      refuse(index, .noEndpoint, &batch, tables)
    }
    return .refused
  }

  @inline(never)
  private mutating func traceService(
    _ service: ServiceIndex, _ verdict: ServiceDecision.Verdict, _ tables: borrowing Tables
  ) {
    guard isTracing else { return }
    trace.append(.serviceDecided(ServiceDecision(name: tables.services.name(of: service), verdict: verdict)))
  }

  /// KP-37.
  @inline(never)
  private mutating func unknownService(
    _ index: Int, _ destination: IPAddress, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> ServiceOutcome {
    if destination == Core.localhost {
      // KP-24: what reaches the node here is for a NodePort, or for nobody.
      record(.serviceDecided(ServiceDecision(verdict: .none)))
      drop(index, .invalidDestination, batch)
      return .refused
    }
    if tables.services.isKnown(destination) {
      record(.serviceDecided(ServiceDecision(verdict: .reject)))
      refuse(index, .noServicePort, &batch, tables)
      return .refused
    }
    if tables.services.serviceBlocks.contains(where: { $0.contains(destination) }) {
      record(.serviceDecided(ServiceDecision(verdict: .drop)))
      drop(index, .noService, batch)
      return .refused
    }
    record(.serviceDecided(ServiceDecision(verdict: .none)))
    return .none
  }

  /// The address that NodePorts are served on for the node itself, where that is wanted (KP-24).
  static var localhost: IPAddress { .v4(IPv4Address(127, 0, 0, 1)) }

  /// Who a packet is from. What comes from the underlay is from elsewhere, whatever it says.
  private mutating func origin(of source: IPAddress, _ tables: borrowing Tables) -> ServiceOrigin {
    switch PortRole(rawValue: ingressRecord.role) {
    case .pod: return .pod
    // The host forwards for others, too: for clients that came by another of its devices.
    case .host: return tables.isOwn(source) || source == Core.localhost ? .node : .outside
    case .underlay: return .outside
    case .wire, nil:
      if tables.podAddresses.find(source) != nil { return .pod }
      return tables.isOwn(source) ? .node : .outside
    }
  }

  /// Whether a source is no pod of the cluster, by the cluster's blocks; without blocks nobody is foreign (KP-34).
  static func isForeign(_ source: IPAddress, _ tables: borrowing Tables) -> Bool {
    let blocks = tables.settings.clusterCIDRs
    var isOfFamily = false
    for block in blocks where block.family == source.family {
      if block.contains(source) { return false }
      isOfFamily = true
    }
    return isOfFamily
  }

  /// An endpoint of the set for a new connection (KP-15, KP-50).
  @inline(__always)
  private mutating func choose(
    _ number: ServiceIndex, _ service: ServiceRecord, isLocal: Bool, source: IPAddress,
    destination: IPAddress, _ tail: FlowKeyTail, _ services: ServiceTableView
  ) -> BackendIndex {
    let first = Int(service.list) + (isLocal ? Int(service.clusterCount) : 0)
    let count = Int(isLocal ? service.localCount : service.clusterCount)
    if service.affinity > 0, let kept = keeps(source, number, service, first..<first + count, services) { return kept }
    let backend: BackendIndex
    let size = isLocal ? service.localMaglevSize : service.clusterMaglevSize
    if size > 0 {
      // The zone is left out: other nodes, where the connection may come in next, have other zones.
      let hash = mix(mix(source.word, destination.word), tail.word & 0xff_ffff_ffff)
      let table = Int(service.maglev) + (isLocal ? Int(service.clusterMaglevSize) : 0)
      backend = services.lists[table + Int(hash % UInt64(size))]
    } else {
      backend = services.lists[first + random.below(count)]
    }
    if service.affinity > 0 {
      affinity.store(
        source, number, backend, services.backends[Int(backend)].generation, second: second,
        timeout: service.affinity)
    }
    return backend
  }
}

extension Core {
  /// The endpoint that a client's connections stay with (KP-50).
  @inline(never)
  private mutating func keeps(
    _ client: IPAddress, _ number: ServiceIndex, _ service: ServiceRecord, _ places: Range<Int>,
    _ services: ServiceTableView
  ) -> BackendIndex? {
    guard let kept = affinity.find(client, number, second: second),
      services.backends[Int(kept.backend)].generation == kept.generation
    else { return nil }
    // Eligible still means: in the set that this connection may use.
    for position in places where services.lists[position] == kept.backend {
      affinity.store(client, number, kept.backend, kept.generation, second: second, timeout: service.affinity)
      return kept.backend
    }
    return nil
  }
}

/// A sequence of numbers that nobody could guess who does not know the seed, and that is the same for the same seed.
struct RandomSource: BitwiseCopyable {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  @inline(__always)
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    return mix(state, state ^ 0xd6e8_feb8_6659_fd93)
  }

  /// A number from 0 up to but not including `bound`, all equally likely.
  @inline(__always)
  mutating func below(_ bound: Int) -> Int { Int(next().multipliedFullWidth(by: UInt64(bound)).high) }
}
