import Addresses

/// What was decided about the packets of one direction of a flow.
struct Decision {
  var hop: HopIndex
  var route: RouteIndex
  /// Where answers come in.
  var zone: Zone
}

/// What was decided about a new flow.
struct Judgement: BitwiseCopyable {
  var decision = Decision(hop: 0, route: 0, zone: Zone(rawValue: 0))
  /// The endpoint of a service; 0: none.
  var backend: BackendIndex = 0
  /// The pods whose policies were asked; 0: none.
  var sourcePod: UInt32 = 0
  var destinationPod: UInt32 = 0
  /// The route of the answers.
  var replyRoute: RouteIndex = 0
  /// Whether connections seem to come from the node.
  var masquerades = false
  /// Whether the sender is masqueraded on its way out of all pools (NODE-8).
  var isHidden = false
}

/// What first packets from one address that came in by one port have in common: many of a batch are of one sender. Good as
/// long as neither port nor tables change.
struct Sender: BitwiseCopyable {
  fileprivate var address = IPAddress.v4(IPv4Address(rawValue: 0))
  fileprivate var isKnown = false
  /// Whether it is masqueraded on its way out of all pools (NODE-8).
  fileprivate var isHidden = false
  /// Whether it is no pod of the cluster, or is to be treated as if it were none (KP-34).
  private(set) var isForeign = false
  /// The pod whose policies it is subject to; 0: none.
  fileprivate var pod: UInt32 = 0
  /// The route of the answers.
  fileprivate var route: RouteIndex = 0

  init() {}

  /// A sender that may send.
  @inline(never)
  fileprivate init(_ address: IPAddress, _ tables: borrowing Tables) {
    self.address = address
    isKnown = true
    isForeign = tables.settings.masqueradeAll ? true : Core.isForeign(address, tables)
    pod = tables.policies.pod(address)
    route = tables.routes.lookup(address)
    // The node itself needs no masquerade: it reaches its pods.
    guard let own = tables.podAddresses.find(address) else { return }
    isHidden =
      tables.ports.records[Int(own)].masquerades
      || tables.settings.natOutgoingBlocks.contains(where: { $0.contains(address) })
  }
}

/// What first packets are decided by and nearly every one reads, for a loop over them: see `MemoryView`. (Where such a table is
/// read in `Tables`, the compiler copies it whole first.)
struct ClassifierViews: BitwiseCopyable {
  let services: ServiceTableView
  /// The places of pods among those that policy knows, and what it says of them.
  let podNumbers: AddressTableView
  let pods: MemoryView<PolicyTable.PodRecord>

  init(_ tables: borrowing Tables) {
    services = tables.services.view
    podNumbers = tables.policies.pods.view
    pods = tables.policies.records.view
  }
}

extension Core {
  /// Why a packet with this source may not come in where it did; nil: it may (NODE-4).
  mutating func sourceProblem(_ source: IPAddress, _ tables: borrowing Tables) -> DropReason? {
    let isValid =
      switch source {
      case .v4(let address): address.isValidSource
      // RFC 4291, section 2.5.6: link-local packets are not forwarded.
      case .v6(let address): address.isValidSource && !address.isLinkLocal
      }
    guard isValid || source == Core.localhost && isFromHost else { return .invalidSource }
    guard ingressRecord.checksSource else { return nil }
    switch PortRole(rawValue: ingressRecord.role) {
    case .pod: return tables.podAddresses.find(source) == UInt32(ingress.rawValue) ? nil : .sourceAddress
    // A pod of this node never sends from outside.
    case .underlay: return tables.podAddresses.find(source) == nil ? nil : .sourceAddress
    default: return nil
    }
  }

  /// Whether an address is outside of all pools, and not the node's (NODE-8).
  @inline(never)
  private mutating func isOutside(_ target: IPAddress, _ tables: borrowing Tables) -> Bool {
    !tables.settings.poolBlocks.contains(where: { $0.contains(target) })
      && tables.podAddresses.find(target) == nil && !tables.isOwn(target)
  }

  /// Whether a packet answers a masqueraded connection, if it is for one of the node's addresses.
  @inline(never)
  private mutating func isMasqueradePort(_ tail: FlowKeyTail, _ tables: borrowing Tables) -> Bool {
    tail.hasPorts && !tail.isQuery && tables.settings.masqueradePorts.contains(tail.destinationPort)
  }

