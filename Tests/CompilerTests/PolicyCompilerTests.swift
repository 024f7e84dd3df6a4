import Addresses
import Model
import Reference
import Testing

@testable import Dataplane

/// Policies, pods and namespaces in, decisions about packets out. What rules mean is held against the reference; here is
/// what changes do.
@Suite struct PolicyCompilerTests {
  private func pod(
    _ name: String, _ address: String, _ labels: [String: String] = [:], namespace: String = "a",
    _ change: (inout Pod) -> Void = { _ in }
  ) -> Resource {
    var pod = Pod(
      metadata: ObjectMetadata(name: name, namespace: namespace, labels: labels),
      nodeName: address.contains("244.1.") ? "n1" : "n2", addresses: [IPAddress(address)!], phase: .running)
    change(&pod)
    return pod.resource
  }

  private func policy(
    _ name: String = "policy", namespace: String = "a", _ types: Set<NetworkPolicy.Direction> = [.ingress],
    selecting labels: [String: String] = [:], ingress: [NetworkPolicy.Rule] = [], egress: [NetworkPolicy.Rule] = []
  ) -> Resource {
    NetworkPolicy(
      metadata: ObjectMetadata(name: name, namespace: namespace), podSelector: LabelSelector(matchLabels: labels),
      policyTypes: types, ingress: ingress, egress: egress
    ).resource
  }

  private func peers(_ labels: [String: String], namespaces: LabelSelector? = nil) -> NetworkPolicy.Rule {
    NetworkPolicy.Rule(peers: [.pods(namespaces: namespaces, pods: LabelSelector(matchLabels: labels))])
  }

  /// Node n1 with the pods `one` and `two`, node n2 with `far`, all of namespace a.
  private func bench(_ resources: Resource...) -> ClusterBench {
    var all: [Resource] = (1...2).map { number in
      Node(
        metadata: ObjectMetadata(name: "n\(number)"), podCIDRs: [IPPrefix("10.244.\(number).0/24")!],
        addresses: [NodeAddress(.internalIP, IPAddress("10.0.0.\(number)")!)]
      ).resource
    }
    all += [
      pod("one", "10.244.1.1", ["app": "one"]), pod("two", "10.244.1.2", ["app": "two"]),
      pod("far", "10.244.2.1", ["app": "far"]),
    ]
    return ClusterBench("n1", Change.ordered((all + resources).map { .upsert($0) }))
  }

  private let one = Origin.localPod(IPAddress("10.244.1.1")!)
  private let two = Origin.localPod(IPAddress("10.244.1.2")!)
  private let far = Origin.elsewhere(IPAddress("10.244.2.1")!)
  private let client = Origin.elsewhere(IPAddress("198.51.100.7")!)

  private func drop(_ bench: ClusterBench, _ from: Origin, _ to: String, _ transport: UInt8 = 6, port: UInt16 = 80)
    -> DropReason?
  {
    bench.send(from, to: IPAddress(to)!, transport, port: port).drop
  }

  private func drop(_ bench: ClusterBench, _ from: Origin, _ to: Origin, port: UInt16 = 80) -> DropReason? {
    bench.send(from, to: to.address, 6, port: port).drop
  }

  @Test("NP-1 policies add up, come and go, and select by labels that change") func addUp() {
    let bench = bench()
    let before = bench.contents
    #expect(drop(bench, one, two) == nil)
    bench.apply([.upsert(policy(selecting: ["app": "two"]))])
    #expect(drop(bench, one, two) == .policyIngress)
    #expect(drop(bench, two, one) == nil)
    bench.apply([.upsert(policy("other", selecting: ["app": "two"], ingress: [peers(["app": "one"])]))])
    #expect(drop(bench, one, two) == nil)
    #expect(drop(bench, far, two) == .policyIngress)
    // The peer's labels change, then the pod's own.
    bench.apply([.upsert(pod("far", "10.244.2.1", ["app": "one"]))])
    #expect(drop(bench, far, two) == nil)
    bench.apply([.upsert(pod("two", "10.244.1.2", ["app": "free"]))])
    #expect(drop(bench, client, two) == nil)
    bench.apply([.upsert(pod("two", "10.244.1.2", ["app": "two"]))])
    #expect(drop(bench, client, two) == .policyIngress)
    bench.apply([.delete(ObjectKey(.networkPolicy, namespace: "a", name: "other"))])
    #expect(drop(bench, one, two) == .policyIngress)
    bench.apply([.delete(ObjectKey(.networkPolicy, namespace: "a", name: "policy"))])
    #expect(drop(bench, client, two) == nil)
    #expect(bench.contents == before)
  }

