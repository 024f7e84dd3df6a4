import Addresses

/// The packets of one family in the batch that want a flow, and the flows.
struct Family<Key: FlowKey>: ~Copyable {
  let keys = Memory<Key>(count: Core.batchLimit)
  var list = FrameList(capacity: Core.batchLimit)
  private var misses = FrameList(capacity: Core.batchLimit)
  var flows: FlowState<Key>

  init(limit: Int) { flows = FlowState(limit: limit) }

  /// Looks up the flows of the listed packets and sends on those that have one; the rest are classified, in order.
  mutating func lookUp(_ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    if list.isEmpty { return }
    let epoch = tables.epoch
    let second = core.second
    for number in 0..<list.count {
      let index = list[number]
      let position = flows.table.find(keys[index], core.contexts[index].hash)
      if position >= 0 {
        let hop = flows.hit(position, core.contexts[index], second: second, epoch: epoch)
        if hop != 0 {
          core.record(.flowFound)
          core.emit(index, hop, &batch, tables)
          continue
        }
      }
      misses.append(index)
    }
    list.removeAll()
    if misses.isEmpty { return }
    for number in 0..<misses.count { classify(misses[number], &core, &batch, tables) }
    misses.removeAll()
  }

  /// Decides what becomes of a packet whose flow is not known, or was decided from something that has changed since.
  private mutating func classify(
    _ index: Int, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    let key = keys[index]
    let hash = core.contexts[index].hash
    // An earlier packet of this batch may have entered the flow.
    var position = flows.table.find(key, hash)
    core.record(
      position < 0 ? .flowMissing : flows.table.slots[position].epoch == tables.epoch ? .flowFound : .flowStale)
    if position < 0 || !isCurrent(position, index, core, tables) {
      guard
        let decision = core.decide(
          index, source: key.sourceAddress, destination: key.destinationAddress, &batch, tables)
      else {
        if position >= 0 { flows.removeConnection(of: key) }
        return
      }
      if position < 0 {
        guard flows.insert(key, replyZone: decision.zone, second: core.second, tables.settings.timeouts) else {
          return core.emit(index, decision.hop, &batch, tables)
        }
        decideReply(to: key, zone: decision.zone, tables)
        position = flows.table.find(key, hash)
      }
      flows.settle(position, decision.hop, decision.route, tables)
    }
    flows.count(position, core.contexts[index], second: core.second)
    core.emit(index, flows.table.slots[position].hop, &batch, tables)
  }

  /// Whether what the flow was decided from still holds; if so, its packets need not look again in this epoch.
  private mutating func isCurrent(
    _ position: Int, _ index: Int, _ core: borrowing Core, _ tables: borrowing Tables
  ) -> Bool {
    if flows.table.slots[position].hop != 0, flows.table.slots[position].epoch == tables.epoch { return true }
    guard flows.isRouteCurrent(position, tables.routes),
      core.sourceProblem(keys[index].sourceAddress, core.contexts[index], tables) == nil
    else { return false }
    flows.table.slots[position].epoch = tables.epoch
    return true
  }

  /// Gives the reply direction of a new flow its hop, so that the first answer need not be classified. Where there is
  /// none, the answer decides.
  private mutating func decideReply(to key: Key, zone: Zone, _ tables: borrowing Tables) {
    let reply = key.reversed(zone: zone)
    let hash = reply.hash
    let position = flows.table.find(reply, hash)
    guard position >= 0, reply != key else { return }
    let route = tables.routes.lookup(reply.destinationAddress)
    guard route != 0, tables.routes.records[Int(route)].action == RouteAction.forward.rawValue else { return }
    let hop = tables.routes.hop(of: route, hash: hash)
    guard hop != 0 else { return }
    flows.settle(position, HopTable.index(hop, isIPv6: Key.isIPv6), route, tables)
  }
}
