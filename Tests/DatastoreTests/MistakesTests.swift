import Model
import Testing

@testable import Datastore

/// A directory with many mistakes: each is refused by itself, with file, object and field, and all else applies.
@Suite struct MistakesTests {
  private static let mistakes: [(manifest: String, problem: String)] = [
    (
      """
      {apiVersion: v1, kind: Service, metadata: {name: later, namespace: default},
       spec: {type: NodePort, clusterIP: 10.96.0.2, ports: [{port: 80, nodePort: 30080}]}}
      """, "Service default/later: spec.ports[0].nodePort: TCP 30080 is a node port of Service default/good in "
    ),
    (
      """
      {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: except, namespace: default},
       spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/16, except: [10.1.0.0/24]}}]}]}}
      """, "NetworkPolicy default/except: spec.ingress[0].from[0].ipBlock.except[0]: 10.1.0.0/24 is not a smaller"
    ),
    (
      """
      {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: end-port, namespace: default},
       spec: {podSelector: {}, egress: [{ports: [{endPort: 90}]}]}}
      """, "NetworkPolicy default/end-port: spec.egress[0].ports[0].endPort: is given without port; set port"
    ),
    (
      """
      {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: protocol, namespace: default},
       spec: {podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}}
      """, "NetworkPolicy default/protocol: spec.ingress[0].ports[0].protocol: expected one of TCP, UDP, SCTP"
    ),
    (
      """
      {apiVersion: v1, kind: Service, metadata: {name: protocol, namespace: default},
       spec: {clusterIP: 10.96.0.3, ports: [{port: 80, protocol: QUIC}]}}
      """, "Service default/protocol: spec.ports[0].protocol: expected one of TCP, UDP, SCTP"
    ),
    (
      "{apiVersion: v1, kind: Service, metadata: {name: no-ports, namespace: default}, spec: {clusterIP: 10.96.0.4}}",
      "Service default/no-ports: spec.ports: must not be empty; give the service at least one port"
    ),
    (
      """
      {apiVersion: v1, kind: Service, metadata: {name: names, namespace: default},
       spec: {clusterIP: 10.96.0.5, ports: [{name: a, port: 80}, {name: a, port: 81}]}}
      """, "Service default/names: spec.ports[1].name: \"a\" is the name of spec.ports[0] already; choose another"
    ),
    (
      """
      {apiVersion: v1, kind: Service, metadata: {name: good, namespace: default},
       spec: {clusterIP: 10.96.0.6, ports: [{port: 80}]}}
      """, "Service default/good: stands in "
    ),
  ]

  @Test("KP-23 NP-4 NP-5 every mistake is refused by itself, with file, object and field, and the rest applies")
  func mistakes() throws {
    let directory = try TemporaryDirectory()
    try directory.write(
      "00-good.yaml",
      """
      {apiVersion: v1, kind: Service, metadata: {name: good, namespace: default},
       spec: {type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}}
      """)
    // Each in a file of its own, and with a neighbour in the same file that nothing is wrong with.
    for (number, mistake) in Self.mistakes.enumerated() {
      try directory.write(
        "\(number + 10).yaml",
        """
        \(mistake.manifest)
        ---
        {apiVersion: v1, kind: Namespace, metadata: {name: beside-\(number)}}
        """)
    }
    let update = try ManifestDirectory(directory.path).load()
    let right = ["+Service default/good"] + Self.mistakes.indices.map { "+Namespace beside-\($0)" }
    #expect(Set(summary(update)) == Set(right))
    let problems = update.problems.map(\.description)
    #expect(problems.count == Self.mistakes.count)
    for (number, mistake) in Self.mistakes.enumerated() {
      let found = problems.first { $0.hasPrefix("\(directory.path)/\(number + 10).yaml:") }
      #expect(found?.contains(mistake.problem) == true, "\(mistake.problem): \(found ?? "nothing")")
    }
  }
}
