import Addresses
import Ports
import Testing

@testable import Dataplane

/// ICMP errors and fragments of translated packets.
@Suite(.bothSubjects) struct ServiceErrorTests {
  private func tos(_ family: IPFamily) -> IPFields { IPFields(tos: family == .ipv4 ? 0xc0 : 0) }

  /// The first `count` octets of a packet's transport, with the packet's network header.
  private func cut(_ packet: [UInt8], _ count: Int) -> [UInt8] {
    Array(packet[..<min(packet.count, (packet[0] >> 4 == 6 ? 40 : 20) + count)])
  }

  @Test(
    "TUN-7 RFC 5508: an error about a translated packet comes to its sender about what it sent", arguments: Wire.all)
  func forward(_ wire: Wire) throws {
    let family = wire.family
    let (type, code) = family == .ipv4 ? (3, 4) : (2, 0)
    for isMasqueraded in [false, true] {
      for quoted in [8, 12, 20, 1000] {
        let bench = Bench.forServices { $0.masqueradeAll = isMasqueraded }
        let (pod, vip, end) = (bench.pod(10, family), bench.vip(family), bench.remote(10, family))
        bench.serve(wire, [bench.endpoint(30, family)])
        let asked = packet(wire.transport, pod, vip, from: 5000, to: 80)
        let out = bench.send(bench.fromPod(asked), at: bench.podA)
        let tuple = try out.tuple(bench.underlay)
        let seen = Array(out.only(bench.underlay)[14...])
        // A router in between, and the endpoint itself.
        for reporter in [bench.client(family, 254), end] {
          let error = icmp(reporter, tuple.source, type, code, rest: 1400, cut(seen, quoted), with: tos(family))
          let sent = bench.send(bench.fromNode(error), at: bench.underlay)
          let expected = icmp(
            reporter == end ? vip : reporter, pod, type, code, rest: 1400, cut(hopped(asked), quoted), with: tos(family)
          )
          // SCTP's checksum is over octets that nobody quotes.
          if wire.transport == .sctp, quoted > 8 {
            let transport = 14 + (family == .ipv4 ? 20 + 8 + 20 : 40 + 8 + 40)
            let (found, wanted) = (sent.only(bench.podA), bench.toPod(hopped(expected)))
            #expect(found[..<36].elementsEqual(wanted[..<36]))
            #expect(found[(transport - 20)..<(transport + 8)].elementsEqual(wanted[(transport - 20)..<(transport + 8)]))
          } else {
            #expect(hex(sent.only(bench.podA)) == hex(bench.toPod(hopped(expected))))
          }
        }
        if bench.kernel == nil { #expect(bench.pipeline.flowCount == 1) }
      }
    }
  }

  @Test(
    "TUN-7 RFC 5508: a client's error about an answer comes to the endpoint about what it sent", arguments: Wire.all)
  func backward(_ wire: Wire) throws {
    let family = wire.family
    let (type, code) = family == .ipv4 ? (3, 3) : (1, 4)
    for isLocal in [true, false] {
      let bench = Bench.forServices()
      let (client, node, end) = (bench.client(family), bench.node(family), bench.pod(11, family))
      let service = bench.addService([bench.endpoint(11, family)], local: [bench.endpoint(11, family)])
      bench.setFrontend(.nodePort, nil, wire, port: 30080, service, isLocal: isLocal)
      let asked = packet(wire.transport, client, node, from: 5000, to: 30080)
      let tuple = try bench.send(bench.fromNode(asked), at: bench.underlay).tuple(bench.podB)
      let answer = packet(wire.transport, end, tuple.source, from: 8080, to: tuple.sourcePort, flags: Flag.ack)
      let out = Array(bench.send(bench.fromPod(answer, 11), at: bench.podB).only(bench.underlay)[14...])
      #expect(out == hopped(packet(wire.transport, node, client, from: 30080, to: 5000, flags: Flag.ack)))
      let error = icmp(client, node, type, code, cut(out, 8), with: tos(family))
      let sent = bench.send(bench.fromNode(error), at: bench.underlay)
      let expected = icmp(tuple.source, end, type, code, cut(hopped(answer), 8), with: tos(family))
      #expect(hex(sent.only(bench.podB)) == hex(bench.toPod(hopped(expected), 11)))
    }
  }

  @Test("TUN-7 an endpoint on this node reports; somebody else may not do it in its name", arguments: bothFamilies)
  func spoofed(_ family: IPFamily) throws {
    let bench = Bench.forServices()
    let (type, code) = family == .ipv4 ? (3, 3) : (1, 4)
    bench.serve(Wire(family: family, transport: .udp), [bench.endpoint(11, family)])
    let asked = udp(bench.pod(10, family), bench.vip(family), from: 5000, to: 80)
    let seen = Array(bench.send(bench.fromPod(asked), at: bench.podA).only(bench.podB)[14...])
    let error = icmp(bench.pod(11, family), bench.pod(10, family), type, code, seen)
    let expected = icmp(bench.vip(family), bench.pod(10, family), type, code, hopped(asked))
    #expect(
      hex(bench.send(bench.fromPod(error, 11), at: bench.podB).only(bench.podA)) == hex(bench.toPod(hopped(expected))))
    let foreign = icmp(bench.client(family), bench.pod(10, family), type, code, seen)
    let sent = bench.send(bench.fromPod(foreign, 11), at: bench.podB)
    #expect(sent.isSilent)
    #expect(sent.drops == [.sourceAddress: 1])
  }

