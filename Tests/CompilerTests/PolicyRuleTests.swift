import Addresses
import Model
import Reference
import Testing

@testable import Dataplane

/// What each form of a NetworkPolicy's rule lets in, packet by packet. Random clusters are held against the reference
/// elsewhere; here it can be read.
@Suite struct PolicyRuleTests {
  typealias Rule = NetworkPolicy.Rule
  typealias Port = NetworkPolicy.Port

  private static func pod(_ namespace: String, _ name: String, _ address: String, http: UInt16) -> Resource {
    Pod(
      metadata: ObjectMetadata(name: name, namespace: namespace, labels: ["app": name]),
      nodeName: address.contains("244.1.") ? "n1" : "n2", ports: [ContainerPort(name: "http", number: http)],
      addresses: [IPAddress(address)!], phase: .running
    ).resource
  }

  /// The pods `web` and `db` of namespace shop on this node; on the other `web` and `db` of namespace other, and
  /// `cron` of shop; somebody in 198.51.100.0/24, at the addresses that are given.
  private static func bench(_ policies: [NetworkPolicy]) -> ClusterBench {
    var resources: [Resource] = (1...2).map { number in
      Node(
        metadata: ObjectMetadata(name: "n\(number)"), podCIDRs: [IPPrefix("10.244.\(number).0/24")!],
        addresses: [NodeAddress(.internalIP, IPAddress("10.0.0.\(number)")!)]
      ).resource
    }
    resources += [
      Namespace(metadata: ObjectMetadata(name: "other", labels: ["team": "red"])).resource,
      pod("shop", "web", "10.244.1.1", http: 8080), pod("shop", "db", "10.244.1.2", http: 9090),
      pod("shop", "cron", "10.244.2.3", http: 8080), pod("other", "web", "10.244.2.1", http: 7070),
      pod("other", "db", "10.244.2.2", http: 8080),
    ]
    return ClusterBench("n1", Change.ordered((resources + policies.map(\.resource)).map { .upsert($0) }))
  }

  private static func policy(
    _ name: String = "policy", _ types: Set<NetworkPolicy.Direction>? = nil, selecting app: String? = "db",
    ingress: [Rule] = [], egress: [Rule] = []
  ) -> NetworkPolicy {
    NetworkPolicy(
      metadata: ObjectMetadata(name: name, namespace: "shop"),
      podSelector: LabelSelector(matchLabels: app.map { ["app": $0] } ?? [:]), policyTypes: types, ingress: ingress,
      egress: egress)
  }

  private static let sources: KeyValuePairs<String, Origin> = [
    "shop/web": .localPod(IPAddress("10.244.1.1")!), "shop/cron": .elsewhere(IPAddress("10.244.2.3")!),
    "other/web": .elsewhere(IPAddress("10.244.2.1")!), "other/db": .elsewhere(IPAddress("10.244.2.2")!),
    ".7": .elsewhere(IPAddress("198.51.100.7")!), ".200": .elsewhere(IPAddress("198.51.100.200")!),
  ]

  /// Who reaches shop/db on a port.
  private func reach(
    _ policies: [NetworkPolicy], _ transport: UInt8 = 6, port: UInt16 = 80
  ) -> String {
    let bench = Self.bench(policies)
    return Self.sources.filter { _, source in
      bench.send(source, to: IPAddress("10.244.1.2")!, transport, port: port).drop == nil
    }.map(\.key).joined(separator: " ")
  }

  private func reach(_ rules: Rule...) -> String { reach([Self.policy(ingress: rules)]) }

  private func pods(_ app: String) -> LabelSelector { LabelSelector(matchLabels: ["app": app]) }
  private let red = LabelSelector(matchLabels: ["team": "red"])
  private let all = "shop/web shop/cron other/web other/db .7 .200"

