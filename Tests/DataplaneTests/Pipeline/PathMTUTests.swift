import Addresses
import Ports
import Testing

@testable import Dataplane

/// Errors about tunnel packets, sent by routers between the nodes (TUN-7; RFC 2003, section 5; RFC 1191).
@Suite struct PathMTUTests {
  private static let tunnels: [Encapsulation] = [.ipip, .gre, .vxlan, .geneve]

  private func router(_ family: IPFamily) -> IPAddress {
    IPAddress(family == .ipv4 ? "198.51.100.9" : "2001:db8:f::9")!
  }

  /// A tunnel packet of a flow from pod A, as it left.
  private func outer(_ bench: Bench, _ family: IPFamily, length: Int = 1400) -> (packet: [UInt8], tunnel: [UInt8]) {
    let payload = [UInt8](repeating: 3, count: length - (family == .ipv4 ? 28 : 48))
    let packet = udp(bench.pod(10, family), bench.remote(10, family), payload, with: IPFields(dontFragment: true))
    let frame = bench.send(bench.fromPod(packet), at: bench.podA).only(bench.underlay)
    return (packet, Array(frame.dropFirst(14)))
  }

  /// A router's error about a tunnel packet, of which it quotes the first `count` octets.
  private func error(
    _ bench: Bench, _ tunnel: [UInt8], type: Int, code: Int, mtu: Int = 0, quoting count: Int = 128
  ) -> [UInt8] {
    let family: IPFamily = tunnel[0] >> 4 == 4 ? .ipv4 : .ipv6
    let node = family == .ipv4 ? Bench.node4(1) : Bench.node6(1)
    return bench.fromNode(icmp(router(family), node, type, code, rest: mtu, Array(tunnel.prefix(count))))
  }

  @Test("TUN-7 too big in the tunnel: the inner sender is told, with the MTU reduced", arguments: PathMTUTests.tunnels)
  func relays(_ encapsulation: Encapsulation) {
    for outerFamily in [IPFamily.ipv4, .ipv6] {
      for family in [IPFamily.ipv4, .ipv6] {
        let bench = Bench(encapsulation, outer: outerFamily)
        let (packet, tunnel) = outer(bench, family)
        let overhead = tunnel.count - packet.count
        let isFour = outerFamily == .ipv4
        let report = error(bench, tunnel, type: isFour ? 3 : 2, code: isFour ? 4 : 0, mtu: 1400, quoting: 200)
        let answer = bench.send(report, at: bench.underlay).only(bench.podA)
        let quoted = Array(hopped(packet).prefix(200 - overhead))
        let expected =
          family == .ipv4
          ? icmp(Bench.node4(1), bench.pod(10), 3, 4, rest: 1400 - overhead, quoted, with: IPFields(tos: 0xc0))
          : icmp(Bench.node6(1), bench.pod(10, .ipv6), 2, 0, rest: 1400 - overhead, quoted)
        #expect(hex(answer) == hex(bench.toPod(expected)))
        #expect(bench.pipeline.takeRequests() == [.pathMTU(bench.hop, 1400 - overhead)])

        // From now on the pod is told at once, and what fits passes.
        let again = bench.send(bench.fromPod(packet), at: bench.podA)
        #expect(again.drops == [.tooBig: 1])
        let told = again.only(bench.podA)
        let mtu = family == .ipv4 ? u16(told, 40) : u32(told, 58)
        #expect(mtu == 1400 - overhead)
        let smaller = udp(
          bench.pod(10, family), bench.remote(10, family),
          [UInt8](repeating: 1, count: 1400 - overhead - (family == .ipv4 ? 28 : 48)),
          with: IPFields(dontFragment: true))
        #expect(bench.send(bench.fromPod(smaller), at: bench.podA).octets(bench.underlay).count == 1)
        // Until it is forgotten.
        bench.now += UInt64(bench.tables.settings.pathMTULifetime) * 1_000_000_000 + 1_000_000_000
        #expect(bench.send(bench.fromPod(packet), at: bench.podA).octets(bench.underlay).count == 1)
      }
    }
  }

