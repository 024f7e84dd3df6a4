import ArgumentParser
import Bench
import FoundationEssentials
import Replay

/// What the benchmarks of scale write.
enum ScaleFormat: String, ExpressibleByArgument, CaseIterable {
  case text
  case json

  /// Writes a result as JSON, or as the text that `table` makes of it.
  func write<Result: Encodable>(_ result: Result, table: (Result) -> String) throws {
    switch self {
    case .text: try Standard.output(table(result))
    case .json:
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
      try Standard.output(String(decoding: try encoder.encode(result), as: UTF8.self) + "\n")
    }
  }
}

/// Runs a benchmark with its progress shown; what is wrong with what came out ends the program.
private func measure<Result>(_ body: ((String) -> Void) throws(BenchFailure) -> Result) throws -> Result {
  var progress = ProgressLine()
  defer { progress.clear() }
  do {
    return try body { text in progress.show { _ in text } }
  } catch {
    throw Failure(.difference, "bench: \(error)")
  }
}

/// `1.2`
private func tenths(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }

/// `1.204`
private func thousandths(_ value: Double) -> String { "\((value * 1000).rounded() / 1000)" }

/// `12.3 MiB`
private func mebibytes(_ octets: Int) -> String { "\(tenths(Double(octets) / 1_048_576)) MiB" }

/// `+3.1 %`: how much more `b` is than `a`.
private func more(_ a: Double, _ b: Double) -> String {
  let share = tenths((b / a - 1) * 100)
  return (share.hasPrefix("-") ? share : "+" + share) + " %"
}

/// `kalsae bench services`
struct ServicesBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "services", abstract: "Measure what many services cost.",
    discussion: """
      Compares ten services with many, each with three endpoints on 1,000 nodes: how long they take to load from parsed
      objects, the memory they need, how soon the change of an endpoint shows with a packet that is really sent, and what
      packets cost. Flows go to ten services in both cases, and then to all that there are. Every endpoint is checked.
      """)

  @Option(help: ArgumentHelp("Services.", valueName: "n"))
  var services = 100_000

  @Option(help: ArgumentHelp("Flows that packets are measured with.", valueName: "n"))
  var flows = 10_000

  @Option(help: ArgumentHelp("Changes that are timed.", valueName: "n"))
  var changes = 2000

  @Option(help: ArgumentHelp("Windows that are measured.", valueName: "n"))
  var windows = 9

  @Option(help: "How the result is written.")
  var output = ScaleFormat.text

  func validate() throws {
    try requireNumber("--services", services, in: 10...1_000_000)
    try requireNumber("--flows", flows, in: 256...1_000_000)
    try requireNumber("--changes", changes, in: 1...100_000)
    try requireNumber("--windows", windows, in: 1...1000)
  }

  func run() throws {
    let result = try measure { progress throws(BenchFailure) in
      try ServicesBench.run(services: services, flows: flows, changes: changes, windows: windows, progress)
    }
    try output.write(result) { result in
      let (few, many) = (result.few, result.many)
      var table = TextTable(["", ">\(few.services) SERVICES", ">\(many.services) SERVICES", ">MORE"])
      func row(
        _ name: String, _ value: (ServicesResult.Side) -> Double, _ format: (Double) -> String, compare: Bool = true
      ) {
        table.add([name, format(value(few)), format(value(many)), compare ? more(value(few), value(many)) : ""])
      }
      row("load, ms", { $0.loadMilliseconds }, tenths, compare: false)
      row("change to packet, median, µs", { $0.changeToPacket.median }, tenths)
      row("change to packet, p99, µs", { $0.changeToPacket.p99 }, tenths)
      row("change to packet, most, µs", { $0.changeToPacket.max }, tenths)
      row("established, ns a packet", { $0.established }, tenths)
      row("first packet, ns", { $0.first }, tenths)
      row("established, to all services, ns", { $0.establishedSpread }, tenths)
      row("first packet, to all services, ns", { $0.firstSpread }, tenths)
      return table.text
        + "\nmemory of the process: \(mebibytes(result.memory.resident)) with the many services, "
        + "\(mebibytes(result.memoryBefore.resident)) before, \(mebibytes(result.memory.peak)) at most\n"
    }
  }
}

