import Addresses
import Model
import Testing

@testable import Reference

@Suite struct EndpointTests {
  /// What a pod gets that asks for the cluster IP.
  private func clusterSet(_ endpoints: [EndpointSlice.Endpoint]) -> String {
    var cluster = Cluster()
    cluster.service()
    cluster.slice(endpoints)
    return cluster.decide(localPod, "10.96.0.1").text
  }

  /// What a client outside gets where only local endpoints count.
  private func localSet(_ endpoints: [EndpointSlice.Endpoint]) -> String {
    var cluster = Cluster()
    cluster.service {
      $0.externalIPs = [IPAddress("192.0.2.50")!]
      $0.externalTrafficPolicy = .local
    }
    cluster.slice(endpoints)
    return cluster.decide(client, "192.0.2.50").text
  }

  @Test("KP-3 slices belong to the service in their label, ports to that of the same name and protocol")
  func slices() {
    var cluster = Cluster()
    cluster.service()
    cluster.slice("web-a", [endpoint("10.244.1.2")])
    cluster.slice("web-b", [endpoint("10.244.2.2")])
    cluster.slice("other", [endpoint("10.244.2.3")]) { $0.metadata.labels[EndpointSlice.serviceNameLabel] = "webs" }
    cluster.slice("none", [endpoint("10.244.2.4")]) { $0.metadata.labels = [:] }
    cluster.slice("elsewhere", [endpoint("10.244.2.5")]) { $0.metadata.namespace = "other" }
    cluster.slice("names", [EndpointSlice.Endpoint([])]) { $0.addressType = .fqdn }
    cluster.slice("name", [endpoint("10.244.2.6")]) { $0.ports[0].name = "https" }
    cluster.slice("protocol", [endpoint("10.244.2.7")]) { $0.ports[0].protocol = .udp }
    cluster.slice("nil", [endpoint("10.244.2.8")]) { $0.ports[0].port = nil }
    cluster.slice("zero", [endpoint("10.244.2.9")]) { $0.ports[0].port = 0 }
    #expect(cluster.decide(localPod, "10.96.0.1").text == "translate 10.244.1.2:8080 10.244.2.2:8080")
  }

  @Test("KP-3 only the first address of an endpoint is used")
  func firstAddress() {
    let two = EndpointSlice.Endpoint([IPAddress("10.244.2.2")!, IPAddress("10.244.2.3")!])
    #expect(clusterSet([two]) == "translate 10.244.2.2:8080")
  }

  @Test("KP-3 the same endpoint in two slices counts once, the one that does not terminate")
  func duplicates() {
    let terminating = endpoint("10.244.1.2", ready: false, terminating: true)
    for (first, second) in [(terminating, endpoint("10.244.1.2")), (endpoint("10.244.1.2"), terminating)] {
      var cluster = Cluster()
      cluster.service()
      cluster.slice("web-a", [first])
      cluster.slice("web-b", [second, endpoint("10.244.2.9", ready: false, terminating: true)])
      #expect(cluster.decide(localPod, "10.96.0.1").text == "translate 10.244.1.2:8080")
    }
  }

  @Test("KP-3 of two that do not terminate the one in the first slice counts")
  func firstSlice() {
    for (first, expected) in [(true, "translate 10.244.1.2:8080"), (false, "reject")] {
      var cluster = Cluster()
      cluster.service()
      cluster.slice("web-a", [endpoint("10.244.1.2", ready: first)])
      cluster.slice("web-b", [endpoint("10.244.1.2", ready: !first)])
      #expect(cluster.decide(localPod, "10.96.0.1").text == expected)
    }
  }

  @Test("KP-10 the Cluster set is what is ready, else what still serves while it terminates, on any node")
  func cluster() {
    let notReady = endpoint("10.244.1.2", ready: false)
    let terminating = endpoint("10.244.1.3", ready: false, terminating: true)
    let far = endpoint("10.244.2.3", ready: false, terminating: true)
    let gone = endpoint("10.244.1.4", ready: false, serving: false, terminating: true)
    #expect(clusterSet([notReady, terminating, gone, endpoint("10.244.2.2")]) == "translate 10.244.2.2:8080")
    #expect(clusterSet([notReady, terminating, far, gone]) == "translate 10.244.1.3:8080 10.244.2.3:8080")
    #expect(clusterSet([notReady, gone]) == "reject")
  }

