import Agent
import ArgumentParser
import Logging

/// The daemon of a node.
struct Run: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Runs the data plane of a node, as a daemon in the foreground.",
    discussion: """
      The manifests are followed while it runs: a change on disk is applied at once, a broken one keeps the last good \
      state and is reported. SIGHUP reads them again; SIGTERM gives everything back to the host and ends it.

      It needs root. Under systemd use Type=notify.
      """)

  @Option(name: .long, help: ArgumentHelp("The directory of the manifests.", valueName: "dir"))
  var state: String

  @Option(name: .long, help: ArgumentHelp("The name of this node's manifest.", valueName: "name"))
  var node: String

  @Option(
    name: .long,
    help: ArgumentHelp("Where to answer `kalsae get` and its like (default: /run/kalsae/NODE.sock).", valueName: "path"))
  var socket: String?

  @Option(
    name: .long,
    help: ArgumentHelp("trace, debug, info, notice, warning, error or critical.", valueName: "level"))
  var logLevel = "info"

  func validate() throws {
    guard Logger.Level(rawValue: logLevel) != nil else {
      let levels = Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("--log-level is one of \(levels), not '\(logLevel)'")
    }
    guard !node.isEmpty, !node.contains("/") else { throw ValidationError("--node '\(node)' is no name of a node") }
  }

  func run() throws {
    var log = Logger(label: "kalsae", factory: { StreamLogHandler.standardError(label: $0) })
    log.logLevel = Logger.Level(rawValue: logLevel) ?? .info
    do {
      let agent = try Agent(AgentConfiguration(node: node, stateDirectory: state, socketPath: socket), log: log)
      try agent.run()
    } catch let error as AgentError {
      fail(error)
    }
  }
}

/// Ends the program with an error's text and exit code.
func fail(_ error: AgentError) -> Never {
  complain(error.description)
  Run.exit(withError: ExitCode(error.code.rawValue))
}