  /// Whether a packet is the node's own.
  @inline(__always)
  var isFromHost: Bool { ingressRecord.role == PortRole.host.rawValue }

  /// Decides where a packet of flow `key` goes that is not in the table. False when it was dropped or answered. `sender` is
  /// what is known of the last packet's, and is brought up to date.
  mutating func decide<Key: FlowKey>(
    _ index: Int, _ key: Key, _ sender: inout Sender, _ judgement: inout Judgement, _ views: ClassifierViews,
    _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    select(index, key, &sender, &judgement, views, frontend: nil, &batch, tables)
      && conclude(index, key, &judgement, views, &batch, tables)
  }

  /// The first half of `decide`: whether the packet may pass at all, and to which endpoint it goes if it is for a service.
  /// What the second half reads of the endpoint is asked for. `frontend`: that of the packet's destination, where it is known.
  ///
  /// What is inlined here knows the family of the addresses, and asks nothing twice.
  mutating func select<Key: FlowKey>(
    _ index: Int, _ key: Key, _ sender: inout Sender, _ judgement: inout Judgement, _ views: ClassifierViews,
    frontend: UInt32?, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    let tail = key.tail
    let (source, destination) = (key.sourceAddress, key.destinationAddress)
    if !sender.isKnown || sender.address != source {
      guard isAcceptable(index, source: source, batch, tables) else { return false }
      sender = Sender(source, tables)
    }
    guard isAcceptable(index, tail, source: source, destination: destination, &batch, tables) else { return false }
    // KP-39: a connection whose beginning was not seen.
    if tail.transport == IPProtocol.tcp.rawValue, !tables.settings.tcpBeLiberal, contexts[index].tcpFlags & 0x17 != 0x02
    {
      drop(index, .tcpNoSYN, batch)
      return false
    }
    judgement = Judgement()
    judgement.replyRoute = sender.route
    judgement.sourcePod = sender.pod
    judgement.isHidden = sender.isHidden
    switch balance(
      index, tail, sender, source: source, destination: destination, frontend, views.services, &batch, tables)
    {
    case .refused: return false
    case .none:
      if isBareUnderlay(index), tables.localAddresses.find(destination) != nil {
        drop(index, isMasqueradePort(tail, tables) ? .unknownMasquerade : .leftToHost, batch)
        return false
      }
    case .translate(let backend, let masquerade):
      judgement.backend = backend
      judgement.masquerades = masquerade
    }
    return true
  }

  /// The second half of `decide`: whether policy lets the packet pass, and its way.
  mutating func conclude<Key: FlowKey>(
    _ index: Int, _ key: Key, _ judgement: inout Judgement, _ views: ClassifierViews, _ batch: inout FrameBatch,
    _ tables: borrowing Tables
  ) -> Bool {
    let tail = key.tail
    let source = key.sourceAddress
    var target = key.destinationAddress
    var port = tail.destinationPort
    if judgement.backend != 0 {
      let record = views.services.backends[Int(judgement.backend)]
      target = Key.address(record.high, record.low)
      port = record.port
      // KP-35: an endpoint that calls itself must not see its own address answer.
      if target == source { judgement.masquerades = true }
      guard !judgement.masquerades || tables.settings.hasNodeAddress(isIPv6: Key.isIPv6) else {
        drop(index, .noFreePort, batch)
        return false
      }
    }
    if judgement.isHidden, !judgement.masquerades, isOutside(target, tables) {
      judgement.masquerades = tables.settings.hasNodeAddress(isIPv6: Key.isIPv6)
    }
    judgement.destinationPod = views.podNumbers.find(target) ?? 0
    if isTracing {
      tracePolicy(
        source: source, judgement.sourcePod, destination: target, judgement.destinationPod, tail.transport, port, tables
      )
    }
    if let problem = policyProblem(
      source: source, sourcePod: judgement.sourcePod, destination: target, destinationPod: judgement.destinationPod,
      transport: tail.transport, port: port, views.pods, tables)
    {
      drop(index, problem, batch)
      return false
    }
    let apparent = judgement.masquerades ? tables.settings.nodeAddress(isIPv6: Key.isIPv6) ?? source : source
    guard
      let decision = route(
        index, source: apparent, destination: target, isTranslated: judgement.backend != 0, &batch, tables)
    else { return false }
    judgement.decision = decision
    return true
  }

