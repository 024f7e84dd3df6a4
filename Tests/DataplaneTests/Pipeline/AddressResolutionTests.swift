import Addresses
import Ports
import Testing

@testable import Dataplane

/// ARP requests and neighbour solicitations of pods (NODE-2).
@Suite struct AddressResolutionTests {
  let bench = Bench(.vxlan)

  /// A request by pod A with the sender and target protocol addresses given.
  private func request(
    sender: String = "0af4010a", target: String, operation: String = "0001", senderMAC: String = "0a580af4010a"
  ) -> [UInt8] {
    bytes(
      "ffffffffffff 0a580af4010a 0806 000108000604\(operation) \(senderMAC) \(sender) 000000000000 \(target)")
  }

  private func reply(for target: String) -> [UInt8] {
    bytes("0a580af4010a eeeeeeeeeeee 0806 0001080006040002 eeeeeeeeeeee \(target) 0a580af4010a 0af4010a")
  }

  private func expectIgnored(
    _ frame: [UInt8], _ reason: DropReason = .arpIgnored, at port: PortIndex? = nil,
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let sent = bench.send(frame, at: port ?? bench.podA)
    #expect(sent.isSilent, sourceLocation: sourceLocation)
    #expect(sent.drops == [reason: 1], sourceLocation: sourceLocation)
  }

  @Test("NODE-2 ARP for the gateway is answered with the port's own address")
  func gateway() {
    let sent = bench.send(request(target: "a9fe0101"), at: bench.podA)
    #expect(hex(sent.only(bench.podA)) == hex(reply(for: "a9fe0101")))
    #expect(sent.drops.isEmpty)
  }

  @Test("NODE-2 ARP is answered for what is reached elsewhere: another pod, another node's pod, the node")
  func routed() {
    for target in ["0af4010b", "0af4020a", "c0000201"] {
      #expect(hex(bench.send(request(target: target), at: bench.podA).only(bench.podA)) == hex(reply(for: target)))
    }
  }

  @Test("NODE-2 a padded request, and one to this station alone, get the same answer")
  func padded() {
    let padded = request(target: "a9fe0101") + [UInt8](repeating: 0, count: 18)
    #expect(bench.send(padded, at: bench.podA).only(bench.podA) == reply(for: "a9fe0101"))
    var unicast = request(target: "a9fe0101")
    unicast.replaceSubrange(0..<6, with: Bench.gatewayMAC.octets)
    #expect(bench.send(unicast, at: bench.podA).only(bench.podA) == reply(for: "a9fe0101"))
  }

  @Test("NODE-2 ARP is never answered for the asker's own address, to a probe, or to an announcement")
  func probes() {
    // A probe: the sender 0.0.0.0 asks whether its own, or another, address is taken.
    expectIgnored(request(sender: "00000000", target: "0af4010a"))
    expectIgnored(request(sender: "00000000", target: "a9fe0101"))
    expectIgnored(request(sender: "00000000", target: "0af4010b"))
    // An announcement, as request and as reply.
    expectIgnored(request(target: "0af4010a"))
    expectIgnored(request(target: "0af4010a", operation: "0002"))
  }

  @Test("NODE-2 ARP is not answered for what lies on the asking interface")
  func sameInterface() {
    // A second address of pod A: reached by its own port.
    let second = IPAddress("10.244.1.99")!
    bench.tables.setRoute(Route(IPPrefix(host: second), hops: [bench.hopA]))
    expectIgnored(request(target: "0af40163"))
    #expect(bench.send(arp(from: 11, target: "0af40163"), at: bench.podB).octets(bench.podB).count == 1)
  }

  private func arp(from pod: Int, target: String) -> [UInt8] {
    bytes("ffffffffffff 0a580af4010b 0806 0001080006040001 0a580af4010b 0af4010b 000000000000 \(target)")
  }

  @Test("NODE-2 ARP is not answered for what is reached nowhere")
  func unreachable() {
    expectIgnored(request(target: "c6336401"))
    // An address of the own block that no pod has.
    expectIgnored(request(target: "0af4014d"))
  }