  @Test("KP-11 the Local set is what is local and ready, else what is local and still serves, whatever KP-10 says")
  func local() {
    let here = endpoint("10.244.1.2")
    let there = endpoint("10.244.2.2")
    let leaving = endpoint("10.244.1.3", ready: false, terminating: true)
    #expect(localSet([here, there, leaving]) == "translate 10.244.1.2:8080")
    #expect(localSet([there, leaving]) == "translate 10.244.1.3:8080")
    #expect(localSet([there]) == "drop")
    #expect(localSet([endpoint("10.244.2.3", ready: false, terminating: true)]) == "drop")
    #expect(localSet([endpoint("10.244.1.2", ready: false)]) == "reject")
  }

  @Test("KP-5 an endpoint is local where its node is the own one")
  func nodeName() {
    var nowhere = endpoint("10.244.1.2")
    nowhere.nodeName = nil
    #expect(localSet([nowhere]) == "drop")
  }

  @Test("KP-12 the Cluster set serves pods and the node where the external policy is Local")
  func clusterSetWithLocalPolicy() {
    var cluster = Cluster()
    cluster.service {
      $0.externalIPs = [IPAddress("192.0.2.50")!]
      $0.externalTrafficPolicy = .local
    }
    cluster.slice([endpoint("10.244.2.2")])
    #expect(cluster.decide(localPod, "192.0.2.50").text == "translate 10.244.2.2:8080")
    #expect(cluster.decide(ownNode, "192.0.2.50").text == "translate 10.244.2.2:8080 masquerade")
    #expect(cluster.decide(client, "192.0.2.50").text == "drop")
  }

  @Test(
    "KP-13 KP-14 hints for nodes come before hints for zones, and count where all have them and one is meant for us")
  func topology() {
    func e(_ address: String, _ zones: [String], _ nodes: [String]) -> EndpointSlice.Endpoint {
      endpoint(address, zones: zones, nodes: nodes)
    }
    let one = "translate 10.244.1.2:8080"
    let two = "translate 10.244.2.2:8080"
    let both = "translate 10.244.1.2:8080 10.244.2.2:8080"
    #expect(clusterSet([e("10.244.1.2", [], ["n1"]), e("10.244.2.2", [], ["n2"])]) == one)
    #expect(clusterSet([e("10.244.1.2", ["z1"], []), e("10.244.2.2", ["z2"], [])]) == one)
    #expect(clusterSet([e("10.244.1.2", ["z1"], ["n2"]), e("10.244.2.2", ["z2"], ["n1"])]) == two)
    #expect(clusterSet([e("10.244.1.2", ["z1"], ["n2"]), e("10.244.2.2", ["z2"], ["n3"])]) == one, "zones are next")
    #expect(clusterSet([e("10.244.1.2", [], ["n1"]), e("10.244.2.2", [], [])]) == both, "one has none")
    #expect(clusterSet([e("10.244.1.2", ["z1"], []), e("10.244.2.2", [], [])]) == both)
    #expect(clusterSet([e("10.244.1.2", ["z2"], []), e("10.244.2.2", ["z2", "z3"], [])]) == both, "none for us")
    #expect(clusterSet([e("10.244.1.2", ["z1", "z2"], []), e("10.244.2.2", ["z1"], [])]) == both)
    // What is not ready has no say, and what is left when nothing is ready is not restricted.
    let unready = endpoint("10.244.2.9", ready: false)
    #expect(clusterSet([e("10.244.1.2", ["z1"], []), e("10.244.2.2", ["z2"], []), unready]) == one)
    let leaving = endpoint("10.244.2.3", ready: false, terminating: true, zones: ["z2"])
    #expect(clusterSet([endpoint("10.244.1.3", ready: false, zones: ["z1"]), leaving]) == "translate 10.244.2.3:8080")
    // Never for the Local set.
    #expect(localSet([e("10.244.1.2", ["z2"], ["n2"]), e("10.244.1.3", ["z1"], ["n1"])]).contains("10.244.1.2:8080"))
  }

  @Test("KP-13 a node without a zone is in nobody's")
  func noZone() {
    var cluster = Cluster()
    cluster.service()
    cluster.slice([endpoint("10.244.1.2", zones: ["z1"]), endpoint("10.244.2.2", zones: [""])])
    var node = cluster.state.node("n1")!
    node.metadata.labels = [:]
    cluster.put(node.resource)
    #expect(cluster.decide(localPod, "10.96.0.1").endpoints.count == 2)
  }
}
