import Synchronization

/// What the health checks say, written by the control side and read by the servers' threads.
final class HealthBoard: Sendable {
  /// How long a change may wait before programming counts as overdue (KP-53): twice kube-proxy's sync period.
  static let patience: UInt64 = 60_000_000_000

  /// A service whose health check is served (KP-52).
  struct ServiceHealth: Sendable, Equatable {
    var namespace: String
    var name: String
    /// Addresses of endpoints on this node that are ready.
    var localEndpoints: Int
  }

  struct Answer: Equatable {
    var status: Int
    var body: String
    /// In the order that they are sent in.
    var headers: [(String, String)] = []

    static func == (a: Answer, b: Answer) -> Bool {
      a.status == b.status && a.body == b.body && a.headers.elementsEqual(b.headers, by: ==)
    }
  }

  private struct State {
    var services: [UInt16: ServiceHealth] = [:]
    var isNodeBeingDeleted = false
    /// When the oldest change that is not programmed yet was noticed, in nanoseconds since the machine's start.
    var waitingSince: UInt64?
    var lastQueued: UInt64 = 0
    var lastProgrammed: UInt64 = 0
    var answers: [Key: UInt64] = [:]
  }

  private struct Key: Hashable {
    var path: String
    var status: Int
  }

  private let state = Mutex(State())

  // MARK: The control side

  /// A change was noticed, at `now` since the machine's start and `time` since 1970, both in nanoseconds.
  func noteQueued(at now: UInt64, time: UInt64) {
    state.withLock { state in
      state.waitingSince = state.waitingSince ?? now
      state.lastQueued = time
    }
  }

  /// Everything that was noticed up to `now` is programmed.
  func noteProgrammed(noticedBefore now: UInt64, time: UInt64) {
    state.withLock { state in
      if let since = state.waitingSince, since <= now { state.waitingSince = nil }
      state.lastProgrammed = time
    }
  }

  func setServices(_ services: [UInt16: ServiceHealth]) { state.withLock { $0.services = services } }

  func setNodeBeingDeleted(_ value: Bool) { state.withLock { $0.isNodeBeingDeleted = value } }

  // MARK: The servers

  private static func isHealthy(_ state: State, _ now: UInt64) -> Bool {
    state.waitingSince.map { now &- $0 < patience || now < $0 } ?? true
  }

  /// What a service's own health check says (KP-52); nil where there is none on that port.
  func service(onPort port: UInt16, at now: UInt64) -> Answer? {
    state.withLock { state in
      guard let service = state.services[port] else { return nil }
      let isHealthy = HealthBoard.isHealthy(state, now)
      let body =
        "{\"service\":{\"namespace\":\"\(service.namespace)\",\"name\":\"\(service.name)\"},"
        + "\"localEndpoints\":\(service.localEndpoints),\"serviceProxyHealthy\":\(isHealthy)}"
      return Answer(
        status: service.localEndpoints > 0 && isHealthy ? 200 : 503, body: body,
        headers: [
          ("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"),
          ("X-Load-Balancing-Endpoint-Weight", "\(service.localEndpoints)"),
        ])
    }
  }

  /// What `/healthz` and `/livez` say (KP-53); nil for other paths. `date` writes nanoseconds since 1970.
  func node(_ path: String, at now: UInt64, time: UInt64, date: (UInt64) -> String) -> Answer? {
    state.withLock { state in
      let isEligible = !state.isNodeBeingDeleted
      let isHealthy = HealthBoard.isHealthy(state, now)
      let isWell: Bool
      switch path {
      case "/healthz": isWell = isHealthy && isEligible
      case "/livez": isWell = isHealthy
      default: return nil
      }
      let status = isWell ? 200 : 503
      state.answers[Key(path: path, status: status), default: 0] += 1
      let updated = isHealthy ? time : state.lastProgrammed
      let body =
        "{\"lastUpdated\": \"\(date(updated))\",\"currentTime\": \"\(date(time))\", \"nodeEligible\": \(isEligible)}"
      return Answer(
        status: status, body: body,
        headers: [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")])
    }
  }

  // MARK: Metrics

  /// The answers given so far, by path and status.
  var answers: [(path: String, status: Int, count: UInt64)] {
    state.withLock { state in
      state.answers.map { ($0.key.path, $0.key.status, $0.value) }.sorted {
        ($0.path, $0.status) < ($1.path, $1.status)
      }
    }
  }

  /// When a change was last noticed and last programmed, in nanoseconds since 1970; 0: never.
  var times: (queued: UInt64, programmed: UInt64) { state.withLock { ($0.lastQueued, $0.lastProgrammed) } }
}