  /// Whether a packet may come in by its port with the source that it has. Where not, it was dropped.
  private mutating func isAcceptable(
    _ index: Int, source: IPAddress, _ batch: borrowing FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    guard let problem = sourceProblem(source, tables) else { return true }
    drop(index, problem, batch)
    return false
  }

  /// Whether a first packet whose source is acceptable may pass at all. Where not, it was dropped or answered.
  @inline(__always)
  private mutating func isAcceptable(
    _ index: Int, _ tail: FlowKeyTail, source: IPAddress, destination: IPAddress, _ batch: inout FrameBatch,
    _ tables: borrowing Tables
  ) -> Bool {
    record(.sourceAccepted)
    if let problem = destinationProblem(destination, tables) {
      // KP-24
      if case .v4(let address) = destination, address.isLoopback, !isFromHost {
        record(.serviceDecided(ServiceDecision(verdict: .drop)))
      }
      drop(index, problem, batch)
      return false
    }
    // KP-24: the node's packets to itself have no business elsewhere.
    if source == Core.localhost, destination != Core.localhost {
      drop(index, .invalidSource, batch)
      return false
    }
    if ingressRecord.role == PortRole.pod.rawValue, isTunnelPacket(tail, tables) {
      drop(index, .tunnelFromPod, batch)
      return false
    }
    if tables.gatewayAddresses.find(destination) != nil {
      answerGateway(index, &batch, tables)
      return false
    }
    return true
  }

  /// Finds the way to a destination. What was translated may go back to where it came from.
  @inline(__always)
  mutating func route(
    _ index: Int, source: IPAddress, destination: IPAddress, isTranslated: Bool, _ batch: inout FrameBatch,
    _ tables: borrowing Tables
  ) -> Decision? {
    if case .v6(let address) = destination, address.isLinkLocal {
      drop(index, .invalidDestination, batch)
      return nil
    }
    let route: RouteIndex =
      switch destination {
      case .v4(let address): tables.routes.lookup(address)
      case .v6(let address): tables.routes.lookup(address)
      }
    // What the underlay brings unwrapped and no pod wants is the kernel's: it has its own copy (NODE-3).
    let isBareUnderlay = isBareUnderlay(index)
    guard route != 0 else {
      if isBareUnderlay { drop(index, .leftToHost, batch) } else { reject(index, .noRoute, &batch, tables) }
      return nil
    }
    let action = tables.routes.records[Int(route)].action
    if isTracing, let prefix = tables.routes.prefix(of: route) {
      trace.append(.routed(prefix: prefix, RouteAction(rawValue: action) ?? .unreachable))
    }
    guard action == RouteAction.forward.rawValue || action == RouteAction.local.rawValue else {
      if action == RouteAction.blackhole.rawValue {
        drop(index, .blackhole, batch)
      } else {
        reject(index, .hostUnreachable, &batch, tables)
      }
      return nil
    }
    let hop = tables.routes.hop(of: route, hash: contexts[index].hash)
    guard hop != 0 else {
      drop(index, action == RouteAction.local.rawValue ? .noHostPort : .noRoute, batch)
      return nil
    }
    let chosen = HopTable.index(hop, isIPv6: contexts[index].isIPv6)
    let out = tables.hops.records[Int(chosen)].port
    let role = tables.ports.records[Int(out.rawValue)].role
    if !isTranslated, ingressRecord.role == PortRole.underlay.rawValue, role == PortRole.underlay.rawValue {
      // What came from another node goes to a pod or to the host, never out again.
      drop(index, .transit, batch)
      return nil
    }
    if !isTranslated, isBareUnderlay, role == PortRole.host.rawValue {
      drop(index, .leftToHost, batch)
      return nil
    }
    if !isTranslated, out == ingress, ingressRecord.role == PortRole.pod.rawValue {
      drop(index, .hairpin, batch)
      return nil
    }
    if !isTranslated, contexts[index].tunnel == 0,
      tables.hops.records[Int(chosen)].encapsulation != Encapsulation.none.rawValue,
      let tunnel = tables.hop(hop)?.tunnel,
      destination == tunnel.remote || source == tunnel.local && ingressRecord.role != PortRole.host.rawValue
    {
      // RFC 2003, section 3: such a packet would be encapsulated again and again (TUN-1). The host's own packets have
      // the tunnel's address by right.
      drop(index, .tunnelLoop, batch)
      return nil
    }
    record(.hopChosen(chosen))
    return Decision(hop: chosen, route: route, zone: tables.ports.records[Int(out.rawValue)].zone)
  }

