import Addresses

/// The packets of one family in the batch that want a flow, and the flows.
struct Family<Key: FlowKey>: ~Copyable {
  let keys = PerPacket<Key>()
  let plain = PlainPackets()
  var list = PacketList()
  private var misses = PacketList()
  /// Flows of this batch that somebody else may carry from now on.
  var candidates: [OffloadCandidate<Key>] = []
  /// Listed packets whose flows are not known, or not current.
  private var rest = PacketList()
  /// The frontends of missed packets' destinations, where they were asked for ahead, and what they lead to; 0: none.
  private let frontends = PerPacket<UInt32>()
  private let steps = PerPacket<UInt32>()
  private let prospects = Memory<Prospect<Key>>(count: Family.groupLength)
  var flows: FlowState<Key>

  init(limit: Int) { flows = FlowState(limit: limit) }

  /// Lists a packet that the general parser has read; its context has the hash of the key too.
  @inline(__always)
  mutating func enlist(_ index: Int, _ key: Key, _ hash: UInt64) {
    flows.table.prefetch(hash)
    keys[index] = key
    plain.view.set(index, hash, 0, .general)
    list.append(index)
  }

  /// Looks up the flows of the listed packets and sends on those that have one; the rest are classified, in order.
  ///
  /// Positions are found for all first: where a probe goes on to the next slot, several of them wait for memory at once.
  mutating func lookUp(_ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    if list.isEmpty { return }
    PlainSearch.find(self, core, tables)
    sendKnown(&core, &batch, tables)
    list.removeAll()
    if rest.isEmpty { return }
    swap(&misses, &rest)
    classifyMisses(&core, &batch, tables)
    misses.removeAll()
  }

  /// Sends on the listed packets whose flows are known and current, and notes the rest. Sending enters no flow and takes
  /// none out, so that positions hold.
  @inline(never)
  private mutating func sendKnown(_ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let epoch = tables.epoch
    var number = 0
    while number < list.count {
      if plain.view.listed(number).position >= 0 {
        number = sendPlain(from: number, &core, batch, tables)
        guard number < list.count else { return }
      }
      let (index, position) = plain.view.listed(number)
      number += 1
      if plain.view.mark(index).length != 0 { core.unfold(index, plain.view, Key.self, &batch) }
      if position >= 0, flows.table.slots[position].epoch == epoch,
        core.contexts[index].tcpFlags & 0x12 != 0x02 || !flows.isReopened(position)
      {
        core.record(.flowFound)
        send(index, position, &core, &batch, tables)
      } else {
        rest.append(index)
      }
    }
  }

  /// Counts a packet of a known flow, rewrites it and sends it on.
  @inline(never)
  private mutating func send(
    _ index: Int, _ position: Int, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    let hop = flows.table.slots[position].hop
    guard flows.table.slots[position].rewrites else {
      guard core.admit(index, hop, &batch, tables) else { return }
      flows.count(position, core.contexts[index], second: core.second)
      if core.offload != nil { propose(index, position, &core) }
      return core.dispatch(index, hop, &batch, tables)
    }
    // Errors are to quote the packet as its sender knows it; fragments are cut from what it becomes.
    guard core.isReachable(index, hop, &batch, tables) else { return }
    let isCut = core.mustCut(index, hop, batch, tables)
    guard isCut || core.admit(index, hop, &batch, tables) else { return }
    flows.count(position, core.contexts[index], second: core.second)
    if core.offload != nil { propose(index, position, &core) }
    let frame = batch[index]
    flows.table.slots[position].rewrite.apply(
      to: frame.octets, core.contexts[index], isPartial: frame.flags.contains(.checksumPartial))
    if isCut { return core.emit(index, hop, &batch, tables) }
    core.dispatch(index, hop, &batch, tables)
  }

  /// Classifies what was missed, in order. What several packets read from memory is asked for together: first what the
  /// decisions need, then, when all of a group are decided, the places where their flows are entered. Then they are sent
  /// as those of known flows are.
  @inline(never)
  private mutating func classifyMisses(_ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    var sender = Sender()
    let views = ClassifierViews(tables)
    guard misses.count > 1, !core.isTracing, flows.hasRoom(for: misses.count) else {
      for number in 0..<misses.count { classify(misses[number], &sender, views, &core, &batch, tables) }
      return
    }
    let anticipates = tables.services.isLarge
    if anticipates { anticipate(views.services) }
    var start = 0
    while start < misses.count {
      let end = min(start + Family.groupLength, misses.count)
      for number in start..<end {
        let frontend = anticipates && frontends[number] != 0 ? frontends[number] : nil
        select(misses[number], number - start, frontend, &sender, views, &core, &batch, tables)
      }
      for number in start..<end { conclude(misses[number], number - start, views, &core, &batch, tables) }
      for number in start..<end { settle(misses[number], number - start, &core, &batch, tables) }
      PlainSearch.find(self, core, tables)
      sendKnown(&core, &batch, tables)
      list.removeAll()
      for number in 0..<rest.count { classify(rest[number], &sender, views, &core, &batch, tables) }
      rest.removeAll()
      start = end
    }
  }