  @Test("NP-4 namespaces: their labels change, or they come after their pods") func namespaces() {
    let selector = LabelSelector(matchLabels: ["team": "red"])
    let bench = bench(
      policy(selecting: ["app": "two"], ingress: [peers(["app": "guest"], namespaces: selector)]),
      pod("guest", "10.244.2.9", ["app": "guest"], namespace: "b"))
    let guest = Origin.elsewhere(IPAddress("10.244.2.9")!)
    #expect(drop(bench, guest, two) == .policyIngress)
    func namespace(_ team: String?) -> Change {
      .upsert(Namespace(metadata: ObjectMetadata(name: "b", labels: team.map { ["team": $0] } ?? [:])).resource)
    }
    for _ in 0..<2 {
      bench.apply([namespace("red")])
      #expect(drop(bench, guest, two) == nil)
      bench.apply([namespace("blue")])
      #expect(drop(bench, guest, two) == .policyIngress)
    }
    bench.apply([namespace("red")])
    bench.apply([.delete(ObjectKey(.namespace, name: "b"))])
    #expect(drop(bench, guest, two) == .policyIngress)
  }

  @Test("NP-4 blocks that overlap in several policies: what one excepts another may allow") func blocks() {
    func block(_ cidr: String, _ except: String...) -> NetworkPolicy.Rule {
      NetworkPolicy.Rule(peers: [.block(.init(IPPrefix(cidr)!, except: except.map { IPPrefix($0)! }))])
    }
    func allows(_ bench: ClusterBench, _ source: String) -> Bool {
      drop(bench, Origin.elsewhere(IPAddress(source)!), two) == nil
    }
    let bench = bench(policy("p1", selecting: ["app": "two"], ingress: [block("198.51.0.0/16", "198.51.100.0/24")]))
    #expect(allows(bench, "198.51.1.1") && !allows(bench, "198.51.100.7") && !allows(bench, "203.0.113.1"))
    // Another group's blocks cut this one's up, and give them back.
    let other = policy(
      "p2", selecting: ["app": "one"],
      ingress: [block("198.51.1.0/24"), block("198.51.100.7/32"), block("0.0.0.0/0", "198.51.0.0/18")])
    for _ in 0..<2 {
      bench.apply([.upsert(other)])
      #expect(allows(bench, "198.51.1.1") && !allows(bench, "198.51.100.7") && !allows(bench, "203.0.113.1"))
      #expect(drop(bench, Origin.elsewhere(IPAddress("198.51.1.1")!), one) == nil)
      #expect(drop(bench, Origin.elsewhere(IPAddress("198.51.2.1")!), one) == .policyIngress)
      bench.apply([.upsert(policy("p3", selecting: ["app": "two"], ingress: [block("198.51.100.7/32")]))])
      #expect(allows(bench, "198.51.100.7") && !allows(bench, "198.51.100.8"))
      bench.apply([.delete(ObjectKey(.networkPolicy, namespace: "a", name: "p3"))])
      bench.apply([.delete(ObjectKey(.networkPolicy, namespace: "a", name: "p2"))])
      #expect(allows(bench, "198.51.1.1") && !allows(bench, "198.51.100.7") && !allows(bench, "203.0.113.1"))
    }
    #expect(bench.contents["blocks"] == 2)
  }

  @Test("NP-5 named ports: each destination pod's own number, in both directions, also where a block is the peer")
  func namedPorts() {
    func named(_ name: String, peers: [NetworkPolicy.Peer] = []) -> NetworkPolicy.Rule {
      NetworkPolicy.Rule(peers: peers, ports: [.init(.tcp, .named(name))])
    }
    func port(_ number: UInt16) -> (inout Pod) -> Void {
      { $0.ports = [ContainerPort(name: "http", number: number), ContainerPort(name: "http", number: 1)] }
    }
    let bench = bench(
      pod("two", "10.244.1.2", ["app": "two"], port(8080)), pod("three", "10.244.1.3", ["app": "two"], port(9090)),
      policy(selecting: ["app": "two"], ingress: [named("http")]))
    #expect(drop(bench, one, "10.244.1.2", port: 8080) == nil)
    #expect(drop(bench, one, "10.244.1.2", port: 9090) == .policyIngress)
    #expect(drop(bench, one, "10.244.1.3", port: 9090) == nil)
    #expect(drop(bench, one, "10.244.1.3", port: 8080) == .policyIngress)
    #expect(drop(bench, one, "10.244.1.3", port: 1) == .policyIngress)
    // Out of a pod, by every kind of peer.
    for (peers, isFarAllowed) in [
      ([], true), ([.pods(namespaces: nil, pods: LabelSelector())], true),
      ([.block(.init(IPPrefix("10.244.2.0/24")!))], true),
      ([.block(.init(IPPrefix("10.244.2.0/24")!, except: [IPPrefix("10.244.2.1/32")!]))], false),
      ([.block(.init(IPPrefix("10.244.3.0/24")!))], false),
    ] as [([NetworkPolicy.Peer], Bool)] {
      bench.apply([.upsert(policy("out", [.egress], selecting: ["app": "one"], egress: [named("http", peers: peers)]))])
      #expect(drop(bench, one, "10.244.2.1", port: 7070) == .policyEgress)
      bench.apply([.upsert(pod("far", "10.244.2.1", ["app": "far"], port(7070)))])
      #expect(drop(bench, one, "10.244.2.1", port: 7070) == (isFarAllowed ? nil : .policyEgress), "\(peers)")
      #expect(drop(bench, one, "10.244.2.1", port: 8080) == .policyEgress)
      #expect(drop(bench, one, "10.244.2.5", port: 7070) == .policyEgress)
      bench.apply([.upsert(pod("far", "10.244.2.1", ["app": "far"]))])
    }
  }

