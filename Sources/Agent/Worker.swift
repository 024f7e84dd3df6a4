import CLinux
import Dataplane
import Glibc
import Ports
import Synchronization

/// The thread that moves packets: waits for ports, takes what they have through its lane, and lets time pass.
final class Worker: @unchecked Sendable {
  let lane: Lane
  private let poller: Poller
  let waker: PollerWaker
  private let isStopping = Atomic(false)
  private let hasEnded = Atomic(true)
  /// Whether to look again and again instead of sleeping.
  let busyPoll = Atomic(false)
  private let processor: Int32?
  /// Whether the worker always lets time pass: one of those that share a pipeline does. The others do while packets are held.
  private let passesTime: Bool
  /// The ports whose packets the worker fetches while there is work, and how often that has changed.
  private let fetched = Mutex<[Fetched]>([])
  private struct Fetched: Sendable {
    var index: PortIndex
    /// Not the port itself: it takes long to close, and so must not be the worker's last.
    var bundling: Bundling
    var lastWork: UInt64 = 0
  }
  private let fetchedVersion = Atomic(0)
  private let onRequests: @Sendable ([ControlRequest]) -> Void

  /// How long a port's packets are fetched after the last one; then they are waited for again.
  private static let fetching: UInt64 = 200_000
  /// How often time passes in the pipeline: while packets come or are held, and else.
  private static let shortTick: UInt64 = 10_000_000
  private static let longTick: UInt64 = 100_000_000

  /// `onRequests` is called on the worker's thread; it must be quick.
  init(
    _ lane: Lane, processor: Int32?, passesTime: Bool,
    onRequests: @escaping @Sendable ([ControlRequest]) -> Void
  ) throws(PortError) {
    self.lane = lane
    self.processor = processor
    self.passesTime = passesTime
    self.onRequests = onRequests
    poller = try Poller()
    waker = poller.waker
  }

  /// Watches a port. Inside `DataPath.change`.
  func add(_ port: any Port, at index: PortIndex) throws(PortError) {
    let descriptors = Worker.descriptors(of: port)
    for (number, descriptor) in descriptors.enumerated() {
      do throws(PortError) { try poller.add(descriptor, port: index) } catch {
        for added in descriptors[..<number] { poller.remove(added) }
        throw error
      }
    }
    if let port = port as? XDPPort { changeFetched { $0.append(Fetched(index: index, bundling: port.bundling)) } }
    lane[port: index] = port
  }

  /// Lets go of a port. Inside `DataPath.change`.
  func remove(_ index: PortIndex) {
    if let port = lane[port: index] { for descriptor in Worker.descriptors(of: port) { poller.remove(descriptor) } }
    changeFetched { $0.removeAll { $0.index == index } }
    lane[port: index] = nil
  }

  private static func descriptors(of port: any Port) -> [Int32] {
    guard let port = port as? XDPPort else { return port.descriptor.map { [$0] } ?? [] }
    return port.socketDescriptors.map(\.descriptor) + (port.behind.map(descriptors(of:)) ?? [])
  }

  private func changeFetched(_ body: (inout [Fetched]) -> Void) {
    fetched.withLock { body(&$0) }
    fetchedVersion.wrappingAdd(1, ordering: .releasing)
  }

  func start() throws {
    hasEnded.store(false, ordering: .releasing)
    let error = startThread(named: "kalsae-worker") { [self] in
      run()
      hasEnded.store(true, ordering: .releasing)
    }
    guard error == 0 else {
      hasEnded.store(true, ordering: .releasing)
      throw AgentError(.failed, "cannot start the worker's thread: \(systemErrorText(error))")
    }
  }

  /// Ends the thread and returns when it has ended.
  func stop() {
    isStopping.store(true, ordering: .releasing)
    while !hasEnded.load(ordering: .acquiring) {
      waker.wake()
      usleep(500)
    }
  }

