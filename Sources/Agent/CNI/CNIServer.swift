import CLinux
import CNI
import Glibc
import IPAM
import Logging
import Synchronization

/// Answers the plugin on a Unix socket of its own: a line of JSON in, a line of JSON out. A thread for each request,
/// because they wait for the kernel, for disks and for other programs; root and the agent's own user are heard.
final class CNIServer: Sendable {
  private let path: String
  private let listener: Int32
  private let service: CNIService
  private let collector: Collector
  private let log: Logger
  /// Wakes the thread that accepts, to end it.
  private let wake = kalsae_event_create()
  private let state = Mutex(State())

  private struct State {
    var isStopping = false
    var hasEnded = true
    var requests = 0
    var isMaintaining = false
  }

  /// As many requests are worked on at once; further ones wait in the socket's queue.
  private static let limit = 64
  /// Seconds that a client may take to send its request.
  private static let patience: Int32 = 5

  /// The socket of the plugin beside that of the local API.
  static func path(besides socket: String) -> String {
    (socket.hasSuffix(".sock") ? String(socket.dropLast(5)) : socket) + ".cni"
  }

  /// Listens at `path`; requests are answered once it is started.
  init(_ path: String, service: CNIService, log: Logger) throws {
    self.path = path
    self.service = service
    self.log = log
    collector = Collector(service: service)
    listener = unsafe kalsae_unix_listen(path)
    guard listener >= 0 else {
      throw AgentError(.failed, "cannot listen on \(path): \(systemErrorText(-listener)); choose another --socket")
    }
  }

  deinit {
    close(listener)
    close(wake)
  }

  func start() throws {
    state.withLock { $0.hasEnded = false }
    let error = startThread(named: "kalsae-cni") { [self] in
      run()
      state.withLock { $0.hasEnded = true }
    }
    guard error == 0 else {
      state.withLock { $0.hasEnded = true }
      throw AgentError(.failed, "cannot start a thread: \(systemErrorText(error))")
    }
  }

  /// Takes no more requests and returns when those that were taken are answered, some seconds later at most. The control
  /// queue must be closed before, or be worked on.
  func stop() {
    state.withLock { $0.isStopping = true }
    kalsae_event_signal(wake)
    for _ in 0..<10_000 where state.withLock({ !$0.hasEnded || $0.requests > 0 }) { usleep(500) }
    _ = unsafe unlink(path)
  }

  /// Has what keeps addresses at hand do so, on a thread of its own: a cloud takes seconds to answer.
  private func maintain() {
    let isFree = state.withLock { state in
      defer { state.isMaintaining = true }
      return !state.isMaintaining
    }
    guard isFree else { return }
    let error = startThread(named: "kalsae-warm") { [self] in
      do throws(IPAMError) { try service.managers.maintain() } catch { log.warning("addresses: \(error)") }
      state.withLock { $0.isMaintaining = false }
    }
    if error != 0 { state.withLock { $0.isMaintaining = false } }
  }

  private func run() {
    collector.begin()
    var next = kalsae_monotonic() &+ Collector.interval
    var nextBlocks = kalsae_monotonic() &+ Collector.blockInterval
    while !state.withLock({ $0.isStopping }) {
      let isFull = state.withLock { $0.requests >= CNIServer.limit }
      var entries = [
        pollfd(fd: wake, events: Int16(POLLIN), revents: 0),
        pollfd(fd: isFull ? -1 : listener, events: Int16(POLLIN), revents: 0),
      ]
      let now = kalsae_monotonic()
      if now >= nextBlocks {
        service.refreshBlocks()
        if service.managers.needsMaintenance { maintain() }
        nextBlocks = kalsae_monotonic() &+ Collector.blockInterval
      }
      if now >= next {
        collector.look()
        next = kalsae_monotonic() &+ Collector.interval
      }
      let wait = isFull ? 1 : Int32(clamping: (min(next, nextBlocks) &- min(now, next, nextBlocks)) / 1_000_000 + 1)
      _ = unsafe entries.withUnsafeMutableBufferPointer { unsafe poll($0.baseAddress!, nfds_t($0.count), wait) }
      if entries[1].revents != 0 { accept() }
    }
  }

  private func accept() {
    for _ in 0..<CNIServer.limit {
      guard state.withLock({ $0.requests < CNIServer.limit }) else { return }
      var user: UInt32 = 0
      let descriptor = unsafe kalsae_unix_accept(listener, &user)
      guard descriptor >= 0 else { return }
      guard user == 0 || user == geteuid() else {
        log.warning("CNI: refused user \(user)")
        close(descriptor)
        continue
      }
      state.withLock { $0.requests += 1 }
      let error = startThread(named: "kalsae-cni-ask") { [self] in
        serve(descriptor)
        close(descriptor)
        state.withLock { $0.requests -= 1 }
      }
      if error != 0 {
        close(descriptor)
        state.withLock { $0.requests -= 1 }
      }
    }
  }

  private func serve(_ descriptor: Int32) {
    guard let line = CNIServer.read(descriptor) else { return }
    let request: CNIRequest
    do throws(CNIError) {
      guard let message = try? JSON(parsing: line) else {
        throw CNIError(.undecodable, "the request is no JSON", remedy: "install the plugin anew: `kalsae cni install`")
      }
      request = try CNIRequest(message: message)
    } catch {
      CNIServer.reply(descriptor, JSON(["error": error.json(version: nil)]))
      return
    }
    let reply: JSON
    do throws(CNIError) {
      let result = try service.perform(request) { CNIServer.isConnected(descriptor) }
      reply = JSON(["result": result])
    } catch {
      reply = JSON(["error": error.json(version: request.configuration.version.description)])
    }
    // A runtime that ended its plugin counts the ADD as failed.
    if !CNIServer.reply(descriptor, reply), reply["result"] != nil { service.undo(request) }
  }

  /// A line; nil where none comes in time.
  private static func read(_ descriptor: Int32) -> [UInt8]? {
    var result: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 16_384)
    let deadline = kalsae_monotonic() &+ UInt64(patience) * 1_000_000_000
    while kalsae_monotonic() < deadline {
      var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      _ = unsafe poll(&entry, 1, 1000)
      let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(descriptor, $0.baseAddress, $0.count) }
      if count < 0, errno == EAGAIN || errno == EINTR { continue }
      guard count > 0 else { return nil }
      result += buffer[..<count]
      if result.last == UInt8(ascii: "\n") { return result }
      guard result.count <= NetworkConfiguration.limit + 65_536 else { return nil }
    }
    return nil
  }

  /// Whether the client is still there. It says nothing more while it waits: an end of the connection means that it is
  /// gone.
  private static func isConnected(_ descriptor: Int32) -> Bool {
    var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return unsafe poll(&entry, 1, 0) <= 0 || entry.revents & Int16(POLLHUP | POLLERR) == 0
  }

  /// Whether the client is still there and got all of it.
  @discardableResult
  private static func reply(_ descriptor: Int32, _ reply: JSON) -> Bool {
    guard isConnected(descriptor) else { return false }
    var rest = Array((reply.serialized + "\n").utf8)[...]
    for _ in 0..<1000 where !rest.isEmpty {
      let count = unsafe rest.withUnsafeBytes {
        unsafe kalsae_unix_send(descriptor, $0.baseAddress!, UInt($0.count))
      }
      if count == -Int(EAGAIN) || count == -Int(EINTR) {
        _ = kalsae_poll_writable(descriptor, 100)
        continue
      }
      guard count > 0 else { return false }
      rest = rest.dropFirst(count)
    }
    return rest.isEmpty
  }
}
