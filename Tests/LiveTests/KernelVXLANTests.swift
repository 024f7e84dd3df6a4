import Addresses
import Lab
import Testing

/// Kalsae and the kernel's own VXLAN device.
@Suite(
  "Kalsae and the kernel's VXLAN", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces),
  .timeLimit(.minutes(5)))
struct KernelVXLANTests {
  /// Node a runs Kalsae; node b is the kernel, whose VXLAN device has the addresses of a pod.
  private func make(
    udpChecksum: Bool, offload: Bool = false
  ) throws -> (TestCluster, IPv4Address, IPv6Address) {
    let test = try TestCluster("vxlan", [.init("a"), .foreign("b")], offload: offload)
    let (a, b) = (test.a, test.b)
    let near = MACAddress(derivedFrom: a.name)
    let (four, six) = (IPv4Address(10, 244, 1, 2), IPv6Address("fd00:10:244:1::2")!)
    try b.namespace.ip(
      "link add vxlan0 address \(MACAddress(derivedFrom: b.name)) type vxlan id 4096 dstport 4789 local \(b.ipv4) dev eth0"
        + " nolearning \(udpChecksum ? "udpcsum" : "noudpcsum")",
      "addr add \(four)/32 dev vxlan0", "addr add \(six)/128 dev vxlan0 nodad", "link set vxlan0 up",
      "neigh add 10.244.0.0 lladdr \(near) dev vxlan0 nud permanent",
      "neigh add fd00:10:244:: lladdr \(near) dev vxlan0 nud permanent",
      "route add \(a.block4) via 10.244.0.0 dev vxlan0 onlink src \(four)",
      "route add \(a.block6) via fd00:10:244:: dev vxlan0 onlink src \(six)")
    try b.namespace.run("bridge", "fdb", "append", "\(near)", "dev", "vxlan0", "dst", "\(a.ipv4)").check()
    try test.start()
    try test.cluster.setMode(.vxlan, ipv6: .vxlan)
    return (test, four, six)
  }

  @Test("TUN-3, TUN-9: pings and transfers both ways, with super-frames", arguments: [false, true])
  func both(udpChecksum: Bool) throws {
    let (test, four, six) = try make(udpChecksum: udpChecksum, offload: true)
    defer { test.lab.cleanUp() }
    let payload = try Payload(byteCount: 30_000_000)
    for pod in test.a.pods {
      for (own, other) in [(IPAddress.v4(pod.ipv4), IPAddress.v4(four)), (.v6(pod.ipv6), .v6(six))] {
        #expect(try pod.namespace.ping("\(other)", count: 3, interval: .milliseconds(20)).isComplete)
        #expect(try pod.namespace.ping("\(other)", count: 2, size: 65_507).isComplete)
        #expect(
          try test.b.namespace.ping("\(own)", count: 3, interval: .milliseconds(20), source: "\(other)").isComplete)
        #expect(try test.b.namespace.ping("\(own)", count: 2, size: 65_507, source: "\(other)").isComplete)
        try test.lab.transfer(payload, from: pod.namespace, to: test.b.namespace, address: other)
        try test.lab.transfer(payload, from: test.b.namespace, to: pod.namespace, address: own)
      }
    }
    // The kernel's super-frames came whole: far fewer frames than segments.
    let ports = try test.cluster.ask("ports", test.a)
    #expect(sum(of: "receiveErrors", in: ports) == 0)
  }

  @Test("what Kalsae puts on the wire is right to the last checksum, and no host refuses anything")
  func wire() throws {
    let (test, four, six) = try make(udpChecksum: false)
    defer { test.lab.cleanUp() }
    let pod = test.a.pods[0]
    let payload = try Payload(byteCount: 1_000_000)
    let file = try test.path("wire.pcap")
    let capture = try test.a.namespace.capture(on: "eth0", to: file, filter: "src \(test.a.ipv4)")
    for other in [IPAddress.v4(four), .v6(six)] {
      #expect(try pod.namespace.ping("\(other)", count: 3, interval: .milliseconds(20)).isComplete)
      try test.lab.transfer(payload, from: pod.namespace, to: test.b.namespace, address: other)
    }
    _ = try capture.stop()
    #expect(try PacketCheck.findMalformed(in: file).prefix(5).isEmpty)
    try expectNoRefusal(file)
    #expect(try PacketCheck.count(in: file, filter: "vxlan.vni == 4096 && tcp") > 500)
    #expect(try PacketCheck.count(in: file, filter: "udp.srcport < 49152 && vxlan") == 0)
  }

  @Test("NODE-2: a peer that bridges asks by ARP inside the tunnel and is answered")
  func innerARP() throws {
    let (test, four, _) = try make(udpChecksum: false)
    defer { test.lab.cleanUp() }
    let pod = test.a.pods[0]
    try test.b.namespace.ip(
      "neigh del 10.244.0.0 lladdr \(MACAddress(derivedFrom: test.a.name)) dev vxlan0",
      "route replace \(pod.ipv4)/32 dev vxlan0 src \(four)")
    try test.b.namespace.run(
      "bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vxlan0", "dst", "\(test.a.ipv4)"
    ).check()
    #expect(try test.b.namespace.ping("\(pod.ipv4)", count: 2, source: "\(four)").isComplete)
    #expect(
      try test.b.namespace.run("ip", "neigh", "show", "\(pod.ipv4)").standardOutput
        .contains("\(MACAddress(derivedFrom: test.a.name))"))
  }
}
