import Addresses
import Ports
import Testing

@testable import Dataplane

/// When flows are forgotten: in time, not before, and under pressure the least useful first.
@Suite struct FlowExpiryTests {
  private static let families: [IPFamily] = [.ipv4, .ipv6]

  /// A packet, then silence: the flow must be there `seconds` - 2 later and gone at `seconds` + 2.
  private func expectExpiry(
    _ bench: Bench, after seconds: Double, sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let count = bench.pipeline.flowCount
    for _ in 0..<20 { bench.tick((seconds - 2) / 20) }
    #expect(bench.pipeline.flowCount == count, "too early", sourceLocation: sourceLocation)
    for _ in 0..<4 { bench.tick(1) }
    #expect(bench.pipeline.flowCount == 0, "too late", sourceLocation: sourceLocation)
    #expect(bench.pipeline.flowStatistics.expired == UInt64(count), sourceLocation: sourceLocation)
  }

  private func there(_ bench: Bench, _ flags: Int) {
    bench.send(bench.fromPod(tcp(bench.pod(10), bench.pod(11), flags)), at: bench.podA)
  }

  private func back(_ bench: Bench, _ flags: Int) {
    bench.send(bench.fromPod(tcp(bench.pod(11), bench.pod(10), from: 80, to: 1000, flags), 11), at: bench.podB)
  }

  private func handshake(_ bench: Bench) {
    there(bench, Flag.syn)
    back(bench, Flag.syn | Flag.ack)
    there(bench, Flag.ack)
  }

  @Test("silent flows expire: UDP, ICMP, SCTP, others", arguments: families)
  func expiry(_ family: IPFamily) {
    for (number, seconds) in [(17, 120.0), (family == .ipv4 ? 1 : 58, 60), (132, 210), (50, 600)] {
      let bench = Bench()
      let payload =
        [UInt8](family == .ipv4 && number == 1 ? [8, 0, 0xf7, 0xff] : [128, 0, 0, 0]) + [0, 0, 0, 0, 0, 0, 0, 0]
      bench.validates = false
      bench.send(bench.fromPod(ip(bench.pod(10, family), bench.pod(11, family), number, payload)), at: bench.podA)
      #expect(bench.pipeline.flowCount == 1)
      expectExpiry(bench, after: seconds)
    }
  }

  @Test("the time-outs are the configured ones, and a packet in either direction renews them")
  func renewal() {
    let bench = Bench(settings: { $0.timeouts.udp = 30 })
    let there = bench.fromPod(udp(bench.pod(10), bench.pod(11)))
    let back = bench.fromPod(udp(bench.pod(11), bench.pod(10), from: 2000, to: 1000), 11)
    bench.send(there, at: bench.podA)
    for round in 0..<6 {
      bench.tick(25)
      bench.send(round % 2 == 0 ? back : there, at: round % 2 == 0 ? bench.podB : bench.podA)
    }
    #expect(bench.pipeline.flowCount == 1)
    expectExpiry(bench, after: 30)
  }

  @Test("TCP: half open 240 s, established a day, closed 10 s")
  func tcpStates() {
    let half = Bench()
    there(half, Flag.syn)
    #expect(half.pipeline.flows().first?.state == .new)
    expectExpiry(half, after: 240)

    let open = Bench()
    handshake(open)
    #expect(open.pipeline.flows().first?.state == .established)
    expectExpiry(open, after: 86400)

    let reset = Bench()
    handshake(reset)
    back(reset, Flag.rst)
    #expect(reset.pipeline.flows().first?.state == .closed)
    expectExpiry(reset, after: 10)

    let closing = Bench()
    handshake(closing)
    there(closing, Flag.fin | Flag.ack)
    #expect(closing.pipeline.flows().first?.state == .closing)
    back(closing, Flag.ack)
    #expect(closing.pipeline.flows().first?.state == .closing)
    expectExpiry(closing, after: 240)

    let closed = Bench()
    handshake(closed)
    there(closed, Flag.fin | Flag.ack)
    back(closed, Flag.fin | Flag.ack)
    #expect(closed.pipeline.flows().first?.state == .closed)
    there(closed, Flag.ack)
    #expect(closed.pipeline.flows().first?.state == .closed)
    expectExpiry(closed, after: 10)

    // One side's FIN twice is not both sides'.
    let repeated = Bench()
    handshake(repeated)
    there(repeated, Flag.fin | Flag.ack)
    there(repeated, Flag.fin | Flag.ack)
    #expect(repeated.pipeline.flows().first?.state == .closing)
  }

  @Test("TCP: a new SYN on the ports of a closed connection opens a new one")
  func reopened() {
    for ending in [Flag.rst, Flag.fin] {
      let bench = Bench()
      handshake(bench)
      there(bench, ending | Flag.ack)
      back(bench, ending | Flag.ack)
      #expect(bench.pipeline.flows().first?.state == .closed)
      bench.tick(1)
      handshake(bench)
      #expect(bench.pipeline.flows().first?.state == .established)
      for _ in 0..<10 { bench.tick(100) }
      #expect(bench.pipeline.flowCount == 1)
    }
  }

  @Test("flows expire whenever the first tick comes, and after long gaps")
  func gaps() {
    for first in [0.0, 1, 5000, 100_000] {
      let bench = Bench()
      bench.now += 1_700_000_000 * 1_000_000_000
      if first == 0 { bench.tick() }
      bench.send(bench.fromPod(udp(bench.pod(10), bench.pod(11))), at: bench.podA)
      bench.tick(first)
      if first < 100 {
        bench.tick(100)
        #expect(bench.pipeline.flowCount == 1)
        for _ in 0..<4 { bench.tick(10) }
      }
      bench.tick(1)
      #expect(bench.pipeline.flowCount == 0, "first tick after \(first) s")
    }
  }

  @Test("many flows that end at the same time all end, a bounded number a tick")
  func expiryIsBounded() {
    let bench = Bench(.ipip)
    bench.validates = false
    for number in 0..<2000 {
      bench.send(bench.fromPod(udp(bench.pod(10), bench.remote(10), from: 1000 + number)), at: bench.podA)
    }
    bench.tick(121)
    let left = bench.pipeline.flowCount
    #expect(left > 0 && left < 2000)
    for _ in 0..<20 { bench.tick(0.01) }
    #expect(bench.pipeline.flowCount == 0)
  }

  @Test("the table is bounded: the least useful flow gives way, packets pass nevertheless")
  func eviction() {
    let bench = Bench(.ipip, flowLimit: 64)
    bench.validates = false
    // Thirty-two flows that were answered, long ago.
    for number in 0..<32 {
      bench.send(bench.fromPod(udp(bench.pod(10), bench.pod(11), from: 1000 + number)), at: bench.podA)
      bench.send(bench.fromPod(udp(bench.pod(11), bench.pod(10), from: 2000, to: 1000 + number), 11), at: bench.podB)
    }
    bench.tick(20)
    // A flood of flows that nobody answers.
    for number in 0..<5000 {
      let sent = bench.send(bench.fromPod(udp(bench.pod(10), bench.remote(10), from: 3000 + number)), at: bench.podA)
      #expect(sent.octets(bench.underlay).count == 1)
      #expect(bench.pipeline.flowCount <= 64)
      bench.now += 1_000_000
    }
    let statistics = bench.pipeline.flowStatistics
    #expect(statistics.evicted + statistics.refused == 5000 + 32 - UInt64(bench.pipeline.flowCount))
    #expect(bench.pipeline.flows().count { $0.state == .established } == 32, "answered flows stay")
    #expect(bench.pipeline.flowMemory < 1 << 21)
  }
}
