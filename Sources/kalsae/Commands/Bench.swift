import ArgumentParser
import Bench
import FoundationEssentials
import Replay

/// `kalsae bench`
struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Measure the packet path, large clusters and address management on this machine.",
    subcommands: [
      PipelineBenchCommand.self, LiveBenchCommand.self, PortsBenchCommand.self, SocketBenchCommand.self,
      ServicesBenchCommand.self, PolicyBenchCommand.self, FlowsBenchCommand.self, AddressBenchCommand.self,
      AddressWorkerCommand.self,
    ],
    defaultSubcommand: PipelineBenchCommand.self)
}

/// `kalsae bench pipeline`
struct PipelineBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pipeline", abstract: "Measure the pipeline in memory, case by case.",
    discussion: """
      Packets go through the code that live ports call, with tables that the compiler made: 1,000 nodes; 1,000 services
      with 10 endpoints; 1,000 policy rules where the case has policy. The time is that of the pipeline alone, in
      nanoseconds a packet: the least, the median and the most of several windows. Take the least: it is what is left
      when nobody disturbs. What comes out is checked before and after. Instructions are shown where the processor
      counts them for this process.
      """)

  @Option(
    name: .customLong("case"),
    help: ArgumentHelp("The cases, separated by commas (default: all).", valueName: "name"),
    completion: .list(PipelineCase.all.map(\.name)))
  var cases: String?

  @Option(help: ArgumentHelp("Numbers of flows, separated by commas, such as 1,10k,1M.", valueName: "n"))
  var flows = "10k"

  @Option(
    help: ArgumentHelp(
      "Octets of the frames before any tunnel, separated by commas, such as 64,1500,64k.", valueName: "octets"))
  var size = "64"

  @Option(
    help: ArgumentHelp(
      "Threads that share the flows, each with a lane of the data plane; the time is that between two packets of all.",
      valueName: "n"))
  var workers = 1

  @Flag(help: "The threads have one pipeline with all flows and use it by turns, as an agent's workers do.")
  var turns = false

  @Option(help: ArgumentHelp("Windows that are measured.", valueName: "n"))
  var windows = 9

  @Option(help: ArgumentHelp("Milliseconds that a window has at least, in the pipeline.", valueName: "n"))
  var milliseconds = 60

  @Option(help: "How the result is written.")
  var output: Format = .text

  @Option(
    help: ArgumentHelp("Also draws the result as an SVG document into a file.", valueName: "file"), completion: .file())
  var svg: String?

  enum Format: String, ExpressibleByArgument, CaseIterable {
    case text
    case json
    case csv
  }

  func validate() throws {
    try requireNumber("--workers", workers, in: 1...64)
    try requireNumber("--windows", windows, in: 1...1000)
    try requireNumber("--milliseconds", milliseconds, in: 0...10_000)
  }

  func run() throws {
    let chosen = try selectedCases()
    var results: [PipelineResult] = []
    var progress = ProgressLine()
    if output == .csv {
      try Standard.output("case,flows,size,workers,takesTurns,nsMin,nsMedian,nsMax,mpps,instructions\n")
    }
    for bench in chosen {
      for flows in try numbers(flows, "--flows", 1...4_000_000) {
        for size in try numbers(size, "--size", 64...65_535) {
          progress.show { _ in "\(bench.name), \(flows) flows…" }
          let result: PipelineResult
          do {
            result = try PipelineBench.run(
              bench, flows: flows, size: size, workers: workers, takesTurns: turns, windows: windows,
              milliseconds: milliseconds)
          } catch {
            throw Failure(.difference, "bench: \(error)")
          }
          results.append(result)
          if output == .csv { try Standard.output(csv(result) + "\n") }
        }
      }
    }
    progress.clear()
    switch output {
    case .text: try Standard.output(table(results))
    case .json:
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
      try Standard.output(String(decoding: try encoder.encode(results), as: UTF8.self) + "\n")
    case .csv: break
    }
    if let svg { try write(chart(results).svg, to: svg) }
  }

  private func write(_ text: String, to path: String) throws(Failure) {
    do {
      try Data(text.utf8).write(to: URL(filePath: path), options: .atomic)
    } catch {
      throw Failure(.io, "\(path): cannot write the chart: give a file in a directory that you may write to (\(error))")
    }
  }

  private func chart(_ results: [PipelineResult]) -> BarChart {
    let sizes = Set(results.map(\.size)).sorted()
    return BarChart(
      title: "Kalsae's pipeline in memory, \(workers == 1 ? "one core" : "\(workers) workers")",
      subtitle:
        "Frames of \(sizes.map(String.init).joined(separator: ", ")) octets, batches of \(PipelineBench.batch); "
        + "bar: the best of \(windows) windows, line: to the median",
      unit: "nanoseconds a packet",
      rows: results.map { result in
        BarChart.Row(
          sizes.count > 1 ? "\(result.case), \(result.size)" : result.case,
          series: "\(short(UInt64(result.flows))) flows",
          value: result.nsMin, high: result.nsMedian)
      })
  }

  private func selectedCases() throws -> [PipelineCase] {
    guard let cases else { return PipelineCase.all }
    return try cases.split(separator: ",").map { name in
      guard let found = PipelineCase.all.first(where: { $0.name == name }) else {
        throw Failure(
          .usage, "--case: no case \(name); there are \(PipelineCase.all.map(\.name).joined(separator: ", "))")
      }
      return found
    }
  }

  /// Reads `1,10k,1M`.
  private func numbers(_ text: String, _ option: String, _ range: ClosedRange<Int>) throws -> [Int] {
    try text.split(separator: ",").map { part in
      var digits = part
      var factor = 1
      if let last = part.last, let unit = ["k": 1000, "M": 1_000_000][last] {
        factor = unit
        digits = part.dropLast()
      }
      guard let number = Int(digits), range.contains(number * factor) else {
        throw Failure(.usage, "\(option): \(part) is no number from \(range.lowerBound) to \(range.upperBound)")
      }
      return number * factor
    }
  }

  private func csv(_ result: PipelineResult) -> String {
    "\(result.case),\(result.flows),\(result.size),\(result.workers),\(result.takesTurns),\(rounded(result.nsMin)),"
      + "\(rounded(result.nsMedian)),\(rounded(result.nsMax)),\(rounded(result.mpps)),\(result.instructions.map(rounded) ?? "")"
  }

  private func table(_ results: [PipelineResult]) -> String {
    var table = TextTable([
      "CASE", ">FLOWS", ">SIZE", ">WORKERS", ">NS MIN", ">NS MEDIAN", ">NS MAX", ">MPPS", ">INSTRUCTIONS",
    ])
    for result in results {
      table.add([
        result.case, "\(result.flows)", "\(result.size)", "\(result.workers)\(result.takesTurns ? " by turns" : "")",
        rounded(result.nsMin),
        rounded(result.nsMedian), rounded(result.nsMax), rounded(result.mpps), result.instructions.map(rounded) ?? "-",
      ])
    }
    return table.text
  }

  private func rounded(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }
}