  @Test("NODE-4 ARP with another pod's address, or another sender, is not answered")
  func spoofed() {
    expectIgnored(request(sender: "0af4010b", target: "a9fe0101"), .sourceAddress)
    expectIgnored(request(target: "a9fe0101", senderMAC: "0a580af4010b"))
    expectIgnored(request(target: "a9fe0101", senderMAC: "ffffffffffff"))
  }

  @Test("NODE-2, NODE-4 a request behind one that was answered is judged by itself")
  func oneAfterAnother() {
    let gateway = request(target: "a9fe0101")
    let sent = bench.send(
      [
        gateway, gateway, request(sender: "0af4010b", target: "a9fe0101"), request(target: "c6336401"),
        request(target: "a9fe0101", senderMAC: "0a580af4010b"), request(target: "0af4010b"), gateway,
      ].map { MemoryFrame($0) }, at: bench.podA)
    #expect(
      sent.octets(bench.podA).map(hex) == ["a9fe0101", "a9fe0101", "0af4010b", "a9fe0101"].map { hex(reply(for: $0)) })
    #expect(sent.drops == [.sourceAddress: 1, .arpIgnored: 2])
    // What was right for one batch need not be for the next.
    bench.tables.removePodAddress(bench.pod(10))
    expectIgnored(gateway, .sourceAddress)
  }

  @Test("ARP for another protocol, cut short, or a reply") func badARP() {
    var odd = request(target: "a9fe0101")
    odd[17] = 1
    expectIgnored(odd, .badARP)
    expectIgnored(Array(request(target: "a9fe0101").dropLast()), .badARP)
    expectIgnored(request(target: "a9fe0101", operation: "0002"))
  }

  @Test("NODE-2 on the underlay only this node's pods are answered for")
  func underlay() {
    func ask(_ target: String) -> [UInt8] {
      bytes("ffffffffffff 020000000002 0806 0001080006040001 020000000002 c0000202 000000000000 \(target)")
    }
    #expect(
      hex(bench.send(ask("0af4010a"), at: bench.underlay).only(bench.underlay))
        == hex(bytes("020000000002 020000000001 0806 0001080006040002 020000000001 0af4010a 020000000002 c0000202")))
    // The kernel answers for the node; other nodes' pods are not ours.
    expectIgnored(ask("c0000201"), at: bench.underlay)
    expectIgnored(ask("0af4020a"), at: bench.underlay)
    expectIgnored(ask("a9fe0101"), at: bench.underlay)
  }

  // MARK: IPv6

  private let solicitGateway = bytes(
    """
    3333ffeeeeee 0a580af4010a 86dd
    60000000 00203aff fd000001000000000000000000000010 ff0200000000000000000001ffeeeeee
    8700ae0c 00000000 fe80000000000000eceeeefffeeeeeee 01010a580af4010a
    """)

  private let solicitRemote = bytes(
    """
    3333ff000010 0a580af4010a 86dd
    60000000 00203aff fd000001000000000000000000000010 ff0200000000000000000001ff000010
    87006914 00000000 fd000002000000000000000000000010 01010a580af4010a
    """)

  @Test("NODE-2 a solicitation for the gateway is answered: Solicited, no Override flag, hop limit 255")
  func solicitationForGateway() {
    let answer = bench.send(solicitGateway, at: bench.podA).only(bench.podA)
    #expect(
      hex(answer)
        == hex(
          bytes(
            """
            0a580af4010a eeeeeeeeeeee 86dd
            60000000 00203aff fe80000000000000eceeeefffeeeeeee fd000001000000000000000000000010
            88005b29 c0000000 fe80000000000000eceeeefffeeeeeee 0201eeeeeeeeeeee
            """)))
  }

  @Test("NODE-2 a solicitation for a pod elsewhere is answered")
  func solicitationForRemote() {
    let answer = bench.send(solicitRemote, at: bench.podA).only(bench.podA)
    #expect(
      hex(answer)
        == hex(
          bytes(
            """
            0a580af4010a eeeeeeeeeeee 86dd
            60000000 00203aff fd000002000000000000000000000010 fd000001000000000000000000000010
            8800f19e c0000000 fd000002000000000000000000000010 0201eeeeeeeeeeee
            """)))
    #expect(answer.count < 59 || answer[58] & 0x20 == 0, "no Override flag")
  }

  @Test("NODE-2 duplicate address detection is left alone")
  func duplicateAddressDetection() {
    let probe = bytes(
      """
      3333ff000010 0a580af4010a 86dd
      60000000 00183aff 00000000000000000000000000000000 ff0200000000000000000001ff000010
      87007d85 00000000 fd000002000000000000000000000010
      """)
    expectIgnored(probe, .ndpIgnored)
  }

  @Test("NODE-2 a solicitation that a router passed on, has a wrong checksum, or asks for nothing of ours, is ignored")
  func badSolicitations() {
    var octets = solicitRemote
    octets[21] = 254
    expectIgnored(octets, .ndpIgnored)
    octets = solicitRemote
    octets[56] ^= 1
    expectIgnored(octets, .ndpIgnored)
    let asker = bench.pod(10, .ipv6)
    let option = [1, 1] + Bench.podMAC(1, 10).octets
    func solicit(_ target: String, source: IPAddress? = nil, options: [UInt8]? = nil) -> [UInt8] {
      bench.fromPod(
        icmp(
          source ?? asker, IPAddress("ff02::1:ff00:10")!, 135, 0, IPAddress(target)!.octets + (options ?? option),
          with: IPFields(ttl: 255)))
    }
    #expect(bench.send(solicit("fd00:1::11"), at: bench.podA).octets(bench.podA).count == 1)
    // Its own address; what nobody has; a group; another node's link-local address.
    for target in ["fd00:1::10", "2001:db8:9::1", "fd00:1::77", "ff02::1", "fe80::1"] {
      expectIgnored(solicit(target), .ndpIgnored)
    }
    // An option of length 0 (RFC 4861, section 7.1.1).
    expectIgnored(solicit("fd00:1::11", options: [1, 0, 0, 0, 0, 0, 0, 0]), .ndpIgnored)
    // Somebody else's source address.
    expectIgnored(solicit("fd00:2::10", source: bench.pod(11, .ipv6)), .sourceAddress)
    // From the pod's link-local address: answered.
    #expect(
      bench.send(solicit("fe80::ecee:eeff:feee:eeee", source: IPAddress("fe80::1")!), at: bench.podA)
        .octets(bench.podA).count == 1)
  }

  @Test("NODE-2 other neighbour discovery messages end here", arguments: [133, 134, 136, 137])
  func otherMessages(_ type: Int) {
    let message = icmp(
      bench.pod(10, .ipv6), bench.pod(11, .ipv6), type, 0, [UInt8](repeating: 0, count: 32), with: IPFields(ttl: 255))
    expectIgnored(bench.fromPod(message), .ndpIgnored)
  }

  @Test("NODE-1 the gateways answer echo requests, and nothing else")
  func echo() {
    let gateway4 = IPAddress("169.254.1.1")!
    let gateway6 = IPAddress("fe80::ecee:eeff:feee:eeee")!
    let ping = icmp(bench.pod(10), gateway4, 8, rest: 0x0001_0002, Array("ping".utf8))
    #expect(
      bench.send(bench.fromPod(ping), at: bench.podA).only(bench.podA)
        == bench.toPod(icmp(gateway4, bench.pod(10), 0, rest: 0x0001_0002, Array("ping".utf8))))
    let ping6 = icmp(bench.pod(10, .ipv6), gateway6, 128, rest: 0x0001_0002, Array("ping".utf8))
    #expect(
      bench.send(bench.fromPod(ping6), at: bench.podA).only(bench.podA)
        == bench.toPod(icmp(gateway6, bench.pod(10, .ipv6), 129, rest: 0x0001_0002, Array("ping".utf8))))
    for packet in [udp(bench.pod(10), gateway4), tcp(bench.pod(10), gateway4, Flag.syn)] {
      let sent = bench.send(bench.fromPod(packet), at: bench.podA)
      #expect(sent.isSilent)
      #expect(sent.drops.values.reduce(0, +) == 1)
    }
  }
}