  @Test("TUN-7 the report that comes back through IPIP, octet for octet")
  func literal() {
    let bench = Bench(.ipip)
    // 198.51.100.9 says: fragmentation needed, MTU 1000, about a packet of 1400 octets in the tunnel.
    let report = bytes(
      """
      020000000001 020000000002 0800
      4500004c0000000040018e73c6336409c0000201 0304e7f7000003e8
      4500058c000040004004b16ac0000201c0000202
      45000578123440003f110b460af4010a0af4020a03e807d005640000
      """)
    let answer = bench.send(report, at: bench.underlay).only(bench.podA)
    // 1000 less the outer header.
    #expect(
      hex(answer)
        == hex(
          bytes(
            """
            0a580af4010a eeeeeeeeeeee 0800 45c00038000000004001ac06c00002010af4010a 0304e80b000003d4
            45000578123440003f110b460af4010a0af4020a03e807d005640000
            """)))
  }

  @Test("TUN-7 other errors in the tunnel: host unreachable to the inner sender")
  func unreachable() {
    for (outerFamily, type, code) in [
      (IPFamily.ipv4, 3, 0), (.ipv4, 3, 1), (.ipv4, 3, 2), (.ipv4, 3, 13), (.ipv4, 11, 0), (.ipv6, 1, 0), (.ipv6, 1, 3),
      (.ipv6, 3, 0),
    ] {
      let bench = Bench(.ipip, outer: outerFamily)
      let (packet, tunnel) = outer(bench, .ipv4, length: 64)
      let answer = bench.send(error(bench, tunnel, type: type, code: code), at: bench.underlay).only(bench.podA)
      #expect(
        hex(answer)
          == hex(bench.toPod(icmp(Bench.node4(1), bench.pod(10), 3, 1, hopped(packet), with: IPFields(tos: 0xc0)))))
      #expect(bench.pipeline.takeRequests().isEmpty)
    }
  }

  @Test("TUN-7 what says nothing of the tunnel's far end is not relayed (RFC 2003, section 5)")
  func notRelayed() {
    // Source quench, redirect, parameter problem, reassembly time exceeded, source route failed.
    for (type, code) in [(4, 0), (5, 1), (12, 0), (11, 1), (3, 5)] {
      let bench = Bench(.ipip)
      let (_, tunnel) = outer(bench, .ipv4, length: 64)
      let sent = bench.send(error(bench, tunnel, type: type, code: code), at: bench.underlay)
      #expect(sent.isSilent, "type \(type), code \(code)")
      #expect(sent.drops.values.reduce(0, +) == 1)
    }
    let bench = Bench(.ipip, outer: .ipv6)
    let (_, tunnel) = outer(bench, .ipv4, length: 64)
    for (type, code) in [(4, 1), (3, 1)] {
      #expect(bench.send(error(bench, tunnel, type: type, code: code), at: bench.underlay).isSilent)
    }
  }

  @Test("TUN-7 errors that nobody could have sent in good faith teach nothing")
  func forged() {
    let bench = Bench(.ipip)
    let (packet, tunnel) = outer(bench, .ipv4)
    // A wrong checksum.
    var frame = error(bench, tunnel, type: 3, code: 4, mtu: 600)
    frame[50] ^= 1
    #expect(bench.send(frame, at: bench.underlay).isSilent)
    // About a packet to somebody who is no tunnel's end, or from somebody else, or of another protocol.
    for change in [(19, UInt8(99)), (15, 99), (9, 47)] {
      var quoted = tunnel
      quoted[change.0] = change.1
      #expect(bench.send(error(bench, quoted, type: 3, code: 4, mtu: 600), at: bench.underlay).isSilent)
    }
    // About a later fragment.
    var quoted = tunnel
    quoted[7] = 1
    #expect(bench.send(error(bench, quoted, type: 3, code: 4, mtu: 600), at: bench.underlay).isSilent)
    #expect(bench.send(bench.fromPod(packet), at: bench.podA).octets(bench.underlay).count == 1)
    // An absurd MTU is believed only as far as any honest link goes.
    bench.send(error(bench, tunnel, type: 3, code: 4, mtu: 68), at: bench.underlay)
    let small = udp(
      bench.pod(10), bench.remote(10), [UInt8](repeating: 1, count: 500), with: IPFields(dontFragment: true))
    #expect(bench.send(bench.fromPod(small), at: bench.podA).octets(bench.underlay).count == 1)
  }

  @Test("TUN-7 RFC 1191: a router that does not say how much")
  func oldRouter() {
    let bench = Bench(.ipip)
    let (packet, tunnel) = outer(bench, .ipv4)
    let answer = bench.send(error(bench, tunnel, type: 3, code: 4, mtu: 0), at: bench.underlay).only(bench.podA)
    let mtu = answer.count > 42 ? u16(answer, 40) : 0
    #expect(mtu == 556)
    #expect(bench.send(bench.fromPod(packet), at: bench.podA).drops == [.tooBig: 1])
  }

  @Test("TUN-7 no link is believed to carry less than 552 octets, or 1280 over IPv6; what the tunnel adds comes off")
  func least() {
    for (family, said, expected) in [
      (IPFamily.ipv4, 576, 526), (.ipv4, 300, 502), (.ipv6, 1280, 1210), (.ipv6, 600, 1210),
    ] {
      let bench = Bench(.vxlan, outer: family)
      let (_, tunnel) = outer(bench, .ipv4)
      let isFour = family == .ipv4
      let report = error(bench, tunnel, type: isFour ? 3 : 2, code: isFour ? 4 : 0, mtu: said)
      #expect(u16(bench.send(report, at: bench.underlay).only(bench.podA), 40) == expected)
    }
  }

  @Test("TUN-7 a quotation that ends before the inner packet still teaches the MTU")
  func shortQuotation() {
    let bench = Bench(.vxlan)
    let (packet, tunnel) = outer(bench, .ipv4)
    #expect(bench.send(error(bench, tunnel, type: 3, code: 4, mtu: 1300, quoting: 28), at: bench.underlay).isSilent)
    #expect(bench.send(bench.fromPod(packet), at: bench.podA).drops == [.tooBig: 1])
  }

  @Test("TUN-7 no error about an error inside the tunnel")
  func innerError() {
    let bench = Bench(.ipip)
    let inner = icmp(bench.pod(10), bench.remote(10), 3, 3, udp(bench.remote(10), bench.pod(10)))
    let frame = bench.send(bench.fromPod(inner), at: bench.podA).only(bench.underlay)
    let sent = bench.send(error(bench, Array(frame.dropFirst(14)), type: 3, code: 1), at: bench.underlay)
    #expect(sent.isSilent)
  }
}
