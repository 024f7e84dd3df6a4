import Addresses
import Model
import Testing

@testable import Reference

@Suite struct RandomClusterTests {
  @Test("a seed brings the same cluster, changes and probes back")
  func deterministic() {
    func run(_ seed: UInt64) -> (State, [[Change]], [ServiceProbe], [PolicyProbe]) {
      var cluster = RandomCluster(seed: seed)
      let changes = (0..<20).map { _ in cluster.step() }
      return (cluster.state, changes, cluster.serviceProbes(50), cluster.policyProbes(50))
    }
    let (first, second, other) = (run(7), run(7), run(8))
    #expect(first.0 == second.0 && first.1 == second.1 && first.2 == second.2 && first.3 == second.3)
    #expect(first.0 != other.0)
  }

  @Test("the changes of every step lead from state to state", arguments: 0..<20)
  func steps(seed: UInt64) {
    var cluster = RandomCluster(seed: seed)
    var state = State()
    for change in cluster.changes { state.apply(change) }
    #expect(state == cluster.state)
    for _ in 0..<30 {
      for change in cluster.step() { state.apply(change) }
      #expect(state == cluster.state, "seed \(seed)")
      // What the manifests directory sees to.
      let claims = cluster.state.services.values.flatMap(\.claims)
      #expect(Set(claims).count == claims.count, "seed \(seed)")
    }
  }

  @Test("random clusters bring up every kind of decision about services, and probes hit them")
  func serviceCoverage() {
    var seen: [String: Int] = [:]
    for seed in 0..<60 as Range<UInt64> {
      var cluster = RandomCluster(seed: seed)
      for _ in 0..<5 { _ = cluster.step() }
      let services = ReferenceServices(state: cluster.state, node: cluster.node)
      let frontends = services.frontends
      for probe in cluster.serviceProbes(100) {
        let decision = services.decide(
          source: probe.source, destination: probe.destination, protocol: probe.protocol, port: probe.port)
        seen[decision.verdict.rawValue + (decision.service == nil ? "" : " service"), default: 0] += 1
        if decision.masquerade { seen["masquerade", default: 0] += 1 }
        if decision.verdict == .translate && !decision.masquerade { seen["no masquerade", default: 0] += 1 }
        if decision.affinitySeconds != nil { seen["affinity", default: 0] += 1 }
        if decision.endpoints.count > 1 { seen["several", default: 0] += 1 }
        if !decision.masquerade, decision.endpoints.contains(where: { decision.masquerades(to: $0) }) {
          seen["hairpin", default: 0] += 1
        }
        seen["\(probe.destination.family)", default: 0] += 1
        for frontend in frontends
        where frontend.address == SocketAddress(probe.destination, port: probe.port)
          && frontend.protocol == probe.protocol && decision.service != nil
        {
          seen["\(frontend.class)", default: 0] += 1
        }
      }
    }
    let expected = [
      "translate service", "reject service", "drop service", "none", "reject", "drop", "masquerade", "no masquerade",
      "affinity", "several", "hairpin", "ipv4", "ipv6", "clusterIP", "externalIP", "loadBalancer", "nodePort",
    ]
    for what in expected { #expect(seen[what, default: 0] >= 20, "\(what): \(seen)") }
  }

  @Test("random clusters bring up every kind of decision about policies")
  func policyCoverage() {
    var seen: [String: Int] = [:]
    for seed in 0..<40 as Range<UInt64> {
      var cluster = RandomCluster(seed: seed)
      let policies = ReferencePolicy(state: cluster.state)
      for probe in cluster.policyProbes(100) {
        let decision = policies.decide(
          source: probe.source, destination: probe.destination, protocol: probe.protocol, port: probe.port)
        let isIsolated = (!decision.egressPolicies.isEmpty, !decision.ingressPolicies.isEmpty)
        seen["egress \(decision.egress) \(isIsolated.0)", default: 0] += 1
        seen["ingress \(decision.ingress) \(isIsolated.1)", default: 0] += 1
      }
    }
    for direction in ["egress", "ingress"] {
      for what in ["allow true", "allow false", "deny true"] {
        #expect(seen["\(direction) \(what)", default: 0] >= 100, "\(seen)")
      }
      #expect(seen["\(direction) deny false"] == nil, "NP-1: only isolated pods are restricted")
    }
  }
}
