import Addresses
import Glibc
import Lab
import Testing

/// Established flows are carried in the kernel, between agents that decide them.
@Suite(
  "Flows in the kernel, live", .serialized, .enabled(if: Lab.isAvailable, "needs root"), .timeLimit(.minutes(5)))
struct KernelOffloadLiveTests {
  /// What is loaded belongs to a node's name, on the whole machine: other tests' agents have other names.
  private static let nodes: [Cluster.NodePlan] = [.init("v", pods: [.veth, .veth]), .init("w", pods: [.veth])]

  /// A cluster whose agents run, and a stream of TCP from its first pod to the last.
  private final class Streams {
    let test: TestCluster
    private(set) var agents: [Child] = []
    var from: Cluster.Pod { test.a.pods[0] }
    var to: Cluster.Pod { test.b.pods[0] }

    /// What the kernel is taken not to have.
    private let without: String

    /// Whether each agent has mounts, and so a BPF file system, of its own.
    private let hasOwnMounts: Bool

    init(
      _ name: String, _ mode: Cluster.Mode, offload: Bool = true, settings: [String] = [], without: String = "",
      hasOwnMounts: Bool = false
    ) throws {
      self.without = without
      self.hasOwnMounts = hasOwnMounts
      test = try TestCluster(name, KernelOffloadLiveTests.nodes, offload: offload)
      do {
        try test.cluster.configureNodes(
          ["ebpf: required", "ebpfHooks: [overlay]", "serviceCIDRs: [10.96.0.0/16]"] + settings)
        agents = hasOwnMounts ? try test.cluster.start() : try [test.a, test.b].map { try start($0) }
        try test.cluster.setMode(mode)
      } catch {
        test.lab.cleanUp()
        throw error
      }
    }

    deinit {
      test.lab.cleanUp()
      unload([test.a, test.b])
    }

    func kalsae(_ arguments: String...) throws -> ProcessResult {
      try test.lab.runUnchecked(["env", "KALSAE_EBPF_WITHOUT=\(without)", try builtProgram("kalsae")] + arguments)
    }

    /// Not by `Namespace.spawn`, whose programs have a /sys of their own: what is pinned would go with them.
    func start(_ node: Cluster.Node) throws -> Child {
      let agent = try test.lab.spawn(
        [
          "nsenter", "--net=\(node.namespace.path)", "env", "KALSAE_EBPF_WITHOUT=\(without)",
          try builtProgram("kalsae"), "run", "--state", test.cluster.state, "--node", node.name, "--socket",
          test.cluster.socket(of: node), "--data", test.cluster.data(of: node),
        ], log: test.cluster.log(of: node))
      try test.cluster.waitUntilReady(node, agent)
      return agent
    }

    /// The packets that a node's kernel has carried.
    func carried(_ node: Cluster.Node) throws -> Int {
      let agent = hasOwnMounts ? agents[node.name == test.a.name ? 0 : 1] : nil
      let inside = agent.map { ["nsenter", "--mount", "--target", "\($0.pid)"] } ?? []
      let text = try test.lab.runUnchecked(
        inside + [
          "env", "KALSAE_EBPF_WITHOUT=\(without)", builtProgram("kalsae"), "ebpf", "status", "--node", node.name,
        ]
      ).standardOutput
      let line = text.split(separator: "\n").first { $0.split(separator: " ").dropFirst().first == "carried" }
      return line.flatMap { Int($0.split(separator: " ")[0]) } ?? 0
    }

    /// Sends without end from one pod to an address; small pieces, so that packets do not become rare.
    func stream(to address: IPAddress, port: Int = 8080) throws {
      _ = try to.namespace.spawn(
        "/usr/bin/python3", "-c",
        """
        import socket, threading
        def read(c):
            while c.recv(65536): c.send(b"y")
        s = socket.create_server(("\(to.ipv4)", 8080))
        while True: threading.Thread(target=read, args=(s.accept()[0],)).start()
        """)
      try waitUntil("the server") { try to.namespace.run("ss", "-Hlnt").standardOutput.contains(":8080") }
      _ = try from.namespace.spawn(
        "/usr/bin/python3", "-c",
        """
        import socket, time
        s = socket.create_connection(("\(address)", \(port)))
        s.setblocking(False)
        while True:
            try: s.send(b"x" * 1000)
            except BlockingIOError: pass
            try: s.recv(65536)
            except BlockingIOError: pass
            time.sleep(0.002)
        """)
    }

    /// The octets that the server has got.
    func received() throws -> Int {
      let text = try to.namespace.run("ss", "-Hnti").standardOutput
      return text.ranges(of: "bytes_received:").reduce(0) { total, range in
        total + (Int(text[range.upperBound...].prefix { $0.isNumber }) ?? 0)
      }
    }