  /// As many places as wait for memory at once.
  private static var groupLength: Int { 32 }

  /// Finds out whether a packet whose flow is not in the table may pass, and to which endpoint.
  @inline(__always)
  private mutating func select(
    _ index: Int, _ place: Int, _ frontend: UInt32?, _ sender: inout Sender, _ views: ClassifierViews,
    _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    let key = keys[index]
    guard flows.table.find(key, plain.view.hash(index)) < 0 else {
      prospects[place].outcome = .known
      return
    }
    let passes = core.select(
      index, key, &sender, &prospects[place].judgement, views, frontend: frontend, &batch, tables)
    prospects[place].outcome = passes ? .decided : .refused
  }

  /// Decides the way of a packet that may pass, and asks for the place where the reply's entry goes.
  @inline(__always)
  private mutating func conclude(
    _ index: Int, _ place: Int, _ views: ClassifierViews, _ core: inout Core, _ batch: inout FrameBatch,
    _ tables: borrowing Tables
  ) {
    guard prospects[place].outcome == .decided else { return }
    let key = keys[index]
    guard core.conclude(index, key, &prospects[place].judgement, views, &batch, tables) else {
      prospects[place].outcome = .refused
      return
    }
    let judgement = prospects[place].judgement
    let reply = Family.translated(key, judgement, views).reversed(zone: judgement.decision.zone)
    let replyHash = reply.hash
    prospects[place].reply = reply
    prospects[place].replyHash = replyHash
    if !judgement.masquerades { flows.table.prefetch(replyHash) }
    flows.anticipateEviction(near: plain.view.hash(index))
  }

  /// Enters the flow of a packet that was decided, and lists what there is to send.
  @inline(__always)
  private mutating func settle(
    _ index: Int, _ place: Int, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    switch prospects[place].outcome {
    case .refused: return
    case .known: break
    case .decided:
      // An earlier packet of the group may have entered the flow.
      guard flows.table.find(keys[index], plain.view.hash(index)) < 0 else { break }
      guard enter(index, prospects[place], &core, &batch, tables) else { return }
    }
    list.append(index)
  }

  /// Asks step by step for what leads from the missed packets' destinations to endpoints of services: each step for all
  /// packets, so that they wait for it once.
  private func anticipate(_ services: ServiceTableView) {
    for number in 0..<misses.count {
      let key = keys[misses[number]]
      services.prefetchFrontend(
        key.destinationAddress, isIPv6: Key.isIPv6, transport: key.tail.transport, port: key.tail.destinationPort)
    }
    for number in 0..<misses.count {
      let key = keys[misses[number]]
      let frontend = services.frontend(
        key.destinationAddress, isIPv6: Key.isIPv6, transport: key.tail.transport, port: key.tail.destinationPort)
      frontends[number] = frontend ?? 0
      if let frontend { services.frontends.prefetch(Int(frontend)) }
    }
    for number in 0..<misses.count where frontends[number] != 0 {
      let service = services.frontends[Int(frontends[number])].service
      steps[number] = service
      services.services.prefetch(Int(service))
    }
    for number in 0..<misses.count where frontends[number] != 0 {
      let list = services.services[Int(steps[number])].list
      steps[number] = list
      services.lists.prefetch(Int(list))
    }
    // The endpoints of a service lie side by side for the most part; the first two lines are those of four.
    for number in 0..<misses.count where frontends[number] != 0 {
      services.backends.prefetchPair(Int(services.lists[Int(steps[number])]))
    }
  }

