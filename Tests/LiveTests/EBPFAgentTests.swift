import Addresses
import Glibc
import Lab
import Testing

/// The agent keeps services in the kernel; HTTP by curl from a pod and from the node.
@Suite(
  "Agent with eBPF", .serialized,
  .enabled(if: Lab.isAvailable && Lab.controlGroupRoot != nil, "needs root and cgroup2"),
  .timeLimit(.minutes(5)))
struct EBPFAgentTests {
  /// What is loaded belongs to a node's name, on the whole machine: other tests' agents have other names.
  private static let nodes: [Cluster.NodePlan] = [.init("x"), .init("y")]

  private func kalsae(_ test: TestCluster, _ arguments: String...) throws -> ProcessResult {
    try test.lab.runUnchecked([try builtProgram("kalsae")] + arguments)
  }

  private func startAgent(_ test: TestCluster, _ node: Cluster.Node, group: String) throws -> Child {
    // Not by `Namespace.spawn`, which shows its programs a /sys of their own, without control groups.
    try test.lab.spawn(
      [
        "nsenter", "--net=\(node.namespace.path)", try builtProgram("kalsae"), "run", "--state", test.cluster.state,
        "--node", node.name, "--socket", test.cluster.socket(of: node), "--data", test.cluster.data(of: node),
        "--cgroup", group,
      ], log: test.cluster.log(of: node))
  }

  /// A service with one endpoint, in every way that it can be reached.
  private func service(endpoint: String) -> String {
    """
    apiVersion: v1
    kind: Service
    metadata: {name: web, namespace: demo}
    spec:
      type: LoadBalancer
      clusterIP: 10.96.0.10
      clusterIPs: [10.96.0.10]
      ipFamilies: [IPv4]
      externalIPs: [192.0.2.10]
      ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}]
    status: {loadBalancer: {ingress: [{ip: 192.0.2.20}]}}
    ---
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {name: web-1, namespace: demo, labels: {kubernetes.io/service-name: web}}
    addressType: IPv4
    ports: [{name: http, port: 8080, protocol: TCP}]
    endpoints: [{addresses: [\(endpoint)], nodeName: node-y, conditions: {ready: true}}]

    """
  }

  @Test("KP-20 KP-21 KP-22 KP-23 HTTP from a pod and from the node reaches the endpoint; SIGTERM leaves nothing")
  func http() throws {
    let test = try TestCluster("ebpf", EBPFAgentTests.nodes)
    defer { test.lab.cleanUp() }
    let group = try test.lab.controlGroup()
    try test.cluster.configureNodes("ebpf: required")
    let (client, server) = (test.a.pods[1], test.b.pods[0])
    try test.cluster.write("web.yaml", service(endpoint: "\(server.ipv4)"))
    let agents = try [test.a, test.b].map { try startAgent(test, $0, group: group) }
    for (node, agent) in zip([test.a, test.b], agents) { try test.cluster.waitUntilReady(node, agent) }
    for pod in test.cluster.pods where pod.attachment == .tap { try test.cluster.configure(pod) }
    try server.namespace.ip("link set lo up")
    // (`python3 -m http.server` asks for its own name before it listens, which takes long where nobody answers.)
    _ = try server.namespace.spawn(
      "/usr/bin/python3", "-c",
      """
      import socket
      s = socket.create_server(("\(server.ipv4)", 8080))
      while True:
          c, _ = s.accept()
          c.recv(4096)
          c.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
          c.close()
      """)
    try waitUntil("the server") {
      try server.namespace.run("ss", "-Hlnt").standardOutput.contains(":8080")
    }

    func get(_ space: Namespace, _ address: String) throws -> String {
      try test.lab.runUnchecked([
        "nsenter", "--net=\(space.path)", "/bin/sh", "-c",
        "echo $$ > \(group)/cgroup.procs && exec curl -s -m 5 -o /dev/null -w '%{http_code} %{remote_ip}' http://\(address)/",
      ]).standardOutput
    }
    for space in [client.namespace, test.a.namespace] {
      #expect(try get(space, "10.96.0.10") == "200 10.96.0.10")
      #expect(try get(space, "192.0.2.10") == "200 192.0.2.10")
      #expect(try get(space, "192.0.2.20") == "200 192.0.2.20")
      #expect(try get(space, "\(test.a.ipv4):30080") == "200 \(test.a.ipv4)")
    }
    let services = try kalsae(test, "ebpf", "dump", "services", "--node", test.a.name).standardOutput
    #expect(services.contains("10.96.0.10") && services.contains("\(server.ipv4):8080"))
    #expect(
      try kalsae(test, "ebpf", "dump", "flows", "--node", test.a.name).standardOutput.contains("192.0.2.20:80"))
    let status = try kalsae(test, "ebpf", "status", "--node", test.a.name).standardOutput
    #expect(status.contains("sock_lb/connect4") && status.contains("attached"))

    // A change of the cluster is followed: its endpoint goes, and connections are refused at once (KP-30).
    try test.cluster.write(
      "web.yaml", service(endpoint: "\(server.ipv4)").replacing("ready: true", with: "ready: false"))
    try waitUntil("the service to be without endpoints") {
      try get(client.namespace, "10.96.0.10").hasPrefix("000")
    }
    // Switched off while it runs.
    try test.cluster.configureNodes("ebpf: 'off'")
    try waitUntil("it to be taken out") {
      try !kalsae(test, "ebpf", "status", "--node", test.a.name).standardOutput.contains("  attached")
    }
    #expect(try kalsae(test, "ebpf", "unload", "--node", test.a.name).standardOutput == "nothing was loaded\n")
    try test.cluster.configureNodes("ebpf: auto", "ebpfHooks: [connect4]")
    try waitUntil("it to be loaded again") {
      try kalsae(test, "ebpf", "status", "--node", test.a.name).standardOutput
        .contains("switched off: left to user space")
    }
    for agent in agents { agent.signal(SIGTERM) }
    for agent in agents { #expect(try agent.wait(timeout: .seconds(10)).status == .exited(0)) }
    for node in [test.a, test.b] {
      #expect(try kalsae(test, "ebpf", "unload", "--node", node.name).standardOutput == "nothing was loaded\n")
    }
  }