    func expectGoesOn(_ text: String) throws {
      let before = try received()
      try waitUntil("the stream to go on: \(text)") { try received() > before + 100_000 }
    }

    /// The stream goes on, and the kernel carries it on both nodes.
    func expectCarried(_ text: String) throws {
      try expectGoesOn(text)
      for node in [test.a, test.b] {
        let before = try carried(node)
        try waitUntil("\(node.name) to carry packets: \(text)") { try carried(node) > before + 50 }
      }
    }
  }

  @Test(
    "TUN-1 TUN-2 TUN-3 TUN-4 TUN-9 Octets arrive intact by flows in the kernel, as super-frames and cut, and count as theirs",
    arguments: Cluster.Mode.allCases)
  func intact(_ mode: Cluster.Mode) throws {
    for offload in [true, false] {
      let streams = try Streams("carry\(mode.rawValue.prefix(3))\(offload ? 1 : 0)", mode, offload: offload)
      let (a, b) = (streams.test.a, streams.test.b)
      let payload = try Payload(byteCount: 8 << 20)
      for (from, to) in [(a.pods[0], b.pods[0]), (b.pods[0], a.pods[1]), (a.pods[0], a.pods[1])] {
        let result = try streams.test.lab.transfer(
          payload, from: from.namespace, to: to.namespace, address: .v4(to.ipv4))
        #expect(result.received.sha256 == payload.sha256)
      }
      #expect(try streams.carried(a) > 100 && streams.carried(b) > 100)
      // What the kernel carried is in the flows' own counts.
      let flows = try streams.test.cluster.ask("flows", a)
      #expect(sum(of: "octets", in: flows) + sum(of: "replyOctets", in: flows) > 3 * payload.byteCount, "\(flows)")
      #expect(try streams.kalsae("ebpf", "status", "--node", a.name).standardOutput.contains("attached to 3 devices"))
    }
  }

  @Test("TUN-9 Without tunnelOffload no super-frame goes into a tunnel whole, by the kernel neither")
  func cut() throws {
    let streams = try Streams("carrycut", .vxlan, settings: ["tunnelOffload: false"])
    let (a, b) = (streams.test.a, streams.test.b)
    let file = try streams.test.path("wire.pcap")
    let capture = try a.namespace.capture(on: "eth0", to: file, limit: 3000)
    try streams.test.lab.transfer(
      Payload(byteCount: 8 << 20), from: a.pods[0].namespace, to: b.pods[0].namespace, address: .v4(b.pods[0].ipv4))
    _ = try? capture.stop()
    #expect(try PacketCheck.count(in: file, filter: "frame.len > 2000") == 0)
    // What is no super-frame is carried all the same.
    #expect(try streams.carried(a) > 0)
  }

  @Test("A policy cuts an established flow that the kernel carries at once, and its end lets it go on")
  func policy() throws {
    let streams = try Streams("carrypol", .vxlan)
    try streams.stream(to: .v4(streams.to.ipv4))
    try streams.expectCarried("at first")
    // Both directions: an acknowledgement that the server still sends would be a new connection of its own.
    try streams.test.cluster.write(
      "deny.yaml",
      """
      apiVersion: networking.k8s.io/v1
      kind: NetworkPolicy
      metadata: {name: deny, namespace: demo}
      spec: {podSelector: {}, policyTypes: [Ingress, Egress]}

      """)
    try streams.test.cluster.settle()
    let before = try streams.received()
    usleep(300_000)
    #expect(try streams.received() == before)
    try streams.test.cluster.remove("deny.yaml")
    try streams.test.cluster.settle()
    try streams.expectCarried("without the policy")
  }

  @Test("KP-20 A connection to a service is carried in the kernel, both ways")
  func service() throws {
    let streams = try Streams("carrysvc", .vxlan)
    let address = IPAddress("10.96.0.10")!
    try streams.test.cluster.write(Cluster.ServicePlan("web", [address], [streams.to]))
    try streams.test.cluster.settle()
    try streams.stream(to: address, port: 80)
    try streams.expectCarried("to a service")
  }

