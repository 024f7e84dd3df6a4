import Addresses
import Ports
import Testing

@testable import Dataplane

/// ICMP errors made here: when, and when not (TUN-1, TUN-7).
@Suite struct ErrorTests {
  private func expectSilentDrop(
    _ bench: Bench, _ reason: DropReason, _ frame: [UInt8], at port: PortIndex? = nil,
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let sent = bench.send(frame, at: port ?? bench.podA)
    #expect(sent.isSilent, sourceLocation: sourceLocation)
    #expect(sent.drops == [reason: 1], sourceLocation: sourceLocation)
  }

  @Test(
    "TUN-1 TTL 1 is never encapsulated; the sender is told, octet for octet",
    arguments: [Encapsulation.none, .ipip, .gre, .vxlan, .geneve])
  func timeExceeded(_ encapsulation: Encapsulation) {
    let bench = Bench(encapsulation)
    let packet = bytes("4500001e 12344000 01114ea0 0af4010a 0af4020a 03e807d0 000a6bbb 6f6b")
    let sent = bench.send(bench.fromPod(packet), at: bench.podA)
    #expect(
      hex(sent.only(bench.podA))
        == hex(
          bytes(
            """
            0a580af4010a eeeeeeeeeeee 0800 45c0003a 00000000 4001ac04 c0000201 0af4010a 0b000e17 00000000
            4500001e 12344000 01114ea0 0af4010a 0af4020a 03e807d0 000a6bbb 6f6b
            """)))
    #expect(sent.drops == [.hopLimit: 1])

