import Model
import Testing

@testable import Datastore

@Suite struct ServiceAdmissionTests {
  private let directory: TemporaryDirectory
  private let source: ManifestDirectory

  init() throws {
    directory = try TemporaryDirectory()
    source = ManifestDirectory(directory.path)
  }

  private func service(_ name: String, clusterIP: String, nodePort: Int) -> String {
    """
    {apiVersion: v1, kind: Service, metadata: {name: \(name)}, spec: {type: NodePort, clusterIP: \(clusterIP),
     ports: [{name: a, port: 80}, {name: b, port: 81, nodePort: \(nodePort)}]}}

    """
  }

  @Test("KP-23 overlapping node ports: the later service is refused with file, object and field, and the rest applies")
  func nodePort() throws {
    try directory.write("b.yaml", "\n" + service("b", clusterIP: "10.96.0.2", nodePort: 30080))
    try directory.write("c.yaml", service("c", clusterIP: "10.96.0.3", nodePort: 30081))
    try directory.write("z.yaml", service("a", clusterIP: "10.96.0.1", nodePort: 30080))
    let update = try source.load()
    #expect(summary(update) == ["+Service default/a", "+Service default/c"])
    #expect(
      update.problems.map(\.description) == [
        "\(directory.path)/b.yaml:2:1: Service default/b: spec.ports[1].nodePort: TCP 30080 is a node port of Service"
          + " default/a in \(directory.path)/z.yaml already, which counts; choose another, or remove one of the services"
      ])
    #expect(source.refresh().isEmpty)

    // Once the first is gone, the refused one counts.
    try directory.remove("z.yaml")
    let after = source.refresh()
    #expect(summary(after) == ["+Service default/b", "-Service default/a"])
    #expect(after.resolved == update.problems && source.problems == [])
  }

  @Test("KP-20 the same cluster IP on two services: whichever was there before, the first in order counts")
  func clusterIP() throws {
    try directory.write("b.yaml", service("b", clusterIP: "10.96.0.1", nodePort: 30081))
    #expect(summary(try source.load()) == ["+Service default/b"])
    try directory.write("a.yaml", service("a", clusterIP: "10.96.0.1", nodePort: 30080))
    let update = source.refresh()
    #expect(summary(update) == ["+Service default/a", "-Service default/b"])
    #expect(
      update.problems.map(\.description) == [
        "\(directory.path)/b.yaml:1:1: Service default/b: spec.clusterIP: 10.96.0.1 is the cluster IP of Service"
          + " default/a in \(directory.path)/a.yaml already, which counts; choose another, or remove one of the services"
      ])
    // A restart comes to the same state.
    let restarted = ManifestDirectory(directory.path)
    #expect(try restarted.load().problems == update.problems)
    #expect(restarted.state == source.state)

    try directory.write("a.yaml", service("a", clusterIP: "10.96.0.9", nodePort: 30080))
    #expect(summary(source.refresh()) == ["+Service default/a", "+Service default/b"])
    #expect(source.problems == [] && source.state.services.count == 2)
  }

  @Test("a service that is refused and taken away leaves no trace")
  func refusedAndGone() throws {
    try directory.write("a.yaml", service("a", clusterIP: "10.96.0.1", nodePort: 30080))
    try directory.write("b.yaml", service("b", clusterIP: "10.96.0.1", nodePort: 30080))
    let update = try source.load()
    #expect(summary(update) == ["+Service default/a"] && update.problems.count == 1)
    try directory.remove("b.yaml")
    let after = source.refresh()
    #expect(after.changes == [] && after.resolved == update.problems && source.problems == [])
  }

  @Test("bad manifests are refused one by one with file, object and field, and the rest applies")
  func oneByOne() throws {
    try directory.write(
      "all.yaml",
      """
      {apiVersion: v1, kind: Service, metadata: {name: good}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
      ---
      {apiVersion: v1, kind: Service, metadata: {name: no-ports}, spec: {clusterIP: 10.96.0.2}}
      ---
      {apiVersion: v1, kind: Service, metadata: {name: protocol}, spec: {ports: [{port: 80, protocol: ICMP}]}}
      ---
      {apiVersion: v1, kind: Service, metadata: {name: names}, spec: {ports: [{name: a, port: 80}, {name: a, port: 81}]}}
      ---
      {apiVersion: v1, kind: Service, metadata: {name: good}, spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}}
      ---
      {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: except},
       spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}}
      ---
      {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: end-port},
       spec: {podSelector: {}, ingress: [{ports: [{endPort: 90}]}]}}
      ---
      {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny}, spec: {podSelector: {}}}
      ---
      {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: good}, addressType: IPv4}
      """)
    let update = try source.load()
    #expect(
      summary(update) == ["+NetworkPolicy default/deny", "+Service default/good", "+EndpointSlice default/good"])
    let expected: [(line: Int, text: String)] = [
      (3, "Service default/no-ports: spec.ports: must not be empty"),
      (5, "Service default/protocol: spec.ports[0].protocol: expected one of TCP, UDP, SCTP"),
      (7, "Service default/names: spec.ports[1].name: \"a\" is the name of spec.ports[0] already"),
      (9, "Service default/good: stands in this file twice, first in line 1"),
      (12, "NetworkPolicy default/except: spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/16 is not"),
      (15, "NetworkPolicy default/end-port: spec.ingress[0].ports[0].endPort: is given without port"),
    ]
    #expect(update.problems.count == expected.count, "\(update.problems)")
    for (problem, expected) in zip(update.problems, expected) {
      #expect(problem.line == expected.line && problem.description.contains(expected.text), "\(problem)")
      #expect(problem.file == "\(directory.path)/all.yaml")
    }
  }
}
