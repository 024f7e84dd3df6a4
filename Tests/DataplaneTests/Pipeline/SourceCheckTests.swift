import Addresses
import Ports
import Testing

@testable import Dataplane

/// Who may send what (NODE-4), and what goes nowhere (NODE-7).
@Suite struct SourceCheckTests {
  private func expectDrop(
    _ bench: Bench, _ reason: DropReason, _ frame: [UInt8], at port: PortIndex,
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let sent = bench.send(frame, at: port)
    #expect(sent.drops == [reason: 1], sourceLocation: sourceLocation)
    #expect(sent.isSilent, sourceLocation: sourceLocation)
    #expect(bench.pipeline.flowCount == 0, "no flow is made of it", sourceLocation: sourceLocation)
  }

  @Test("NODE-4 a pod sends from its own addresses only", arguments: [IPFamily.ipv4, .ipv6])
  func sourceAddress(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let foreign = family == .ipv4 ? "198.51.100.1" : "2001:db8:9::1"
    for source in [bench.pod(11, family), bench.remote(10, family), IPAddress(foreign)!] {
      expectDrop(bench, .sourceAddress, bench.fromPod(udp(source, bench.remote(11, family))), at: bench.podA)
    }
    // The literal: pod A says it is pod B.
    if family == .ipv4 {
      expectDrop(
        bench, .sourceAddress,
        bytes("eeeeeeeeeeee 0a580af4010a 0800 4500001e 00010000 401161d2 0af4010b 0af4020a 03e807d0 000a6bba 6f6b"),
        at: bench.podA)
    }
  }

  @Test("NODE-4 a pod sends from its own Ethernet address only")
  func sourceMAC() {
    let bench = Bench(.ipip)
    let packet = udp(bench.pod(10), bench.remote(10))
    expectDrop(
      bench, .sourceMAC, ethernet(to: Bench.gatewayMAC, from: Bench.podMAC(1, 11), 0x800, packet), at: bench.podA)
    // It holds for packets of known flows too.
    bench.send(bench.fromPod(packet), at: bench.podA)
    let sent = bench.send(ethernet(to: Bench.gatewayMAC, from: Bench.podMAC(1, 11), 0x800, packet), at: bench.podA)
    #expect(sent.drops == [.sourceMAC: 1])
  }

  @Test("NODE-4 nobody outside has a pod's address", arguments: [IPFamily.ipv4, .ipv6])
  func fromUnderlay(_ family: IPFamily) {
    let bench = Bench(.vxlan)
    expectDrop(
      bench, .sourceAddress, bench.fromNode(udp(bench.pod(11, family), bench.pod(10, family))), at: bench.underlay)
    // Nor inside a tunnel.
    let two = Bench(node: 2, .vxlan)
    let real = two.send(two.fromPod(udp(two.pod(10, family), two.remote(10, family))), at: two.podA)
    let frame = real.only(two.underlay)
    let start = frame.count - (family == .ipv4 ? 30 : 50)
    let spoofed = Array(frame[..<start]) + udp(bench.pod(11, family), bench.pod(10, family), with: IPFields(ttl: 63))
    expectDrop(bench, .sourceAddress, spoofed, at: bench.underlay)
    #expect(bench.send(frame, at: bench.underlay).octets(bench.podA).count == 1)
  }

  @Test("NODE-4 a flow is checked again when the pod's address goes to another")
  func addressMoves() {
    let bench = Bench(.ipip)
    let packet = bench.fromPod(udp(bench.pod(10), bench.remote(10)))
    #expect(bench.send(packet, at: bench.podA).octets(bench.underlay).count == 1)
    bench.tables.setPodAddress(bench.pod(10), port: bench.podB)
    let sent = bench.send(packet, at: bench.podA)
    #expect(sent.drops == [.sourceAddress: 1])
    #expect(sent.isSilent)
    #expect(bench.pipeline.flowCount == 0)
  }