  @Test("NP-9 a pod is isolated from its first moment, and an address that two pods name for a moment stays so")
  func takeover() {
    let bench = bench(policy(selecting: ["app": "two"]))
    #expect(drop(bench, one, two) == .policyIngress)
    // The pod is replaced by one of the same address and labels, before the old one is gone.
    for (old, new) in [("two", "new"), ("new", "two")] {
      bench.apply([.upsert(pod(new, "10.244.1.2", ["app": "two"]))])
      #expect(drop(bench, one, "10.244.1.2") == .policyIngress)
      bench.apply([.delete(ObjectKey(.pod, namespace: "a", name: old))])
      #expect(drop(bench, one, "10.244.1.2") == .policyIngress)
    }
    // The other way round: the one that goes was isolated, the one that stays is not.
    bench.apply([.upsert(pod("zzz", "10.244.1.2", ["app": "free"]))])
    bench.apply([.delete(ObjectKey(.pod, namespace: "a", name: "two"))])
    #expect(drop(bench, one, "10.244.1.2") == nil)
    // A pod that has ended has no address any more.
    bench.apply([.upsert(pod("zzz", "10.244.1.2", ["app": "free"]) { $0.phase = .succeeded })])
    #expect(bench.contents["pods"] == 2)
  }

  @Test("pods that policies cannot tell apart cost one identity: rules and peers do not grow with them") func sharing()
  {
    let bench = bench(policy(selecting: ["app": "two"], ingress: [peers(["app": "many"])]))
    let before = bench.contents
    var words: [Int?] = []
    for number in 1...100 {
      bench.apply([.upsert(pod("m\(number)", "10.244.2.\(number + 10)", ["app": "many"]))])
      words.append(bench.contents["words of peers and ports"])
    }
    #expect(Set(words).count == 1)
    #expect(drop(bench, Origin.elsewhere(IPAddress("10.244.2.110")!), two) == nil)
    for number in 1...100 { bench.apply([.delete(ObjectKey(.pod, namespace: "a", name: "m\(number)"))]) }
    #expect(bench.contents == before)
    #expect(drop(bench, Origin.elsewhere(IPAddress("10.244.2.110")!), two) == .policyIngress)
  }

  @Test("NP-1 a change has the flows of the pods that it touches be decided anew, and of no others") func proportion() {
    let bench = bench(policy(selecting: ["app": "two"], ingress: [peers(["app": "one"])]))
    func generation(_ address: String) -> UInt32 {
      bench.tables.policies.records[Int(bench.tables.policies.pod(IPAddress(address)!))].generation
    }
    func touched(_ change: Change) -> [String] {
      let addresses = ["10.244.1.1", "10.244.1.2", "10.244.2.1"]
      let before = addresses.map(generation)
      bench.apply([change])
      return addresses.filter { generation($0) != before[addresses.firstIndex(of: $0)!] }
    }
    // Rules of the one that is selected.
    #expect(touched(.upsert(policy(selecting: ["app": "two"], ingress: [peers(["app": "far"])]))) == ["10.244.1.2"])
    // A policy of another namespace, or one that selects nobody.
    #expect(touched(.upsert(policy("other", namespace: "b"))) == [])
    #expect(touched(.upsert(policy("other", selecting: ["app": "nobody"]))) == [])
    // One that selects another pod.
    #expect(touched(.upsert(policy("third", selecting: ["app": "one"]))) == ["10.244.1.1"])
    // A pod that is nobody's peer, and one on another node, which is isolated there.
    #expect(touched(.upsert(pod("new", "10.244.2.50", ["app": "new"]))) == [])
    #expect(touched(.upsert(policy("fourth", selecting: ["app": "far"]))) == [])
    // The labels of a pod on another node: its own flows, which are those with whoever names it.
    #expect(touched(.upsert(pod("far", "10.244.2.1", ["app": "far", "x": "y"]))) == ["10.244.2.1"])
  }
}