  @Test("TUN-7 an error whose checksum is wrong does not become right on the way", arguments: bothFamilies)
  func corrupted(_ family: IPFamily) {
    let bench = Bench.forServices()
    bench.validates = false
    bench.serve(Wire(family: family, transport: .udp), [bench.endpoint(30, family)])
    let asked = udp(bench.pod(10, family), bench.vip(family), from: 5000, to: 80)
    let seen = Array(bench.send(bench.fromPod(asked), at: bench.podA).only(bench.underlay)[14...])
    var error = icmp(bench.remote(10, family), bench.pod(10, family), family == .ipv4 ? 3 : 1, 4, seen)
    error[error.count - 1] ^= 1
    let out = bench.send(bench.fromNode(error), at: bench.underlay).only(bench.podA)
    #expect(problem(in: MemoryFrame(out)) != nil)
  }

  @Test(
    "TUN-7 an error that comes back from inside a tunnel is told to the sender about what it sent", arguments: Wire.all)
  func fromTunnel(_ wire: Wire) throws {
    let family = wire.family
    for isMasqueraded in [false, true] {
      let bench = Bench.forServices(.vxlan) { $0.masqueradeAll = isMasqueraded }
      bench.serve(wire, [bench.endpoint(30, family)])
      let fields = IPFields(dontFragment: family == .ipv4)
      let payload = [UInt8](repeating: 5, count: 1300)
      let asked = packet(
        wire.transport, bench.pod(10, family), bench.vip(family), from: 5000, to: 80, payload, with: fields)
      let out = Array(bench.send(bench.fromPod(asked), at: bench.podA).only(bench.underlay)[14...])
      let error = icmp(IPAddress("192.0.2.254")!, Bench.node4(1), 3, 4, rest: 1300, Array(out.prefix(200)))
      let sent = bench.send(bench.fromNode(error), at: bench.underlay)
      let told = Array(sent.only(bench.podA)[14...])
      let header = family == .ipv4 ? 28 : 48
      #expect(u32(told, header - 4) == 1250)
      let quote = Array(told[header...])
      // The headers as they were, up to where the quote ends; SCTP's checksum left out.
      let count = (family == .ipv4 ? 20 : 40) + 8
      #expect(hex(Array(quote[..<count])) == hex(Array(hopped(asked)[..<count])))
    }
  }

  @Test("TUN-7 errors to a cluster IP that are about nothing go nowhere", arguments: bothFamilies)
  func unrelated(_ family: IPFamily) {
    let bench = Bench.forServices()
    bench.tables.setRoute(Route(IPPrefix(family == .ipv4 ? "0.0.0.0/0" : "::/0")!, hops: [bench.hop]))
    bench.serve(Wire(family: family, transport: .udp), [bench.endpoint(30, family)])
    let quoted = udp(bench.vip(family), bench.pod(10, family), from: 80, to: 5000)
    let error = icmp(bench.pod(10, family), bench.vip(family), family == .ipv4 ? 3 : 1, 3, quoted)
    let sent = bench.send(bench.fromPod(error), at: bench.podA)
    #expect(sent.isSilent)
    #expect(sent.drops == [.noServicePort: 1])
  }

  @Test("NODE-6 a translated packet that is too big: its sender is told about what it sent", arguments: Wire.all)
  func tooBig(_ wire: Wire) {
    let family = wire.family
    let bench = Bench.forServices(mtu: 1400) { $0.masqueradeAll = true }
    bench.serve(wire, [bench.endpoint(30, family)])
    let asked = packet(
      wire.transport, bench.pod(10, family), bench.vip(family), from: 5000, to: 80, [UInt8](repeating: 1, count: 1400),
      with: IPFields(dontFragment: family == .ipv4))
    let sent = bench.send(bench.fromPod(asked), at: bench.podA)
    let (type, code, limit) = family == .ipv4 ? (3, 4, 576 - 28) : (2, 0, 1280 - 48)
    let expected = icmp(
      bench.node(family), bench.pod(10, family), type, code, rest: 1400, Array(asked.prefix(limit)), with: tos(family))
    #expect(hex(sent.only(bench.podA)) == hex(bench.toPod(expected)))
  }

  // MARK: Fragments

