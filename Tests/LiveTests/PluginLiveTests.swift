import Addresses
import CNI
import Glibc
import Lab
import Testing

/// Containers that the plugin attaches, with the agent behind it: what a runtime sees, and what is on the node.
@Suite("CNI", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(4)))
struct PluginLiveTests {
  /// Two nodes without pods, agents running.
  struct World {
    let test: TestCluster
    let agents: [Child]
    var lab: Lab { test.lab }
    let a: PluginRuntime
    let b: PluginRuntime

    /// `settings`: lines of the nodes' configuration.
    init(_ name: String, outside: Bool = false, settings: [String] = []) throws {
      test = try TestCluster(name, [.init("a", pods: []), .init("b", pods: [])], outside: outside)
      if !settings.isEmpty { try test.cluster.configureNodes(settings) }
      let plugin = try builtProgram("kalsae-cni")
      a = test.cluster.runtime(of: test.a, plugin: plugin)
      b = test.cluster.runtime(of: test.b, plugin: plugin)
      agents = try test.start()
    }

    /// The host's interfaces of containers on a node.
    func interfaces(_ runtime: PluginRuntime) throws -> [String] {
      try runtime.node.namespace.devices().filter { $0.hasPrefix("kal") && $0 != "kalsae0" }
    }

    /// What may be left of containers on a node: interfaces, records, addresses, filters, ports.
    func leftovers(_ runtime: PluginRuntime) throws -> [String] {
      var result = try interfaces(runtime)
      result += try files("\(runtime.dataDirectory)/attachments")
      result += try files("\(runtime.addresses)/\(runtime.network)").filter { IPAddress($0) != nil }
      result += try files("\(runtime.dataDirectory)/deletes")
      let attached = sum(of: "attachedPods", in: try test.cluster.ask("status", runtime.node))
      if attached > 0 { result.append("\(attached) ports") }
      return result
    }

    private func files(_ folder: String) throws -> [String] {
      try lab.runUnchecked(["ls", "-A", folder]).standardOutput.split(separator: "\n").map(String.init)
    }
  }

  private func code(_ result: ProcessResult) throws -> Int? {
    #expect(result.status == .exited(1), "\(result.standardOutput)")
    let json = try JSON(parsing: result.standardOutput)
    #expect(json["details"]?.text?.isEmpty == false)
    return json["code"]?.integer
  }

