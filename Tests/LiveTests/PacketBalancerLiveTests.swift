import Addresses
import Glibc
import Lab
import Testing

/// Services that the kernel serves on packets while no data plane runs.
///
///     pods a, b, c ── node (10.9.0.1) ── outside (10.9.0.100)
@Suite(
  "Services without user space, live", .serialized,
  .enabled(if: Lab.isAvailable && Lab.controlGroupRoot != nil, "needs root and cgroup2"), .timeLimit(.minutes(5)))
struct PacketBalancerLiveTests {
  @Test(
    "KP-20 KP-22 KP-23 KP-32 KP-34 KP-35 HTTP by ClusterIP, NodePort and load balancer address, both families, with nobody running; unload leaves nothing",
    arguments: ["", "tcx"])
  func http(without: String) throws {
    let site = try Site("lbhttp")
    try site.serve([1])
    try site.startServers([0, 1])
    let loaded = try site.load(without: without)
    #expect(loaded.contains("packets of 4 devices"), "\(loaded)")
    func filters() throws -> String {
      try site.node.run("tc", "filter", "show", "dev", "pod0", "ingress").check().standardOutput
    }
    #expect(try filters().contains("tc_lb") == (without == "tcx"))
    let (a, outside) = (site.pods[0], site.outside)
    // A pod is seen as itself.
    #expect(try site.get(a, "10.96.0.10") == "b 10.244.1.2")
    #expect(try site.get(a, "[fd00:96::10]") == "b fd00:1::2")
    // Whoever comes from outside is masqueraded.
    #expect(try site.get(outside, "10.9.0.1:30080") == "b 10.9.0.1")
    #expect(try site.get(outside, "[fd00:9::1]:30080") == "b fd00:9::1")
    #expect(try site.get(outside, "10.9.1.20") == "b 10.9.0.1")
    #expect(try site.get(outside, "[fd00:91::20]") == "b fd00:9::1")
    // So is a pod by those, and one that calls itself.
    #expect(try site.get(a, "10.9.1.20") == "b 10.9.0.1")
    #expect(try site.get(site.pods[1], "10.96.0.10") == "b 10.9.0.1")
    let status = try site.kalsae("ebpf", "status", "--node", site.name).standardOutput
    #expect(status.contains("tc_lb/ingress") && status.contains("attached to 4 devices"))
    let flows = try site.kalsae("ebpf", "dump", "flows", "--node", site.name).standardOutput
    #expect(flows.contains("10.96.0.10:80") && flows.contains("10.244.1.3:8080"), "\(flows)")

    let numbers = try site.pinned()
    #expect(numbers.contains { $0.hasPrefix("link") } && numbers.contains { $0.hasPrefix("map") })
    #expect(try site.alive(numbers) == numbers)
    #expect(try site.kalsae("ebpf", "unload", "--node", site.name).standardOutput == "unloaded: node \(site.name)\n")
    try waitUntil("the kernel to give everything back") { try site.alive(numbers).isEmpty }
    #expect(try site.pinned().isEmpty)
    #expect(try !site.node.run("tc", "qdisc", "show").check().standardOutput.contains("clsact"))
    #expect(try site.get(outside, "10.9.0.1:30080") == "failed")
  }

