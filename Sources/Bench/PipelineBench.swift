import Dataplane
import Glibc

/// What a case cost: nanoseconds a packet over several windows.
public struct PipelineResult: Sendable, Encodable {
  public var `case`: String
  public var flows: Int
  /// Octets of the frame before any tunnel.
  public var size: Int
  public var nsMin: Double
  public var nsMedian: Double
  public var nsMax: Double
  /// Million packets a second in the best window.
  public var mpps: Double
}

/// What came out was not what should have.
public struct BenchFailure: Error, CustomStringConvertible {
  public var description: String
}

/// Runs cases of the real pipeline in memory: the code that live ports call, with tables that the compiler made. Only the
/// call that takes a batch through the pipeline is timed, not the filling of its buffers.
public enum PipelineBench {
  public static let batch = FrameBatch.standardCapacity

  /// Measures a case in `windows` windows of about `milliseconds` each, and checks what comes out before and after.
  public static func run(
    _ bench: PipelineCase, flows: Int, size: Int, windows: Int = 9, milliseconds: Int = 60
  ) throws(BenchFailure) -> PipelineResult {
    let node = BenchNode(bench.shape)
    node.path.change { tables in tables.settings.icmpErrorRate = .max / 2_000_000_000 }
    var packets = bench.packets(node, flows: flows, size: size)
    var port = bench.kind == .receive ? node.underlay : node.pod
    if bench.kind == .reply {
      packets = try answers(node, flows: flows, size: size)
      port = node.underlay
    }
    let source = SourcePort(templates: packets, batch: batch, sink: port == node.pod ? node.podSink : node.underlaySink)
    node.lane[port: port] = source
    try check(bench, node, source, port)
    var times: [Double] = []
    let rounds = max(flows / batch, 16)
    _ = window(bench, node, source, port, rounds: rounds, nanoseconds: 0)
    for _ in 0..<windows {
      times.append(window(bench, node, source, port, rounds: rounds, nanoseconds: UInt64(milliseconds) * 1_000_000))
    }
    try check(bench, node, source, port)
    times.sort()
    return PipelineResult(
      case: bench.name, flows: flows, size: size, nsMin: times[0], nsMedian: times[times.count / 2],
      nsMax: times[times.count - 1], mpps: 1000 / times[0])
  }

  /// Nanoseconds a packet over at least `rounds` batches and `nanoseconds` of pipeline time.
  private static func window(
    _ bench: PipelineCase, _ node: BenchNode, _ source: SourcePort, _ port: PortIndex, rounds: Int, nanoseconds: UInt64
  ) -> Double {
    let lane = node.lane
    var spent: UInt64 = 0
    var done = 0
    while done < rounds || spent < nanoseconds {
      // Every packet of the case is the first of its flow.
      if bench.kind == .newFlow, done % rounds == 0 { lane.withPipeline { $0.forgetFlows() } }
      source.refill()
      let start = now()
      _ = lane.poll(port, at: .at(1_000_000_000))
      spent += now() - start
      done += 1
    }
    return Double(spent) / Double(done * batch)
  }

  /// Sends one batch and compares what comes out with what went in.
  private static func check(
    _ bench: PipelineCase, _ node: BenchNode, _ source: SourcePort, _ port: PortIndex
  ) throws(BenchFailure) {
    for sink in [node.podSink, node.underlaySink] { sink.isKeeping = true }
    source.refill()
    let sent = source.current
    _ = node.lane.poll(port, at: .at(1_000_000_000))
    let received = node.podSink.takeKept() + node.underlaySink.takeKept()
    for sink in [node.podSink, node.underlaySink] { sink.isKeeping = false }
    guard received.count == batch else {
      let drops = node.lane.withPipeline { $0.dropCounts(ports: 4) }
      throw BenchFailure(description: "\(bench.name): \(received.count) of \(batch) packets came out; drops: \(drops)")
    }
    for (input, output) in zip(sent, received) {
      if let problem = PipelineCheck.problem(bench, input, output) {
        throw BenchFailure(description: "\(bench.name): \(problem)")
      }
    }
  }

  /// The answers of endpoints to connections that the pod opened.
  private static func answers(_ node: BenchNode, flows: Int, size: Int) throws(BenchFailure) -> [[UInt8]] {
    guard let forward = PipelineCase.all.first(where: { $0.name == "service" }) else { return [] }
    let source = SourcePort(
      templates: forward.packets(node, flows: flows, size: size), batch: batch, sink: node.podSink)
    node.lane[port: node.pod] = source
    node.underlaySink.isKeeping = true
    for _ in 0..<(flows + batch - 1) / batch {
      source.refill()
      _ = node.lane.poll(node.pod, at: .at(1_000_000_000))
    }
    node.underlaySink.isKeeping = false
    node.lane[port: node.pod] = node.podSink
    return node.underlaySink.takeKept().prefix(flows).map { Packets.answer(to: $0) }
  }

  static func now() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }
}
