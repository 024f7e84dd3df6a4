import Addresses

/// A flow as people see it.
public struct FlowDescription: Sendable, Equatable {
  public var transport: IPProtocol
  public var source: IPAddress
  public var destination: IPAddress
  /// The port, or the identifier of an ICMP query.
  public var sourcePort: UInt16
  public var destinationPort: UInt16
  public var state: ConnectionState
  /// Seconds since the first packet.
  public var age: UInt32
  /// Seconds since the last packet.
  public var idle: UInt32
  public var forward: Direction
  public var reply: Direction
  /// What answers look like where they come in: their source is the endpoint of a service, their destination the
  /// node's address where the connection is masqueraded. Without translation the flow's ends, exchanged.
  public var answer: Ends
  /// The endpoint's place in the tables, and its generation then; 0: the flow has none.
  var backend: BackendIndex
  var backendGeneration: UInt32

  /// Whether packets leave with other addresses or ports than they come with.
  public var isTranslated: Bool {
    answer != Ends(source: destination, destination: source, sourcePort: destinationPort, destinationPort: sourcePort)
  }

  public struct Ends: Sendable, Equatable {
    public var source: IPAddress
    public var destination: IPAddress
    public var sourcePort: UInt16
    public var destinationPort: UInt16
  }

  public struct Direction: Sendable, Equatable {
    public var packets: UInt64 = 0
    public var octets: UInt64 = 0
    /// 0 while nothing was decided.
    public var hop: HopIndex = 0
  }
}

/// The drops for one reason at one port.
public struct DropCount: Sendable, Equatable {
  public var port: PortIndex
  public var reason: DropReason
  public var packets: UInt64
}

extension FlowState {
  /// Hands the flows to `body` until it says that it wants no more. Whether it wanted all.
  @discardableResult
  func describe(_ second: UInt32, _ body: (FlowDescription) -> Bool) -> Bool {
    for position in 0..<table.capacity {
      let slot = table.slots[position]
      if slot.key.isFree || slot.isReply { continue }
      let connection = connections.places[Int(slot.connection)]
      let other = table.find(connection.reply, connection.reply.hash)
      var reply = FlowDescription.Direction()
      var seen = slot.lastSeen
      if other >= 0, other != position {
        let answer = table.slots[other]
        reply = .init(packets: answer.packets, octets: answer.octets, hop: answer.hop)
        seen = max(seen, answer.lastSeen)
      }
      let state = ConnectionState(rawValue: connection.state) ?? .new
      let wantsMore = body(
        FlowDescription(
          transport: IPProtocol(rawValue: slot.key.tail.transport), source: slot.key.sourceAddress,
          destination: slot.key.destinationAddress, sourcePort: slot.key.tail.sourcePort,
          destinationPort: slot.key.tail.destinationPort, state: state, age: second &- connection.created,
          idle: second &- seen,
          forward: .init(packets: slot.packets, octets: slot.octets, hop: slot.hop), reply: reply,
          answer: FlowDescription.Ends(
            source: connection.reply.sourceAddress, destination: connection.reply.destinationAddress,
            sourcePort: connection.reply.tail.sourcePort, destinationPort: connection.reply.tail.destinationPort),
          backend: connection.backend, backendGeneration: connection.backendGeneration))
      if !wantsMore { return false }
    }
    return true
  }
}

extension Tables {
  /// The service that a flow was translated by, as `namespace/name:port`: that of its endpoint, or, where the endpoint
  /// is no longer offered, the one that has the address and port now. nil: none.
  public func serviceName(of flow: FlowDescription) -> String? {
    guard flow.backend != 0 else { return nil }
    let backend = services.backends[Int(flow.backend)]
    if backend.generation == flow.backendGeneration { return services.name(of: backend.service) }
    return frontend(
      flow.destination, isIPv6: flow.destination.family == .ipv6, transport: flow.transport.rawValue,
      port: flow.destinationPort
    ).map { services.name(of: services.frontendRecords[Int($0)].service) }
  }
}

extension Pipeline {
  /// The flows, at most `limit`, in no order.
  public func flows(limit: Int = .max) -> [FlowDescription] {
    var list: [FlowDescription] = []
    if limit <= 0 { return list }
    let isWhole = v4.flows.describe(core.second) {
      list.append($0)
      return list.count < limit
    }
    if isWhole {
      v6.flows.describe(core.second) {
        list.append($0)
        return list.count < limit
      }
    }
    return list
  }

  /// Hands each flow to `body`, in no order.
  public func forEachFlow(_ body: (FlowDescription) -> Void) {
    for isIPv6 in [false, true] {
      let take: (FlowDescription) -> Bool = {
        body($0)
        return true
      }
      if isIPv6 { v6.flows.describe(core.second, take) } else { v4.flows.describe(core.second, take) }
    }
  }

  /// Forgets all flows, so that the next packet of each is classified as if it were the first.
  public mutating func forgetFlows() {
    v4.flows.removeAll()
    v6.flows.removeAll()
  }

  /// Forgets which endpoints clients have, and begins the sequence of choices that belongs to a seed anew.
  public mutating func forgetChoices(seed: UInt64) {
    core.affinity.removeAll()
    core.random = RandomSource(seed: seed)
  }

  /// The number of flows.
  public var flowCount: Int { v4.flows.connections.count + v6.flows.connections.count }

  /// What happened to flows of both families so far.
  public var flowStatistics: FlowStatistics { v4.flows.statistics + v6.flows.statistics }

  /// Clients whose endpoints were forgotten before their time because the table was full (KP-50).
  public var affinityEvictions: UInt64 { core.affinity.evicted }

  /// The memory of the flow tables in octets.
  public var flowMemory: Int {
    v4.flows.table.octets + v4.flows.connections.octets + v6.flows.table.octets + v6.flows.connections.octets
  }

  /// The drops so far, by port and reason; what never happened is left out.
  public func dropCounts(ports: Int) -> [DropCount] {
    (0..<ports).flatMap { number in
      DropReason.allCases.compactMap { reason in
        let port = PortIndex(UInt16(number))
        let count = core.drops.count(reason, at: port)
        return count == 0 ? nil : DropCount(port: port, reason: reason, packets: count)
      }
    }
  }
}

extension FlowStatistics {
  static func + (a: FlowStatistics, b: FlowStatistics) -> FlowStatistics {
    FlowStatistics(
      created: a.created + b.created, expired: a.expired + b.expired, evicted: a.evicted + b.evicted,
      refused: a.refused + b.refused, replaced: a.replaced + b.replaced)
  }
}
