import Addresses
import CEBPF
import Dataplane
import Glibc
import Lab
import Ports
import Testing

@testable import EBPF
@testable import Node

/// These tests make network namespaces, which needs root; elsewhere they are reported as skipped.
@Suite("Ingress guard (NODE-3)", .enabled(if: Lab.isAvailable, "needs root and network namespaces"))
struct IngressGuardTests {
  /// `a` – veth – `n`; n is the node.
  private struct Pair {
    let lab: Lab
    let a: Namespace
    let n: Namespace
    let netlink: Netlink
    let device: Int32

    init(_ name: String) throws {
      lab = try Lab(name: name)
      a = try lab.namespace("a")
      n = try lab.namespace("n")
      try lab.veth(
        Endpoint(a, "eth0", addresses: ["10.5.0.1/24"]), Endpoint(n, "host0", addresses: ["10.5.0.2/24"]))
      netlink = try Netlink(in: NetworkNamespace(n.path))
      device = try netlink.link(named: "host0").index
    }

    /// Whether the node answers ARP for its address.
    func answersARP() throws -> Bool { try a.arping(IPv4Address(10, 5, 0, 2), on: "eth0") != nil }
  }

  private func isRefused(_ pair: Pair, _ proto: String) throws -> Bool {
    // A reset or a port unreachable is "Connection refused"; silence is the time-out of 124.
    let script =
      proto == "tcp"
      ? "exec 3<>/dev/tcp/10.5.0.2/81" : "exec 3<>/dev/udp/10.5.0.2/81; echo x >&3; sleep 0.1; echo x >&3"
    let result = try pair.a.run("timeout", "0.6", "bash", "-c", script)
    #expect(result.status == .exited(124) || !result.isSuccess || proto == "udp")
    return result.standardError.contains("refused")
  }

  @Test("the kernel answers neither with RST nor port unreachable nor ARP while it is guarded, and does so again after")
  func silence() throws {
    let pair = try Pair("guard")
    defer { pair.lab.cleanUp() }
    try pair.a.ip("neigh replace 10.5.0.2 lladdr \(pair.n.mac(of: "host0")) dev eth0 nud permanent")
    func answers() throws -> [Bool] {
      [try isRefused(pair, "tcp"), try isRefused(pair, "udp"), try pair.answersARP()]
    }
    #expect(try answers() == [true, true, true])
    let guardian = try IngressGuard(interface: pair.device, classifier: .everything, netlink: pair.netlink)
    #expect(try answers() == [false, false, false])
    try guardian.remove()
    #expect(try answers() == [true, true, true])
    #expect(try !pair.n.run("tc", "qdisc", "show", "dev", "host0").standardOutput.contains("clsact"))
    try guardian.remove()
  }

  @Test("a shared device keeps answering for what is not ours; the classifier can be changed live")
  func shared() throws {
    let pair = try Pair("shared")
    defer { pair.lab.cleanUp() }
    let ours = PacketClassifier(localAddresses: [IPAddress("10.5.0.2")!], udpPorts: [81], protocols: [47])
    let guardian = try IngressGuard(interface: pair.device, classifier: ours, netlink: pair.netlink)
    #expect(try pair.answersARP())
    #expect(try isRefused(pair, "tcp"))
    #expect(try !isRefused(pair, "udp"))
    try guardian.update(PacketClassifier(localAddresses: [IPAddress("10.5.0.2")!], udpPorts: [82]))
    #expect(try isRefused(pair, "udp"))
    try guardian.update(PacketClassifier(destinations: [IPPrefix("10.5.0.2/31")!]))
    #expect(try !isRefused(pair, "tcp"))
    #expect(try pair.answersARP())
  }

