import Addresses
import Lab
import Testing

/// Two agents on one wire: what is special about the tunnels between them.
@Suite(
  "Tunnels, Kalsae to Kalsae", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(4)))
struct KalsaeTunnelTests {
  @Test(
    "TUN-1 to TUN-4: tunnels over an IPv6 underlay", arguments: [Cluster.Mode.ipip, .gre, .vxlan, .geneve])
  func overIPv6(_ mode: Cluster.Mode) throws {
    let test = try TestCluster("over6")
    defer { test.lab.cleanUp() }
    try test.cluster.configureNodes("tunnelIPFamily: IPv6")
    try test.start()
    try test.cluster.setMode(mode, ipv6: mode, extraOverhead: 20)
    let (a, b) = (test.a.pods, test.b.pods)
    let payload = try Payload(byteCount: 5_000_000)
    let file = try test.path("wire.pcap")
    try judged(test.a.namespace, "eth0", file) {
      for family in IPFamily.allCases {
        #expect(
          try a[0].namespace.ping("\(b[0].address(family))", count: 3, interval: .milliseconds(20)).isComplete)
        #expect(try a[1].namespace.ping("\(b[1].address(family))", count: 2, size: 65_507).isComplete)
        try test.lab.transfer(payload, from: a[0].namespace, to: b[0].namespace, address: b[0].address(family))
        try test.lab.transfer(payload, from: b[1].namespace, to: a[1].namespace, address: a[1].address(family))
      }
    }
    #expect(try PacketCheck.count(in: file, filter: "ipv6.src == \(test.a.ipv6) && icmp") >= 3)
    #expect(try PacketCheck.count(in: file, filter: "ip.src == \(test.a.ipv4) && icmp") == 0)
  }

  @Test(
    "TUN-9: TCP in tunnels passes as super-frames from pod to pod, and as well where Kalsae cuts them itself",
    arguments: [Cluster.Mode.ipip, .gre, .vxlan, .geneve], [true, false])
  func superFrames(_ mode: Cluster.Mode, _ tunnelOffload: Bool) throws {
    let test = try TestCluster("super", offload: true)
    defer { test.lab.cleanUp() }
    try test.cluster.configureNodes("tunnelOffload: \(tunnelOffload)")
    try test.start()
    try test.cluster.setMode(mode, ipv6: mode)
    let (a, b) = (test.a.pods, test.b.pods)
    let payload = try Payload(byteCount: 20_000_000)
    let file = try test.path("wire.pcap")
    let capture = try test.a.namespace.capture(on: "eth0", to: file, filter: "src \(test.a.ipv4)", snapLength: 128)
    for (from, to) in [(a[0], b[0]), (a[1], b[1])] {
      for family in IPFamily.allCases {
        try test.lab.transfer(payload, from: from.namespace, to: to.namespace, address: to.address(family))
      }
    }
    _ = try capture.stop()
    // Not all are: the first round trips of a connection are small.
    let long = try PacketCheck.count(in: file, filter: "frame.len > 10000")
    let short = try PacketCheck.count(in: file, filter: "frame.len > 1000 && frame.len < 1600")
    if tunnelOffload { #expect(long > 500 && short < 10_000) } else { #expect(long == 0 && short > 50_000) }
    for node in test.cluster.nodes {
      #expect(sum(of: "receiveErrors", in: try test.cluster.ask("ports", node)) == 0)
    }
  }

  @Test("the setting tunnelOffload is followed while the agent runs")
  func tunnelOffloadChanges() throws {
    let test = try TestCluster("switch", offload: true)
    defer { test.lab.cleanUp() }
    try test.start()
    try test.cluster.setMode(.vxlan)
    let (from, to) = (test.a.pods[0], test.b.pods[0])
    let payload = try Payload(byteCount: 3_000_000)
    for value in [false, true] {
      try test.cluster.configureNodes("tunnelOffload: \(value)")
      try waitUntil("the agent to open its underlay anew") {
        test.cluster.logText(of: test.a).ranges(of: "underlay: eth0").count == (value ? 3 : 2)
      }
      #expect(try from.namespace.ping("\(to.ipv4)", count: 2).isComplete)
      let file = try test.path("wire-\(value).pcap")
      let capture = try test.a.namespace.capture(on: "eth0", to: file, filter: "src \(test.a.ipv4)", snapLength: 128)
      try test.lab.transfer(payload, from: from.namespace, to: to.namespace, address: .v4(to.ipv4))
      _ = try capture.stop()
      #expect((try PacketCheck.count(in: file, filter: "frame.len > 2000") > 0) == value)
    }
  }

  @Test(
    "TUN-2, TUN-3: GRE with key, checksum and sequence numbers, VXLAN and Geneve with UDP checksums",
    arguments: [Cluster.Mode.gre, .vxlan, .geneve])
  func options(_ mode: Cluster.Mode) throws {
    let test = try TestCluster("options")
    defer { test.lab.cleanUp() }
    try test.cluster.configureNodes("greKey: 77", "greChecksum: true", "greSequence: true", "udpTunnelChecksum: true")
    try test.start()
    try test.cluster.setMode(mode, extraOverhead: mode == .gre ? 12 : 0)
    let (a, b) = (test.a.pods, test.b.pods)
    let file = try test.path("wire.pcap")
    try judged(test.a.namespace, "eth0", file) {
      #expect(try a[0].namespace.ping("\(b[0].ipv4)", count: 3, interval: .milliseconds(20)).isComplete)
      #expect(try a[1].namespace.ping("\(b[1].ipv4)", count: 2, size: 65_507).isComplete)
      try test.lab.transfer(
        try Payload(byteCount: 5_000_000), from: a[0].namespace, to: b[0].namespace, address: .v4(b[0].ipv4))
    }
    let filter =
      mode == .gre
      ? "gre.key == 77 && gre.flags.checksum == 1 && gre.flags.sequence_number == 1"
      : "\(mode.rawValue) && udp.checksum != 0"
    let packets = try PacketCheck.count(in: file, filter: filter)
    #expect(packets > 1000)
    #expect(try PacketCheck.count(in: file, filter: mode.rawValue) == packets)
  }
}
