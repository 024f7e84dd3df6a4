import Addresses
import CNI
import Glibc
import Lab
import Testing

private let pluginFolder = ["/usr/lib/cni", "/opt/cni/bin"].first { unsafe access("\($0)/ptp", X_OK) == 0 }

/// The plugin with others: before it, behind it, and for addresses.
@Suite(
  "CNI chains", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces),
  .enabled(if: pluginFolder != nil, "needs the reference plugins (Debian: containernetworking-plugins)"),
  .timeLimit(.minutes(4)))
struct PluginChainTests {
  /// Runs a reference plugin as the runtime does, in the node's namespace.
  private func reference(
    _ type: String, _ command: String, _ runtime: PluginRuntime, _ namespace: Namespace, _ configuration: JSON
  ) throws -> JSON? {
    let folder = try #require(pluginFolder)
    var configuration = configuration
    (configuration["type"], configuration["name"]) = (.string(type), .string(runtime.network))
    configuration["cniVersion"] = .string("1.0.0")
    let result = try runtime.node.namespace.run(
      [
        "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND=\(command)", "CNI_CONTAINERID=one",
        "CNI_IFNAME=eth0", "CNI_NETNS=\(namespace.path)", "CNI_PATH=\(folder)", "\(folder)/\(type)",
      ], input: configuration.serialized)
    #expect(result.status == .exited(0), "\(type) \(command): \(result.standardOutput)\(result.standardError)")
    return result.standardOutput.isEmpty ? nil : try JSON(parsing: result.standardOutput)
  }

