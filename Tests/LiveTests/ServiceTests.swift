import Addresses
import Glibc
import Lab
import Testing

/// Services on two nodes with servers and clients that know nothing of them: pods, the nodes themselves, and a machine
/// outside.
@Suite(
  "Services, live", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct ServiceTests {
  static let vip4 = IPAddress("10.96.0.10")!
  static let vip6 = IPAddress("fd00:10:96::10")!

  /// A cluster with a server in each pod, named as the pod.
  static func cluster(_ name: String, natOutgoing: Bool = false) throws -> TestCluster {
    let test = try TestCluster(name, outside: true)
    try test.cluster.configureNodes(
      "clusterCIDRs: [\(Cluster.pool4), \"\(Cluster.pool6)\"]", "serviceCIDRs: [10.96.0.0/16, \"fd00:10:96::/112\"]")
    try test.cluster.writePools(.direct, .direct, natOutgoing: natOutgoing)
    try test.start()
    for pod in test.cluster.pods { try ServicePeer.serve(pod.name, in: pod.namespace) }
    return test
  }

  static func plan(_ test: TestCluster, _ pods: [Cluster.Pod]? = nil) -> Cluster.ServicePlan {
    Cluster.ServicePlan("web", [vip4, vip6], pods ?? [test.a.pods[0], test.b.pods[0], test.b.pods[1]])
  }

  /// Writes a service and waits until both nodes have it.
  static func apply(_ plan: Cluster.ServicePlan, _ test: TestCluster) throws {
    try test.cluster.write(plan)
    try test.cluster.settle()
  }

  @Test(
    "KP-20: a ClusterIP leads pods and the node itself to every endpoint, in both families",
    arguments: ["TCP", "UDP"])
  func clusterIP(_ transport: String) throws { try clusterIPs(transport) }

  @Test("KP-7: SCTP takes the same way", .enabled(if: ServicePeer.hasSCTP, "needs a kernel with SCTP"))
  func sctp() throws { try clusterIPs("SCTP") }

  private func clusterIPs(_ transport: String) throws {
    let test = try ServiceTests.cluster("vip")
    defer { test.lab.cleanUp() }
    var plan = ServiceTests.plan(test)
    plan.transport = transport
    try ServiceTests.apply(plan, test)
    let all: Set<String> = ["a1", "b1", "b2"]
    for address in [ServiceTests.vip4, ServiceTests.vip6] {
      for client in [test.a.pods[1].namespace, test.a.namespace, test.b.namespace] {
        let names = try ServicePeer.names(client, address, 80, transport, count: 24)
        #expect(names == all, "\(client.name) to \(address)")
      }
    }
    let flows = try test.cluster.ask("flows", test.a)
    for field in [
      #""service":"demo/web:main""#, "\"replySource\":\"\(test.b.pods[0].ipv4)\"",
      "\"replyDestination\":\"\(test.a.pods[1].ipv4)\"",
    ] { #expect(flows.contains(field), "\(flows)") }
    // KP-34: pods keep their address, the node comes from its own.
    let own = try ServicePeer.ask(test.a.pods[1].namespace, ServiceTests.vip4, 80, transport)[0]
    #expect(own.contains(" \(test.a.pods[1].ipv4) "))
    let node = try ServicePeer.ask(test.a.namespace, ServiceTests.vip4, 80, transport, count: 8)
    #expect(node.allSatisfy { $0.contains(" \(test.a.ipv4) ") })
  }

  @Test(
    "KP-23 KP-32 NODE-3: NodePorts and load balancers from outside, and nobody else answers", arguments: ["TCP", "UDP"])
  func outside(_ transport: String) throws {
    let test = try ServiceTests.cluster("outside")
    defer { test.lab.cleanUp() }
    let outside = try #require(test.cluster.outside)
    let balancer = IPAddress("192.0.2.10")!
    try outside.addRoute("192.0.2.0/24 via \(test.a.ipv4)")
    var plan = ServiceTests.plan(test)
    plan.transport = transport
    plan.nodePort = 30080
    plan.loadBalancerIPs = [balancer]
    plan.externalIPs = [IPAddress("192.0.2.11")!, .v4(test.b.ipv4)]
    try ServiceTests.apply(plan, test)
    let all: Set<String> = ["a1", "b1", "b2"]
    try judged(outside, "eth0", try test.path("outside.pcap")) {
      for (address, port) in [
        (IPAddress.v4(test.a.ipv4), 30080), (.v4(test.b.ipv4), 30080), (.v6(test.a.ipv6), 30080), (balancer, 80),
        (IPAddress("192.0.2.11")!, 80), (.v4(test.b.ipv4), 80),
      ] {
        let answers = try ServicePeer.ask(outside, address, port, transport, count: 24)
        #expect(Set(answers.map { String($0.prefix { $0 != " " }) }) == all, "\(address) port \(port)")
        // KP-32: the endpoint sees the node.
        let node = address == .v4(test.b.ipv4) ? test.b : test.a
        let seen = address.family == .ipv4 ? "\(node.ipv4)" : "\(node.ipv6)"
        #expect(answers.allSatisfy { $0.contains(" \(seen) ") }, "\(answers)")
      }
    }
    // What is the host's stays the host's: a port beside, with a server and without.
    let server = try test.a.namespace.spawn(["python3", "-c", ServicePeer.script, "serve", "host", "30081"])
    try waitUntil("the host's server") { server.standardOutput.contains("ready") }
    #expect(try ServicePeer.names(outside, .v4(test.a.ipv4), 30081, transport, count: 1) == ["host"])
    #expect(try ServicePeer.ask(outside, .v4(test.a.ipv4), 30082, transport) == ["refused"])
  }

  @Test("KP-33: externalTrafficPolicy Local keeps the client's address and stays on the node")
  func local() throws {
    let test = try ServiceTests.cluster("local")
    defer { test.lab.cleanUp() }
    let outside = try #require(test.cluster.outside)
    var plan = ServiceTests.plan(test, [test.b.pods[0], test.b.pods[1]])
    plan.nodePort = 30080
    plan.loadBalancerIPs = [IPAddress("192.0.2.10")!]
    plan.externalTrafficPolicy = "Local"
    try ServiceTests.apply(plan, test)
    let answers = try ServicePeer.ask(outside, .v4(test.b.ipv4), 30080, count: 16)
    #expect(answers.allSatisfy { $0.contains(" \(Cluster.outside4) ") }, "\(answers)")
    #expect(Set(answers.map { String($0.prefix { $0 != " " }) }) == ["b1", "b2"])
    // KP-31: the node without an endpoint is silent, so that the client tries another.
    #expect(try ServicePeer.ask(outside, .v4(test.a.ipv4), 30080) == ["timeout"])
    // KP-33 (1) and (2): pods and the node itself are served by all endpoints.
    #expect(try ServicePeer.names(test.a.pods[0].namespace, .v4(test.a.ipv4), 30080) == ["b1", "b2"])
    #expect(try ServicePeer.names(test.a.namespace, .v4(test.a.ipv4), 30080) == ["b1", "b2"])
  }

  @Test("KP-23 KP-24: the node's own programs reach NodePorts at all its addresses, at 127.0.0.1 where that is wanted")
  func nodeItself() throws {
    let test = try ServiceTests.cluster("self")
    defer { test.lab.cleanUp() }
    // Reverse path filtering as distributions set it.
    try test.a.namespace.sysctl("net/ipv4/conf/all/rp_filter", "2")
    var plan = ServiceTests.plan(test)
    plan.nodePort = 30080
    plan.loadBalancerIPs = [IPAddress("192.0.2.10")!]
    try ServiceTests.apply(plan, test)
    let all: Set<String> = ["a1", "b1", "b2"]
    let node = test.a.namespace
    for address in [IPAddress.v4(test.a.ipv4), .v6(test.a.ipv6), .v4(test.b.ipv4)] {
      #expect(try ServicePeer.names(node, address, 30080, count: 24) == all, "\(address)")
    }
    #expect(try ServicePeer.names(node, IPAddress("192.0.2.10")!, 80, count: 24) == all)
    #expect(try ServicePeer.ask(node, IPAddress("127.0.0.1")!, 30080) == ["refused"])
    try test.cluster.configureNodes(
      "localhostNodePorts: true", "clusterCIDRs: [\(Cluster.pool4), \"\(Cluster.pool6)\"]",
      "serviceCIDRs: [10.96.0.0/16, \"fd00:10:96::/112\"]")
    try test.cluster.settle()
    #expect(try ServicePeer.names(node, IPAddress("127.0.0.1")!, 30080, count: 24) == all)
    // Other ports at 127.0.0.1 are the host's.
    try ServicePeer.serve("host", in: node, port: 30081)
    #expect(try ServicePeer.names(node, IPAddress("127.0.0.1")!, 30081, count: 1) == ["host"])
    #expect(try ServicePeer.names(node, .v4(test.a.ipv4), 30081, count: 1) == ["host"])
  }

  @Test(
    "KP-23 KP-33: NodePorts at an address of another device, for the node, for pods and for who sends by that device")
  func otherDevice() throws {
    let test = try ServiceTests.cluster("device")
    defer { test.lab.cleanUp() }
    let side = try test.lab.namespace("side")
    let address = IPAddress("172.31.0.1")!
    try test.lab.veth(
      Endpoint(test.a.namespace, "eth1", addresses: ["\(address)/24"]),
      Endpoint(side, "eth0", addresses: ["172.31.0.2/24"]))
    try side.addRoute("default via \(address)")
    // As on every Kubernetes node.
    try test.a.namespace.sysctl("net/ipv4/ip_forward", "1")
    let outside = try #require(test.cluster.outside)
    try outside.addRoute("172.31.0.0/24 via \(test.a.ipv4)")
    var plan = ServiceTests.plan(test)
    plan.nodePort = 30080
    try ServiceTests.apply(plan, test)
    var local = Cluster.ServicePlan("local", [IPAddress("10.96.0.11")!], [test.a.pods[0]])
    local.nodePort = 30081
    local.externalTrafficPolicy = "Local"
    try ServiceTests.apply(local, test)
    try waitUntil("the device to be served") {
      try ServicePeer.ask(test.a.namespace, address, 30080) != ["refused"]
    }
    let all: Set<String> = ["a1", "b1", "b2"]
    for client in [test.a.namespace, test.a.pods[1].namespace, side, outside] {
      #expect(try ServicePeer.names(client, address, 30080, count: 24) == all, "\(client.name)")
      #expect(try ServicePeer.names(client, .v4(test.a.ipv4), 30080, count: 24) == all, "\(client.name)")
    }
    // KP-33 (3): who comes by another device is no more the node than who comes by the underlay.
    for (client, source) in [(side, "172.31.0.2"), (outside, "\(Cluster.outside4)")] {
      let answers = try ServicePeer.ask(client, address, 30081, count: 4)
      #expect(answers.allSatisfy { $0.hasPrefix("a1 ") && $0.contains(" \(source) ") }, "\(answers)")
    }
    // Other ports there are the host's.
    try ServicePeer.serve("host", in: test.a.namespace, port: 30082)
    for client in [test.a.namespace, side, outside] {
      #expect(try ServicePeer.names(client, address, 30082, count: 1) == ["host"], "\(client.name)")
    }
    #expect(try !test.cluster.ask("status", test.a).contains("does not forward"))
    try test.a.namespace.sysctl("net/ipv4/conf/eth1/forwarding", "0")
    plan.endpoints = [test.b.pods[0]]
    try ServiceTests.apply(plan, test)
    #expect(try test.cluster.ask("status", test.a).contains("does not forward what comes by eth1"))
    #expect(try ServicePeer.names(test.a.namespace, address, 30080, count: 2) == ["b1"])
  }

  @Test("a ClusterIP leads pods and the node to a server of the node itself, as that of the API server does")
  func hostEndpoint() throws {
    let test = try ServiceTests.cluster("host")
    defer { test.lab.cleanUp() }
    try ServicePeer.serve("host", in: test.a.namespace, port: 6443)
    try test.cluster.write(
      "api.yaml",
      """
      apiVersion: v1
      kind: Service
      metadata: {name: kubernetes, namespace: default}
      spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, protocol: TCP}]}
      ---
      apiVersion: discovery.k8s.io/v1
      kind: EndpointSlice
      metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
      addressType: IPv4
      ports: [{name: https, port: 6443, protocol: TCP}]
      endpoints: [{addresses: ["\(test.a.ipv4)"], conditions: {ready: true}}]

      """)
    try test.cluster.settle()
    for client in [test.a.namespace, test.b.namespace, test.a.pods[0].namespace, test.b.pods[1].namespace] {
      let names = try ServicePeer.names(client, IPAddress("10.96.0.1")!, 443, count: 4)
      #expect(names == ["host"], "\(client.name)")
    }
  }

  @Test("KP-30 KP-37: without endpoints connections are refused; an address without a service is silent")
  func refused() throws {
    let test = try ServiceTests.cluster("refused")
    defer { test.lab.cleanUp() }
    let outside = try #require(test.cluster.outside)
    var plan = ServiceTests.plan(test, [])
    plan.nodePort = 30080
    try ServiceTests.apply(plan, test)
    let pod = test.a.pods[0].namespace
    let cases: [(Namespace, IPAddress, Int)] = [
      (pod, ServiceTests.vip4, 80), (pod, ServiceTests.vip6, 80), (test.a.namespace, ServiceTests.vip4, 80),
      (outside, .v4(test.a.ipv4), 30080), (pod, ServiceTests.vip4, 81), (test.a.namespace, .v4(test.a.ipv4), 30080),
    ]
    for (client, address, port) in cases {
      #expect(try ServicePeer.ask(client, address, port) == ["refused"], "\(client.name) \(address) \(port)")
    }
    #expect(try ServicePeer.ask(pod, IPAddress("10.96.0.99")!, 80) == ["timeout"])
    // An endpoint comes: nothing of the refusals is kept.
    try ServiceTests.apply(
      {
        var plan = plan
        plan.endpoints = [test.b.pods[0]]
        return plan
      }(), test)
    for (client, address, port) in cases where port != 81 {
      #expect(try ServicePeer.names(client, address, port, count: 1) == ["b1"], "\(client.name) \(address) \(port)")
    }
  }

  @Test("KP-35: a pod reaches itself by its service; KP-50: a client keeps its endpoint")
  func hairpinAndAffinity() throws {
    let test = try ServiceTests.cluster("hairpin")
    defer { test.lab.cleanUp() }
    let pods = [test.a.pods[0], test.a.pods[1]]
    for pod in pods {
      try ServiceTests.apply(ServiceTests.plan(test, [pod]), test)
      let answers = try ServicePeer.ask(pod.namespace, ServiceTests.vip4, 80, count: 3)
      #expect(answers.allSatisfy { $0.hasPrefix("\(pod.name) \(test.a.ipv4) ") }, "\(answers)")
    }
    var plan = ServiceTests.plan(test)
    plan.hasAffinity = true
    try ServiceTests.apply(plan, test)
    for client in test.cluster.pods {
      #expect(try ServicePeer.names(client.namespace, ServiceTests.vip4, 80, count: 16).count == 1)
    }
  }

  @Test("KP-51: a UDP flow to an endpoint that goes moves with its next packet")
  func movingFlow() throws {
    let test = try ServiceTests.cluster("moving")
    defer { test.lab.cleanUp() }
    var plan = ServiceTests.plan(test, [test.b.pods[0]])
    plan.transport = "UDP"
    try ServiceTests.apply(plan, test)
    let client = try ServicePeer.flow(test.a.pods[0].namespace, ServiceTests.vip4, 80, seconds: 4)
    try waitUntil("answers") { client.standardOutput.contains("b1") }
    plan.endpoints = [test.b.pods[1]]
    try ServiceTests.apply(plan, test)
    try waitUntil("answers of the other") { client.standardOutput.contains("b2") }
    _ = try client.wait(timeout: .seconds(10))
    let names = client.standardOutput.split(separator: "\n").map { String($0.prefix { $0 != " " }) }
    #expect(!names.contains("lost"))
    let first = try #require(names.firstIndex(of: "b2"))
    #expect(names[..<first].allSatisfy { $0 == "b1" } && names[first...].allSatisfy { $0 == "b2" })
  }

  @Test("NODE-8: natOutgoing masquerades pods on their way out of all pools, and the answers come back")
  func outgoing() throws {
    let test = try ServiceTests.cluster("nat", natOutgoing: true)
    defer { test.lab.cleanUp() }
    let outside = try #require(test.cluster.outside)
    try ServicePeer.serve("outside", in: outside)
    for transport in ["TCP", "UDP"] {
      for pod in test.cluster.pods {
        let node = pod.node == test.a.name ? test.a : test.b
        #expect(
          try ServicePeer.ask(pod.namespace, .v4(Cluster.outside4), 8080, transport)[0]
            .hasPrefix("outside \(node.ipv4) "))
      }
    }
    #expect(try test.a.pods[0].namespace.ping("\(Cluster.outside4)", count: 3, interval: .milliseconds(20)).isComplete)
    #expect(try test.a.pods[1].namespace.ping("\(Cluster.outside4)", count: 1, size: 20000).isComplete)
    // Between pods nothing is masqueraded.
    #expect(
      try ServicePeer.ask(test.a.pods[0].namespace, .v4(test.b.pods[0].ipv4), 8080)[0]
        .hasPrefix("b1 \(test.a.pods[0].ipv4) "))
    // And an error about a masqueraded packet finds its sender: nobody listens there.
    #expect(try ServicePeer.ask(test.a.pods[0].namespace, .v4(Cluster.outside4), 9, "UDP") == ["refused"])
  }

  @Test("NP-1 NP-2: default-deny applied and lifted live, felt by services and open connections alike")
  func policy() throws {
    let test = try ServiceTests.cluster("policy")
    defer { test.lab.cleanUp() }
    try ServiceTests.apply(ServiceTests.plan(test, [test.b.pods[0]]), test)
    let client = test.a.pods[0].namespace
    #expect(try ServicePeer.names(client, ServiceTests.vip4, 80, count: 1) == ["b1"])
    let stream = try ServicePeer.stream(client, ServiceTests.vip4, 80, seconds: 60)
    try test.cluster.writeDefaultDeny()
    try test.cluster.settle()
    #expect(try ServicePeer.ask(client, ServiceTests.vip4, 80) == ["timeout"])
    // NP-7: the pod's own node is let in.
    #expect(try ServicePeer.names(test.b.namespace, ServiceTests.vip4, 80, count: 1) == ["b1"])
    #expect(try test.cluster.ask("drops", test.b).contains("policyIngress"))
    try test.cluster.removeDefaultDeny()
    try test.cluster.settle()
    #expect(try ServicePeer.names(client, ServiceTests.vip4, 80, count: 1) == ["b1"])
    #expect(stream.isRunning, "the open connection was held up, not cut: \(stream.standardError)")
    stream.signal(SIGTERM)
  }
}
