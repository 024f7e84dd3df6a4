import Addresses
import Model
import Reference
import Testing

@testable import Dataplane

/// Who has a frontend that several want, and what a change of it costs.
extension ServiceCompilerTests {
  @Test("two services with one frontend: the rank decides, whatever the order, and the next one follows") func claims()
  {
    func external(_ name: String, _ ip: String) -> Resource {
      service(name, ip) { $0.externalIPs = [IPAddress("203.0.113.1")!] }
    }
    func balanced(_ name: String, _ ip: String) -> Resource {
      service(name, ip) {
        $0.type = .loadBalancer
        $0.loadBalancerIngress = [LoadBalancerIngress(IPAddress("203.0.113.1")!)]
      }
    }
    let clusterIP = service("z", "203.0.113.1")
    let contenders = [
      clusterIP, external("b", "10.96.0.2"), external("c", "10.96.0.3"), balanced("a", "10.96.0.1"),
      balanced("d", "10.96.0.4"),
    ]
    let ranking = ["z", "b", "c", "a", "d"]
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 1, 3]] {
      let bench = bench()
      for name in ranking { bench.apply([.upsert(slice(name, ["10.244.2.1"]))]) }
      for index in order { bench.apply([.upsert(contenders[index])]) }
      for (place, name) in ranking.enumerated() {
        #expect(ask(bench, Self.client, "203.0.113.1") == "default/\(name):http translate 10.244.2.1:8080")
        #expect(ask(bench, Self.client, "203.0.113.1", port: 81) == (place == 0 ? "- reject" : "- none"))
        bench.apply([.delete(ObjectKey(.service, namespace: "default", name: name))])
      }
      #expect(ask(bench, Self.client, "203.0.113.1") == "- none")
    }
  }

  @Test("a service whose address is an external IP and a load balancer's at once, and one that turns into the other")
  func ownClaims() {
    func resource(external: Bool, balanced: Bool) -> Resource {
      service { service in
        service.type = .loadBalancer
        service.loadBalancerSourceRanges = [IPPrefix("192.0.2.0/24")!]
        if external { service.externalIPs = [IPAddress("203.0.113.1")!] }
        if balanced { service.loadBalancerIngress = [LoadBalancerIngress(IPAddress("203.0.113.1")!)] }
      }
    }
    let bench = bench(slice(["10.244.2.1"]))
    for (external, balanced, expected) in [
      (true, true, "\(web) 10.244.2.1:8080"), (false, true, "default/web:http drop"),
      (true, false, "\(web) 10.244.2.1:8080"),
      (false, false, "- none"), (false, true, "default/web:http drop"), (true, true, "\(web) 10.244.2.1:8080"),
    ] {
      bench.apply([.upsert(resource(external: external, balanced: balanced))])
      #expect(ask(bench, Self.client, "203.0.113.1") == expected)
    }
  }

  @Test("a change touches the service that it is about, and nothing of any other") func proportion() {
    let bench = bench()
    var changes: [Change] = []
    for number in 0..<300 {
      changes.append(.upsert(service("s\(number)", "10.96.\(1 + number / 200).\(number % 200)")))
      changes.append(.upsert(slice("s\(number)", ["10.244.2.1", "10.244.2.2", "10.244.1.3"])))
    }
    bench.apply(changes)
    func picture() -> [String] {
      (0..<400).map { index in
        let record = bench.tables.services.services[index]
        let list = (0..<Int(record.clusterCount + record.localCount)).map {
          bench.tables.services.lists[Int(record.list) + $0]
        }
        return "\(record) \(list) \(list.map { bench.tables.services.backends[Int($0)].generation })"
      }
    }
    let before = picture()
    let used = bench.tables.services.lists.octets
    for round in 0..<50 {
      let addresses = ["10.244.2.1", round % 2 == 0 ? "10.244.2.9" : "10.244.2.2", "10.244.1.3"]
      bench.apply([.upsert(slice("s77", addresses))])
    }
    let after = picture()
    let changed = (0..<400).filter { before[$0] != after[$0] }
    #expect(changed.count == 1)
    // The endpoints that stayed kept their places and generations.
    let index = changed[0]
    let stayed = bench.tables.services.installed[index].first {
      $0.endpoint == .init(IPAddress("10.244.2.1")!, 8080)
    }!
    #expect(bench.tables.services.backends[Int(stayed.place)].generation == 1)
    // And nothing grew.
    #expect(bench.tables.services.lists.octets == used)
    #expect(bench.contents["backends"] == 900)
    // What says the same says nothing.
    let epoch = bench.tables.epoch
    bench.apply([.upsert(slice("s77", ["10.244.2.1", "10.244.2.2", "10.244.1.3"]))])
    bench.apply([.upsert(service("s78", "10.96.1.78"))])
    #expect(bench.tables.epoch == epoch)
  }
}
