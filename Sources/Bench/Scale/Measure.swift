import FoundationEssentials

/// The memory of this process, in octets.
public struct ProcessMemory: Sendable, Encodable {
  public var resident: Int
  /// The most that was ever resident.
  public var peak: Int

  static var now: ProcessMemory {
    var memory = ProcessMemory(resident: 0, peak: 0)
    guard let status = try? String(contentsOfFile: "/proc/self/status", encoding: .utf8) else { return memory }
    for line in status.split(separator: "\n") {
      let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
      guard words.count >= 2, let kibibytes = Int(words[1]) else { continue }
      if words[0] == "VmRSS:" { memory.resident = kibibytes << 10 }
      if words[0] == "VmHWM:" { memory.peak = kibibytes << 10 }
    }
    return memory
  }
}

/// How long something took, over many times, in microseconds.
public struct Spread: Sendable, Encodable {
  public var median: Double
  public var p99: Double
  public var max: Double

  init(nanoseconds: [UInt64]) {
    let sorted = nanoseconds.sorted()
    func at(_ share: Double) -> Double {
      sorted.isEmpty ? 0 : Double(sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))]) / 1000
    }
    (median, p99, max) = (at(0.5), at(0.99), at(1))
  }
}

/// Packets of some flows through a node, whose cost is measured.
struct FlowCost {
  var node: ScaleNode
  var source: NumberedPort
  /// Whether every packet is the first of its flow.
  var isFirst: Bool
  private(set) var nanoseconds = Double.infinity

  init(_ node: ScaleNode, _ source: NumberedPort, isFirst: Bool) {
    self.node = node
    self.source = source
    self.isFirst = isFirst
  }

  /// Takes every flow's packet through the pipeline, as often as fills the time, and keeps the least cost.
  mutating func window(milliseconds: Int) {
    let lane = node.lane
    lane[port: node.client] = source
    let rounds = max(source.end / source.batchSize, 16)
    let batch = source.batchSize
    for isWarm in [false, true] {
      var (spent, done): (UInt64, Int) = (0, 0)
      while done < rounds || isWarm && spent < UInt64(milliseconds) * 1_000_000 {
        if isFirst, done % rounds == 0 { lane.withPipeline { $0.forgetFlows() } }
        source.refill()
        let start = PipelineBench.now()
        _ = lane.poll(node.client, at: .at(1_000_000_000))
        spent += PipelineBench.now() - start
        done += 1
      }
      if isWarm { nanoseconds = min(nanoseconds, Double(spent) / Double(done * batch)) }
    }
  }

  /// Measures several in turn, so that what disturbs one disturbs all, and gives the least cost of each in nanoseconds a
  /// packet.
  static func compare(_ costs: [FlowCost], windows: Int) -> [Double] {
    var costs = costs
    for _ in 0..<windows { for index in costs.indices { costs[index].window(milliseconds: 20) } }
    return costs.map(\.nanoseconds)
  }
}
