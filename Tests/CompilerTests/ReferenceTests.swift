import Addresses
import Model
import Reference
import Testing

@testable import Dataplane

/// Compiled tables are asked by packets, and the reference by looking at every object: over random clusters that change
/// at random they must say the same. A failure names the seed that brings it back: `KALSAE_SEED=… swift test`.
@Suite struct ReferenceMatchTests {
  private static let seed: UInt64 = {
    let given = Environment.seed
    print("random clusters from seed \(given)")
    return given
  }()

  private static let clusters = 60
  private static let steps = 4

  /// Follows clusters through their changes; `body` is told how far it has come.
  private func follow(
    _ salt: UInt64, where filter: (Change) -> Bool = { _ in true },
    _ body: (inout RandomCluster, ClusterBench, Comment) -> Bool
  ) {
    for number in 0..<UInt64(ReferenceMatchTests.clusters) {
      let seed = ReferenceMatchTests.seed &+ number &* 1000 &+ salt
      var cluster = RandomCluster(seed: seed)
      let bench = ClusterBench(cluster.node, explains: false, cluster.changes.filter(filter))
      for step in 0...ReferenceMatchTests.steps {
        if step > 0 { bench.apply(cluster.step().filter(filter)) }
        if !body(&cluster, bench, "seed \(seed), step \(step)") { return }
      }
    }
  }

  @Test("KP-1 to KP-38 services: verdict, service, endpoints and masquerade are the reference's")
  func services() {
    var asked = 0
    var verdicts: [String: Int] = [:]
    follow(0) { cluster, bench, note in
      let probes = cluster.serviceProbes(20)
      let reference = ReferenceServices(state: cluster.state, node: cluster.node)
      for probe in probes {
        asked += 1
        // Only what a pod here can send.
        if case .localPod(let address) = probe.source, !bench.isLocalPod(address) { continue }
        let expected = reference.decide(
          source: probe.source, destination: probe.destination, protocol: probe.protocol, port: probe.port)
        let outcome = bench.send(
          probe.source, to: probe.destination, probe.protocol.number, port: probe.port,
          client: UInt16(20000 + asked % 30000))
        let found = outcome.service
        verdicts[expected.verdict.rawValue, default: 0] += 1
        let isSame =
          found.verdict.rawValue == expected.verdict.rawValue && found.name == expected.service
          && Set(found.endpoints.map { SocketAddress($0.address, port: $0.port) }) == expected.endpoints
          && found.endpoints.count == expected.endpoints.count
        var isRight = isSame
        if isSame, expected.verdict == .translate {
          if let chosen = outcome.endpoint {
            isRight =
              expected.endpoints.contains { $0.address == chosen }
              && found.masquerade == (expected.masquerade || chosen == probe.source.address)
          } else {
            // A node without an address of the family cannot masquerade.
            isRight = outcome.drop == .noFreePort && found.masquerade
          }
          if let destination = outcome.destination {
            isRight = isRight && expected.endpoints.contains(destination)
            let isMasked = outcome.source?.address != probe.source.address || outcome.source?.port ?? 0 >= 61000
            // The node's own connections keep their address, masqueraded or not, and get another port in either case.
            let isOwn = if case .node = probe.source { true } else { false }
            isRight = isRight && (isMasked == found.masquerade || isOwn && !found.masquerade)
          }
        }
        #expect(isRight, "\(note): \(probe): \(outcome.text), masquerade \(found.masquerade); expected \(expected)")
        if !isRight { return false }
      }
      return true
    }
    // All of it came up.
    #expect(asked >= 5000)
    for verdict in Reference.ServiceDecision.Verdict.allCases {
      #expect(verdicts[verdict.rawValue, default: 0] > 20, "\(verdict): \(verdicts)")
    }
  }

  private static let withoutServices: @Sendable (Change) -> Bool = { change in
    switch change {
    case .upsert(.service), .upsert(.endpointSlice): false
    default: true
    }
  }

  /// Sends the packet of a probe and compares what policy made of it with what the reference says; nil where something
  /// else than policy decided.
  private func judge(
    _ probe: PolicyProbe, _ cluster: RandomCluster, _ bench: ClusterBench, client: Int,
    knowsFlows: Bool = false
  ) -> (outcome: ClusterBench.Outcome, found: DropReason?, expected: DropReason?)? {
    let own = Set(cluster.state.node(cluster.node).map { $0.addresses.map(\.address) } ?? [])
    let decision = ReferencePolicy(state: cluster.state).decide(
      source: probe.source, destination: probe.destination, protocol: probe.protocol, port: probe.port)
    let origin: Origin =
      bench.isLocalPod(probe.source)
      ? .localPod(probe.source) : own.contains(probe.source) ? .node(probe.source) : .elsewhere(probe.source)
    let outcome = bench.send(
      origin, to: probe.destination, probe.protocol, port: probe.port, client: UInt16(20000 + client % 30000),
      knowsFlows: knowsFlows)
    var expected: DropReason?
    if decision.ingress == .deny, bench.isLocalPod(probe.destination) { expected = .policyIngress }
    if decision.egress == .deny, bench.isLocalPod(probe.source) { expected = .policyEgress }
    var found = outcome.drop
    if found != .policyEgress && found != .policyIngress { found = nil }
    // What is spoofed, for the host, or for a service that is not there, is not asked about.
    if let drop = outcome.drop, [.sourceAddress, .leftToHost, .invalidSource, .noService].contains(drop) { return nil }
    return (outcome, found, expected)
  }

