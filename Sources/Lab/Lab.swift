import Addresses
import CLinux
import Glibc
import Synchronization

/// A network of namespaces, links and programs that exists as long as it is wanted and leaves nothing behind.
///
///     let lab = try Lab(name: "two")
///     defer { lab.cleanUp() }
///     let (a, b) = (try lab.namespace("a"), try lab.namespace("b"))
///     try lab.veth(Endpoint(a, "eth0", addresses: ["10.0.0.1/24"]), Endpoint(b, "eth0", addresses: ["10.0.0.2/24"]))
///     let ping = try a.ping("10.0.0.2", count: 3)
///
/// A lab is cleaned up by `cleanUp()`, when the last reference to it goes, when the process exits, and when it gets
/// SIGINT, SIGTERM or SIGHUP (it then exits with 128 and the signal's number). What a process leaves that is ended by
/// SIGKILL is taken away by the next process that makes a lab. Every call blocks for a bounded time; a lab may be used
/// from several threads.
public final class Lab: Sendable {
  private struct State {
    var namespaces: [String] = []
    var children: [Child] = []
    var undo: [@Sendable () -> Void] = []
    var folder: String?
    var isClosed = false
  }

  private let state = Mutex(State())
  private let cleaning = Mutex(())
  private let ownName: Mutex<String> = Mutex("")

  /// The name that all the lab's namespaces begin with, without the final hyphen: `kl<pid>` or `kl<pid>-<name>`.
  public var prefix: String { "kl\(getpid())" + (name.isEmpty ? "" : "-\(name)") }

  /// The lab's name, with a number behind it where the process had a lab of that name already.
  public var name: String { ownName.withLock { $0 } }

  /// Why this process can have no lab, with the remedy; nil if it can.
  public static var unavailableReason: String? {
    if geteuid() != 0 { return "network namespaces need root: run this as root, or with sudo" }
    let number = lab_try_new_netns()
    if number != 0 {
      return "cannot make a network namespace: \(errorText(number)); run outside of a container that forbids it"
    }
    do {
      _ = try Programs.find("ip")
    } catch {
      return "\(error)"
    }
    return nil
  }

  /// Whether this process can have labs: it is root, may make network namespaces, and has iproute2.
  public static let isAvailable = unavailableReason == nil

  /// Makes an empty lab, after taking away what labs of processes that died have left.
  public init(name: String = "") throws {
    if let reason = Lab.unavailableReason { throw LabError.unavailable(reason) }
    guard name.allSatisfy(Lab.isGoodInNames) else {
      throw LabError.invalid("lab name '\(name)': only letters, digits, '.', '_' and '-' may be in it")
    }
    try Interruption.watch()
    _ = Registry.collectLeftovers()
    let registered = try Registry.register(self, named: name)
    ownName.withLock { $0 = registered }
  }

  deinit { cleanUp() }

  static func isGoodInNames(_ character: Character) -> Bool {
    character.isASCII && (character.isLetter || character.isNumber || "._-".contains(character))
  }

  /// Whether this machine has all of some programs.
  public static func has(_ programs: [String]) -> Bool { programs.allSatisfy { (try? Programs.find($0)) != nil } }

  /// Takes away what labs of processes that died have left behind, and returns the names of the namespaces.
  @discardableResult
  public static func collectLeftovers() -> [String] { Registry.collectLeftovers() }

  // MARK: Making things

  /// Makes a network namespace, `kl<pid>-<lab>-<name>` for `ip netns`, with its loopback device up and without
  /// duplicate-address detection, so that IPv6 addresses can be used at once.
  public func namespace(_ name: String) throws -> Namespace {
    guard !name.isEmpty, name.allSatisfy(Lab.isGoodInNames) else {
      throw LabError.invalid("namespace name '\(name)': letters, digits, '.', '_' and '-' are needed")
    }
    let namespace = Namespace(name: "\(prefix)-\(name)", lab: self)
    // Under the lock: cleaning up must see either nothing of it or all of it.
    try withOpenState { state in
      guard !state.namespaces.contains(namespace.name) else {
        throw LabError.invalid("there is a namespace '\(name)' in lab \(prefix) already")
      }
      state.namespaces.append(namespace.name)
      let child = try Child(
        ["ip", "netns", "add", namespace.name], netns: nil, input: nil, output: nil, errors: nil)
      guard let result = try child.waitForEnd(.seconds(10)) else {
        child.terminate()
        throw LabError.timedOut(what: "ip netns add \(namespace.name)", after: .seconds(10))
      }
      try result.check()
    }
    try namespace.sysctl("net/ipv6/conf/all/accept_dad", "0")
    try namespace.sysctl("net/ipv6/conf/default/accept_dad", "0")
    try namespace.ip("link set lo up")
    return namespace
  }

  /// Joins two namespaces by a pair of virtual Ethernet devices, both up, with the addresses of the endpoints.
  public func veth(_ a: Endpoint, _ b: Endpoint) throws {
    try run(
      ["ip", "link", "add", a.device, "netns", a.namespace.name] + a.linkArguments + ["type", "veth", "peer", "name"]
        + [b.device, "netns", b.namespace.name] + b.linkArguments)
    for end in [a, b] { try end.configure() }
  }

