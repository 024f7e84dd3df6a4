import Addresses
import Agent
import ArgumentParser
import CNI
import FoundationEssentials
import Glibc
import IPAM
import Model
import Replay
import Yams

extension Kalsae {
  /// `kalsae ipam`
  struct IPAMCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "ipam",
      abstract: "Show, check and release the addresses of containers.",
      discussion: """
        The words, tables and reports are calicoctl's.

        EXAMPLES
          kalsae ipam show --show-blocks
          kalsae ipam show --ip 10.244.0.7
          kalsae ipam check --show-problem-ips
          kalsae ipam check -o report.json; kalsae ipam release --from-report report.json

        EXIT STATUS
          0 done, and all is well; 1 a problem was found, or an address was not assigned; 64 usage; 65 a manifest or \
        report makes no sense; 66 no such file; 74 the store cannot be read or written; 75 the store is busy.
        """,
      subcommands: [
        IPAMShowCommand.self, IPAMCheckCommand.self, IPAMReleaseCommand.self, IPAMConfigureCommand.self,
        IPAMLimitsCommand.self,
      ])
  }
}

/// Where the addresses are written down, and the pools that they come from.
struct IPAMOptions: ParsableArguments {
  @Option(
    name: .long, help: ArgumentHelp("The store of addresses.", valueName: "file"), completion: .file())
  var store = SQLiteStore.defaultPath

  @Option(
    name: .long,
    help: ArgumentHelp("The directory of Kubernetes manifests. (default: that of the running agent)", valueName: "dir"),
    completion: .directory)
  var state: String?

  /// The store as it is. `makes`: whether a store that is not there is made.
  func manager(_ catalog: PoolCatalog, makes: Bool = false) throws -> BlockManager {
    guard makes || FileManager.default.fileExists(atPath: store) else {
      throw Failure(
        .missing,
        "\(store): there is no store of addresses yet; the agent makes it with the first container that gets one, and "
          + "another is named with --store")
    }
    if makes, let end = store.lastIndex(of: "/"), let refused = Folders.make(String(store[..<end]), mode: 0o700) {
      throw Failure(.io, unsafe "cannot make the folder \(refused): \(String(cString: strerror(errno)))")
    }
    return try reportingIPAM { () throws(IPAMError) in
      BlockManager(store: try SQLiteStore(path: store), catalog: { catalog })
    }
  }

  /// The desired state, which has the pools.
  func loadState() throws -> State {
    let state = try reporting { () throws(ReplayError) in try loadWholeState(try directory()) }
    return state
  }

  private func directory() throws(ReplayError) -> String {
    if let state { return state }
    if let answer = try? AgentClient.find(socketPath: nil, node: nil).ask(AgentRequest(.status)).reply.status {
      return answer.stateDirectory
    }
    throw ReplayError(.usage, "no agent runs here that knows the pools: name their directory with --state")
  }
}

/// How a command of `ipam` writes its result.
enum IPAMFormat: String, ExpressibleByArgument, CaseIterable {
  case text
  case wide
  case json
  case yaml

  /// `text` where people read it, else the value.
  func show(_ value: some Encodable, _ text: (_ isWide: Bool) -> String) throws {
    switch self {
    case .text, .wide: try Standard.output(text(self == .wide))
    case .json: try Standard.output(IPAMFormat.json(value))
    case .yaml: try Standard.output(try YAMLEncoder().encode(value))
    }
  }

  static func json(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self) + "\n"
  }
}

/// Runs `body` and turns its error into the command's.
func reportingIPAM<R>(_ body: () throws(IPAMError) -> R) throws(Failure) -> R {
  do { return try body() } catch {
    let status: Failure.Status =
      switch error.kind {
      case .configuration: .data
      case .storage: .io
      case .busy: .running
      default: .difference
      }
    throw Failure(status, error.message)
  }
}
