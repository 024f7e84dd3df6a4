import Addresses
import Ports
import Testing

@testable import Dataplane

/// Two nodes alike, of which one never takes the fast path: whatever comes in, the same must come out of both, and the
/// same be counted, dropped and remembered.
struct Twins {
  let fast: Bench
  let plain: Bench
  /// The other node, which wraps packets for them.
  let peer: Bench
  /// Two services of each family.
  let frontends: [IPFamily: [IPAddress]]

  /// `batch`: how many frames they take at a time.
  init(
    _ encapsulation: Encapsulation, mtu: Int = 1500, capabilities: PortCapabilities = [], batch: Int = 24,
    tunnel configure: @escaping (inout Tunnel) -> Void = { _ in },
    settings change: @escaping (inout Settings) -> Void = { _ in }
  ) {
    let benches = (0..<2).map { _ in
      Bench(
        encapsulation, mtu: mtu, capabilities: capabilities, slots: batch, tunnel: configure,
        settings: {
          $0.nodeAddress4 = Bench.node4(1).v4
          $0.nodeAddress6 = Bench.node6(1).v6
          $0.icmpErrorRate = 1_000_000
          $0.icmpErrorBurst = 1_000_000
          change(&$0)
        })
    }
    (fast, plain) = (benches[0], benches[1])
    peer = Bench(node: 2, encapsulation, mtu: mtu, tunnel: configure, settings: change)
    let first = fast
    frontends = Dictionary(
      uniqueKeysWithValues: IPFamily.allCases.map { ($0, [first.vip($0, 1), first.vip($0, 2)]) })
    for bench in benches {
      for (family, addresses) in frontends.sorted(by: { $0.key == .ipv4 && $1.key != .ipv4 }) {
        let endpoints = [[bench.remote(10, family), bench.remote(11, family)], [bench.pod(11, family)]]
        for (number, endpoints) in endpoints.enumerated() {
          for transport in [Transport.udp, .tcp] {
            let service = bench.addService(
              "s\(number)-\(transport)-\(family)", endpoints.map { ServicePort.Endpoint($0, 8080) })
            bench.setFrontend(.clusterIP, addresses[number], Wire(family: family, transport: transport), service)
          }
        }
      }
      bench.pipeline.isTracing = false
      // Bent packets are passed on as they are.
      bench.validates = false
    }
    plain.pipeline.core.usesFastPath = false
  }

  func send(_ frames: [MemoryFrame], at port: PortIndex) {
    let (a, b) = (fast.send(frames, at: port), plain.send(frames, at: port))
    #expect(a.drops == b.drops)
    #expect(Set(a.frames.keys) == Set(b.frames.keys))
    // Marks of checksums that are still to be finished too.
    for port in b.frames.keys where a.frames[port] != b.frames[port] {
      Issue.record("by port \(port.rawValue): \(a.octets(port).map(hex)) instead of \(b.octets(port).map(hex))")
    }
  }

  func expectSameFlows() {
    func sorted(_ bench: Bench) -> [String] { bench.pipeline.flows().map { "\($0)" }.sorted() }
    #expect(sorted(fast) == sorted(plain))
    #expect(fast.pipeline.flowStatistics == plain.pipeline.flowStatistics)
  }
}