  @Test("CNI-11: behind the reference plugin ptp, whose interface and addresses it takes over and leaves to it")
  func behind() throws {
    let world = try PluginLiveTests.World("cniptp")
    defer { world.lab.cleanUp() }
    let (one, two) = (try world.lab.namespace("one"), try world.lab.namespace("two"))
    var chained = world.a
    chained.version = "1.0.0"
    let ptp = try JSON(
      parsing: """
        {"ipam": {"type": "host-local", "dataDir": "\(world.a.addresses)", "routes": [{"dst": "0.0.0.0/0"}],
         "ranges": [[{"subnet": "\(world.test.a.block4)"}]]}}
        """)
    let made = try #require(try reference("ptp", "ADD", world.a, one, ptp))
    func configuration(previous: JSON) throws -> String {
      var json = try JSON(parsing: chained.configuration)
      (json["ipam"], json["prevResult"]) = (nil, previous)
      return json.serialized
    }
    let text = try chained.run(
      "ADD", container: "one", namespace: one.path, configuration: configuration(previous: made)
    ).check().standardOutput
    let result = try CNIResult(JSON(parsing: text), version: CNIVersion("1.0.0")!, of: "result")
    // What came is passed on.
    let before = try CNIResult(made, version: CNIVersion("1.0.0")!, of: "result")
    #expect(result.addresses == before.addresses && result.interfaces == before.interfaces)
    let address = try #require(result.addresses.first).address
    let far = try CNIResult(JSON(parsing: world.b.add("two", to: two)), version: .newest, of: "result")
    #expect(try one.ping("\(far.addresses[0].address)", count: 2).isComplete)
    #expect(try two.ping("\(address)", count: 2).isComplete)
    let check = try chained.run(
      "CHECK", container: "one", namespace: one.path, configuration: configuration(previous: JSON(parsing: text)))
    #expect(check.status == .exited(0), "\(check.standardOutput)")
    // DEL goes the other way: the interface is ptp's to remove.
    _ = try chained.run(
      "DEL", container: "one", namespace: one.path, configuration: configuration(previous: JSON(parsing: text))
    ).check()
    #expect(try one.devices().sorted() == ["eth0", "lo"])
    #expect(try !two.ping("\(address)", count: 1, wait: .milliseconds(300)).isComplete)
    _ = try reference("ptp", "DEL", world.a, one, ptp)
    #expect(try one.devices() == ["lo"])
    try world.b.delete("two", namespace: two)
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test("CNI-11: the reference plugins portmap and bandwidth stand behind it, and what they are told is passed on")
  func before() throws {
    let world = try PluginLiveTests.World("cnifor")
    defer { world.lab.cleanUp() }
    let one = try world.lab.namespace("one")
    var chained = world.a
    chained.version = "1.0.0"
    let result = try JSON(parsing: chained.add("one", to: one))
    var steps: [(String, JSON)] = []
    for (type, runtime) in [
      ("portmap", #"{"portMappings": [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]}"#),
      ("bandwidth", #"{"bandwidth": {"ingressRate": 8000000, "ingressBurst": 800000}}"#),
    ] {
      steps.append((type, JSON(["runtimeConfig": try JSON(parsing: runtime), "prevResult": result])))
    }
    for (type, configuration) in steps {
      let passed = try #require(try reference(type, "ADD", world.a, one, configuration))
      #expect(passed["ips"] == result["ips"])
    }
    #expect(try one.ping("169.254.1.1", count: 1).isComplete)
    for (type, configuration) in steps.reversed() { _ = try reference(type, "DEL", world.a, one, configuration) }
    try chained.delete("one", namespace: one)
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test("IPAM-4: addresses by another IPAM plugin, asked by the agent and given back; what fails leaves nothing")
  func delegated() throws {
    let world = try PluginLiveTests.World("cnidlg")
    defer { world.lab.cleanUp() }
    let (one, two) = (try world.lab.namespace("one"), try world.lab.namespace("two"))
    var fixed = world.a
    fixed.ipam = #"{"type": "static", "addresses": [{"address": "10.244.0.99/24"}, {"address": "fd00:244::99/64"}]}"#
    let result = try CNIResult(JSON(parsing: fixed.add("one", to: one)), version: .newest, of: "result")
    #expect(result.addresses.map { "\($0.address)/\($0.prefixLength)" } == ["10.244.0.99/32", "fd00:244::99/128"])
    try world.b.add("two", to: two)
    #expect(try two.ping("10.244.0.99", count: 2).isComplete)
    try fixed.delete("one", namespace: one)
    fixed.ipam = #"{"type": "static", "addresses": [{"address": "nonsense"}]}"#
    #expect(try fixed.run("ADD", container: "one", namespace: one.path).status == .exited(1))
    #expect(try one.devices() == ["lo"])
    try world.b.delete("two", namespace: two)
    #expect(try world.leftovers(world.a).isEmpty)
  }
}

/// What the runtime asks of the data plane for one container.
@Suite("CNI in the data plane", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(4)))
struct PluginTrafficTests {
  @Test("CNI-10: bandwidth of the runtime: the burst passes, and next to nothing at a low rate; drops say why")
  func bandwidth() throws {
    let world = try PluginLiveTests.World("cnibw")
    defer { world.lab.cleanUp() }
    let (one, two) = (try world.lab.namespace("one"), try world.lab.namespace("two"))
    var limited = world.a
    // 20 packets at once, and then one in eight seconds.
    limited.more = #", "runtimeConfig": {"bandwidth": {"ingressRate": 1000, "ingressBurst": 160000}}"#
    let result = try CNIResult(JSON(parsing: limited.add("one", to: one)), version: .newest, of: "result")
    let far = try CNIResult(JSON(parsing: world.b.add("two", to: two)), version: .newest, of: "result")
    func received(_ count: Int, from sender: Namespace, to receiver: Namespace, _ address: IPAddress) throws -> Int {
      let server = try receiver.spawn(
        "python3", "-c",
        """
        import socket
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("\(address)", 9)); s.settimeout(3)
        print("ready", flush=True); n = 0
        try:
            while s.recv(2000): n += 1
        except TimeoutError: pass
        print("got", n, flush=True)
        """, log: try world.test.path("udp.log"))
      let log = try world.test.path("udp.log")
      try waitUntil("the receiver") { try world.lab.run(["cat", log]).standardOutput.contains("ready") }
      try sender.run(
        "python3", "-c",
        """
        import socket, time
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for _ in range(\(count)): s.sendto(bytes(958), ("\(address)", 9)); time.sleep(0.001)
        """
      ).check()
      _ = try server.wait(timeout: .seconds(20))
      let text = try world.lab.run(["cat", log]).standardOutput
      return text.split(separator: " ").last.flatMap { Int($0.filter(\.isNumber)) } ?? -1
    }
    let towards = try received(200, from: two, to: one, result.addresses[0].address)
    #expect((15...40).contains(towards), "\(towards)")
    #expect(try world.test.cluster.ask("drops", world.test.a).contains("bandwidth"))
    // From the container there is no limit.
    #expect(try received(200, from: one, to: two, far.addresses[0].address) >= 190)
    try world.a.delete("one", namespace: one)
    try world.b.delete("two", namespace: two)
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test("NODE-8: with ipMasq a container is seen outside as its node, without it as itself")
  func masquerade() throws {
    let world = try PluginLiveTests.World("cnimsq", outside: true)
    defer { world.lab.cleanUp() }
    let outside = try #require(world.test.cluster.outside)
    let (one, two) = (try world.lab.namespace("one"), try world.lab.namespace("two"))
    var masqueraded = world.a
    masqueraded.more = #", "ipMasq": true"#
    let hidden = try CNIResult(JSON(parsing: masqueraded.add("one", to: one)), version: .newest, of: "result")
    let open = try CNIResult(JSON(parsing: world.a.add("two", to: two)), version: .newest, of: "result")
    let capture = try outside.capture(on: "eth0", to: world.test.path("outside.pcap"))
    // Outside knows no way to pods: only what the node stands for is answered.
    #expect(try one.ping("\(Cluster.outside4)", count: 2).isComplete)
    #expect(try two.ping("\(Cluster.outside4)", count: 1, wait: .milliseconds(300)).received == 0)
    // Pods see each other as they are.
    #expect(try one.ping("\(open.addresses[0].address)", count: 1).isComplete)
    _ = try? capture.stop()
    func asked(_ source: IPAddress) throws -> Bool {
      try !PacketCheck.list(
        in: world.test.path("outside.pcap"), filter: "icmp.type == 8 && ip.src == \(source)"
      ).isEmpty
    }
    #expect(try asked(.v4(world.test.a.ipv4)))
    #expect(try !asked(hidden.addresses[0].address))
    #expect(try asked(open.addresses[0].address))
    try world.a.delete("one", namespace: one)
    try world.a.delete("two", namespace: two)
    #expect(try world.leftovers(world.a).isEmpty)
  }
}
