import Addresses
import Ports
import Testing

@testable import Dataplane

/// Packets that are bigger than the way out carries (NODE-6).
@Suite struct TooBigTests {
  struct Case: CustomTestStringConvertible, Sendable {
    var encapsulation: Encapsulation
    var outer: IPFamily
    var mtu: Int
    var options: HopOptions = []
    var testDescription: String { "\(encapsulation) over \(outer): \(mtu)" }

    static let all: [Case] = [
      Case(encapsulation: .none, outer: .ipv4, mtu: 1500),
      Case(encapsulation: .ipip, outer: .ipv4, mtu: 1480),
      Case(encapsulation: .ipip, outer: .ipv6, mtu: 1460),
      Case(encapsulation: .gre, outer: .ipv4, mtu: 1476),
      Case(encapsulation: .gre, outer: .ipv6, mtu: 1456),
      Case(encapsulation: .gre, outer: .ipv4, mtu: 1472, options: [.greKey]),
      Case(encapsulation: .gre, outer: .ipv4, mtu: 1464, options: [.greKey, .greChecksum, .greSequence]),
      Case(encapsulation: .vxlan, outer: .ipv4, mtu: 1450),
      Case(encapsulation: .vxlan, outer: .ipv6, mtu: 1430),
      Case(encapsulation: .geneve, outer: .ipv4, mtu: 1450),
      Case(encapsulation: .geneve, outer: .ipv6, mtu: 1430),
    ]
  }

  /// A UDP packet of `length` octets in all.
  private func packet(
    _ bench: Bench, _ family: IPFamily, _ length: Int, dontFragment: Bool = true, identification: Int = 0
  ) -> [UInt8] {
    let payload = [UInt8](repeating: 0, count: length - (family == .ipv4 ? 28 : 48))
    return udp(
      bench.pod(10, family), bench.remote(10, family), payload, checksum: family == .ipv6,
      with: IPFields(identification: identification, dontFragment: dontFragment))
  }

  @Test("NODE-6 the MTU of every tunnel: what fits goes out whole", arguments: Case.all)
  func fits(_ test: Case) {
    let bench = Bench(test.encapsulation, outer: test.outer, podMTU: 9000) { $0.options = test.options }
    for family in [IPFamily.ipv4, .ipv6] {
      let packet = packet(bench, family, test.mtu)
      let frame = bench.send(bench.fromPod(packet), at: bench.podA).only(bench.underlay)
      #expect(frame.count == 14 + 1500)
      #expect(Array(frame.suffix(test.mtu)) == hopped(packet))
    }
  }

  @Test("NODE-6 one octet more: fragmentation needed or packet too big, with the right MTU", arguments: Case.all)
  func tooBig(_ test: Case) {
    let bench = Bench(test.encapsulation, outer: test.outer, podMTU: 9000) { $0.options = test.options }
    for family in [IPFamily.ipv4, .ipv6] {
      let packet = packet(bench, family, test.mtu + 1)
      let sent = bench.send(bench.fromPod(packet), at: bench.podA)
      let answer = sent.only(bench.podA)
      let expected =
        family == .ipv4
        ? icmp(
          Bench.node4(1), bench.pod(10), 3, 4, rest: test.mtu, Array(packet[..<548]), with: IPFields(tos: 0xc0))
        : icmp(Bench.node6(1), bench.pod(10, .ipv6), 2, 0, rest: test.mtu, Array(packet[..<1232]))
      #expect(hex(answer) == hex(bench.toPod(expected)))
      #expect(sent.drops == [.tooBig: 1])
      #expect(sent.trace.contains(.errorSent(type: family == .ipv4 ? 3 : 2, code: family == .ipv4 ? 4 : 0)))
    }
  }

