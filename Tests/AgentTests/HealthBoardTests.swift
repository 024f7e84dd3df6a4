import Testing

@testable import Agent

@Suite("Health checks")
struct HealthBoardTests {
  private static let second: UInt64 = 1_000_000_000
  private func date(_ time: UInt64) -> String { "\(time / HealthBoardTests.second)" }

  @Test("KP-52: a service's health check says how many endpoints are here, in kube-proxy's words")
  func service() throws {
    let board = HealthBoard()
    board.setServices([
      30100: .init(namespace: "shop", name: "web", localEndpoints: 2),
      30101: .init(namespace: "shop", name: "db", localEndpoints: 0),
    ])
    let well = try #require(board.service(onPort: 30100, at: 5))
    #expect(well.status == 200)
    #expect(
      well.body
        == #"{"service":{"namespace":"shop","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#)
    #expect(
      well.headers.map { "\($0.0): \($0.1)" } == [
        "Content-Type: application/json", "X-Content-Type-Options: nosniff", "X-Load-Balancing-Endpoint-Weight: 2",
      ])
    let empty = try #require(board.service(onPort: 30101, at: 5))
    #expect(empty.status == 503)
    #expect(empty.body.contains(#""localEndpoints":0,"serviceProxyHealthy":true"#))
    #expect(board.service(onPort: 30102, at: 5) == nil)
  }

  @Test("KP-52 KP-53: overdue programming is told by all health checks, and only for as long as it lasts")
  func overdue() throws {
    let board = HealthBoard()
    board.setServices([30100: .init(namespace: "shop", name: "web", localEndpoints: 2)])
    func statuses(_ seconds: UInt64) throws -> [Int] {
      let now = seconds * HealthBoardTests.second
      return [
        try #require(board.service(onPort: 30100, at: now)).status,
        try #require(board.node("/healthz", at: now, time: now, date: date)).status,
        try #require(board.node("/livez", at: now, time: now, date: date)).status,
      ]
    }
    // Nothing to do is well, however long ago something was done.
    board.noteProgrammed(noticedBefore: 0, time: 0)
    #expect(try statuses(100_000) == [200, 200, 200])
    board.noteQueued(at: 100 * HealthBoardTests.second, time: 0)
    // Another change does not make the first one younger.
    board.noteQueued(at: 150 * HealthBoardTests.second, time: 0)
    #expect(try statuses(159) == [200, 200, 200])
    #expect(try statuses(161) == [503, 503, 503])
    // What was programmed before the change was noticed does not hold it.
    board.noteProgrammed(noticedBefore: 99 * HealthBoardTests.second, time: 0)
    #expect(try statuses(161) == [503, 503, 503])
    board.noteProgrammed(noticedBefore: 161 * HealthBoardTests.second, time: 0)
    #expect(try statuses(162) == [200, 200, 200])
  }

  @Test("KP-53: healthz, and not livez, says when the node is being deleted; other paths are none")
  func deletion() throws {
    let board = HealthBoard()
    board.setNodeBeingDeleted(true)
    let health = try #require(board.node("/healthz", at: 0, time: 7 * HealthBoardTests.second, date: date))
    #expect(health.status == 503)
    #expect(health.body == #"{"lastUpdated": "7","currentTime": "7", "nodeEligible": false}"#)
    #expect(try #require(board.node("/livez", at: 0, time: 0, date: date)).status == 200)
    #expect(board.node("/", at: 0, time: 0, date: date) == nil)
    #expect(board.answers.map { "\($0.path) \($0.status) \($0.count)" } == ["/healthz 503 1", "/livez 200 1"])
  }

  @Test("KP-54: metrics in Prometheus' text format: labels escaped, buckets that add up")
  func text() {
    var text = MetricsText()
    text.begin("a_total", .counter, "What \\ is\ncounted.")
    text.sample("a_total", ["name": "say \"x\"\\\n"], 3)
    var histogram = Histogram(bounds: [0.5, 1, 2])
    for value in [0.1, 0.5, 1.5, 99] { histogram.observe(value) }
    text.histogram("b_seconds", "How long.", histogram)
    #expect(
      text.text == #"""
        # HELP a_total What \\ is\ncounted.
        # TYPE a_total counter
        a_total{name="say \"x\"\\\n"} 3
        # HELP b_seconds How long.
        # TYPE b_seconds histogram
        b_seconds_bucket{le="0.5"} 2
        b_seconds_bucket{le="1"} 2
        b_seconds_bucket{le="2"} 3
        b_seconds_bucket{le="+Inf"} 4
        b_seconds_sum 101.1
        b_seconds_count 4

        """#)
    #expect(Histogram.synchronisation.bounds.first == 0.001 && Histogram.synchronisation.bounds.last == 16.384)
    #expect(Histogram.programming.bounds.count == 80 && Histogram.programming.bounds.last == 300)
  }
}