  @Test("TUN-8 what is translated and must be cut is translated first, in every fragment") func cutPackets() {
    for isMasqueraded in [false, true] {
      let bench = Bench.forServices(mtu: 600) { $0.masqueradeAll = isMasqueraded }
      bench.serve(Wire(family: .ipv4, transport: .udp), [bench.endpoint(30)])
      for round in 0..<2 {
        let payload = (0..<1300).map { UInt8(truncatingIfNeeded: $0 &* 3 &+ round) }
        let asked = udp(bench.pod(10), bench.vip(), from: 5000, to: 80, payload, with: IPFields(identification: 9))
        let out = bench.send(bench.fromPod(asked), at: bench.podA).octets(bench.underlay)
        #expect(out.count == 3)
        let source = isMasqueraded ? bench.node() : bench.pod(10)
        #expect(out.allSatisfy { Array($0[26..<30]) == source.octets && Array($0[30..<34]) == bench.remote(10).octets })
        let datagram = out.flatMap { Array($0[34...]) }
        let port = u16(datagram, 0)
        #expect(
          datagram == Array(udp(source, bench.remote(10), from: port, to: 8080, payload)[20...]))
      }
      if bench.kernel == nil { #expect(bench.pipeline.flows().first?.forward.packets == 2) }
    }
  }

  /// The parts of a packet that a sender cut itself.
  private func parts(_ packet: [UInt8], _ size: Int) -> [[UInt8]] {
    let isIPv6 = packet[0] >> 4 == 6
    let header = isIPv6 ? 40 : 20
    let number = Int(packet[isIPv6 ? 6 : 9])
    let source = IPAddress(octets: Array(packet[isIPv6 ? 8..<24 : 12..<16]))
    let destination = IPAddress(octets: Array(packet[isIPv6 ? 24..<40 : 16..<20]))
    let payload = Array(packet[header...])
    return stride(from: 0, to: payload.count, by: size).map { offset in
      let end = min(offset + size, payload.count)
      return ip(
        source, destination, number, Array(payload[offset..<end]),
        with: IPFields(identification: 31, more: end < payload.count, offset: offset))
    }
  }

  @Test("TUN-8 fragments of a translated datagram, in order and not, there and back", arguments: bothFamilies)
  func fragments(_ family: IPFamily) throws {
    // The kernel's programs keep no fragments: those before the first are lost.
    for order in Subject.current == .kernel ? [[0, 1, 2], [0, 2, 1]] : [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
      for isMasqueraded in [false, true] {
        let bench = Bench.forServices { $0.masqueradeAll = isMasqueraded }
        let (pod, vip, end) = (bench.pod(10, family), bench.vip(family), bench.remote(10, family))
        bench.serve(Wire(family: family, transport: .udp), [bench.endpoint(30, family)])
        let payload = (0..<1192).map { UInt8(truncatingIfNeeded: $0 &* 5) }
        let cuts = parts(udp(pod, vip, from: 5000, to: 80, payload), 400)
        let sent = bench.send(order.map { MemoryFrame(bench.fromPod(cuts[$0])) }, at: bench.podA)
        let out = sent.octets(bench.underlay).map { Array($0[14...]) }
        #expect(out.count == 3)
        let header = family == .ipv4 ? 20 : 48
        let first = try #require(out.first { u16($0, header + 2) == 8080 })
        let port = u16(first, header)
        let source = isMasqueraded ? bench.node(family) : pod
        let expected = parts(udp(source, end, from: port, to: 8080, payload), 400).map(hopped)
        #expect(Set(out) == Set(expected))
        // And the answer.
        let answers = parts(udp(end, source, from: 8080, to: port, payload), 400)
        let back = bench.send(order.map { MemoryFrame(bench.fromNode(answers[$0])) }, at: bench.underlay)
        let wanted = parts(udp(vip, pod, from: 80, to: 5000, payload), 400).map { bench.toPod(hopped($0)) }
        #expect(Set(back.octets(bench.podA)) == Set(wanted))
        if bench.kernel == nil { #expect(bench.pipeline.flowCount == 1) }
        if bench.kernel == nil { #expect(bench.pipeline.flows().first?.reply.packets == 3) }
      }
    }
  }

  @Test("TUN-8 fragments to a NodePort from outside", arguments: bothFamilies)
  func nodePortFragments(_ family: IPFamily) {
    let bench = Bench.forServices()
    let service = bench.addService([bench.endpoint(11, family)], local: [bench.endpoint(11, family)])
    bench.setFrontend(.nodePort, nil, Wire(family: family, transport: .udp), port: 30080, service, isLocal: true)
    let payload = (0..<1192).map { UInt8(truncatingIfNeeded: $0 &* 5) }
    let cuts = parts(udp(bench.client(family), bench.node(family), from: 5000, to: 30080, payload), 400)
    let sent = bench.send(cuts.map { MemoryFrame(bench.fromNode($0)) }, at: bench.underlay)
    let expected = parts(udp(bench.client(family), bench.pod(11, family), from: 5000, to: 8080, payload), 400)
    #expect(sent.octets(bench.podB) == expected.map { bench.toPod(hopped($0), 11) })
  }
}