  @Test("KP-51 an endpoint goes while the kernel carries its flows: TCP goes on, datagrams reach those that are left")
  func endpoint() throws {
    let streams = try Streams("carryend", .vxlan)
    let test = streams.test
    let other = test.a.pods[1]
    var web = Cluster.ServicePlan("web", [IPAddress("10.96.0.10")!], [streams.to])
    var dns = Cluster.ServicePlan("dns", [IPAddress("10.96.0.11")!], [streams.to])
    dns.transport = "UDP"
    for plan in [web, dns] { try test.cluster.write(plan) }
    try test.cluster.settle()
    try streams.stream(to: web.clusterIPs[0], port: 80)
    let (before, after) = (try Datagrams(test, streams.to), try Datagrams(test, other))
    _ = try streams.from.namespace.spawn(
      "/usr/bin/python3", "-c",
      """
      import socket, time
      s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
      s.bind(("", 5000))
      while True:
          try: s.sendto(b"x", ("10.96.0.11", 80))
          except OSError: pass
          time.sleep(0.002)
      """)
    try streams.expectCarried("at first")
    try before.expectMore()
    web.endpoints = [other]
    dns.endpoints = [other]
    for plan in [web, dns] { try test.cluster.write(plan) }
    try test.cluster.settle()
    let count = try before.count()
    try after.expectMore()
    #expect(try before.count() == count, "datagrams to an endpoint that went")
    try streams.expectCarried("TCP to an endpoint that went")
  }

  /// Somebody who counts and answers the datagrams to a pod's port 8080.
  private struct Datagrams {
    let file: String

    init(_ test: TestCluster, _ pod: Cluster.Pod) throws {
      file = try test.path("\(pod.name).count")
      _ = try pod.namespace.spawn(
        "/usr/bin/python3", "-c",
        """
        import os, socket
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("", 8080))
        f = os.open("\(file)", os.O_RDWR | os.O_CREAT)
        n = 0
        while True:
            os.pwrite(f, b"%12d" % n, 0)
            d, a = s.recvfrom(2048)
            s.sendto(d, a)
            n += 1
        """)
      let file = file
      try waitUntil("the server of datagrams") { unsafe access(file, R_OK) == 0 }
    }

    func count() throws -> Int {
      var text = [UInt8](repeating: 0, count: 12)
      let descriptor = unsafe open(file, O_RDONLY)
      defer { close(descriptor) }
      let length = unsafe read(descriptor, &text, text.count)
      return Int(String(decoding: text[..<max(0, length)], as: UTF8.self).filter(\.isNumber)) ?? 0
    }

    func expectMore() throws {
      let before = try count()
      try waitUntil("more datagrams") { try count() > before + 50 }
    }
  }

  @Test(
    "An agent that is killed leaves its flows going; the next takes over; SIGTERM and unload leave nothing; also without tcx",
    arguments: ["", "tcx"])
  func killed(without: String) throws {
    let streams = try Streams("carrykill", .vxlan, without: without)
    func filters(_ node: Cluster.Node) throws -> String {
      try node.namespace.run("tc", "filter", "show", "dev", "eth0", "ingress").check().standardOutput
    }
    try streams.stream(to: .v4(streams.to.ipv4))
    try streams.expectCarried("at first")
    for agent in streams.agents {
      agent.signal(SIGKILL)
      _ = try agent.wait(timeout: .seconds(10))
    }
    try streams.expectCarried("without agents")
    let nodes = [streams.test.a, streams.test.b]
    for node in nodes { #expect(try filters(node).contains("overlay_carry") == (without == "tcx")) }
    let agents = try nodes.map { try streams.start($0) }
    try streams.expectCarried("with new agents")
    // Unloaded while they run: user space carries on, until the next change loads it again.
    #expect(try streams.kalsae("ebpf", "unload", "--node", nodes[0].name).standardOutput == "unloaded: node node-v\n")
    try streams.expectGoesOn("unloaded")
    #expect(try !filters(nodes[0]).contains("overlay_carry"), "by another network namespace's processes too")
    try streams.test.cluster.settle()
    try streams.expectCarried("loaded again")
    for agent in agents { agent.signal(SIGTERM) }
    for agent in agents { #expect(try agent.wait(timeout: .seconds(10)).status == .exited(0)) }
    for node in nodes {
      #expect(try streams.kalsae("ebpf", "unload", "--node", node.name).standardOutput == "nothing was loaded\n")
      #expect(unsafe access("/sys/fs/bpf/kalsae/\(node.name)", F_OK) != 0)
      #expect(try !node.namespace.run("tc", "qdisc", "show").check().standardOutput.contains("clsact"))
    }
  }

  @Test("What is pinned may be lost with its file system, as with a mount namespace: no packet is while the agent runs")
  func pinsLost() throws {
    let streams = try Streams("carrypins", .vxlan, hasOwnMounts: true)
    try streams.stream(to: .v4(streams.to.ipv4))
    try streams.expectCarried("at first")
    for agent in streams.agents {
      let unmount = ["nsenter", "--mount", "--target", "\(agent.pid)", "umount", "--lazy", "/run/kalsae/bpf"]
      #expect(try streams.test.lab.runUnchecked(unmount).isSuccess)
    }
    try streams.expectGoesOn("without what was pinned")
    try streams.test.cluster.settle()
    try streams.expectCarried("loaded again")
  }
}