  /// Sends on a packet that belongs to no flow of its own: an ICMP error. `isExpected`: it is about a flow, so that it is
  /// allowed as the flow's answers are (NP-6).
  mutating func forwardWithoutFlow(
    _ index: Int, source: IPAddress, destination: IPAddress, isExpected: Bool, _ batch: inout FrameBatch,
    _ tables: borrowing Tables
  ) {
    contexts[index].hash = mix(UInt64(truncatingIfNeeded: destination.word), UInt64(truncatingIfNeeded: source.word))
    let tail = FlowKeyTail(transport: contexts[index].transportProtocol)
    guard isAcceptable(index, source: source, batch, tables),
      isAcceptable(index, tail, source: source, destination: destination, &batch, tables)
    else { return }
    if isBareUnderlay(index), tables.localAddresses.find(destination) != nil {
      return drop(index, .leftToHost, batch)
    }
    if tables.services.isKnown(destination) { return drop(index, .noServicePort, batch) }
    if tables.services.serviceBlocks.contains(where: { $0.contains(destination) }) {
      return drop(index, .noService, batch)
    }
    if !isExpected,
      let problem = policyProblem(
        source: source, sourcePod: tables.policies.pod(source), destination: destination,
        destinationPod: tables.policies.pod(destination), transport: contexts[index].transportProtocol, port: 0,
        tables.policies.records.view, tables)
    {
      return drop(index, problem, batch)
    }
    guard
      let decision = route(index, source: source, destination: destination, isTranslated: false, &batch, tables)
    else { return }
    emit(index, decision.hop, &batch, tables)
  }

  /// Whether a packet came from the underlay without a tunnel.
  @inline(__always)
  private mutating func isBareUnderlay(_ index: Int) -> Bool {
    ingressRecord.role == PortRole.underlay.rawValue && contexts[index].tunnel == 0
  }

  @inline(__always)
  private mutating func destinationProblem(
    _ destination: IPAddress, _ tables: borrowing Tables
  ) -> DropReason? {
    switch destination {
    case .v4(let address):
      if address.isMulticast || address == .broadcast { return .multicast }
      if address.rawValue >> 24 == 0 { return .invalidDestination }
      // KP-24
      if address.isLoopback {
        guard isFromHost, tables.nodePortAddresses.find(destination) != nil else { return .invalidDestination }
      }
    case .v6(let address):
      if address.isMulticast { return .multicast }
      if address.isLoopback || address == .any { return .invalidDestination }
    }
    return nil
  }

  /// Whether an IPv4 packet names its route; looked for in every packet with options, for a flow says nothing of them.
  func hasSourceRoute(_ index: Int, _ batch: borrowing FrameBatch) -> Bool {
    let frame = batch[index]
    guard let header = IPv4Header(frame.octets) else { return false }
    var options = header.options
    while let option = options.next() {
      if option.isSourceRoute { return true }
    }
    return false
  }

  /// Whether a flow is one of a tunnel protocol, which no pod may send (NODE-4).
  @inline(__always)
  private func isTunnelPacket(_ tail: FlowKeyTail, _ tables: borrowing Tables) -> Bool {
    switch tail.transport {
    case IPProtocol.ipv4.rawValue, IPProtocol.ipv6.rawValue, IPProtocol.gre.rawValue: true
    case IPProtocol.udp.rawValue:
      tail.destinationPort == tables.settings.vxlanPort || tail.destinationPort == tables.settings.genevePort
    default: false
    }
  }
}

extension IPAddress {
  /// The last 64 bits: enough to spread addresses.
  var word: UInt64 {
    switch self {
    case .v4(let address): UInt64(address.rawValue)
    case .v6(let address): address.high &+ address.low
    }
  }
}
