import Addresses
import Ports
import Testing

@testable import Dataplane

/// Packets to a service and back, octet for octet. That checksums are right is for the bench to see in every frame.
@Suite(.bothSubjects) struct TranslationTests {
  @Test("KP-20 KP-7 to an endpoint here and back: addresses, ports and checksums", arguments: Wire.all)
  func here(_ wire: Wire) {
    let bench = Bench.forServices()
    let a = bench.pod(10, wire.family)
    let b = bench.pod(11, wire.family)
    let vip = bench.vip(wire.family)
    bench.serve(wire, [bench.endpoint(11, wire.family)])
    let request = packet(wire.transport, a, vip, from: 40000, to: 80)
    let sent = bench.send(bench.fromPod(request), at: bench.podA)
    #expect(sent.only(bench.podB) == bench.toPod(hopped(packet(wire.transport, a, b, from: 40000, to: 8080)), 11))
    if bench.kernel == nil { #expect(sent.trace.contains(.flowMissing)) }
    for flags in [Flag.syn | Flag.ack, Flag.ack, Flag.ack | Flag.psh] {
      let answer = packet(wire.transport, b, a, from: 8080, to: 40000, flags: flags)
      let back = bench.send(bench.fromPod(answer, 11), at: bench.podB)
      #expect(
        back.only(bench.podA)
          == bench.toPod(hopped(packet(wire.transport, vip, a, from: 80, to: 40000, flags: flags))))
      // The answer's way was decided with the request: it is neither classified nor balanced.
      if bench.kernel == nil { #expect(back.trace.contains(.flowFound)) }
      #expect(!back.trace.contains(.flowMissing) && !back.trace.contains(.flowStale))
      let more = packet(wire.transport, a, vip, from: 40000, to: 80, flags: flags)
      #expect(
        bench.send(bench.fromPod(more), at: bench.podA).only(bench.podB)
          == bench.toPod(hopped(packet(wire.transport, a, b, from: 40000, to: 8080, flags: flags)), 11))
    }
    if bench.kernel == nil { #expect(bench.pipeline.flowCount == 1) }
    if bench.kernel == nil { #expect(bench.pipeline.flows().first?.state == .established) }
  }

  @Test("KP-20 to an endpoint on another node and back, through every tunnel", arguments: Encapsulation.allCases)
  func elsewhere(_ encapsulation: Encapsulation) {
    for wire in Wire.all {
      let one = Bench.forServices(encapsulation)
      let two = Bench(node: 2, encapsulation)
      let a = one.pod(10, wire.family)
      let b = one.remote(10, wire.family)
      one.serve(wire, [one.endpoint(30, wire.family)])
      let request = packet(wire.transport, a, one.vip(wire.family), from: 40000, to: 80)
      let out = one.send(one.fromPod(request), at: one.podA).only(one.underlay)
      let inner = hopped(packet(wire.transport, a, b, from: 40000, to: 8080))
      #expect(Array(out.suffix(inner.count)) == inner)
      let delivered = two.send(out, at: two.underlay).only(two.podA)
      #expect(delivered == two.toPod(hopped(inner)))
      let answer = packet(wire.transport, b, a, from: 8080, to: 40000, flags: Flag.ack)
      let back = two.send(two.fromPod(answer), at: two.podA).only(two.underlay)
      let expected = hopped(
        hopped(packet(wire.transport, one.vip(wire.family), a, from: 80, to: 40000, flags: Flag.ack)))
      #expect(one.send(back, at: one.underlay).only(one.podA) == one.toPod(expected))
    }
  }

  @Test("KP-20 the octets of a TCP SYN to 10.96.0.1:80 and of the answer") func literal() {
    let bench = Bench.forServices()
    bench.serve(Wire(family: .ipv4, transport: .tcp), [bench.endpoint(11)])
    // Checksums computed by scapy.
    let request = bytes("45000028 00010000 40066471 0af4010a 0a600001 9c400050 00000064 00000000 50022000 dc8f0000")
    let sent = bench.send(bench.fromPod(request), at: bench.podA)
    #expect(
      hex(sent.only(bench.podB))
        == hex(
          bytes(
            """
            0a580af4010b eeeeeeeeeeee 0800
            45000028 00010000 3f0663d3 0af4010a 0af4010b 9c401f90 00000064 00000000 50022000 bbb10000
            """)))
    let answer = bytes("45000028 00010000 400662d3 0af4010b 0af4010a 1f909c40 000000c8 00000065 50122000 bad80000")
    let back = bench.send(bench.fromPod(answer, 11), at: bench.podB)
    #expect(
      hex(back.only(bench.podA))
        == hex(
          bytes(
            """
            0a580af4010a eeeeeeeeeeee 0800
            45000028 00010000 3f066571 0a600001 0af4010a 00509c40 000000c8 00000065 50122000 dbb60000
            """)))
  }

