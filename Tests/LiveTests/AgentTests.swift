import Addresses
import Glibc
import Lab
import Testing

/// An agent's life: what it takes from the host and gives back, what it follows, and what it refuses.
@Suite("Agent", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct AgentTests {
  /// What of an agent can be seen in a node's namespace: devices, filters, routes, neighbours.
  private func traces(_ node: Cluster.Node) throws -> String {
    let commands = [
      ["ip", "-br", "link"], ["ip", "route", "show", "table", "all"], ["ip", "-6", "route", "show", "table", "all"],
      ["ip", "neigh", "show", "nud", "permanent"], ["tc", "qdisc", "show"],
      ["tc", "filter", "show", "dev", "eth0", "ingress"],
      ["tc", "filter", "show", "dev", "kala1", "ingress"], ["ip", "rule"], ["ip", "-6", "rule"],
      ["cat", "/proc/sys/net/ipv4/ip_local_reserved_ports"],
    ]
    return try commands.map { try node.namespace.run($0).standardOutput }.joined(separator: "--\n")
  }

  /// The pod's device, which the kernel may write with another flag while its peer comes and goes, is not compared.
  private func stop(_ child: Child, _ signal: Int32 = SIGTERM) throws -> ProcessResult {
    child.signal(signal)
    return try child.wait(timeout: .seconds(10))
  }

  @Test("SIGTERM gives everything back; a new agent takes up where the old one left", arguments: [SIGTERM, SIGINT])
  func restart(signal: Int32) throws {
    let test = try TestCluster("restart")
    defer { test.lab.cleanUp() }
    try test.a.namespace.run("tc", "qdisc", "show").check()
    var plan = Cluster.ServicePlan("web", [IPAddress("10.96.0.10")!, IPAddress("fd00:10:96::10")!], [test.b.pods[0]])
    plan.nodePort = 30080
    try test.cluster.write(plan)
    let before = try traces(test.a)
    let agents = try test.start()
    #expect(try traces(test.a) != before)
    #expect(try test.a.namespace.devices().contains("kalsae0"))
    let rules = try test.a.namespace.run("ip", "rule").standardOutput
    #expect(rules.contains("dport 30080 lookup 107") && rules.contains("dport 61000-65534 lookup 107"))
    let (from, to) = (test.a.pods, test.b.pods)
    #expect(try from[0].namespace.ping("\(to[0].ipv4)", count: 1).isComplete)

    #expect(try stop(agents[0], signal).status == .exited(0))
    #expect(try traces(test.a) == before)
    #expect(unsafe access(test.cluster.socket(of: test.a), F_OK) != 0)
    #expect(try from[0].namespace.ping("\(to[0].ipv4)", count: 1, wait: .milliseconds(300)).received == 0)

    let again = try test.cluster.startAgent(of: test.a)
    try test.cluster.waitUntilReady(test.a, again)
    // The TAP pod's device, addresses and routes are still there.
    for pod in from { #expect(try pod.namespace.ping("\(to[1].ipv4)", count: 2).isComplete, "\(pod.name)") }
  }

  @Test("NODE-3: after SIGKILL the host stays quiet, and a new agent takes over")
  func killed() throws {
    let test = try TestCluster("killed")
    defer { test.lab.cleanUp() }
    let agents = try test.start()
    let (from, to) = (test.b.pods[0], test.a.pods[0])
    #expect(try from.namespace.ping("\(to.ipv4)", count: 1).isComplete)
    _ = try stop(agents[0], SIGKILL)
    let file = try test.path("quiet.pcap")
    let capture = try test.a.namespace.capture(on: "eth0", to: file)
    _ = try from.namespace.ping("\(to.ipv4)", count: 2, interval: .milliseconds(50), wait: .milliseconds(300))
    _ = try capture.stop()
    #expect(try PacketCheck.count(in: file, filter: "icmp.type == 8") == 2)
    try expectNoRefusal(file)
    #expect(try PacketCheck.count(in: file, filter: "icmp.type == 3") == 0)
    let again = try test.cluster.startAgent(of: test.a)
    try test.cluster.waitUntilReady(test.a, again)
    #expect(try from.namespace.ping("\(to.ipv4)", count: 2).isComplete)
  }

  @Test("manifests are followed: pods come and go, a broken file keeps the last good state and is named")
  func liveChanges() throws {
    let test = try TestCluster("live")
    defer { test.lab.cleanUp() }
    try test.start()
    let (a, b) = (test.a.pods, test.b.pods)
    func ping() throws -> Bool {
      try a[0].namespace.ping("\(b[0].ipv4)", count: 1, wait: .milliseconds(300)).isComplete
    }
    #expect(try ping())
    try test.cluster.remove("pod-b1.yaml")
    try waitUntil("the pod to be gone") { try !ping() }
    try test.cluster.write("pod-b1.yaml", test.cluster.manifest(of: b[0]))
    try waitUntil("the pod to be back") { try ping() }

    try test.cluster.write("pools.yaml", "apiVersion: projectcalico.org/v3\nkind: IPPool\nspec: {cidr: [}\n")
    try waitUntil("the agent to complain") { test.cluster.logText(of: test.a).contains("pools.yaml:3:") }
    #expect(try ping())
    #expect(try test.cluster.ask("status", test.a).contains("pools.yaml:3:"))
    try test.cluster.setMode(.vxlan)
    #expect(test.cluster.logText(of: test.a).contains("resolved: "))
    #expect(try ping())
    #expect(!(try test.cluster.ask("status", test.a).contains("pools.yaml:3:")))
  }

  @Test("a pod's interface that comes later, or goes and comes back, is attached")
  func lateInterface() throws {
    let test = try TestCluster("late")
    defer { test.lab.cleanUp() }
    let pod = test.a.pods[0]
    try test.a.namespace.ip("link del \(pod.interface!)")
    try test.b.namespace.setDown("eth0")
    let agents = try test.cluster.nodes.map { try test.cluster.startAgent(of: $0) }
    try waitUntil("the agent to wait") { test.cluster.logText(of: test.a).contains("waiting for its interface") }
    for _ in 0..<2 {
      try test.lab.veth(
        Endpoint(test.a.namespace, pod.interface!), Endpoint(pod.namespace, "eth0", mac: pod.mac))
      try test.cluster.configure(pod)
      try test.cluster.waitUntilReady(test.a, agents[0])
      try test.b.namespace.setUp("eth0")
      try test.cluster.waitUntilReady(test.b, agents[1])
      try waitUntil("the pod to answer") {
        try pod.namespace.ping("\(test.b.pods[0].ipv4)", count: 1, wait: .milliseconds(300)).isComplete
      }
      try pod.namespace.ip("link del eth0")
      try waitUntil("the agent to notice") { try sum(of: "attachedPods", in: test.cluster.ask("status", test.a)) == 1 }
    }
  }

  @Test("devices that somebody removes are made or taken again: the underlay, kalsae0")
  func removedDevices() throws {
    let test = try TestCluster("removed")
    defer { test.lab.cleanUp() }
    try test.start()
    let (from, to) = (test.a.pods[0], test.b.pods[0])
    func ping() throws -> Bool {
      try from.namespace.ping("\(to.ipv4)", count: 1, wait: .milliseconds(300)).isComplete
    }
    #expect(try ping())
    try test.a.namespace.ip("link del eth0")
    try waitUntil("the agent to notice") { test.cluster.logText(of: test.a).contains("waiting for a device") }
    #expect(try !ping())
    try test.lab.veth(
      Endpoint(test.a.namespace, "eth0", addresses: ["\(test.a.ipv4)/24"]),
      Endpoint(test.b.namespace, "eth0", addresses: ["\(test.b.ipv4)/24"]))
    try waitUntil("the nodes to meet again") { try ping() }
    try test.a.namespace.ip("link del kalsae0")
    try waitUntil("the host to reach a pod again") {
      try test.a.namespace.ping("\(to.ipv4)", count: 1, wait: .milliseconds(300)).isComplete
    }
    #expect(try from.namespace.ping("\(test.a.ipv4)", count: 1).isComplete)
  }

  @Test("get, flows and drops show in words and in JSON what the agent has")
  func commands() throws {
    let test = try TestCluster("commands")
    defer { test.lab.cleanUp() }
    try test.start()
    let (from, to) = (test.a.pods[0], test.b.pods[0])
    #expect(try from.namespace.ping("\(to.ipv4)", count: 2).isComplete)
    #expect(try from.namespace.ping("10.244.0.99", count: 1, wait: .milliseconds(200)).received == 0)
    let program = try builtProgram("kalsae")
    let socket = test.cluster.socket(of: test.a)
    func show(_ arguments: String...) throws -> String {
      try test.lab.run([program] + arguments + ["--socket", socket]).standardOutput
    }
    #expect(try show("get", "status").contains("Pods      2 of 2 attached\n"))
    let ports = try show("get", "ports", "-o", "wide").split(separator: "\n")
    #expect(ports.count == 5)
    #expect(ports.contains { $0.hasPrefix("kala1") && $0.contains("demo/a1") && $0.contains("\(from.mac)") })
    let pods = try show("get", "pods")
    #expect(pods.contains("demo       a1    10.244.0.2,fd00:10:244::2  veth  kala1"))
    let routes = try show("get", "routes")
    #expect(routes.contains("10.244.0.2/32"))
    #expect(routes.contains("eth0 to node-b (10.0.0.2)"))
    #expect(try show("get", "hops").contains("resolved"))
    #expect(try show("get", "peers").contains("node-b  10.0.0.2"))
    #expect(try show("get", "neighbours").contains("reachable"))
    let flows = try show("flows", "--address", "\(to.ipv4)", "--protocol", "icmp")
    #expect(flows.contains("icmp") && flows.contains("established"))
    #expect(try show("flows", "--protocol", "sctp").split(separator: "\n").count == 1)
    let drops = try show("drops")
    #expect(drops.contains("blackhole"))
    #expect(drops.contains("IP 10.244.0.2 > 10.244.0.99: icmp type 8 code 0"))
    for topic in ["status", "ports", "pods", "routes", "hops", "peers", "neighbours"] {
      let json = try show("get", topic, "-o", "json")
      try test.lab.run(["python3", "-c", "import json, sys; json.load(sys.stdin)"], input: json)
      #expect(json.hasPrefix("{\"\(topic)\":"))
    }
  }

  @Test("NODE-6: the pods' MTU follows the underlay's")
  func underlayMTU() throws {
    let test = try TestCluster("mtu")
    defer { test.lab.cleanUp() }
    try test.start()
    try test.cluster.setMode(.vxlan)
    for node in test.cluster.nodes { try node.namespace.setMTU(1400, of: "eth0") }
    try waitUntil("the agent to follow") { try sum(of: "podMTU", in: test.cluster.ask("status", test.a)) == 1350 }
    #expect(try test.a.namespace.run("cat", "/sys/class/net/kalsae0/mtu").standardOutput == "1350\n")
    // The TAP pod's device is the agent's own.
    try waitUntil("the TAP device to follow") {
      try test.a.pods[1].namespace.run("cat", "/sys/class/net/eth0/mtu").standardOutput == "1350\n"
    }
    try test.cluster.setPodMTU(1450)
    let ping = try test.a.pods[0].namespace.ping("\(test.b.pods[0].ipv4)", count: 1, size: 1400, dontFragment: true)
    #expect(ping.reportedMTU == 1350)
  }

  @Test("packets wait for a neighbour that must be asked for; a dead one is reported to the sender")
  func neighbours() throws {
    let test = try TestCluster("neigh")
    defer { test.lab.cleanUp() }
    let agents = try test.start()
    let from = test.a.pods[0]
    #expect(try from.namespace.ping("\(test.b.pods[0].ipv4)", count: 1).isComplete)
    // Whoever flushes the table loses no packet.
    for _ in 0..<3 {
      try test.a.namespace.ip("neigh flush dev eth0")
      #expect(try from.namespace.ping("\(test.b.pods[0].ipv4)", count: 2, interval: .milliseconds(10)).isComplete)
    }
    // Another machine takes over the address.
    try test.b.namespace.setMAC(MACAddress("02:00:00:00:00:99")!, of: "eth0")
    _ = try stop(agents[1])
    let again = try test.cluster.startAgent(of: test.b)
    try test.cluster.waitUntilReady(test.b, again)
    try test.b.namespace.run("arping", "-c", "1", "-U", "-I", "eth0", "\(test.b.ipv4)").check()
    try waitUntil("the new address to be used") {
      try from.namespace.ping("\(test.b.pods[0].ipv4)", count: 1, wait: .milliseconds(300)).isComplete
    }
    try test.b.namespace.ip("link set eth0 arp off", "neigh flush dev eth0")
    try test.a.namespace.ip("neigh flush dev eth0")
    let dead = try from.namespace.ping("\(test.b.pods[0].ipv4)", count: 8, interval: .milliseconds(700))
    #expect(dead.received == 0)
    #expect(dead.output.contains("Destination Host Unreachable"))
  }

  @Test("refusals name what is wrong, what to do, and exit with their code")
  func refusals() throws {
    let test = try TestCluster("refuse", [.init("a", pods: []), .init("b", pods: [])])
    defer { test.lab.cleanUp() }
    try test.start()
    let program = try builtProgram("kalsae")
    func run(_ arguments: [String]) throws -> ProcessResult {
      try test.a.namespace.run([program, "run"] + arguments, timeout: .seconds(20))
    }
    let socket = test.cluster.socket(of: test.a)
    let twice = try run(["--state", test.cluster.state, "--node", "node-a", "--socket", socket])
    #expect(twice.status == .exited(75))
    #expect(twice.standardError.contains("runs already"))
    // Under another socket the device gives it away.
    let device = try run(["--state", test.cluster.state, "--node", "node-a", "--socket", try test.path("other.sock")])
    #expect(device.status == .exited(75))
    #expect(device.standardError.contains("kalsae0"))
    let unknown = try run(["--state", test.cluster.state, "--node", "node-z", "--socket", try test.path("z.sock")])
    #expect(unknown.status == .exited(66))
    #expect(unknown.standardError.contains("node-a, node-b"))
    let nowhere = try run(["--state", "/nonexistent", "--node", "node-a", "--socket", try test.path("n.sock")])
    #expect(nowhere.status == .exited(66))
    #expect(nowhere.standardError.contains("/nonexistent"))
    let user = try test.a.namespace.run(
      "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", program, "run", "--state", "/", "--node", "a"
    )
    #expect(user.status == .exited(77))
    #expect(user.standardError.contains("root"))
    let none = try test.lab.runUnchecked([program, "get", "status", "--socket", try test.path("none.sock")])
    #expect(none.status == .exited(69))
    // Nothing of all that has hurt the agent that runs.
    #expect(try test.cluster.ask("status", test.a).contains("\"node\":\"node-a\""))
  }

  @Test("the local API survives what is no request, and those who never finish one")
  func hostileClients() throws {
    let test = try TestCluster("api", [.init("a", pods: []), .init("b", pods: [])])
    defer { test.lab.cleanUp() }
    try test.start()
    let socket = test.cluster.socket(of: test.a)
    let script = """
      import socket, sys, time
      def say(data):
          s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])
          try:
              s.sendall(data)
          except BrokenPipeError: pass
          got = b''
          try:
              while True:
                  part = s.recv(65536)
                  if not part: break
                  got += part
          except ConnectionResetError: pass
          return got
      for data in [b'\\n', b'{}\\n', b'null\\n', b'[' * 4000 + b'\\n', b'\\xff\\xfe\\n', b'{"topic":"x"}\\n',
                   b'{"topic":"flows","limit":-5}\\n', b'{"topic":"flows","address":"x"}\\n', b'{"topic":7}\\n',
                   b'{"topic":"flows","limit":1e99}\\n']:
          assert say(data).endswith(b'\\n'), data
      assert b'at most' in say(b'a' * 100000)
      idle = []
      for i in range(40):
          s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); idle.append(s)
      time.sleep(6.5)
      assert b'node-a' in say(b'{"topic":"status"}\\n')
      print('done')
      """
    let result = try test.lab.run(["python3", "-c", script, socket], timeout: .seconds(40))
    #expect(result.standardOutput == "done\n")
    let mode = try test.lab.run(["stat", "-c", "%a", socket]).standardOutput
    #expect(mode == "600\n")
    let user = try test.lab.runUnchecked([
      "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", try builtProgram("kalsae"), "get", "status",
      "--socket", socket,
    ])
    #expect(user.status == .exited(77))
  }

  @Test("an idle agent costs next to nothing")
  func idle() throws {
    let test = try TestCluster("idle")
    defer { test.lab.cleanUp() }
    let agents = try test.start()
    #expect(try test.a.pods[0].namespace.ping("\(test.b.pods[0].ipv4)", count: 1).isComplete)
    /// Clock ticks (hundredths of a second) of user and system time.
    func ticks() throws -> Int {
      let text = try test.lab.run(["cat", "/proc/\(agents[0].pid)/stat"]).standardOutput
      let fields = text.split(separator: " ")
      return (Int(fields[13]) ?? 0) + (Int(fields[14]) ?? 0)
    }
    usleep(300_000)
    let before = try ticks()
    usleep(3_000_000)
    let used = try ticks() - before
    #expect(used <= 9, "\(used) hundredths of a second in three seconds")
  }

  @Test("systemd is told when the agent is ready, reloads and stops; SIGHUP reads and reports")
  func serviceManager() throws {
    let test = try TestCluster("notify", [.init("a", pods: []), .init("b", pods: [])])
    defer { test.lab.cleanUp() }
    // Systemd's side: prints each message's first line.
    let script = """
      import socket, sys
      s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(sys.argv[1])
      print('listening', flush=True)
      while True: print(s.recv(4096).decode().split('\\n')[0], flush=True)
      """
    let socket = try test.path("notify.sock")
    let systemd = try test.lab.spawn(["python3", "-c", script, socket])
    try waitUntil("the listener") { systemd.standardOutput.contains("listening") }
    let agent = try test.a.namespace.spawn(
      "env", "NOTIFY_SOCKET=\(socket)", try builtProgram("kalsae"), "run", "--state", test.cluster.state, "--node",
      "node-a", "--socket", test.cluster.socket(of: test.a), "--data", test.cluster.data(of: test.a),
      log: test.cluster.log(of: test.a))
    try waitUntil("READY") { systemd.standardOutput.contains("READY=1") }
    try test.cluster.write("broken.yaml", "kind: Pod\n")
    try waitUntil("the complaint") { test.cluster.logText(of: test.a).contains("broken.yaml") }
    agent.signal(SIGHUP)
    try waitUntil("READY again") { systemd.standardOutput.hasSuffix("RELOADING=1\nREADY=1\n") }
    #expect(test.cluster.logText(of: test.a).contains("manifests read again: 0 changes, 1 problems"))
    #expect(try stop(agent).status == .exited(0))
    try waitUntil("STOPPING") { systemd.standardOutput.hasSuffix("STOPPING=1\n") }
  }
}
