import Dataplane
import Glibc

/// What a case cost: nanoseconds a packet over several windows.
public struct PipelineResult: Sendable, Codable {
  public var `case`: String
  public var flows: Int
  /// Octets of the frame before any tunnel.
  public var size: Int
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
  /// and after.
  public static func run(
    _ bench: PipelineCase, flows: Int, size: Int, windows: Int = 9, milliseconds: Int = 60
  ) throws(BenchFailure) -> PipelineResult {
    let rig = try PipelineRig(bench, flows: flows, size: size)
    try rig.check()
    // Every flow has been entered when this is over, and memory touched.
    _ = rig.window(rounds: rig.lap, nanoseconds: 0)
    let counter = InstructionCounter()
    let before = counter?.value ?? 0
    var packets = 0
    var times: [Double] = []
    for _ in 0..<max(windows, 1) {
      let window = rig.window(
        rounds: rig.lap, nanoseconds: UInt64(milliseconds) * 1_000_000, counter)
      packets += window.packets
      times.append(Double(window.nanoseconds) / Double(max(window.packets, 1)))
    }
    let instructions = counter.map { Double($0.value - before) / Double(max(packets, 1)) }
    try rig.check()
    times.sort()
    return PipelineResult(
      case: bench.name, flows: flows, size: size, nsMin: times[0], nsMedian: times[times.count / 2],
      nsMax: times[times.count - 1], mpps: 1000 / times[0], instructions: instructions)
  }

  /// Nanoseconds of the monotonic clock.
  static func now() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }
}

/// A case set up: the node, and the packets that are sent through it again and again.
package final class PipelineRig {
  private let bench: PipelineCase
  private let node: BenchNode
  private let source: SourcePort
  private let port: PortIndex
  /// The batches in which every flow has its turn at least once.
  let lap: Int

  package init(_ bench: PipelineCase, flows: Int, size: Int) throws(BenchFailure) {
    self.bench = bench
    node = BenchNode(bench.shape)
    node.path.change { tables in
      // Refusing is measured too: nothing must hold it back.
      tables.settings.icmpErrorRate = .max / 2_000_000_000
      tables.settings.icmpErrorBurst = tables.settings.icmpErrorRate
    }
    var packets = bench.packets(node, flows: flows, size: size)
    port = bench.kind == .receive || bench.kind == .reply ? node.underlay : node.pod
    if bench.kind == .reply { packets = try PipelineRig.answers(packets, node) }
    source = SourcePort(
      packets, batch: PipelineBench.batch, sink: port == node.pod ? node.podSink : node.underlaySink)
    node.lane[port: port] = source
    lap = max((flows + PipelineBench.batch - 1) / PipelineBench.batch, 16)
  }

  /// Takes at least `rounds` batches, and as many as need `nanoseconds`, through the pipeline. `counter` counts meanwhile.
  func window(
    rounds: Int, nanoseconds: UInt64, _ counter: InstructionCounter? = nil
  ) -> (nanoseconds: UInt64, packets: Int) {
    let lane = node.lane
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
    return (spent, done * PipelineBench.batch)
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
    for sink in [node.podSink, node.underlaySink] { sink.isKeeping = true }
    source.refill(isWhole: true)
    let sent = source.current
    _ = node.lane.poll(port, at: .at(1_000_000_000))
    let received = node.podSink.takeKept() + node.underlaySink.takeKept()
    for sink in [node.podSink, node.underlaySink] { sink.isKeeping = false }
    return (sent, received)
  }

  private func checkBatch() throws(BenchFailure) {
    let (sent, received) = pass()
    guard received.count == sent.count else {
      let drops = node.lane.withPipeline { $0.dropCounts(ports: 4) }
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
  private static func answers(_ packets: PacketSet, _ node: BenchNode) throws(BenchFailure) -> PacketSet {
    let source = SourcePort(packets, batch: PipelineBench.batch, sink: node.podSink)
    node.lane[port: node.pod] = source
    node.underlaySink.isKeeping = true
    for _ in 0..<(packets.count + PipelineBench.batch - 1) / PipelineBench.batch {
      source.refill(isWhole: true)
      _ = node.lane.poll(node.pod, at: .at(1_000_000_000))
    }
    node.underlaySink.isKeeping = false
    node.lane[port: node.pod] = node.podSink
    let asked = node.underlaySink.takeKept()
    guard asked.count >= packets.count else {
      throw BenchFailure(description: "only \(asked.count) of \(packets.count) connections were opened")
    }
    return PacketSet(count: packets.count) { Packets.answer(to: asked[$0]) }
  }
}
