import Bench
import Testing

/// The benchmarks of scale with smaller numbers: each checks all packets that come out, and here their counts are held to
/// what must be. Nothing is said about times.
@Suite(
  "Scale, optimised",
  .enabled(if: !_isDebugAssertConfiguration(), "many packets: only in a release build"))
struct ScaleTests {
  @Test("A flood of first packets evicts nothing that is established, needs no memory, and every eviction is counted")
  func flood() throws {
    let result = try FlowsBench.run(flows: 50_000, flood: 1_000_000, limit: 20_000, established: 8000) { _ in }
    let flood = result.flood
    #expect(flood.packets >= 4 * 8000)
    #expect(flood.packetsInPlace == flood.packets)
    #expect(flood.inTable <= flood.limit)
    #expect(flood.created + flood.refused == UInt64(flood.firstPackets + flood.established))
    #expect(flood.evicted + flood.expired + flood.replaced + UInt64(flood.inTable) == flood.created)
    #expect(flood.evicted >= 900_000)
    #expect(flood.flowMemory <= flood.limit * 1024)
  }

  @Test("KP-51 the change of an endpoint among many services shows with the next packet, and all endpoints are reached")
  func services() throws {
    let result = try ServicesBench.run(services: 5000, flows: 1024, changes: 100, windows: 1) { _ in }
    #expect(result.many.services == 5000 && result.few.services == 10)
  }

  @Test("NP-6 among many policies packets pass that both sides allow, and no others")
  func policies() throws {
    let result = try PolicyBench.run(pods: 2000, policies: 1000, localPods: 250, flows: 1024, windows: 1) { _ in }
    #expect(result.sides.map(\.policies) == [100, 1000, 1000])
  }
}
