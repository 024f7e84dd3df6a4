import Addresses

/// The packets of one family in the batch that want a flow, and the flows.
struct Family<Key: FlowKey>: ~Copyable {
  let keys = PerPacket<Key>()
  let plain = PlainPackets()
  var list = PacketList()
  private var misses = PacketList()
  /// Flows of this batch that somebody else may carry from now on.
  var candidates: [OffloadCandidate<Key>] = []
  private let steps = PerPacket<UInt32>()
  private var judgements: [Verdict] = Array(repeating: .refused, count: Family.groupLength)
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
    if misses.isEmpty { return }
    classifyMisses(&core, &batch, tables)
    misses.removeAll()
  }

  /// Sends on the listed packets whose flows are known and current; the rest are noted. Sending enters no flow and takes
  /// none out, so that positions hold.
  private mutating func sendKnown(_ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let epoch = tables.epoch
    var number = 0
    while true {
      number = sendPlain(from: number, &core, batch, tables)
      guard number < list.count else { return }
      let (index, position) = plain.view.listed(number)
      number += 1
      if plain.view.mark(index).length != 0 { core.unfold(index, plain.view, Key.self, &batch) }
      if position >= 0, flows.table.slots[position].epoch == epoch,
        core.contexts[index].tcpFlags & 0x12 != 0x02 || !flows.isReopened(position)
      {
        core.record(.flowFound)
        send(index, position, &core, &batch, tables)
      } else {
        misses.append(index)
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
  /// decisions need, then, when all of a group are decided, the places where their flows are entered.
  @inline(never)
  private mutating func classifyMisses(_ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    guard misses.count > 1, !core.isTracing else {
      for number in 0..<misses.count { classify(misses[number], &core, &batch, tables) }
      return
    }
    if tables.services.isLarge { anticipate(tables) }
    var start = 0
    while start < misses.count {
      let end = min(start + Family.groupLength, misses.count)
      for number in start..<end {
        judgements[number - start] = judge(misses[number], &core, &batch, tables)
      }
      for number in start..<end {
        switch judgements[number - start] {
        case .refused: break
        case .known: classify(misses[number], &core, &batch, tables)
        case .decided(let judgement):
          let index = misses[number]
          // An earlier packet of the group may have entered the flow.
          guard flows.table.find(keys[index], plain.view.hash(index)) < 0 else {
            classify(index, &core, &batch, tables)
            continue
          }
          let position = enter(index, judgement, &core, &batch, tables)
          if position >= 0, !sendPlain(index, position, &core, batch, tables) {
            send(index, position, &core, &batch, tables)
          }
        }
      }
      start = end
    }
  }

  /// As many places as wait for memory at once.
  private static var groupLength: Int { 16 }

  /// What is known of a first packet before its flow is entered.
  private enum Verdict {
    /// It was dropped or answered.
    case refused
    /// Its flow is in the table: `classify` sees to it.
    case known
    case decided(Judgement)
  }

  /// Decides a packet whose flow is not in the table, and asks for the place where the reply's entry goes.
  private mutating func judge(
    _ index: Int, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Verdict {
    let key = keys[index]
    if flows.table.find(key, plain.view.hash(index)) >= 0 { return .known }
    guard
      let judgement = core.decide(
        index, key.tail, source: key.sourceAddress, destination: key.destinationAddress, &batch, tables)
    else { return .refused }
    if judgement.masquerade == nil {
      let reply = translated(key, judgement, tables).reversed(zone: judgement.decision.zone)
      flows.table.prefetch(reply.hash)
    }
    flows.anticipateEviction(near: plain.view.hash(index))
    return .decided(judgement)
  }

  /// Asks step by step for what leads from the missed packets' destinations to endpoints of services: each step for all
  /// packets, so that they wait for it once.
  private mutating func anticipate(_ tables: borrowing Tables) {
    for number in 0..<misses.count {
      let key = keys[misses[number]]
      tables.services.prefetchFrontend(
        key.destinationAddress, isIPv6: Key.isIPv6, transport: key.tail.transport, port: key.tail.destinationPort)
    }
    for number in 0..<misses.count {
      let key = keys[misses[number]]
      let frontend = tables.services.frontend(
        key.destinationAddress, isIPv6: Key.isIPv6, transport: key.tail.transport, port: key.tail.destinationPort)
      steps[number] = frontend ?? 0
      if let frontend { tables.services.frontendRecords.prefetch(Int(frontend)) }
    }
    for number in 0..<misses.count where steps[number] != 0 {
      let service = tables.services.frontendRecords[Int(steps[number])].service
      steps[number] = service
      tables.services.services.prefetch(Int(service))
    }
    for number in 0..<misses.count where steps[number] != 0 {
      let list = tables.services.services[Int(steps[number])].list
      steps[number] = list
      tables.services.prefetchList(list)
    }
    // The endpoints of a service lie side by side for the most part; the first two lines are those of four.
    for number in 0..<misses.count where steps[number] != 0 {
      tables.services.backends.prefetchPair(Int(tables.services.lists[Int(steps[number])]))
    }
  }

  /// Decides what becomes of a packet whose flow is not known, or was decided from something that has changed since.
  private mutating func classify(
    _ index: Int, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
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
      guard
        let judgement = core.decide(
          index, key.tail, source: key.sourceAddress, destination: key.destinationAddress, &batch, tables)
      else { return }
      position = enter(index, judgement, &core, &batch, tables)
      if position < 0 { return }
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
    if let problem = core.sourceProblem(key.sourceAddress, core.contexts[index], tables) {
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
      transport: connection.forward.tail.transport, port: connection.reply.tail.sourcePort, tables)
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
  private func translated(_ key: Key, _ judgement: Judgement, _ tables: borrowing Tables) -> Key {
    guard judgement.backend != 0 else { return key }
    let backend = tables.services.backends[Int(judgement.backend)]
    return key.translated(destination: backend.address, port: backend.port, source: nil)
  }

  /// Enters a new flow as it was decided. Returns its position; negative where the packet needs nothing more.
  private mutating func enter(
    _ index: Int, _ judgement: Judgement, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    let key = keys[index]
    let zone = judgement.decision.zone
    var translated = translated(key, judgement, tables)
    if let address = judgement.masquerade {
      guard let free = masquerade(translated, address, zone, &core, tables) else {
        return drop(index, .noFreePort, &core, batch)
      }
      translated = free
    } else if flows.isTaken(translated.reversed(zone: zone), isTranslated: translated != key)
      || core.isFromHost && translated != key && zone == .underlay
    {
      // The same client port leads to the same endpoint already, by another frontend or none. It gets another port, as
      // Linux does it, so that answers find back. So does what the node's own programs send out of it: by the port the
      // answers are known as the data plane's, and not the host's (NODE-3).
      guard let free = masquerade(translated, key.sourceAddress, zone, &core, tables) else {
        return drop(index, .noFreePort, &core, batch)
      }
      translated = free
    }
    if translated != key {
      core.record(
        .translated(
          to: translated.destinationAddress, port: translated.tail.destinationPort, masquerade: judgement.masquerade))
    }
    let reply = translated.reversed(zone: zone)
    guard flows.insert(key, reply: reply, second: core.second, tables.settings.timeouts) else {
      // Without a flow a packet can be forwarded, but not translated.
      if translated != key { return drop(index, .flowTableFull, &core, batch) }
      core.emit(index, judgement.decision.hop, &batch, tables)
      return Family.consumed
    }
    decideReply(reply, to: key.sourceAddress, isTranslated: translated != key, tables)
    let position = flows.table.find(key, core.contexts[index].hash)
    flows.setPods(position, judgement.sourcePod, judgement.destinationPod, tables.policies)
    if judgement.backend != 0 {
      flows.setBackend(
        position, judgement.backend, generation: tables.services.backends[Int(judgement.backend)].generation)
    }
    flows.settle(position, judgement.decision.hop, judgement.decision.route, tables)
    return position
  }

  /// The flow with the node's address and a free port as its source (KP-36). Ports are tried at random: as long as most
  /// are free, the first few tries find one, and nobody can tell which it will be.
  private func masquerade(
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

  /// Gives the reply direction of a new flow its hop, so that the first answer need not be classified. Where there is
  /// none, the answer decides.
  private mutating func decideReply(
    _ reply: Key, to destination: IPAddress, isTranslated: Bool, _ tables: borrowing Tables
  ) {
    let hash = reply.hash
    let position = flows.table.find(reply, hash)
    guard position >= 0, flows.table.slots[position].isReply else { return }
    let route = tables.routes.lookup(destination)
    guard route != 0 else { return }
    switch RouteAction(rawValue: tables.routes.records[Int(route)].action) {
    case .forward: break
    // What is not translated may be the kernel's, which depends on how the answer comes in.
    case .local where isTranslated: break
    default: return
    }
    let hop = tables.routes.hop(of: route, hash: hash)
    guard hop != 0 else { return }
    flows.settle(position, HopTable.index(hop, isIPv6: Key.isIPv6), route, tables)
  }
}
