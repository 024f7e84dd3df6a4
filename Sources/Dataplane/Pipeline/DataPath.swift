import Synchronization

/// The tables, and the workers that read them.
///
/// The control side changes tables, ports and flows inside `change`, from any thread; each lane is driven by one thread.
@safe
public final class DataPath: @unchecked Sendable {
  private let tables: UnsafeMutablePointer<Tables>
  private let gate = Gate()
  public let lanes: [Lane]
  private let turns: [Gate.Turn]
  private var offload: (any FlowOffload)?

  /// What lanes have in common besides the tables.
  public enum Sharing: Sendable {
    /// Nothing: each has flows of its own, and must get all packets of these, of both directions.
    case tables
    /// One pipeline with one set of flows, which they use by turns; each receives and sends by ports of its own meanwhile.
    case flows
  }

  /// A data plane with this many workers, each (or, where they share flows, all together) with room for `flowLimit` flows of
  /// each family and for the endpoints of `affinityLimit` clients (KP-50). From the same `seed` come the same choices; on live
  /// ports nobody should know it.
  public init(
    workers: Int = 1, sharing: Sharing = .tables, flowLimit: Int = 1 << 18, affinityLimit: Int = 1 << 16,
    seed: UInt64 = 0
  ) {
    unsafe tables = .allocate(capacity: 1)
    unsafe tables.initialize(to: Tables())
    turns = (0..<workers).map { _ in Gate.Turn() }
    func stage(_ number: Int) -> Stage {
      Stage(Pipeline(flowLimit: flowLimit, affinityLimit: affinityLimit, seed: mix(seed, UInt64(number))))
    }
    let common = sharing == .flows && workers > 1 ? stage(0) : nil
    lanes = turns.enumerated().map { [gate] number, turn in
      Lane(common ?? stage(number), isShared: common != nil, gate, turn)
    }
    for lane in lanes { unsafe lane.share.tables = tables }
  }

  /// Has somebody carry packets of flows that are decided, for all lanes; nil: nobody from now on.
  public func setOffload(_ offload: (any FlowOffload)?) {
    change { _ in
      self.offload = offload
      for lane in lanes where lane.isFirst(of: lanes) { lane.withPipeline { $0.setOffload(offload) } }
    }
  }

  deinit {
    unsafe tables.deinitialize(count: 1)
    unsafe tables.deallocate()
  }

  /// The port at a place, by whichever lane its packets come in; nil: none. Inside `change`.
  public func port(_ index: PortIndex) -> (any Port)? {
    let all = ports(index)
    return all.first { $0.descriptor != nil } ?? all.first
  }

  /// What the lanes have at a place, in their order. Inside `change`.
  public func ports(_ index: PortIndex) -> [any Port] { lanes.compactMap { $0[port: index] } }

  /// What was counted at a place, by all lanes together. Inside `change`.
  public func statistics(of index: PortIndex) -> PortStatistics {
    lanes.reduce(PortStatistics()) { sum, lane in sum + (lane[port: index]?.statistics ?? PortStatistics()) }
  }

  /// Runs `body`, which may change the tables and look at the lanes' pipelines, between batches. Packets wait meanwhile.
  public func change<R>(_ body: (inout Tables) throws -> R) rethrows -> R {
    try gate.close(for: turns) {
      let before = unsafe tables.pointee.revision
      // Before any packet passes: what others carry was decided by tables that are no more.
      defer { if unsafe tables.pointee.revision != before { offload?.invalidate() } }
      return try unsafe body(&tables.pointee)
    }
  }
}

/// A pipeline, and whose turn it is where several lanes have the same.
private final class Stage: @unchecked Sendable {
  var pipeline: Pipeline
  let turn = Mutex<Void>(())

  init(_ pipeline: consuming Pipeline) { self.pipeline = pipeline }
}

/// What a lane works with. One value: whether something else has it too is asked once a batch, and not for each part of it.
@safe
private struct LaneShare: ~Copyable {
  var ports = PortSet()
  var batch = FrameBatch()
  var receivedFrames: UInt64 = 0
  var tables: UnsafeMutablePointer<Tables>!