  @Test("TUN-9 a UDP checksum of 0 stays 0, and one that comes out as 0 is 0xFFFF", arguments: bothFamilies)
  func udpChecksum(_ family: IPFamily) {
    let bench = Bench.forServices()
    bench.serve(Wire(family: family, transport: .udp), [bench.endpoint(11, family)])
    let (a, b, vip) = (bench.pod(10, family), bench.pod(11, family), bench.vip(family))
    if family == .ipv4 {
      let none = udp(a, vip, from: 1000, to: 80, checksum: false)
      let out = bench.send(bench.fromPod(none), at: bench.podA).only(bench.podB)
      #expect(out == bench.toPod(hopped(udp(a, b, from: 1000, to: 8080, checksum: false)), 11))
      let back = bench.send(bench.fromPod(udp(b, a, from: 8080, to: 1000, checksum: false), 11), at: bench.podB)
      #expect(back.only(bench.podA) == bench.toPod(hopped(udp(vip, a, from: 80, to: 1000, checksum: false))))
    }
    // With these two octets of payload the checksum of the translated packet comes out as 0.
    let blank = udp(a, b, from: 1000, to: 8080, [0, 0])
    let offset = family == .ipv4 ? 26 : 46
    let payload = Array(blank[offset..<offset + 2])
    let expected = udp(a, b, from: 1000, to: 8080, payload)
    #expect(Array(expected[offset..<offset + 2]) == [0xff, 0xff])
    let sent = bench.send(bench.fromPod(udp(a, vip, from: 1000, to: 80, payload)), at: bench.podA)
    #expect(sent.only(bench.podB) == bench.toPod(hopped(expected), 11))
  }

  @Test("TUN-9 a wrong checksum stays wrong, so that the receiver sees it", arguments: Wire.all)
  func wrong(_ wire: Wire) {
    let bench = Bench.forServices()
    bench.validates = false
    bench.serve(wire, [bench.endpoint(11, wire.family)])
    let header = wire.family == .ipv4 ? 20 : 40
    func broken(_ packet: [UInt8]) -> [UInt8] {
      var packet = packet
      packet[packet.count - 1] ^= 0x40
      return packet
    }
    let request = packet(wire.transport, bench.pod(10, wire.family), bench.vip(wire.family), from: 9, to: 80)
    let expected = packet(wire.transport, bench.pod(10, wire.family), bench.pod(11, wire.family), from: 9, to: 8080)
    let out = bench.send(bench.fromPod(broken(request)), at: bench.podA).only(bench.podB)
    #expect(problem(in: MemoryFrame(out)) != nil)
    if wire.transport != .sctp {
      // What is wrong is as wrong as it was.
      #expect(out == bench.toPod(broken(hopped(expected)), 11))
    }
    #expect(Array(out[(14 + header)..<(14 + header + 4)]) == u16(9) + u16(8080))
  }

  @Test("an SCTP packet without a checksum keeps none (RFC 9653)", arguments: bothFamilies)
  func noCRC(_ family: IPFamily) {
    let bench = Bench.forServices()
    bench.validates = false
    bench.serve(Wire(family: family, transport: .sctp), [bench.endpoint(11, family)])
    let header = family == .ipv4 ? 20 : 40
    func without(_ packet: [UInt8]) -> [UInt8] {
      var packet = packet
      packet.replaceSubrange(header + 8..<header + 12, with: [0, 0, 0, 0])
      return packet
    }
    let request = without(sctp(bench.pod(10, family), bench.vip(family), from: 9, to: 80))
    let expected = without(sctp(bench.pod(10, family), bench.pod(11, family), from: 9, to: 8080))
    #expect(bench.send(bench.fromPod(request), at: bench.podA).only(bench.podB) == bench.toPod(hopped(expected), 11))
  }

  /// A packet with a partial checksum, as a pod's kernel hands it over.
  private func partial(_ packet: [UInt8], _ wire: Wire) -> MemoryFrame {
    var packet = packet
    let start = wire.family == .ipv4 ? 20 : 40
    let offset = wire.transport == .tcp ? 16 : wire.transport == .udp ? 6 : 8
    if wire.transport == .sctp {
      packet.replaceSubrange(start + 8..<start + 12, with: [0, 0, 0, 0])
    } else {
      let addresses = Array(packet[(wire.family == .ipv4 ? 12..<20 : 8..<40)])
      let sum = slowChecksum(addresses, u32(packet.count - start), u32(Int(wire.transport.number)))
      packet.replaceSubrange(start + offset..<start + offset + 2, with: u16(Int(~sum)))
    }
    let frame = ethernet(
      to: Bench.gatewayMAC, from: Bench.podMAC(1, 10), wire.family == .ipv4 ? 0x800 : 0x86dd, packet)
    return MemoryFrame(frame, partialChecksumStart: 14 + start, partialChecksumOffset: offset)
  }

