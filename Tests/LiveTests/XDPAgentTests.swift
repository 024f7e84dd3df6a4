import Addresses
import Lab
import Testing

/// Agents whose pods and underlay come by AF_XDP, where the configuration says so.
@Suite("AF_XDP, live", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct XDPAgentTests {
  private static let plans: [Cluster.NodePlan] = [.init("a", pods: [.veth, .tap]), .init("b", pods: [.veth, .tap])]

  /// The devices of a node that have a program in front.
  private func steered(_ node: Cluster.Node) throws -> Int {
    try node.namespace.run("ip", "-d", "link", "show").check().standardOutput.ranges(of: "prog/xdp").count
  }

  private func kinds(_ test: TestCluster, _ node: Cluster.Node) throws -> (xdp: Int, packet: Int) {
    let ports = try test.cluster.ask("ports", node)
    return (ports.ranges(of: "\"kind\":\"af_xdp\"").count, ports.ranges(of: "\"kind\":\"af_packet\"").count)
  }

  @Test(
    "pods reach each other by AF_XDP, in tunnels and without, over both families, by ping and by TCP that arrives whole",
    arguments: [Cluster.Mode.vxlan, .ipip, .geneve, .gre, .direct])
  func carries(_ mode: Cluster.Mode) throws {
    let test = try TestCluster("xdp", XDPAgentTests.plans, offload: true)
    defer { test.lab.cleanUp() }
    try test.cluster.configureNodes("ports: af_xdp")
    try test.start()
    try test.cluster.setMode(mode)
    // The underlay's and a pod's; TAP devices are what they were.
    for node in test.cluster.nodes {
      #expect(try steered(node) == 2)
      #expect(try kinds(test, node) == (2, 0))
    }
    let (a, b) = (test.a.pods, test.b.pods)
    try test.exchange([(a[0], b[0]), (b[0], a[0]), (a[0], a[1]), (a[1], b[0]), (a[0], b[1])])
    // A packet in fragments, the node itself, and the host's own traffic on the underlay.
    #expect(try a[0].namespace.ping("\(b[0].ipv4)", count: 2, size: 20_000).isComplete)
    #expect(try test.a.namespace.ping("\(b[0].ipv4)", count: 2).isComplete)
    #expect(try test.a.namespace.ping("\(test.b.ipv4)", count: 2).isComplete)
    for node in test.cluster.nodes {
      let ports = try test.cluster.ask("ports", node)
      #expect(sum(of: "receiveErrors", in: ports) == 0 && sum(of: "sendErrors", in: ports) == 0, "\(ports)")
    }
  }

  @Test("NODE-3 the setting is followed while the agent runs, and an agent that ends leaves nothing")
  func changes() throws {
    let test = try TestCluster("xdpset", XDPAgentTests.plans, offload: true)
    defer { test.lab.cleanUp() }
    let agents = try test.start()
    try test.cluster.setMode(.vxlan)
    let (from, to) = (test.a.pods[0], test.b.pods[0])
    #expect(try kinds(test, test.a) == (0, 2))
    for isXDP in [true, false, true] {
      try test.cluster.configureNodes("ports: \(isXDP ? "af_xdp" : "af_packet")")
      try waitUntil("the ports to change") {
        try test.cluster.nodes.allSatisfy { try kinds(test, $0) == (isXDP ? (2, 0) : (0, 2)) }
      }
      #expect(try steered(test.a) == (isXDP ? 2 : 0))
      #expect(try from.namespace.ping("\(to.ipv4)", count: 3, interval: .milliseconds(20)).isComplete)
    }
    for agent in agents { _ = agent.terminate() }
    for node in test.cluster.nodes { #expect(try steered(node) == 0) }
  }

  @Test("an agent that takes over puts its own ports in the place of the other's", arguments: [1, 2])
  func takeover(workers: Int) throws {
    let test = try TestCluster("xdptake", XDPAgentTests.plans, offload: true)
    defer { test.lab.cleanUp() }
    try test.cluster.configureNodes("ports: af_xdp", "workers: \(workers)")
    let agents = try test.start()
    try test.cluster.setMode(.vxlan)
    let log = try test.path("second.log")
    let second = try test.a.namespace.spawn(
      [
        try builtProgram("kalsae"), "run", "--state", test.cluster.state, "--node", test.a.name, "--socket",
        test.cluster.socket(of: test.a), "--data", test.cluster.data(of: test.a), "--takeover",
      ], log: log)
    try waitUntil("the first agent to end") { !agents[0].isRunning }
    try waitUntil("the second one's ports") { (try? kinds(test, test.a)).map { $0 == (2, 0) } ?? false }
    #expect(try steered(test.a) == 2)
    let (from, to) = (test.a.pods[0], test.b.pods[0])
    #expect(try from.namespace.ping("\(to.ipv4)", count: 3, interval: .milliseconds(20)).isComplete)
    _ = second.terminate()
    #expect(try steered(test.a) == 0)
  }

  @Test("where a device cannot, the packet socket stands in, and the log says why and what helps")
  func refused() throws {
    let test = try TestCluster("xdpnot", [.init("a", pods: [.veth]), .init("b", pods: [.veth])], offload: true)
    defer { test.lab.cleanUp() }
    // Somebody else's program is in front of the underlay of one node.
    let program = try test.path("pass.o")
    try test.lab.run([
      "sh", "-c", "printf '%s' '\(XDPAgentTests.pass)' | clang -O2 -target bpf -c -x c - -o \(program)",
    ])
    .check()
    try test.a.namespace.run("ip", "link", "set", "eth0", "xdp", "obj", program, "sec", "xdp").check()
    try test.cluster.configureNodes("ports: af_xdp")
    try test.start()
    try test.cluster.setMode(.vxlan)
    #expect(try kinds(test, test.a) == (1, 1))
    #expect(try kinds(test, test.b) == (2, 0))
    #expect(test.cluster.logText(of: test.a).contains("underlay: no AF_XDP: "))
    #expect(test.cluster.logText(of: test.a).contains("a packet socket is used"))
    let (from, to) = (test.a.pods[0], test.b.pods[0])
    #expect(try from.namespace.ping("\(to.ipv4)", count: 3, interval: .milliseconds(20)).isComplete)
    try test.lab.transfer(
      Payload(byteCount: 1_000_000), from: from.namespace, to: to.namespace, address: .v4(to.ipv4))
  }

  /// XDP_PASS.
  private static let pass = "__attribute__((section(\"xdp\"), used)) int pass(void *frame) { return 2; }"
}