  /// Makes a bridge that is up and has `ports`, devices of the same namespace, which are brought up too.
  public func bridge(_ bridge: Endpoint, ports: [String] = []) throws {
    let arguments = (["link", "add", bridge.device] + bridge.linkArguments).joined(separator: " ")
    // Forwarding from the start: without the delay there is nothing to wait for.
    var commands = ["\(arguments) type bridge forward_delay 0 mcast_snooping 0"]
    for port in ports { commands += ["link set \(port) master \(bridge.device)", "link set \(port) up"] }
    try bridge.namespace.ip(commands)
    try bridge.configure()
  }

  /// A folder for the lab's files, removed with the lab.
  public func directory() throws -> String {
    try withOpenState { state in
      if let folder = state.folder { return folder }
      var template = Array("\(Registry.temporaryFolder)/\(prefix)-XXXXXX".utf8CString)
      let folder = try unsafe template.withUnsafeMutableBufferPointer { buffer -> String in
        guard let path = unsafe mkdtemp(buffer.baseAddress!) else {
          throw failure("make a folder in \(Registry.temporaryFolder)")
        }
        return unsafe String(cString: path)
      }
      state.folder = folder
      return folder
    }
  }

  /// Remembers something to undo when the lab is cleaned up, before its programs are ended; the last comes first. It
  /// must end in bounded time and must not start programs in this lab.
  public func onCleanUp(_ action: @escaping @Sendable () -> Void) throws {
    try withOpenState { $0.undo.append(action) }
  }

  // MARK: Running programs

  /// Runs a program outside the lab's namespaces to its end; throws unless it exits with 0.
  @discardableResult
  public func run(_ command: [String], input: String? = nil, timeout: Duration = .seconds(30)) throws -> ProcessResult {
    try run(command, in: nil, input: input, timeout: timeout).check()
  }

  /// Runs a program outside the lab's namespaces to its end and returns how it ended.
  public func runUnchecked(
    _ command: [String], input: String? = nil, timeout: Duration = .seconds(30)
  ) throws -> ProcessResult {
    try run(command, in: nil, input: input, timeout: timeout)
  }

  /// Starts a program outside the lab's namespaces that goes on running; see `Namespace.spawn`.
  public func spawn(_ command: [String], log: String? = nil) throws -> Child {
    let file = try log.map(Files.create)
    return try spawn(command, in: nil, output: file, errors: file)
  }

  func run(_ command: [String], in netns: String?, input: String?, timeout: Duration) throws -> ProcessResult {
    let child = try spawn(command, in: netns, input: input)
    defer { forget(child) }
    let result = try child.waitForEnd(timeout)
    Interruption.holdIfInterrupted()
    guard let result else {
      let ended = child.terminate(patience: .seconds(1))
      let said = trimmed((ended?.standardError ?? "") + (ended?.standardOutput ?? ""))
      throw LabError.timedOut(
        what: "`\(command.joined(separator: " "))`" + (said.isEmpty ? "" : ", which said: \(said)"), after: timeout)
    }
    return result
  }

  func spawn(
    _ command: [String], in netns: String?, input: String? = nil, output: Descriptor? = nil, errors: Descriptor? = nil
  ) throws -> Child {
    var file: Descriptor?
    if let input {
      let memory = try Files.inMemory("input")
      try Files.write(input, to: memory, "input of \(command.first ?? "")")
      guard lseek(memory.number, 0, SEEK_SET) == 0 else { throw failure("lseek") }
      file = memory
    }
    return try spawn(command, in: netns, inputFile: file, output: output, errors: errors)
  }

  func spawn(
    _ command: [String], in netns: String?, inputFile: Descriptor?, output: Descriptor? = nil,
    errors: Descriptor? = nil
  ) throws -> Child {
    try withOpenState { state in
      let child = try Child(command, netns: netns, input: inputFile, output: output, errors: errors)
      state.children.append(child)
      return child
    }
  }

  func forget(_ child: Child) {
    state.withLock { $0.children.removeAll { $0 === child } }
  }

  private func withOpenState<R>(_ body: (inout sending State) throws -> R) throws -> R {
    Interruption.holdIfInterrupted()
    return try state.withLock { state in
      guard !state.isClosed else { throw LabError.closed(lab: "kl\(getpid())") }
      return try body(&state)
    }
  }

  // MARK: Cleaning up

  /// Ends the lab's programs and removes its namespaces, with all devices in them, and its folder. May be called more
  /// than once and from several threads; each call returns when all is gone.
  public func cleanUp() {
    cleaning.withLock { _ in
      let (work, isFirst) = state.withLock { state in
        let work = state
        state = State()
        state.isClosed = true
        return (work, !work.isClosed)
      }
      guard isFirst else { return }
      for action in work.undo.reversed() { action() }
      for child in work.children { child.askToEnd() }
      let deadline = Deadline(after: .seconds(3))
      for child in work.children {
        let left = max(.zero, ContinuousClock.now.duration(to: deadline.instant))
        if ((try? child.waitForEnd(left)) ?? nil) == nil { child.terminate(patience: .zero) }
      }
      Registry.removeNamespaces(work.namespaces)
      if let folder = work.folder { try? Files.removeTree(folder) }
      Registry.unregister(name)
    }
  }
}
