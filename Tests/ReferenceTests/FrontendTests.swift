import Addresses
import Model
import Testing

@testable import Reference

@Suite struct FrontendTests {
  private func cluster(_ change: (inout Service) -> Void = { _ in }) -> Cluster {
    var cluster = Cluster()
    cluster.service("web", change)
    cluster.slice([endpoint("10.244.2.2")])
    return cluster
  }

  @Test("KP-1 KP-2 services that are another proxy's, headless, without an address or external names do not count")
  func notServed() {
    #expect(cluster().decide(client, "10.96.0.1").verdict == .translate)
    #expect(cluster { $0.metadata.labels[Service.proxyNameLabel] = "" }.decide(client, "10.96.0.1").verdict == .none)
    #expect(cluster { $0.isHeadless = true }.decide(client, "10.96.0.1").verdict == .none)
    #expect(cluster { $0.type = .externalName }.decide(client, "10.96.0.1").verdict == .none)
    let without = cluster {
      $0.clusterIPs = []
      $0.externalIPs = [IPAddress("192.0.2.50")!]
      $0.type = .nodePort
      $0.ports[0].nodePort = 30000
    }
    #expect(without.decide(client, "192.0.2.50").verdict == .none)
    #expect(without.decide(client, "10.0.0.1", .tcp, 30000).verdict == .none)
  }

  @Test("KP-1 a slice with the headless label does not count")
  func headlessSlice() {
    var cluster = cluster()
    cluster.slice([endpoint("10.244.2.2")]) { $0.metadata.labels[EndpointSlice.headlessLabel] = "" }
    #expect(cluster.decide(client, "10.96.0.1").verdict == .reject)
  }

  @Test("KP-4 nothing is programmed before services and slices are listed")
  func notSynced() {
    let services = ReferenceServices(state: cluster().state, node: "n1", isSynced: false)
    let decision = services.decide(source: client, destination: IPAddress("10.96.0.1")!, protocol: .tcp, port: 80)
    #expect(decision.verdict == .none && decision.service == nil)
  }

  @Test("KP-6 each family stands for itself: without a cluster IP of it nothing is served in it")
  func families() {
    var cluster = cluster {
      $0.clusterIPs.append(IPAddress("fd00:96::1")!)
      $0.externalIPs = [IPAddress("fd00:ee::1")!]
      $0.type = .nodePort
      $0.ports[0].nodePort = 30000
    }
    let world = Origin.elsewhere(IPAddress("2001:db8::7")!)
    #expect(cluster.decide(world, "fd00:96::1").verdict == .reject, "its only endpoint is of IPv4")
    cluster.slice("web-6", [EndpointSlice.Endpoint([IPAddress("fd00:10:244:2::2")!])]) { $0.addressType = .ipv6 }
    #expect(cluster.decide(world, "fd00:96::1").text == "translate [fd00:10:244:2::2]:8080")
    #expect(cluster.decide(client, "10.96.0.1").text == "translate 10.244.2.2:8080")
    #expect(cluster.decide(world, "fd00:ee::1").verdict == .translate)
    #expect(cluster.decide(world, "fd00::1", .tcp, 30000).verdict == .translate)
    cluster.service {
      $0.externalIPs = [IPAddress("fd00:ee::1")!]
      $0.type = .nodePort
      $0.ports[0].nodePort = 30000
    }
    #expect(cluster.decide(world, "fd00:ee::1").verdict == .none)
    #expect(cluster.decide(world, "fd00::1", .tcp, 30000).verdict == .none)
  }

  @Test("KP-7 KP-20 the same port of another protocol is another frontend")
  func protocols() {
    var cluster = cluster {
      $0.ports = [
        ServicePort(name: "http", port: 80), ServicePort(name: "dns", protocol: .udp, port: 80),
        ServicePort(name: "sig", protocol: .sctp, port: 80),
      ]
    }
    cluster.slice([endpoint("10.244.2.2")]) {
      $0.ports = [
        .init(name: "http", port: 8080), .init(name: "dns", protocol: .udp, port: 53),
        .init(name: "sig", protocol: .sctp, port: 99),
      ]
    }
    for (transport, name, port) in [(TransportProtocol.tcp, "http", 8080), (.udp, "dns", 53), (.sctp, "sig", 99)] {
      let decision = cluster.decide(client, "10.96.0.1", transport)
      #expect(decision.service == "default/web:\(name)" && decision.text == "translate 10.244.2.2:\(port)")
    }
  }

  @Test("KP-21 KP-22 external IPs, and load balancers' addresses of mode VIP")
  func external() {
    let cluster = cluster {
      $0.type = .loadBalancer
      $0.externalIPs = [IPAddress("192.0.2.50")!]
      $0.loadBalancerIngress = [
        LoadBalancerIngress(IPAddress("203.0.113.1")!), LoadBalancerIngress(IPAddress("203.0.113.2")!, ipMode: .proxy),
        LoadBalancerIngress(hostname: "lb.example.com"),
      ]
    }
    #expect(cluster.decide(client, "192.0.2.50").verdict == .translate)
    #expect(cluster.decide(client, "203.0.113.1").verdict == .translate)
    #expect(cluster.decide(client, "203.0.113.2").verdict == .none)
    // Another port of such an address is not the service's business.
    #expect(cluster.decide(client, "192.0.2.50", .tcp, 81).verdict == .none)
  }

