/// The flows of one family: the table of directions and the connections behind them.
struct FlowState<Key: FlowKey>: ~Copyable {
  var table: FlowTable<Key>
  var connections: ConnectionTable<Key>
  private(set) var statistics = FlowStatistics()
  /// Directions that somebody else carried, and that have gone.
  var ended: [Key] = []
  /// The connection whose counts are brought up to date next.
  var syncPlace = 0

  /// Room for `limit` connections.
  init(limit: Int) {
    table = FlowTable(limit: limit * 2)
    connections = ConnectionTable(limit: limit)
  }

  /// Counts a packet.
  @inline(__always)
  mutating func count(_ position: Int, _ context: PacketContext, second: UInt32) {
    let packets = table.slots[position].packets
    table.slots[position].count(octets: Int(context.length), second: second)
    if packets == 0 { begin(position) }
    // FIN, SYN or RST.
    if context.tcpFlags & 0x07 != 0 { follow(position, context, second: second) }
  }

  /// The first packet of a direction: with one of each the connection is established.
  @inline(never)
  private mutating func begin(_ position: Int) {
    let slot = table.slots[position]
    let index = Int(slot.connection)
    if slot.isReply, connections.places[index].state == ConnectionState.new.rawValue {
      connections.places[index].state = ConnectionState.established.rawValue
    }
  }

  /// Follows TCP where it opens and closes.
  @inline(never)
  private mutating func follow(_ position: Int, _ context: PacketContext, second: UInt32) {
    let flags = context.tcpFlags
    if flags & 0x05 != 0 { return close(position, flags, second: second) }
    let index = Int(table.slots[position].connection)
    // A SYN alone on the ports of a connection that has ended opens another.
    guard flags & 0x10 == 0, connections.places[index].state >= ConnectionState.closing.rawValue else { return }
    let connection = connections.places[index]
    for key in [connection.forward, connection.reply] {
      let other = table.find(key, key.hash)
      guard other >= 0 else { continue }
      table.slots[other].resetCounts()
      if other == position { table.slots[other].count(octets: Int(context.length), second: second) }
    }
    connections.places[index].state = ConnectionState.new.rawValue
    connections.places[index].finSeen = 0
    connections.places[index].created = second
  }

  /// A connection that ends keeps its entries only for stragglers.
  private mutating func close(_ position: Int, _ flags: UInt8, second: UInt32) {
    let slot = table.slots[position]
    let index = Int(slot.connection)
    let before = connections.places[index].state
    if flags & 0x04 != 0 {
      connections.places[index].state = ConnectionState.closed.rawValue
    } else {
      connections.places[index].finSeen |= slot.isReply ? 2 : 1
      connections.places[index].state =
        max(
          before,
          (connections.places[index].finSeen == 3 ? ConnectionState.closed : .closing).rawValue)
    }
    if connections.places[index].state != before { connections.schedule(slot.connection, at: second + 10) }
  }

  /// Whether the route that the direction at `position` was decided by is still the same.
  func isRouteCurrent(_ position: Int, _ routes: borrowing RouteTable) -> Bool {
    let slot = table.slots[position]
    let connection = connections.places[Int(slot.connection)]
    return slot.isReply
      ? slot.hop != 0 && routes.records[Int(connection.replyRoute)].generation == connection.replyGeneration
      : routes.records[Int(connection.forwardRoute)].generation == connection.forwardGeneration
  }

  /// Notes which pods' policies let the connection be.
  func setPods(_ position: Int, _ source: UInt32, _ destination: UInt32, _ policies: borrowing PolicyTable) {
    connections.places[Int(table.slots[position].connection)].setPods(source, destination, policies)
  }

