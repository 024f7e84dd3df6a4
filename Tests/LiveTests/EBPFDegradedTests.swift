import Addresses
import Glibc
import Lab
import Testing

/// What is switched off, or what the kernel has not, user space does: the same traffic, hook by hook.
@Suite(
  "Without some of the kernel's help", .serialized,
  .enabled(if: Lab.isAvailable && Lab.controlGroupRoot != nil, "needs root and cgroup2"), .timeLimit(.minutes(5)))
struct EBPFDegradedTests {
  private static let services = ["10.96.0.10", "fd00:96::10"].map { IPAddress($0)! }
  private static let echo = ["10.96.0.12", "fd00:96::12"].map { IPAddress($0)! }
  private static let empty = ["10.96.0.11", "fd00:96::11"].map { IPAddress($0)! }

  /// Two nodes, a server of TCP and UDP in a pod of the second, and clients on the first: a pod whose sockets are looked
  /// after, one whose packets are, and the node itself.
  private final class Site {
    let test: TestCluster
    let group: String
    private(set) var agents: [Child] = []

    init(_ name: String, without: String = "") throws {
      test = try TestCluster(name, [.init("\(name)x"), .init("\(name)y")])
      do {
        group = try test.lab.controlGroup()
        try configure(EBPFDegradedTests.all)
        var web = Cluster.ServicePlan("web", EBPFDegradedTests.services, [test.b.pods[0]])
        web.nodePort = 30080
        try test.cluster.write(web)
        var datagrams = Cluster.ServicePlan("echo", EBPFDegradedTests.echo, [test.b.pods[0]])
        datagrams.transport = "UDP"
        try test.cluster.write(datagrams)
        try test.cluster.write(Cluster.ServicePlan("empty", EBPFDegradedTests.empty, []))
        agents = [try start(test.a, without: without), try start(test.b)]
        for pod in test.cluster.pods where pod.attachment == .tap { try test.cluster.configure(pod) }
        try serve()
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
      try test.lab.runUnchecked([try builtProgram("kalsae")] + arguments)
    }

    func configure(_ hooks: [String]) throws {
      try test.cluster.configureNodes(
        "ebpf: auto", "ebpfHooks: [\(hooks.joined(separator: ", "))]", "serviceCIDRs: [10.96.0.0/16, \"fd00:96::/112\"]"
      )
    }

    func start(_ node: Cluster.Node, without: String = "") throws -> Child {
      let agent = try test.lab.spawn(
        [
          "nsenter", "--net=\(node.namespace.path)", "env", "KALSAE_EBPF_WITHOUT=\(without)",
          try builtProgram("kalsae"), "run", "--state", test.cluster.state, "--node", node.name, "--socket",
          test.cluster.socket(of: node), "--data", test.cluster.data(of: node), "--cgroup", group,
        ], log: test.cluster.log(of: node))
      try test.cluster.waitUntilReady(node, agent)
      return agent
    }

    /// Has another agent run node a, which takes the kernel not to have some things.
    func restart(without: String) throws {
      agents[0].signal(SIGTERM)
      #expect(try agents[0].wait(timeout: .seconds(10)).status == .exited(0))
      agents[0] = try start(test.a, without: without)
    }

    private func serve() throws {
      let server = test.b.pods[0]
      let child = try server.namespace.spawn(
        "/usr/bin/python3", "-c",
        """
        import socket, threading
        def tcp(family, address):
            s = socket.create_server((address, 8080), family=family)
            while True:
                c, _ = s.accept()
                threading.Thread(target=stream, args=(c,)).start()
        def stream(c):
            c.sendall(b"x" * 300000)
            c.close()
        def udp(family, address):
            s = socket.socket(family, socket.SOCK_DGRAM)
            s.bind((address, 8080))
            while True: s.sendto(*s.recvfrom(2048))
        for family, address in ((socket.AF_INET, "\(server.ipv4)"), (socket.AF_INET6, "\(server.ipv6)")):
            for body in (tcp, udp): threading.Thread(target=body, args=(family, address)).start()
        print("ready", flush=True)
        """)
      try waitUntil("the server") {
        try child.standardOutput.contains("ready")
          && server.namespace.run("ss", "-Hlntu").standardOutput.split(separator: "\n").count { $0.contains(":8080") }
            == 4
      }
    }

    /// What a client in a namespace sees of the services, one line a look.
    func look(_ space: Namespace) throws -> [String] {
      let text = try test.lab.run(
        [
          "nsenter", "--net=\(space.path)", "/bin/sh", "-c",
          "echo $$ > \(group)/cgroup.procs && exec /usr/bin/python3 -c \"$0\"",
          """
          import socket
          def told(name, body):
              try: print(name, body())
              except OSError as error: print(name, error.__class__.__name__)
          def stream(address):
              s = socket.create_connection((address, 80), 5)
              total = 0
              while True:
                  part = s.recv(65536)
                  if not part: return total
                  total += len(part)
          def datagrams(family, address, connected):
              s = socket.socket(family, socket.SOCK_DGRAM)
              s.settimeout(5)
              if connected: s.connect((address, 80))
              sources = set()
              # More than it takes to be carried.
              for n in range(8):
                  if connected: s.send(b"hello")
                  else: s.sendto(b"hello", (address, 80))
                  data, source = s.recvfrom(100)
                  sources.add(source[:2])
              return sorted(sources)
          for family, block in ((socket.AF_INET, "10.96.0."), (socket.AF_INET6, "fd00:96::")):
              told("tcp", lambda: stream(block + "10"))
              told("udp", lambda: datagrams(family, block + "12", False))
              told("connected", lambda: datagrams(family, block + "12", True))
              told("empty", lambda: stream(block + "11"))
          """,
        ], timeout: .seconds(60)
      ).standardOutput
      return text.split(separator: "\n").map(String.init)
    }

    /// All clients see what they should.
    func expectRight(_ what: String) throws {
      let clients = [test.a.pods[1].namespace, test.a.pods[0].namespace, test.a.namespace]
      for (client, name) in zip(clients, ["sockets of a pod", "packets of a pod", "the node"]) {
        let seen = try look(client)
        #expect(seen == EBPFDegradedTests.right, "\(what): \(name): \(seen)")
      }
    }

    /// What `kalsae ebpf status` says of node a's hooks: by name. `without`: what the kernel is taken not to have.
    func states(without: String = "") throws -> [String: String] {
      let text = try test.lab.run([
        "env", "KALSAE_EBPF_WITHOUT=\(without)", try builtProgram("kalsae"), "ebpf", "status", "--node", test.a.name,
      ]).standardOutput
      var states: [String: String] = [:]
      for line in text.split(separator: "\n") {
        // Columns are apart by two spaces at least.
        let columns = line.split(separator: "  ").map { $0.trimmingPrefix(" ") }
        if columns.count == 4, columns[0].contains("/") { states[String(columns[0])] = String(columns[2]) }
      }
      return states
    }
  }

