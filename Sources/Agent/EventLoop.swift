import CLinux
import Glibc
import Synchronization

/// Waits for descriptors and calls who wants to know: the control side's one thread.
final class EventLoop {
  private let set: Int32
  private var handlers: [UInt64: () -> Void] = [:]
  private var tokens: [Int32: UInt64] = [:]
  private var next: UInt64 = 1
  private var ready = [UInt64](repeating: 0, count: 64)

  init() throws {
    set = kalsae_poll_create()
    guard set >= 0 else { throw AgentError(.failed, "cannot wait for events: \(systemErrorText(-set))") }
  }

  deinit { close(set) }

  /// Calls `handler` whenever `descriptor` polls readable, until it is removed.
  func add(_ descriptor: Int32, _ handler: @escaping () -> Void) throws {
    let result = kalsae_poll_add(set, descriptor, next)
    guard result == 0 else {
      throw AgentError(.failed, "cannot wait for descriptor \(descriptor): \(systemErrorText(-result))")
    }
    // Tokens are never used twice: what was removed while its event waited is not mistaken for its successor.
    handlers[next] = handler
    tokens[descriptor] = next
    next += 1
  }

  func remove(_ descriptor: Int32) {
    _ = kalsae_poll_remove(set, descriptor)
    if let token = tokens.removeValue(forKey: descriptor) { handlers[token] = nil }
  }

  /// Waits at most `nanoseconds` and handles what has come.
  func run(nanoseconds: Int64) {
    let count = unsafe ready.withUnsafeMutableBufferPointer {
      unsafe kalsae_poll_wait(set, $0.baseAddress!, Int32($0.count), nanoseconds)
    }
    guard count > 0 else { return }
    for token in ready[..<Int(count)] { handlers[token]?() }
  }
}

/// Things that other threads leave for the control side.
final class Mailbox<Item: Sendable>: Sendable {
  let descriptor: Int32
  private let items = Mutex<[Item]>([])
  /// What does not fit is lost: only for things that are asked for again.
  private let limit: Int

  init(limit: Int = .max) throws {
    self.limit = limit
    descriptor = kalsae_event_create()
    guard descriptor >= 0 else {
      throw AgentError(.failed, "cannot create an event descriptor: \(systemErrorText(-descriptor))")
    }
  }

  deinit { close(descriptor) }

  func put(_ new: [Item]) {
    items.withLock { if $0.count < limit { $0 += new } }
    kalsae_event_signal(descriptor)
  }

  func takeAll() -> [Item] {
    kalsae_event_clear(descriptor)
    return items.withLock { items in
      defer { items = [] }
      return items
    }
  }
}
