import Addresses

/// The packet path of one worker: takes a batch of received frames through all stages and hands what is to be sent to
/// the ports. Owns the worker's flows and counters; reads the tables.
///
/// A batch is parsed frame by frame (`Pipeline+Parse`, `Pipeline+Decapsulate`), which leaves the packets that want a
/// flow in the list of their family; their slots are prefetched meanwhile. Then each is looked up (`Family`) and sent on
/// (`Core+Emit`); those without a flow are classified last (`Core+Classify`). What is answered or reported on the way
/// (`Core+ARP`, `Core+NDP`, `Core+Errors`) goes out with the rest (`Output`).
public struct Pipeline: ~Copyable {
  var core: Core
  var v4: Family<FlowKey4>
  var v6: Family<FlowKey6>
  private var injected = FrameBatch()

  /// A pipeline for at most `flowLimit` flows of each family, and for the endpoints of `affinityLimit` clients. From the
  /// same `seed` come the same choices of endpoints and ports.
  public init(flowLimit: Int = 1 << 20, affinityLimit: Int = 1 << 16, seed: UInt64 = 0) {
    precondition(PlainLayout.isAsExpected)
    core = Core(affinityLimit: affinityLimit, seed: seed)
    v4 = Family(limit: flowLimit)
    v6 = Family(limit: flowLimit)
  }

  /// Takes the frames of `batch`, which came in by `port`, through the pipeline. `now` is the time in nanoseconds.
  public mutating func process(
    _ batch: inout FrameBatch, from port: PortIndex, at now: UInt64, _ tables: borrowing Tables,
    _ ports: borrowing PortSet
  ) {
    precondition(batch.count <= Core.batchLimit)
    core.begin(at: now, tables)
    // What waits goes before what has come since.
    if !core.waiting.isEmpty { drainWaiting(tables, ports) }
    core.enter(port, tables)
    if core.isLimited { core.limit(&batch, tables) }
    // In parts that stay in the first-level cache from stage to stage, and are long enough to wait for memory once.
    var start = 0
    while start < batch.count {
      let end = min(start + PacketColumns.partLength, batch.count)
      if core.link.isUsable {
        parsePlain(start..<end, &batch, tables)
      } else {
        for index in start..<end { parse(index, &batch, tables) }
      }
      lookUp(&batch, tables)
      start = end
    }
    core.flush(&batch, tables, ports)
    drainReady(tables, ports)
    if core.offload != nil { settleOffload(tables) }
  }

  /// What has to happen as time passes, packets or not: flows expire, held packets go out or are given up. Bounded work.
  public mutating func tick(at now: UInt64, _ tables: borrowing Tables, _ ports: borrowing PortSet) {
    core.begin(at: now, tables)
    if !core.waiting.isEmpty { drainWaiting(tables, ports) }
    drainReady(tables, ports)
    core.expireFragments()
    if let offload = core.offload {
      syncOffload(limit: 256)
      v4.flows.expire(core.second, tables.settings.timeouts) { $0.takeCounts(of: $1, offload) }
      settleOffload(tables)
    } else {
      v4.flows.expire(core.second, tables.settings.timeouts)
    }
    v6.flows.expire(core.second, tables.settings.timeouts)
  }

  /// What comes behind the parser, for a part of a batch.
  @inline(__always)
  private mutating func lookUp(_ batch: inout FrameBatch, _ tables: borrowing Tables) {
    v4.lookUp(&core, &batch, tables)
    v6.lookUp(&core, &batch, tables)
  }

  /// Sends what the last batch left for its end; what goes out late may itself have to be cut.
  private mutating func drainReady(_ tables: borrowing Tables, _ ports: borrowing PortSet) {
    for _ in 0..<3 where core.waiting.hasReady { drainWaiting(tables, ports) }
  }

  /// Sends again what waited: for a neighbour that has answered, for the first fragment of its datagram.
  private mutating func drainWaiting(_ tables: borrowing Tables, _ ports: borrowing PortSet) {
    injected.removeAll()
    core.waiting.collect(into: &injected, core.contexts, at: core.now, tables)
    guard injected.count > 0 else { return }
    var batch = exchange(&injected, with: FrameBatch(capacity: 1))
    for index in 0..<batch.count {
      core.enter(batch[index].port, tables)
      switch core.waiting.outcome(index) {
      case .send: core.emit(index, core.contexts[index].hop, &batch, tables)
      case .read: network(index, isIPv6: core.contexts[index].isIPv6, &batch, tables)
      case .timedOut(let reason):
        let out = tables.hops.records[Int(core.contexts[index].hop)].port
        restore(index, zone: tables.ports.records[Int(out.rawValue)].zone, batch)
        core.reject(index, reason, &batch, tables)
      }
      if PacketColumns.part(of: index + 1) != PacketColumns.part(of: index) { lookUp(&batch, tables) }
    }
    lookUp(&batch, tables)
    core.flush(&batch, tables, ports)
    core.waiting.release()
    swap(&batch, &injected)
  }
}

extension Pipeline {
  /// The number of packets that came in by `port` and were dropped for `reason`.
  public func dropCount(_ reason: DropReason, at port: PortIndex) -> UInt64 { core.drops.count(reason, at: port) }

  /// The last drops, oldest first.
  public var dropSamples: [DropSample] { core.drops.recent }

  /// Whether decisions are recorded in `trace`.
  public var isTracing: Bool {
    get { core.isTracing }
    set { core.isTracing = newValue }
  }

  /// The decisions recorded so far.
  public var trace: [TraceEvent] { core.trace }

  /// Forgets the decisions recorded so far.
  public mutating func clearTrace() { core.trace.removeAll(keepingCapacity: true) }

  /// What the control side has to look after since the last call: missing neighbours, learned path MTUs.
  public mutating func takeRequests() -> [ControlRequest] {
    core.requests.isEmpty ? [] : core.requests.takeAll()
  }

  /// Whether packets are held: for a neighbour that is being asked for, for the first fragment of their datagram.
  public var isHolding: Bool { !core.waiting.isEmpty }
}