  @Test("NP-1 NP-2 whom a policy isolates, and in which directions") func isolation() {
    #expect(reach([]) == all)
    #expect(reach([Self.policy()]) == "")
    #expect(reach([Self.policy(selecting: nil)]) == "", "the empty selector is every pod of the namespace")
    #expect(reach([Self.policy(selecting: "web")]) == all)
    #expect(reach([Self.policy("policy", [.egress])]) == all)
    var elsewhere = Self.policy()
    elsewhere.metadata.namespace = "other"
    #expect(reach([elsewhere]) == all)
    // Policies add up.
    #expect(
      reach([
        Self.policy("a"), Self.policy("b", ingress: [Rule(peers: [.pods(namespaces: nil, pods: pods("web"))])]),
        Self.policy("c", selecting: nil, ingress: [Rule(peers: [.pods(namespaces: red, pods: nil)])]),
      ]) == "shop/web other/web other/db")
    // Rules for one direction say nothing where the type is not listed; without types they make it.
    let out = Rule(peers: [.block(.init(IPPrefix("192.0.2.0/24")!))])
    func goesOut(_ policy: NetworkPolicy) -> Bool {
      Self.bench([policy]).send(.localPod(IPAddress("10.244.1.2")!), to: IPAddress("10.244.2.3")!, 6, port: 80).drop
        == nil
    }
    #expect(goesOut(Self.policy()) && goesOut(Self.policy("policy", [.ingress], egress: [out])))
    #expect(!goesOut(Self.policy(egress: [out])) && !goesOut(Self.policy("policy", [.egress])))
    #expect(reach([Self.policy(egress: [out])]) == "", "Ingress is isolated all the same")
  }

  @Test("NP-7 NP-8 the addresses of pods on the host's network are their node's") func hostNetwork() {
    let bench = Self.bench([Self.policy()])
    let own = IPAddress("10.0.9.1")!
    func reaches(_ from: Origin) -> Bool {
      bench.send(from, to: IPAddress("10.244.1.2")!, 6, port: 80).drop == nil
    }
    #expect(!reaches(.node(own)))
    for (node, isOwn) in [("n1", true), ("n2", false)] {
      bench.apply([
        .upsert(
          Pod(
            metadata: ObjectMetadata(name: "agent", namespace: "other"), nodeName: node, hostNetwork: true,
            addresses: [own], phase: .running
          ).resource)
      ])
      #expect(reaches(.node(own)) == isOwn, "\(node)")
    }
  }

  @Test("NP-9 of two pods that name one address the one of this node counts") func twoPods() {
    let bench = Self.bench([Self.policy()])
    func isClosed() -> Bool {
      Self.sources.allSatisfy {
        bench.send($0.value, to: IPAddress("10.244.1.2")!, 6, port: 80).drop == .policyIngress
      }
    }
    #expect(isClosed())
    // One that moves away, or has not heard that it is gone, in a namespace without policies.
    for name in ["a", "z"] {
      var pod = Pod(
        metadata: ObjectMetadata(name: name, namespace: name), nodeName: "n2",
        addresses: [IPAddress("10.244.1.2")!], phase: .running)
      bench.apply([.upsert(pod.resource)])
      #expect(isClosed(), "\(name)")
      pod.addresses = []
      bench.apply([.upsert(pod.resource)])
      #expect(isClosed(), "\(name)")
    }
  }

  @Test("NP-3 empty lists are any; one of the peers and one of the ports") func rules() {
    #expect(reach(Rule()) == all)
    let web = NetworkPolicy.Peer.pods(namespaces: nil, pods: pods("web"))
    let cron = NetworkPolicy.Peer.pods(namespaces: nil, pods: pods("cron"))
    #expect(reach(Rule(peers: [web, cron])) == "shop/web shop/cron")
    #expect(reach(Rule(ports: [Port(.udp), Port(.tcp, .range(80...80))])) == all)
    #expect(reach(Rule(ports: [Port(.tcp, .range(81...81))])) == "")
    #expect(reach(Rule(peers: [web], ports: [Port(.tcp, .range(81...81))])) == "", "peers AND ports")
    #expect(reach(Rule(peers: [web], ports: [Port(.tcp, .range(80...80))])) == "shop/web")
    #expect(reach(Rule(peers: [web], ports: [Port(.tcp, .range(81...81))]), Rule(peers: [cron])) == "shop/cron")
  }

  @Test("NP-4 each form of a peer") func peers() {
    #expect(reach(Rule(peers: [.pods(namespaces: nil, pods: pods("web"))])) == "shop/web")
    #expect(reach(Rule(peers: [.pods(namespaces: nil, pods: LabelSelector())])) == "shop/web shop/cron")
    #expect(reach(Rule(peers: [.pods(namespaces: red, pods: nil)])) == "other/web other/db")
    #expect(reach(Rule(peers: [.pods(namespaces: red, pods: pods("web"))])) == "other/web")
    #expect(
      reach(Rule(peers: [.pods(namespaces: LabelSelector(), pods: pods("web"))])) == "shop/web other/web")
    let named = LabelSelector(matchLabels: ["kubernetes.io/metadata.name": "shop"])
    #expect(reach(Rule(peers: [.pods(namespaces: named, pods: nil)])) == "shop/web shop/cron")
    let block = NetworkPolicy.IPBlock(IPPrefix("198.51.100.0/24")!, except: [IPPrefix("198.51.100.128/25")!])
    let rest = NetworkPolicy.IPBlock(IPPrefix("198.51.100.192/26")!)
    #expect(reach(Rule(peers: [.block(block)])) == ".7")
    #expect(reach(Rule(peers: [.block(rest)])) == ".200")
    #expect(reach(Rule(peers: [.block(block)]), Rule(peers: [.block(rest)])) == ".7 .200")
    #expect(reach(Rule(peers: [.block(.init(IPPrefix("10.244.0.0/16")!))])) == "shop/web shop/cron other/web other/db")
  }

  @Test("NP-5 NP-8 each form of a port, on the ports around it and of other protocols") func ports() {
    func open(_ port: Port, _ numbers: [UInt16], _ transport: UInt8 = 6) -> [UInt16] {
      numbers.filter { reach([Self.policy(ingress: [Rule(ports: [port])])], transport, port: $0) == all }
    }
    let some: [UInt16] = [1, 79, 80, 81, 89, 90, 91, 8080, 9090, 65535]
    #expect(open(Port(), some) == some)
    #expect(open(Port(), some, 17) == [] && open(Port(), some, 132) == [])
    #expect(open(Port(.sctp), some, 132) == some && open(Port(.sctp), some) == [])
    #expect(open(Port(.tcp, .range(80...80)), some) == [80])
    #expect(open(Port(.tcp, .range(80...90)), some) == [80, 81, 89, 90])
    #expect(open(Port(.tcp, .range(80...90)), some, 17) == [])
    #expect(open(Port(.tcp, .named("http")), some) == [9090], "what the destination calls so")
    #expect(open(Port(.udp, .named("http")), some, 17) == [])
    #expect(open(Port(.tcp, .named("other")), some) == [])
    // For egress, too, it is the destination's.
    let bench = Self.bench([Self.policy(egress: [Rule(ports: [Port(.tcp, .named("http"))])])])
    func goes(_ address: String) -> [UInt16] {
      [7070, 8080, 9090].filter {
        bench.send(.localPod(IPAddress("10.244.1.2")!), to: IPAddress(address)!, 6, port: $0).drop == nil
      }
    }
    #expect(goes("10.244.1.1") == [8080] && goes("10.244.2.1") == [7070] && goes("198.51.100.7") == [])
  }
}