  @Test(
    "KP-23 NodePorts are served on the addresses that are configured",
    arguments: [
      (NodePortAddresses.all, ["10.0.0.1", "192.0.2.1", "fd00::1"]), (.primary, ["10.0.0.1", "fd00::1"]),
      (.blocks([IPPrefix("192.0.2.0/24")!]), ["192.0.2.1", "fd00::1"]),
      (.blocks([IPPrefix("fd00:1::/64")!]), ["10.0.0.1", "192.0.2.1"]),
    ])
  func nodePortAddresses(setting: NodePortAddresses, served: [String]) {
    var cluster = cluster {
      $0.clusterIPs.append(IPAddress("fd00:96::1")!)
      $0.type = .nodePort
      $0.ports[0].nodePort = 30000
    }
    cluster.slice("web-6", [EndpointSlice.Endpoint([IPAddress("fd00:10:244:2::2")!])]) { $0.addressType = .ipv6 }
    cluster.configuration.nodePortAddresses = setting
    for address in ["10.0.0.1", "192.0.2.1", "fd00::1", "::1", "10.0.0.2", "10.0.0.9"] {
      let source = address.contains(":") ? Origin.elsewhere(IPAddress("2001:db8::7")!) : client
      let verdict = cluster.decide(source, address, .tcp, 30000).verdict
      #expect(verdict == (served.contains(address) ? .translate : .none), "\(address)")
    }
  }

  @Test("KP-24 NodePorts on 127.0.0.1 only where enabled, masqueraded, and from the node itself alone")
  func localhost() {
    var cluster = cluster {
      $0.type = .nodePort
      $0.ports[0].nodePort = 30000
      $0.externalTrafficPolicy = .local
    }
    let self1 = Origin.node(IPAddress("127.0.0.1")!)
    #expect(cluster.decide(self1, "127.0.0.1", .tcp, 30000).verdict == .none)
    cluster.configuration.localhostNodePorts = true
    #expect(cluster.decide(self1, "127.0.0.1", .tcp, 30000).text == "translate 10.244.2.2:8080 masquerade")
    #expect(cluster.decide(self1, "127.0.0.2", .tcp, 30000).verdict == .none)
    #expect(cluster.decide(client, "127.0.0.1", .tcp, 30000).verdict == .drop)
    #expect(cluster.decide(localPod, "127.0.0.9", .udp, 5).verdict == .drop)
    cluster.configuration.nodePortAddresses = .primary
    #expect(cluster.decide(self1, "127.0.0.1", .tcp, 30000).verdict == .none)
  }

  @Test("KP-25 NodePorts come last, and source ranges do not concern them")
  func nodePortsLast() {
    var cluster = cluster {
      $0.type = .loadBalancer
      $0.ports[0].nodePort = 80
      $0.loadBalancerIngress = [LoadBalancerIngress(IPAddress("203.0.113.1")!)]
      $0.loadBalancerSourceRanges = [IPPrefix("172.16.0.0/12")!]
    }
    #expect(cluster.decide(client, "203.0.113.1").verdict == .drop)
    #expect(cluster.decide(client, "10.0.0.1").service == "default/web:http")
    #expect(cluster.decide(client, "10.0.0.1").verdict == .translate)
    // Another service has the node's address for an external IP.
    cluster.service("zzz") {
      $0.clusterIPs = [IPAddress("10.96.0.2")!]
      $0.externalIPs = [IPAddress("10.0.0.1")!]
    }
    #expect(cluster.decide(client, "10.0.0.1").service == "default/zzz:http")
    #expect(cluster.decide(client, "192.0.2.1").service == "default/web:http")
  }

  @Test("KP-37 a known cluster IP on an unknown port is rejected, an unknown one of the service CIDR is dropped")
  func unknown() {
    var cluster = cluster()
    cluster.configuration.serviceCIDRs = [IPPrefix("10.96.0.0/16")!]
    for source in [client, ownNode, localPod] {
      #expect(cluster.decide(source, "10.96.0.1", .tcp, 81).verdict == .reject)
      #expect(cluster.decide(source, "10.96.0.1", .udp, 80).verdict == .reject)
      #expect(cluster.decide(source, "10.96.0.2").verdict == .drop)
      #expect(cluster.decide(source, "10.97.0.1").verdict == .none)
    }
    cluster.configuration.serviceCIDRs = []
    #expect(cluster.decide(client, "10.96.0.1", .tcp, 81).verdict == .reject)
    #expect(cluster.decide(client, "10.96.0.2").verdict == .none)
  }

  @Test("KP-25 where two services share an external address and port, the first in order counts")
  func order() {
    var cluster = Cluster()
    for (index, name) in ["b", "a", "c"].enumerated() {
      cluster.service(name) {
        $0.clusterIPs = [IPAddress("10.96.0.\(index + 1)")!]
        $0.externalIPs = [IPAddress("192.0.2.50")!]
      }
    }
    #expect(cluster.decide(client, "192.0.2.50").service == "default/a:http")
    cluster.service("z") {
      $0.clusterIPs = [IPAddress("192.0.2.50")!]
      $0.ports[0].name = ""
    }
    #expect(cluster.decide(client, "192.0.2.50").service == "default/z:80")
  }
}
