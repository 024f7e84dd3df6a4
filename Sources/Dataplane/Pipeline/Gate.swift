import Glibc
import Synchronization

/// Keeps the control side and the workers apart without a lock on the packet path: workers say when they are inside a
/// batch, and the control side, when it wants to change something, waits until none is and keeps them out meanwhile.
/// A worker pays one store and one load a batch.
final class Gate: Sendable {
  private let isClosed = Atomic<Bool>(false)
  private let control = Mutex<Void>(())

  /// One worker's flag; a cache line of its own would gain nothing, for it is touched once a batch.
  final class Turn: Sendable {
    fileprivate let isInside = Atomic<Bool>(false)
  }

  /// Waits until the gate is open and goes in.
  func enter(_ turn: Turn) {
    while true {
      turn.isInside.store(true, ordering: .sequentiallyConsistent)
      if !isClosed.load(ordering: .sequentiallyConsistent) { return }
      turn.isInside.store(false, ordering: .sequentiallyConsistent)
      while isClosed.load(ordering: .acquiring) { sched_yield() }
    }
  }

  func leave(_ turn: Turn) { turn.isInside.store(false, ordering: .releasing) }

  /// Runs `body` while all workers are between batches. Keep it short: packets wait.
  func close<R>(for turns: [Turn], _ body: () throws -> R) rethrows -> R {
    try control.withLock { _ in
      isClosed.store(true, ordering: .sequentiallyConsistent)
      defer { isClosed.store(false, ordering: .sequentiallyConsistent) }
      for turn in turns {
        while turn.isInside.load(ordering: .sequentiallyConsistent) { sched_yield() }
      }
      return try body()
    }
  }
}