  @Test("TUN-9 partial checksums are translated: finished for who needs it, handed on to who can", arguments: Wire.all)
  func partialChecksum(_ wire: Wire) {
    for offloads in [PortCapabilities([]), [.checksum, .tcp4, .tcp6, .udp]] {
      let bench = Bench.forServices(capabilities: offloads)
      bench.serve(wire, [bench.endpoint(11, wire.family)])
      let (a, b) = (bench.pod(10, wire.family), bench.pod(11, wire.family))
      for _ in 0..<2 {
        let request = partial(packet(wire.transport, a, bench.vip(wire.family), from: 9, to: 80), wire)
        let sent = bench.send([request], at: bench.podA)
        let expected = packet(wire.transport, a, b, from: 9, to: 8080)
        let out = sent.only(bench.podB)
        if offloads.isEmpty {
          #expect(out == bench.toPod(hopped(expected), 11))
        } else {
          #expect(sent.frames[bench.podB]?.first?.partialChecksumStart == request.partialChecksumStart)
          #expect(Array(out[14...]) == hopped(Array(partial(expected, wire).octets[14...])))
        }
      }
    }
  }

  @Test("TUN-9 super-frames are translated once, whatever becomes of them", arguments: bothFamilies)
  func superFrame(_ family: IPFamily) {
    for offloads in [PortCapabilities([]), [.checksum, .tcp4, .tcp6, .udp]] {
      for transport in [Transport.tcp, .udp] {
        let wire = Wire(family: family, transport: transport)
        let bench = Bench.forServices(capabilities: offloads)
        bench.serve(wire, [bench.endpoint(11, family)])
        let payload = (0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let fields = IPFields(identification: 3, dontFragment: true)
        var frame = partial(
          packet(
            transport, bench.pod(10, family), bench.vip(family), from: 9, to: 80, payload, flags: Flag.ack, with: fields
          ),
          wire)
        frame.segmentation = transport == .udp ? .udp : family == .ipv4 ? .tcp4 : .tcp6
        frame.segmentSize = 1000
        let sent = bench.send([frame], at: bench.podA)
        #expect(sent.octets(bench.podB).count == (offloads.isEmpty ? 5 : 1))
        let header = 14 + (family == .ipv4 ? 20 : 40) + (transport == .tcp ? 20 : 8)
        #expect(sent.octets(bench.podB).flatMap { $0[header...] } == payload)
        for tuple in sent.tuples(bench.podB) {
          #expect(tuple.destination == bench.pod(11, family))
          #expect(tuple.destinationPort == 8080)
        }
        if bench.kernel == nil { #expect(bench.pipeline.flows().first?.forward.packets == 1) }
      }
    }
  }

  @Test("KP-20 one frontend is as good as another among many, and only exact ones count") func exact() {
    let bench = Bench.forServices()
    var services: [Int: ServiceIndex] = [:]
    for number in 1...200 {
      services[number] = bench.addService("s\(number)", [bench.endpoint(11, port: UInt16(9000 + number))])
      bench.setFrontend(
        .clusterIP, bench.vip(.ipv4, number), Wire(family: .ipv4, transport: .tcp), port: 80, services[number]!)
    }
    for number in [1, 77, 200] {
      let request = tcp(bench.pod(10), bench.vip(.ipv4, number), from: 5000, to: 80, Flag.syn)
      let sent = bench.send(bench.fromPod(request), at: bench.podA)
      #expect(sent.tuples(bench.podB).first?.destinationPort == 9000 + number)
    }
    bench.tables.removeFrontend(
      Frontend(.clusterIP, address: bench.vip(.ipv4, 77), family: .ipv4, transport: 6, port: 80))
    bench.tables.removeService(services[77]!)
    let request = tcp(bench.pod(10), bench.vip(.ipv4, 77), from: 5001, to: 80, Flag.syn)
    #expect(bench.send(bench.fromPod(request), at: bench.podA).drops == [.noRoute: 1])
    let other = tcp(bench.pod(10), bench.vip(.ipv4, 78), from: 5001, to: 80, Flag.syn)
    #expect(bench.send(bench.fromPod(other), at: bench.podA).tuples(bench.podB).first?.destinationPort == 9078)
  }
}
