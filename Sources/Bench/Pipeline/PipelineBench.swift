import Dataplane
import Glibc
import Lab
import Synchronization

/// What a case cost: nanoseconds a packet over several windows.
public struct PipelineResult: Sendable, Codable {
  public var `case`: String
  public var flows: Int
  /// Octets of the frame before any tunnel.
  public var size: Int
  /// Threads, each with a lane and an equal share of the flows.
  public var workers: Int
  /// Whether they have one pipeline and use it by turns, as an agent's workers do; else each has one of its own.
  public var takesTurns: Bool
  public var nsMin: Double
  public var nsMedian: Double
  public var nsMax: Double
  /// Million packets a second in the best window.
  public var mpps: Double
  /// Instructions a packet in user space; nil where the machine has no counter for them.
  public var instructions: Double?
}

/// What came out was not what should have.
public struct BenchFailure: Error, CustomStringConvertible {
  public var description: String
}

/// Runs cases of the real pipeline in memory: the code that live ports call, with tables that the compiler made. Only the
/// call that takes a batch through the pipeline is timed, not the filling of its buffers.
public enum PipelineBench {
  public static let batch = FrameBatch.standardCapacity

  /// Measures a case in `windows` windows of about `milliseconds` of pipeline time each, and checks what comes out before
  /// and after. Several workers run at the same time, on the same tables or, by turns, on the same pipeline; the time of a
  /// packet is then that between two packets of all of them together.
  public static func run(
    _ bench: PipelineCase, flows: Int, size: Int, workers: Int = 1, takesTurns: Bool = false, windows: Int = 9,
    milliseconds: Int = 60
  ) throws -> PipelineResult {
    guard !takesTurns || workers == 1 || bench.kind != .newFlow else {
      throw BenchFailure(description: "\(bench.name) forgets all flows again and again, which others are using")
    }
    let node = BenchNode(bench.shape, workers: workers, sharing: takesTurns ? .flows : .tables)
    let rigs = try (0..<workers).map {
      try PipelineRig(bench, flows: flows, size: size, node, Share(number: $0, count: workers))
    }
    for rig in rigs { try rig.check() }
    // Every flow has been entered when this is over, and memory touched.
    for rig in rigs { _ = rig.window(rounds: rig.lap, nanoseconds: 0) }
    let counter = workers == 1 ? InstructionCounter() : nil
    let before = counter?.value ?? 0
    var packets = 0
    var times: [Double] = []
    for _ in 0..<max(windows, 1) {
      let shares = try together(rigs, UInt64(milliseconds) * 1_000_000, counter)
      packets += shares.reduce(0) { $0 + $1.packets }
      times.append(1 / shares.reduce(0) { $0 + Double($1.packets) / Double(max($1.nanoseconds, 1)) })
    }
    let instructions = counter.map { Double($0.value - before) / Double(max(packets, 1)) }
    for rig in rigs { try rig.check() }
    times.sort()
    return PipelineResult(
      case: bench.name, flows: flows, size: size, workers: workers, takesTurns: takesTurns,
      nsMin: times[0], nsMedian: times[times.count / 2],
      nsMax: times[times.count - 1], mpps: 1000 / times[0], instructions: instructions)
  }

  /// One window of each rig, at the same time where there are several.
  private static func together(
    _ rigs: [PipelineRig], _ nanoseconds: UInt64, _ counter: InstructionCounter?
  ) throws -> [PipelineRig.Window] {
    if rigs.count == 1 { return [rigs[0].window(rounds: rigs[0].lap, nanoseconds: nanoseconds, counter)] }
    final class Windows: Sendable {
      let list = Mutex<[PipelineRig.Window]>([])
    }
    let windows = Windows()
    for rig in rigs {
      try startThread {
        let window = rig.window(rounds: rig.lap, nanoseconds: nanoseconds)
        windows.list.withLock { $0.append(window) }
      }
    }
    // A window ends by itself.
    while windows.list.withLock({ $0.count }) < rigs.count { usleep(200) }
    return windows.list.withLock { $0 }
  }

  /// Nanoseconds of the monotonic clock.
  static func now() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }
}

/// Which part of all flows a worker has: those whose numbers have the remainder `number` when divided by `count`.
package struct Share: Sendable {
  package var number = 0
  package var count = 1
  package init(number: Int = 0, count: Int = 1) { (self.number, self.count) = (number, count) }
}

