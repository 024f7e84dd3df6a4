import Addresses
import CLinux
import Compiler
import Dataplane
import Datastore
import EBPF
import Glibc
import IPAM
public import Logging
import Model
import Node
import Ports

/// A node's daemon: makes the machine and the tables be as the manifests say, and keeps them so.
///
/// All of it but the worker runs on the thread that calls `run`: there it waits for manifests that change, for what the
/// kernel tells about devices, addresses, routes and neighbours, for the worker's requests, for signals and for clients
/// of the local API; what they change is noted, and `settle` brings everything up to date.
public final class Agent {
  let configuration: AgentConfiguration
  var log: Logger
  let source: ManifestDirectory
  let compiler: NodeCompiler
  let netlink: Netlink
  let loop: EventLoop
  let monitor: NetlinkMonitor
  let dataPath: DataPath
  let workers: Workers
  let serviceManager = ServiceManager()
  let startTime = kalsae_realtime()

  /// What health checks and metrics say.
  let board = HealthBoard()
  let metrics: MetricsBoard
  let webEvents: Mailbox<WebServers.Event>
  var servers: WebServers?
  /// When the endpoints were changed that are not programmed yet, in seconds since 1970.
  var triggers: [Double] = []

  private let updates: Mailbox<Update>
  private let requests: Mailbox<ControlRequest>
  private var watch: DirectoryWatch?
  private var server: LocalServer?
  private let control: ControlQueue
  private var containers: CNIService?
  private var plugins: CNIServer?
  let addressManagers: AddressManagers
  var nodesWithBlocks: Set<String> = []
  private let signals: Int32

  // What the kernel has told.
  var links: [Int32: KernelLink] = [:]
  var addresses: Set<KernelAddress> = []
  var defaultRoutes: Set<KernelRoute> = []

  // What was made.
  var underlay: UnderlayPort?
  var host: HostDevice?
  var pods: [ObjectKey: PodPort] = [:]
  /// The host's ends of veth pairs that are being removed.
  var departing: Set<String> = []
  /// Packet sockets for pods to come.
  var spares = PacketSpares(limit: Agent.sparesKept)
  /// The socket for the underlay's device, where it was prepared.
  var underlaySpare: PacketSpares?
  var doors = Doors()
  var doorSource: Doors.Source?
  /// The host's routing rules that were made.
  var rules: [IPFamily: Set<KernelRule>] = [:]
  var rulesAreRead = false
  var tunnelsSeen: Set<Encapsulation> = []
  /// The neighbours that the kernel keeps fresh for us, with their devices.
  var keptNeighbours: [IPAddress: Int32] = [:]
  var lastAsked: [IPAddress: UInt64] = [:]
  var restore: [(name: String, value: String)] = []
  /// The services in the kernel, where they are wanted.
  var sockets: SocketServices?
  /// Has the kernel leave packets to services to this agent.
  var lease: PacketBalancer.Lease?
  /// The devices whose packets come by AF_XDP, where that is wanted.
  var steered: SteeredDevices?
  /// Why there are none although they are wanted.
  var steeringRefusal: String?
  /// What carries flows in the kernel, where that is wanted.
  var offload: FlowOffloader?
  /// Why the kernel cannot carry flows; nil: it can.
  lazy var offloadRefusal = FlowOffloader.refusal()
  var hasToldRefusal = false

  /// What keeps things from being as they should be, by what it is about; told once and when it is over.
  private(set) var troubles: [String: String] = [:]
  private var needsSettling = true
  private var needsCommit = false
  /// What the agent before this one handed over and nobody has taken yet.
  var inheritance = Inheritance()
  private var exitSignal: Int32 = 0

  /// Reads the manifests and gets hold of what an agent needs; nothing of the machine is changed yet.
  public init(_ configuration: AgentConfiguration, log: Logger) throws {
    self.configuration = configuration
    self.log = log
    guard geteuid() == 0 else {
      throw AgentError(
        .notPermitted,
        "kalsae run needs root: it opens packet sockets and changes devices and routes; start it as root or with sudo")
    }
    source = ManifestDirectory(configuration.stateDirectory)
    let first: Update
    do throws(ManifestError) { first = try source.load() } catch {
      throw AgentError(.missing, "\(error)")
    }
    Agent.report(first, to: log)
    let state = source.state
    guard state.node(configuration.node) != nil else {
      let known = state.nodes.values.map(\.name).sorted()
      throw AgentError(
        .missing,
        "no Node named '\(configuration.node)' in \(configuration.stateDirectory); "
          + (known.isEmpty
            ? "there is none at all: write a Node manifest with its InternalIP and podCIDR"
            : "--node is one of: \(known.joined(separator: ", "))"))
    }
    signals = kalsae_signals_open()
    guard signals >= 0 else { throw AgentError(.failed, "cannot wait for signals: \(systemErrorText(-signals))") }
    do {
      loop = try EventLoop()
      updates = try Mailbox()
      webEvents = try Mailbox()
      requests = try Mailbox(limit: 4096)
      control = try ControlQueue()
      netlink = try Netlink()
      monitor = try NetlinkMonitor()
      let settings = state.settings(ofNode: configuration.node)
      let count = Agent.workerCount(settings, log)
      dataPath = DataPath(workers: count, sharing: .flows, flowLimit: max(1024, settings.flowTableSize))
      workers = try Workers(dataPath.lanes, busyPoll: settings.busyPoll) { [requests] in requests.put($0) }
      metrics = MetricsBoard(dataPath, board, startTime: startTime)
    } catch let error as NodeError {
      throw AgentError(Agent.code(error.code), "\(error)")
    } catch let error as PortError {
      throw AgentError(Agent.code(error.code), "\(error)")
    }
    compiler = NodeCompiler(node: configuration.node)
    compiler.apply(first.changes)
    addressManagers = AddressManagers(
      node: configuration.node, storePath: SQLiteStore.defaultPath, provider: configuration.addressProvider)
    addressManagers.setCatalog(PoolCatalog(compiler.state))
  }