  @Test("An agent that starts takes the kernel's policy out: it decides itself")
  func takeover() throws {
    let test = try TestCluster("ebpfpol", EBPFAgentTests.nodes)
    defer { test.lab.cleanUp() }
    defer { _ = try? kalsae(test, "ebpf", "unload", "--node", test.a.name) }
    let group = try test.lab.controlGroup()
    try test.cluster.configureNodes("ebpf: auto", "ebpfHooks: [policy]")
    let loaded = try test.lab.run([
      "nsenter", "--net=\(test.a.namespace.path)", try builtProgram("kalsae"), "ebpf", "load", "--state",
      test.cluster.state, "--node", test.a.name, "--cgroup", group,
    ]).standardOutput
    #expect(loaded == "loaded: no services; policy at 1 devices by 0 rules\n")
    func isEnforced() throws -> Bool {
      try kalsae(test, "ebpf", "status", "--node", test.a.name).standardOutput.contains("attached to 1 devices")
    }
    #expect(try isEnforced())
    let agent = try startAgent(test, test.a, group: group)
    try waitUntil("the agent to take it out") { try !isEnforced() }
    agent.signal(SIGTERM)
    #expect(try agent.wait(timeout: .seconds(10)).status == .exited(0))
    #expect(try kalsae(test, "ebpf", "unload", "--node", test.a.name).standardOutput == "nothing was loaded\n")
  }

  @Test("Required, but not to be had: the agent does not start, and says why")
  func required() throws {
    let test = try TestCluster("ebpfno", EBPFAgentTests.nodes)
    defer { test.lab.cleanUp() }
    try test.cluster.configureNodes("ebpf: required")
    let agent = try startAgent(test, test.a, group: "/tmp")
    #expect(try agent.wait(timeout: .seconds(20)).status == .exited(1))
    #expect(test.cluster.logText(of: test.a).contains("/tmp is no control group of version 2"))
  }

  @Test("Required while packets come by AF_XDP: the agent does not start, and says what to do")
  func requiredBesideXDP() throws {
    let test = try TestCluster("ebpfxdp", EBPFAgentTests.nodes)
    defer { test.lab.cleanUp() }
    try test.cluster.configureNodes("ebpf: required", "ebpfHooks: [overlay]", "ports: af_xdp")
    let agent = try startAgent(test, test.a, group: test.lab.controlGroup())
    #expect(try agent.wait(timeout: .seconds(20)).status == .exited(1))
    #expect(test.cluster.logText(of: test.a).contains("because ports is af_xdp; set it to af_packet"))
  }

  @Test("Loaded without an agent, shown, and unloaded without a trace")
  func commands() throws {
    let test = try TestCluster("ebpfcmd", EBPFAgentTests.nodes)
    defer { test.lab.cleanUp() }
    defer { _ = try? kalsae(test, "ebpf", "unload", "--node", test.a.name) }
    let group = try test.lab.controlGroup()
    try test.cluster.write("web.yaml", service(endpoint: "10.244.1.2"))
    func load() throws -> String {
      try test.lab.run([
        "nsenter", "--net=\(test.a.namespace.path)", try builtProgram("kalsae"), "ebpf", "load", "--state",
        test.cluster.state, "--node", test.a.name, "--cgroup", group,
      ]).standardOutput
    }
    let loaded = try load()
    // The node's network namespace and that of the TAP pod; the other pod's manifest names none.
    #expect(
      loaded == "loaded: 1 service ports, 4 frontends, 1 endpoints; 2 network namespaces; 10 of 10 hooks; "
        + "packets of 2 devices; policy at 1 devices by 0 rules\n")
    #expect(try kalsae(test, "ebpf", "status", "-o", "json").standardOutput.contains("\"node\" : \"node-x\""))
    let pod = test.a.pods[0].namespace
    let rules = try kalsae(test, "ebpf", "dump", "policy", "--node", test.a.name).standardOutput
    #expect(rules.contains("everybody"), "\(rules)")
    // NODE-4: what the kernel drops is shown where an agent's drops are.
    try pod.ip("addr add 10.99.0.1/32 dev eth0")
    try pod.ip("neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0")
    _ = try pod.run("ping", "-c", "1", "-W", "1", "-I", "10.99.0.1", "10.244.2.2")
    let drops = try kalsae(test, "drops", "--node", test.a.name).standardOutput
    #expect(drops.contains("sourceAddress") && drops.contains("10.99.0.1 > 10.244.2.2"), "\(drops)")
    try test.cluster.configureNodes("ebpfHooks: [policy]")
    #expect(try load() == "loaded: no services; policy at 1 devices by 0 rules\n")
    try test.cluster.configureNodes("ebpfHooks: [connect4]")
    #expect(try load().contains("1 of 10 hooks\n"))
    #expect(try kalsae(test, "ebpf", "dump", "policy", "--node", test.a.name).standardOutput.contains("10.") == false)
    #expect(
      try kalsae(test, "ebpf", "unload", "--node", test.a.name).standardOutput == "unloaded: node node-x\n")
    #expect(try kalsae(test, "ebpf", "dump", "flows", "--node", test.a.name).status == .exited(66))
    #expect(
      try kalsae(test, "ebpf", "load", "--state", "/nowhere", "--node", "x").status == .exited(66))
  }
}