  @Test("NODE-6 TUN-7 the messages, octet for octet: 576 and 1280 octets long")
  func literal() {
    let bench = Bench(.ipip, podMTU: 9000)
    let answer4 = bench.send(bench.fromPod(packet(bench, .ipv4, 1481)), at: bench.podA).only(bench.podA)
    #expect(answer4.count == 14 + 576)
    #expect(
      hex(Array(answer4.prefix(14 + 56)))
        == hex(
          bytes(
            """
            0a580af4010a eeeeeeeeeeee 0800 45c00240 00000000 4001a9fe c0000201 0af4010a 0304e5c6 000005c8
            450005c9 00004000 40111c29 0af4010a 0af4020a 03e807d0 05b50000
            """)))
    let answer6 = bench.send(bench.fromPod(packet(bench, .ipv6, 1481)), at: bench.podA).only(bench.podA)
    #expect(answer6.count == 14 + 1280)
    #expect(
      hex(Array(answer6.prefix(14 + 96)))
        == hex(
          bytes(
            """
            0a580af4010a eeeeeeeeeeee 86dd
            60000000 04d83a40 20010db8000000000000000000000001 fd000001000000000000000000000010 0200572a 000005c8
            60000000 05a11140 fd000001000000000000000000000010 fd000002000000000000000000000010 03e807d0 05a1eecf
            """)))
  }

  @Test("NODE-6 packets of a known flow are held to the MTU as well, and to a new one at once")
  func knownFlow() {
    let bench = Bench(.vxlan, podMTU: 9000)
    #expect(bench.send(bench.fromPod(packet(bench, .ipv4, 1450)), at: bench.podA).octets(bench.underlay).count == 1)
    let sent = bench.send(bench.fromPod(packet(bench, .ipv4, 1451)), at: bench.podA)
    #expect(sent.trace.contains(.flowFound))
    #expect(u16(sent.only(bench.podA), 40) == 1450)
    bench.tables.updateHop(
      bench.hop, Bench.hopDescription(from: 1, to: 2, .vxlan, .ipv4, port: bench.underlay, mtu: 1400))
    #expect(u16(bench.send(bench.fromPod(packet(bench, .ipv4, 1450)), at: bench.podA).only(bench.podA), 40) == 1350)
  }

  @Test("NODE-6 what comes out of a tunnel and is too big for the pod is reported into the tunnel")
  func towardsPod() {
    let one = Bench(node: 1, .vxlan, mtu: 9000, podMTU: 9000)
    let two = Bench(node: 2, .vxlan, mtu: 9000, podMTU: 1400)
    let packet = packet(one, .ipv4, 1401)
    let frame = one.send(one.fromPod(packet), at: one.podA).only(one.underlay)
    let report = two.send(frame, at: two.underlay).only(two.underlay)
    let answer = one.send(report, at: one.underlay).only(one.podA)
    let expected = icmp(
      Bench.node4(2), one.pod(10), 3, 4, rest: 1400, Array(hopped(packet)[..<548]), with: IPFields(tos: 0xc0, ttl: 63))
    #expect(hex(answer) == hex(one.toPod(expected)))
  }

  @Test("NODE-6 the host is told too when it sends too much into a tunnel")
  func towardsHost() {
    let bench = Bench(.vxlan, podMTU: 9000)
    let packet = udp(
      Bench.node4(1), bench.remote(10), [UInt8](repeating: 1, count: 1500), checksum: false,
      with: IPFields(dontFragment: true))
    let answer = bench.send(bench.fromHost(packet), at: bench.host).only(bench.host)
    #expect(answer.count == 14 + 576)
    guard answer.count == 14 + 576 else { return }
    #expect(hex(Array(answer[34..<36])) == "0304")
    #expect(u16(answer, 40) == 1450)
  }

  @Test("NODE-6 a packet that may be fragmented is cut; the parts fit and make the whole", arguments: Case.all)
  func fragments(_ test: Case) {
    let bench = Bench(test.encapsulation, outer: test.outer, podMTU: 9000) { $0.options = test.options }
    var original = packet(bench, .ipv4, 4000, dontFragment: false, identification: 0x4711)
    for position in 28..<original.count { original[position] = UInt8(truncatingIfNeeded: position &* 7) }
    let sent = bench.send(bench.fromPod(original), at: bench.podA)
    let frames = sent.octets(bench.underlay)
    #expect(frames.count == 3)
    #expect(sent.drops.isEmpty)
    var payload = [UInt8](repeating: 0, count: 3980)
    var seen = 0
    for (number, frame) in frames.enumerated() {
      #expect(frame.count <= 1514)
      let inner = Array(frame.dropFirst(14 + 1500 - test.mtu))
      #expect(u16(inner, 4) == 0x4711)
      #expect(inner[8] == 63)
      #expect(slowChecksum(Array(inner[..<20])) == 0)
      let field = u16(inner, 6)
      #expect((field & 0x2000 != 0) == (number < frames.count - 1))
      #expect(field & 0x4000 == 0)
      let part = Array(inner[20...])
      payload.replaceSubrange((field & 0x1fff) * 8..<(field & 0x1fff) * 8 + part.count, with: part)
      seen += part.count
    }
    #expect(seen == 3980)
    #expect(payload == Array(original[20...]))
  }

  @Test("NODE-6 TUN-8 fragments of a big packet pass a tunnel and come out on the other side")
  func fragmentsThroughTunnel() {
    let one = Bench(node: 1, .vxlan, podMTU: 65535)
    let two = Bench(node: 2, .vxlan, podMTU: 65535)
    let original = packet(one, .ipv4, 65535, dontFragment: false, identification: 9)
    let frames = one.send(one.fromPod(original), at: one.podA).octets(one.underlay)
    #expect(frames.count == 47)
    let sent = two.send(frames.map { MemoryFrame($0) }, at: two.underlay)
    #expect(sent.octets(two.podA).count == 47)
    #expect(sent.drops.isEmpty)
    #expect(two.pipeline.flowCount == 1)
  }
}