  /// Whether the policies that let the connection be are still the same.
  func isPolicyCurrent(_ position: Int, _ policies: borrowing PolicyTable) -> Bool {
    let connection = connections.places[Int(table.slots[position].connection)]
    guard policies.generation(of: connection.sourcePod) == connection.sourceGeneration,
      policies.generation(of: connection.destinationPod) == connection.destinationGeneration
    else { return false }
    // An address that was nobody's may be a pod's by now.
    return (connection.sourcePod != 0 || policies.pod(connection.forward.sourceAddress) == 0)
      && (connection.destinationPod != 0 || policies.pod(connection.reply.sourceAddress) == 0)
  }

  /// Whether the connection would still go where it was sent. TCP and SCTP connections stay with an endpoint that is no
  /// longer offered. UDP must not: neither with an endpoint that went, nor with none when there is a service by now, nor
  /// with that of another service (KP-51).
  func isServiceCurrent(_ position: Int, _ tables: borrowing Tables) -> Bool {
    let connection = connections.places[Int(table.slots[position].connection)]
    let key = connection.forward
    guard key.tail.transport == IPProtocol.udp.rawValue else { return true }
    let frontend = tables.frontend(
      key.destinationAddress, isIPv6: Key.isIPv6, transport: key.tail.transport, port: key.tail.destinationPort)
    guard let frontend, connection.backend != 0 else { return frontend == nil && connection.backend == 0 }
    let backend = tables.services.backends[Int(connection.backend)]
    return backend.generation == connection.backendGeneration
      && backend.service == tables.services.frontendRecords[Int(frontend)].service
  }

  /// Whether a SYN that belongs to the direction at `position` opens another connection than the one that has ended: it
  /// may go to another endpoint (KP-15).
  func isReopened(_ position: Int) -> Bool {
    let slot = table.slots[position]
    return slot.rewrites && !slot.isReply
      && connections.places[Int(slot.connection)].state >= ConnectionState.closing.rawValue
  }

  /// Whether the answers to a flow that is to be entered, whose key is at `position`, could not be told from those to
  /// another connection. One that has ended gives way.
  @inline(__always)
  mutating func isTaken(_ position: Int, isTranslated: Bool) -> Bool {
    guard isTranslated || table.slots[position].rewrites else { return false }
    return connections.places[Int(table.slots[position].connection)].state != ConnectionState.closed.rawValue
  }

  /// Writes what the direction at `position` was decided to.
  mutating func settle(_ position: Int, _ hop: HopIndex, _ route: RouteIndex, _ tables: borrowing Tables) {
    let generation = tables.routes.records[Int(route)].generation
    table.slots[position].hop = hop
    table.slots[position].epoch = tables.epoch
    let index = Int(table.slots[position].connection)
    if table.slots[position].isReply {
      connections.places[index].replyRoute = route
      connections.places[index].replyGeneration = generation
    } else {
      connections.places[index].forwardRoute = route
      connections.places[index].forwardGeneration = generation
    }
  }

  /// A flow of the same packets as a new one's answers that was decided otherwise goes, for the newer truth.
  @inline(never)
  mutating func replace(_ reply: Key) {
    statistics.replaced &+= 1
    removeConnection(of: reply)
  }

  /// Makes room and enters both directions of a new flow. Neither key may be in the table. Returns false when the flow is
  /// not entered.
  @inline(__always)
  mutating func insert(
    _ flow: NewFlow<Key>, second: UInt32, epoch: UInt32, _ timeouts: Settings.Timeouts
  ) -> Bool {
    if table.isFull || connections.count >= connections.limit { evict(near: flow.hash) }
    guard !table.isFull, let index = connections.allocate() else {
      statistics.refused &+= 1
      return false
    }
    let (key, reply) = (flow.connection.forward, flow.connection.reply)
    connections.places[Int(index)] = flow.connection
    var slot = FlowSlot(key: key, connection: index, isReply: false, hop: flow.hop, epoch: epoch, second: second)
    let translated = reply.reversed(zone: Zone(rawValue: key.tail.zone))
    if translated != key {
      slot.rewrites = true
      slot.rewrite = Key.Rewrite(key, to: translated)
    }
    table.insert(slot, flow.hash)
    if reply != key {
      var answer = FlowSlot(
        key: reply, connection: index, isReply: true, hop: flow.replyHop, epoch: epoch, second: second)
      if translated != key {
        answer.rewrites = true
        answer.rewrite = Key.Rewrite(undoing: slot.rewrite, to: key.reversed(zone: Zone(rawValue: reply.tail.zone)))
      }
      table.insert(answer, flow.replyHash)
    }
    connections.start(second)
    connections.schedule(index, at: second + timeouts.initial(key.tail.transport))
    statistics.created &+= 1
    return true
  }