  @Test(
    "NODE-4 tunnel packets only from known peers", arguments: [Encapsulation.ipip, .gre, .vxlan, .geneve])
  func unknownPeer(_ encapsulation: Encapsulation) {
    for outer in [IPFamily.ipv4, .ipv6] {
      let pair = Pair(encapsulation, outer: outer)
      let frame = pair.one.send(
        pair.one.fromPod(udp(pair.one.pod(10), pair.one.remote(10))), at: pair.one.podA
      ).only(pair.one.underlay)
      let address = outer == .ipv4 ? Bench.node4(1) : Bench.node6(1)
      pair.two.tables.setPeer(
        Peer(name: "node1", encapsulations: Set(Encapsulation.allCases).subtracting([encapsulation])), at: address)
      expectDrop(pair.two, .tunnelNotEnabled, frame, at: pair.two.underlay)
      pair.two.tables.removePeer(at: address)
      expectDrop(pair.two, .unknownPeer, frame, at: pair.two.underlay)
      pair.two.tables.setPeer(Peer(name: "node1", encapsulations: [encapsulation]), at: address)
      #expect(pair.two.send(frame, at: pair.two.underlay).octets(pair.two.podA).count == 1)
    }
  }

  @Test("NODE-4 tunnel packets out of a pod are dropped, wherever they go", arguments: [IPFamily.ipv4, .ipv6])
  func tunnelFromPod(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let inner = udp(bench.pod(10), bench.remote(10))
    let targets = [
      family == .ipv4 ? Bench.node4(2) : Bench.node6(2), family == .ipv4 ? Bench.node4(1) : Bench.node6(1),
      bench.remote(10, family), bench.pod(11, family),
    ]
    for target in targets {
      for number in [4, 41, 47] {
        expectDrop(
          bench, .tunnelFromPod, bench.fromPod(ip(bench.pod(10, family), target, number, inner)), at: bench.podA)
      }
      for port in [4789, 6081] {
        let packet = udp(bench.pod(10, family), target, to: port, [8, 0, 0, 0, 0, 16, 0, 0] + inner)
        expectDrop(bench, .tunnelFromPod, bench.fromPod(packet), at: bench.podA)
      }
    }
    // What only looks alike passes.
    let packet = udp(bench.pod(10, family), bench.remote(10, family), from: 4789, to: 4790)
    #expect(bench.send(bench.fromPod(packet), at: bench.podA).octets(bench.underlay).count == 1)
  }

  @Test("NODE-4 a tunnel packet out of a pod is none the less one in fragments", arguments: [IPFamily.ipv4, .ipv6])
  func tunnelFragments(_ family: IPFamily) {
    let bench = Bench()
    let packet = udp(
      bench.pod(10, family), bench.remote(10, family), from: 5000, to: 4789, [UInt8](repeating: 0, count: 32))
    let payload = Array(packet[(family == .ipv4 ? 20 : 40)...])
    for (start, end) in [(0, 24), (24, payload.count)] {
      let part = ip(
        bench.pod(10, family), bench.remote(10, family), 17, Array(payload[start..<end]),
        with: IPFields(identification: 7, more: start == 0, offset: start))
      expectDrop(bench, .tunnelFromPod, bench.fromPod(part), at: bench.podA)
    }
  }

  @Test("NODE-3 the node's own packets on the underlay are left to its kernel, unanswered")
  func leftToHost() {
    let bench = Bench(.ipip)
    bench.tables.setRoute(Route(IPPrefix("0.0.0.0/0")!, hops: [bench.hopHost]))
    for packet in [
      udp(Bench.node4(2), Bench.node4(1)), tcp(Bench.node4(2), Bench.node4(1), Flag.syn),
      icmp(Bench.node4(2), Bench.node4(1), 8), udp(Bench.node6(2), Bench.node6(1)),
      // An address of the node that the data plane was not told: the kernel has its own copy of that as well.
      udp(Bench.node4(2), IPAddress("192.0.2.77")!),
      udp(Bench.node6(2), IPAddress("2001:db8::77")!),
    ] {
      expectDrop(bench, .leftToHost, bench.fromNode(packet), at: bench.underlay)
    }
  }