  /// See `Lane.poll`.
  @inline(__always)
  mutating func poll(_ index: PortIndex, at now: Lane.Clock, _ stage: Stage, _ outbox: Outbox?) -> Int {
    guard let port = ports[index] else { return 0 }
    batch.ingress = index
    let count = port.receive(into: &batch)
    guard count > 0 else { return 0 }
    receivedFrames &+= UInt64(truncatingIfNeeded: count)
    let time: UInt64 =
      switch now {
      case .at(let nanoseconds): nanoseconds
      case .captured: batch[0].timestamp
      }
    if let outbox {
      outbox.begin(batch)
      stage.turn.withLock { _ in
        unsafe stage.pipeline.process(&batch, from: index, at: time, tables.pointee, outbox.ports)
      }
      send(outbox, stage)
    } else {
      unsafe stage.pipeline.process(&batch, from: index, at: time, tables.pointee, ports)
    }
    port.release(&batch)
    return count
  }

  /// See `Pipeline.tick`.
  mutating func tick(at now: UInt64, _ stage: Stage, _ outbox: Outbox?) {
    guard let outbox else { return unsafe stage.pipeline.tick(at: now, tables.pointee, ports) }
    outbox.beginWithout()
    stage.turn.withLock { _ in unsafe stage.pipeline.tick(at: now, tables.pointee, outbox.ports) }
    send(outbox, stage)
  }

  /// Sends what the pipeline has listed, and counts what ports did not take.
  private func send(_ outbox: Outbox, _ stage: Stage) {
    outbox.send(batch)
    if !outbox.refused.isEmpty {
      stage.turn.withLock { _ in
        for (frame, reason) in outbox.refused { stage.pipeline.core.drop(frame, reason) }
      }
    }
    outbox.end()
  }
}

/// One worker's share of the data plane: its pipeline, or its turn at the one that all have; its batch, and the ports that
/// it sends by.
///
/// `poll` and `tick` are called by the worker's thread alone; everything else only inside `DataPath.change`, or where no
/// thread polls: a port that asked its own lane while it receives or sends would end the program.
@safe
public final class Lane: @unchecked Sendable {
  private let stage: Stage
  /// Where several lanes have the same pipeline; else nil.
  private let outbox: Outbox?
  fileprivate var share = LaneShare()
  private let gate: Gate
  private let turn: Gate.Turn

  fileprivate init(_ stage: Stage, isShared: Bool, _ gate: Gate, _ turn: Gate.Turn) {
    self.stage = stage
    outbox = isShared ? Outbox() : nil
    self.gate = gate
    self.turn = turn
  }

  fileprivate func isFirst(of lanes: [Lane]) -> Bool { lanes.first { $0.stage === stage } === self }

  /// Runs `body` on the pipeline. (No property: the optimizer of Swift 6.3.1 stops at a setter of this type.)
  @inline(never)
  public func withPipeline<R>(_ body: (inout Pipeline) throws -> R) rethrows -> R { try body(&stage.pipeline) }

  /// The frames that have come in by this lane. Inside `DataPath.change`.
  public var receivedFrames: UInt64 { share.receivedFrames }

  /// The port at a place; nil: none.
  public subscript(port index: PortIndex) -> (any Port)? {
    get { share.ports[index] }
    set {
      share.ports[index] = newValue
      outbox?.set(newValue, at: index)
    }
  }

  /// Takes one batch from a port through the pipeline and returns the number of frames.
  ///
  /// `now` gives the time of the batch in nanoseconds: the machine's clock, or for a capture the time of its first frame.
  public func poll(_ index: PortIndex, at now: Clock) -> Int {
    gate.enter(turn)
    defer { gate.leave(turn) }
    return share.poll(index, at: now, stage, outbox)
  }

  /// Lets time pass: see `Pipeline.tick`.
  public func tick(at now: UInt64) {
    gate.enter(turn)
    defer { gate.leave(turn) }
    share.tick(at: now, stage, outbox)
  }

  /// What the control side has to look after since the last call: see `Pipeline.takeRequests`. Also says whether packets
  /// are held back, so that time must pass soon.
  public func takeRequests() -> (requests: [ControlRequest], isHolding: Bool) {
    gate.enter(turn)
    defer { gate.leave(turn) }
    return stage.turn.withLock { _ in (stage.pipeline.takeRequests(), stage.pipeline.isHolding) }
  }

  /// Where a batch's time comes from.
  public enum Clock {
    case at(UInt64)
    /// The time stamp of the batch's first frame.
    case captured
  }
}
