import CLinux
import CNetlink
import Glibc
import Synchronization

/// Something that changed in the kernel's tables.
public enum NetlinkEvent: Sendable, Hashable {
  /// A device that is new, or of which something changed.
  case link(KernelLink)
  case linkRemoved(KernelLink)
  case address(KernelAddress)
  case addressRemoved(KernelAddress)
  case route(KernelRoute)
  case routeRemoved(KernelRoute)
  case neighbour(KernelNeighbour)
  case neighbourRemoved(KernelNeighbour)
  /// The kernel had more to say than the socket could hold: read the tables anew.
  case overrun

  init?(type: UInt16, body: NetlinkReader) {
    let event: NetlinkEvent? =
      switch Int(type) {
      case RTM_NEWLINK: KernelLink(body).map { .link($0) }
      case RTM_DELLINK: KernelLink(body).map { .linkRemoved($0) }
      case RTM_NEWADDR: KernelAddress(body).map { .address($0) }
      case RTM_DELADDR: KernelAddress(body).map { .addressRemoved($0) }
      case RTM_NEWROUTE: KernelRoute(body).map { .route($0) }
      case RTM_DELROUTE: KernelRoute(body).map { .routeRemoved($0) }
      case RTM_NEWNEIGH: KernelNeighbour(body).map { .neighbour($0) }
      case RTM_DELNEIGH: KernelNeighbour(body).map { .neighbourRemoved($0) }
      default: nil
      }
    guard let event else { return nil }
    self = event
  }
}

/// Follows the kernel's tables in one network namespace. Start it before reading the tables: then nothing is missed.
///
/// Either poll `descriptor` and call `events()`, or let `start` do that on a thread.
public final class NetlinkMonitor: Sendable {
  /// What to follow.
  public struct Topics: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    public static let links = Topics(rawValue: 1)
    public static let addresses = Topics(rawValue: 2)
    public static let routes = Topics(rawValue: 4)
    public static let neighbours = Topics(rawValue: 8)
    public static let all: Topics = [.links, .addresses, .routes, .neighbours]

    var groups: [Int32] {
      var groups: [rtnetlink_groups] = []
      if contains(.links) { groups.append(RTNLGRP_LINK) }
      if contains(.addresses) { groups += [RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] }
      if contains(.routes) { groups += [RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE] }
      if contains(.neighbours) { groups.append(RTNLGRP_NEIGH) }
      return groups.map { Int32($0.rawValue) }
    }
  }

  /// Polls readable when events wait.
  public let descriptor: Int32
  private let socket: Mutex<NetlinkSocket>
  private let thread = Mutex(ThreadState())

  private struct ThreadState {
    var isRunning = false
    var wake: Int32?
  }

  public init(_ topics: Topics = .all, in namespace: NetworkNamespace? = nil) throws(NodeError) {
    var socket = try NetlinkSocket(in: namespace)
    for group in topics.groups {
      let result = socket.join(group)
      guard result == 0 else {
        throw NodeError(subject: "rtnetlink", operation: "join the multicast group \(group)", code: -result)
      }
    }
    socket.makeNonBlocking()
    descriptor = socket.descriptor
    self.socket = Mutex(socket)
  }

  /// The events that wait, in order; none where nothing waits. Never blocks.
  public func events() -> [NetlinkEvent] {
    let (code, messages) = socket.withLock { $0.notifications() }
    let events = messages.compactMap { NetlinkEvent(type: $0.type, body: $0.body) }
    return code == 0 ? events : events + [.overrun]
  }

  /// Calls `handler` with every event, in order, on a thread of the monitor's own until `stop()`.
  public func start(_ handler: @escaping @Sendable (NetlinkEvent) -> Void) throws(NodeError) {
    let wake = kalsae_event_create()
    let set = kalsae_poll_create()
    guard wake >= 0, set >= 0, kalsae_poll_add(set, descriptor, 0) == 0, kalsae_poll_add(set, wake, 1) == 0 else {
      throw NodeError(subject: "netlink monitor", operation: "wait for events", code: -min(wake, set))
    }
    thread.withLock {
      precondition(!$0.isRunning, "started twice")
      $0.isRunning = true
      $0.wake = wake
    }
    let body = { @Sendable [self] in
      loop: while true {
        var tokens: (UInt64, UInt64) = (0, 0)
        let count = unsafe withUnsafeMutableBytes(of: &tokens) {
          unsafe kalsae_poll_wait(set, $0.bindMemory(to: UInt64.self).baseAddress!, 2, -1)
        }
        if count < 0 || (count > 0 && tokens.0 == 1) || (count > 1 && tokens.1 == 1) { break loop }
        for event in events() { handler(event) }
      }
      close(set)
      thread.withLock { $0.isRunning = false }
    }
    let result = startThread(body)
    guard result == 0 else {
      throw NodeError(subject: "netlink monitor", operation: "start a thread", code: result)
    }
  }

  /// Ends the thread and returns when its last handler call has returned; not to be called by the handler.
  public func stop() {
    guard let wake = thread.withLock({ $0.wake }) else { return }
    kalsae_event_signal(wake)
    while thread.withLock({ $0.isRunning }) { usleep(500) }
    thread.withLock { $0.wake = nil }
    close(wake)
  }
}

/// Runs `body` on a detached thread; 0 or an error number.
func startThread(_ body: @escaping @Sendable () -> Void) -> Int32 {
  final class Box {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var thread = pthread_t()
  let box = unsafe Unmanaged.passRetained(Box(body))
  let result = unsafe pthread_create(
    &thread, nil,
    {
      unsafe Unmanaged<Box>.fromOpaque($0!).takeRetainedValue().body()
      return nil
    }, box.toOpaque())
  if result == 0 { pthread_detach(thread) } else { unsafe box.release() }
  return result
}
