import Addresses
import Model
import Testing

@testable import Compiler
@testable import Dataplane

/// A change costs what changed: counted in changes of the tables, whatever else there is.
@Suite struct ProportionTests {
  private func pod(_ number: Int, node: String = "n2") -> Change {
    .upsert(
      .pod(
        Pod(
          metadata: ObjectMetadata(
            name: "p\(number)", namespace: "team-\(number % 20)",
            labels: ["app": "app-\(number / 20 % 5)", "name": "p\(number)"]), nodeName: node,
          addresses: [.v4(IPv4Address(rawValue: 0x0af4_0000 + UInt32(number)))], phase: .running)))
  }

  private func policy(_ number: Int) -> Change {
    let everywhere = NetworkPolicy.Peer.pods(namespaces: LabelSelector(), pods: nil)
    let app = NetworkPolicy.Peer.pods(namespaces: nil, pods: LabelSelector(matchLabels: ["app": "app-1"]))
    return .upsert(
      .networkPolicy(
        NetworkPolicy(
          metadata: ObjectMetadata(name: "policy-\(number)", namespace: "team-\(number % 20)"),
          podSelector: LabelSelector(matchLabels: ["app": "app-\(number / 20 % 5)"]),
          policyTypes: [.ingress, .egress],
          ingress: [NetworkPolicy.Rule(peers: [app], ports: [NetworkPolicy.Port(.tcp, .range(80...80))])],
          egress: [NetworkPolicy.Rule(peers: [everywhere], ports: [NetworkPolicy.Port(.udp, .range(8000...8999))])])))
  }

  @Test("NP-1 a pod that comes or goes writes itself alone, and a policy the pods that it selects, whatever there is")
  func policies() {
    for count in [100, 2000] {
      let compiler = NodeCompiler(node: "n1")
      var tables = Tables()
      // Two pods of this node for each of 100 applications.
      compiler.apply((0..<200).map { pod($0, node: "n1") } + (200..<200 + count).map { pod($0) })
      compiler.apply((0..<100).map(policy))
      compiler.commit(to: &tables)
      func changes(_ change: Change) -> UInt32 {
        let before = tables.epoch
        compiler.apply([change])
        compiler.commit(to: &tables)
        return tables.epoch - before
      }
      let key = ObjectKey(.pod, namespace: "team-\(5000 % 20)", name: "p5000")
      #expect(changes(pod(5000)) == 1, "\(count) pods")
      #expect(changes(.delete(key)) == 1, "\(count) pods")
      // A rule of a policy that two pods are subject to: its groups are written, the pods stay where they are.
      guard case .upsert(.networkPolicy(var policy)) = policy(7) else { return }
      policy.ingress[0].ports = []
      #expect(changes(.upsert(.networkPolicy(policy))) == 2, "\(count) pods")
    }
  }

  @Test("NP-1 rules by label, block and name that come and go leave nothing behind")
  func nothingLeft() {
    let compiler = NodeCompiler(node: "n1")
    var tables = Tables()
    compiler.apply((0..<200).map { pod($0, node: $0 % 2 == 0 ? "n1" : "n2") })
    compiler.commit(to: &tables)
    var octets = 0
    for round in 0..<50 {
      let first = round * 100
      compiler.apply((0..<100).map { policy(first + $0) })
      compiler.apply((0..<200).map { pod(300 + first + $0) })
      compiler.commit(to: &tables)
      if round == 1 { octets = tables.policies.octets }
      for number in 0..<200 {
        compiler.apply([
          .delete(ObjectKey(.pod, namespace: "team-\((300 + first + number) % 20)", name: "p\(300 + first + number)"))
        ])
      }
      for number in 0..<100 {
        compiler.apply([
          .delete(
            ObjectKey(.networkPolicy, namespace: "team-\((first + number) % 20)", name: "policy-\(first + number)"))
        ])
      }
      compiler.commit(to: &tables)
    }
    #expect(octets > 0 && tables.policies.octets <= octets)
  }
}
