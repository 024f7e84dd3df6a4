import Addresses
import Model
import Testing

@testable import Reference

@Suite struct VerdictTests {
  /// A service with every kind of frontend, and one endpoint on each node.
  private func cluster(
    _ endpoints: [EndpointSlice.Endpoint] = [endpoint("10.244.1.2"), endpoint("10.244.2.2")],
    _ change: (inout Service) -> Void = { _ in }
  ) -> Cluster {
    var cluster = Cluster()
    cluster.service("web") {
      $0.type = .loadBalancer
      $0.ports[0].nodePort = 30000
      $0.externalIPs = [IPAddress("192.0.2.50")!]
      $0.loadBalancerIngress = [LoadBalancerIngress(IPAddress("203.0.113.1")!)]
      change(&$0)
    }
    cluster.slice(endpoints)
    return cluster
  }

  private static let external: [(String, UInt16)] = [("192.0.2.50", 80), ("203.0.113.1", 80), ("10.0.0.1", 30000)]
  private let here = "10.244.1.2:8080"
  private let both = "10.244.1.2:8080 10.244.2.2:8080"

  @Test("KP-30 without any usable endpoint every frontend rejects, whatever the policies")
  func reject() {
    for policy in TrafficPolicy.allCases {
      let cluster = cluster([endpoint("10.244.1.2", ready: false)]) {
        $0.externalTrafficPolicy = policy
        $0.internalTrafficPolicy = policy
        $0.loadBalancerSourceRanges = [IPPrefix("172.16.0.0/12")!]
      }
      for source in [client, ownNode, localPod] {
        for (address, port) in Self.external + [("10.96.0.1", 80)] {
          let decision = cluster.decide(source, address, .tcp, port)
          #expect(decision.text == "reject" && decision.service == "default/web:http", "\(address)")
        }
      }
    }
  }

