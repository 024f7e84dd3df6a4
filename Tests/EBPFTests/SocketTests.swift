import Addresses
import Dataplane
import Glibc
import Lab
import Testing

@testable import EBPF

/// Why these tests are skipped elsewhere.
private let reason: Comment = "needs root, network namespaces, cgroup2 and a kernel with BPF at control groups"
private let isPossible =
  Lab.isAvailable && Lab.controlGroupRoot != nil && KernelSupport.probe().missing.isEmpty

/// Real programs with real sockets in namespaces and a control group of their own.
@Suite("Services at the socket", .enabled(if: isPossible, reason))
struct SocketTests {
  @Test("KP-20 KP-21 KP-22 KP-23 connections of pods and of the node reach endpoints by every kind of frontend")
  func frontends() throws {
    let lab = try SocketLab("front")
    defer { lab.cleanUp() }
    try lab.serve()
    let web = lab.service("web", [SocketLab.endpoint(1)])
    lab.frontend(.clusterIP, SocketLab.clusterIP, 80, to: web)
    lab.frontend(.externalIP, SocketLab.externalIP, 80, to: web)
    lab.frontend(.loadBalancer, SocketLab.loadBalancer, 80, to: web)
    lab.frontend(.nodePort, nil, 30080, to: web)
    let web6 = lab.service("web6", [SocketLab.endpoint6(2)])
    lab.frontend(.clusterIP, SocketLab.clusterIP6, 80, to: web6)
    lab.tables.addNodePortAddress(SocketLab.nodeIP)
    try lab.sync()
    for (space, client, client6) in [(lab.node, "192.168.7.1", "fd00:7::1"), (lab.pod, "10.7.0.5", "fd00:7::5")] {
      let said = try lab.python(
        space,
        """
        print(tcp("10.96.0.10", 80, show=True))
        print(tcp("192.0.2.10", 80, show=True))
        print(tcp("192.0.2.20", 80, show=True))
        print(tcp("192.168.7.1", 30080, show=True))
        print(tcp("fd00:96::10", 80, show=True))
        print(tcp("::ffff:10.96.0.10", 80))
        print(tcp("10.7.1.3", 8080, show=True))
        """)
      #expect(
        said == """
          10.7.1.1 8080 \(client) 10.96.0.10 80
          10.7.1.1 8080 \(client) 192.0.2.10 80
          10.7.1.1 8080 \(client) 192.0.2.20 80
          10.7.1.1 8080 \(client) 192.168.7.1 30080
          fd00:8::2 8080 \(client6) fd00:96::10 80
          10.7.1.1 8080 \(client)
          10.7.1.3 8080 \(client) 10.7.1.3 8080
          """)
    }
    #expect(EBPFDump.services(node: lab.name).count == 5)
    #expect(EBPFDump.flows(node: lab.name, limit: 100).contains { $0.service == "192.168.7.1:30080" })
  }

  @Test("Sockets of other network namespaces, and of other control groups, are left alone")
  func others() throws {
    let lab = try SocketLab("others")
    defer { lab.cleanUp() }
    try lab.serve()
    let web = lab.service("web", [SocketLab.endpoint(1)])
    lab.frontend(.clusterIP, SocketLab.clusterIP, 80, to: web)
    try lab.sync()
    #expect(try lab.python(lab.far, "print(tcp('10.96.0.10', 80, timeout=0.3))").contains("8080") == false)
    let outside = try lab.pod.run(
      "/usr/bin/python3", "-c",
      "import socket; s=socket.socket(); s.settimeout(0.3)\ntry: s.connect(('10.96.0.10',80)); print('in')\nexcept OSError: print('out')"
    )
    #expect(outside.standardOutput == "out\n")
  }

  @Test("KP-30 KP-37 nobody can serve: refused at once, as by a reset")
  func refusals() throws {
    let lab = try SocketLab("refuse")
    defer { lab.cleanUp() }
    let empty = lab.service("empty", [])
    lab.frontend(.clusterIP, SocketLab.clusterIP, 80, to: empty)
    try lab.sync()
    let said = try lab.python(
      lab.pod,
      """
      print(tcp("10.96.0.10", 80))
      print(tcp("10.96.0.10", 81))
      """)
    #expect(said == "ECONNREFUSED\nECONNREFUSED")
    let counters = EBPFReport.read(node: lab.name).counters
    #expect(counters.first { $0.name == "rejectedNoEndpoint" }?.count == 1)
    #expect(counters.first { $0.name == "rejectedNoServicePort" }?.count == 1)
  }

  @Test("KP-31 KP-33 KP-38 local policies and source ranges hold as on packets")
  func policies() throws {
    let lab = try SocketLab("policy")
    defer { lab.cleanUp() }
    try lab.serve()
    let web = lab.service("web", [SocketLab.endpoint(1), SocketLab.endpoint(2)], local: [SocketLab.endpoint(2)])
    let far = lab.service("far", [SocketLab.endpoint(1)])
    // internalTrafficPolicy Local: the endpoint of this node alone; where there is none, left to be dropped.
    lab.frontend(.clusterIP, SocketLab.clusterIP, 80, to: web, isLocal: true)
    lab.frontend(.clusterIP, SocketLab.clusterIP, 81, to: far, isLocal: true)
    // externalTrafficPolicy Local: pods and the node itself may use all (KP-33).
    lab.frontend(.externalIP, SocketLab.externalIP, 81, to: far, isLocal: true)
    // KP-38: pods too; the node counts as the address itself.
    lab.frontend(.loadBalancer, SocketLab.loadBalancer, 80, to: far, ranges: [IPPrefix("10.7.0.0/24")!])
    lab.frontend(.loadBalancer, SocketLab.loadBalancer, 81, to: far, ranges: [IPPrefix("192.0.2.0/24")!])
    try lab.sync()
    let script = """
      print({tcp("10.96.0.10", 80) for _ in range(12)})
      for a, p in (("10.96.0.10", 81), ("192.0.2.10", 81), ("192.0.2.20", 80), ("192.0.2.20", 81)):
          print("served" if "8080" in tcp(a, p, timeout=0.3) else "left")
      """
    #expect(try lab.python(lab.pod, script) == "{'10.7.1.2 8080 10.7.0.5'}\nleft\nserved\nserved\nleft")
    #expect(try lab.python(lab.node, script) == "{'10.7.1.2 8080 192.168.7.1'}\nleft\nserved\nleft\nserved")
    let counters = EBPFReport.read(node: lab.name).counters
    #expect(counters.first { $0.name == "leftNoLocalEndpoint" }?.count == 2)
    #expect(counters.first { $0.name == "leftSourceRange" }?.count == 2)
  }

  @Test("KP-15 new connections are spread over all endpoints; KP-50 a client with affinity keeps its endpoint")
  func choice() throws {
    let lab = try SocketLab("choice")
    defer { lab.cleanUp() }
    try lab.serve()
    let all = (1...3).map { SocketLab.endpoint($0) }
    let spread = lab.service("spread", all)
    lab.frontend(.clusterIP, SocketLab.clusterIP, 80, to: spread)
    let sticky = lab.service("sticky", all, affinity: 100)
    lab.frontend(.clusterIP, SocketLab.clusterIP, 81, to: sticky)
    // All frontends of a port share what is remembered.
    lab.frontend(.externalIP, SocketLab.externalIP, 81, to: sticky)
    try lab.sync()
    let counts = try lab.python(
      lab.pod,
      """
      import collections
      c = collections.Counter(tcp("10.96.0.10", 80).split()[0] for _ in range(300))
      print(len(c), min(c.values()) > 60)
      """)
    #expect(counts == "3 True")
    let sticking = """
      print(" ".join(sorted({tcp(a, 81).split()[0] for a in ("10.96.0.10", "192.0.2.10") for _ in range(20)})))
      """
    let first = try lab.python(lab.pod, sticking)
    #expect(first.split(separator: " ").count == 1)
    // Another agent of the node takes over, with tables of its own: clients stay.
    lab.balancer = nil
    try lab.sync()
    #expect(try lab.python(lab.pod, sticking) == first)
    // Its endpoint goes: picked anew.
    lab.tables.updateService(
      sticky,
      ServicePort(
        name: "test/sticky:web", cluster: all.filter { "\($0.address)" != first }, local: [], affinity: 100))
    try lab.sync()
    let second = try lab.python(lab.pod, sticking)
    #expect(second.split(separator: " ").count == 1 && second != first)
  }

  @Test("KP-51 datagrams: a socket keeps its endpoint while that is there; answers come from the service")
  func datagrams() throws {
    let lab = try SocketLab("udp")
    defer { lab.cleanUp() }
    try lab.serve()
    let all = (1...3).map { SocketLab.endpoint($0) }
    let dns = lab.service("dns", all)
    lab.frontend(.clusterIP, SocketLab.clusterIP, 53, to: dns, transport: 17)
    let dns6 = lab.service("dns6", [SocketLab.endpoint6(3)])
    lab.frontend(.clusterIP, SocketLab.clusterIP6, 53, to: dns6, transport: 17)
    try lab.sync()
    let answer = try lab.python(
      lab.pod,
      """
      seen = set()
      for turn in range(8):
          s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
          texts = set()
          for _ in range(6):
              s.sendto(b"x", ("10.96.0.10", 53))
              text, peer = s.recvfrom(100)
              texts.add((text.decode().split()[0], peer))
          assert len(texts) == 1, texts
          seen |= texts
      print(len(seen) > 1, {p for _, p in seen})
      s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
      s.connect(("10.96.0.10", 53)); s.send(b"x"); s.recv(100)
      print(s.getpeername())
      s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(2)
      s.sendto(b"x", ("fd00:96::10", 53)); t, p = s.recvfrom(100); print(t.decode(), p[0], p[1])
      s.sendto(b"x", ("::ffff:10.96.0.10", 53)); t, p = s.recvfrom(100); print(p[0], p[1])
      """)
    #expect(
      answer == """
        True {('10.96.0.10', 53)}
        ('10.96.0.10', 53)
        fd00:8::3 8080 fd00:7::5 fd00:96::10 53
        ::ffff:10.96.0.10 53
        """)
    // The endpoint of a flow goes while the socket is in use.
    let gate = "/tmp/\(lab.name).gate"
    defer { unsafe unlink(gate) }
    let client = try lab.lab.spawn(
      lab.entering(
        lab.pod,
        """
        exec /usr/bin/python3 -c '
        import socket, os, time, errno
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
        def ask():
            s.sendto(b"x", ("10.96.0.10", 53)); return s.recvfrom(100)[0].decode().split()[0]
        first = ask()
        while True:
            c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.settimeout(2)
            c.connect(("10.96.0.10", 53)); c.send(b"x")
            if c.recv(100).decode().split()[0] == first: break
        d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.settimeout(2)
        d.connect((first, 8080))
        print(first, flush=True)
        for _ in range(500):
            if os.path.exists("\(gate)"): break
            time.sleep(0.02)
        print(ask(), flush=True)
        try: c.send(b"x"); c.recv(100); print("answered")
        except OSError as e: print(errno.errorcode[e.errno])
        d.send(b"x"); print("direct", d.recv(100).decode().split()[0] == first)
        '
        """))
    let first = try waitFor("the first answer") { client.standardOutput.split(separator: "\n").first.map(String.init) }
    lab.tables.updateService(
      dns, ServicePort(name: "test/dns:web", cluster: all.filter { "\($0.address)" != first }, local: []))
    try lab.sync()
    _ = try lab.lab.run(["touch", gate])
    let end = try client.wait(timeout: .seconds(15))
    let answers = end.standardOutput.split(separator: "\n").map(String.init)
    #expect(answers.count == 4 && answers[0] != answers[1], "\(end.standardError)")
    // A connected socket is told; one that was connected to the endpoint itself is none of ours.
    // The kernel says so with the next receive, or with the next send, which finds the socket connected to nothing.
    #expect(["ECONNABORTED", "EDESTADDRREQ"].contains(answers.dropFirst(2).first), "\(answers)")
    #expect(answers.last == "direct True")
  }

  @Test("KP-24 KP-34 loopback of a pod is its own, and what must be masqueraded is left to the packet path")
  func leftAlone() throws {
    let lab = try SocketLab("left")
    defer { lab.cleanUp() }
    try lab.serve()
    let web = lab.service("web", [SocketLab.endpoint(1)])
    lab.frontend(.clusterIP, SocketLab.clusterIP, 80, to: web)
    lab.frontend(.nodePort, nil, 30080, to: web)
    lab.tables.addNodePortAddress(IPAddress("127.0.0.1")!)
    try lab.sync()
    #expect(try lab.python(lab.node, "print(tcp('127.0.0.1', 30080))") == "10.7.1.1 8080 192.168.7.1")
    #expect(try lab.python(lab.pod, "print(tcp('127.0.0.1', 30080))") == "ECONNREFUSED")
    // A socket that is bound to the loopback device can reach nobody else.
    #expect(
      try lab.python(lab.node, "print(tcp('127.0.0.1', 30080, bind=('127.0.0.1', 0), timeout=0.3))") == "ECONNREFUSED")
    var namespaces = lab.namespaces
    for (key, space) in namespaces where space.role == .pod { namespaces[key]!.foreign = [.ipv4] }
    try lab.balancer?.set(namespaces)
    #expect(try lab.python(lab.pod, "print(tcp('10.96.0.10', 80, timeout=0.3))").contains("8080") == false)
    #expect(EBPFReport.read(node: lab.name).counters.first { $0.name == "leftMasquerade" }?.count == 1)
  }

  @Test("Programs of the node cannot listen on a NodePort; pods and other ports are free")
  func nodePortProtection() throws {
    let lab = try SocketLab("bind")
    defer { lab.cleanUp() }
    let web = lab.service("web", [SocketLab.endpoint(1)])
    lab.frontend(.nodePort, nil, 30080, to: web)
    lab.tables.addNodePortAddress(SocketLab.nodeIP)
    try lab.sync()
    let script = """
      def bind(family, kind, address, port):
          s = socket.socket(family, kind)
          try: s.bind((address, port)); return "bound"
          except OSError as e: return errno.errorcode[e.errno]
      print(bind(socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", 30080), bind(socket.AF_INET6, socket.SOCK_STREAM, "::", 30080),
        bind(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", 30080), bind(socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0", 30080),
        bind(socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", 30081), bind(socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", 0))
      """
    #expect(try lab.python(lab.node, script) == "EADDRINUSE EADDRINUSE bound bound bound bound")
    #expect(try lab.python(lab.pod, script) == "bound bound bound bound bound bound")
  }

  @Test("Connections made while endpoints change reach an old or a new one, and never fail")
  func changesUnderLoad() throws {
    let lab = try SocketLab("load")
    defer { lab.cleanUp() }
    try lab.serve()
    let sets = [[1, 2], [2, 3], [1, 3], [1], [2], [3]].map { $0.map { SocketLab.endpoint($0) } }
    let gate = "/tmp/\(lab.name).gate"
    defer { unsafe unlink(gate) }
    let web = lab.service("web", sets[0])
    lab.frontend(.clusterIP, SocketLab.clusterIP, 80, to: web)
    try lab.sync()
    let client = try lab.lab.spawn(
      lab.entering(
        lab.pod,
        """
        exec /usr/bin/python3 -c '
        import socket, collections, os
        c = collections.Counter()
        for _ in range(60000):
            if os.path.exists("\(gate)"): break
            s = socket.socket(); s.settimeout(3)
            try: s.connect(("10.96.0.10", 80)); c[s.recv(100).decode().split()[0]] += 1
            except OSError as e: c[str(e)] += 1
            s.close()
        print(sorted(c))
        '
        """))
    for turns in 1...40 {
      lab.tables.updateService(
        web, ServicePort(name: "test/web:web", cluster: sets[turns % sets.count], local: []))
      // Other services come and go, so that places are used again.
      let other = lab.service("other\(turns % 7)", [ServicePort.Endpoint(IPAddress("203.0.113.9")!, 9)])
      lab.frontend(.clusterIP, IPAddress("10.96.1.\(turns % 200 + 1)")!, 80, to: other)
      try lab.sync()
      lab.tables.removeFrontend(
        Frontend(.clusterIP, address: IPAddress("10.96.1.\(turns % 200 + 1)")!, family: .ipv4, transport: 6, port: 80))
      lab.tables.removeService(other)
    }
    _ = try lab.lab.run(["touch", gate])
    let end = try client.wait(timeout: .seconds(30))
    #expect(end.standardOutput == "['10.7.1.1', '10.7.1.2', '10.7.1.3']\n", "\(end.standardError)")
  }

  @Test("Switched off and missing hooks are left to user space, and said; unloading leaves nothing")
  func degradation() throws {
    let lab = try SocketLab("off")
    defer { lab.cleanUp() }
    try lab.serve()
    lab.options.hooks.remove(.recvmsg4)
    lab.options.hooks.remove(.connect6)
    let web = lab.service("web", [SocketLab.endpoint(1)])
    lab.frontend(.clusterIP, SocketLab.clusterIP, 80, to: web)
    let web6 = lab.service("web6", [SocketLab.endpoint6(1)])
    lab.frontend(.clusterIP, SocketLab.clusterIP6, 80, to: web6)
    try lab.sync()
    let lines = EBPFReport.read(node: lab.name).hooks
    func state(_ hook: String) -> String? { lines.first { $0.hook == "sock_lb/\(hook)" }?.state }
    #expect(state("connect4") == "attached")
    #expect(state("connect6") == "switched off: left to user space")
    #expect(state("recvmsg4") == "switched off: left to user space")
    // Answers would come from an address that the program never wrote to.
    #expect(state("sendmsg4") == "of no use without recvmsg4: left to user space")
    #expect(try lab.python(lab.pod, "print(tcp('10.96.0.10', 80))") == "10.7.1.1 8080 10.7.0.5")
    #expect(try lab.python(lab.pod, "print(tcp('fd00:96::10', 80, timeout=0.3))").contains("8080") == false)
    // Switched on again, by another agent that takes over.
    lab.options.hooks = Set(Hook.allCases)
    lab.balancer = nil
    try lab.sync()
    func hooks() -> [EBPFReport.HookLine] {
      EBPFReport.read(node: lab.name).hooks.filter { $0.hook.hasPrefix("sock_lb/") }
    }
    #expect(hooks().allSatisfy { $0.state == "attached" })
    #expect(try lab.python(lab.pod, "print(tcp('fd00:96::10', 80))") == "fd00:8::1 8080 fd00:7::5")
    let folder = PinFolder(node: lab.name)
    #expect(SocketBalancer.unload(node: lab.name))
    #expect(!folder.exists)
    #expect(hooks().allSatisfy { $0.state.hasPrefix("not attached") })
    #expect(try lab.python(lab.pod, "print(tcp('10.96.0.10', 80, timeout=0.3))").contains("8080") == false)
    #expect(SocketBalancer.unload(node: lab.name) == false)
  }

  @Test("What a kernel cannot do is planned around: user space does it, never something wrong")
  func plans() {
    var support = KernelSupport.probe()
    support.missing[.recvmsg6] = "Invalid argument"
    let plan = support.plan(wanted: Set(Hook.allCases))
    #expect(plan[.recvmsg6] == .off("the kernel cannot: Invalid argument"))
    #expect(plan[.sendmsg6] == .off("of no use without recvmsg6"))
    #expect(plan[.connect6] == .use)
  }
}