  private static let sockets = [
    "connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6",
    "post_bind4", "post_bind6",
  ]
  private static let all = sockets + ["tc_lb", "xdp_lb", "overlay"]
  private static let right = echo.flatMap {
    ["tcp 300000", "udp [('\($0)', 80)]", "connected [('\($0)', 80)]", "empty ConnectionRefusedError"]
  }

  private static func name(_ hook: String) -> String {
    switch hook {
    case "tc_lb", "overlay": "\(hook)/ingress"
    case "xdp_lb": "xdp_lb/xdp"
    default: "sock_lb/\(hook)"
    }
  }

  /// What is of no use where a hook is missing.
  private static func dependents(_ hook: String) -> [String] {
    switch hook {
    case "recvmsg4": ["sendmsg4"]
    case "recvmsg6": ["sendmsg6"]
    default: []
    }
  }

  @Test("KP-20 KP-30 each hook switched off by itself, live: the same traffic, and status says so")
  func switchedOff() throws {
    let site = try Site("off")
    try site.expectRight("all hooks")
    let states = try site.states()
    for hook in EBPFDegradedTests.all {
      let state = states[EBPFDegradedTests.name(hook)] ?? "not told"
      #expect(state.hasPrefix("attached"), "\(hook): \(state)")
    }
    for hooks in [
      ["connect4", "connect6"], ["sendmsg4", "sendmsg6"], ["recvmsg4", "recvmsg6"], ["getpeername4", "getpeername6"],
      ["post_bind4", "post_bind6"], ["tc_lb", "xdp_lb"], ["xdp_lb"], ["overlay"], EBPFDegradedTests.sockets,
    ] {
      try site.configure(EBPFDegradedTests.all.filter { !hooks.contains($0) })
      func wrong() throws -> [String] {
        let states = try site.states()
        return EBPFDegradedTests.all.compactMap { hook in
          let state = states[EBPFDegradedTests.name(hook)] ?? "not told"
          let need = hooks.first { !hooks.contains(hook) && EBPFDegradedTests.dependents($0).contains(hook) }
          let expected =
            hooks.contains(hook)
            ? "switched off: left to user space" : need.map { "of no use without \($0): left to user space" }
          let isRight = expected.map { state == $0 } ?? state.hasPrefix("attached")
          return isRight ? nil : "\(hook): \(state)"
        }
      }
      var last: [String] = []
      do {
        try waitUntil("\(hooks) to be switched off") {
          last = try wrong()
          return last.isEmpty
        }
      } catch {
        Issue.record("without \(hooks): \(last)")
      }
      try site.expectRight("without \(hooks)")
    }
  }

  @Test("KP-20 KP-30 a kernel that has not what a hook needs: the same traffic, and status says so")
  func missing() throws {
    let site = try Site("miss")
    let everything = (EBPFDegradedTests.sockets + ["devices", "xdp", "tcx", "set_retval"]).joined(separator: ",")
    let isMissing = "the kernel cannot: Operation not supported: left to user space"
    let isLeft = "not attached: left to user space"
    for (features, expected) in [
      ("connect4,connect6", ["connect4": isMissing, "connect6": isMissing]),
      ("recvmsg4,recvmsg6", ["recvmsg6": isMissing, "sendmsg4": "of no use without recvmsg4: left to user space"]),
      ("set_retval", [:]), ("tcx", [:]), ("xdp", ["xdp_lb": isLeft]),
      ("devices", ["tc_lb": isLeft, "xdp_lb": isLeft, "overlay": isLeft]),
      (
        everything,
        ["connect4": isMissing, "post_bind6": isMissing, "tc_lb": isLeft, "xdp_lb": isLeft, "overlay": isLeft]
      ),
    ] {
      try site.restart(without: features)
      let states = try site.states(without: features)
      for hook in EBPFDegradedTests.all {
        let state = states[EBPFDegradedTests.name(hook)] ?? "not told"
        if let expected = expected[hook] {
          #expect(state == expected, "\(hook) without \(features)")
        } else if features != everything {
          #expect(
            state.hasPrefix("attached") || state.contains("of no use") || state == isMissing,
            "\(hook) without \(features): \(state)")
        }
      }
      try site.expectRight("without \(features)")
    }
    // Nothing was to be had: nothing is there.
    #expect(try site.kalsae("ebpf", "unload", "--node", site.test.a.name).standardOutput == "nothing was loaded\n")
  }
}