  /// Decides what becomes of a packet whose flow is not known, or was decided from something that has changed since.
  @inline(never)
  private mutating func classify(
    _ index: Int, _ sender: inout Sender, _ views: ClassifierViews, _ core: inout Core, _ batch: inout FrameBatch,
    _ tables: borrowing Tables
  ) {
    let key = keys[index]
    // An earlier packet of this batch may have entered the flow.
    var position = flows.table.find(key, core.contexts[index].hash)
    if position >= 0, core.contexts[index].tcpFlags & 0x12 == 0x02, flows.isReopened(position) {
      flows.removeConnection(of: key)
      position = -1
    }
    if position >= 0 {
      position = review(position, index, &core, &batch, tables)
      if position == Family.consumed { return }
    } else {
      core.record(.flowMissing)
    }
    if position < 0 {
      var prospect = Prospect<Key>()
      guard core.decide(index, key, &sender, &prospect.judgement, views, &batch, tables) else { return }
      prospect.reply = Family.translated(key, prospect.judgement, views)
        .reversed(zone: prospect.judgement.decision.zone)
      prospect.replyHash = prospect.reply.hash
      guard enter(index, prospect, &core, &batch, tables) else { return }
      position = flows.table.find(key, core.contexts[index].hash)
    }
    send(index, position, &core, &batch, tables)
  }

  /// The packet was dropped or answered.
  private static var consumed: Int { -2 }

  /// Looks whether what a flow was decided from still holds, and decides its way anew if not. Returns its position; -1
  /// where the flow is to be decided as a new one; `consumed` where the packet goes nowhere.
  private mutating func review(
    _ position: Int, _ index: Int, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    let slot = flows.table.slots[position]
    if slot.hop != 0, slot.epoch == tables.epoch {
      core.record(.flowFound)
      return position
    }
    core.record(.flowStale)
    guard flows.isServiceCurrent(position, tables) else {
      // KP-51: UDP does not notice by itself.
      flows.removeConnection(of: slot.key)
      return slot.isReply ? drop(index, .noEndpoint, &core, batch) : -1
    }
    if !flows.isPolicyCurrent(position, tables.policies), let problem = reviewPolicy(position, &core, tables) {
      flows.removeConnection(of: slot.key)
      return drop(index, problem, &core, batch)
    }
    let key = slot.key
    if let problem = core.sourceProblem(key.sourceAddress, tables) {
      flows.removeConnection(of: key)
      return drop(index, problem, &core, batch)
    }
    if slot.hop != 0, flows.isRouteCurrent(position, tables.routes) {
      flows.table.slots[position].epoch = tables.epoch
      return position
    }
    guard
      let decision = core.route(
        index, source: key.sourceAddress, destination: slot.routedAddress, isTranslated: slot.rewrites, &batch, tables)
    else {
      flows.removeConnection(of: key)
      return Family.consumed
    }
    var place = position
    if !slot.isReply { place = flows.rezone(position, decision.zone) }
    flows.settle(place, decision.hop, decision.route, tables)
    return place
  }

  /// Asks the policies again about an established connection; nil: they still let it be.
  private func reviewPolicy(
    _ position: Int, _ core: inout Core, _ tables: borrowing Tables
  ) -> DropReason? {
    let connection = flows.connections.places[Int(flows.table.slots[position].connection)]
    let source = connection.forward.sourceAddress
    let destination = connection.reply.sourceAddress
    let sourcePod = tables.policies.pod(source)
    let destinationPod = tables.policies.pod(destination)
    if let problem = core.policyProblem(
      source: source, sourcePod: sourcePod, destination: destination, destinationPod: destinationPod,
      transport: connection.forward.tail.transport, port: connection.reply.tail.sourcePort,
      tables.policies.records.view, tables)
    {
      return problem
    }
    flows.setPods(position, sourcePod, destinationPod, tables.policies)
    return nil
  }

  private func drop(_ index: Int, _ reason: DropReason, _ core: inout Core, _ batch: borrowing FrameBatch) -> Int {
    core.drop(index, reason, batch)
    return Family.consumed
  }

  /// The packets of a flow as they reach the endpoint that was chosen, if there is one.
  @inline(__always)
  private static func translated(_ key: Key, _ judgement: Judgement, _ views: ClassifierViews) -> Key {
    guard judgement.backend != 0 else { return key }
    let backend = views.services.backends[Int(judgement.backend)]
    return key.translated(destination: Key.address(backend.high, backend.low), port: backend.port, source: nil)
  }

