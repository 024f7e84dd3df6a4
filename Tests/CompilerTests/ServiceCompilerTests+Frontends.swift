import Addresses
import Model
import Reference
import Testing

@testable import Dataplane

/// Where services are met.
extension ServiceCompilerTests {
  @Test("KP-20 KP-21 KP-22 KP-23 every kind of frontend, and none too many") func frontends() {
    let resource = service { service in
      service.type = .loadBalancer
      service.ports[0].nodePort = 30080
      service.externalIPs = [IPAddress("203.0.113.1")!, IPAddress("fd00:ee::1")!]
      service.loadBalancerIngress = [
        LoadBalancerIngress(IPAddress("203.0.113.2")!), LoadBalancerIngress(IPAddress("203.0.113.3")!, ipMode: .proxy),
        LoadBalancerIngress(hostname: "lb.example.com"), LoadBalancerIngress(IPAddress("fd00:cb::1")!),
      ]
    }
    let bench = bench(resource, slice(["10.244.2.1"]))
    for (address, port) in [
      ("10.96.0.1", 80), ("203.0.113.1", 80), ("203.0.113.2", 80), ("10.0.0.1", 30080), ("192.0.2.1", 30080),
    ] as [(String, UInt16)] {
      #expect(ask(bench, Self.client, address, port: port) == "\(web) 10.244.2.1:8080", "\(address)")
    }
    for (address, port) in [
      ("203.0.113.3", 80), ("10.0.0.2", 30080), ("10.0.0.1", 80), ("203.0.113.1", 30080),
    ] as [(String, UInt16)] { #expect(ask(bench, Self.client, address, port: port) == "- none", "\(address)") }
    let client6 = Origin.elsewhere(IPAddress("2001:db8::7")!)
    for address in ["fd00:ee::1", "fd00:cb::1"] { #expect(ask(bench, client6, address, port: 80) == "- none") }
    #expect(bench.contents["frontends"] == 4)
  }

  @Test("KP-23 KP-24 nodePortAddresses: primary, blocks, all; and 127.0.0.1 where that is wanted") func nodePorts() {
    func serves(_ change: (inout NodeConfiguration.Spec) -> Void) -> String {
      var spec = NodeConfiguration.Spec()
      change(&spec)
      let bench = bench(
        service { service in
          service.type = .nodePort
          service.clusterIPs.append(IPAddress("fd00:96::1")!)
          service.ports[0].nodePort = 30080
        }, slice(["10.244.2.1"]), slice(["fd00:2::1"], suffix: "y"), settings: spec)
      var served: [String] = []
      for (name, from, address) in [
        ("primary", Self.client, "10.0.0.1"), ("second", Self.client, "192.0.2.1"),
        ("v6", Origin.elsewhere(IPAddress("2001:db8::7")!), "fd00::1"),
        ("localhost", Origin.node(IPAddress("127.0.0.1")!), "127.0.0.1"), ("127.0.0.2", Self.host, "127.0.0.2"),
        ("::1", Origin.node(IPAddress("fd00::1")!), "::1"),
      ] where ask(bench, from, address, port: 30080).hasPrefix(web) { served.append(name) }
      return served.joined(separator: " ")
    }
    #expect(serves { _ in } == "primary second v6")
    #expect(serves { $0.nodePortAddresses = .primary } == "primary v6")
    #expect(serves { $0.nodePortAddresses = .blocks([IPPrefix("192.0.2.0/24")!]) } == "second v6")
    #expect(serves { $0.nodePortAddresses = .blocks([IPPrefix("fd01::/64")!]) } == "primary second")
    #expect(serves { $0.nodePortAddresses = .blocks([IPPrefix("172.16.0.0/12")!, IPPrefix("fd00::/64")!]) } == "v6")
    #expect(serves { $0.localhostNodePorts = true } == "primary second v6 localhost")
    #expect(
      serves {
        $0.localhostNodePorts = true
        $0.nodePortAddresses = .primary
      } == "primary v6")
    #expect(
      serves {
        $0.localhostNodePorts = true
        $0.nodePortAddresses = .blocks([IPPrefix("127.0.0.0/8")!])
      } == "v6 localhost")
  }