  /// How many workers there are, from start to end.
  private static func workerCount(_ settings: NodeSettings, _ log: Logger) -> Int {
    guard settings.workers > 1 else { return 1 }
    let count = min(settings.workers, Workers.most)
    log.info("workers: \(count)\(count < settings.workers ? ", one for each processor" : "")")
    return count
  }

  static func code(_ number: Int32) -> AgentError.Code {
    number == EPERM || number == EACCES ? .notPermitted : .failed
  }

  /// Runs until SIGTERM or SIGINT and then undoes what was done to the machine. Throws where it cannot start.
  public func run() throws {
    // What takes long comes before packets have to wait.
    dataPath.change { compiler.commit(to: &$0) }
    // Before the other agent ends, and before packets come to sockets of this one.
    lease = PacketBalancer.lease(node: configuration.node)
    let inherited = configuration.takesOver ? try Inheritance.ask(configuration.socketPath) : nil
    // First of all: two agents of one node would fight.
    let server = try LocalServer(
      configuration.socketPath, node: configuration.node, isExpected: inherited != nil, loop: loop, log: log
    ) { [unowned self] in answer($0) }
    self.server = server
    if let inherited { inheritance = inherited }
    restore = inheritance.restore
    defer { shutDown() }
    do {
      let containers = try CNIService(
        node: configuration.node, dataDirectory: configuration.dataDirectory, control: control,
        managers: addressManagers, log: log)
      self.containers = containers
      adoptContainers(containers)
      try loop.add(signals) { [unowned self] in takeSignals() }
      try loop.add(updates.descriptor) { [unowned self] in for update in updates.takeAll() { take(update) } }
      try loop.add(requests.descriptor) { [unowned self] in take(requests.takeAll()) }
      try loop.add(monitor.descriptor) { [unowned self] in takeKernelEvents() }
      try loop.add(control.descriptor) { [unowned self] in control.work(for: self) }
      try readKernel()
      prepareSockets()
      try openHost()
      servers = try makeServers()
      settle()
      restoreFlows(inheritance.flows)
      moveSurplus()
      inheritance.discard()
      try requireSockets()
      moveWaiting()
      try workers.start()
      watch = try source.watch { [updates, board] in
        // Here, and not where it is taken in: what waits may wait because that side is stuck.
        board.noteQueued(at: kalsae_monotonic(), time: kalsae_realtime())
        updates.put([$0])
      }
      let plugins = try CNIServer(configuration.pluginSocketPath, service: containers, log: log)
      self.plugins = plugins
      try plugins.start()
      try server.listen()
      keepSpares()
    } catch let error as NodeError {
      throw AgentError(Agent.code(error.code), "\(error)")
    } catch let error as PortError {
      throw AgentError(Agent.code(error.code), "\(error)")
    } catch let error as ManifestError {
      throw AgentError(.failed, "\(error)")
    }
    log.info("node \(configuration.node): ready; \(summary)")
    serviceManager.notify("READY=1\nSTATUS=\(summary)")
    while exitSignal == 0 {
      loop.run(nanoseconds: timeout)
      server.expire()
      if needsSettling || hasMissingPorts {
        settle()
      } else if needsCommit {
        commitNeighbours()
      }
    }
    log.info("node \(configuration.node): \(exitSignal == SIGINT ? "SIGINT" : "SIGTERM"): giving everything back")
    serviceManager.notify("STOPPING=1\nSTATUS=giving everything back")
  }

  /// How long nothing at all may happen: for as long as something is missing, it is looked for again.
  private var timeout: Int64 {
    if hasMissingPorts { return 500_000_000 }
    return server?.hasClients == true ? 1_000_000_000 : -1
  }

  private var hasMissingPorts: Bool {
    underlay == nil || host == nil || compiler.attachments.keys.contains { pods[$0] == nil }
  }