  /// The answers to a flow come in elsewhere from now on. Returns the position of the flow, which may have changed.
  mutating func rezone(_ position: Int, _ zone: Zone) -> Int {
    let index = Int(table.slots[position].connection)
    let key = table.slots[position].key
    var reply = connections.places[index].reply
    guard reply.tail.zone != zone.rawValue, reply != key, var answer = table.remove(reply) else {
      return table.find(key, key.hash)
    }
    reply.tail.zone = zone.rawValue
    if table.find(reply, reply.hash) >= 0 { removeConnection(of: reply) }
    if connections.places[index].isOffloaded { ended.append(answer.key) }
    answer.key = reply
    answer.hop = 0
    connections.places[index].reply = reply
    table.insert(answer, reply.hash)
    return table.find(key, key.hash)
  }

  /// Takes both directions of the flow that `key` belongs to out of the table.
  mutating func removeConnection(of key: Key) {
    let position = table.find(key, key.hash)
    guard position >= 0 else { return }
    remove(table.slots[position].connection)
  }

  /// Takes all flows out of the table.
  mutating func removeAll() {
    var position = 0
    while position < table.capacity {
      let slot = table.slots[position]
      if slot.key.isFree {
        position += 1
      } else {
        // Another one may move up into the place.
        remove(slot.connection)
      }
    }
  }

  private mutating func remove(_ index: ConnectionIndex) {
    let connection = connections.places[Int(index)]
    table.prefetch(connection.forward.hash)
    table.prefetch(connection.reply.hash)
    table.remove(connection.forward)
    table.remove(connection.reply)
    if connection.isOffloaded {
      ended.append(connection.forward)
      ended.append(connection.reply)
    }
    connections.release(index)
  }

  /// Whether some new flows can be entered one after the other without driving out one another.
  func hasRoom(for number: Int) -> Bool {
    connections.count + number <= connections.limit && table.count + 2 * number <= table.limit
  }

  /// Asks for what `evict` will read first, where it will be called.
  @inline(__always)
  func anticipateEviction(near hash: UInt64) {
    guard table.isFull || connections.count >= connections.limit else { return }
    let start = Int(truncatingIfNeeded: hash)
    for step in 0..<8 {
      let position = (start &+ step) & (table.capacity - 1)
      connections.places.prefetchPair(Int(table.slots[position].connection))
    }
  }

  /// Gives up the least useful of the flows near a key's place: one that has ended before one that was never answered,
  /// this before all others; of several the one that has been silent longest. A few that nobody answered are enough to
  /// choose from; where there are none, it is looked further, so that first packets drive out an established connection
  /// only where a whole stretch of the table holds nothing else.
  @inline(never)
  private mutating func evict(near hash: UInt64) {
    var best = -1
    var bestRank: UInt64 = .max
    var candidates = 0
    let start = Int(truncatingIfNeeded: hash)
    for step in 0..<min(table.capacity, 256) {
      let position = (start &+ step) & (table.capacity - 1)
      let slot = table.slots[position]
      if slot.key.isFree { continue }
      let state = connections.places[Int(slot.connection)].state
      let use: UInt64 =
        switch ConnectionState(rawValue: state) {
        case .closed, nil: 0
        case .new: 1
        case .closing, .established: 2
        }
      let rank = use << 32 | UInt64(slot.lastSeen)
      if rank < bestRank {
        best = position
        bestRank = rank
      }
      if use < 2 { candidates += 1 }
      if candidates >= 6 { break }
    }
    guard best >= 0 else { return }
    statistics.evicted &+= 1
    remove(table.slots[best].connection)
  }

