import ArgumentParser

/// The command line. Each command is a file in Commands/.
@main
struct Kalsae: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "kalsae",
    abstract: "A node's network data plane in user space.",
    discussion: """
      EXIT STATUS
        0   done, and as expected
        1   done, with a difference, a failure, or a line that could not be answered
        64  the command line makes no sense
        65  the contents of a file make no sense
        66  a file, device or object is not there
        69  no agent answers
        70  an error in kalsae itself
        74  reading or writing failed
        75  an agent of the node runs already
        77  not permitted
        130 ended by Ctrl-C
      """,
    version: version,
    subcommands: [
      DemoCommand.self, RunCommand.self, CNICommand.self, GetCommand.self, DropsCommand.self, FlowsCommand.self,
      BenchCommand.self,
      ReplayCommand.self,
      TraceCommand.self, IPAMCommand.self, EBPFCommand.self,
    ])

  static let version = "0.1.0"

  /// Errors of ours are one line on stderr and an exit status; the rest is the parser's business.
  static func main() {
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch let failure as Failure {
      Standard.error("kalsae: \(failure.message)\n")
      exit(withError: ExitCode(failure.status.rawValue))
    } catch {
      exit(withError: error)
    }
  }
}