  @Test("KP-31 KP-33 endpoints but none local: Local drops, from the cluster IP to all and from outside to clients")
  func drop() {
    let cluster = cluster([endpoint("10.244.2.2")]) {
      $0.externalTrafficPolicy = .local
      $0.internalTrafficPolicy = .local
    }
    for source in [client, ownNode, localPod] { #expect(cluster.decide(source, "10.96.0.1").text == "drop") }
    for (address, port) in Self.external {
      #expect(cluster.decide(client, address, .tcp, port).text == "drop")
      #expect(cluster.decide(localPod, address, .tcp, port).text == "translate 10.244.2.2:8080")
      #expect(cluster.decide(ownNode, address, .tcp, port).text == "translate 10.244.2.2:8080 masquerade")
    }
  }

  @Test("KP-31 internalTrafficPolicy Local keeps to the node, and has no say about frontends outside")
  func internalLocal() {
    let cluster = cluster { $0.internalTrafficPolicy = .local }
    #expect(cluster.decide(localPod, "10.96.0.1").text == "translate \(here)")
    #expect(cluster.decide(client, "192.0.2.50").text == "translate \(both) masquerade")
  }

  @Test("KP-32 externalTrafficPolicy Cluster masquerades all that comes by a frontend outside", arguments: external)
  func clusterPolicy(address: String, port: UInt16) {
    for source in [client, ownNode, localPod] {
      #expect(cluster().decide(source, address, .tcp, port).text == "translate \(both) masquerade")
    }
  }

  @Test("KP-33 externalTrafficPolicy Local: pods and the node reach all, others the local ones unmasqueraded")
  func localPolicy() {
    let cluster = cluster { $0.externalTrafficPolicy = .local }
    for (address, port) in Self.external {
      #expect(cluster.decide(localPod, address, .tcp, port).text == "translate \(both)")
      #expect(cluster.decide(ownNode, address, .tcp, port).text == "translate \(both) masquerade")
      #expect(cluster.decide(client, address, .tcp, port).text == "translate \(here)")
    }
    // The cluster IP is not concerned.
    #expect(cluster.decide(client, "10.96.0.1").text == "translate \(both)")
  }

  @Test("KP-34 cluster IPs masquerade all, or what is no pod by the cluster CIDR, or nothing without one")
  func clusterIP() {
    var cluster = cluster()
    for source in [client, ownNode, localPod] {
      #expect(!cluster.decide(source, "10.96.0.1").masquerade)
    }
    cluster.configuration.clusterCIDRs = [IPPrefix("10.244.0.0/16")!]
    #expect(cluster.decide(client, "10.96.0.1").masquerade && cluster.decide(ownNode, "10.96.0.1").masquerade)
    #expect(!cluster.decide(localPod, "10.96.0.1").masquerade)
    #expect(!cluster.decide(.elsewhere(IPAddress("10.244.2.9")!), "10.96.0.1").masquerade)
    // A cluster CIDR of the other family says nothing.
    cluster.configuration.clusterCIDRs = [IPPrefix("fd00:10:244::/48")!]
    #expect(!cluster.decide(client, "10.96.0.1").masquerade)
    cluster.configuration.masqueradeAll = true
    #expect(cluster.decide(localPod, "10.96.0.1").masquerade)
  }

  @Test("KP-35 an endpoint that reaches itself is masqueraded, on every frontend")
  func hairpin() {
    let cluster = cluster { $0.externalTrafficPolicy = .local }
    let source = Origin.localPod(IPAddress("10.244.1.2")!)
    for (address, port) in [("10.96.0.1", 80)] + Self.external {
      let decision = cluster.decide(source, address, .tcp, port)
      #expect(!decision.masquerade)
      #expect(decision.masquerades(to: SocketAddress("10.244.1.2:8080")!))
      #expect(!decision.masquerades(to: SocketAddress("10.244.2.2:8080")!))
    }
  }

  @Test("KP-38 source ranges are for load balancers' addresses, of the family, for pods too")
  func sourceRanges() {
    func verdict(_ ranges: [String], _ source: Origin, _ address: String = "203.0.113.1", _ port: UInt16 = 80)
      -> ServiceDecision.Verdict
    {
      cluster { $0.loadBalancerSourceRanges = ranges.map { IPPrefix($0)! } }.decide(source, address, .tcp, port).verdict
    }
    #expect(verdict(["198.51.100.0/24"], client) == .translate)
    #expect(verdict(["10.0.0.0/8"], client) == .drop)
    #expect(verdict(["10.244.1.0/24"], localPod) == .translate && verdict(["198.51.100.0/24"], localPod) == .drop)
    #expect(verdict(["198.51.100.0/24", "0.0.0.0/0"], localPod) == .translate)
    // A family without a range is not restricted.
    #expect(verdict(["fd00::/8"], client) == .translate && verdict(["fd00::/8", "10.0.0.0/8"], client) == .drop)
    // Other frontends know no ranges.
    for (address, port) in [("10.96.0.1", UInt16(80)), ("192.0.2.50", 80), ("10.0.0.1", 30000)] {
      #expect(verdict(["172.16.0.0/12"], client, address, port) == .translate)
    }
  }

  @Test("KP-38 the node's own traffic counts as coming from the load balancer's address")
  func sourceRangesOwnNode() {
    for (range, expected) in [("203.0.113.1/32", ServiceDecision.Verdict.translate), ("10.0.0.0/24", .drop)] {
      let cluster = cluster { $0.loadBalancerSourceRanges = [IPPrefix(range)!] }
      #expect(cluster.decide(ownNode, "203.0.113.1").verdict == expected)
    }
  }

  @Test("KP-50 affinity goes with every frontend of the port, and only where packets are translated")
  func affinity() {
    let cluster = cluster { $0.affinitySeconds = 10800 }
    for (address, port) in Self.external + [("10.96.0.1", 80)] {
      #expect(cluster.decide(client, address, .tcp, port).affinitySeconds == 10800)
    }
    #expect(cluster.decide(client, "10.96.0.1", .tcp, 81).affinitySeconds == nil)
    #expect(self.cluster().decide(client, "10.96.0.1").affinitySeconds == nil)
  }
}
