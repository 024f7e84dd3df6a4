import CLinux
import FoundationEssentials
import Glibc
import Logging

/// Answers on a Unix socket: a client sends one line of JSON, gets one line of JSON, and the connection ends. Only root
/// and the agent's own user are heard; what is long, slow or no JSON ends the connection.
final class LocalServer {
  private struct Client {
    var descriptor: Int32
    var received: [UInt8] = []
    var deadline: UInt64
  }

  private static let requestLimit = 4096
  private static let clientLimit = 16
  /// Nanoseconds that a client may take for all of it.
  private static let patience: UInt64 = 5_000_000_000

  private let path: String
  private let lock: Int32
  private var listener: Int32 = -1
  private var clients: [Int32: Client] = [:]
  private let loop: EventLoop
  private let log: Logger
  private let handler: (AgentRequest) -> AgentReply

  /// Sent along with the next answer, after which this process ends: they are another one's by then.
  var legacy: [Int32] = []

  var hasClients: Bool { !clients.isEmpty }

  /// Makes sure that no other agent has this socket. `isExpected`: one that has it is about to end.
  init(
    _ path: String, node: String, isExpected: Bool = false, loop: EventLoop, log: Logger,
    handler: @escaping (AgentRequest) -> AgentReply
  ) throws {
    self.path = path
    self.loop = loop
    self.log = log
    self.handler = handler
    let folder = path.split(separator: "/").dropLast().reduce(path.hasPrefix("/") ? "" : ".") { "\($0)/\($1)" }
    if !folder.isEmpty, unsafe mkdir(folder, 0o755) != 0, errno != EEXIST {
      throw AgentError(.failed, "cannot make the folder \(folder) of the socket: \(systemErrorText(errno))")
    }
    var lock = unsafe kalsae_lock(path + ".lock")
    // The agent before this one is ending.
    for _ in 0..<(isExpected ? 5000 : 0) where lock == -EWOULDBLOCK {
      usleep(1000)
      lock = unsafe kalsae_lock(path + ".lock")
    }
    self.lock = lock
    if lock == -EWOULDBLOCK {
      throw AgentError(
        .alreadyRunning,
        "an agent of node \(node) runs already (it holds \(path).lock); stop it first, "
          + "or give this one another --socket")
    }
    guard lock >= 0 else {
      throw AgentError(.failed, "cannot lock \(path).lock: \(systemErrorText(-lock)); choose another --socket")
    }
  }

  deinit { close() }

  func listen() throws {
    listener = unsafe kalsae_unix_listen(path)
    guard listener >= 0 else {
      throw AgentError(.failed, "cannot listen on \(path): \(systemErrorText(-listener)); choose another --socket")
    }
    try loop.add(listener) { [unowned self] in accept() }
  }

  private func accept() {
    // As many as one wake-up brings, within bounds.
    for _ in 0..<64 {
      var user: UInt32 = 0
      let descriptor = unsafe kalsae_unix_accept(listener, &user)
      guard descriptor >= 0 else { return }
      guard user == 0 || user == geteuid() else {
        log.warning("local API: refused user \(user)")
        finish(descriptor, AgentReply(error: "only root may ask the agent"))
        continue
      }
      guard clients.count < LocalServer.clientLimit else {
        finish(descriptor, AgentReply(error: "too many clients; try again"))
        continue
      }
      clients[descriptor] = Client(
        descriptor: descriptor, deadline: kalsae_monotonic() &+ LocalServer.patience)
      do { try loop.add(descriptor) { [unowned self] in read(descriptor) } } catch { end(descriptor) }
    }
  }

