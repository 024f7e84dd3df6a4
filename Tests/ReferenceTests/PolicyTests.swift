import Addresses
import Model
import Testing

@testable import Reference

@Suite struct PolicyTests {
  private var cluster = Cluster()

  init() {
    cluster.pod("web", "10.244.1.2", labels: ["app": "web"])
    cluster.pod("api", "10.244.2.2", labels: ["app": "api"])
    cluster.pod("far", "10.244.2.3", labels: ["app": "api"], namespace: "far")
    cluster.put(Namespace(metadata: ObjectMetadata(name: "far", labels: ["team": "x"])).resource)
  }

  private let web = "10.244.1.2"
  private let api = "10.244.2.2"
  private let far = "10.244.2.3"
  private let world = "198.51.100.7"

  private mutating func policy(
    _ name: String = "p", selects labels: [String: String] = ["app": "web"],
    types: Set<NetworkPolicy.Direction>? = nil, ingress: [NetworkPolicy.Rule] = [], egress: [NetworkPolicy.Rule] = []
  ) {
    cluster.put(
      NetworkPolicy(
        metadata: ObjectMetadata(name: name, namespace: "default"),
        podSelector: LabelSelector(matchLabels: labels), policyTypes: types, ingress: ingress, egress: egress
      ).resource)
  }

  private func decide(
    _ source: String, _ destination: String, _ transport: UInt8 = 6, _ port: UInt16 = 80
  ) -> PolicyDecision {
    ReferencePolicy(state: cluster.state).decide(
      source: IPAddress(source)!, destination: IPAddress(destination)!, protocol: transport, port: port)
  }

  private func isAllowed(_ source: String, _ destination: String, _ transport: UInt8 = 6, _ port: UInt16 = 80) -> Bool {
    decide(source, destination, transport, port).isAllowed
  }

