import Addresses
import Ports
import Testing

@testable import Dataplane

/// The limits of a pod's port (CNI-10, `bandwidth`).
@Suite("Bandwidth")
struct BandwidthTests {
  /// Pod A with limits: 1 Mbit/s, and some packets at once.
  private func bench(send: Int? = nil, receive: Int? = nil, burst: Int = 80_000) -> Bench {
    let bench = Bench()
    var description = bench.tables.port(bench.podA)!
    description.sendLimit = send.map { RateLimit(bitsPerSecond: $0, burstBits: burst) }
    description.receiveLimit = receive.map { RateLimit(bitsPerSecond: $0, burstBits: burst) }
    bench.tables.updatePort(bench.podA, description)
    return bench
  }

  /// Packets of 1,000 octets from pod A to the other node, or the other way round.
  private func packets(_ bench: Bench, toPod: Bool, _ count: Int) -> [MemoryFrame] {
    let (pod, far) = (bench.pod(10), bench.remote(10))
    let payload = [UInt8](repeating: 7, count: 1000 - 14 - 20 - 8)
    let frame = toPod ? bench.fromNode(udp(far, pod, payload)) : bench.fromPod(udp(pod, far, payload))
    return Array(repeating: MemoryFrame(frame), count: count)
  }

  @Test("CNI-10: the burst passes at once, then the rate, in each direction by itself", arguments: [true, false])
  func rate(toPod: Bool) {
    let bench = toPod ? bench(send: 1_000_000) : bench(receive: 1_000_000)
    func pass(_ count: Int) -> Int {
      let sent = bench.send(packets(bench, toPod: toPod, count), at: toPod ? bench.underlay : bench.podA)
      #expect(sent.drops.values.reduce(0, +) == sent.drops[.bandwidth, default: 0])
      return sent.octets(toPod ? bench.podA : bench.underlay).count
    }
    // Ten packets of 8,000 bits are the burst.
    #expect(pass(30) == 10)
    // 8 ms a packet.
    bench.now += 40_000_000
    #expect(pass(30) == 5)
    // After a pause the burst is whole again, and no more.
    bench.now += 10_000_000_000
    #expect(pass(30) == 10)
    // The other direction has no limit.
    let other = bench.send(packets(bench, toPod: !toPod, 30), at: toPod ? bench.podA : bench.underlay)
    #expect(other.octets(toPod ? bench.underlay : bench.podA).count == 30)
    // And without limits there is none.
    var description = bench.tables.port(bench.podA)!
    (description.sendLimit, description.receiveLimit) = (nil, nil)
    bench.tables.updatePort(bench.podA, description)
    #expect(pass(30) == 30)
  }

  @Test(
    "CNI-10: order is kept where some packets of a batch are chained, and what is larger than the burst passes late")
  func order() {
    let bench = bench(send: 1_000_000, burst: 12_000)
    var times: [UInt64] = []
    for step in 0..<100 {
      bench.now += 1_000_000
      let sent = bench.send(packets(bench, toPod: true, 1), at: bench.underlay)
      if !sent.octets(bench.podA).isEmpty { times.append(UInt64(step)) }
    }
    // Two at the beginning (12,000 bits are one packet and a half), and one every 8 ms.
    #expect(times.count == 2 + 100 / 8)
  }

  @Test("CNI-10: a port at its limit still resolves addresses")
  func resolution() {
    let bench = bench(send: 1_000_000, receive: 1_000_000)
    _ = bench.send(packets(bench, toPod: true, 30), at: bench.underlay)
    _ = bench.send(packets(bench, toPod: false, 30), at: bench.podA)
    let asker = Bench.podMAC(1, 10)
    let request =
      [0, 1, 8, 0, 6, 4, 0, 1] + asker.octets + [10, 244, 1, 10, 0, 0, 0, 0, 0, 0] + [169, 254, 1, 1] as [UInt8]
    let frame = ethernet(to: MACAddress("ff:ff:ff:ff:ff:ff")!, from: asker, 0x806, request)
    #expect(bench.send(frame, at: bench.podA).octets(bench.podA).count == 1)
  }

  private final class Kernel: FlowOffload {
    var entered: [PortIndex] = []
    func wants(_ key: OffloadKey, to port: PortIndex) -> Bool { true }
    func enter(_ flow: OffloadedFlow) -> Bool {
      entered.append(flow.port)
      return true
    }
    func remove(_ key: OffloadKey) {}
    func takeCounts(of key: OffloadKey) -> OffloadCounts? { nil }
    func invalidate() {}
    var totals: (flows: Int, packets: UInt64, octets: UInt64) { (0, 0, 0) }
  }

  @Test("CNI-10: flows that pass a limit are not given to the kernel, which knows of none", arguments: [0, 1, 2])
  func carried(limits: Int) {
    let bench = bench(
      send: limits == 1 ? 1_000_000_000 : nil, receive: limits == 2 ? 1_000_000_000 : nil, burst: 1_000_000_000)
    let kernel = Kernel()
    bench.pipeline.isTracing = false
    bench.pipeline.setOffload(kernel)
    for _ in 0..<20 {
      for toPod in [false, true] {
        bench.send(packets(bench, toPod: toPod, 1), at: toPod ? bench.underlay : bench.podA)
      }
    }
    #expect(kernel.entered.contains(bench.podA) == (limits != 1))
    #expect(kernel.entered.contains(bench.underlay) == (limits != 2))
  }

  @Test("limits at the ends of what can be said do not overflow")
  func extremes() {
    for rate in [0, 1, 64, .max] {
      for burst in [0, 1, Int.max] {
        var pace = PortPace()
        let limit = PacedRate(RateLimit(bitsPerSecond: rate, burstBits: burst))
        let passes = pace.sends(65_549, at: 1 << 60, limit)
        #expect(passes)
        _ = pace.sends(.max, at: .max >> 1, limit)
      }
    }
    #expect(!PacedRate(nil).isLimit)
  }
}