  @Test(
    "NP-3 NP-4 NP-6 NP-7 a NetworkPolicy holds with nobody running, by links and by filters of traffic control",
    arguments: ["", "tcx"])
  func policy(without: String) throws {
    let site = try Site("lbpolicy")
    try site.serve([])
    try site.startServers([1])
    try site.write(
      "policy.yaml",
      """
      apiVersion: networking.k8s.io/v1
      kind: NetworkPolicy
      metadata: {name: some, namespace: demo}
      spec:
        podSelector: {}
        policyTypes: [Ingress]
        ingress: [{from: [{ipBlock: {cidr: 10.244.1.2/32}}], ports: [{port: 8080}]}]

      """)
    let (a, b, c) = (site.pods[0], "10.244.1.3:8080", site.pods[2])
    #expect(try site.load(without: without).contains("policy at 3 devices"))
    #expect(try site.get(a, b) == "b 10.244.1.2")
    #expect(try site.get(c, b) == "failed")
    #expect(try site.get(a, "[fd00:1::3]:8080") == "failed")
    #expect(try site.get(site.node, b).hasPrefix("b "))
    #expect(try site.get(site.node, "[fd00:1::3]:8080").hasPrefix("b "))
    let status = try site.kalsae("ebpf", "status", "--node", site.name).standardOutput
    #expect(status.contains("policyIngress"))
    let line = status.split(separator: "\n").first { $0.hasPrefix("policy/pods") } ?? ""
    #expect(line.contains("attached to 3 devices"), "\(status)")
    let rules = try site.kalsae("ebpf", "dump", "policy", "--node", site.name).standardOutput
    #expect(rules.contains("10.244.1.2/32") && rules.contains("tcp 8080"), "\(rules)")
    let drops = try site.kalsae("drops", "--node", site.name).standardOutput
    #expect(drops.contains("10.244.1.4") && drops.contains("policyIngress"), "\(drops)")
    // A hook that is switched off goes.
    try site.write(
      "mode.yaml",
      """
      apiVersion: kalsae.io/v1alpha1
      kind: NodeConfiguration
      metadata: {name: \(site.name)}
      spec: {ebpfHooks: [tc_lb]}

      """)
    _ = try site.load(without: without)
    try waitUntil("the programs to be off") { try site.get(c, b) == "b 10.244.1.4" }
    let numbers = try site.pinned()
    #expect(try site.kalsae("ebpf", "unload", "--node", site.name).standardOutput == "unloaded: node \(site.name)\n")
    try waitUntil("the kernel to give everything back") { try site.alive(numbers).isEmpty }
    #expect(try !site.node.run("tc", "qdisc", "show").check().standardOutput.contains("clsact"))
  }

  @Test("KP-30 KP-37 nobody runs: connections that nobody takes are refused at once, TCP and UDP")
  func refused() throws {
    let site = try Site("lbrefuse")
    try site.serve([])
    try site.startServers([1])
    try site.write(
      "dns.yaml",
      """
      apiVersion: v1
      kind: Service
      metadata: {name: dns, namespace: demo}
      spec:
        clusterIP: 10.96.0.11
        clusterIPs: [10.96.0.11, "fd00:96::11"]
        ipFamilyPolicy: RequireDualStack
        ipFamilies: [IPv4, IPv6]
        ports: [{name: dns, port: 53, protocol: UDP}]

      """)
    func tried(_ space: Namespace, _ transport: String, _ address: String) throws -> String {
      try space.run(
        "/usr/bin/python3", "-c",
        """
        import socket, sys
        host, port = sys.argv[2].rsplit(":", 1)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # A long datagram, an odd one, an empty one: each is quoted.
        for size in (1400, 7, 0):
            s = socket.socket(family, socket.SOCK_DGRAM if sys.argv[1] == "udp" else socket.SOCK_STREAM)
            s.settimeout(3)
            try:
                s.connect((host, int(port)))
                s.send(b"x" * size)
                s.recv(100)
                end = "served"
            except OSError as error: end = error.__class__.__name__
            if end != "ConnectionRefusedError": break
        print(end, end="")
        """, transport, address
      ).standardOutput
    }
    _ = try site.load()
    let (a, outside) = (site.pods[0], site.outside)
    for (space, transport, address) in [
      (a, "tcp", "10.96.0.10:80"), (a, "tcp", "fd00:96::10:80"), (a, "tcp", "10.96.0.10:81"),
      (a, "udp", "10.96.0.11:53"), (a, "udp", "fd00:96::11:53"), (a, "udp", "10.96.0.11:54"),
      (a, "udp", "fd00:96::11:54"), (outside, "tcp", "10.9.1.20:80"), (outside, "tcp", "fd00:91::20:80"),
      (outside, "tcp", "10.9.0.1:30080"),
    ] {
      #expect(try tried(space, transport, address) == "ConnectionRefusedError", "\(transport) \(address)")
    }
    let status = try site.kalsae("ebpf", "status", "--node", site.name).standardOutput
    #expect(status.contains("noServicePort"))
    // Somebody comes: the same connections are served.
    try site.serve([1])
    _ = try site.load()
    #expect(try site.get(a, "10.96.0.10") == "b 10.244.1.2")
  }

