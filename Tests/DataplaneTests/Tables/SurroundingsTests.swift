import Addresses
import Testing

@testable import Dataplane

/// What another data path is told of where addresses are.
@Suite struct SurroundingsTests {
  private func prefix(_ text: String) -> IPPrefix { IPPrefix(text)! }
  private func host(_ address: IPAddress) -> IPPrefix { IPPrefix(host: address) }

  @Test("NODE-4 pods with their ports, in the frame that their port would make; blocks without pods are nobody's")
  func pods() throws {
    let bench = Bench.forServices()
    let all = bench.tables.surroundings(.pods)
    let a = try #require(all.places[host(bench.pod(10))])
    #expect(a.isPod && a.port == bench.podA && a.mtu == 1500)
    #expect(a.way == .frame(destination: Bench.podMAC(1, 10), source: Bench.gatewayMAC))
    #expect(Set(all.pods[bench.podA]?.addresses ?? []) == [bench.pod(10), bench.pod(10, .ipv6)])
    #expect(all.places[prefix("10.244.1.0/24")]?.way == .own)
    // What is not a pod's is the machine's business.
    #expect(all.places[prefix("10.244.2.0/24")]?.way == .machine)
    #expect(all.places[host(bench.node())]?.way == .machine)
    // Without its neighbours the pods are, too, but it is known that they are pods.
    let none = try #require(bench.tables.surroundings(.none).places[host(bench.pod(10))])
    #expect(none.way == .machine && none.isPod && none.port == bench.podA)
    let everything = bench.tables.surroundings(.all)
    #expect(
      everything.places[prefix("10.244.2.0/24")]?.way
        == .frame(destination: Bench.underlayMAC(2), source: Bench.underlayMAC(1)))
    #expect(everything.places[host(bench.node())]?.way == .own)
  }

  @Test("What only a tunnel reaches is this data path's own", arguments: Encapsulation.allCases)
  func tunnels(_ encapsulation: Encapsulation) {
    let bench = Bench.forServices(encapsulation)
    #expect(
      bench.tables.surroundings(.pods).places[prefix("10.244.2.0/24")]?.way
        == (encapsulation == .none ? .machine : .own))
  }

  @Test("KP-34, NODE-8 the cluster's blocks and pools, also where a narrower route is")
  func blocks() {
    let bench = Bench.forServices {
      $0.clusterCIDRs = [IPPrefix("10.244.0.0/16")!]
      $0.poolBlocks = [IPPrefix("10.244.1.0/25")!]
      $0.natOutgoingBlocks = [IPPrefix("10.244.1.0/28")!]
    }
    let places = bench.tables.surroundings(.pods).places
    #expect(places[prefix("10.244.0.0/16")]?.isCluster == true)
    #expect(places[prefix("10.244.0.0/16")]?.isPool == false)
    #expect(places[host(bench.pod(10))]?.isCluster == true && places[host(bench.pod(10))]?.isPool == true)
    #expect(places[host(bench.pod(10, .ipv6))]?.isCluster == false)
    #expect(places[prefix("10.244.2.0/24")]?.isPool == false)
    #expect(bench.tables.surroundings(.pods).pods[bench.podA]?.masquerades == true)
  }

  @Test("NP-1 policies by their direction; a pod at a rate is nobody else's")
  func restricted() {
    let bench = Bench.forServices()
    bench.tables.setPolicyGroup(1, [:], pods: [])
    bench.tables.setPodPolicy(bench.pod(10), PodPolicy(identity: 1, egress: 1))
    bench.tables.setPodPolicy(bench.pod(11), PodPolicy(identity: 2, ingress: 1))
    var all = bench.tables.surroundings(.pods)
    #expect(all.pods[bench.podA]?.hasEgressPolicy == true && all.pods[bench.podB]?.hasEgressPolicy == false)
    #expect(all.places[host(bench.pod(10))]?.hasIngressPolicy == false)
    #expect(all.places[host(bench.pod(11))]?.hasIngressPolicy == true)
    var description = bench.tables.port(bench.podB)!
    description.sendLimit = RateLimit(bitsPerSecond: 1_000_000, burstBits: 100_000)
    bench.tables.updatePort(bench.podB, description)
    all = bench.tables.surroundings(.pods)
    #expect(all.pods[bench.podB] == nil && all.places[host(bench.pod(11))]?.way == .own)
  }
}