    let packet6 = bytes(
      """
      60000000 000a1101 fd000001000000000000000000000010 fd000002000000000000000000000010 03e807d0 000a8a92 6f6b
      """)
    #expect(
      hex(bench.send(bench.fromPod(packet6), at: bench.podA).only(bench.podA))
        == hex(
          bytes(
            """
            0a580af4010a eeeeeeeeeeee 86dd
            60000000 003a3a40 20010db8000000000000000000000001 fd000001000000000000000000000010 030060cf 00000000
            60000000 000a1101 fd000001000000000000000000000010 fd000002000000000000000000000010 03e807d0 000a8a92 6f6b
            """)))
  }

  @Test("TUN-1 TTL 0 is dropped as well, on the first packet of a flow and later", arguments: [IPFamily.ipv4, .ipv6])
  func zero(_ family: IPFamily) {
    let bench = Bench(.ipip)
    for ttl in [0, 64, 0, 1] {
      let packet = udp(bench.pod(10, family), bench.remote(10, family), with: IPFields(ttl: ttl))
      let sent = bench.send(bench.fromPod(packet), at: bench.podA)
      #expect(sent.octets(bench.underlay).count == (ttl > 1 ? 1 : 0))
      #expect(sent.octets(bench.podA).count == (ttl > 1 ? 0 : 1))
    }
  }

  @Test("TUN-1 TTL 2 goes into the tunnel as 1, and to the pod no further")
  func endsInTunnel() {
    let pair = Pair(.ipip)
    let packet = udp(pair.one.pod(10), pair.one.remote(10), with: IPFields(ttl: 2))
    let frame = pair.one.send(pair.one.fromPod(packet), at: pair.one.podA).only(pair.one.underlay)
    #expect(frame[42] == 1)
    let report = pair.two.send(frame, at: pair.two.underlay)
    #expect(report.octets(pair.two.podA).isEmpty)
    // The report goes back through the tunnel, to the pod that sent.
    let answer = pair.one.send(report.only(pair.two.underlay), at: pair.one.underlay).only(pair.one.podA)
    #expect(hex(Array(answer[34..<36])) == "0b00")
    #expect(Array(answer[26..<30]) == Bench.node4(2).octets)
  }

  @Test("no route: network unreachable, or no route to destination")
  func noRoute() {
    let bench = Bench(.ipip)
    let packet = bytes("4500001e 12344000 4011f268 0af4010a c6336401 03e807d0 000a4e84 6f6b")
    let sent = bench.send(bench.fromPod(packet), at: bench.podA)
    #expect(
      hex(sent.only(bench.podA))
        == hex(
          bytes(
            """
            0a580af4010a eeeeeeeeeeee 0800 45c0003a 00000000 4001ac04 c0000201 0af4010a 0300334e 00000000
            4500001e 12344000 4011f268 0af4010a c6336401 03e807d0 000a4e84 6f6b
            """)))
    #expect(sent.drops == [.noRoute: 1])
    let packet6 = udp(bench.pod(10, .ipv6), IPAddress("2001:db8:9::1")!)
    #expect(
      bench.send(bench.fromPod(packet6), at: bench.podA).only(bench.podA)
        == bench.toPod(icmp(Bench.node6(1), bench.pod(10, .ipv6), 1, 0, packet6)))
  }

  @Test("an unreachable route: host unreachable, or address unreachable")
  func unreachable() {
    let bench = Bench(.ipip)
    bench.tables.setRoute(Route(IPPrefix("198.51.100.0/24")!, .unreachable))
    bench.tables.setRoute(Route(IPPrefix("2001:db8:9::/64")!, .unreachable))
    let packet = udp(bench.pod(10), IPAddress("198.51.100.1")!)
    #expect(
      bench.send(bench.fromPod(packet), at: bench.podA).only(bench.podA)
        == bench.toPod(icmp(Bench.node4(1), bench.pod(10), 3, 1, packet, with: IPFields(tos: 0xc0))))
    let packet6 = udp(bench.pod(10, .ipv6), IPAddress("2001:db8:9::1")!)
    #expect(
      bench.send(bench.fromPod(packet6), at: bench.podA).only(bench.podA)
        == bench.toPod(icmp(Bench.node6(1), bench.pod(10, .ipv6), 1, 3, packet6)))
  }

  @Test("TUN-7 no error about an error")
  func aboutErrors() {
    let bench = Bench(.ipip)
    let quoted = udp(bench.remote(10), bench.pod(10))
    for type in [3, 4, 5, 11, 12] {
      let error = icmp(bench.pod(10), bench.remote(10), type, 1, quoted, with: IPFields(ttl: 1))
      expectSilentDrop(bench, .hopLimit, bench.fromPod(error))
    }
    let quoted6 = udp(bench.remote(10, .ipv6), bench.pod(10, .ipv6))
    for type in [1, 2, 3, 4, 100, 127] {
      let error = icmp(bench.pod(10, .ipv6), bench.remote(10, .ipv6), type, 0, quoted6, with: IPFields(ttl: 1))
      expectSilentDrop(bench, .hopLimit, bench.fromPod(error))
    }
    // An echo request is no error.
    let ping = icmp(bench.pod(10), bench.remote(10), 8, with: IPFields(ttl: 1))
    #expect(bench.send(bench.fromPod(ping), at: bench.podA).octets(bench.podA).count == 1)
  }

  @Test("TUN-7 no error about a later fragment, but one about the first", arguments: [IPFamily.ipv4, .ipv6])
  func aboutFragments(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let datagram = u16(1000) + u16(2000) + u16(48) + u16(0) + [UInt8](repeating: 7, count: 40)
    func part(_ range: Range<Int>, more: Bool) -> [UInt8] {
      bench.fromPod(
        ip(
          bench.pod(10, family), bench.remote(10, family), 17, Array(datagram[range]),
          with: IPFields(ttl: 1, identification: 5, more: more, offset: range.lowerBound)))
    }
    let first = bench.send(part(0..<24, more: true), at: bench.podA)
    #expect(first.octets(bench.podA).count == 1)
    expectSilentDrop(bench, .hopLimit, part(24..<48, more: false))
  }

  @Test("TUN-7 no error about what was sent to a group, at either layer, or from nobody")
  func aboutGroups() {
    let bench = Bench(.ipip)
    var frame = bench.fromPod(udp(bench.pod(10), bench.remote(10), with: IPFields(ttl: 1)))
    frame.replaceSubrange(0..<6, with: bytes("ffffffffffff"))
    expectSilentDrop(bench, .multicast, frame)
    frame.replaceSubrange(0..<6, with: bytes("01005e000001"))
    expectSilentDrop(bench, .multicast, frame)
    expectSilentDrop(
      bench, .multicast, bench.fromPod(udp(bench.pod(10), IPAddress("224.0.0.5")!, with: IPFields(ttl: 1))))
    expectSilentDrop(
      bench, .invalidSource, bench.fromPod(udp(IPAddress("0.0.0.0")!, bench.remote(10), with: IPFields(ttl: 1))))
    // A group at the link layer, of an address that has no route.
    frame = bench.fromPod(udp(bench.pod(10), IPAddress("198.51.100.1")!))
    frame.replaceSubrange(0..<6, with: bytes("ffffffffffff"))
    expectSilentDrop(bench, .multicast, frame)
  }

  @Test("TUN-7 no error about a bad header") func aboutBadHeaders() {
    let bench = Bench(.ipip)
    var frame = bench.fromPod(udp(bench.pod(10), bench.remote(10), with: IPFields(ttl: 1)))
    frame[24] ^= 1
    expectSilentDrop(bench, .badIPv4Checksum, frame)
  }

  @Test("TUN-7 errors are rate limited, and come again as time passes")
  func rateLimit() {
    let bench = Bench(
      .ipip,
      settings: {
        $0.icmpErrorBurst = 5
        $0.icmpErrorRate = 10
      })
    let frame = bench.fromPod(udp(bench.pod(10), bench.remote(10), with: IPFields(ttl: 1)))
    let sent = bench.send([[UInt8]](repeating: frame, count: 20).map { MemoryFrame($0) }, at: bench.podA)
    #expect(sent.octets(bench.podA).count == 5)
    #expect(sent.drops[.icmpRateLimited] == 15)
    #expect(sent.drops[.hopLimit] == 20)
    bench.now += 200_000_000
    let more = bench.send([[UInt8]](repeating: frame, count: 20).map { MemoryFrame($0) }, at: bench.podA)
    #expect(more.octets(bench.podA).count == 2)
    bench.now += 3600_000_000_000
    let later = bench.send([[UInt8]](repeating: frame, count: 20).map { MemoryFrame($0) }, at: bench.podA)
    #expect(later.octets(bench.podA).count == 5)
  }

  @Test("TUN-7 a capture that starts at time 0 is told of its errors too")
  func timeZero() {
    let bench = Bench(.ipip)
    bench.now = 0
    let frame = bench.fromPod(udp(bench.pod(10), bench.remote(10), with: IPFields(ttl: 1)))
    #expect(bench.send(frame, at: bench.podA).octets(bench.podA).count == 1)
  }

  @Test("TUN-7 without an address of the family nothing is reported")
  func noSource() {
    let bench = Bench(
      .ipip,
      settings: {
        $0.icmpSource4 = nil
        $0.icmpSource6 = nil
      })
    for family in [IPFamily.ipv4, .ipv6] {
      expectSilentDrop(
        bench, .hopLimit,
        bench.fromPod(udp(bench.pod(10, family), bench.remote(10, family), with: IPFields(ttl: 1))))
    }
  }

  @Test("TUN-7 ICMP errors of others pass without making a flow", arguments: [IPFamily.ipv4, .ipv6])
  func passing(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let quoted = udp(bench.remote(10, family), bench.pod(10, family))
    let error = icmp(bench.pod(10, family), bench.remote(10, family), family == .ipv4 ? 3 : 1, 3, quoted)
    let out = bench.send(bench.fromPod(error), at: bench.podA).only(bench.underlay)
    #expect(Array(out[34...]) == hopped(error))
    #expect(bench.pipeline.flowCount == 0)
    // Also from somebody in between, who has no flow with anybody.
    bench.tables.setRoute(Route(IPPrefix("0.0.0.0/0")!, hops: [bench.hop]))
    let router = family == .ipv4 ? IPAddress("203.0.113.9")! : IPAddress("2001:db8:f::9")!
    let foreign = icmp(
      router, bench.pod(10, family), family == .ipv4 ? 11 : 3, 0, udp(bench.pod(10, family), bench.remote(10, family)))
    #expect(bench.send(bench.fromNode(foreign), at: bench.underlay).only(bench.podA) == bench.toPod(hopped(foreign)))
  }
}
