import Addresses
import Lab
import Testing

/// Kalsae and another machine's kernel: IPIP, GRE and Geneve as Linux does them.
@Suite(
  "Kalsae and a real kernel's tunnels", .serialized,
  .enabled(if: Lab.isAvailable && KernelPeer.isPrepared, "needs root, and tools/kernel-peer prepare"),
  .timeLimit(.minutes(5)))
struct KernelTunnelTests {
  /// The commands that make the machine's end of the tunnel `t0`, and routes to node a's pods through it.
  private func script(_ mode: Cluster.Mode, _ a: Cluster.Node, _ b: Cluster.Node) -> String {
    let ends = "local \(b.ipv4) remote \(a.ipv4)"
    let near = MACAddress(derivedFrom: a.name)
    let own = MACAddress(derivedFrom: b.name)
    let device =
      switch mode {
      case .ipip: "ip link add t0 type ipip \(ends) ttl 64\nip link add t6 type sit \(ends) ttl 64"
      case .gre: "ip link add t0 type gre \(ends) ttl 64"
      case .geneve: "ip link add t0 address \(own) type geneve id 4096 remote \(a.ipv4) dstport 6081"
      // Without a device it has the MTU of the wire: its big packets are fragmented outside, and put together here.
      case .vxlan:
        "ip link add t0 address \(own) type vxlan id 4096 dstport 4789 \(ends) nolearning"
      case .direct: ""
      }
    let isEthernet = mode == .geneve || mode == .vxlan
    let via4 = isEthernet ? "via 10.244.0.0 " : ""
    let via6 = isEthernet ? "via fd00:10:244:: " : ""
    let neighbours =
      isEthernet
      ? "ip neigh add 10.244.0.0 lladdr \(near) dev t0 nud permanent\n"
        + "ip neigh add fd00:10:244:: lladdr \(near) dev t0 nud permanent" : ""
    let six = mode == .ipip ? "t6" : "t0"
    let onlink = isEthernet ? " onlink" : ""
    return """
      \(device)
      \(mode == .ipip ? "ip link set t6 up" : "")
      ip addr add 10.244.1.2/32 dev t0
      ip addr add fd00:10:244:1::2/128 dev \(six) nodad
      ip link set t0 up
      \(neighbours)
      ip route add \(a.block4) \(via4)dev t0 src 10.244.1.2\(onlink)
      ip -6 route add \(a.block6) \(via6)dev \(six) src fd00:10:244:1::2\(onlink)
      """
  }

  @Test(
    "TUN-1, TUN-2, TUN-3, TUN-4: pings and transfers both ways, finished packets and super-frames",
    arguments: zip([Cluster.Mode.ipip, .gre, .geneve, .vxlan], [true, false, true, false]))
  func both(_ mode: Cluster.Mode, offload: Bool) throws {
    let test = try TestCluster("kernel", [.init("a"), .foreign("b", hasAddress: false)])
    defer { test.lab.cleanUp() }
    let (a, b) = (test.a, test.b)
    let peer = try KernelPeer(in: b.namespace, tap: "tap0", addresses: ["\(b.ipv4)/24"], offload: offload)
    defer { try? peer.stop() }
    try test.lab.bridge(Endpoint(b.namespace, "br0"), ports: ["eth0", "tap0"])
    try peer.shell(script(mode, a, b))
    try test.start()
    try test.cluster.setMode(mode, ipv6: mode)
    let pod = a.pods[0]
    let file = try test.path("wire.pcap")
    let capture = try a.namespace.capture(on: "eth0", to: file, filter: "src \(a.ipv4)", limit: 3000)
    let payload = try Payload(byteCount: 2_000_000)
    for (own, other) in [
      (IPAddress.v4(pod.ipv4), IPAddress("10.244.1.2")!), (.v6(pod.ipv6), IPAddress("fd00:10:244:1::2")!),
    ] {
      #expect(try pod.namespace.ping("\(other)", count: 3).isComplete)
      // The machine's VXLAN device has a larger MTU than the pod: it learns that from its first answer.
      if mode == .vxlan { _ = try pod.namespace.ping("\(other)", count: 1, size: 65_507, wait: .seconds(1)) }
      let large = try pod.namespace.ping("\(other)", count: 2, size: 65_507, wait: .seconds(4))
      let drops = large.isComplete ? "" : try test.cluster.ask("drops", a)
      #expect(large.isComplete, "\(other): \(large): \(drops)")
      #expect(try peer.run("ping", "-c", "3", "-W", "4", "\(own)").isSuccess)
      #expect(try peer.run("ping", "-c", "2", "-s", "20000", "-W", "4", "\(own)").isSuccess)
      try peer.receive(payload, from: pod.namespace, at: other, port: 5001)
      try peer.send(byteCount: 2_000_000, to: pod.namespace, at: own)
    }
    // On the TAP pod as well.
    #expect(try a.pods[1].namespace.ping("10.244.1.2", count: 2).isComplete)
    try peer.send(byteCount: 1_000_000, to: a.pods[1].namespace, at: .v4(a.pods[1].ipv4))
    _ = try? capture.stop()
    #expect(try PacketCheck.findMalformed(in: file).prefix(5).isEmpty)
    try expectNoRefusal(file)
  }
}
