import ArgumentParser
import Bench
import FoundationEssentials
import Glibc
import IPAM
import Lab
import Replay

/// `kalsae bench ipam`
struct AddressBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ipam", abstract: "Measure and audit address management under many processes.",
    discussion: """
      Processes give and take addresses of one store as fast as they can, in a pool that has hardly more addresses than \
      they hold. Each writes down what it did; the audit holds these against each other and against the store: no address \
      twice, none lost, none leaked. With --kills, processes are killed at random moments and begun again.
      """)

  @Option(help: ArgumentHelp("How many processes.", valueName: "n"))
  var processes = 16

  @Option(help: ArgumentHelp("Operations of each process.", valueName: "n"))
  var operations = 1000

  @Option(help: ArgumentHelp("How many of the processes are killed on the way, each time another one.", valueName: "n"))
  var kills = 0

  @Option(
    help: ArgumentHelp("Where the store lies while it is measured (default: /var/tmp).", valueName: "dir"),
    completion: .directory)
  var folder = "/var/tmp"

  @Option(help: "How the result is written.")
  var output: PipelineBenchCommand.Format = .text

  func validate() throws {
    try requireNumber("--processes", processes, in: 1...256)
    try requireNumber("--operations", operations, in: 1...100_000)
    try requireNumber("--kills", kills, in: 0...100_000)
    guard output != .csv else { throw ValidationError("--output: csv is for bench pipeline; give text or json") }
  }

  func run() throws {
    let lab = try Lab(name: "ipam")
    defer { lab.cleanUp() }
    let folder = "\(folder)/kalsae-bench-\(ProcessInfo.processInfo.processIdentifier)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    try lab.onCleanUp { try? FileManager.default.removeItem(atPath: folder) }
    var plan = AddressBenchPlan(folder: folder)
    plan.processes = processes
    plan.operations = operations
    let audit = try race(plan, lab)
    try Standard.output(output == .json ? json(audit) : text(audit))
    guard audit.isClean else { throw ExitCode(Failure.Status.difference.rawValue) }
  }

  private func race(_ plan: AddressBenchPlan, _ lab: Lab) throws -> AddressAudit {
    try reportingIPAM { () throws(IPAMError) in
      // No address rests: whatever could be given twice is.
      try plan.manager().configure { $0.coolDownSeconds = 0 }
    }
    let program = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    func start(_ index: Int) throws -> Child {
      try lab.spawn([
        program, "bench", "ipam-worker", "--folder", plan.folder, "--processes", "\(processes)", "--operations",
        "\(operations)", "--index", "\(index)",
      ])
    }
    var workers = try (0..<processes).map(start)
    let begin = ContinuousClock.now
    guard FileManager.default.createFile(atPath: plan.startFile, contents: nil) else {
      throw Failure(.io, "\(plan.startFile): cannot make the file")
    }
    var progress = ProgressLine()
    var killed = 0
    let deadline = begin + .seconds(600)
    while true {
      let running = workers.indices.filter { workers[$0].isRunning }
      for index in workers.indices where !running.contains(index) {
        let result = try workers[index].wait(timeout: .seconds(1))
        if case .exited(let code) = result.status, code != 0 {
          throw Failure(.software, "worker \(index) failed: \(result.standardError)")
        }
      }
      if running.isEmpty { break }
      guard ContinuousClock.now < deadline else { throw Failure(.software, "the workers did not end in 600 s") }
      if killed < kills, let victim = running.randomElement() {
        workers[victim].signal(9)
        _ = try workers[victim].wait(timeout: .seconds(10))
        workers[victim] = try start(victim)
        killed += 1
      }
      progress.show { "\(running.count) processes at work, \(killed) killed, \(Int($0)) s" }
      usleep(UInt32.random(in: 5_000...50_000))
    }
    progress.clear()
    let seconds = (ContinuousClock.now - begin) / .seconds(1)
    return try reportingIPAM { () throws(IPAMError) in
      try AddressAudit(plan, kills: killed, seconds: seconds)
    }
  }

  private func json(_ audit: AddressAudit) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    return String(decoding: try encoder.encode(audit), as: UTF8.self) + "\n"
  }

  private func text(_ audit: AddressAudit) -> String {
    func count(_ what: [String]) -> String { what.isEmpty ? "none" : what.joined(separator: ", ") }
    var table = TextTable(["MEASURE", "VALUE"])
    table.add(["processes", "\(audit.processes), \(audit.kills) killed and begun again"])
    table.add(["operations", "\(grouped(audit.operations)) in \(rounded(audit.seconds)) s"])
    table.add(["a second", "\(grouped(Int(audit.operationsPerSecond)))"])
    table.add(["latency", "p50 \(audit.p50) µs, p99 \(audit.p99) µs, most \(audit.most) µs"])
    table.add([
      "fairness",
      "\((audit.fairness * 1000).rounded() / 1000) (1 = equal); when the first was done, "
        + "the processes had done \(audit.fewest) to \(audit.largest)",
    ])
    table.add(["borrowed at the end", "\(audit.borrowed)"])
    table.add(["given twice", count(audit.duplicates)])
    table.add(["lost", count(audit.lost)])
    table.add(["leaked", count(audit.leaked)])
    table.add(["contradictions", count(audit.contradictions)])
    return table.text
  }

  private func rounded(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }
}

/// One of the processes.
struct AddressWorkerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ipam-worker", abstract: "One process of `bench ipam`.", shouldDisplay: false)

  @Option var folder: String
  @Option var processes: Int
  @Option var operations: Int
  @Option var index: Int

  func run() throws {
    var plan = AddressBenchPlan(folder: folder)
    plan.processes = processes
    plan.operations = operations
    try reportingIPAM { () throws(IPAMError) in
      var worker = try AddressWorker(plan, index: index)
      try worker.run()
    }
  }
}
