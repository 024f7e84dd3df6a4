import Addresses
import CNI
import Glibc
import Lab
import Testing

/// What a runtime is told where something cannot be done, with the agent behind the plugin.
@Suite("CNI errors", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(4)))
struct PluginErrorTests {
  /// The error that the plugin printed: its code, and what it says with its remedy.
  private func error(_ result: ProcessResult) throws -> (code: Int?, text: String) {
    #expect(result.status == .exited(1), "\(result.standardOutput)")
    let json = try JSON(parsing: result.standardOutput)
    let (message, remedy) = (json["msg"]?.text ?? "", json["details"]?.text ?? "")
    #expect(!message.isEmpty && !remedy.isEmpty)
    return (json["code"]?.integer, "\(message); \(remedy)")
  }

  @Test("CNI-9: 7 for DHCP, 51, 101, 103 and 105 tell what is wrong and what to do")
  func codes() throws {
    let world = try PluginLiveTests.World("cnierr")
    defer { world.lab.cleanUp() }
    let (one, two) = (try world.lab.namespace("one"), try world.lab.namespace("two"))
    func refused(
      _ runtime: PluginRuntime, _ container: String, _ namespace: Namespace, interface: String = "eth0"
    ) throws -> (code: Int?, text: String) {
      try error(runtime.run("ADD", container: container, interface: interface, namespace: namespace.path))
    }
    // 101: the only address is another's.
    var small = world.a
    small.ipam = """
      {"type": "host-local", "dataDir": "\(world.a.addresses)",
       "ranges": [[{"subnet": "10.244.0.0/24", "rangeStart": "10.244.0.9", "rangeEnd": "10.244.0.9"}]]}
      """
    try small.add("one", to: one)
    let full = try refused(small, "two", two)
    #expect(full.code == 101 && full.text.contains("make one larger"), "\(full)")
    try small.delete("one", namespace: one)
    // 103: the kernel has no device of this name, because its parameters are called so.
    let kernel = try refused(world.a, "one", one, interface: "default")
    #expect(kernel.code == 103 && kernel.text.contains("default") && kernel.text.contains("EINVAL"), "\(kernel)")
    // 105: nobody knows the plugin, and one that is no plugin.
    var delegated = world.a
    delegated.ipam = #"{"type": "no-such-plugin"}"#
    let missing = try refused(delegated, "one", one)
    #expect(missing.code == 105 && missing.text.contains("CNI_PATH"), "\(missing)")
    // IPAM-4: DHCP wants an interface on the server's network.
    delegated.ipam = #"{"type": "dhcp"}"#
    let dhcp = try refused(delegated, "one", one)
    #expect(dhcp.code == 7 && dhcp.text.contains("macvlan"), "\(dhcp)")
    #expect(try world.leftovers(world.a).isEmpty)
    #expect(try one.devices() == ["lo"])
    // 51: pods can be made, but reach no other node.
    try world.test.a.namespace.ip("addr flush dev eth0")
    try waitUntil("the underlay to be missed") { try world.a.run("STATUS").status == .exited(1) }
    let cut = try error(world.a.run("STATUS"))
    #expect(cut.code == 51 && cut.text.contains("kalsae get status"), "\(cut)")
  }

  @Test("CNI-3 CNI-9: whatever is wrong in a configuration, it is told and nothing is half made")
  func wrongConfigurations() throws {
    let world = try PluginLiveTests.World("cnibad")
    defer { world.lab.cleanUp() }
    let one = try world.lab.namespace("one")
    let good = try JSON(parsing: world.a.configuration)
    let numbers: [JSON] = [.number("-1"), .number("1e99"), .string("1400"), .bool(true), .array([])]
    let words: [JSON] = [.number("7"), .string("nonsense"), .object([]), .array([.null])]
    var wrong: [(String, JSON)] = []
    func with(_ name: String, _ values: [JSON]) {
      for value in values {
        var configuration = good
        configuration[name] = value
        wrong.append(("\(name) = \(value.serialized)", configuration))
      }
    }
    with("mtu", numbers)
    with("interface", words)
    with("cniVersion", words)
    with("name", [.number("7"), .string(""), .string("a/b"), .object([])])
    with("ipMasq", [.string("nonsense"), .number("7")])
    with("runtimeConfig", [.number("7"), .string("nonsense"), .array([.null])])
    with("dns", [.string("nonsense"), .number("7")])
    with("prevResult", words)
    with("ipam", words)
    for section in [
      #"{"type": 7}"#, #"{"type": "../host-local"}"#, #"{"type": "host-local"}"#,
      #"{"type": "host-local", "ranges": [[]]}"#, #"{"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/31"}]]}"#,
      #"{"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24", "rangeStart": "10.9.0.1"}]]}"#,
      #"{"type": "host-local", "dataDir": "/proc/none", "ranges": [[{"subnet": "10.244.0.0/24"}]]}"#,
      #"{"type": "kalsae", "mode": "nonsense"}"#,
      #"{"type": "kalsae", "pools": ["no-such-pool"], "store": "/proc/none"}"#,
    ] { with("ipam", [try JSON(parsing: section)]) }
    for runtime in [
      #"{"mac": "nonsense"}"#, #"{"mac": "01:00:00:00:00:00"}"#, #"{"ips": ["nonsense"]}"#, #"{"ips": "10.244.0.9"}"#,
      #"{"portMappings": [{"hostPort": 70000, "containerPort": 80}]}"#, #"{"portMappings": [{"hostPort": 80}]}"#,
      #"{"bandwidth": {"ingressBurst": 99}}"#, #"{"bandwidth": {"ingressRate": -1}}"#,
    ] { with("runtimeConfig", [try JSON(parsing: runtime)]) }
    var accepted: [String] = []
    for (what, configuration) in wrong {
      let result = try world.a.run(
        "ADD", container: "one", namespace: one.path, configuration: configuration.serialized)
      guard result.status != .exited(0) else {
        accepted.append(what)
        try world.a.delete("one", namespace: one)
        continue
      }
      let told = try error(result)
      #expect(told.code != nil, "\(what): \(told)")
      #expect(try one.devices() == ["lo"], "\(what)")
      #expect(try world.interfaces(world.a).isEmpty, "\(what)")
    }
    #expect(accepted.isEmpty)
    #expect(try world.leftovers(world.a).isEmpty)
  }
}