  /// Enters a new flow as it was decided; false where the packet needs nothing more.
  @inline(never)
  private mutating func enter(
    _ index: Int, _ prospect: Prospect<Key>, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    let key = keys[index]
    let judgement = prospect.judgement
    let zone = judgement.decision.zone
    var (reply, replyHash) = (prospect.reply, prospect.replyHash)
    var translated = reply.reversed(zone: Zone(rawValue: key.tail.zone))
    var known = judgement.masquerades ? -1 : flows.table.find(reply, replyHash)
    var needsPort = judgement.masquerades
    if known >= 0 { needsPort = flows.isTaken(known, isTranslated: translated != key) }
    if core.isFromHost, zone == .underlay, translated != key { needsPort = true }
    if needsPort {
      // The node's address, where that was decided. Else the same client port leads to the same endpoint already, by
      // another frontend or none: it gets another port, as Linux does it, so that answers find back. So does what the
      // node's own programs send out of it: by the port the answers are known as the data plane's, and not the host's
      // (NODE-3).
      let own = judgement.masquerades ? tables.settings.nodeAddress(isIPv6: Key.isIPv6) : key.sourceAddress
      guard let own, let free = masquerade(translated, own, zone, &core, tables) else {
        core.drop(index, .noFreePort, batch)
        return false
      }
      translated = free
      reply = free.reversed(zone: zone)
      replyHash = reply.hash
      known = -1
    }
    let isTranslated = translated != key
    if core.isTracing, isTranslated {
      core.trace.append(
        .translated(
          to: translated.destinationAddress, port: translated.tail.destinationPort,
          masquerade: judgement.masquerades ? translated.sourceAddress : nil))
    }
    if known >= 0 { flows.replace(reply) }
    var flow = NewFlow(key, plain.view.hash(index), reply: reply, replyHash, second: core.second)
    flow.hop = judgement.decision.hop
    flow.connection.forwardRoute = judgement.decision.route
    flow.connection.forwardGeneration = tables.routes.records[Int(judgement.decision.route)].generation
    flow.replyHop = replyHop(judgement.replyRoute, replyHash, isTranslated: isTranslated, tables)
    if flow.replyHop != 0 {
      flow.connection.replyRoute = judgement.replyRoute
      flow.connection.replyGeneration = tables.routes.records[Int(judgement.replyRoute)].generation
    }
    flow.connection.setPods(judgement.sourcePod, judgement.destinationPod, tables.policies)
    if judgement.backend != 0 { flow.connection.setBackend(judgement.backend, tables.services) }
    if flows.insert(flow, second: core.second, epoch: tables.epoch, tables.settings.timeouts) { return true }
    // Without a flow a packet can be forwarded, but not translated.
    if isTranslated {
      core.drop(index, .flowTableFull, batch)
    } else {
      core.emit(index, judgement.decision.hop, &batch, tables)
    }
    return false
  }

  /// The flow with the node's address and a free port as its source (KP-36). Ports are tried at random: as long as most
  /// are free, the first few tries find one, and nobody can tell which it will be.
  @inline(never)
  private mutating func masquerade(
    _ key: Key, _ address: IPAddress, _ zone: Zone, _ core: inout Core, _ tables: borrowing Tables
  ) -> Key? {
    let ports = tables.settings.masqueradePorts
    guard key.tail.hasPorts else {
      let candidate = key.translated(destination: key.destinationAddress, port: 0, source: (address, 0))
      let reply = candidate.reversed(zone: zone)
      return flows.table.find(reply, reply.hash) < 0 ? candidate : nil
    }
    for _ in 0..<64 {
      let port = ports.lowerBound + UInt16(core.random.below(ports.count))
      let candidate = key.translated(
        destination: key.destinationAddress, port: key.tail.destinationPort, source: (address, port))
      let reply = candidate.reversed(zone: zone)
      if flows.table.find(reply, reply.hash) < 0 { return candidate }
    }
    return nil
  }

  /// Where the answers to a new flow go, so that the first need not be classified; 0 where that is for it to decide.
  @inline(__always)
  private func replyHop(
    _ route: RouteIndex, _ hash: UInt64, isTranslated: Bool, _ tables: borrowing Tables
  ) -> HopIndex {
    let action = tables.routes.records[Int(route)].action
    // What is not translated may be the kernel's, which depends on how the answer comes in.
    guard route != 0, action == RouteAction.forward.rawValue || action == RouteAction.local.rawValue && isTranslated
    else {
      return 0
    }
    let hop = tables.routes.hop(of: route, hash: hash)
    return hop == 0 ? 0 : HopTable.index(hop, isIPv6: Key.isIPv6)
  }
}

/// What is known of a first packet before its flow is entered.
struct Prospect<Key: FlowKey>: BitwiseCopyable {
  enum Outcome: UInt8, BitwiseCopyable {
    /// It was dropped or answered.
    case refused
    /// Its flow is in the table.
    case known
    case decided
  }

  var judgement = Judgement()
  /// The packets that answer, unless the flow is masqueraded.
  var reply = Key.free
  var replyHash: UInt64 = 0
  var outcome = Outcome.refused
}