  @Test("CNI-2 NODE-1: ADD makes the interface, addresses and routes; pods meet across nodes; DEL leaves nothing")
  func addAndDelete() throws {
    let world = try World("cni")
    defer { world.lab.cleanUp() }
    let (one, two) = (try world.lab.namespace("one"), try world.lab.namespace("two"))
    let text = try world.a.add("one", to: one, arguments: "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=one")
    let result = try CNIResult(try JSON(parsing: text), version: .newest, of: "result")
    let other = try CNIResult(try JSON(parsing: world.b.add("two", to: two)), version: .newest, of: "result")
    #expect(result.interfaces.map(\.sandbox) == [nil, one.path])
    #expect(result.interfaces[1].name == "eth0")
    #expect(result.addresses.map(\.prefixLength) == [32, 128])
    #expect(result.addresses.allSatisfy { $0.interface == 1 })
    #expect(result.routes.map(\.destination) == [IPPrefix("0.0.0.0/0")!, IPPrefix("::/0")!])
    #expect(try world.interfaces(world.a) == [result.interfaces[0].name])
    // The host's end has the fixed address; the container's is told in the result.
    #expect(try world.test.a.namespace.mac(of: result.interfaces[0].name) == MACAddress("ee:ee:ee:ee:ee:ee"))
    #expect(try one.mac(of: "eth0").description == result.interfaces[1].mac)
    let routes = try one.run("ip", "route").check().standardOutput
    #expect(routes.contains("default via 169.254.1.1 dev eth0"))
    #expect(routes.contains("169.254.1.1 dev eth0 scope link"))
    #expect(
      try one.run("ip", "-6", "route").check().standardOutput.contains("default via fe80::ecee:eeff:feee:eeee dev eth0")
    )
    // At once, with the first packet.
    for address in other.addresses.map(\.address) {
      #expect(try one.ping("\(address)", count: 2).isComplete, "\(address)")
    }
    #expect(try one.ping("169.254.1.1", count: 1).isComplete)
    #expect(try world.test.cluster.ask("pods", world.test.a).contains("\"demo\""))
    let check = try JSON(parsing: world.a.configuration)
    var withResult = check
    withResult["prevResult"] = try JSON(parsing: text)
    let checked = try world.a.run(
      "CHECK", container: "one", namespace: one.path, configuration: withResult.serialized)
    #expect(checked.status == .exited(0), "\(checked.standardOutput)")
    #expect(checked.standardOutput.isEmpty)
    try world.a.delete("one", namespace: one)
    try world.b.delete("two")
    #expect(try one.devices() == ["lo"])
    #expect(try world.leftovers(world.a).isEmpty)
    #expect(try world.leftovers(world.b).isEmpty)
    // Again, and for what never was.
    for _ in 0..<2 { try world.a.delete("one") }
    try world.a.delete("never", namespace: one)
  }

  @Test("where two workers use AF_XDP, both ends of a pair have two queues, to which the pod deals its flows out")
  func queues() throws {
    let world = try World("cniqueues", settings: ["workers: 2", "ports: af_xdp"])
    defer { world.lab.cleanUp() }
    let (one, two) = (try world.lab.namespace("one"), try world.lab.namespace("two"))
    let result = try CNIResult(try JSON(parsing: world.a.add("one", to: one)), version: .newest, of: "result")
    let other = try CNIResult(try JSON(parsing: world.b.add("two", to: two)), version: .newest, of: "result")
    for (namespace, device) in [(one, "eth0"), (world.test.a.namespace, result.interfaces[0].name)] {
      let queues = try namespace.run("ls", "/sys/class/net/\(device)/queues").check().standardOutput
      #expect(queues == "rx-0\nrx-1\ntx-0\ntx-1\n")
    }
    #expect(try world.test.cluster.ask("ports", world.test.a).ranges(of: "\"kind\":\"af_xdp\"").count == 2)
    for address in other.addresses.map(\.address) {
      #expect(try one.ping("\(address)", count: 2).isComplete, "\(address)")
      try world.lab.transfer(Payload(byteCount: 1_000_000), from: one, to: two, address: address)
    }
    try world.a.delete("one", namespace: one)
    try world.b.delete("two")
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test("NODE-1: a TAP device in the container's namespace")
  func tap() throws {
    let world = try World("cnitap")
    defer { world.lab.cleanUp() }
    let (one, two) = (try world.lab.namespace("one"), try world.lab.namespace("two"))
    var taps = world.a
    taps.more = #", "interface": "tap""#
    let text = try taps.add("one", to: one)
    let other = try CNIResult(try JSON(parsing: world.b.add("two", to: two)), version: .newest, of: "result")
    #expect(try one.run("ip", "-d", "link", "show", "eth0").check().standardOutput.contains("tun type tap"))
    for address in other.addresses.map(\.address) { #expect(try one.ping("\(address)", count: 2).isComplete) }
    #expect(try CNIResult(try JSON(parsing: text), version: .newest, of: "result").interfaces.count == 1)
    // Its port is opened again by the next agent, and nothing of the device changes.
    world.agents[0].signal(SIGTERM)
    _ = try world.agents[0].wait(timeout: .seconds(10))
    let again = try world.test.cluster.startAgent(of: world.test.a)
    try world.test.cluster.waitUntilReady(world.test.a, again)
    for address in other.addresses.map(\.address) { #expect(try one.ping("\(address)", count: 2).isComplete) }
    try taps.delete("one", namespace: one)
    #expect(try one.devices() == ["lo"])
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test("CNI-3 CNI-9: what cannot be done has its code and leaves nothing")
  func refusals() throws {
    let world = try World("cnino")
    defer { world.lab.cleanUp() }
    let one = try world.lab.namespace("one")
    func add(_ container: String = "one", _ path: String? = nil, _ configuration: String? = nil) throws -> Int? {
      try code(world.a.run("ADD", container: container, namespace: path ?? one.path, configuration: configuration))
    }
    #expect(try add("one", "/run/netns/none") == 8)
    #expect(try add("one", "/etc/hostname") == 8)
    #expect(try add("one", world.test.a.namespace.path) == 8)
    #expect(try code(world.a.run("CHECK", container: "never", namespace: one.path)) == 3)
    var wrong = world.a
    wrong.ipam = #"{"type": "no-such-plugin"}"#
    #expect([5, 7, 105].contains(try add("one", nil, wrong.configuration)))
    // An address that cannot be given.
    wrong.ipam = nil
    wrong.more = #", "runtimeConfig": {"ips": ["192.0.2.1/24"]}"#
    let unavailable = try add("one", nil, wrong.configuration)
    #expect(unavailable == 102)
    #expect(try world.leftovers(world.a).isEmpty)
    // The interface is somebody's already, whoever made it.
    try one.ip("link add eth0 type veth peer name wire")
    #expect(try add() == 100)
    try one.ip("link del eth0")
    try world.a.add("one", to: one)
    #expect(try add() == 100)
    #expect(try add("another") == 100)
    #expect(try world.interfaces(world.a).count == 1)
    // CHECK without the result, and after somebody has meddled.
    #expect(try code(world.a.run("CHECK", container: "one", namespace: one.path)) == 7)
    try world.a.delete("one")
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test("CNI-5: CHECK finds an address, a route or an interface that is gone")
  func check() throws {
    let world = try World("cnichk")
    defer { world.lab.cleanUp() }
    let one = try world.lab.namespace("one")
    let text = try world.a.add("one", to: one)
    var configuration = try JSON(parsing: world.a.configuration)
    configuration["prevResult"] = try JSON(parsing: text)
    func check() throws -> ProcessResult {
      try world.a.run("CHECK", container: "one", namespace: one.path, configuration: configuration.serialized)
    }
    #expect(try check().status == .exited(0))
    try one.ip("route del default")
    #expect(try code(check()) == 104)
    try one.ip("route add default via 169.254.1.1 dev eth0")
    #expect(try check().status == .exited(0))
    let address = try CNIResult(try JSON(parsing: text), version: .newest, of: "result").addresses[0].address
    try one.ip("addr del \(address)/32 dev eth0")
    #expect(try code(check()) == 104)
    try one.ip("link del eth0")
    #expect(try code(check()) == 104)
    try world.a.delete("one", namespace: one)
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test(
    "CNI-12: a Multus delegate: further interfaces of one container, each whole, reached and removed by itself",
    arguments: ["veth", "tap"])
  func severalInterfaces(kind: String) throws {
    let world = try World("cnimul")
    defer { world.lab.cleanUp() }
    let (one, two) = (try world.lab.namespace("one"), try world.lab.namespace("two"))
    // Multus calls each delegate with its own network, CNI_IFNAME net1, net2, …, and the container's CNI_ARGS.
    let arguments =
      "IgnoreUnknown=true;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=one;K8S_POD_INFRA_CONTAINER_ID=one;K8S_POD_UID=7"
    var further = world.a
    further.network = "further"
    further.more = ", \"interface\": \"\(kind)\""
    further.ipam = """
      {"type": "host-local", "dataDir": "\(world.a.addresses)",
       "ranges": [[{"subnet": "10.244.0.0/24", "rangeStart": "10.244.0.200"}], [{"subnet": "fd00:10:244:0::/64", "rangeStart": "fd00:10:244::2:0"}]]}
      """
    func addresses(_ text: String) throws -> [IPAddress] {
      try CNIResult(try JSON(parsing: text), version: .newest, of: "result").addresses.map(\.address)
    }
    func routes() throws -> String {
      try one.run("ip", "route").check().standardOutput + one.run("ip", "-6", "route").check().standardOutput
    }
    func rules() throws -> String {
      try one.run("ip", "rule").check().standardOutput + one.run("ip", "-6", "rule").check().standardOutput
    }
    let first = try addresses(try world.a.add("one", to: one, arguments: arguments))
    let before = (routes: try routes(), rules: try rules())
    let far = try addresses(try world.b.add("two", to: two))
    let text = try further.add("one", to: one, interface: "net1", arguments: arguments)
    let second = try addresses(text)
    #expect(try one.devices().sorted() == ["eth0", "lo", "net1"])
    #expect(second.map(\.family) == [.ipv4, .ipv6] && Set(first).isDisjoint(with: second))
    // The first interface keeps its routes and the default; what comes from the second's addresses leaves by it.
    #expect(try routes().contains("default via 169.254.1.1 dev eth0"))
    #expect(try !routes().contains("default via 169.254.1.1 dev net1"))
    func reach(_ targets: [IPAddress]) throws {
      for target in targets { #expect(try two.ping("\(target)", count: 2).isComplete, "\(target)") }
    }
    try reach(first + second)
    for (near, target) in zip(first + second, far + far) {
      let ping = try one.run("ping", "-c1", "-W2", "-I", "\(near)", "\(target)")
      #expect(ping.isSuccess, "from \(near): \(ping.standardOutput)")
    }
    // Both are checked, and each goes without the other.
    var configuration = try JSON(parsing: further.configuration)
    configuration["prevResult"] = try JSON(parsing: text)
    let checked = try world.a.run(
      "CHECK", container: "one", interface: "net1", namespace: one.path, configuration: configuration.serialized)
    #expect(checked.status == .exited(0), "\(checked.standardOutput)")
    try further.delete("one", interface: "net1", namespace: one)
    #expect(try one.devices().sorted() == ["eth0", "lo"])
    #expect(try rules() == before.rules && routes() == before.routes)
    try reach(first)
    let again = try addresses(try further.add("one", to: one, interface: "net1", arguments: arguments))
    try world.a.delete("one", namespace: one)
    #expect(try one.devices().sorted() == ["lo", "net1"])
    try reach(again)
    try further.delete("one", interface: "net1", namespace: one)
    try world.b.delete("two", namespace: two)
    #expect(try one.devices() == ["lo"] && rules() == before.rules)
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test("CNI-4: a DEL that came while no agent ran is carried out when it is back; interfaces that stay are adopted")
  func away() throws {
    let world = try World("cniaway")
    defer { world.lab.cleanUp() }
    let spaces = try ["one", "two", "three"].map { try world.lab.namespace($0) }
    for (name, space) in zip(["one", "two", "three"], spaces) { try world.a.add(name, to: space) }
    let far = try world.lab.namespace("far")
    let other = try CNIResult(try JSON(parsing: world.b.add("far", to: far)), version: .newest, of: "result")
    world.agents[0].signal(SIGKILL)
    _ = try world.agents[0].wait(timeout: .seconds(10))
    #expect(try code(world.a.run("ADD", container: "four", namespace: spaces[0].path, configuration: nil)) == 11)
    #expect(try code(world.a.run("STATUS")) == 50)
    try world.a.delete("one", namespace: spaces[0])
    // A runtime's crash: the container goes without a word.
    try world.lab.run(["ip", "netns", "del", spaces[1].name])
    let again = try world.test.cluster.startAgent(of: world.test.a)
    try waitUntil("the agent to answer") { try world.a.run("STATUS").status == .exited(0) }
    #expect(try world.interfaces(world.a).count == 1)
    #expect(try spaces[0].devices() == ["lo"])
    #expect(try spaces[2].ping("\(other.addresses[0].address)", count: 2).isComplete)
    // GC takes the one whose namespace is gone.
    var configuration = try JSON(parsing: world.a.configuration)
    configuration["cni.dev/valid-attachments"] = .array([
      JSON(["containerID": .string("three"), "ifname": .string("eth0")])
    ])
    #expect(try world.a.run("GC", configuration: configuration.serialized).status == .exited(0))
    #expect(try spaces[2].ping("\(other.addresses[0].address)", count: 1).isComplete)
    try world.a.delete("three")
    #expect(try world.leftovers(world.a).isEmpty)
    #expect(again.isRunning)
  }

  @Test("NP-9: a pod's policy is in the tables before ADD returns; one that cannot be told yet is refused")
  func policy() throws {
    let world = try World("cnipol")
    defer { world.lab.cleanUp() }
    let cluster = world.test.cluster
    let (one, two, three) = (
      try world.lab.namespace("one"), try world.lab.namespace("two"), try world.lab.namespace("three")
    )
    try cluster.write(
      "policy.yaml",
      """
      apiVersion: networking.k8s.io/v1
      kind: NetworkPolicy
      metadata: {name: lock, namespace: shop}
      spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress]}
      """)
    try waitUntil("the policy to be read") { cluster.logText(of: world.test.a).contains("NetworkPolicy shop/lock") }
    let arguments = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db"
    #expect(try code(world.a.run("ADD", container: "db", namespace: one.path, arguments: arguments)) == 11)
    #expect(try world.leftovers(world.a).isEmpty)
    try cluster.write(
      "pod.yaml",
      """
      apiVersion: v1
      kind: Pod
      metadata: {name: db, namespace: shop, labels: {app: db}}
      spec: {nodeName: node-a, containers: [{name: c}]}
      """)
    try waitUntil("the pod to be read") { cluster.logText(of: world.test.a).contains("Pod shop/db") }
    try world.a.add("db", to: one, arguments: arguments)
    let open = try CNIResult(try JSON(parsing: world.a.add("open", to: two)), version: .newest, of: "result")
    try world.a.add("three", to: three)
    let target = open.addresses[0].address
    #expect(try one.ping("\(target)", count: 1, wait: .milliseconds(300)).received == 0)
    #expect(try three.ping("\(target)", count: 1).isComplete)
    #expect(try cluster.ask("drops", world.test.a).contains("policy"))
    // Its labels change, and so does what it may.
    try cluster.write(
      "pod.yaml",
      """
      apiVersion: v1
      kind: Pod
      metadata: {name: db, namespace: shop, labels: {app: web}}
      spec: {nodeName: node-a, containers: [{name: c}]}
      """)
    try waitUntil("the pod to be free") { try one.ping("\(target)", count: 1, wait: .milliseconds(300)).isComplete }
    for name in ["db", "open", "three"] { try world.a.delete(name) }
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test("CNI-11: before the reference plugin tuning, which gets our result as prevResult")
  func chained() throws {
    let world = try World("cnichn")
    defer { world.lab.cleanUp() }
    let one = try world.lab.namespace("one")
    let folder = ["/usr/lib/cni", "/opt/cni/bin"].first { unsafe access("\($0)/tuning", X_OK) == 0 }
    let plugins = try #require(folder, "the reference plugins (Debian: containernetworking-plugins)")
    let text = try world.a.add("one", to: one)
    var tuning = JSON([
      "cniVersion": .string("1.0.0"), "name": .string("pods"), "type": .string("tuning"),
      "sysctl": JSON(["net.ipv4.conf.IFNAME.arp_notify": .string("1")]),
    ])
    var previous = try JSON(parsing: text)
    previous["cniVersion"] = .string("1.0.0")
    tuning["prevResult"] = previous
    let variables = [
      "CNI_COMMAND=ADD", "CNI_CONTAINERID=one", "CNI_IFNAME=eth0", "CNI_NETNS=\(one.path)", "CNI_PATH=\(plugins)",
    ]
    let tuned = try world.test.a.namespace.run(
      ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"] + variables + ["\(plugins)/tuning"], input: tuning.serialized)
    #expect(tuned.status == .exited(0), "\(tuned.standardOutput)\(tuned.standardError)")
    #expect(try one.sysctl("net/ipv4/conf/eth0/arp_notify") == "1")
    try world.a.delete("one")
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test("CNI-10: mac, ips and portMappings of the runtime are honoured")
  func runtimeConfiguration() throws {
    let world = try World("cnicap")
    defer { world.lab.cleanUp() }
    let (one, two) = (try world.lab.namespace("one"), try world.lab.namespace("two"))
    var asked = world.a
    asked.more = """
      , "runtimeConfig": {"mac": "02:00:00:00:00:77", "ips": ["10.244.0.77/24"],
         "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
      """
    let result = try CNIResult(JSON(parsing: asked.add("one", to: one)), version: .newest, of: "result")
    #expect(result.addresses[0].address == IPAddress("10.244.0.77"))
    #expect(result.interfaces[1].mac == "02:00:00:00:00:77")
    #expect(try one.mac(of: "eth0") == MACAddress("02:00:00:00:00:77"))
    try world.a.add("two", to: two)
    let server = try one.spawn(
      "python3", "-m", "http.server", "80", "--bind", "10.244.0.77", "--directory", "/proc/self/task")
    try waitUntil("the server to listen") {
      try one.run("ss", "-Hltn", "sport = :80").standardOutput.contains("10.244.0.77:80")
    }
    let script = "import urllib.request, sys; print(urllib.request.urlopen(sys.argv[1], timeout=5).status)"
    let got = try two.run("python3", "-c", script, "http://\(world.test.a.ipv4):8080/")
    #expect(got.standardOutput == "200\n", "\(got.standardError)")
    server.signal(SIGTERM)
    try asked.delete("one", namespace: one)
    let refused = try two.run("python3", "-c", script, "http://\(world.test.a.ipv4):8080/")
    #expect(!refused.isSuccess)
    try world.a.delete("two", namespace: two)
    #expect(try world.leftovers(world.a).isEmpty)
  }

  @Test("IPAM-2 NODE-7: addresses from blocks of pools, which the tables of all nodes know")
  func blocks() throws {
    let world = try World("cniblk")
    defer { world.lab.cleanUp() }
    let cluster = world.test.cluster
    try cluster.write(
      "pools.yaml",
      """
      apiVersion: projectcalico.org/v3
      kind: IPPool
      metadata: {name: blocks}
      spec: {cidr: 10.245.0.0/16, blockSize: 26, vxlanMode: Always}
      """)
    try waitUntil("the pool to be read") { try cluster.ask("status", world.test.a).contains("vxlan") }
    try waitUntil("the pool to be read") { try cluster.ask("status", world.test.b).contains("vxlan") }
    var (a, b) = (world.a, world.b)
    a.ipam = #"{"type": "kalsae", "store": "\#(try world.test.path("ipam.db"))"}"#
    b.ipam = a.ipam
    let spaces = try (0..<3).map { try world.lab.namespace("s\($0)") }
    let one = try CNIResult(JSON(parsing: a.add("one", to: spaces[0])), version: .newest, of: "result")
    let two = try CNIResult(JSON(parsing: b.add("two", to: spaces[1])), version: .newest, of: "result")
    let target = two.addresses[0].address
    #expect(one.addresses.count == 1)
    #expect(IPPrefix("10.245.0.0/16")!.contains(target))
    try waitUntil("both nodes to know each other's block") {
      try spaces[0].ping("\(target)", count: 1, wait: .milliseconds(300)).isComplete
    }
    // The next one comes from the same block: nothing has to be told, and it is reached at once.
    let three = try CNIResult(JSON(parsing: a.add("three", to: spaces[2])), version: .newest, of: "result")
    #expect(try spaces[1].ping("\(three.addresses[0].address)", count: 1).isComplete)
    try a.delete("one")
    try a.delete("three")
    try b.delete("two")
    #expect(try world.leftovers(world.a).isEmpty)
    #expect(try world.leftovers(world.b).isEmpty)
  }

  @Test("CNI-7: 32 at once, added and removed")
  func concurrent() async throws {
    let world = try World("cnipar")
    defer { world.lab.cleanUp() }
    let spaces = try (0..<32).map { try world.lab.namespace("c\($0)") }
    let addresses = try await withThrowingTaskGroup(of: [String].self) { group in
      for (number, space) in spaces.enumerated() {
        group.addTask {
          let text = try world.a.add("c\(number)", to: space)
          return try CNIResult(JSON(parsing: text), version: .newest, of: "result").addresses.map { "\($0.address)" }
        }
      }
      return try await group.reduce(into: []) { $0 += $1 }
    }
    #expect(addresses.count == 64)
    #expect(Set(addresses).count == 64)
    #expect(try world.interfaces(world.a).count == 32)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for number in 0..<32 { group.addTask { try world.a.delete("c\(number)") } }
      try await group.waitForAll()
    }
    #expect(try world.leftovers(world.a).isEmpty)
  }
}