/// A case set up for a lane of a node: the packets that are sent through it again and again. Used by one thread at a time.
package final class PipelineRig: @unchecked Sendable {
  private let bench: PipelineCase
  private let node: BenchNode
  private let source: SourcePort
  private let port: PortIndex
  private let lane: Lane
  /// What leaves by the lane.
  private let sinks: [SinkPort]
  /// The batches in which every flow has its turn at least once.
  let lap: Int

  package convenience init(_ bench: PipelineCase, flows: Int, size: Int) throws(BenchFailure) {
    try self.init(bench, flows: flows, size: size, BenchNode(bench.shape), Share())
  }

  init(_ bench: PipelineCase, flows: Int, size: Int, _ node: BenchNode, _ share: Share) throws(BenchFailure) {
    self.bench = bench
    self.node = node
    lane = node.path.lanes[share.number]
    let (podSink, underlaySink) = (node.podSinks[share.number], node.underlaySinks[share.number])
    sinks = [podSink, underlaySink]
    node.path.change { tables in
      // Refusing is measured too: nothing must hold it back.
      tables.settings.icmpErrorRate = .max / 2_000_000_000
      tables.settings.icmpErrorBurst = tables.settings.icmpErrorRate
    }
    let flows = max(flows / share.count, 1)
    var packets = bench.packets(node, flows: flows, size: size, share)
    port = bench.kind == .receive || bench.kind == .reply ? node.underlay : node.pod
    if bench.kind == .reply { packets = try PipelineRig.answers(packets, node, lane, podSink, underlaySink) }
    source = SourcePort(packets, batch: PipelineBench.batch, sink: port == node.pod ? podSink : underlaySink)
    lane[port: port] = source
    lap = max((flows + PipelineBench.batch - 1) / PipelineBench.batch, 16)
  }

  /// Takes at least `rounds` batches, and as many as need `nanoseconds`, through the pipeline. `counter` counts meanwhile.
  func window(
    rounds: Int, nanoseconds: UInt64, _ counter: InstructionCounter? = nil
  ) -> Window {
    var spent: UInt64 = 0
    var done = 0
    while done < rounds || spent < nanoseconds {
      // Every packet of the case is the first of its flow.
      if bench.kind == .newFlow, source.isAtEnd {
        lane.withPipeline { $0.forgetFlows() }
        source.restart()
      }
      source.refill(isWhole: bench.kind == .reject)
      counter?.start()
      let start = PipelineBench.now()
      _ = lane.poll(port, at: .at(1_000_000_000))
      spent += PipelineBench.now() - start
      counter?.stop()
      done += 1
    }
    return Window(nanoseconds: spent, packets: done * PipelineBench.batch)
  }

  struct Window: Sendable {
    var nanoseconds: UInt64
    var packets: Int
  }

  /// Sends some batches and compares what comes out with what went in.
  func check() throws(BenchFailure) {
    for _ in 0..<min(lap, 16) { try checkBatch() }
  }

  /// A packet of the first batch, and what became of it.
  package func sample() -> (input: [UInt8], output: [UInt8])? {
    let (sent, received) = pass()
    guard let input = sent.first, let output = received.first else { return nil }
    return (input, output)
  }

  /// Takes a batch through the pipeline: what went in, and what came out.
  private func pass() -> (sent: [[UInt8]], received: [[UInt8]]) {
    for sink in sinks { sink.isKeeping = true }
    source.refill(isWhole: true)
    let sent = source.current
    _ = lane.poll(port, at: .at(1_000_000_000))
    let received = sinks.flatMap { $0.takeKept() }
    for sink in sinks { sink.isKeeping = false }
    return (sent, received)
  }

  private func checkBatch() throws(BenchFailure) {
    let (sent, received) = pass()
    guard received.count == sent.count else {
      let drops = lane.withPipeline { $0.dropCounts(ports: 4) }
      throw BenchFailure(
        description: "\(bench.name): \(received.count) of \(sent.count) packets came out; drops: \(drops)")
    }
    // Packets of known flows go before those of new ones: each output must be what one input should become.
    var inputs = sent
    for output in received {
      let problems = inputs.lazy.map { PipelineCheck.problem(self.bench, $0, output) }
      guard let match = problems.firstIndex(of: nil) else {
        throw BenchFailure(description: "\(bench.name): \(PipelineCheck.problem(bench, inputs[0], output) ?? "?")")
      }
      inputs.remove(at: match)
    }
  }

  /// The answers of endpoints to connections that the pod opened with `packets`.
  private static func answers(
    _ packets: PacketSet, _ node: BenchNode, _ lane: Lane, _ podSink: SinkPort, _ underlaySink: SinkPort
  ) throws(BenchFailure) -> PacketSet {
    let source = SourcePort(packets, batch: PipelineBench.batch, sink: podSink)
    lane[port: node.pod] = source
    underlaySink.isKeeping = true
    for _ in 0..<(packets.count + PipelineBench.batch - 1) / PipelineBench.batch {
      source.refill(isWhole: true)
      _ = lane.poll(node.pod, at: .at(1_000_000_000))
    }
    underlaySink.isKeeping = false
    lane[port: node.pod] = podSink
    let asked = underlaySink.takeKept()
    guard asked.count >= packets.count else {
      throw BenchFailure(description: "only \(asked.count) of \(packets.count) connections were opened")
    }
    return PacketSet(count: packets.count) { Packets.answer(to: asked[$0]) }
  }
}