  @Test("KP-51 while endpoints change every connection reaches an old or a new one")
  func update() throws {
    let site = try Site("lbupdate")
    try site.serve([1])
    try site.startServers([1, 2])
    _ = try site.load()
    #expect(try site.get(site.outside, "10.9.0.1:30080") == "b 10.9.0.1")
    let client = try site.outside.spawn(
      "/usr/bin/python3", "-c",
      """
      import socket, collections
      seen = collections.Counter()
      print("ready", flush=True)
      import time
      end = time.monotonic() + 6
      while time.monotonic() < end:
          # So that no endpoint sees the port of a connection again that it still remembers (TIME-WAIT): there are 4,535.
          time.sleep(0.005)
          try:
              s = socket.create_connection(("10.9.0.1", 30080), 2)
              s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
              text = b""
              while True:
                  part = s.recv(4096)
                  if not part: break
                  text += part
              s.close()
              seen[text.split(b"\\r\\n\\r\\n")[1][:1].decode()] += 1
          except Exception as e: seen[repr(e)] += 1
      print("seen", sorted(seen), sum(seen.values()), flush=True)
      """)
    try waitUntil("the client") { client.standardOutput.contains("ready") }
    for turn in 0..<4 {
      try site.serve(turn % 2 == 0 ? [2] : [1])
      _ = try site.load()
    }
    try waitUntil("the client to end", timeout: .seconds(20)) { client.standardOutput.contains("seen") }
    #expect(client.standardOutput.contains("seen ['b', 'c']"), "\(client.standardOutput)")
  }

  @Test("In front of the underlay's device too, where that is asked for, and taken away with a setting")
  func early() throws {
    let site = try Site("lbxdp")
    try site.serve([1])
    try site.startServers([1])
    func configure(_ hooks: String) throws {
      try site.write(
        "hooks.yaml",
        """
        apiVersion: kalsae.io/v1alpha1
        kind: NodeConfiguration
        metadata: {name: \(site.name)}
        spec: {ebpfHooks: [\(hooks)]}

        """)
    }
    func status() throws -> String { try site.kalsae("ebpf", "status", "--node", site.name).standardOutput }
    func line(_ hook: String) throws -> Substring {
      try status().split(separator: "\n").first { $0.hasPrefix(hook) } ?? ""
    }
    try configure("tc_lb, xdp_lb")
    _ = try site.load()
    let text = try status()
    #expect(try line("xdp_lb/xdp").contains("attached to 1 devices"), "\(text)")
    #expect(try site.get(site.outside, "10.9.0.1:30080") == "b 10.9.0.1")
    #expect(try site.get(site.outside, "[fd00:91::20]") == "b fd00:9::1")
    try configure("tc_lb")
    _ = try site.load()
    #expect(try line("xdp_lb/xdp").contains("switched off: left to user space"))
    #expect(try line("tc_lb/ingress").contains("attached to 4 devices"))
    try configure("connect4")
    _ = try site.load()
    #expect(try line("tc_lb/ingress").contains("switched off: left to user space"))
    #expect(try site.get(site.outside, "10.9.0.1:30080") == "failed")
    try configure("tc_lb")
    _ = try site.load()
    #expect(try site.get(site.outside, "10.9.0.1:30080") == "b 10.9.0.1")
  }

  @Test("RFC 2003: directly, an endpoint gets the client's packets whole and answers itself")
  func direct() throws {
    let site = try Site("lbdsr")
    try site.serve([1], port: 8080)
    try site.write(
      "mode.yaml",
      """
      apiVersion: kalsae.io/v1alpha1
      kind: NodeConfiguration
      metadata: {name: \(site.name)}
      spec: {loadBalancerMode: dsr}

      """)
    let pod = site.pods[1]
    // As from a machine's own device: with checksums that are finished.
    try site.outside.setOffloads(false, of: "eth0")
    // What an endpoint needs for it: the service's address, and somebody who unwraps.
    try pod.addAddress("10.9.1.20/32", to: "lo")
    let unwrap = try pod.spawn(
      "/usr/bin/python3", "-c",
      """
      import fcntl, os, socket, struct, subprocess
      device = os.open("/dev/net/tun", os.O_RDWR)
      fcntl.ioctl(device, 0x400454ca, struct.pack("16sH", b"direct", 0x1001))
      subprocess.run(["ip", "link", "set", "direct", "up"], check=True)
      wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
      print("ready", flush=True)
      while True: os.write(device, wire.recv(65536)[20:])
      """)
    try waitUntil("somebody to unwrap") { unwrap.standardOutput.contains("ready") }
    for device in ["all", "direct", "eth0"] { try pod.sysctl("net/ipv4/conf/\(device)/rp_filter", "0") }
    for device in ["all", "pod1"] { try site.node.sysctl("net/ipv4/conf/\(device)/rp_filter", "0") }
    try site.startServers([1], address: "10.9.1.20")
    _ = try site.load()
    #expect(try site.get(site.outside, "10.9.1.20:8080") == "b 10.9.0.100")
  }

