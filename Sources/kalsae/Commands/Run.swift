import Agent
import ArgumentParser
import Logging

extension Kalsae {
  /// `kalsae run`
  struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "run",
      abstract: "Run the data plane of a node, as a daemon in the foreground.",
      discussion: """
        The manifests are followed while it runs: a change on disk is applied at once; a broken one keeps the last good \
        state and is reported on stderr with its file and line. SIGHUP reads them again. SIGTERM and SIGINT give \
        everything back to the host - devices, routes, filters - and end it. Under systemd use Type=notify.

        EXAMPLES
          kalsae run --state /etc/kalsae --node node-a
          kalsae get status

        EXIT STATUS
          0 ended by a signal; 1 a failure; 64 usage; 66 no such directory or node; 75 an agent of the node runs \
        already; 77 not root.
        """)

    @Option(
      name: .long, help: ArgumentHelp("The directory of Kubernetes manifests.", valueName: "dir"),
      completion: .directory)
    var state: String

    @Option(name: .long, help: ArgumentHelp("The node that this is: the name of a Node manifest.", valueName: "name"))
    var node: String

    @Option(
      name: .long,
      help: ArgumentHelp(
        "Where to answer get, drops and flows. (default: /run/kalsae/NODE.sock)", valueName: "path"),
      completion: .file())
    var socket: String?

    @Option(
      name: .long,
      help: ArgumentHelp(
        "What outlives the agent: containers' attachments and addresses. (default: /var/lib/kalsae/NODE)",
        valueName: "dir"), completion: .directory)
    var data: String?

    @Flag(
      name: .long,
      help: "Let the agent that runs hand over its ports and flows and end; where none runs, just start.")
    var takeover = false

    @Option(
      name: .long,
      help: ArgumentHelp(
        "Whose connections the programs in the kernel look after, where `ebpf` in NodeConfiguration is not off: a "
          + "control group of version 2. (default: all of the machine's)", valueName: "dir"),
      completion: .directory)
    var cgroup: String?

    @Option(name: .long, help: ArgumentHelp("What is logged.", valueName: "level"))
    var logLevel = LogLevel.info

    /// swift-log's levels.
    enum LogLevel: String, ExpressibleByArgument, CaseIterable {
      case trace, debug, info, notice, warning, error, critical
    }

    func validate() throws {
      guard !node.isEmpty, !node.contains("/") else {
        throw ValidationError("--node '\(node)': the name of a Node has no slash and is not empty")
      }
    }

    func run() throws {
      var log = Logger(label: "kalsae", factory: { StreamLogHandler.standardError(label: $0) })
      log.logLevel = Logger.Level(rawValue: logLevel.rawValue) ?? .info
      try reportingAgent {
        var configuration = AgentConfiguration(
          node: node, stateDirectory: state, socketPath: socket, dataDirectory: data, controlGroup: cgroup)
        configuration.takesOver = takeover
        let agent = try Agent(configuration, log: log)
        try agent.run()
      }
    }
  }
}

/// Runs `body` and turns an agent's error into the command's.
func reportingAgent<R>(_ body: () throws -> R) throws -> R {
  do { return try body() } catch let error as AgentError {
    throw Failure(Failure.Status(rawValue: error.code.rawValue) ?? .difference, error.description)
  }
}
