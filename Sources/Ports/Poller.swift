import CLinux
public import Dataplane
import Glibc

/// Wakes a worker that waits in its `Poller`, from any thread.
public final class PollerWaker: Sendable {
  fileprivate let descriptor: Int32

  fileprivate init(descriptor: Int32) { self.descriptor = descriptor }

  deinit { close(descriptor) }

  /// Makes the current wait of the poller, or else its next one, return at once.
  public func wake() { kalsae_event_signal(descriptor) }
}

/// Waits until one of several ports has frames. Level-triggered: a port whose frames are not all taken is ready again.
/// Used by one worker; only the `waker` may be used from elsewhere.
public final class Poller {
  /// As many ports as one wait reports; others that are ready come with the next.
  public static let reported = 64
  private static let wakeToken = UInt64.max

  public let waker: PollerWaker
  /// The ports that the last wait found ready are the first `readyCount` of these.
  private var tokens: [UInt64]
  public private(set) var readyCount = 0
  private let set: Int32

  public init() throws(PortError) {
    let set = kalsae_poll_create()
    guard set >= 0 else { throw PortError(device: "poller", operation: "create an epoll set", code: -set) }
    let event = kalsae_event_create()
    guard event >= 0 else {
      close(set)
      throw PortError(device: "poller", operation: "create an event descriptor", code: -event)
    }
    self.set = set
    waker = PollerWaker(descriptor: event)
    tokens = Array(repeating: 0, count: Poller.reported)
    let result = kalsae_poll_add(set, event, Poller.wakeToken)
    guard result == 0 else {
      close(set)
      throw PortError(device: "poller", operation: "watch the event descriptor", code: -result)
    }
  }

  deinit { close(set) }

  /// Watches `descriptor`, which must stay open until it is removed, on behalf of `port`.
  public func add(_ descriptor: Int32, port: PortIndex) throws(PortError) {
    let result = kalsae_poll_add(set, descriptor, UInt64(port.rawValue))
    guard result == 0 else {
      throw PortError(device: "port \(port.rawValue)", operation: "watch descriptor \(descriptor)", code: -result)
    }
  }

  /// Stops watching `descriptor`. Nothing happens where it is not watched.
  public func remove(_ descriptor: Int32) { _ = kalsae_poll_remove(set, descriptor) }

  /// Waits at most `nanoseconds` (negative: without end, 0: not at all) and returns the number of ready ports. Returns
  /// early, with 0, when woken by the waker or interrupted by a signal.
  @discardableResult
  public func wait(nanoseconds: Int64) -> Int {
    let found = unsafe tokens.withUnsafeMutableBufferPointer {
      unsafe kalsae_poll_wait(set, $0.baseAddress!, Int32(Poller.reported), nanoseconds)
    }
    readyCount = max(Int(found), 0)
    if let position = tokens[..<readyCount].firstIndex(of: Poller.wakeToken) {
      kalsae_event_clear(waker.descriptor)
      readyCount -= 1
      tokens[position] = tokens[readyCount]
    }
    return readyCount
  }

  /// The port at `position` of those that the last wait found ready.
  public func ready(_ position: Int) -> PortIndex {
    precondition(position >= 0 && position < readyCount)
    return PortIndex(UInt16(truncatingIfNeeded: tokens[position]))
  }
}