  var summary: String {
    "\(pods.count) of \(compiler.attachments.count) pods attached, \(compiler.state.nodes.count) nodes, "
      + "pod MTU \(compiler.podMTU)" + (troubles.isEmpty ? "" : ", \(troubles.count) problems")
  }

  // MARK: Events

  private func takeSignals() {
    while case let number = kalsae_signals_next(signals), number != 0 {
      if number == SIGHUP { reload() } else { exitSignal = number }
    }
  }

  /// Reads the manifests again although nothing is known to have changed, and says how they are.
  private func reload() {
    serviceManager.notify("RELOADING=1\nMONOTONIC_USEC=\(kalsae_monotonic() / 1000)")
    let update = source.refresh()
    take(update)
    let problems = source.problems
    // What is wrong is repeated: whoever asks wants to see it.
    for problem in problems where !update.problems.contains(problem) { log.error("\(problem)") }
    settle()
    log.info("manifests read again: \(update.changes.count) changes, \(problems.count) problems; \(summary)")
    serviceManager.notify("READY=1\nSTATUS=\(summary)")
  }

  private static func report(_ update: Update, to log: Logger) {
    for problem in update.problems { log.error("\(problem)") }
    for problem in update.resolved { log.notice("resolved: \(problem)") }
    for notice in update.notices { log.warning("\(notice)") }
  }

  private func take(_ update: Update) {
    Agent.report(update, to: log)
    // What brings no change needs to be programmed no less: its waiting is over with the next settling.
    needsSettling = true
    guard !update.changes.isEmpty else { return }
    noteTriggers(update.changes)
    metrics.noteChanges(
      services: update.changes.count { $0.key.kind == .service },
      endpoints: update.changes.count { $0.key.kind == .endpointSlice }, all: update.changes.count)
    log.info("manifests: \(update.changes.count) changed: \(Agent.names(update.changes))")
    compiler.apply(update.changes)
    addressManagers.setCatalog(PoolCatalog(compiler.state))
  }

  private static func names(_ changes: [Change]) -> String {
    changes.prefix(4).map { "\($0.key)" }.joined(separator: ", ") + (changes.count > 4 ? ", …" : "")
  }

  func takeKernelEvents() { take(monitor.events()) }

  func noteChange() { needsSettling = true }
  /// Neighbours come and go often, and nothing but hops depends on them.
  func noteNeighbours() { needsCommit = true }

  private func commitNeighbours() {
    needsCommit = false
    dataPath.change { compiler.commit(to: &$0) }
    settleNeighbours()
    workers.wake()
  }

  /// Brings tables, ports and the kernel's routes up to date with all that is known.
  func settle() {
    needsSettling = false
    needsCommit = false
    let began = kalsae_monotonic()
    compiler.setMachineAddresses(machineAddresses)
    // Ports give facts that change what is compiled; more than a few turns would be a mistake.
    for _ in 0..<8 {
      dataPath.change { compiler.commit(to: &$0) }
      settleSteering()
      if settleUnderlay() || settleHost() { continue }
      if !settlePods() { break }
    }
    leaveSteering()
    refreshDoors()
    settleSockets()
    settleClassifier()
    settleOffload()
    settlePackets()
    reserveMasqueradePorts()
    settleLocalhost()
    settleHostRoutes()
    settleRules()
    observeTriggers()
    metrics.observeSynchronisation(Double(kalsae_monotonic() &- began) / 1e9)
    settleWeb(since: began)
    settleNeighbours()
    workers.setBusyPoll(compiler.settings.busyPoll)
    workers.wake()
  }

  // MARK: Troubles

  /// Says what is wrong with something, once.
  func trouble(_ subject: String, _ text: String, level: Logger.Level = .error) {
    guard troubles[subject] != text else { return }
    troubles[subject] = text
    log.log(level: level, "\(subject): \(text)")
  }

  /// Says that something is no longer wrong.
  func clearTrouble(_ subject: String) {
    if troubles.removeValue(forKey: subject) != nil { log.notice("\(subject): all right now") }
  }

  // MARK: The end

  /// Takes no more requests of container runtimes, and lets those that are being worked on end.
  func endRequests() {
    control.close()
    plugins?.stop()
    plugins = nil
  }

  func passDescriptors(_ descriptors: [Int32]) { server?.legacy = descriptors }

  private func shutDown() {
    endRequests()
    watch?.stop()
    servers?.settle([])
    spares.close()
    workers.stop()
    if exitSignal != 0 { saveFlows() }
    inheritance.discard()
    closeSockets()
    closeOffload()
    for address in keptNeighbours.keys { forgetNeighbour(address) }
    removeRules()
    // As late as can be: what comes after this is lost.
    if exitSignal != 0 { saveWaiting() }
    for key in Array(pods.keys) { close(pod: key, isGone: false) }
    closeUnderlay()
    steered = nil
    closeHost()
    for (name, value) in restore.reversed() { Sysctl.write(value, to: name) }
    server?.close()
    AFPacketPort.waitForClosing()
  }
}
