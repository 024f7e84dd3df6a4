import Addresses
import Ports
import Testing

@testable import Dataplane

/// Fragments that pass (TUN-8), and tunnel packets that came in fragments.
@Suite struct FragmentFlowTests {
  private static let families: [IPFamily] = [.ipv4, .ipv6]

  /// The transport's octets of a UDP datagram of 8 + `count` octets without checksum.
  private func datagram(_ count: Int = 1192) -> [UInt8] {
    u16(1000) + u16(2000) + u16(8 + count) + u16(0) + (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31) }
  }

  private func part(
    _ bench: Bench, _ family: IPFamily, _ octets: [UInt8], _ range: Range<Int>, more: Bool, identification: Int = 77,
    number: Int = 17, source: IPAddress? = nil
  ) -> [UInt8] {
    ip(
      source ?? bench.pod(10, family), bench.remote(10, family), number, Array(octets[range]),
      with: IPFields(identification: identification, more: more, offset: range.lowerBound))
  }

  private func parts(_ bench: Bench, _ family: IPFamily, identification: Int = 77) -> [[UInt8]] {
    let octets = datagram()
    return [
      part(bench, family, octets, 0..<400, more: true, identification: identification),
      part(bench, family, octets, 400..<800, more: true, identification: identification),
      part(bench, family, octets, 800..<1200, more: false, identification: identification),
    ]
  }

  @Test("TUN-8 later fragments take the first one's way, also where there are several", arguments: families)
  func follow(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let other = bench.tables.addHop(
      Bench.hopDescription(from: 1, to: 2, .vxlan, .ipv4, port: bench.underlay))
    let prefix = IPPrefix(family == .ipv4 ? "10.244.2.0/24" : "fd00:2::/64")!
    bench.tables.setRoute(Route(prefix, hops: [bench.hop, other]))
    var ways: Set<Int> = []
    for port in 0..<40 {
      var octets = datagram()
      octets.replaceSubrange(0..<2, with: u16(2000 + port))
      let frames = [0..<400, 400..<800, 800..<1200].map {
        bench.fromPod(part(bench, family, octets, $0, more: $0.upperBound < 1200, identification: port))
      }
      let sent = bench.send(frames.map { MemoryFrame($0) }, at: bench.podA)
      let out = sent.octets(bench.underlay)
      #expect(out.count == 3)
      // The same protocol outside, and under VXLAN the same source port.
      #expect(Set(out.map { $0[23] }).count == 1)
      if out.first?[23] == 17 { #expect(Set(out.map { u16($0, 34) }).count == 1) }
      if let first = out.first { ways.insert(Int(first[23])) }
      #expect(bench.pipeline.flows().contains { $0.sourcePort == 2000 + UInt16(port) && $0.forward.packets == 3 })
    }
    #expect(ways.count == 2)
    #expect(bench.pipeline.flowCount == 40)
  }

  @Test("TUN-8 a fragment is known by MF and by its offset, octet for octet")
  func literal() {
    let bench = Bench()
    // 16 octets of a UDP datagram of 24: MF, offset 0; then 8 octets: no MF, offset 2.
    let first = bytes("45000024 00072000 401142c6 0af4010a 0af4010b 03e807d0 00180000 0001020304050607")
    let last = bytes("4500001c 00070002 401162cc 0af4010a 0af4010b 08090a0b0c0d0e0f")
    let sent = bench.send(bench.fromPod(first), bench.fromPod(last), at: bench.podA)
    #expect(
      sent.octets(bench.podB).map(hex) == [
        hex(
          bytes(
            """
            0a580af4010b eeeeeeeeeeee 0800
            45000024 00072000 3f1143c6 0af4010a 0af4010b 03e807d0 00180000 0001020304050607
            """)),
        hex(bytes("0a580af4010b eeeeeeeeeeee 0800 4500001c 00070002 3f1163cc 0af4010a 0af4010b 08090a0b0c0d0e0f")),
      ])
    #expect(bench.pipeline.flowCount == 1)
    #expect(bench.pipeline.flows().first?.destinationPort == 2000)
  }

  @Test("TUN-8 a later fragment that comes too early waits for the first, and goes out behind it", arguments: families)
  func outOfOrder(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let parts = parts(bench, family)
    let start = 34
    #expect(bench.send(bench.fromPod(parts[2]), bench.fromPod(parts[1]), at: bench.podA).isSilent)
    bench.now += 500_000_000
    let sent = bench.send(bench.fromPod(parts[0]), at: bench.podA)
    #expect(sent.octets(bench.underlay).map { Array($0[start...]) } == [parts[0], parts[2], parts[1]].map(hopped))
    #expect(sent.drops.isEmpty)
    #expect(bench.pipeline.flows().first?.forward.packets == 3)
  }

  @Test("TUN-8 a later fragment whose first one does not come is dropped after a second", arguments: families)
  func noFirst(_ family: IPFamily) {
    let bench = Bench(.ipip)
    bench.send(bench.fromPod(parts(bench, family)[1]), at: bench.podA)
    #expect(bench.tick(0.9).drops.isEmpty)
    let sent = bench.tick(0.2)
    #expect(sent.drops == [.fragmentNoFirst: 1])
    #expect(sent.isSilent)
  }

  @Test("TUN-8 fragments that waited go out behind their first ones, however many at once", arguments: families)
  func manyOutOfOrder(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let datagrams = (0..<120).map { parts(bench, family, identification: 100 + $0) }
    for parts in datagrams { #expect(bench.send(bench.fromPod(parts[1]), at: bench.podA).isSilent) }
    let sent = bench.send(datagrams.map { MemoryFrame(bench.fromPod($0[0])) }, at: bench.podA)
    let out = sent.octets(bench.underlay).map { Array($0[34...]) }
    #expect(sent.drops.isEmpty && out.count == 240)
    for parts in datagrams {
      let first = out.firstIndex(of: hopped(parts[0]))
      let second = out.firstIndex(of: hopped(parts[1]))
      #expect(first != nil && second != nil && first! < second!)
    }
    #expect(bench.pipeline.flows().first?.forward.packets == 240)
  }

  @Test("TUN-8 only so many wait")
  func bounded() {
    let bench = Bench(.ipip)
    var dropped = 0
    for identification in 0..<300 {
      let sent = bench.send(bench.fromPod(parts(bench, .ipv4, identification: identification)[1]), at: bench.podA)
      dropped += sent.drops[.fragmentNoFirst] ?? 0
    }
    #expect(dropped >= 300 - 128)
    #expect(bench.tick(2).drops == [.fragmentNoFirst: 300 - dropped])
  }

  @Test("TUN-8 overlapping fragments, and all that follow, are dropped (RFC 5722)", arguments: families)
  func overlap(_ family: IPFamily) {
    let octets = datagram()
    for range in [392..<792, 0..<400, 8..<16, 392..<400] {
      let bench = Bench(.ipip)
      #expect(
        bench.send(bench.fromPod(part(bench, family, octets, 0..<400, more: true)), at: bench.podA)
          .octets(bench.underlay).count == 1)
      let sent = bench.send(bench.fromPod(part(bench, family, octets, range, more: true)), at: bench.podA)
      #expect(sent.drops == [.fragmentOverlap: 1], "\(range)")
      #expect(sent.isSilent)
      let rest = bench.send(bench.fromPod(part(bench, family, octets, 800..<1200, more: false)), at: bench.podA)
      #expect(rest.drops == [.fragmentOverlap: 1])
      #expect(rest.isSilent)
    }
  }

  @Test("TUN-8 lengths and offsets that cannot be", arguments: families)
  func invalid(_ family: IPFamily) {
    func expectInvalid(_ range: Range<Int>, more: Bool, after: [Range<Int>] = [], _ note: Comment) {
      let bench = Bench(.ipip)
      let octets = [UInt8](repeating: 0, count: 70000)
      for earlier in after {
        bench.send(
          bench.fromPod(part(bench, family, octets, earlier, more: earlier.upperBound % 8 == 0)), at: bench.podA)
      }
      let sent = bench.send(bench.fromPod(part(bench, family, octets, range, more: more)), at: bench.podA)
      #expect(sent.drops == [.fragmentInvalid: 1], note)
      #expect(sent.isSilent, note)
    }
    expectInvalid(400..<799, more: true, after: [0..<400], "not a multiple of eight before the last")
    expectInvalid(65528..<65600, more: false, after: [0..<400], "beyond the longest datagram")
    expectInvalid(400..<400, more: false, after: [0..<400], "empty")
    expectInvalid(1008..<1208, more: true, after: [0..<400, 800..<1001], "behind the end")
    expectInvalid(1008..<1010, more: false, after: [0..<400, 800..<1001], "another end")
    expectInvalid(400..<410, more: false, after: [0..<400, 800..<1200], "an end before others")
  }

  @Test("TUN-8 the first fragment must show the transport header (RFC 1858, RFC 7112)", arguments: families)
  func tiny(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let segment = [UInt8](repeating: 0, count: 40)
    let sent = bench.send(bench.fromPod(part(bench, family, segment, 0..<16, more: true, number: 6)), at: bench.podA)
    #expect(sent.drops == [.badTransport: 1])
    #expect(sent.isSilent)
  }

  @Test("TUN-8 an identification may come again once its datagram has passed", arguments: families)
  func reuse(_ family: IPFamily) {
    let bench = Bench(.ipip)
    for round in 0..<5 {
      let order = round % 2 == 0 ? [0, 1, 2] : [0, 2, 1]
      let parts = parts(bench, family)
      let sent = bench.send(order.map { MemoryFrame(bench.fromPod(parts[$0])) }, at: bench.podA)
      #expect(sent.octets(bench.underlay).count == 3, "round \(round)")
      #expect(sent.drops.isEmpty, "round \(round)")
    }
  }

  @Test("TUN-8 a datagram that never became whole is forgotten after its time")
  func forgotten() {
    let bench = Bench(.ipip)
    let parts = parts(bench, .ipv4)
    bench.send(bench.fromPod(parts[0]), at: bench.podA)
    bench.tick(31)
    let sent = bench.send(parts.map { MemoryFrame(bench.fromPod($0)) }, at: bench.podA)
    #expect(sent.octets(bench.underlay).count == 3)
  }

  @Test("TUN-8 how long is waited is configured")
  func lifetime() {
    let bench = Bench(.ipip, settings: { $0.fragmentLifetime = 5 })
    let parts = parts(bench, .ipv4)
    bench.send(bench.fromPod(parts[0]), at: bench.podA)
    bench.tick(4)
    #expect(bench.send(bench.fromPod(parts[0]), at: bench.podA).drops == [.fragmentOverlap: 1])
    bench.tick(2)
    #expect(bench.send(bench.fromPod(parts[0]), at: bench.podA).octets(bench.underlay).count == 1)
    bench.send(
      bench.fromNode(
        ip(Bench.node4(2), Bench.node4(1), 4, [UInt8](repeating: 0, count: 64), with: IPFields(more: true))),
      at: bench.underlay)
    #expect(bench.tick(4).drops.isEmpty)
    #expect(bench.tick(2).drops == [.reassemblyTimeout: 1])
  }

  @Test("TUN-8 an atomic fragment is whole (RFC 6946)")
  func atomic() {
    let bench = Bench(.ipip)
    let packet = udp(bench.pod(10, .ipv6), bench.remote(10, .ipv6))
    let atomic = ip(
      bench.pod(10, .ipv6), bench.remote(10, .ipv6), 44, [17, 0, 0, 0] + u32(5) + Array(packet[40...]))
    for _ in 0..<3 {
      #expect(Array(bench.send(bench.fromPod(atomic), at: bench.podA).only(bench.underlay)[34...]) == hopped(atomic))
    }
    #expect(bench.pipeline.flows().first?.destinationPort == 2000)
  }

  @Test("NODE-4 a fragment that waited is held to its own port's rules", arguments: families)
  func spoofed(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let octets = datagram()
    let foreign = bench.pod(11, family)
    // Pod A sends a later fragment as pod B, then something that makes the pipeline look again at what waits.
    func frame(_ range: Range<Int>) -> [UInt8] {
      bench.fromPod(part(bench, family, octets, range, more: range.upperBound < 1200, source: foreign))
    }
    bench.send(frame(400..<800), at: bench.podA)
    // A packet of pod B waits too, so that another port is entered last.
    bench.send(
      bench.fromPod(part(bench, family, octets, 400..<800, more: true, identification: 1, source: foreign), 11),
      at: bench.podB)
    let first = bench.send(frame(0..<400), at: bench.podA)
    #expect(first.isSilent)
    #expect(first.drops == [.sourceAddress: 2])
  }

  // MARK: Tunnel packets in fragments

  @Test(
    "TUN-8 a tunnel packet that came in fragments is put together and taken apart",
    arguments: [Encapsulation.ipip, .gre, .vxlan, .geneve])
  func reassembly(_ encapsulation: Encapsulation) {
    for outer in [IPFamily.ipv4, .ipv6] {
      for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let pair = Pair(encapsulation, outer: outer, mtu: 9000)
        let packet = udp(pair.one.pod(10), pair.one.remote(10), [UInt8](repeating: 9, count: 1000))
        let frame = pair.one.send(pair.one.fromPod(packet), at: pair.one.podA).only(pair.one.underlay)
        let tunnel = Array(frame[14...])
        let header = outer == .ipv4 ? 20 : 40
        let number = Int(tunnel[outer == .ipv4 ? 9 : 6])
        let payload = Array(tunnel[header...])
        let cuts = [0..<400, 400..<800, 800..<payload.count].map { range in
          pair.two.fromNode(
            ip(
              outer == .ipv4 ? Bench.node4(1) : Bench.node6(1), outer == .ipv4 ? Bench.node4(2) : Bench.node6(2),
              number, Array(payload[range]),
              with: IPFields(identification: 3, more: range.upperBound < payload.count, offset: range.lowerBound)))
        }
        for position in order.dropLast() {
          #expect(pair.two.send(cuts[position], at: pair.two.underlay).isSilent)
        }
        let sent = pair.two.send(cuts[order[2]], at: pair.two.underlay)
        #expect(sent.only(pair.two.podA) == pair.two.toPod(hopped(hopped(packet))))
        #expect(sent.drops.isEmpty)
      }
    }
  }

  @Test("TUN-8 overlapping fragments of a tunnel packet are dropped, and the rest in time")
  func reassemblyRefused() {
    let bench = Bench(node: 2, .ipip)
    let payload = [UInt8](repeating: 0x45, count: 1000)
    func frame(_ range: Range<Int>, _ identification: Int) -> [UInt8] {
      bench.fromNode(
        ip(
          Bench.node4(1), Bench.node4(2), 4, Array(payload[range]),
          with: IPFields(identification: identification, more: range.upperBound < 1000, offset: range.lowerBound)))
    }
    #expect(bench.send(frame(0..<400, 1), at: bench.underlay).isSilent)
    #expect(bench.send(frame(392..<800, 1), at: bench.underlay).drops == [.fragmentOverlap: 1])
    #expect(bench.send(frame(800..<1000, 1), at: bench.underlay).drops == [.fragmentOverlap: 1])
    bench.send(frame(0..<400, 2), at: bench.underlay)
    bench.tick(15)
    #expect(bench.tick(16).drops == [.reassemblyTimeout: 1])
  }

  @Test("TUN-8 reassembly is bounded, and what gives way is counted")
  func reassemblyBounded() {
    let bench = Bench(node: 2, .ipip)
    var drops = 0
    for identification in 0..<200 {
      let frame = bench.fromNode(
        ip(
          Bench.node4(1), Bench.node4(2), 4, [UInt8](repeating: 0x45, count: 400),
          with: IPFields(identification: identification, more: true)))
      drops += bench.send(frame, at: bench.underlay).drops[.reassemblyFull] ?? 0
    }
    #expect(drops == 200 - 64)
    bench.now += 31_000_000_000
    let frame = bench.fromNode(
      ip(Bench.node4(1), Bench.node4(2), 4, [UInt8](repeating: 0x45, count: 400), with: IPFields(more: true)))
    #expect(bench.send(frame, at: bench.underlay).drops == [.reassemblyTimeout: 1])
    #expect(bench.tick().drops == [.reassemblyTimeout: 63])
  }

  @Test("TUN-8 fragments of what is the host's are left to its kernel")
  func hostFragments() {
    let bench = Bench(node: 2, .ipip)
    let echo = [8, 0, 0, 0, 0, 1, 0, 1] + [UInt8](repeating: 1, count: 792)
    let frame = bench.fromNode(
      ip(Bench.node4(1), Bench.node4(2), 1, echo, with: IPFields(identification: 4, more: true)))
    #expect(bench.send(frame, at: bench.underlay).drops == [.leftToHost: 1])
  }
}
