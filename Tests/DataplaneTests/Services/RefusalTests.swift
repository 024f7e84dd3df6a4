import Addresses
import Ports
import Testing

@testable import Dataplane

/// Connections that nobody takes (KP-30): a TCP reset, or an ICMP port unreachable.
@Suite(.bothSubjects) struct RefusalTests {
  private func segment(
    _ source: IPAddress, _ destination: IPAddress, from: Int, to: Int, _ flags: Int, sequence: Int, acknowledgment: Int,
    window: Int = 8192, _ payload: [UInt8] = [], with fields: IPFields = IPFields()
  ) -> [UInt8] {
    var segment = u16(from) + u16(to) + u32(sequence) + u32(acknowledgment) + [0x50, UInt8(flags)] + u16(window)
    segment += [0, 0, 0, 0] + payload
    let sum = slowChecksum(pseudo(source, destination, 6, segment.count), segment)
    segment.replaceSubrange(16..<18, with: u16(Int(sum)))
    return ip(source, destination, 6, segment, with: fields)
  }

  @Test("KP-30 no endpoint: every frontend refuses, to everybody", arguments: Wire.all)
  func everywhere(_ wire: Wire) {
    let bench = Bench.forServices()
    let family = wire.family
    let service = bench.addService([])
    let external = bench.client(family, 200)
    let balancer = bench.client(family, 201)
    bench.setFrontend(.clusterIP, bench.vip(family), wire, service, isLocal: true)
    bench.setFrontend(.externalIP, external, wire, service)
    // Who may not come in is told no less: there is nothing to come in to.
    bench.setFrontend(.loadBalancer, balancer, wire, service, ranges: [IPPrefix(host: bench.client(family, 250))])
    bench.setFrontend(.nodePort, nil, wire, port: 30080, service, isLocal: true)
    for (address, port) in [(bench.vip(family), 80), (external, 80), (balancer, 80), (bench.node(family), 30080)] {
      let request = packet(wire.transport, bench.pod(10, family), address, from: 5000, to: port)
      let sent = bench.send(bench.fromPod(request), at: bench.podA)
      #expect(sent.drops == [.noEndpoint: 1])
      let answer = sent.only(bench.podA)
      if wire.transport == .tcp {
        let reset = segment(
          address, bench.pod(10, family), from: port, to: 5000, Flag.rst | Flag.ack, sequence: 0,
          // The SYN counts, and so does what it carries.
          acknowledgment: 1 + 1 + 12, window: 0, with: IPFields(dontFragment: true))
        #expect(hex(answer) == hex(bench.toPod(reset)))
        if bench.kernel == nil { #expect(sent.trace.contains(.resetSent)) }
      } else {
        let (type, code) = family == .ipv4 ? (3, 3) : (1, 4)
        let error = icmp(
          bench.node(family), bench.pod(10, family), type, code, request,
          with: IPFields(tos: family == .ipv4 ? 0xc0 : 0))
        #expect(hex(answer) == hex(bench.toPod(error)))
      }
      let remote = packet(wire.transport, bench.client(family), address, from: 5000, to: port)
      let toRemote = bench.send(bench.fromNode(remote), at: bench.underlay).only(bench.underlay)
      #expect(Array(toRemote[..<6]) == Bench.routerMAC.octets)
      let own = packet(wire.transport, bench.node(family), address, from: 5000, to: port)
      #expect(bench.send(bench.fromHost(own), at: bench.host).octets(bench.host).count == 1)
    }
    #expect(bench.pipeline.flowCount == 0)
  }

  @Test("KP-30 the numbers of a reset: after SYN, ACK, data, FIN; none after a reset", arguments: bothFamilies)
  func reset(_ family: IPFamily) {
    let bench = Bench.forServices()
    let wire = Wire(family: family, transport: .tcp)
    bench.serve(wire, [])
    let (pod, vip) = (bench.pod(10, family), bench.vip(family))
    func answer(_ flags: Int, _ payload: [UInt8] = [], sequence: Int = 0xffff_fffe, ack: Int = 0x1234_5678) -> Sent {
      bench.send(
        bench.fromPod(
          segment(pod, vip, from: 5000, to: 80, flags, sequence: sequence, acknowledgment: ack, payload)),
        at: bench.podA)
    }
    func reset(_ flags: Int, sequence: Int, acknowledgment: Int) -> [UInt8] {
      bench.toPod(
        segment(
          vip, pod, from: 80, to: 5000, flags, sequence: sequence, acknowledgment: acknowledgment, window: 0,
          with: IPFields(dontFragment: true)))
    }
    let both = Flag.rst | Flag.ack
    // Without ACK: sequence 0, and everything acknowledged (RFC 9293, section 3.10.7.1); numbers wrap.
    #expect(answer(Flag.syn).only(bench.podA) == reset(both, sequence: 0, acknowledgment: 0xffff_ffff))
    #expect(answer(Flag.syn, [1, 2]).only(bench.podA) == reset(both, sequence: 0, acknowledgment: 1))
    #expect(answer(Flag.fin).only(bench.podA) == reset(both, sequence: 0, acknowledgment: 0xffff_ffff))
    #expect(answer(Flag.syn | Flag.fin).only(bench.podA) == reset(both, sequence: 0, acknowledgment: 0))
    #expect(answer(0, [1, 2, 3]).only(bench.podA) == reset(both, sequence: 0, acknowledgment: 1))
    // With ACK: where the other side believes to be.
    for flags in [Flag.ack, Flag.ack | Flag.psh, Flag.syn | Flag.ack, Flag.fin | Flag.ack] {
      #expect(answer(flags, [1]).only(bench.podA) == reset(Flag.rst, sequence: 0x1234_5678, acknowledgment: 0))
    }
    for flags in [Flag.rst, Flag.rst | Flag.ack, Flag.rst | Flag.syn] {
      let sent = answer(flags)
      #expect(sent.isSilent)
      #expect(sent.drops == [.noEndpoint: 1])
    }
  }

  @Test("KP-30 refusals are rate limited as all errors are, and none answers what was sent to a group")
  func limits() {
    let bench = Bench.forServices {
      $0.icmpErrorBurst = 5
      $0.icmpErrorRate = 10
    }
    bench.serve(Wire(family: .ipv4, transport: .tcp), [])
    let frames = (0..<20).map { number in
      MemoryFrame(bench.fromPod(tcp(bench.pod(10), bench.vip(), from: 5000 + number, to: 80, Flag.syn)))
    }
    let sent = bench.send(frames, at: bench.podA)
    #expect(sent.octets(bench.podA).count == 5)
    #expect(sent.drops == [.noEndpoint: 20, .icmpRateLimited: 15])
    var group = frames[0].octets
    group.replaceSubrange(0..<6, with: bytes("ffffffffffff"))
    bench.now += 3_600_000_000_000
    #expect(bench.send(group, at: bench.podA).isSilent)
  }

  @Test(
    "KP-30 an established connection is not refused when the last endpoint goes", arguments: [Transport.tcp, .sctp])
  func established(_ transport: Transport) {
    let bench = Bench.forServices()
    let wire = Wire(family: .ipv4, transport: transport)
    let service = bench.serve(wire, [bench.endpoint(11)])
    func request(_ client: Int, _ flags: Int) -> Sent {
      bench.send(
        bench.fromPod(packet(transport, bench.pod(10), bench.vip(), from: client, to: 80, flags: flags)), at: bench.podA
      )
    }
    #expect(request(5000, Flag.syn).octets(bench.podB).count == 1)
    bench.tables.updateService(service, ServicePort(name: "test/web:http", cluster: [], local: []))
    #expect(request(5000, Flag.ack).octets(bench.podB).count == 1)
    #expect(request(5001, Flag.syn).drops == [.noEndpoint: 1])
  }

  @Test("KP-39 what is taken up midway: by default every TCP segment, else only what begins a connection")
  func midway() {
    for isLiberal in [true, false] {
      for flags in [Flag.ack, Flag.ack | Flag.psh, Flag.fin | Flag.ack, Flag.syn | Flag.ack] {
        let bench = Bench.forServices { $0.tcpBeLiberal = isLiberal }
        bench.serve(Wire(family: .ipv4, transport: .tcp), [bench.endpoint(11)])
        let toService = tcp(bench.pod(10), bench.vip(), from: 5000, to: 80, flags, sequence: 900)
        let toPod = tcp(bench.pod(10), bench.pod(11), from: 5000, to: 81, flags, sequence: 900)
        for request in [toService, toPod] {
          let sent = bench.send(bench.fromPod(request), at: bench.podA)
          if isLiberal {
            #expect(sent.octets(bench.podB).count == 1)
          } else {
            // Counted, and never reset.
            #expect(sent.isSilent)
            #expect(sent.drops == [.tcpNoSYN: 1])
          }
        }
      }
      // What has begun goes on, also out of any window.
      let bench = Bench.forServices { $0.tcpBeLiberal = isLiberal }
      bench.serve(Wire(family: .ipv4, transport: .tcp), [bench.endpoint(11)])
      for (flags, sequence) in [(Flag.syn, 1), (Flag.ack, 0x7fff_ffff), (Flag.ack, 5)] {
        let request = tcp(bench.pod(10), bench.vip(), from: 5000, to: 80, flags, sequence: sequence)
        #expect(bench.send(bench.fromPod(request), at: bench.podA).octets(bench.podB).count == 1)
      }
    }
  }
}
