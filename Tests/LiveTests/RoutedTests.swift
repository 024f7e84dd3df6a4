import Addresses
import Lab
import Testing

/// Two nodes in networks of their own, with a router between them whose second link is narrow.
@Suite(
  "Kalsae across a router", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct RoutedTests {
  @Test(
    "NODE-5: CrossSubnet wraps what leaves the subnet; the gateway is the neighbour that is asked for",
    arguments: [Cluster.Mode.ipip, .gre, .vxlan, .geneve])
  func routed(_ mode: Cluster.Mode) throws {
    let test = try TestCluster("routed", routedMTU: 1500)
    defer { test.lab.cleanUp() }
    try test.start()
    try test.cluster.setMode(mode, when: "CrossSubnet")
    let (from, to) = (test.a.pods[0], test.b.pods[1])
    let file = try test.path("wire.pcap")
    // On the router: nothing of the pods' own may be seen outside of a tunnel there.
    let capture = try #require(test.cluster.router).capture(on: "eth0", to: file)
    #expect(try from.namespace.ping("\(to.ipv4)", count: 3, interval: .milliseconds(20)).isComplete)
    try test.lab.transfer(
      try Payload(byteCount: 2_000_000), from: from.namespace, to: to.namespace, address: .v4(to.ipv4))
    _ = try capture.stop()
    #expect(
      try PacketCheck.count(in: file, filter: "\(mode.rawValue == "ipip" ? "ip.proto == 4" : mode.rawValue) && icmp")
        >= 6)
    #expect(try PacketCheck.findMalformed(in: file).prefix(5).isEmpty)
    try expectNoRefusal(file)
    let neighbours = try test.cluster.ask("neighbours", test.a)
    #expect(neighbours.contains("\"address\":\"10.0.0.254\""))
  }

  @Test("NODE-5: CrossSubnet leaves what stays in the subnet as it is")
  func sameSubnet() throws {
    let test = try TestCluster("subnet")
    defer { test.lab.cleanUp() }
    try test.start()
    try test.cluster.setMode(.ipip, when: "CrossSubnet")
    let file = try test.path("wire.pcap")
    let capture = try test.a.namespace.capture(on: "eth0", to: file)
    #expect(try test.a.pods[0].namespace.ping("\(test.b.pods[0].ipv4)", count: 2).isComplete)
    _ = try capture.stop()
    #expect(try PacketCheck.count(in: file, filter: "icmp && ip.src == \(test.a.pods[0].ipv4)") == 2)
    #expect(try PacketCheck.count(in: file, filter: "ip.proto == 4") == 0)
  }

  @Test(
    "TUN-7: a router's word about a narrow link inside the tunnel's path reaches the pod, with the tunnel's share off",
    arguments: [Cluster.Mode.ipip, .gre, .vxlan, .geneve])
  func narrow(_ mode: Cluster.Mode) throws {
    let test = try TestCluster("narrow", routedMTU: 1300)
    defer { test.lab.cleanUp() }
    try test.start()
    try test.cluster.setMode(mode)
    let (from, to) = (test.a.pods[0], test.b.pods[0])
    // What the far pod says of its own link must not hide the narrow one.
    try to.namespace.setMTU(1500 - mode.overhead, of: "eth0")
    // The first packet is too big for the router only; its report makes the node tell the pod about the next.
    let size = 1500 - mode.overhead - 28
    let ping = try from.namespace.ping("\(to.ipv4)", count: 3, size: size, dontFragment: true, wait: .seconds(1))
    #expect(ping.received == 0)
    #expect((ping.localMTU ?? ping.reportedMTU) == 1300 - mode.overhead, "\(ping.output)")
    try test.cluster.forgetPaths(of: from)
    let sent = try test.lab.transfer(
      try Payload(byteCount: 2_000_000), from: from.namespace, to: to.namespace, address: .v4(to.ipv4)
    ).sent
    #expect(sent.pathMTU == 1300 - mode.overhead)
  }
}
