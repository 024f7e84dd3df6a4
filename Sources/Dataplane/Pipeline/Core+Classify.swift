import Addresses

/// What was decided about the packets of one direction of a flow.
struct Decision {
  var hop: HopIndex
  var route: RouteIndex
  /// Where answers come in.
  var zone: Zone
}

extension Core {
  /// Why a packet with this source may not come in where it did; nil: it may (NODE-4).
  func sourceProblem(_ source: IPAddress, _ context: PacketContext, _ tables: borrowing Tables) -> DropReason? {
    let isValid =
      switch source {
      case .v4(let address): address.isValidSource
      // RFC 4291, section 2.5.6: link-local packets are not forwarded.
      case .v6(let address): address.isValidSource && !address.isLinkLocal
      }
    guard isValid else { return .invalidSource }
    guard ingressRecord.checksSource else { return nil }
    switch PortRole(rawValue: ingressRecord.role) {
    case .pod: return tables.podAddresses.find(source) == UInt32(ingress.rawValue) ? nil : .sourceAddress
    // A pod of this node never sends from outside.
    case .underlay: return tables.podAddresses.find(source) == nil ? nil : .sourceAddress
    default: return nil
    }
  }

  /// Decides where a packet goes that no flow knows. Nil when it was dropped or answered.
  mutating func decide(
    _ index: Int, source: IPAddress, destination: IPAddress, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Decision? {
    if let problem = sourceProblem(source, contexts[index], tables) {
      drop(index, problem, batch)
      return nil
    }
    record(.sourceAccepted)
    if let problem = destinationProblem(destination) {
      drop(index, problem, batch)
      return nil
    }
    if ingressRecord.role == PortRole.pod.rawValue, isTunnelPacket(index, batch, tables) {
      drop(index, .tunnelFromPod, batch)
      return nil
    }
    if tables.gatewayAddresses.find(destination) != nil {
      answerGateway(index, &batch, tables)
      return nil
    }
    return route(index, source: source, destination: destination, &batch, tables)
  }

  private mutating func route(
    _ index: Int, source: IPAddress, destination: IPAddress, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Decision? {
    if case .v6(let address) = destination, address.isLinkLocal {
      drop(index, .invalidDestination, batch)
      return nil
    }
    let route = tables.routes.lookup(destination)
    // What the underlay brings unwrapped and no pod wants is the kernel's: it has its own copy (NODE-3).
    let isBareUnderlay = ingressRecord.role == PortRole.underlay.rawValue && contexts[index].tunnel == 0
    guard route != 0 else {
      if isBareUnderlay { drop(index, .leftToHost, batch) } else { reject(index, .noRoute, &batch, tables) }
      return nil
    }
    let action = RouteAction(rawValue: tables.routes.records[Int(route)].action) ?? .unreachable
    if isTracing, let prefix = tables.routes.prefix(of: route) { trace.append(.routed(prefix: prefix, action)) }
    switch action {
    case .blackhole:
      drop(index, .blackhole, batch)
      return nil
    case .unreachable:
      reject(index, .hostUnreachable, &batch, tables)
      return nil
    case .forward, .local: break
    }
    let hop = tables.routes.hop(of: route, hash: contexts[index].hash)
    guard hop != 0 else {
      drop(index, action == .local ? .noHostPort : .noRoute, batch)
      return nil
    }
    let chosen = HopTable.index(hop, isIPv6: contexts[index].isIPv6)
    let out = tables.hops.records[Int(chosen)].port
    let role = tables.ports.records[Int(out.rawValue)].role
    if ingressRecord.role == PortRole.underlay.rawValue, role == PortRole.underlay.rawValue {
      // What came from another node goes to a pod or to the host, never out again.
      drop(index, .transit, batch)
      return nil
    }
    if isBareUnderlay, role == PortRole.host.rawValue {
      drop(index, .leftToHost, batch)
      return nil
    }
    if out == ingress, ingressRecord.role == PortRole.pod.rawValue {
      drop(index, .hairpin, batch)
      return nil
    }
    if contexts[index].tunnel == 0, let tunnel = tables.hop(hop)?.tunnel,
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

  /// Sends on a packet that belongs to no flow of its own: an ICMP error.
  mutating func forwardWithoutFlow(
    _ index: Int, source: IPAddress, destination: IPAddress, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    contexts[index].hash = mix(UInt64(truncatingIfNeeded: destination.word), UInt64(truncatingIfNeeded: source.word))
    guard let decision = decide(index, source: source, destination: destination, &batch, tables) else { return }
    emit(index, decision.hop, &batch, tables)
  }

  private func destinationProblem(_ destination: IPAddress) -> DropReason? {
    switch destination {
    case .v4(let address):
      if address.isMulticast || address == .broadcast { return .multicast }
      if address.isLoopback || address.rawValue >> 24 == 0 { return .invalidDestination }
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

  /// Whether the packet is one of a tunnel protocol, which no pod may send (NODE-4).
  private func isTunnelPacket(_ index: Int, _ batch: borrowing FrameBatch, _ tables: borrowing Tables) -> Bool {
    let context = contexts[index]
    switch context.transportProtocol {
    case IPProtocol.ipv4.rawValue, IPProtocol.ipv6.rawValue, IPProtocol.gre.rawValue: return true
    case IPProtocol.udp.rawValue:
      let frame = batch[index]
      let offset = Int(context.transport) + 2
      guard !context.flags.contains(.laterFragment), offset + 2 <= frame.octets.count else { return false }
      let port = frame.octets[u16: offset]
      return port == tables.settings.vxlanPort || port == tables.settings.genevePort
    default: return false
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