  @Test("NP-1 to NP-8 policies: what each side of this node enforces is the reference's")
  func policies() {
    var asked = 0
    var drops: [DropReason: Int] = [:]
    follow(1, where: Self.withoutServices) { cluster, bench, note in
      for probe in cluster.policyProbes(25) {
        asked += 1
        guard let (outcome, found, expected) = judge(probe, cluster, bench, client: asked) else { continue }
        if let expected { drops[expected, default: 0] += 1 }
        #expect(found == expected, "\(note): \(probe): \(outcome.text); expected \(String(describing: expected))")
        if found != expected { return false }
      }
      return true
    }
    #expect(asked >= 5000)
    for reason in [DropReason.policyEgress, .policyIngress] { #expect(drops[reason, default: 0] > 100, "\(drops)") }
  }

  @Test("NP-1 what changes decides established flows anew, as the reference says")
  func established() {
    var asked = 0
    var known = 0
    var cut = 0
    for number in 0..<UInt64(ReferenceMatchTests.clusters) {
      let seed = ReferenceMatchTests.seed &+ number &* 1000 &+ 5
      var cluster = RandomCluster(seed: seed)
      let bench = ClusterBench(cluster.node, explains: false, cluster.changes.filter(Self.withoutServices))
      for step in 0..<2 {
        let probes = cluster.policyProbes(25)
        let first = asked
        bench.pipeline.forgetFlows()
        // Those that are let through are flows now, and stay the same ones.
        for probe in probes {
          asked += 1
          _ = judge(probe, cluster, bench, client: asked, knowsFlows: true)
        }
        for _ in 0..<3 { bench.apply(cluster.step().filter(Self.withoutServices)) }
        for (place, probe) in probes.enumerated() {
          guard
            let (outcome, found, expected) = judge(
              probe, cluster, bench, client: first + place + 1, knowsFlows: true)
          else { continue }
          let isKnown = outcome.trace.contains { $0 == .flowStale || $0 == .flowFound }
          if isKnown { known += 1 }
          if isKnown, expected != nil { cut += 1 }
          #expect(
            found == expected,
            "seed \(seed), step \(step): \(probe): \(outcome.text); expected \(String(describing: expected))")
          if found != expected { return }
        }
      }
    }
    print("\(known) flows were known, of which \(cut) were no longer allowed")
    #expect(asked >= 3000)
    #expect(known > 300 && cut > 0, "\(known) flows were known, \(cut) of them no longer allowed")
  }

  @Test("NP-1 policies of all pods, for explanations: both sides are the reference's") func explained() {
    for number in 0..<20 {
      let seed = ReferenceMatchTests.seed &+ UInt64(number) &* 1000 &+ 2
      var cluster = RandomCluster(seed: seed)
      let changes = cluster.changes.filter { change in
        switch change {
        case .upsert(.service), .upsert(.endpointSlice): false
        default: true
        }
      }
      let bench = ClusterBench(cluster.node, explains: true, changes)
      let reference = ReferencePolicy(state: cluster.state)
      let own = Set(cluster.state.node(cluster.node).map { $0.addresses.map(\.address) } ?? [])
      for probe in cluster.policyProbes(30) {
        let origin: Origin =
          bench.isLocalPod(probe.source)
          ? .localPod(probe.source) : own.contains(probe.source) ? .node(probe.source) : .elsewhere(probe.source)
        let outcome = bench.send(origin, to: probe.destination, probe.protocol, port: probe.port)
        guard let policy = outcome.policy else { continue }
        let decision = reference.decide(
          source: probe.source, destination: probe.destination, protocol: probe.protocol, port: probe.port)
        #expect(
          policy == (decision.egress == .allow, decision.ingress == .allow), "seed \(seed): \(probe): \(decision)")
      }
    }
  }

  @Test("changes end where a compile from scratch does: the same tables, and the same decisions")
  func incremental() {
    follow(3) { cluster, bench, note in
      let fresh = ClusterBench(cluster.node, cluster.changes)
      #expect(bench.contents == fresh.contents, "\(note)")
      for probe in cluster.serviceProbes(4) {
        if case .localPod(let address) = probe.source, !bench.isLocalPod(address) { continue }
        let found = bench.send(probe.source, to: probe.destination, probe.protocol.number, port: probe.port)
        let expected = fresh.send(probe.source, to: probe.destination, probe.protocol.number, port: probe.port)
        #expect(found.service.name == expected.service.name, "\(note): \(probe)")
        #expect(found.service.verdict == expected.service.verdict, "\(note): \(probe)")
        #expect(found.service.endpoints == expected.service.endpoints, "\(note): \(probe)")
      }
      return bench.contents == fresh.contents
    }
  }

  @Test("what all objects left behind when they went is nothing") func empty() {
    for number in 0..<20 {
      let seed = ReferenceMatchTests.seed &+ UInt64(number) &* 1000 &+ 4
      var cluster = RandomCluster(seed: seed)
      let bench = ClusterBench(cluster.node)
      let before = bench.contents
      bench.apply(cluster.changes)
      for _ in 0..<3 { bench.apply(cluster.step()) }
      bench.apply(Change.ordered(cluster.changes.map { .delete($0.key) }))
      #expect(bench.contents == before, "seed \(seed)")
    }
  }
}