  @Test("the data plane's port sees what the guard keeps from the host, and only that")
  func portSeesAll() throws {
    let pair = try Pair("port")
    defer { pair.lab.cleanUp() }
    let ours = PacketClassifier(localAddresses: [IPAddress("10.5.0.2")!], udpPorts: [81])
    var options = AFPacketPort.Options.underlay
    options.namespace = pair.n.path
    options.filter = try ours.socketFilter()
    let port = try AFPacketPort(interface: "host0", options: options)
    let guardian = try IngressGuard(interface: pair.device, classifier: ours, netlink: pair.netlink)
    #expect(try !isRefused(pair, "udp"))
    #expect(try isRefused(pair, "tcp"))
    var batch = FrameBatch()
    #expect(port.receive(into: &batch) == 2, "the two datagrams to port 81, and neither ARP nor TCP")
    for i in 0..<batch.count { #expect(batch[i].octets[23] == 17) }
    port.release(&batch)
    try guardian.remove()
  }

  @Test("filters and clsact of others stay")
  func coexists() throws {
    let pair = try Pair("coexist")
    defer { pair.lab.cleanUp() }
    func tc(_ words: String...) throws -> String { try pair.n.run(["tc"] + words).check().standardOutput }
    _ = try tc("qdisc", "add", "dev", "host0", "clsact")
    _ = try tc("filter", "add", "dev", "host0", "ingress", "pref", "20", "bpf", "da", "bytecode", "1,6 0 0 0")
    do {
      let guardian = try IngressGuard(interface: pair.device, classifier: .everything, netlink: pair.netlink)
      #expect(try tc("filter", "show", "dev", "host0", "ingress").contains("pref 11"))
      _ = guardian
    }
    #expect(try !tc("filter", "show", "dev", "host0", "ingress").contains("pref 11"), "it goes with its last reference")
    #expect(try tc("filter", "show", "dev", "host0", "ingress").contains("pref 20"))
    #expect(try tc("qdisc", "show", "dev", "host0").contains("clsact"))

    // The guard's own clsact stays when somebody else has come to use it.
    _ = try tc("qdisc", "del", "dev", "host0", "clsact")
    let guardian = try IngressGuard(interface: pair.device, classifier: .everything, netlink: pair.netlink)
    _ = try tc("filter", "add", "dev", "host0", "egress", "pref", "20", "bpf", "da", "bytecode", "1,6 0 0 0")
    try guardian.remove()
    #expect(try tc("filter", "show", "dev", "host0", "egress").contains("pref 20"))
  }

  @Test("a guard that a dead process left is taken over and removed with its clsact")
  func takesOver() throws {
    let pair = try Pair("takeover")
    defer { pair.lab.cleanUp() }
    let first = try IngressGuard(interface: pair.device, classifier: .everything, netlink: pair.netlink)
    let second = try IngressGuard(interface: pair.device, classifier: .everything, netlink: pair.netlink)
    let listed = try pair.n.run("tc", "filter", "show", "dev", "host0", "ingress").standardOutput
    #expect(listed.split(separator: "\n").filter { $0.contains("handle") }.count == 1)
    try second.remove()
    #expect(try !pair.n.run("tc", "qdisc", "show", "dev", "host0").standardOutput.contains("clsact"))
    try first.remove()
  }

  @Test(
    "programs as filters, for kernels without tcx, share the guard's clsact: it goes with the last, whichever that is")
  func shares() throws {
    let pair = try Pair("share")
    defer { pair.lab.cleanUp() }
    func tc(_ words: String...) throws -> String { try pair.n.run(["tc"] + words).check().standardOutput }
    func filters() throws -> [Int] {
      try tc("filter", "show", "dev", "host0", "ingress").split(separator: "\n").filter { $0.contains("handle") }
        .compactMap { $0.split(separator: " ").drop { $0 != "pref" }.dropFirst().first.flatMap { Int($0) } }
    }
    func isThere() throws -> Bool { try tc("qdisc", "show", "dev", "host0").contains("clsact") }
    let space = NetworkNamespace(pair.n.path)
    let object = try BPFObject("overlay", EmbeddedObjects.overlay)
    try object.load()
    let program = try object.program("overlay_carry")
    func attach(_ preference: UInt32) throws {
      #expect(try space.run { kalsae_bpf_attach_filter(program, pair.device, false, preference) } == 0)
    }
    func detach(_ preference: UInt32) -> Int32 {
      unsafe kalsae_bpf_detach_filter(pair.n.path, pair.device, false, preference)
    }
    for guardIsFirst in [true, false] {
      for guardGoesFirst in [true, false] {
        if !guardIsFirst { try attach(8) }
        let guardian = try IngressGuard(interface: pair.device, classifier: .everything, netlink: pair.netlink)
        if guardIsFirst { try attach(8) }
        // Twice: the second takes the first one's place.
        for _ in 0..<2 { try attach(10) }
        #expect(try filters() == [8, 10, 11])
        if guardGoesFirst { try guardian.remove() }
        #expect(detach(8) == 0 && detach(10) == 0)
        #expect(try isThere() == !guardGoesFirst)
        try guardian.remove()
        #expect(try !isThere())
        #expect(detach(8) < 0, "there is none any more")
      }
    }
    // What others have stays, and where clsact was theirs it stays too.
    try attach(8)
    _ = try tc("filter", "add", "dev", "host0", "egress", "pref", "20", "bpf", "da", "bytecode", "1,6 0 0 0")
    #expect(detach(8) == 0)
    #expect(try isThere())
    _ = try tc("filter", "del", "dev", "host0", "egress", "pref", "20")
    try attach(8)
    #expect(detach(8) == 0)
    #expect(try isThere())
  }

  @Test("a device that is not there, or goes while it is guarded")
  func missingDevice() throws {
    let pair = try Pair("gone")
    defer { pair.lab.cleanUp() }
    let error = #expect(throws: NodeError.self) {
      try IngressGuard(interface: 4711, classifier: .everything, netlink: pair.netlink)
    }
    #expect(error?.code == ENODEV)
    let guardian = try IngressGuard(interface: pair.device, classifier: .everything, netlink: pair.netlink)
    try pair.netlink.deleteLink(pair.device)
    try guardian.remove()
  }
}