  @Test("KP-20 KP-23 While an agent runs the programs stand by; when it is killed they serve, until the next one runs")
  func killed() throws {
    let test = try TestCluster(
      "lbkill", [.init("lbk", pods: [.veth, .veth]), .init("lbl", pods: [.veth])], offload: true)
    defer { test.lab.cleanUp() }
    func kalsae(_ arguments: String...) throws -> ProcessResult {
      try test.lab.runUnchecked([try builtProgram("kalsae")] + arguments)
    }
    defer { for node in [test.a, test.b] { _ = try? kalsae("ebpf", "unload", "--node", node.name) } }
    let group = try test.lab.controlGroup()
    try test.cluster.configureNodes("ebpf: auto", "ebpfHooks: [tc_lb]", "serviceCIDRs: [10.96.0.0/16]")
    func start(_ node: Cluster.Node) throws -> Child {
      let agent = try test.lab.spawn(
        [
          "nsenter", "--net=\(node.namespace.path)", try builtProgram("kalsae"), "run", "--state", test.cluster.state,
          "--node", node.name, "--socket", test.cluster.socket(of: node), "--data", test.cluster.data(of: node),
          "--cgroup", group,
        ], log: test.cluster.log(of: node))
      try test.cluster.waitUntilReady(node, agent)
      return agent
    }
    let (client, server) = (test.a.pods[0], test.a.pods[1])
    try test.cluster.write(Cluster.ServicePlan("web", [IPAddress("10.96.0.10")!], [server]))
    var agents = try [test.a, test.b].map(start)
    try test.cluster.settle()
    _ = try server.namespace.spawn(
      "/usr/bin/python3", "-c",
      """
      import socket
      s = socket.create_server(("\(server.ipv4)", 8080))
      while True:
          c, peer = s.accept()
          c.recv(4096)
          c.sendall(f"HTTP/1.0 200 OK\\r\\nContent-Length: {len(peer[0])}\\r\\n\\r\\n{peer[0]}".encode())
          c.close()
      """)
    try waitUntil("the server") { try server.namespace.run("ss", "-Hlnt").standardOutput.contains(":8080") }
    func get() throws -> String {
      try client.namespace.run("curl", "-s", "-m", "3", "http://10.96.0.10/").standardOutput
    }
    func count(_ counter: String) throws -> Int {
      let text = try kalsae("ebpf", "status", "--node", test.a.name).standardOutput
      let line = text.split(separator: "\n").first { $0.split(separator: " ").dropFirst().first == counter[...] }
      return line.flatMap { Int($0.split(separator: " ")[0]) } ?? -1
    }
    #expect(try get() == "\(client.ipv4)")
    #expect(try count("forwarded") == 0)
    agents[0].signal(SIGKILL)
    _ = try agents[0].wait(timeout: .seconds(10))
    for _ in 0..<3 { #expect(try get() == "\(client.ipv4)") }
    #expect(try count("forwarded") > 0)
    agents[0] = try start(test.a)
    #expect(try get() == "\(client.ipv4)")
    // With maps of its own.
    #expect(try count("forwarded") == 0)
    // Unloaded while the agent runs it is back with the next change, and stands by.
    _ = try kalsae("ebpf", "unload", "--node", test.a.name)
    #expect(try get() == "\(client.ipv4)")
    try test.cluster.write(Cluster.ServicePlan("other", [IPAddress("10.96.0.11")!], [server]))
    try test.cluster.settle()
    #expect(try kalsae("ebpf", "status", "--node", test.a.name).standardOutput.contains("attached to 3 devices"))
    #expect(try get() == "\(client.ipv4)")
    #expect(try count("forwarded") == 0)
    for agent in agents { agent.signal(SIGTERM) }
    for agent in agents { #expect(try agent.wait(timeout: .seconds(10)).status == .exited(0)) }
    #expect(try kalsae("ebpf", "unload", "--node", test.a.name).standardOutput == "nothing was loaded\n")
  }
}
