import Addresses
import CLinux
import CNI
import Compiler
import Glibc
import IPAM
import Logging
import Model
import Node
import Synchronization

/// Does what container runtimes ask for by the plugin. Requests come from many threads at once; those about one
/// container's interface go one after the other.
final class CNIService: Sendable {
  let node: String
  let store: AttachmentStore
  let spool: DeleteSpool
  let control: ControlQueue
  let netlink: Netlink
  let managers: AddressManagers
  let log: Logger
  /// The agent's own network namespace, which is no container's.
  private let ownNamespace: NetworkNamespace.Identity
  private let busy = Mutex<Set<Attachment>>([])
  /// The blocks that the tables know, by node.
  let known = Mutex<[String: [IPPrefix]]>([:])
  /// Those who make or take attachments share it, who collects what nobody has needs it alone.
  private let gate = SharedGate()

  init(
    node: String, dataDirectory: String, control: ControlQueue, managers: AddressManagers, log: Logger
  ) throws {
    self.node = node
    store = try AttachmentStore(dataDirectory: dataDirectory)
    spool = DeleteSpool(dataDirectory: dataDirectory)
    self.control = control
    self.managers = managers
    self.log = log
    netlink = try Netlink()
    ownNamespace = try NetworkNamespace("/proc/self/ns/net").identity()
    for path in store.problems {
      log.warning("\(path): no record of an attachment; `kalsae ipam check` shows what it may have left")
    }
  }

  /// Answers a request: with a result, or with nothing where the command has none. `isWanted`: whether somebody still
  /// waits for the answer.
  func perform(_ request: CNIRequest, isWanted: () -> Bool = { true }) throws(CNIError) -> JSON? {
    switch request.command {
    case .add:
      return try exclusively(request) { () throws(CNIError) in
        // Of a plugin that was killed the runtime may have sent the DEL by now, and it may have overtaken the ADD: what
        // would be made then nobody would take back. A DEL that comes from here on has to wait.
        guard isWanted() else {
          throw CNIError(.tryAgain, "nobody waits for the answer any more", remedy: "the runtime asks again")
        }
        return try add(request)
      }
    case .delete:
      try exclusively(request) { () throws(CNIError) in try delete(request) }
      return nil
    case .check:
      try exclusively(request) { () throws(CNIError) in try check(request) }
      return nil
    case .collect:
      try collect(request)
      return nil
    case .status:
      try status(request)
      return nil
    case .version: return CNIVersion.report(asked: request.configuration.version.description)
    }
  }

  /// The runtime never got the answer to its ADD: what was made is taken back, as it will be told to anyway.
  func undo(_ request: CNIRequest) {
    guard request.command == .add else { return }
    log.warning("CNI ADD \(request.attachment): nobody waits for the answer; it is taken back")
    _ = try? exclusively(request) { () throws(CNIError) in try delete(request) }
  }

  /// Seconds that a request waits for another one about the same interface.
  private static let patience = 100

  private func exclusively<R>(_ request: CNIRequest, _ body: () throws(CNIError) -> R) throws(CNIError) -> R {
    let attachment = request.attachment
    var waits = 0
    while !busy.withLock({ $0.insert(attachment).inserted }) {
      guard waits < CNIService.patience * 1000 else {
        throw CNIError(
          .tryAgain, "another request about \(attachment) is still being carried out",
          remedy: "look at the agent's log for what holds it up; the runtime asks again")
      }
      waits += 1
      usleep(1000)
    }
    gate.enter()
    defer {
      gate.leave()
      busy.withLock { _ = $0.remove(attachment) }
    }
    return try body()
  }

  func alone<R>(_ body: () throws(CNIError) -> R) throws(CNIError) -> R {
    gate.close()
    defer { gate.open() }
    return try body()
  }

  // MARK: For all commands

  func onControl<R: Sendable>(
    settles: Bool = true, first change: @escaping @Sendable (Agent) -> Void = { _ in },
    then after: @escaping @Sendable (Agent) -> R
  ) throws(CNIError) -> R {
    try CNIService.wait(for: control.start(settles: settles, change, then: after))
  }

  static func wait<R>(for answer: Answer<R>) throws(CNIError) -> R {
    do throws(ControlQueueClosed) { return try answer.get() } catch {
      throw CNIError(
        .tryAgain, "the agent is ending", remedy: "start it again with `kalsae run`; the runtime asks again")
    }
  }

  func manager(_ request: CNIRequest) throws(CNIError) -> any AddressManager {
    do throws(IPAMError) { return try managers.manager(for: request) } catch { throw CNIError(error) }
  }

  func keep(_ record: AttachmentRecord) throws(CNIError) {
    do throws(AgentError) { try store.put(record) } catch {
      throw CNIError(.inputOutput, error.description, remedy: "make room in \(store.folder), or let it be written")
    }
  }

  /// The container's namespace, which must be one, and not the host's.
  func namespace(_ path: String) throws(CNIError) -> (NetworkNamespace, NetworkNamespace.Identity) {
    let namespace = NetworkNamespace(path.contains("/") ? path : "./\(path)")
    let identity: NetworkNamespace.Identity
    do throws(NodeError) { identity = try namespace.identity() } catch {
      throw CNIError(
        .invalidNamespace, "CNI_NETNS: \(error)",
        remedy: "hand the path of the container's network namespace, which must be there for as long as the call takes")
    }
    guard identity != ownNamespace else {
      throw CNIError(
        .invalidNamespace, "CNI_NETNS \(path) is the node's own network namespace",
        remedy: "give the container a namespace of its own, or start it with the host's network and without CNI")
    }
    return (namespace, identity)
  }

  static func kernel(_ error: NodeError) -> CNIError {
    CNIError(
      .kernel,
      "\(error.subject): cannot \(error.operation)"
        + (error.code == 0 ? "" : ": \(systemErrorText(error.code))") + (error.detail.map { ": \($0)" } ?? ""),
      remedy: error.remedy ?? "look at the kernel's log; nothing of the pod was kept")
  }
}

/// Lets many in at once, or one alone.
final class SharedGate: Sendable {
  private let state = Mutex<(inside: Int, isClosed: Bool)>((0, false))

  func enter() {
    while !state.withLock({ state in
      if !state.isClosed { state.inside += 1 }
      return !state.isClosed
    }) { usleep(500) }
  }

  func leave() { state.withLock { $0.inside -= 1 } }

  func close() {
    while !state.withLock({ state in
      let isFree = !state.isClosed
      state.isClosed = true
      return isFree
    }) { usleep(500) }
    while state.withLock({ $0.inside > 0 }) { usleep(500) }
  }

  func open() { state.withLock { $0.isClosed = false } }
}
