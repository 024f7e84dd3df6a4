import Addresses
import Lab
import Testing

/// Two agents on one wire.
@Suite("Kalsae to Kalsae", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(4)))
struct KalsaeTests {
  @Test(
    "NODE-5, NODE-3: pods of two nodes reach each other in every mode; no host answers for them",
    arguments: Cluster.Mode.allCases, IPFamily.allCases)
  func mode(_ mode: Cluster.Mode, _ family: IPFamily) throws {
    let test = try TestCluster("mode")
    defer { test.lab.cleanUp() }
    try test.start()
    if family == .ipv4 { try test.cluster.setMode(mode) } else { try test.cluster.setMode(.direct, ipv6: mode) }
    let (a, b) = (test.a.pods, test.b.pods)
    let payload = try Payload(byteCount: 20_000_000)
    try judged(test.a.namespace, "eth0", try test.path("wire.pcap")) {
      for from in a {
        for to in b {
          let ping = try from.namespace.ping("\(to.address(family))", count: 3, interval: .milliseconds(20))
          #expect(ping.isComplete, "\(from.name) to \(to.name): \(ping)")
        }
      }
      #expect(try a[0].namespace.ping("\(b[1].address(family))", count: 2, size: 65_507).isComplete)
      #expect(try b[0].namespace.ping("\(a[1].address(family))", count: 2, size: 65_507).isComplete)
      try test.lab.transfer(payload, from: a[0].namespace, to: b[0].namespace, address: b[0].address(family))
    }
    try test.lab.transfer(payload, from: b[1].namespace, to: a[1].namespace, address: a[1].address(family))
    // Within a node, from veth to TAP.
    #expect(try a[0].namespace.ping("\(a[1].address(family))", count: 3, interval: .milliseconds(20)).isComplete)
    try test.lab.transfer(payload, from: a[0].namespace, to: a[1].namespace, address: a[1].address(family))
    for node in test.cluster.nodes {
      #expect(sum(of: "receiveErrors", in: try test.cluster.ask("ports", node)) == 0)
    }
  }

  @Test("NODE-2: the gateway and pods of other nodes are answered for by ARP and NDP, the asker and probes are not")
  func addressResolution() throws {
    let test = try TestCluster("arp")
    defer { test.lab.cleanUp() }
    try test.start()
    let hostMAC = MACAddress("ee:ee:ee:ee:ee:ee")
    for pod in test.a.pods {
      let namespace = pod.namespace
      #expect(try namespace.arping(Cluster.gateway4, on: "eth0") == hostMAC)
      #expect(try namespace.arping(test.b.pods[0].ipv4, on: "eth0") == hostMAC)
      #expect(try namespace.arping(pod.ipv4, on: "eth0", source: pod.ipv4) == nil)
      #expect(try namespace.arping(Cluster.gateway4, on: "eth0", source: .any) == nil)
      // An address of the pool that no pod has is in a block of this node, and unreachable.
      #expect(try namespace.arping(IPv4Address(10, 244, 0, 200), on: "eth0") == nil)
      #expect(try namespace.ping("\(test.b.pods[0].ipv6)", count: 1).isComplete)
      let neighbour = try namespace.run("ip", "-6", "neigh", "show", "\(Cluster.gateway6)").standardOutput
      #expect(neighbour.contains("ee:ee:ee:ee:ee:ee"))
    }
  }

  @Test(
    "NODE-6: a packet that does not fit the tunnel is answered with the right MTU, and TCP adapts",
    arguments: [Cluster.Mode.ipip, .gre, .vxlan, .geneve], IPFamily.allCases)
  func tooBig(_ mode: Cluster.Mode, _ family: IPFamily) throws {
    let test = try TestCluster("big")
    defer { test.lab.cleanUp() }
    try test.start()
    if family == .ipv4 { try test.cluster.setMode(mode) } else { try test.cluster.setMode(.direct, ipv6: mode) }
    try test.cluster.setPodMTU(1500)
    let (from, to) = (test.a.pods[0], test.b.pods[0])
    let header = family == .ipv4 ? 28 : 48
    let address = to.address(family)
    let big = try from.namespace.ping("\(address)", count: 1, size: 1500 - header, dontFragment: true)
    #expect(big.reportedMTU == 1500 - mode.overhead)
    #expect(big.received == 0)
    try test.cluster.forgetPaths(of: from)
    let fits = try from.namespace.ping(
      "\(address)", count: 1, size: 1500 - mode.overhead - header, dontFragment: true)
    #expect(fits.isComplete)
    let sent = try test.lab.transfer(
      try Payload(byteCount: 3_000_000), from: from.namespace, to: to.namespace, address: address
    ).sent
    #expect(sent.pathMTU == 1500 - mode.overhead)
  }

  @Test(
    "the node reaches pods of its own and of other nodes through kalsae0, and they reach the nodes",
    arguments: [Cluster.Mode.direct, .vxlan])
  func host(_ mode: Cluster.Mode) throws {
    let test = try TestCluster("host")
    defer { test.lab.cleanUp() }
    // Strict reverse path filtering, as some distributions have it, must not be in the way.
    for node in test.cluster.nodes { try node.namespace.sysctl("net/ipv4/conf/all/rp_filter", "1") }
    try test.start()
    try test.cluster.setMode(mode)
    let payload = try Payload(byteCount: 5_000_000)
    for pod in test.cluster.pods {
      #expect(try test.a.namespace.ping("\(pod.ipv4)", count: 2, interval: .milliseconds(20)).isComplete, "\(pod.name)")
      #expect(try test.a.namespace.ping("\(pod.ipv6)", count: 2, interval: .milliseconds(20)).isComplete, "\(pod.name)")
      for node in test.cluster.nodes {
        let ping = try pod.namespace.ping("\(node.ipv4)", count: 2, interval: .milliseconds(20))
        #expect(ping.isComplete, "\(pod.name) to \(node.name): \(ping)")
      }
      try test.lab.transfer(payload, from: test.a.namespace, to: pod.namespace, address: .v4(pod.ipv4))
      try test.lab.transfer(payload, from: pod.namespace, to: test.a.namespace, address: .v4(test.a.ipv4))
    }
  }

  @Test("NODE-4: a pod cannot send from addresses that it does not have, nor tunnel packets")
  func sourceChecks() throws {
    let test = try TestCluster("source")
    defer { test.lab.cleanUp() }
    try test.start()
    let (from, to) = (test.a.pods[0], test.b.pods[0])
    try from.namespace.ip("addr add 10.244.0.77/32 dev eth0")
    #expect(
      try from.namespace.ping("\(to.ipv4)", count: 2, source: "10.244.0.77", wait: .milliseconds(300)).received == 0)
    #expect(try test.cluster.ask("drops", test.a).contains("\"reason\":\"sourceAddress\""))
    try test.cluster.setMode(.ipip)
    // An IPv4 packet in IPv4 (protocol 4), from the pod's own address to a node.
    let script =
      "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4); "
      + "s.sendto(bytes.fromhex('4500001400000000400166e20af401630af40102'), ('\(test.b.ipv4)', 0))"
    try from.namespace.run("python3", "-c", script).check()
    try waitUntil("the packet to be dropped") {
      try test.cluster.ask("drops", test.a).contains("\"reason\":\"tunnelFromPod\"")
    }
  }
}