  /// Ends the flows that have been silent too long. Looks at a bounded number of connections a call.
  /// `refresh` is told of each that somebody else carries before it is judged.
  mutating func expire(
    _ second: UInt32, _ timeouts: Settings.Timeouts, refresh: (inout FlowState, ConnectionIndex) -> Void = { _, _ in }
  ) {
    for _ in 0..<256 {
      guard let index = connections.popDue(second) else { return }
      if connections.places[Int(index)].isOffloaded { refresh(&self, index) }
      let connection = connections.places[Int(index)]
      let forward = table.find(connection.forward, connection.forward.hash)
      let reply = table.find(connection.reply, connection.reply.hash)
      let seen = max(
        forward >= 0 ? table.slots[forward].lastSeen : 0, reply >= 0 ? table.slots[reply].lastSeen : 0)
      let due =
        seen
        &+ timeouts.idle(
          connection.forward.tail.transport, ConnectionState(rawValue: connection.state) ?? .new)
      if due > second {
        connections.schedule(index, at: due)
      } else {
        statistics.expired &+= 1
        remove(index)
      }
    }
  }
}

/// A flow that is to be entered: what it was decided from, and the hashes of its keys.
struct NewFlow<Key: FlowKey>: BitwiseCopyable {
  var connection: Connection<Key>
  var hash: UInt64
  var replyHash: UInt64
  /// Where the packets of each direction go; 0: the first of them decides.
  var hop: HopIndex = 0
  var replyHop: HopIndex = 0

  /// `reply` is the key of the packets that answer, after whatever was translated.
  @inline(__always)
  init(_ key: Key, _ hash: UInt64, reply: Key, _ replyHash: UInt64, second: UInt32) {
    connection = Connection(forward: key, reply: reply, created: second)
    self.hash = hash
    self.replyHash = replyHash
  }
}

extension Connection {
  /// Notes which endpoint it was given.
  @inline(__always)
  mutating func setBackend(_ place: BackendIndex, _ services: borrowing ServiceTable) {
    backend = place
    backendGeneration = services.backends[Int(place)].generation
  }

  /// Notes which pods' policies let it be.
  @inline(__always)
  mutating func setPods(_ source: UInt32, _ destination: UInt32, _ policies: borrowing PolicyTable) {
    sourcePod = source
    sourceGeneration = policies.generation(of: source)
    destinationPod = destination
    destinationGeneration = policies.generation(of: destination)
  }
}

/// What happened to flows so far.
public struct FlowStatistics: Sendable, Equatable {
  public var created: UInt64 = 0
  public var expired: UInt64 = 0
  /// Given up early because the table was full.
  public var evicted: UInt64 = 0
  /// Not entered because the table was full.
  public var refused: UInt64 = 0
  /// Replaced by a flow of the same packets in the other direction.
  public var replaced: UInt64 = 0
}

extension Settings.Timeouts {
  @inline(__always)
  func initial(_ transport: UInt8) -> UInt32 { idle(transport, .new) }

  /// Seconds that a connection of this transport may be silent.
  func idle(_ transport: UInt8, _ state: ConnectionState) -> UInt32 {
    switch transport {
    case IPProtocol.tcp.rawValue:
      switch state {
      case .established: tcpEstablished
      case .new, .closing: tcpTransient
      case .closed: 10
      }
    case IPProtocol.udp.rawValue: udp
    case IPProtocol.sctp.rawValue: sctp
    case IPProtocol.icmp.rawValue, IPProtocol.icmpv6.rawValue: icmp
    default: other
    }
  }
}
