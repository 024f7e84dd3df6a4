import FlyingFox
import FlyingSocks
import Foundation
import Synchronization

/// The HTTP servers of the agent (KP-52 to KP-54), on threads of their own. Which there are follows what `settle` is told;
/// one that cannot listen tries again every other second.
final class WebServers: Sendable {
  /// A server: what it serves and where.
  struct Place: Hashable, Sendable, CustomStringConvertible {
    enum Content: Hashable, Sendable {
      case health, metrics
      /// The health check of the service with this healthCheckNodePort.
      case service
    }

    var content: Content
    /// nil: all addresses of both families.
    var address: String?
    var isIPv6 = false
    var port: UInt16

    var description: String {
      let host = address.map { isIPv6 ? "[\($0)]" : $0 } ?? "*"
      return switch content {
      case .health: "health checks on \(host):\(port)"
      case .metrics: "metrics on \(host):\(port)"
      case .service: "health check of a service on \(host):\(port)"
      }
    }
  }

  /// What happened to a server: why it does not listen, or nil where it was stopped or listens again.
  struct Event: Sendable {
    var place: Place
    var problem: String?
  }

  typealias Handler = @Sendable (Place, String) -> HealthBoard.Answer?

  private let tasks = Mutex<[Place: Task<Void, Never>]>([:])
  private let pool = SharedPool()
  private let handler: Handler
  private let onEvent: @Sendable (Event) -> Void

  /// `handler` answers a request for a path, on any thread; nil: 404. `onEvent` is called on any thread.
  init(onEvent: @escaping @Sendable (Event) -> Void, handler: @escaping Handler) {
    self.handler = handler
    self.onEvent = onEvent
  }

  /// Has these servers run and no others.
  func settle(_ wanted: Set<Place>) {
    tasks.withLock { tasks in
      for (place, task) in tasks where !wanted.contains(place) {
        task.cancel()
        tasks[place] = nil
        onEvent(Event(place: place, problem: nil))
      }
      for place in wanted where tasks[place] == nil {
        tasks[place] = Task { [pool, handler, onEvent] in
          await WebServers.run(place, pool, handler, onEvent)
        }
      }
    }
  }

  private static func run(
    _ place: Place, _ pool: SharedPool, _ handler: @escaping Handler, _ onEvent: @escaping @Sendable (Event) -> Void
  ) async {
    while !Task.isCancelled {
      do {
        let respond = ClosureHTTPHandler { request in
          // Whoever checks health asks with GET or HEAD; nothing here takes anything else.
          guard request.method == .GET || request.method == .HEAD else {
            return HTTPResponse(statusCode: .methodNotAllowed)
          }
          guard let answer = handler(place, request.path) else { return HTTPResponse(statusCode: .notFound) }
          var headers = HTTPHeaders()
          for (name, value) in answer.headers { headers[HTTPHeader(name)] = value }
          let status: HTTPStatusCode =
            answer.status == 200 ? .ok : HTTPStatusCode(answer.status, phrase: "Service Unavailable")
          return HTTPResponse(statusCode: status, headers: headers, body: Data(answer.body.utf8))
        }
        let server = HTTPServer(config: try configuration(place, pool), handler: respond)
        async let listens: Void = {
          try? await server.waitUntilListening(timeout: 5)
          if await server.isListening { onEvent(Event(place: place, problem: nil)) }
        }()
        try await server.run()
        await listens
      } catch {
        guard !Task.isCancelled else { return }
        onEvent(Event(place: place, problem: "cannot listen: \(error); trying again"))
      }
      try? await Task.sleep(for: .seconds(2))
    }
  }

  private static func configuration(_ place: Place, _ pool: SharedPool) throws -> HTTPServer.Configuration {
    func configuration(_ address: some SocketAddress) -> HTTPServer.Configuration {
      HTTPServer.Configuration(address: address, timeout: 5, pool: pool, logger: Silence())
    }
    guard let text = place.address else {
      // Where the kernel has no IPv6, IPv4 alone.
      guard let probe = try? Socket(domain: AF_INET6) else { return configuration(sockaddr_in.inet(port: place.port)) }
      try? probe.close()
      return configuration(sockaddr_in6.inet6(port: place.port))
    }
    if place.isIPv6 { return configuration(try sockaddr_in6.inet6(ip6: text, port: place.port)) }
    return configuration(try sockaddr_in.inet(ip4: text, port: place.port))
  }
}

/// One loop that waits for the sockets of all servers: each of them would else have a thread of its own for that.
private final class SharedPool: AsyncSocketPool {
  private let pool: any AsyncSocketPool = HTTPServer.defaultPool()
  private let start = Mutex<Task<Void, any Error>?>(nil)

  func prepare() async throws {
    let task = start.withLock { start in
      let task =
        start
        ?? Task { [pool] in
          try await pool.prepare()
          Task.detached { try await pool.run() }
        }
      start = task
      return task
    }
    try await task.value
  }

  /// Returns when the server's task is cancelled: the loop itself goes on.
  func run() async throws { while true { try await Task.sleep(for: .seconds(3600)) } }

  func suspendSocket(_ socket: Socket, untilReadyFor events: Socket.Events) async throws {
    try await pool.suspendSocket(socket, untilReadyFor: events)
  }
}

/// What goes wrong is told by events.
private struct Silence: FlyingSocks.Logging {
  func logDebug(_ debug: @autoclosure () -> String) {}
  func logInfo(_ info: @autoclosure () -> String) {}
  func logWarning(_ warning: @autoclosure () -> String) {}
  func logError(_ error: @autoclosure () -> String) {}
  func logCritical(_ critical: @autoclosure () -> String) {}
}
