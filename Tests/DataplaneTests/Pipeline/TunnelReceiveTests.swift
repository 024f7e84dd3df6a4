import Addresses
import Ports
import Testing

@testable import Dataplane

/// What a node does with tunnel packets that are odd (TUN-2, TUN-3, TUN-4). Each frame is one that node 1 sent to node 2,
/// bent.
@Suite struct TunnelReceiveTests {
  private static let inner = Form.packet(.ipv4, 63)

  private func frame(
    _ encapsulation: Encapsulation, outer: IPFamily = .ipv4, inner: IPFamily = .ipv4, _ options: HopOptions = [],
    key: UInt32? = nil
  ) -> [UInt8] {
    let bench = Bench(node: 1, encapsulation, outer: outer) {
      $0.options = options
      if let key { $0.identifier = key }
    }
    return bench.send(bench.fromPod(Form.packet(inner, 64)), at: bench.podA).only(bench.underlay)
  }

  /// The frame with some octets replaced, its outer IPv4 header made right again.
  private func bent(_ frame: [UInt8], _ changes: (Int, String)...) -> [UInt8] {
    var octets = frame
    for (offset, text) in changes { octets.replaceSubrange(offset..<offset + bytes(text).count, with: bytes(text)) }
    var packet = Array(octets[14...])
    if packet[0] >> 4 == 4 { rechecksum(&packet) }
    return Array(octets[..<14]) + packet
  }

  private func expectDrop(
    _ reason: DropReason, _ frame: [UInt8], settings: (inout Settings) -> Void = { _ in },
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let bench = Bench(node: 2, .vxlan, settings: settings)
    let sent = bench.send(frame, at: bench.underlay)
    #expect(sent.drops == [reason: 1], sourceLocation: sourceLocation)
    #expect(sent.isSilent, sourceLocation: sourceLocation)
  }

