import Addresses
import Dataplane
import Glibc
import Lab
import Testing

@testable import EBPF

/// A node whose kernel routes, with two pods and a machine outside; the kernel's programs enforce policy between them.
///
///     a (10.7.0.5) ── a0  node (192.168.7.1)  o0 ── out (192.0.2.9)
///     b (10.7.0.6) ── b0
private final class PolicyLab {
  let lab: Lab
  let node: Namespace
  let a: Namespace
  let b: Namespace
  let out: Namespace
  let name: String
  var tables = Tables()
  private(set) var devices: [PortIndex: Int32] = [:]
  /// Who has loaded the programs; nil: who is gone.
  var enforcer: PolicyEnforcer?

  static let addresses = ["a": "10.7.0.5", "b": "10.7.0.6", "o": "192.0.2.9"]

  init(_ label: String) throws {
    name = "test-\(getpid())-\(label)"
    lab = try Lab(name: label)
    node = try lab.namespace("node")
    a = try lab.namespace("a")
    b = try lab.namespace("b")
    out = try lab.namespace("out")
    try node.sysctl("net/ipv4/ip_forward", "1")
    try node.ip("link set lo up")
    for (space, letter) in [(a, "a"), (b, "b"), (out, "o")] {
      let address = PolicyLab.addresses[letter]!
      try lab.veth(
        Endpoint(space, "eth0", addresses: ["\(address)/32"]),
        Endpoint(node, "\(letter)0", addresses: letter == "a" ? ["192.168.7.1/32"] : []))
      try space.ip("link set lo up")
      try space.addRoute("default dev eth0")
      try node.addRoute("\(address) dev \(letter)0")
      try node.sysctl("net/ipv4/conf/\(letter)0/proxy_arp", "1")
      // Else it is answered when it pleases, within 0.8 s.
      try node.sysctl("net/ipv4/neigh/\(letter)0/proxy_delay", "0")
    }
    tables.addOwnAddress(IPAddress("192.168.7.1")!)
    for (letter, peer) in [("a", PeerIndex(1)), ("b", 2)] {
      let address = IPAddress(PolicyLab.addresses[letter]!)!
      let port = tables.addPort(
        PortDescription(name: letter, role: .pod, mac: MACAddress("ee:ee:ee:ee:ee:ee")!, mtu: 1500))
      let index = try node.withNamespace { unsafe if_nametoindex("\(letter)0") }
      devices[port] = Int32(index)
      tables.setPodAddress(address, port: port)
      tables.setPolicyIdentity(peer, peers: [peer], ports: [])
      tables.setPodPolicy(address, PodPolicy(identity: peer))
    }
  }

  deinit {
    _ = try? node.withNamespace { PolicyEnforcer.unload(node: name) }
    lab.cleanUp()
  }

  /// Loads and attaches, or brings up to date; what was loaded before is taken over.
  func settle() throws {
    guard let enforcer else {
      tables.followPolicies()
      let changes = tables.takePolicyChanges()
      enforcer = try node.withNamespace {
        let enforcer = try PolicyEnforcer(node: name, changes, devices: devices)
        try enforcer.attach(Set(devices.values))
        return enforcer
      }
      return
    }
    let changes = tables.takePolicyChanges()
    let fits = try enforcer.apply(changes)
    #expect(fits)
  }

  /// Whether one reaches the other's port by TCP.
  func reaches(_ from: Namespace, _ to: String, port: Int = 8080) throws -> Bool {
    try from.run(
      "/usr/bin/python3", "-c",
      "import socket; socket.create_connection((\"\(PolicyLab.addresses[to]!)\", \(port)), 0.7)"
    ).isSuccess
  }

  func serve(_ space: Namespace, _ ports: [Int]) throws {
    for port in ports {
      _ = try space.spawn(
        "/usr/bin/python3", "-c",
        "import socket\ns = socket.create_server((\"\", \(port)), backlog=64)\nwhile True: s.accept()")
      try waitUntil("the server") { try space.run("ss", "-Hlnt").standardOutput.contains(":\(port)") }
    }
  }
}

