import Addresses
import Ports
import Testing

@testable import Dataplane

/// What cannot be read is dropped, each time with its reason, and never goes anywhere.
@Suite struct ParseTests {
  let bench = Bench()

  private func expectDrop(
    _ reason: DropReason, _ octets: [UInt8], at port: PortIndex? = nil,
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let sent = bench.send(octets, at: port ?? bench.podA)
    #expect(sent.drops == [reason: 1], sourceLocation: sourceLocation)
    #expect(sent.isSilent, sourceLocation: sourceLocation)
    #expect(sent.trace.last == .dropped(reason), sourceLocation: sourceLocation)
  }

  /// The literal frame that the others are bent from: UDP from pod A to pod B.
  let good = bytes(
    """
    eeeeeeeeeeee 0a580af4010a 0800
    4500001e 00010000 401162d2 0af4010a 0af4010b 03e807d0 000a6cba 6f6b
    """)

  @Test("NODE-4 a packet from pod to pod is sent on, its checksum updated")
  func passes() {
    let frame = bench.send(good, at: bench.podA).only(bench.podB)
    #expect(
      hex(frame)
        == hex(
          bytes("0a580af4010b eeeeeeeeeeee 0800 4500001e 00010000 3f1163d2 0af4010a 0af4010b 03e807d0 000a6cba 6f6b")))
  }

  @Test("truncated frames") func truncated() {
    for length in 1..<14 { expectDrop(.truncatedFrame, Array(good[..<length])) }
    for length in 14..<34 { expectDrop(.badIPv4Header, Array(good[..<length])) }
    // The total length says more than there is.
    for length in 34..<good.count { expectDrop(.badIPv4Header, Array(good[..<length])) }
    let six = bench.fromPod(udp(bench.pod(10, .ipv6), bench.pod(11, .ipv6)))
    for length in 14..<six.count { expectDrop(.badIPv6Header, Array(six[..<length])) }
  }

  @Test("bad IPv4 headers") func badIPv4() {
    var octets = good
    octets[14] = 0x55
    expectDrop(.badIPv4Header, octets)
    octets[14] = 0x44
    expectDrop(.badIPv4Header, octets)
    octets = good
    octets[17] = 19
    expectDrop(.badIPv4Header, octets)
    octets = good
    // Options up to 60 octets that are not there.
    octets[14] = 0x4f
    expectDrop(.badIPv4Header, octets)
    octets = good
    octets[24] ^= 1
    expectDrop(.badIPv4Checksum, octets)
  }

  @Test("bad IPv6 headers") func badIPv6() {
    var packet = udp(bench.pod(10, .ipv6), bench.pod(11, .ipv6))
    packet[0] = 0x40
    expectDrop(.badIPv6Header, ethernet(to: Bench.gatewayMAC, from: Bench.podMAC(1, 10), 0x86dd, packet))
    // Hop-by-hop options longer than the packet; and in second place.
    packet = ip(bench.pod(10, .ipv6), bench.pod(11, .ipv6), 0, [17, 9, 1, 4, 0, 0, 0, 0])
    expectDrop(.badExtensionHeader, bench.fromPod(packet))
    packet = ip(
      bench.pod(10, .ipv6), bench.pod(11, .ipv6), 60, [0, 0, 1, 4, 0, 0, 0, 0] + [17, 0, 1, 4, 0, 0, 0, 0])
    expectDrop(.badExtensionHeader, bench.fromPod(packet))
    // Nine of them.
    packet = ip(
      bench.pod(10, .ipv6), bench.pod(11, .ipv6), 60,
      (0..<9).flatMap { [$0 == 8 ? 17 : 60, 0, 1, 4, 0, 0, 0, 0] } + u16(1) + u16(2) + u16(8) + u16(0))
    expectDrop(.badExtensionHeader, bench.fromPod(packet))
    // A routing header of type 0 with a segment left (RFC 5095).
    packet = ip(
      bench.pod(10, .ipv6), bench.pod(11, .ipv6), 43,
      [17, 2, 0, 1, 0, 0, 0, 0] + bench.remote(10, .ipv6).octets + u16(1) + u16(2) + u16(8) + u16(0))
    expectDrop(.sourceRoute, bench.fromPod(packet))
  }

  @Test("extension headers are walked to the transport") func extensionHeaders() {
    let datagram = Array(udp(bench.pod(10, .ipv6), bench.pod(11, .ipv6))[40...])
    let packet = ip(
      bench.pod(10, .ipv6), bench.pod(11, .ipv6), 0, [60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0] + datagram)
    #expect(bench.send(bench.fromPod(packet), at: bench.podA).only(bench.podB) == bench.toPod(hopped(packet), 11))
    let flow = bench.pipeline.flows().first
    #expect(flow?.transport == .udp)
    #expect(flow?.sourcePort == 1000)
    #expect(flow?.destinationPort == 2000)
  }

  @Test("transport headers that are not all there") func badTransport() {
    for (number, length) in [(6, 20), (17, 8), (132, 12), (1, 8)] {
      let packet = ip(bench.pod(10), bench.pod(11), number, [UInt8](repeating: 0, count: length - 1))
      expectDrop(.badTransport, bench.fromPod(packet))
    }
    for (number, length) in [(6, 20), (17, 8), (132, 12), (58, 8)] {
      let packet = ip(bench.pod(10, .ipv6), bench.pod(11, .ipv6), number, [UInt8](repeating: 0, count: length - 1))
      expectDrop(.badTransport, bench.fromPod(packet))
    }
  }

  @Test("EtherTypes, VLANs and lengths of 802.3") func etherTypes() {
    func with(_ type: String, _ rest: String = "00000000") -> [UInt8] {
      bytes("eeeeeeeeeeee 0a580af4010a \(type) \(rest)")
    }
    expectDrop(.unknownEtherType, with("88cc"))
    expectDrop(.unknownEtherType, with("8847"))
    // Spanning tree: a length.
    expectDrop(.unknownEtherType, with("0026", "42420300"))
    expectDrop(.badEthernet, with("8100", "00"))
    expectDrop(.unknownVLAN, with("8100", "0064 0800") + good[14...])
    expectDrop(.unknownVLAN, with("88a8", "0064 8100 0001 0800") + good[14...])
    // Three tags.
    expectDrop(.badEthernet, with("8100", "0000 8100 0000 8100 0000 0800") + good[14...])
  }

  @Test("TUN-10 a priority tag (VLAN 0) belongs to every port and ends here")
  func priorityTag() {
    let tagged = bytes("eeeeeeeeeeee 0a580af4010a 8100 a000") + good[12...]
    #expect(bench.send(tagged, at: bench.podA).only(bench.podB) == bench.send(good, at: bench.podA).only(bench.podB))
  }

  @Test("frames for other stations") func otherStations() {
    var octets = good
    octets[5] = 0xef
    expectDrop(.notOurMAC, octets)
    // To a group: never sent on to one host (RFC 1812, section 5.3.4).
    octets.replaceSubrange(0..<6, with: bytes("ffffffffffff"))
    expectDrop(.multicast, octets)
  }

  @Test("sources and destinations that no packet may have") func addresses() {
    for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
      expectDrop(.invalidSource, bench.fromPod(udp(IPAddress(source)!, bench.pod(11))))
    }
    for source in ["::", "::1", "ff02::1"] {
      expectDrop(.invalidSource, bench.fromPod(udp(IPAddress(source)!, bench.pod(11, .ipv6))))
    }
    for destination in ["127.0.0.1", "0.0.0.0", "0.1.2.3"] {
      expectDrop(.invalidDestination, bench.fromPod(udp(bench.pod(10), IPAddress(destination)!)))
    }
    for destination in ["224.0.0.251", "239.1.2.3", "255.255.255.255"] {
      expectDrop(.multicast, bench.fromPod(udp(bench.pod(10), IPAddress(destination)!)))
    }
    expectDrop(.invalidDestination, bench.fromPod(udp(bench.pod(10, .ipv6), IPAddress("::1")!)))
    expectDrop(.invalidDestination, bench.fromPod(udp(bench.pod(10, .ipv6), IPAddress("::")!)))
    expectDrop(.multicast, bench.fromPod(udp(bench.pod(10, .ipv6), IPAddress("ff02::fb")!)))
  }

  @Test("IPv4 options pass, source routes do not") func options() {
    let timestamp = IPFields(options: bytes("44 08 05 00 00000000"))
    let packet = udp(bench.pod(10), bench.pod(11), with: timestamp)
    #expect(bench.send(bench.fromPod(packet), at: bench.podA).only(bench.podB) == bench.toPod(hopped(packet), 11))
    for option in ["83 07 04 0a000001 00", "01 89 07 04 0a000001"] {
      expectDrop(
        .sourceRoute, bench.fromPod(udp(bench.pod(10), bench.pod(11), from: 7, with: IPFields(options: bytes(option)))))
    }
  }

  @Test("what a packet may not have is looked for in every packet, not in the first of a flow alone")
  func knownFlow() {
    let packet = udp(bench.pod(10), bench.pod(11))
    #expect(bench.send(bench.fromPod(packet), at: bench.podA).octets(bench.podB).count == 1)
    expectDrop(
      .sourceRoute,
      bench.fromPod(udp(bench.pod(10), bench.pod(11), with: IPFields(options: bytes("83 07 04 0a000001 00")))))
    for family in [IPFamily.ipv4, .ipv6] {
      var frame = bench.fromPod(udp(bench.pod(10, family), bench.pod(11, family)))
      bench.send(frame, at: bench.podA)
      frame.replaceSubrange(0..<6, with: bytes("ffffffffffff"))
      expectDrop(.multicast, frame)
    }
  }

  @Test("link-local packets are not forwarded (RFC 4291, section 2.5.6)")
  func linkLocal() {
    bench.tables.setRoute(Route(IPPrefix("::/0")!, hops: [bench.hopHost]))
    expectDrop(.invalidDestination, bench.fromPod(udp(bench.pod(10, .ipv6), IPAddress("fe80::1")!)))
    expectDrop(
      .invalidSource, bench.fromNode(udp(IPAddress("fe80::1")!, bench.pod(10, .ipv6))), at: bench.underlay)
    expectDrop(
      .invalidSource, bench.fromHost(udp(IPAddress("fe80::1")!, bench.pod(10, .ipv6))), at: bench.host)
  }

  @Test("the rest of a packet that a capture cut off is not missed where nobody has to read it")
  func truncatedCapture() {
    let bench = Bench(.vxlan)
    bench.validates = false
    let packet = udp(bench.pod(10), bench.remote(10), [UInt8](repeating: 1, count: 1000))
    let whole = bench.fromPod(packet)
    let out = bench.send([MemoryFrame(Array(whole.prefix(96)), wireLength: whole.count)], at: bench.podA)
    let frame = out.frames[bench.underlay]?.first
    #expect(frame?.octets.count == 96 + 50)
    #expect(frame?.wireLength == whole.count + 50)
    let two = Bench(node: 2, .vxlan)
    two.validates = false
    let cut = MemoryFrame(frame?.octets ?? [], wireLength: whole.count + 50)
    let delivered = two.send([cut], at: two.underlay).frames[two.podA]?.first
    #expect(delivered?.octets.count == 96)
    #expect(delivered?.wireLength == whole.count)
  }

  @Test("Ethernet padding is not sent on") func padding() {
    let padded = good + [UInt8](repeating: 0xaa, count: 16)
    #expect(bench.send(padded, at: bench.podA).only(bench.podB).count == good.count)
    let six = bench.fromPod(udp(bench.pod(10, .ipv6), bench.pod(11, .ipv6)))
    #expect(bench.send(six + [1, 2, 3], at: bench.podA).only(bench.podB).count == six.count)
  }

  @Test("every drop is counted at the port that it came in by, and a sample is kept") func counters() {
    bench.send(Array(good[..<20]), at: bench.podB)
    #expect(bench.pipeline.dropCount(.badIPv4Header, at: bench.podB) == 0, "pod B's own address is checked first")
    bench.send(good, at: bench.podB)
    #expect(bench.pipeline.dropCount(.sourceMAC, at: bench.podB) == 2)
    #expect(bench.pipeline.dropCount(.sourceMAC, at: bench.podA) == 0)
    let sample = bench.pipeline.dropSamples.last
    #expect(sample?.reason == .sourceMAC)
    #expect(sample?.port == bench.podB)
    #expect(sample?.octets == good)
    #expect(sample?.length == good.count)
  }

  @Test("a port that is gone") func portDown() {
    bench.ports[bench.podB] = nil
    expectDrop2(.portDown)
    bench.ports[bench.podB] = bench.port(bench.podB)
    bench.port(bench.podB).transmitLimit = 0
    expectDrop2(.transmitFull)
  }

  private func expectDrop2(_ reason: DropReason) {
    let sent = bench.send(good, at: bench.podA)
    #expect(sent.drops == [reason: 1])
    #expect(sent.isSilent)
  }
}