  @Test("KP-23 KP-33 NodePorts are served on all addresses of the machine, as these come and go") func allAddresses() {
    func nodePort(_ change: (inout NodeConfiguration.Spec) -> Void = { _ in }) -> ClusterBench {
      var spec = NodeConfiguration.Spec()
      change(&spec)
      return bench(
        service { service in
          service.type = .nodePort
          service.externalTrafficPolicy = .local
          service.ports[0].nodePort = 30080
        }, slice(["10.244.2.1"]), settings: spec)
    }
    let (second, third) = ("172.31.0.1", "172.31.0.2")
    let node = nodePort()
    let other = Origin.node(IPAddress(second)!)
    #expect(ask(node, Self.host, second, port: 30080) == "- none")
    node.compiler.setMachineAddresses([IPAddress(second)!, IPAddress(third)!])
    node.commit()
    for address in [second, third, "10.0.0.1"] {
      // KP-31: none of the endpoints is here; KP-33 (2): the node itself reaches the others, from whatever address.
      #expect(ask(node, Self.client, address, port: 30080) == "default/web:http drop", "\(address)")
      #expect(ask(node, Self.host, address, port: 30080).hasPrefix("\(web) 10.244.2.1"), "\(address)")
      #expect(ask(node, other, address, port: 30080).hasPrefix("\(web) 10.244.2.1"), "\(address)")
      // What the host forwards for others is from elsewhere.
      #expect(
        ask(node, .node(IPAddress("172.31.0.77")!), address, port: 30080) == "default/web:http drop", "\(address)")
    }
    node.compiler.setMachineAddresses([IPAddress(third)!])
    node.commit()
    #expect(ask(node, Self.host, second, port: 30080) == "- none")
    #expect(ask(node, other, third, port: 30080) == "default/web:http drop")
    let primary = nodePort { $0.nodePortAddresses = .primary }
    primary.compiler.setMachineAddresses([IPAddress(second)!])
    primary.commit()
    #expect(ask(primary, Self.host, second, port: 30080) == "- none")
    let block = nodePort { $0.nodePortAddresses = .blocks([IPPrefix("172.31.0.0/31")!]) }
    block.compiler.setMachineAddresses([IPAddress(second)!, IPAddress(third)!])
    block.commit()
    #expect(ask(block, Self.host, second, port: 30080).hasPrefix(web))
    #expect(ask(block, Self.host, third, port: 30080) == "- none")
    #expect(ask(block, Self.host, "10.0.0.1", port: 30080) == "- none")
  }

  @Test("KP-37 the port of a cluster IP that nobody defined, the address that nobody has") func unknown() {
    var spec = NodeConfiguration.Spec()
    spec.serviceCIDRs = [IPPrefix("10.96.0.0/16")!]
    let bench = bench(service(), slice(["10.244.2.1"]), settings: spec)
    #expect(ask(bench, Self.pod, "10.96.0.1", port: 81) == "- reject")
    #expect(ask(bench, Self.pod, "10.96.0.2", port: 80) == "- drop")
    bench.apply([.upsert(service("web", "10.96.0.2"))])
    #expect(ask(bench, Self.pod, "10.96.0.1", port: 81) == "- drop")
    #expect(ask(bench, Self.pod, "10.96.0.2", port: 81) == "- reject")
  }

  @Test("KP-38 source ranges are filtered by family, and any /0 opens all") func ranges() {
    func isOpen(_ ranges: [String]) -> Bool {
      let bench = bench(
        service { service in
          service.type = .loadBalancer
          service.loadBalancerIngress = [LoadBalancerIngress(IPAddress("203.0.113.2")!)]
          service.loadBalancerSourceRanges = ranges.map { IPPrefix($0)! }
        }, slice(["10.244.2.1"]))
      let text = ask(bench, Self.client, "203.0.113.2")
      #expect(text == "\(web) 10.244.2.1:8080" || text == "default/web:http drop")
      return text.hasPrefix(web)
    }
    #expect(isOpen([]))
    #expect(isOpen(["198.51.100.0/24"]))
    #expect(!isOpen(["198.51.99.0/24"]))
    #expect(isOpen(["198.51.99.0/24", "0.0.0.0/0"]))
    #expect(isOpen(["fd00::/16"]))
    #expect(!isOpen(["::/0", "198.51.99.0/24"]))
  }
}
