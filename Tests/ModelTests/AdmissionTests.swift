import Addresses
import Reference
import Testing

@testable import Model

@Suite struct AdmissionTests {
  private func service(_ name: String, clusterIP: String? = nil, nodePorts: [UInt16] = []) -> (ObjectKey, Service?) {
    let service = Service(
      metadata: ObjectMetadata(name: name, namespace: "default"), type: .nodePort,
      clusterIPs: clusterIP.map { [IPAddress($0)!] } ?? [],
      ports: nodePorts.map { ServicePort(name: "p\($0)", port: $0, nodePort: $0) })
    return (service.key, service)
  }

  private func gone(_ name: String) -> (ObjectKey, Service?) {
    (ObjectKey(.service, namespace: "default", name: name), nil)
  }

  private func names(_ keys: some Sequence<ObjectKey>) -> [String] { keys.map(\.name).sorted() }

  @Test("KP-20 of two services with one cluster IP the first in order counts, and the other when the first is gone")
  func clusterIP() {
    var admission = ServiceAdmission()
    #expect(admission.update([service("b", clusterIP: "10.96.0.1")]) == [])
    #expect(names(admission.update([service("a", clusterIP: "10.96.0.1")])) == ["b"])
    #expect(names(admission.refusals.keys) == ["b"])
    let refusal = admission.refusals.first!.value
    #expect(
      refusal.message(place: "a.yaml")
        == "10.96.0.1 is the cluster IP of Service default/a in a.yaml already, which counts; choose another, or remove"
        + " one of the services")
    #expect(names(admission.update([gone("a")])) == ["b"])
    #expect(admission.refusals == [:])
  }

  @Test("KP-23 node ports are told apart by protocol, and a health check's is one as well")
  func nodePorts() {
    var admission = ServiceAdmission()
    var udp = service("b", nodePorts: [30000]).1!
    udp.ports[0].protocol = .udp
    var health = service("c").1!
    health.type = .loadBalancer
    health.healthCheckNodePort = 30000
    _ = admission.update([service("a", nodePorts: [30000]), (udp.key, udp), (health.key, health)])
    #expect(names(admission.refusals.keys) == ["c"])
    #expect(health.field(of: admission.refusals[health.key]!.claim) == "spec.healthCheckNodePort")
    #expect(udp.field(of: .nodePort(.udp, 30000)) == "spec.ports[0].nodePort")
  }

  @Test("a service that does not count is in nobody's way")
  func chain() {
    var admission = ServiceAdmission()
    _ = admission.update([
      service("a", nodePorts: [1]), service("b", nodePorts: [1, 2]), service("c", nodePorts: [2, 3]),
      service("d", nodePorts: [3]),
    ])
    #expect(names(admission.refusals.keys) == ["b", "d"])
    // Each step of the chain turns round.
    #expect(names(admission.update([gone("a")])) == ["b", "c", "d"])
    #expect(names(admission.refusals.keys) == ["c"])
    // A change of what is claimed counts as well.
    #expect(names(admission.update([service("b", nodePorts: [1])])) == ["c", "d"])
    #expect(names(admission.refusals.keys) == ["d"])
  }

  @Test("any order of changes leads to what the last state alone leads to", arguments: 0..<50)
  func order(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var admission = ServiceAdmission()
    var last: [ObjectKey: Service] = [:]
    for _ in 0..<60 {
      let batch = (0..<Int.random(in: 1...3, using: &random)).map { _ in
        let name = "s\(Int.random(in: 0..<8, using: &random))"
        if Int.random(in: 0..<4, using: &random) == 0 { return gone(name) }
        let count = Int.random(in: 0...3, using: &random)
        let ports = Set((0..<count).map { _ in UInt16.random(in: 1...6, using: &random) })
        return service(name, nodePorts: ports.sorted())
      }
      let before = Set(admission.refusals.keys)
      let told = admission.update(batch)
      for (key, service) in batch { last[key] = service }
      let after = Set(admission.refusals.keys)
      #expect(told == before.symmetricDifference(after).subtracting(batch.map(\.0)))
      // The same from the start, in the simplest way.
      var taken: Set<ServiceClaim> = []
      var refused: Set<ObjectKey> = []
      for key in last.keys.sorted() {
        if last[key]!.claims.contains(where: taken.contains) {
          refused.insert(key)
        } else {
          taken.formUnion(last[key]!.claims)
        }
      }
      #expect(after == refused, "\(last.values.map { ($0.name, $0.claims) })")
    }
  }
}