  private func run() {
    if let processor { _ = kalsae_thread_pin(processor) }
    var now = kalsae_monotonic()
    var lastWork = now
    var lastTick: UInt64 = 0
    var isHolding = false
    var ports: [Fetched] = []
    var isModerated = false
    var version = 0
    var spin = Spin()
    while !isStopping.load(ordering: .acquiring) {
      let isBusy = busyPoll.load(ordering: .relaxed)
      let idle = now &- lastWork
      let spins = isBusy || idle < spin.length && !isModerated
      let wait: Int64 = spins ? 0 : Int64(isHolding ? Worker.shortTick : Worker.longTick)
      let before = now
      let ready = poller.wait(nanoseconds: wait)
      now = kalsae_monotonic()
      if wait > 0 { spin.slept(now &- before, until: now) }
      var worked = 0
      let newVersion = fetchedVersion.load(ordering: .acquiring)
      if newVersion != version {
        version = newVersion
        ports = fetched.withLock { $0 }
      }
      isModerated = false
      for position in ports.indices where isBusy || now &- ports[position].lastWork < Worker.fetching {
        let count = lane.poll(ports[position].index, at: .at(now))
        if count > 0 { ports[position].lastWork = now }
        worked += count
        isModerated = isModerated || ports[position].bundling.isOn
      }
      // One batch a turn: while a port is read, the rings of the others fill, which are as long as a few batches.
      for position in 0..<ready {
        let index = poller.ready(position)
        let count = lane.poll(index, at: .at(now))
        if count > 0, let place = ports.firstIndex(where: { $0.index == index }) { ports[place].lastWork = now }
        worked += count
      }
      if worked > 0 {
        if wait == 0, idle > 0 { spin.found() }
        lastWork = now
      } else if wait == 0 {
        kalsae_pause()
      }
      // A wait that ended early was woken: something changed that held packets may have waited for.
      let isWoken = wait > 0 && ready == 0
      if isWoken || now &- lastTick >= (worked > 0 || isHolding ? Worker.shortTick : Worker.longTick) {
        lastTick = now
        // Whoever left packets held is who was told of them, and looks after them.
        if passesTime || isHolding { lane.tick(at: now) }
      } else if worked == 0 {
        continue
      }
      let (requests, holding) = lane.takeRequests()
      isHolding = holding
      if !requests.isEmpty { onRequests(requests) }
    }
  }
}

/// How long a worker looks on after work before it sleeps.
///
/// Waking a sleeping processor costs as much as the least. Where packets come soon after the worker has gone to sleep, longer
/// by and by: as many as lie so far apart keep a processor busy. Where they still come only then, whoever sends them waits
/// for this very processor: then not at all for some time, which is longer each time that it is tried in vain. (Giving way
/// to others meanwhile, `sched_yield`, made round trips longer, some of them by milliseconds, and carried no more.)
struct Spin {
  /// Nanoseconds.
  private(set) var length = Spin.least
  /// How many of the longest ones have been in vain, one behind the other.
  private var vain = 0
  private var rest = Spin.leastRest
  private var restsUntil: UInt64 = 0

  static let least: UInt64 = 50_000
  static let most: UInt64 = 200_000
  private static let patience = 4
  private static let leastRest: UInt64 = 50_000_000
  private static let mostRest: UInt64 = 800_000_000

  /// The worker has slept so long, until now.
  mutating func slept(_ duration: UInt64, until now: UInt64) {
    if length == 0 {
      if now >= restsUntil { length = Spin.least }
    } else if duration >= Spin.most {
      length = Spin.least
      vain = 0
    } else if length < Spin.most {
      length = min(2 * length, Spin.most)
    } else {
      vain += 1
      guard vain == Spin.patience else { return }
      vain = 0
      length = 0
      restsUntil = now &+ rest
      rest = min(2 * rest, Spin.mostRest)
    }
  }

  /// Packets have come while the worker looked on.
  mutating func found() {
    vain = 0
    rest = Spin.leastRest
  }
}

/// Runs `body` on a detached thread of that name with all signals blocked; 0 or an error number.
func startThread(named name: String, _ body: @escaping @Sendable () -> Void) -> Int32 {
  final class Box {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  let box = unsafe Unmanaged.passRetained(Box(body))
  let error = unsafe kalsae_thread_start(
    name, { unsafe Unmanaged<Box>.fromOpaque($0!).takeRetainedValue().body() }, box.toOpaque())
  if error != 0 { unsafe box.release() }
  return error
}
