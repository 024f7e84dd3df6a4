import Addresses
import Agent
import ArgumentParser
import FoundationEssentials
import IPAM
import Model

/// `kalsae ipam check`
struct IPAMCheckCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check", abstract: "Compare the addresses that are given with those in use.",
    discussion: """
      In use is what the pods of the manifests have, and those of the running agent. An address that was given a moment \
      ago may not be in use yet: compare two reports before you release anything.
      """)

  @Flag(name: .customLong("show-all-ips"), help: "Print all IPs that are checked.")
  var showAllIPs = false

  @Flag(name: .customLong("show-problem-ips"), help: "Print all IPs that are leaked or not allocated properly.")
  var showProblemIPs = false

  @OptionGroup var source: IPAMOptions

  @Option(
    name: .shortAndLong,
    help: ArgumentHelp(
      "The form of the output, or a file, such as report.json, that gets the report for `release --from-report` beside "
        + "the text.", valueName: "file|text|json|yaml"), completion: .file())
  var output = CheckOutput.form(.text)

  func run() throws {
    let state = try source.loadState()
    var inUse: [IPAddress: Set<String>] = [:]
    for pod in state.pods.values where pod.hasOwnNetwork {
      for address in pod.addresses { inUse[address, default: []].insert("Workload(\(pod.namespace)/\(pod.name))") }
    }
    let attached = try? AgentClient.find(socketPath: nil, node: nil).ask(AgentRequest(.pods)).reply.pods
    for pod in attached ?? [] where pod.isAttached {
      for address in pod.addresses.compactMap({ IPAddress($0) }) {
        inUse[address, default: []].insert("Workload(\(pod.namespace)/\(pod.name))")
      }
    }
    let catalog = PoolCatalog(state)
    let manager = try source.manager(catalog)
    let snapshot = try reportingIPAM { () throws(IPAMError) in try manager.snapshot() }
    let report = CheckReport(
      snapshot, catalog: catalog, inUse: inUse.mapValues { $0.sorted() }, version: Kalsae.version)
    let form: IPAMFormat
    switch output {
    case .form(let asked): form = asked
    case .file(let path):
      form = .text
      try write(report, to: path)
    }
    try form.show(report) { _ in report.text(showAll: showAllIPs, showProblems: showProblemIPs) }
    guard report.problems == 0 else { throw ExitCode(Failure.Status.difference.rawValue) }
  }

  private func write(_ report: CheckReport, to path: String) throws {
    let text = try IPAMFormat.json(report)
    guard FileManager.default.createFile(atPath: path, contents: Data(text.utf8)) else {
      throw Failure(.io, "\(path): the report cannot be written")
    }
  }
}

/// Where `check` puts its report.
enum CheckOutput: ExpressibleByArgument {
  case form(IPAMFormat)
  case file(String)

  /// A word that is no form is a mistake, and no file.
  init?(argument: String) {
    if let form = IPAMFormat(rawValue: argument) {
      self = .form(form)
    } else if argument.contains(where: { $0 == "." || $0 == "/" }) {
      self = .file(argument)
    } else {
      return nil
    }
  }

  var defaultValueDescription: String {
    switch self {
    case .form(let form): form.rawValue
    case .file(let path): path
    }
  }
}

/// `kalsae ipam release`
struct IPAMReleaseCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "release", abstract: "Take addresses back whose containers are gone.",
    discussion: """
      The address is not taken from a container that still uses it: only release what is leaked. Of several reports, \
      what is leaked in all of them is released; what was given anew since is not.
      """)

  @Option(name: .long, help: ArgumentHelp("The address to release.", valueName: "address"))
  var ip: String?

  @Option(
    name: .long, help: ArgumentHelp("Release what a report of `check -o FILE` calls leaked.", valueName: "file"),
    completion: .file())
  var fromReport: [String] = []

  @OptionGroup var source: IPAMOptions

  func validate() throws {
    guard (ip != nil) != !fromReport.isEmpty else { throw ValidationError("give one of --ip and --from-report") }
  }

  func run() throws {
    let manager = try source.manager(PoolCatalog(pools: []))
    if let ip {
      guard let address = IPAddress(ip) else { throw Failure(.usage, "--ip: \(ip) is no IP address") }
      let done = try reportingIPAM { () throws(IPAMError) in try manager.release(address) }
      guard done else { throw Failure(.difference, "IP address \(address) is not assigned") }
      return try Standard.output("Successfully released IP address \(address)\n")
    }
    let reports = try fromReport.map(read)
    try release(
      reports[0].leaked.filter { entry in
        reports.allSatisfy { report in
          report.leaked.contains {
            $0.ip == entry.ip && $0.handle == entry.handle && $0.sequenceNumber == entry.sequenceNumber
          }
        }
      }, manager)
    try releaseHandles(
      (reports[0].leakedHandles ?? []).map(\.id).filter { id in
        reports.allSatisfy { $0.leakedHandles?.contains { $0.id == id } ?? false }
      }, manager)
  }

  private func release(_ leaked: [CheckReport.Entry], _ manager: BlockManager) throws {
    guard !leaked.isEmpty else { return try Standard.output("Report didn't contain any leaked IPs to clean up.\n") }
    try Standard.output("Releasing \(leaked.count) old IPs...\n")
    let released = try reportingIPAM { () throws(IPAMError) in
      var released = 0
      for entry in leaked {
        if let address = IPAddress(entry.ip), try manager.release(address, only: entry) { released += 1 }
      }
      return released
    }
    try Standard.output("Released \(released) IPs successfully\n")
    if released < leaked.count {
      try Standard.output(
        "\(leaked.count - released) addresses marked as leaked in the report had already been cleaned up.\n")
    }
  }

  private func releaseHandles(_ leaked: [String], _ manager: BlockManager) throws {
    guard !leaked.isEmpty else { return try Standard.output("Report didn't contain any handles to clean up.\n") }
    try Standard.output("Deleting \(leaked.count) handles...\n")
    let released = try reportingIPAM { () throws(IPAMError) in
      var released = 0
      for id in leaked where try manager.release(handle: id) { released += 1 }
      return released
    }
    try Standard.output("Released \(released) handles; \(leaked.count - released) skipped; 0 errors.\n")
  }

  private func read(_ path: String) throws -> CheckReport {
    guard let data = FileManager.default.contents(atPath: path) else {
      throw Failure(.missing, "\(path): cannot open the report")
    }
    do { return try JSONDecoder().decode(CheckReport.self, from: data) } catch {
      throw Failure(.data, "\(path): this is no report of `kalsae ipam check -o FILE`: \(error)")
    }
  }
}