  @Test("NP-1 a pod that no policy selects is not isolated, and a policy selects in its own namespace alone")
  mutating func isolation() {
    #expect(
      decide(api, web) == PolicyDecision(egress: .allow, ingress: .allow, egressPolicies: [], ingressPolicies: []))
    policy(selects: [:])
    let denied = decide(api, web)
    #expect(denied.ingress == .deny && denied.egress == .allow && denied.ingressPolicies == ["default/p"])
    #expect(denied.egressPolicies == [] && !isAllowed(world, web) && isAllowed(web, far) && isAllowed(web, world))
  }

  @Test("NP-1 policies add up: what one allows no other can take back")
  mutating func union() {
    policy("deny")
    policy("allow", ingress: [.init(ports: [.init(.tcp, .range(80...80))])])
    #expect(isAllowed(api, web) && !isAllowed(api, web, 6, 81))
    #expect(decide(api, web).ingressPolicies == ["default/allow", "default/deny"])
  }

  @Test("NP-2 a policy isolates in the directions of its types alone, and an empty list denies all")
  mutating func types() {
    policy(types: [.egress])
    #expect(isAllowed(api, web) && !isAllowed(web, api) && decide(web, api).egressPolicies == ["default/p"])
    policy(types: [.ingress], egress: [.init()])
    #expect(!isAllowed(api, web) && isAllowed(web, api))
    policy(egress: [.init(ports: [.init(.udp)])])
    #expect(!isAllowed(api, web) && !isAllowed(web, api) && isAllowed(web, api, 17))
  }

  @Test("NP-3 empty peers and ports are any; peers AND ports; items are OR")
  mutating func rules() {
    let pods = NetworkPolicy.Peer.pods(namespaces: nil, pods: LabelSelector(matchLabels: ["app": "api"]))
    policy(ingress: [.init()])
    #expect(isAllowed(world, web, 1, 0) && isAllowed(far, web))
    policy(ingress: [.init(peers: [pods], ports: [.init(.tcp, .range(80...80)), .init(.udp)])])
    #expect(isAllowed(api, web) && isAllowed(api, web, 17, 9) && !isAllowed(api, web, 6, 81) && !isAllowed(world, web))
    let block = NetworkPolicy.Peer.block(.init(IPPrefix("198.51.100.0/24")!))
    policy(ingress: [.init(peers: [pods, block], ports: [.init(.tcp, .range(80...80))])])
    #expect(isAllowed(api, web) && isAllowed(world, web) && !isAllowed(far, web))
    // ICMP has no ports: only a rule without any lets it through.
    #expect(!isAllowed(api, web, 1, 0))
  }

  @Test(
    "NP-4 peers by pod, namespace, both or block",
    arguments: [
      (NetworkPolicy.Peer.pods(namespaces: nil, pods: LabelSelector()), ["api"]),
      (.pods(namespaces: LabelSelector(), pods: nil), ["api", "far"]),
      (.pods(namespaces: LabelSelector(matchLabels: ["team": "x"]), pods: nil), ["far"]),
      (.pods(namespaces: LabelSelector(matchLabels: ["kubernetes.io/metadata.name": "default"]), pods: nil), ["api"]),
      (
        .pods(
          namespaces: LabelSelector(), pods: LabelSelector(matchExpressions: [.init(key: "app", operator: .exists)])),
        ["api", "far"]
      ),
      (
        .pods(namespaces: LabelSelector(matchLabels: ["team": "x"]), pods: LabelSelector(matchLabels: ["app": "w"])), []
      ),
      (.block(.init(IPPrefix("10.244.2.0/24")!, except: [IPPrefix("10.244.2.3/32")!])), ["api"]),
      (.block(.init(IPPrefix("0.0.0.0/0")!, except: [IPPrefix("10.0.0.0/8")!])), ["world"]),
    ])
  mutating func peers(peer: NetworkPolicy.Peer, expected: [String]) {
    policy(ingress: [.init(peers: [peer])])
    let sources = [("api", api), ("far", far), ("world", world)]
    #expect(sources.filter { isAllowed($0.1, web) }.map(\.0) == expected)
  }

  @Test("NP-4 what one rule excepts another may allow")
  mutating func except() {
    let all = NetworkPolicy.IPBlock(IPPrefix("0.0.0.0/0")!, except: [IPPrefix("198.51.100.0/24")!])
    policy(ingress: [.init(peers: [.block(all)])])
    #expect(!isAllowed(world, web))
    policy(ingress: [.init(peers: [.block(all)]), .init(peers: [.block(.init(IPPrefix("198.51.100.7/32")!))])])
    #expect(isAllowed(world, web) && !isAllowed("198.51.100.8", web))
  }

  @Test("NP-5 ports: the whole protocol, a number, a range, a name on the destination, for egress too")
  mutating func ports() {
    var pod = cluster.state.pod("default", "api")!
    pod.ports = [ContainerPort(name: "http", number: 8080), ContainerPort(name: "http", number: 53, protocol: .udp)]
    cluster.put(pod.resource)
    func allowed(_ port: NetworkPolicy.Port, _ transport: UInt8, _ number: UInt16, to address: String) -> Bool {
      var copy = self
      copy.policy(types: [.egress], egress: [.init(ports: [port])])
      return copy.isAllowed(web, address, transport, number)
    }
    #expect(allowed(.init(.tcp), 6, 9, to: api) && !allowed(.init(.tcp), 17, 9, to: api))
    #expect(
      allowed(.init(.tcp, .range(80...90)), 6, 80, to: api) && allowed(.init(.tcp, .range(80...90)), 6, 90, to: api))
    #expect(
      !allowed(.init(.tcp, .range(80...90)), 6, 79, to: api) && !allowed(.init(.tcp, .range(80...90)), 6, 91, to: api))
    #expect(allowed(.init(.tcp, .named("http")), 6, 8080, to: api))
    #expect(!allowed(.init(.tcp, .named("http")), 6, 80, to: api))
    #expect(allowed(.init(.udp, .named("http")), 17, 53, to: api))
    #expect(!allowed(.init(.tcp, .named("http")), 6, 8080, to: far), "it has no such port")
    #expect(!allowed(.init(.tcp, .named("http")), 6, 8080, to: world))
  }

  @Test("NP-6 a connection needs the source's egress and the destination's ingress")
  mutating func both() {
    policy("out", types: [.egress], egress: [.init(ports: [.init(.tcp, .range(80...81))])])
    policy("in", selects: ["app": "api"], ingress: [.init(ports: [.init(.tcp, .range(81...82))])])
    #expect([80, 81, 82].map { isAllowed(web, api, 6, $0) } == [false, true, false])
    #expect(decide(web, api, 6, 80).egress == .allow && decide(web, api, 6, 80).ingress == .deny)
    #expect(decide(web, api, 6, 82).egress == .deny && decide(web, api, 6, 82).ingress == .allow)
  }

  @Test("NP-7 a pod and its own node, and a pod and itself, always reach each other")
  mutating func ownNode() {
    policy(types: [.ingress, .egress])
    #expect(isAllowed("10.0.0.1", web) && isAllowed(web, "10.0.0.1") && isAllowed("192.0.2.1", web))
    #expect(!isAllowed("10.0.0.2", web) && !isAllowed(web, "10.0.0.2"))
    #expect(isAllowed(web, web))
    #expect(decide("10.0.0.1", web).ingressPolicies == ["default/p"])
  }

  @Test("NP-8 SCTP matches no TCP rule; pods on the host's network are the node, selected by nobody")
  mutating func hostNetwork() {
    policy(ingress: [.init(ports: [.init(.tcp, .range(80...80))])])
    #expect(!isAllowed(api, web, 132) && isAllowed(api, web, 6))
    for node in ["n1", "n2"] {
      cluster.put(
        Pod(
          metadata: ObjectMetadata(name: "host-\(node)", namespace: "default", labels: ["app": "web"]), nodeName: node,
          hostNetwork: true, addresses: [IPAddress(node == "n1" ? "10.0.0.9" : "10.0.0.2")!], phase: .running
        ).resource)
    }
    policy(ingress: [.init(peers: [.pods(namespaces: nil, pods: LabelSelector())])])
    #expect(isAllowed(api, web) && !isAllowed("10.0.0.2", web), "the peer selects no host's pod")
    #expect(isAllowed("10.0.0.9", web), "its own node by another address")
    #expect(isAllowed(world, "10.0.0.2") && decide(world, "10.0.0.2").ingressPolicies == [])
  }

  @Test("NP-1 the address of a pod that has ended is nobody's")
  mutating func ended() {
    policy()
    var pod = cluster.state.pod("default", "web")!
    pod.phase = .succeeded
    cluster.put(pod.resource)
    #expect(isAllowed(world, web) && decide(world, web).ingressPolicies == [])
  }

  @Test(
    "NP-4 label selectors",
    arguments: [
      (LabelSelector.Requirement(key: "app", operator: .in, values: ["web", "api"]), true),
      (.init(key: "app", operator: .in, values: ["db"]), false),
      (.init(key: "x", operator: .in, values: ["db"]), false),
      (.init(key: "app", operator: .notIn, values: ["db"]), true),
      (.init(key: "app", operator: .notIn, values: ["api"]), false),
      (.init(key: "x", operator: .notIn, values: ["a"]), true), (.init(key: "app", operator: .exists), true),
      (.init(key: "x", operator: .exists), false), (.init(key: "app", operator: .doesNotExist), false),
      (.init(key: "x", operator: .doesNotExist), true),
    ])
  mutating func selectors(requirement: LabelSelector.Requirement, matches: Bool) {
    policy(ingress: [.init(peers: [.pods(namespaces: nil, pods: LabelSelector(matchExpressions: [requirement]))])])
    #expect(isAllowed(api, web) == matches)
  }
}
