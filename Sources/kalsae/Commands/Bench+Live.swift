import ArgumentParser
import Bench
import FoundationEssentials
import Lab
import Replay

/// `kalsae bench live`
struct LiveBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "live", abstract: "Measure pods' traffic through the daemon and through its peers, in one run.",
    discussion: """
      Makes two nodes in network namespaces, once for each subject, with a pod on each, and measures from pod to pod: TCP \
      by iperf3 (cubic, one and four streams), small UDP packets, round-trip times, and the daemons' processor time. \
      Every subject is measured once a round; the table shows medians and, in brackets, the ratio to kernel-vxlan \
      inside a round. All programs share this machine's processors: figures of one run compare, others do not.

      Everything is taken away again at the end, after a failure, and at Ctrl-C. Needs root and iperf3.
      """)

  @OptionGroup var options: LiveBenchOptions

  func validate() throws { try options.check(.live) }
  func run() throws { try options.run(.live) }
}

/// `kalsae bench ports`
struct PortsBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ports", abstract: "Measure each kind of port by itself, beside the kernel's routing.",
    discussion: """
      Joins two pods in network namespaces by two ports of a kind and a thread that only forwards from each to the other, \
      and measures as `kalsae bench live` does: what a data plane on such ports cannot exceed.
      """)

  @OptionGroup var options: LiveBenchOptions

  func validate() throws { try options.check(.ports) }
  func run() throws { try options.run(.ports) }
}

/// What `bench live` and `bench ports` are told.
struct LiveBenchOptions: ParsableArguments {
  @Option(help: ArgumentHelp("What carries the packets, separated by commas; see the manual page.", valueName: "names"))
  var subjects: String?

  @Option(
    help: ArgumentHelp(
      "What is measured, separated by commas: \(LiveMeasure.allCases.map(\.rawValue).joined(separator: ", ")).",
      valueName: "names"))
  var measures: String?

  @Option(help: ArgumentHelp("How often every subject is measured.", valueName: "n"))
  var rounds = 3

  @Option(help: ArgumentHelp("The length of one measurement.", valueName: "seconds"))
  var seconds = 1.0

  @Option(help: "How the result is written.")
  var output: OutputFormat = .text

  func check(_ bench: LiveBench) throws {
    try requireNumber("--rounds", rounds, in: 1...100)
    try requireNumber("--seconds", seconds, in: 0.2...60)
    for name in LiveBenchOptions.names(subjects) where !bench.subjectNames.contains(name) {
      throw ValidationError("--subjects: no subject \(name); there are \(bench.subjectNames.joined(separator: ", "))")
    }
    for name in LiveBenchOptions.names(measures) where LiveMeasure(rawValue: name) == nil {
      throw ValidationError(
        "--measures: no measure \(name); there are \(LiveMeasure.allCases.map(\.rawValue).joined(separator: ", "))")
    }
  }

  private static func names(_ text: String?) -> [String] {
    (text ?? "").split(separator: ",").map { String($0).trimmed }
  }

  func run(_ bench: LiveBench) throws {
    if let reason = Lab.unavailableReason { throw Failure(.unavailable, "bench: \(reason)") }
    guard let program = ownPath() else { throw Failure(.software, "bench: cannot find the path of this program") }
    Interruption.onSignal { _ in Standard.error("\ninterrupted: taking everything away…\n") }
    var bench = bench
    bench.rounds = rounds
    bench.seconds = seconds
    if subjects != nil { bench.subjects = LiveBenchOptions.names(subjects) }
    if measures != nil { bench.measures = LiveBenchOptions.names(measures).compactMap(LiveMeasure.init) }
    bench.progress = { text in if Standard.errorIsTerminal { Standard.error("\r\u{1b}[K\(text)") } }
    let results: [LiveResult]
    do {
      results = try bench.run(program: program)
    } catch {
      throw Failure(.difference, "bench: \(error)")
    }
    if Standard.errorIsTerminal { Standard.error("\r\u{1b}[K") }
    switch output {
    case .text: try Standard.output(table(results, bench))
    case .json:
      struct Report: Encodable {
        var machine = LiveMachine()
        var results: [LiveResult]
      }
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
      try Standard.output(String(decoding: try encoder.encode(Report(results: results)), as: UTF8.self) + "\n")
    }
  }

  private func table(_ results: [LiveResult], _ bench: LiveBench) -> String {
    let machine = LiveMachine()
    let columns = bench.measures.filter { measure in results.contains { $0.measure == measure } }
    var table = TextTable(["SUBJECT"] + columns.map { ">\($0.title)" })
    for name in bench.subjectNames where results.contains(where: { $0.subject == name }) {
      table.add(
        [name]
          + columns.map { measure in
            guard let result = results.first(where: { $0.subject == name && $0.measure == measure }) else { return "-" }
            return text(result.median) + (result.ratio.map { " (\(text($0)))" } ?? "")
          })
    }
    return "\(machine.processor), \(machine.processors) processors, Linux \(machine.kernel); medians of "
      + "\(bench.rounds) rounds of \(bench.seconds) s; in brackets the ratio to \(bench.reference)\n" + table.text
  }

  private func text(_ value: Double) -> String {
    let factor = value < 10 ? 100.0 : value < 100 ? 10 : 1
    let rounded = (value * factor).rounded() / factor
    return factor == 1 ? "\(Int(rounded))" : "\(rounded)"
  }
}
