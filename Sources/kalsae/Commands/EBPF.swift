import Agent
import ArgumentParser
import EBPF
import FoundationEssentials
import Glibc
import Replay

/// `kalsae ebpf`
struct EBPFCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ebpf",
    abstract: "What the kernel does: services at the socket and on packets, established flows, network policy.",
    subcommands: [Load.self, Status.self, Unload.self, Dump.self])

  /// Writes a value as JSON.
  static func json(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    return String(decoding: try encoder.encode(value), as: UTF8.self) + "\n"
  }

  static func needsRoot() throws {
    if geteuid() != 0 {
      throw Failure(.permission, "kalsae ebpf needs root: it looks into the kernel; use sudo")
    }
  }

  /// The node that is meant where none is named: the only one that is loaded.
  static func node(_ name: String?) throws -> String {
    let found = PinFolder.nodes()
    if let name {
      guard found.contains(name) else {
        throw Failure(
          .missing,
          "nothing is loaded for node \(name)\(found.isEmpty ? "" : "; loaded: \(found.joined(separator: ", "))")")
      }
      return name
    }
    switch found.count {
    case 1: return found[0]
    case 0: throw Failure(.missing, "nothing is loaded: kalsae ebpf load, or `ebpf: auto` in NodeConfiguration")
    default: throw Failure(.usage, "several nodes are loaded: choose one with --node: \(found.joined(separator: ", "))")
    }
  }

  struct Load: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Load what the manifests say, without an agent; it stays until it is unloaded.",
      discussion: """
        The network namespace of the command is the node's. Pods are looked after whose manifests name their network \
        namespace (kalsae.io/netns). An agent that starts later takes over.
        """)

    @Option(
      name: .long, help: ArgumentHelp("The directory of Kubernetes manifests.", valueName: "dir"),
      completion: .directory)
    var state: String

    @Option(name: .long, help: ArgumentHelp("The node that this is.", valueName: "name"))
    var node: String

    @Option(
      name: .long,
      help: ArgumentHelp(
        "Whose connections are looked after: a control group of version 2. (default: all of the machine's)",
        valueName: "dir"), completion: .directory)
    var cgroup: String?

    func run() throws {
      try EBPFCommand.needsRoot()
      let (summary, problems) = try reportingAgent {
        try SocketLoader.load(stateDirectory: state, node: node, controlGroup: cgroup)
      }
      for problem in problems { Standard.error("kalsae: \(problem)\n") }
      try Standard.output("loaded: \(summary)\n")
    }
  }

  struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Show hook by hook what the kernel can do and what is used.")

    @Option(name: .long, help: ArgumentHelp("The node. (default: all that are loaded)", valueName: "name"))
    var node: String?

    @Option(name: .shortAndLong, help: "The form of the output.")
    var output = OutputFormat.text

    func run() throws {
      try EBPFCommand.needsRoot()
      let nodes = node.map { [$0] } ?? PinFolder.nodes()
      let reports = nodes.isEmpty ? [EBPFReport.read(node: nil)] : nodes.map { EBPFReport.read(node: $0) }
      if output == .json { return try Standard.output(try EBPFCommand.json(reports)) }
      var text = ""
      for report in reports {
        if let node = report.node {
          text +=
            "node \(node): \(report.folder ?? ""), \(report.frontends) frontends, "
            + "\(report.namespaces) network namespaces\n"
        } else {
          text += "nothing is loaded\n"
        }
        var table = TextTable(["HOOK", "KERNEL", "STATE", "FOR"])
        for hook in report.hooks { table.add([hook.hook, hook.kernel, hook.state, hook.purpose]) }
        text += table.text
        for note in report.notes { text += note + "\n" }
        if !report.counters.isEmpty {
          var table = TextTable([">COUNT", "COUNTER", "MEANING"])
          for counter in report.counters { table.add(["\(counter.count)", counter.name, counter.meaning]) }
          text += table.text
        }
        if let overlay = report.overlay {
          text += "overlay: \(overlay.flows) of at most \(overlay.limit) directions of flows\n"
          var table = TextTable([">COUNT", "COUNTER", "MEANING"])
          for counter in overlay.counters { table.add(["\(counter.count)", counter.name, counter.meaning]) }
          text += table.text
        }
        if let policy = report.policy {
          text += "policy: \(policy.rules) rules, \(policy.connections) connections\n"
          var table = TextTable([">COUNT", "COUNTER", "MEANING"])
          for counter in policy.counters { table.add(["\(counter.count)", counter.name, counter.meaning]) }
          text += table.text
        }
      }
      try Standard.output(text)
    }
  }

  struct Unload: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Detach all programs and take programs and maps out of the kernel.",
      discussion: "Connections that were made stay as they are. An agent that runs loads again with its next change.")

    @Option(name: .long, help: ArgumentHelp("The node. (default: all that are loaded)", valueName: "name"))
    var node: String?

    func run() throws {
      try EBPFCommand.needsRoot()
      let nodes = node.map { [$0] } ?? PinFolder.nodes()
      var text = ""
      for node in nodes {
        let had = [
          FlowOffloader.unload(node: node, everywhere: true), PolicyEnforcer.unload(node: node, everywhere: true),
          SocketBalancer.unload(node: node),
        ]
        if !had.contains(true) { continue }
        text += "unloaded: node \(node)\n"
      }
      try Standard.output(text.isEmpty ? "nothing was loaded\n" : text)
    }
  }

  struct Dump: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show what the maps in the kernel hold.")

    enum Topic: String, ExpressibleByArgument, CaseIterable {
      case services, flows, policy
    }

    @Argument(help: "What to show.")
    var topic: Topic

    @Option(name: .long, help: ArgumentHelp("The node. (default: the only one that is loaded)", valueName: "name"))
    var node: String?

    @Option(name: .long, help: ArgumentHelp("The number of flows to show.", valueName: "n"))
    var limit = 1000

    @Option(name: .shortAndLong, help: "The form of the output.")
    var output = OutputFormat.text

    func validate() throws {
      try requireNumber("--limit", limit, in: 0...1_000_000)
    }

    func run() throws {
      try EBPFCommand.needsRoot()
      let node = try EBPFCommand.node(node)
      switch topic {
      case .services:
        let services = EBPFDump.services(node: node)
        if output == .json { return try Standard.output(try EBPFCommand.json(services)) }
        var table = TextTable(["ADDRESS", ">PORT", "PROTOCOL", "KIND", "ONLY LOCAL", ">AFFINITY", "ENDPOINTS"])
        for service in services {
          let endpoints = service.isLocal ? service.localEndpoints : service.endpoints
          table.add([
            service.address, "\(service.port)", service.transport, service.kind, service.isLocal ? "yes" : "no",
            service.affinity == 0 ? "-" : "\(service.affinity) s",
            endpoints.isEmpty ? "none" : endpoints.joined(separator: " "),
          ])
        }
        try Standard.output(table.text)
      case .flows:
        let flows = EBPFDump.flows(node: node, limit: limit)
        if output == .json { return try Standard.output(try EBPFCommand.json(flows)) }
        var table = TextTable(["CLIENT", "PROTOCOL", "SERVICE", "ENDPOINT"])
        for flow in flows {
          let client = flow.client ?? "socket \(flow.socket ?? 0)"
          table.add([client, flow.transport, flow.service, flow.endpoint])
        }
        try Standard.output(table.text)
      case .policy:
        let rules = EBPFDump.policy(node: node)
        if output == .json { return try Standard.output(try EBPFCommand.json(rules)) }
        var table = TextTable(["POD", "DIRECTION", "PEER", "PORTS"])
        for rule in rules { table.add([rule.pod, rule.direction, rule.peer, rule.ports.joined(separator: ", ")]) }
        try Standard.output(table.text)
      }
    }
  }
}