  private func expectDelivered(
    _ frame: [UInt8], settings: (inout Settings) -> Void = { _ in }, sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let bench = Bench(node: 2, .vxlan, settings: settings)
    let sent = bench.send(frame, at: bench.underlay)
    #expect(
      sent.only(bench.podA, sourceLocation: sourceLocation) == bench.toPod(Form.packet(.ipv4, 62)),
      sourceLocation: sourceLocation)
  }

  // MARK: GRE

  @Test("TUN-2 the GRE checksum is verified")
  func greChecksum() {
    let good = frame(.gre, .init([.greChecksum]))
    expectDelivered(good)
    var bad = good
    bad[bad.count - 1] ^= 1
    expectDrop(.badTunnelChecksum, bad)
    bad = good
    bad[38] ^= 1
    expectDrop(.badTunnelChecksum, bad)
  }

  @Test("TUN-2 the GRE key must be the one that is asked for")
  func greKey() {
    let keyed = frame(.gre, [.greKey], key: 77)
    expectDelivered(keyed) { $0.greKey = 77 }
    expectDrop(.unknownVNI, keyed) { $0.greKey = 78 }
    expectDrop(.unknownVNI, keyed)
    expectDrop(.unknownVNI, frame(.gre)) { $0.greKey = 77 }
  }

  @Test("TUN-2 GRE: version 0 only; a bit that changes the header is refused, the others are ignored")
  func greReserved() {
    let good = frame(.gre)
    for word in ["0001 0800", "0007 0800", "4000 0800", "0800 0800", "0400 0800"] {
      expectDrop(.badTunnelHeader, bent(good, (34, word)))
    }
    for word in ["0200 0800", "0100 0800", "00f8 0800"] { expectDelivered(bent(good, (34, word))) }
    expectDrop(.innerProtocol, bent(good, (34, "0000 880b")))
  }

  @Test("TUN-2 a GRE header that is not all there")
  func greTruncated() {
    let good = frame(.gre, [.greChecksum, .greKey, .greSequence], key: 1)
    for length in 34..<50 {
      expectDrop(.badTunnelHeader, bent(Array(good[..<length]), (16, hex(u16(length - 14)))))
    }
  }

  @Test("TUN-2 GRE carries Ethernet as well")
  func greEthernet() {
    let ethernet = bytes("020000000e02 020000000e01 0800") + TunnelReceiveTests.inner
    let packet = ip(Bench.node4(1), Bench.node4(2), 47, bytes("00006558") + ethernet)
    expectDelivered(bytes("020000000002 020000000001 0800") + packet)
  }

  // MARK: VXLAN

  @Test("TUN-3 without the I flag, of another network, or cut short: dropped")
  func vxlan() {
    let good = frame(.vxlan)
    expectDelivered(good)
    expectDrop(.badTunnelHeader, bent(good, (42, "00")))
    expectDrop(.badTunnelHeader, bent(good, (42, "f7")))
    expectDrop(.unknownVNI, bent(good, (46, "001001")))
    expectDrop(.unknownVNI, bent(good, (46, "ff1000")))
    for length in 42..<64 {
      let cut = bent(Array(good[..<length]), (16, hex(u16(length - 14))), (38, hex(u16(length - 34))))
      expectDrop(.badTunnelHeader, cut)
    }
  }

  @Test("TUN-3 all other bits of the header are ignored")
  func vxlanReserved() {
    expectDelivered(bent(frame(.vxlan), (42, "ffffffff 001000ff")))
    expectDelivered(bent(frame(.vxlan), (42, "08000001 00100001")))
  }

  @Test("TUN-3 a UDP checksum of 0 is accepted, any other verified", arguments: [Encapsulation.vxlan, .geneve])
  func udpChecksum(_ encapsulation: Encapsulation) {
    for outer in [IPFamily.ipv4, .ipv6] {
      expectDelivered(frame(encapsulation, outer: outer))
      let summed = frame(encapsulation, outer: outer, [.udpChecksum])
      expectDelivered(summed)
      var bad = summed
      bad[bad.count - 1] ^= 0x10
      expectDrop(.badTunnelChecksum, bad)
      bad = summed
      bad[outer == .ipv4 ? 41 : 61] ^= 1
      expectDrop(.badTunnelChecksum, bad)
    }
  }

  @Test("TUN-3 UDP lengths that make no sense", arguments: [Encapsulation.vxlan, .geneve])
  func udpLength(_ encapsulation: Encapsulation) {
    let good = frame(encapsulation)
    expectDrop(.badTunnelHeader, bent(good, (38, "0007")))
    expectDrop(.badTunnelHeader, bent(good, (38, "ffff")))
  }

  @Test("TUN-3 the inner frame must be for this node's tunnel end", arguments: [Encapsulation.vxlan, .geneve])
  func innerMAC(_ encapsulation: Encapsulation) {
    let good = frame(encapsulation)
    expectDrop(.notOurMAC, bent(good, (50, "020000000e03")))
    expectDrop(.multicast, bent(good, (50, "ffffffffffff")))
    expectDrop(.innerProtocol, bent(good, (62, "88cc")))
    // An IPv6 packet to a group address of the link layer is not routed to a host.
    let six = frame(encapsulation, inner: .ipv6)
    expectDrop(.multicast, bent(six, (50, "333300000001")))
  }

  // MARK: Geneve

  @Test("TUN-4 Geneve: version 0; control packets are not for pods")
  func geneve() {
    let good = frame(.geneve)
    expectDelivered(good)
    expectDrop(.badTunnelHeader, bent(good, (42, "40")))
    expectDrop(.badTunnelHeader, bent(good, (42, "80")))
    expectDrop(.innerProtocol, bent(good, (43, "80")))
    expectDrop(.unknownVNI, bent(good, (46, "001001")))
    // Reserved bits are ignored.
    expectDelivered(bent(good, (43, "3f"), (49, "ff")))
  }

  @Test("TUN-4 unknown options are skipped, a critical one forbids to go on")
  func geneveOptions() {
    let good = frame(.geneve)
    func withOptions(_ options: String, flags: String) -> [UInt8] {
      let data = bytes(options)
      let inner = Array(good[50...])
      let header = [UInt8(data.count / 4)] + bytes(flags) + bytes("6558 00100000") + data
      let datagram = Array(good[34..<38]) + u16(8 + header.count + inner.count) + [0, 0] + header + inner
      return bytes("020000000002 020000000001 0800") + ip(Bench.node4(1), Bench.node4(2), 17, datagram)
    }
    expectDelivered(withOptions("0102 03 00", flags: "00"))
    expectDelivered(withOptions("0102 03 01 deadbeef 0102 04 02 00112233 44556677", flags: "00"))
    expectDrop(.unknownOption, withOptions("0102 83 01 deadbeef", flags: "40"))
    // The options say that they are longer than the packet.
    expectDrop(.badTunnelHeader, bent(good, (42, "3f")))
  }

  @Test("TUN-4 Geneve carries IP without Ethernet as well")
  func geneveIP() {
    let datagram =
      u16(0xc001) + u16(6081) + u16(16 + 30) + [0, 0] + bytes("00000800 00100000") + TunnelReceiveTests.inner
    expectDelivered(
      bytes("020000000002 020000000001 0800") + ip(Bench.node4(1), Bench.node4(2), 17, datagram))
  }

  // MARK: What is inside

  @Test("the inner packet is looked at like any other", arguments: [Encapsulation.ipip, .gre, .vxlan, .geneve])
  func innerPacket(_ encapsulation: Encapsulation) {
    let good = frame(encapsulation)
    let start = good.count - 30
    var bad = good
    bad[start] = 0x55
    expectDrop(.badIPv4Header, bad)
    bad = good
    bad[start + 8] = 9
    expectDrop(.badIPv4Checksum, bad)
    bad = bent(good, (start + 2, "0020"))
    expectDrop(.badIPv4Header, bad)
  }

  @Test("TUN-1 a tunnel inside a tunnel to this node is not taken apart again")
  func nested() {
    let inner = ip(IPAddress("10.244.1.10")!, Bench.node4(2), 4, TunnelReceiveTests.inner)
    let outer = ip(Bench.node4(1), Bench.node4(2), 4, inner)
    let bench = Bench(node: 2, .ipip)
    let sent = bench.send(bytes("020000000002 020000000001 0800") + outer, at: bench.underlay)
    // It is for the node itself, which has no such tunnel.
    #expect(sent.octets(bench.podA).isEmpty)
    #expect(sent.octets(bench.host).count == 1)
  }

  @Test("TUN-3 ARP in a tunnel is answered only for this node's pods, and only to whom a route leads back")
  func arpInTunnel() {
    func request(_ target: String, sender: String = "0af4010a", operation: String = "0001") -> [UInt8] {
      let arp = bytes(
        "ffffffffffff 0a580af4010a 0806 000108000604\(operation) 0a580af4010a \(sender) 000000000000 \(target)")
      let datagram = u16(0xc001) + u16(4789) + u16(16 + arp.count) + [0, 0] + bytes("08000000 00100000") + arp
      return bytes("020000000002 020000000001 0800") + ip(Bench.node4(1), Bench.node4(2), 17, datagram)
    }
    let bench = Bench(node: 2, .vxlan)
    #expect(bench.send(request("0af4020a"), at: bench.underlay).octets(bench.underlay).count == 1)
    expectDrop(.arpIgnored, request("0af4024d"))
    expectDrop(.arpIgnored, request("0af4010b"))
    expectDrop(.arpIgnored, request("0af4020a", sender: "00000000"))
    expectDrop(.arpIgnored, request("0af4020a", sender: "c6336401"))
    expectDrop(.arpIgnored, request("0af4020a", operation: "0002"))
  }
}
