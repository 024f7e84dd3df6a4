import Dataplane
import Glibc
import Ports
import Synchronization

/// A data plane that carries every frame from each of two ports to the other, on a thread of its own: what a test needs
/// to see that ports work both ways.
final class Forwarder: Sendable {
  private struct State {
    var done = false
    var superFrames = 0
    var partialChecksums = 0
    var tagged: [UInt16] = []
    var failure: String?
  }

  private let stopping = Atomic<Bool>(false)
  private let waker: PollerWaker
  private let state = Mutex(State())

  var superFrames: Int { state.withLock { $0.superFrames } }
  var partialChecksums: Int { state.withLock { $0.partialChecksums } }
  /// The VLAN TCIs that were seen.
  var tagged: [UInt16] { state.withLock { $0.tagged } }

  /// `ports` are used by the forwarder's thread alone until `stop()` returns.
  init(_ first: any Port, _ second: any Port) throws {
    struct Work: @unchecked Sendable {
      let ports: [any Port]
      let poller: Poller
    }
    let work = Work(ports: [first, second], poller: try Poller())
    waker = work.poller.waker
    for (index, port) in work.ports.enumerated() {
      if let descriptor = port.descriptor { try work.poller.add(descriptor, port: PortIndex(UInt16(index))) }
    }
    startThread { [self] in
      run(work.ports, work.poller)
      state.withLock { $0.done = true }
    }
  }

  private func run(_ ports: [any Port], _ poller: Poller) {
    var batch = FrameBatch()
    var list = FrameList()
    for _ in 0..<10_000_000 {
      if stopping.load(ordering: .relaxed) { return }
      for position in 0..<poller.wait(nanoseconds: 20_000_000) {
        let index = Int(poller.ready(position).rawValue)
        guard ports[index].receive(into: &batch) > 0 else { continue }
        list.removeAll()
        for i in 0..<batch.count {
          list.append(i)
          let frame = batch[i]
          precondition(frame.headroom >= Headroom.minimum)
          state.withLock {
            if frame.segmentation != .none { $0.superFrames += 1 }
            if frame.flags.contains(.checksumPartial) { $0.partialChecksums += 1 }
            let octets = frame.octets
            if octets[u16: 12] == 0x8100 { $0.tagged.append(octets[u16: 14]) }
          }
        }
        _ = ports[1 - index].transmit(batch, list)
        ports[index].release(&batch)
      }
    }
  }

  /// Ends the thread; afterwards the ports belong to the caller again.
  func stop() {
    stopping.store(true, ordering: .relaxed)
    waker.wake()
    for _ in 0..<2000 {
      if state.withLock({ $0.done }) { return }
      usleep(1000)
    }
    fatalError("the forwarder does not end")
  }
}

/// Runs `body` on a detached thread.
func startThread(_ body: @escaping @Sendable () -> Void) {
  final class Box {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var thread = pthread_t()
  let context = unsafe Unmanaged.passRetained(Box(body)).toOpaque()
  let result = unsafe pthread_create(
    &thread, nil,
    {
      unsafe Unmanaged<Box>.fromOpaque($0!).takeRetainedValue().body()
      return nil
    }, context)
  precondition(result == 0)
  pthread_detach(thread)
}

/// Sends `frames` in one batch and returns how many went out.
func send(_ frames: [MemoryFrame], by port: some Port) -> Int {
  let memory = MemoryPort()
  for frame in frames { memory.enqueue(frame) }
  var batch = FrameBatch()
  var list = FrameList()
  _ = memory.receive(into: &batch)
  for i in 0..<batch.count { list.append(i) }
  return withExtendedLifetime(memory) { port.transmit(batch, list) }
}
