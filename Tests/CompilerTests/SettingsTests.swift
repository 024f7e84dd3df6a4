import Addresses
import Model
import Testing

/// What the packet path is told of the manifests' settings.
@Suite struct SettingsTests {
  private func pool(_ name: String, _ cidr: String, natOutgoing: Bool = false) -> Change {
    .upsert(IPPool(metadata: ObjectMetadata(name: name), cidr: IPPrefix(cidr)!, natOutgoing: natOutgoing).resource)
  }

  @Test("NODE-8 what lies outside of every pool is outside, whatever clusterCIDRs says; without pools that counts")
  func outside() {
    var spec = NodeConfiguration.Spec()
    spec.clusterCIDRs = [IPPrefix("10.0.0.0/8")!]
    let settings = NodeConfiguration(metadata: ObjectMetadata(name: "default"), spec: spec).resource
    let bench = ClusterBench("n1", [.upsert(settings)])
    #expect(bench.tables.settings.poolBlocks == [IPPrefix("10.0.0.0/8")!])
    bench.apply([pool("a", "10.244.0.0/16", natOutgoing: true), pool("b", "10.245.0.0/16")])
    #expect(bench.tables.settings.poolBlocks == [IPPrefix("10.244.0.0/16")!, IPPrefix("10.245.0.0/16")!])
    #expect(bench.tables.settings.natOutgoingBlocks == [IPPrefix("10.244.0.0/16")!])
  }
}