/// `kalsae bench policy`
struct PolicyBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "policy", abstract: "Measure what many network policies cost.",
    discussion: """
      Compares few policies with many, and those with all pods on this node: how long they take to load from parsed
      objects, what a change costs, and what packets cost between pods that policies restrict in both directions.
      Policies have rules by pod and namespace labels, blocks with exceptions, port ranges and named ports; no two pods
      have the same labels.
      """)

  @Option(help: ArgumentHelp("Pods of the cluster.", valueName: "n"))
  var pods = 10_000

  @Option(help: ArgumentHelp("Policies.", valueName: "n"))
  var policies = 1000

  @Option(help: ArgumentHelp("Pods of this node.", valueName: "n"))
  var local = 250

  @Option(help: ArgumentHelp("Flows that packets are measured with.", valueName: "n"))
  var flows = 10_000

  @Option(help: ArgumentHelp("Windows that are measured.", valueName: "n"))
  var windows = 9

  @Option(help: "How the result is written.")
  var output = ScaleFormat.text

  func validate() throws {
    try requireNumber("--pods", pods, in: 2...10_000)
    try requireNumber("--local", local, in: 2...pods)
    try requireNumber("--policies", policies, in: 1...100_000)
    try requireNumber("--flows", flows, in: 256...1_000_000)
    try requireNumber("--windows", windows, in: 1...1000)
  }

  func run() throws {
    let result = try measure { progress throws(BenchFailure) in
      try PolicyBench.run(
        pods: pods, policies: policies, localPods: local, flows: flows, windows: windows, progress)
    }
    try output.write(result) { result in
      var table = TextTable([
        ">POLICIES", ">PODS", ">LOCAL", ">LOAD MS", ">POD P99 µs", ">POLICY P99 µs", ">ESTABLISHED NS", ">MORE",
        ">FIRST NS", ">MORE",
      ])
      for side in result.sides {
        table.add([
          "\(side.policies)", "\(side.pods)", "\(side.localPods)", tenths(side.loadMilliseconds),
          tenths(side.podChange.p99), tenths(side.policyChange.p99), tenths(side.established),
          more(result.sides[0].established, side.established), tenths(side.first),
          more(result.sides[0].first, side.first),
        ])
      }
      return table.text + "\nmemory of the process with all of them: \(mebibytes(result.memory.resident))\n"
    }
  }
}

/// `kalsae bench flows`
struct FlowsBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "flows", abstract: "Measure what many flows cost, and let a flood of first packets come.",
    discussion: """
      Enters many flows at once and measures their memory. Then a table that is smaller than the flood gets one first
      packet after the other, while connections to services that were established before go on: each of their packets
      must go where the first one went, and every flow that gave way must be counted.
      """)

  @Option(help: ArgumentHelp("Concurrent flows.", valueName: "n"))
  var flows = 1_000_000

  @Option(help: ArgumentHelp("First packets of the flood.", valueName: "n"))
  var flood = 10_000_000

  @Option(help: ArgumentHelp("Flows that the flooded table takes.", valueName: "n"))
  var limit = 1 << 18

  @Option(help: ArgumentHelp("Connections that are established before.", valueName: "n"))
  var established = 100_000

  @Option(help: "How the result is written.")
  var output = ScaleFormat.text

  func validate() throws {
    try requireNumber("--flows", flows, in: 256...16_000_000)
    try requireNumber("--flood", flood, in: 256...1_000_000_000)
    try requireNumber("--limit", limit, in: 256...16_000_000)
    try requireNumber("--established", established, in: 256...min(limit, 640_000))
  }

  func run() throws {
    let result = try measure { progress throws(BenchFailure) in
      try FlowsBench.run(flows: flows, flood: flood, limit: limit, established: established, progress)
    }
    try output.write(result) { result in
      let flood = result.flood
      return """
        \(result.flows) flows
          flow tables            \(mebibytes(result.flowMemory))
          process                \(mebibytes(result.memory.resident)); \(mebibytes(result.memoryBefore.resident)) before; \
        \(mebibytes(result.memory.peak)) at most
          packets                \(tenths(result.established)) ns
        \(flood.firstPackets) first packets into a table for \(flood.limit) flows, \(thousandths(flood.mpps)) million a second
          created                \(flood.created)
          evicted                \(flood.evicted)
          refused                \(flood.refused)
          expired, replaced      \(flood.expired), \(flood.replaced)
          left in the table      \(flood.inTable)
          established before     \(flood.established)
          their packets          \(flood.packets), of which \(flood.packetsInPlace) went where the first one had gone
          flow tables            \(mebibytes(flood.flowMemory)); \(mebibytes(flood.flowMemoryBefore)) before
          process                \(mebibytes(flood.memory.resident)); \(mebibytes(flood.memoryBefore.resident)) before

        """
    }
  }
}