@Suite("Policy at devices", .serialized, .enabled(if: Lab.isAvailable, "needs root"), .timeLimit(.minutes(5)))
struct PolicyLiveTests {
  @Test(
    "NP-1 NP-2 NP-6 NP-7 pods of a node whose kernel routes are kept apart, and nothing is left when it is unloaded")
  func devices() throws {
    let lab = try PolicyLab("policy")
    try lab.serve(lab.b, [8080, 8081])
    try lab.serve(lab.a, [8080])
    try lab.serve(lab.out, [8080])
    try lab.settle()
    for (from, to) in [(lab.a, "b"), (lab.out, "b"), (lab.a, "o"), (lab.b, "a"), (lab.node, "b")] {
      #expect(try lab.reaches(from, to), "without a policy: \(from.name) to \(to)")
    }
    // Only A may come to B, and to one port; B may not begin anything.
    lab.tables.setPolicyGroup(1, [1: .ports(6, 8080...8080)], pods: [])
    lab.tables.setPolicyGroup(2, [:], pods: [])
    lab.tables.setPodPolicy(IPAddress("10.7.0.6")!, PodPolicy(identity: 2, egress: 2, ingress: 1))
    try lab.settle()
    #expect(try lab.reaches(lab.a, "b"))
    #expect(try !lab.reaches(lab.a, "b", port: 8081))
    #expect(try !lab.reaches(lab.out, "b"))
    #expect(try !lab.reaches(lab.b, "a"))
    #expect(try !lab.reaches(lab.b, "o"))
    #expect(try lab.reaches(lab.node, "b"), "NP-7: the own node")
    #expect(try lab.reaches(lab.a, "o"))
    let report = try #require(PolicyReport.read(PinFolder(node: lab.name)))
    #expect(report.devices == 2 && report.rules > 0 && report.connections > 0)
    for name in ["known", "allowed", "policyEgress", "policyIngress"] {
      #expect(report.counters.contains { $0.name == name && $0.count > 0 }, "\(name)")
    }
    let drops = try EBPFDump.drops(node: lab.name, limit: 1000)
    #expect(Set(drops.map(\.sample.reason)).isSuperset(of: [.policyEgress, .policyIngress]))
    // Its beginning is there: the addresses of a packet that B sent to A.
    #expect(
      drops.contains {
        $0.sample.reason == .policyEgress && $0.sample.octets.count >= 40
          && Array($0.sample.octets[12..<20]) == [10, 7, 0, 6, 10, 7, 0, 5]
      })
    let again = try EBPFDump.drops(node: lab.name, limit: 1000)
    #expect(again.allSatisfy { $0.sample.timestamp > drops.last!.sample.timestamp }, "each is told once")
    let rules = EBPFDump.policy(node: lab.name).map { "\($0.pod) \($0.direction) \($0.peer) \($0.ports)" }
    #expect(
      rules == [
        "10.7.0.5 egress everybody [\"all\"]", "10.7.0.5 ingress everybody [\"all\"]", "10.7.0.6 egress nobody []",
        "10.7.0.6 ingress 10.7.0.5 [\"tcp 8080\"]",
      ])
    // Whoever loaded it goes; the next one takes over.
    lab.enforcer = nil
    #expect(try lab.reaches(lab.a, "b"))
    #expect(try !lab.reaches(lab.out, "b"))
    let connections = try #require(PolicyReport.read(PinFolder(node: lab.name))).connections
    try lab.settle()
    #expect(try #require(PolicyReport.read(PinFolder(node: lab.name))).connections >= connections)
    #expect(try lab.reaches(lab.a, "b"))
    #expect(try !lab.reaches(lab.out, "b"))
    // The policy goes.
    lab.tables.setPodPolicy(IPAddress("10.7.0.6")!, PodPolicy(identity: 2))
    try lab.settle()
    #expect(try lab.reaches(lab.out, "b"))
    // Everything goes, whatever was forbidden.
    lab.tables.setPodPolicy(IPAddress("10.7.0.6")!, PodPolicy(identity: 2, egress: 2, ingress: 2))
    try lab.settle()
    #expect(try !lab.reaches(lab.a, "b"))
    let wasThere = try lab.node.withNamespace { PolicyEnforcer.unload(node: lab.name) }
    #expect(wasThere)
    try waitUntil("the kernel to take the programs off") { try lab.reaches(lab.a, "b") }
    #expect(!PinFolder(node: lab.name).exists)
  }
}
