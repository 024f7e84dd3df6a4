import Addresses
import Model

/// Pods of many teams with policies of every kind of rule: the objects of the benchmark of policies.
struct PolicyCluster {
  let pods: Int
  let policies: Int
  /// The pods of the own node: the first ones, which are of all teams in turn.
  let localPods: Int

  static let teams = 100
  static let apps = 10

  private static func team(_ number: Int) -> Int { number % teams }
  private static func app(_ number: Int) -> Int { number / teams % apps }
  static func namespace(_ team: Int) -> String { "team-\(team)" }
  static func key(_ pod: Int) -> ObjectKey { ObjectKey(.pod, namespace: namespace(team(pod)), name: "pod-\(pod)") }

  func address(_ pod: Int) -> IPv4Address {
    pod < localPods ? localAddress(pod) : ScaleCluster.address(pod)
  }
  /// The own block has 1,022 addresses; where there are more local pods, they are from elsewhere.
  private func localAddress(_ pod: Int) -> IPv4Address {
    pod < 1000 ? ScaleCluster.localAddress(pod) : IPv4Address(rawValue: 0x0ac0_0000 + UInt32(pod))
  }

  /// The pods of the own node that the client's policies, and their own, let it talk to by UDP 8000 to 8999.
  var servers: [Int] { (1..<localPods).filter { $0 % PolicyCluster.teams != 0 } }

  var resources: [Resource] {
    var resources = ScaleCluster.nodes
    for team in 0..<PolicyCluster.teams {
      resources.append(
        .namespace(
          Namespace(
            metadata: ObjectMetadata(
              name: PolicyCluster.namespace(team),
              labels: [
                "kubernetes.io/metadata.name": PolicyCluster.namespace(team), "division": "division-\(team % 10)",
              ]))))
    }
    for number in 0..<policies { resources.append(policy(number)) }
    for number in 0..<pods { resources.append(pod(number)) }
    return resources
  }

  private func pod(_ number: Int) -> Resource {
    let key = PolicyCluster.key(number)
    return .pod(
      Pod(
        metadata: ObjectMetadata(
          name: key.name, namespace: key.namespace,
          labels: [
            "app": "app-\(PolicyCluster.app(number))", "tier": number % 7 == 0 ? "client" : "server",
            // Every pod of a StatefulSet has a label of its own, so no two pods have the same labels.
            "statefulset.kubernetes.io/pod-name": key.name,
          ]), nodeName: number < localPods ? ScaleCluster.node : ScaleCluster.peerName(number),
        ports: [ContainerPort(name: "http", number: UInt16(8080 + number % 3))],
        addresses: [.v4(address(number))], phase: .running))
  }

  /// A policy for one application of one team: who may call it, and whom it may call.
  private func policy(_ number: Int) -> Resource {
    let (team, app) = (number % PolicyCluster.teams, number / PolicyCluster.teams % PolicyCluster.apps)
    let own = LabelSelector(matchLabels: ["app": "app-\(app)"])
    let next = LabelSelector(matchLabels: ["app": "app-\((app + 1) % PolicyCluster.apps)"])
    let clients = LabelSelector(matchLabels: ["tier": "client"])
    let division = LabelSelector(matchLabels: ["division": "division-\(team % 10)"])
    let block = IPv4Prefix(IPv4Address(172, 16, UInt8(number % 250), 0), length: 24)
    let monitoring = NetworkPolicy.IPBlock(
      .v4(block), except: [.v4(IPv4Prefix(IPv4Address(172, 16, UInt8(number % 250), 64), length: 26))])
    return .networkPolicy(
      NetworkPolicy(
        metadata: ObjectMetadata(name: "policy-\(number)", namespace: PolicyCluster.namespace(team)), podSelector: own,
        policyTypes: [.ingress, .egress],
        ingress: [
          NetworkPolicy.Rule(
            peers: [.pods(namespaces: nil, pods: next), .block(monitoring)],
            ports: [NetworkPolicy.Port(.tcp, .named("http")), NetworkPolicy.Port(.tcp, .range(9000...9100))]),
          NetworkPolicy.Rule(
            peers: [.pods(namespaces: LabelSelector(), pods: clients)],
            ports: [NetworkPolicy.Port(.udp, .range(8000...8999))]),
        ],
        egress: [
          NetworkPolicy.Rule(
            peers: [.pods(namespaces: division, pods: nil)], ports: [NetworkPolicy.Port(.tcp, .named("http"))]),
          NetworkPolicy.Rule(
            peers: [.pods(namespaces: LabelSelector(), pods: nil)],
            ports: [NetworkPolicy.Port(.udp, .range(8000...8999)), NetworkPolicy.Port(.udp, .range(53...53))]),
        ]))
  }
}
