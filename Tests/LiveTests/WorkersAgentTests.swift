import Addresses
import FoundationEssentials
import Lab
import Ports
import Testing

/// Agents whose packets are moved by two threads.
@Suite("Workers, live", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct WorkersAgentTests {
  private static let plans: [Cluster.NodePlan] = [
    .init("a", pods: [.veth, .veth, .tap]), .init("b", pods: [.veth, .veth, .tap]),
  ]

  private static func cluster(_ name: String, _ settings: String...) throws -> TestCluster {
    let test = try TestCluster(name, plans, offload: true)
    try test.cluster.configureNodes(
      ["workers: 2", "clusterCIDRs: [\(Cluster.pool4), \"\(Cluster.pool6)\"]", "serviceCIDRs: [10.96.0.0/16]"]
        + settings)
    return test
  }

  /// The threads of an agent that move packets.
  private func workers(_ agent: Child) throws -> Int {
    let folder = "/proc/\(agent.pid)/task"
    return try FileManager.default.contentsOfDirectory(atPath: folder)
      .filter { (try? String(contentsOfFile: "\(folder)/\($0)/comm", encoding: .utf8)) == "kalsae-worker\n" }
      .count
  }

  /// The packet sockets on the underlay's device that frames come in by.
  private func sockets(_ node: Cluster.Node) throws -> Int {
    func lines(_ file: String) throws -> [Substring] {
      try node.namespace.run("cat", file).check().standardOutput.split(separator: "\n")
    }
    let index = try lines("/sys/class/net/eth0/ifindex").first
    // Protocol 3 is ETH_P_ALL; the fifth column is the device.
    var count = 0
    for line in try lines("/proc/net/packet") {
      let columns = line.split(separator: " ")
      if columns.count > 4, columns[3] == "0003", columns[4] == index { count += 1 }
    }
    return count
  }

  @Test(
    "pods reach each other and services, by ping and by TCP that arrives whole, over both families, by user space and with flows in the kernel",
    arguments: ["ebpf: 'off'", "ebpf: auto"])
  func carries(_ setting: String) throws {
    let test = try WorkersAgentTests.cluster("workers", setting)
    defer { test.lab.cleanUp() }
    let agents = try test.start()
    for agent in agents { #expect(try workers(agent) == 2) }
    for node in test.cluster.nodes { #expect(try sockets(node) == 2) }
    try test.cluster.setMode(.vxlan)
    let (a, b) = (test.a.pods, test.b.pods)
    try test.exchange([(a[0], b[0]), (b[1], a[0]), (a[0], a[1]), (a[2], b[1]), (b[0], a[2]), (a[2], a[0])])
    // In fragments, which the pipeline puts together and makes.
    #expect(try a[0].namespace.ping("\(b[0].ipv4)", count: 2, size: 20_000).isComplete)
    // The nodes themselves.
    #expect(try test.a.namespace.ping("\(b[1].ipv4)", count: 2).isComplete)
    #expect(try test.b.namespace.ping("\(a[1].ipv4)", count: 2).isComplete)
    for pod in b { try ServicePeer.serve(pod.name, in: pod.namespace) }
    let expected = Set(b.map(\.name))
    for transport in ["TCP", "UDP"] {
      var plan = Cluster.ServicePlan("web", [ServiceTests.vip4], b)
      plan.transport = transport
      try ServiceTests.apply(plan, test)
      for client in [a[0].namespace, a[1].namespace, a[2].namespace, test.a.namespace] {
        #expect(try ServicePeer.names(client, ServiceTests.vip4, 80, transport, count: 24) == expected)
      }
    }
    for node in test.cluster.nodes {
      let ports = try test.cluster.ask("ports", node)
      #expect(sum(of: "receiveErrors", in: ports) == 0 && sum(of: "sendErrors", in: ports) == 0, "\(ports)")
      // By whichever worker it was: each port has sent and received. (Answers to the host come to it without one.)
      for port in ports.split(separator: "{") where port.contains("\"name\"") && !port.contains("\"role\":\"host\"") {
        #expect(!port.contains("\"sentPackets\":0,") && !port.contains("\"receivedPackets\":0,"), "\(port)")
      }
    }
  }

  @Test("an agent with one worker takes over from one with two, and the other way round")
  func takeover() throws {
    let test = try WorkersAgentTests.cluster("workerstake", "ebpf: 'off'")
    defer { test.lab.cleanUp() }
    var agent = try test.start()[0]
    try test.cluster.setMode(.vxlan)
    let (from, to) = (test.a.pods[0], test.b.pods[0])
    for count in [1, 2] {
      try test.cluster.configureNodes("workers: \(count)", "ebpf: 'off'")
      let next = try test.a.namespace.spawn(
        [
          try builtProgram("kalsae"), "run", "--state", test.cluster.state, "--node", test.a.name, "--socket",
          test.cluster.socket(of: test.a), "--data", test.cluster.data(of: test.a), "--takeover",
        ], log: test.path("next\(count).log"))
      try waitUntil("the other agent to end") { !agent.isRunning }
      try waitUntil("the new one's workers") { try workers(next) == count }
      try waitUntil("a socket of the underlay for each") { try sockets(test.a) == count }
      #expect(try from.namespace.ping("\(to.ipv4)", count: 3, interval: .milliseconds(20)).isComplete)
      try test.lab.transfer(
        Payload(byteCount: 1_000_000), from: to.namespace, to: from.namespace, address: .v4(from.ipv4))
      agent = next
    }
    _ = agent.terminate()
  }

  /// The samples of a metric of an agent.
  private func metric(_ name: String, _ node: Cluster.Node) throws -> [Int] {
    let script =
      "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:10249/metrics').read().decode())"
    return try node.namespace.run("python3", "-c", script).check().standardOutput.split(separator: "\n")
      .filter { $0.hasPrefix("\(name){") }.compactMap { $0.split(separator: " ").last.flatMap { Int($0) } }
  }

  @Test(
    "by AF_XDP each worker has a queue of each device, or its packet socket where the underlay has fewer; also when that is asked for later",
    arguments: [1, 2])
  func steered(_ queues: Int) throws {
    let test = try WorkersAgentTests.cluster("workersxdp", "ebpf: 'off'")
    defer { test.lab.cleanUp() }
    for node in test.cluster.nodes {
      try node.namespace.withNamespace { try XDPPort.raiseQueues(of: "eth0", to: queues) }
    }
    let agents = try test.start()
    for agent in agents { #expect(try workers(agent) == 2) }
    #expect(try metric("kalsae_xdp_sockets", test.a) == [])
    try test.cluster.configureNodes("workers: 2", "ports: af_xdp")
    try test.cluster.setMode(.vxlan)
    for node in test.cluster.nodes {
      // The underlay's, and those of two pods with two queues each.
      try waitUntil("a socket at each queue") {
        try metric("kalsae_xdp_sockets", node).sorted() == [queues, 2, 2].sorted()
      }
    }
    let (a, b) = (test.a.pods, test.b.pods)
    try test.exchange([(a[0], b[0]), (b[1], a[0]), (a[0], a[1]), (a[2], b[1]), (b[0], a[2])])
    #expect(try a[0].namespace.ping("\(b[0].ipv4)", count: 2, size: 20_000).isComplete)
    #expect(try test.a.namespace.ping("\(b[1].ipv4)", count: 2).isComplete)
    for node in test.cluster.nodes {
      let counts = try metric("kalsae_worker_received_packets_total", node)
      #expect(counts.count == 2 && counts.allSatisfy { $0 > 100 }, "\(counts)")
      let ports = try test.cluster.ask("ports", node)
      #expect(sum(of: "receiveErrors", in: ports) == 0 && sum(of: "sendErrors", in: ports) == 0, "\(ports)")
    }
    try test.cluster.configureNodes("workers: 2", "ports: af_packet")
    for node in test.cluster.nodes {
      try waitUntil("packet sockets again") { try metric("kalsae_xdp_sockets", node) == [] }
    }
    try test.exchange([(a[0], b[0]), (b[1], a[0])])
  }
}