  private func read(_ descriptor: Int32) {
    guard var client = clients[descriptor] else { return }
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(descriptor, $0.baseAddress, $0.count) }
    if count < 0, errno == EAGAIN || errno == EINTR { return }
    guard count > 0 else { return end(descriptor) }
    client.received += buffer[..<count]
    clients[descriptor] = client
    if let line = client.received.firstIndex(of: UInt8(ascii: "\n")) {
      let request = client.received[..<line]
      answer(descriptor, Array(request))
    } else if client.received.count > LocalServer.requestLimit {
      log.warning("local API: a request of more than \(LocalServer.requestLimit) octets was refused")
      reply(descriptor, AgentReply(error: "a request has at most \(LocalServer.requestLimit) octets"))
    }
  }

  private func answer(_ descriptor: Int32, _ line: [UInt8]) {
    guard line.count <= LocalServer.requestLimit,
      let request = try? JSONDecoder().decode(AgentRequest.self, from: Data(line))
    else {
      let topics = AgentRequest.Topic.allCases.map { "\"\($0.rawValue)\"" }.joined(separator: ", ")
      return reply(
        descriptor, AgentReply(error: "not a request: write {\"topic\": \"status\"}; topics are \(topics)"))
    }
    reply(descriptor, handler(request))
  }

  private func reply(_ descriptor: Int32, _ reply: AgentReply) {
    loop.remove(descriptor)
    clients[descriptor] = nil
    finish(descriptor, reply)
  }

  /// Sends a reply and closes. A client that does not read is waited for a moment, on a thread of its own.
  private func finish(_ descriptor: Int32, _ reply: AgentReply) {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard var data = try? encoder.encode(reply) else {
      _ = Glibc.close(descriptor)
      return
    }
    data.append(UInt8(ascii: "\n"))
    let octets = [UInt8](data)
    if !legacy.isEmpty { bequeath(octets, to: descriptor) }
    let sent = LocalServer.send(octets[...], to: descriptor)
    guard sent >= 0, sent < octets.count else {
      _ = Glibc.close(descriptor)
      return
    }
    let rest = Array(octets[sent...])
    let bound = kalsae_monotonic() &+ LocalServer.patience
    let error = startThread(named: "kalsae-reply") {
      var rest = rest[...]
      while !rest.isEmpty, kalsae_monotonic() < bound {
        guard kalsae_poll_writable(descriptor, 1000) >= 0 else { break }
        let sent = LocalServer.send(rest, to: descriptor)
        guard sent >= 0 else { break }
        rest = rest.dropFirst(sent)
      }
      _ = Glibc.close(descriptor)
    }
    if error != 0 { _ = Glibc.close(descriptor) }
  }

  /// Hands everything over and ends, giving nothing back to the host: another agent has it now.
  private func bequeath(_ octets: [UInt8], to descriptor: Int32) -> Never {
    // What the next one makes must not be removed here.
    _ = unsafe unlink(path)
    _ = fcntl(descriptor, F_SETFL, 0)
    var rest = legacy[...]
    while !rest.isEmpty {
      let part = Array(rest.prefix(Int(KALSAE_DESCRIPTORS)))
      guard unsafe kalsae_send_descriptors(descriptor, part, Int32(part.count)) == 0 else { _exit(1) }
      rest = rest.dropFirst(part.count)
    }
    var text = octets[...]
    while !text.isEmpty {
      let sent = LocalServer.send(text, to: descriptor)
      guard sent > 0 else { _exit(1) }
      text = text.dropFirst(sent)
    }
    _exit(0)
  }

  /// How much was taken; -1 when the client is gone.
  private static func send(_ octets: ArraySlice<UInt8>, to descriptor: Int32) -> Int {
    let count = unsafe octets.withUnsafeBytes { unsafe kalsae_unix_send(descriptor, $0.baseAddress!, UInt($0.count)) }
    if count == -Int(EAGAIN) || count == -Int(EINTR) { return 0 }
    return count < 0 ? -1 : count
  }

  private func end(_ descriptor: Int32) {
    guard clients.removeValue(forKey: descriptor) != nil else { return }
    loop.remove(descriptor)
    _ = Glibc.close(descriptor)
  }

  /// Ends the connections of those who took too long.
  func expire() {
    guard !clients.isEmpty else { return }
    let now = kalsae_monotonic()
    for client in clients.values where client.deadline < now { end(client.descriptor) }
  }

  func close() {
    guard listener != -2 else { return }
    for descriptor in Array(clients.keys) { end(descriptor) }
    if listener >= 0 {
      loop.remove(listener)
      _ = Glibc.close(listener)
      _ = unsafe unlink(path)
    }
    listener = -2
    guard lock >= 0 else { return }
    _ = unsafe unlink(path + ".lock")
    _ = Glibc.close(lock)
  }
}