  @Test("what comes from the underlay never goes out by it again")
  func transit() {
    let bench = Bench()
    expectDrop(bench, .transit, bench.fromNode(udp(Bench.node4(2), bench.remote(10))), at: bench.underlay)
  }

  @Test("a pod's packet to itself does not come back")
  func hairpin() {
    let bench = Bench()
    expectDrop(bench, .hairpin, bench.fromPod(udp(bench.pod(10), bench.pod(10))), at: bench.podA)
  }

  @Test("NODE-7 the own block is a black hole where no pod has the address", arguments: [IPFamily.ipv4, .ipv6])
  func blackhole(_ family: IPFamily) {
    let bench = Bench(.ipip)
    bench.tables.setRoute(Route(IPPrefix("0.0.0.0/0")!, hops: [bench.hop]))
    bench.tables.setRoute(Route(IPPrefix("::/0")!, hops: [bench.hop]))
    let nobody = family == .ipv4 ? IPAddress("10.244.1.77")! : IPAddress("fd00:1::77")!
    expectDrop(bench, .blackhole, bench.fromPod(udp(bench.pod(10, family), nobody)), at: bench.podA)
    expectDrop(bench, .blackhole, bench.fromNode(udp(bench.remote(10, family), nobody)), at: bench.underlay)
    #expect(
      bench.send(bench.fromPod(udp(bench.pod(10, family), nobody)), at: bench.podA).trace.contains(
        .routed(prefix: IPPrefix(family == .ipv4 ? "10.244.1.0/24" : "fd00:1::/64")!, .blackhole)))
  }

  @Test("NP-7 a pod and its node reach each other", arguments: [IPFamily.ipv4, .ipv6])
  func podAndNode(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let node = family == .ipv4 ? Bench.node4(1) : Bench.node6(1)
    let there = udp(bench.pod(10, family), node)
    let out = bench.send(bench.fromPod(there), at: bench.podA).only(bench.host)
    #expect(Array(out[..<12]) == bytes("0200000000ff 0200000000fe"))
    #expect(Array(out[14...]) == hopped(there))
    let answer = udp(node, bench.pod(10, family), from: 2000, to: 1000)
    let back = bench.send(bench.fromHost(answer), at: bench.host)
    #expect(back.only(bench.podA) == bench.toPod(hopped(answer)))
  }

  @Test("a local address without a host port has a reason of its own")
  func noHostPort() {
    let bench = Bench()
    bench.tables.setRoute(Route(IPPrefix("192.0.2.1/32")!, .local))
    expectDrop(bench, .noHostPort, bench.fromPod(udp(bench.pod(10), Bench.node4(1))), at: bench.podA)
  }

  @Test("TUN-1 a packet to the tunnel's end, or from its start, is not put into the tunnel")
  func tunnelLoop() {
    let bench = Bench(.ipip)
    bench.tables.setRoute(Route(IPPrefix("192.0.2.2/32")!, hops: [bench.hop]))
    expectDrop(bench, .tunnelLoop, bench.fromPod(udp(bench.pod(10), Bench.node4(2))), at: bench.podA)
    expectDrop(bench, .tunnelLoop, bench.fromHost(udp(Bench.node4(1), Bench.node4(2))), at: bench.host)
    // A pod with the node's address.
    bench.tables.setPodAddress(Bench.node4(1), port: bench.podA)
    expectDrop(bench, .tunnelLoop, bench.fromPod(udp(Bench.node4(1), bench.remote(10))), at: bench.podA)
  }

  @Test("the node itself reaches pods of other nodes through the tunnel")
  func hostThroughTunnel() {
    let bench = Bench(.ipip)
    let packet = udp(Bench.node4(1), bench.remote(10))
    let out = bench.send(bench.fromHost(packet), at: bench.host).only(bench.underlay)
    #expect(Array(out[34...]) == hopped(packet))
  }
}
