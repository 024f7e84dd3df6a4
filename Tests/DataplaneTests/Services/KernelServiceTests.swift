import Addresses
import EBPF
import Lab
import Ports
import Testing

@testable import Dataplane

/// The programs that serve packets in the kernel beside the pipeline: the same packets, each by its own tables.
@Suite("Services in the kernel", .enabled(if: Lab.isAvailable, "needs root"))
struct KernelServiceTests {
  /// Two nodes with the same services: one where the kernel's programs come first, one with the pipeline alone.
  private struct Twins {
    let kernel: Bench
    let pipeline: Bench
    let vips: [(IPAddress, Int)]

    /// With one endpoint each, or chosen by Maglev: so that both must choose the same.
    init(_ family: IPFamily, _ program: PacketBalancer.Program, _ random: inout SeededGenerator) {
      let masqueradesAll = random.next() % 4 == 0
      let hasBlocks = random.next() % 2 == 0
      func make() -> Bench {
        Bench.forServices {
          $0.masqueradeAll = masqueradesAll
          if hasBlocks { $0.clusterCIDRs = [IPPrefix("10.244.0.0/16")!, IPPrefix("fd00:1::/32")!] }
          $0.icmpErrorRate = 1_000_000
          $0.icmpErrorBurst = 1_000_000
        }
      }
      let (kernel, pipeline) = (make(), make())
      kernel.kernel = KernelSubject(program)
      self.kernel = kernel
      self.pipeline = pipeline
      var vips: [(IPAddress, Int)] = []
      for number in 1...6 {
        let pods = [10, 11, 30, 31].shuffled(using: &random)
        let isMaglev = random.next() % 2 == 0
        let count = isMaglev ? Int.random(in: 0...4, using: &random) : Int.random(in: 0...1, using: &random)
        let cluster = pods.prefix(count).map { kernel.endpoint($0, family) }
        let local = cluster.filter { $0.address == kernel.pod(10, family) || $0.address == kernel.pod(11, family) }
        let isLocal = random.next() % 2 == 0
        let ranges = random.next() % 3 == 0 ? [IPPrefix(host: kernel.client(family, 7))] : nil
        for bench in [kernel, pipeline] {
          let service = bench.addService("s\(number)", cluster, local: local, balancing: isMaglev ? .maglev : .random)
          for transport in [Transport.tcp, .udp] {
            let wire = Wire(family: family, transport: transport)
            bench.setFrontend(.clusterIP, bench.vip(family, number), wire, service, isLocal: isLocal)
            bench.setFrontend(.externalIP, bench.client(family, 100 + number), wire, service, isLocal: isLocal)
            bench.setFrontend(
              .loadBalancer, bench.client(family, 150 + number), wire, service, isLocal: isLocal, ranges: ranges)
            bench.setFrontend(.nodePort, nil, wire, port: 30080 + number, service, isLocal: isLocal)
          }
        }
        vips += [
          (kernel.vip(family, number), 80), (kernel.client(family, 100 + number), 80),
          (kernel.client(family, 150 + number), 80), (kernel.node(family), 30080 + number),
        ]
      }
      self.vips = vips
    }
  }

  /// Octets without what is chosen by chance: a masqueraded connection's port, and the checksum over it.
  private func masked(_ frame: [UInt8]) -> [UInt8] {
    guard let tuple = Tuple(frame), tuple.sourcePort >= 61000 else { return frame }
    var frame = frame
    let isIPv6 = u16(frame, 12) == 0x86dd
    let transport = 14 + (isIPv6 ? 40 : 20)
    let isTCP = frame[isIPv6 ? 20 : 23] == 6
    for place in [transport, transport + 1, transport + (isTCP ? 16 : 6), transport + (isTCP ? 17 : 7)] {
      frame[place] = 0
    }
    return frame
  }

  @Test(
    "KP-15, KP-20…KP-25, KP-30…KP-38: random packets to random services: the program and the pipeline do the same",
    arguments: [PacketBalancer.Program.tc, .xdp], bothFamilies)
  func sameAsPipeline(_ program: PacketBalancer.Program, _ family: IPFamily) throws {
    var random = SeededGenerator(program == .tc ? 600 : 700)
    var handled = 0
    for _ in 0..<6 {
      let twins = Twins(family, program, &random)
      let (kernel, pipeline) = (twins.kernel, twins.pipeline)
      for _ in 0..<250 {
        let transport = random.next() % 2 == 0 ? Transport.tcp : .udp
        let place = twins.vips.randomElement(using: &random)!
        let port = random.next() % 16 == 0 ? place.1 + 1000 : place.1
        let life = [64, 64, 64, 2, 1].randomElement(using: &random)!
        // What user space is left is a connection of its own.
        let client = (life == 1 ? 7000 : 5000) + Int(random.next() % 6)
        let flags = [Flag.syn, Flag.syn, Flag.ack, Flag.ack | Flag.psh, Flag.fin | Flag.ack, Flag.rst]
        let flag = flags.randomElement(using: &random)!
        let fields = IPFields(
          tos: Int(random.next() % 256), ttl: life,
          dontFragment: random.next() % 2 == 0)
        let payload = random.bytes(Int.random(in: 0...60, using: &random))
        let way = Int(random.next() % 4)
        let source =
          [kernel.pod(10, family), kernel.pod(11, family), kernel.client(family, 7), kernel.client(family, 8)][way]
        func request(_ bench: Bench) -> (Sent, PortIndex) {
          let packet = packet(
            transport, source, place.0, from: client, to: port, payload, flags: flag, with: fields)
          let index = [bench.podA, bench.podB, bench.underlay, bench.underlay][way]
          let frame = way < 2 ? bench.fromPod(packet, 10 + way) : bench.fromNode(packet)
          return (bench.send(frame, at: index), index)
        }
        let before = kernel.kernel!.handled
        let sent = request(kernel).0
        let expected = request(pipeline).0
        let note: Comment = "\(transport) \(source) \(client) > \(place.0) \(port), flags \(flag)"
        #expect(sent.drops == expected.drops, note)
        let ways = [kernel.podA, kernel.podB, kernel.underlay]
        for index in ways { #expect(sent.octets(index).map(masked) == expected.octets(index).map(masked), note) }
        guard kernel.kernel!.handled > before else { continue }
        handled += 1
        // And back, by each one's own port.
        guard let out = ways.flatMap({ sent.tuples($0) }).first, let other = ways.flatMap({ expected.tuples($0) }).first
        else { continue }
        let answerFlag = [Flag.syn | Flag.ack, Flag.ack, Flag.fin | Flag.ack].randomElement(using: &random)!
        func answer(_ bench: Bench, _ tuple: Tuple) -> Sent {
          let packet = packet(
            transport, tuple.destination, tuple.source, from: tuple.destinationPort, to: tuple.sourcePort, payload,
            flags: answerFlag)
          for pod in [10, 11] where tuple.destination == bench.pod(pod, family) {
            return bench.send(bench.fromPod(packet, pod), at: pod == 10 ? bench.podA : bench.podB)
          }
          return bench.send(bench.fromNode(packet), at: bench.underlay)
        }
        let back = answer(kernel, out)
        let wanted = answer(pipeline, other)
        #expect(back.drops == wanted.drops, note)
        for index in ways { #expect(back.octets(index) == wanted.octets(index), note) }
      }
    }
    #expect(handled > (program == .tc ? 400 : 100))
  }

  @Test("While a data plane holds the lease every packet is left to it, and none when it ends")
  func lease() throws {
    for program in PacketBalancer.Program.allCases {
      let bench = Bench.forServices()
      bench.serve(Wire(family: .ipv4, transport: .tcp), [bench.endpoint(30)])
      let kernel = KernelSubject(program)
      let frame = MemoryFrame(
        bench.fromNode(tcp(bench.client(), bench.vip(), from: 5000, to: 80, Flag.syn)))
      #expect(try kernel.run(frame, at: bench.underlay, bench)?.octets(bench.underlay).count == 1)
      var lease: PacketBalancer.Lease? = try kernel.lease()
      #expect(try kernel.run(frame, at: bench.underlay, bench)?.frames == nil)
      _ = lease
      lease = nil
      #expect(try kernel.run(frame, at: bench.underlay, bench)?.octets(bench.underlay).count == 1)
    }
  }

  @Test(
    "RFC 2003: directly, what comes from outside reaches an endpoint whole, in IPIP; a pod's, and to another port, as ever",
    arguments: PacketBalancer.Program.allCases)
  func direct(_ program: PacketBalancer.Program) throws {
    let bench = Bench.forServices()
    let kernel = KernelSubject(program)
    kernel.isDirect = true
    bench.kernel = kernel
    for transport in [Transport.tcp, .udp] {
      let wire = Wire(family: .ipv4, transport: transport)
      let external = bench.client(.ipv4, 200)
      let service = bench.addService("\(transport)", [bench.endpoint(30)])
      bench.setFrontend(.externalIP, external, wire, port: 8080, service)
      bench.setFrontend(.externalIP, external, wire, port: 80, service)
      for (flags, fields) in [
        (Flag.syn, IPFields(tos: 0x2e, dontFragment: true)), (Flag.ack, IPFields(ttl: 9, dontFragment: true)),
      ] {
        let request = packet(
          transport, bench.client(), external, from: 5000, to: 8080, flags: flags, with: fields)
        let outer = ip(
          bench.node(), bench.remote(10), 4, hopped(request),
          with: IPFields(tos: fields.tos, ttl: 64, dontFragment: true))
        let before = kernel.handled
        #expect(
          hex(bench.send(bench.fromNode(request), at: bench.underlay).only(bench.underlay)) == hex(bench.toNode(outer)))
        #expect(kernel.handled == before + 1)
      }
      let other = packet(transport, bench.client(), external, from: 5000, to: 80)
      #expect(try bench.send(bench.fromNode(other), at: bench.underlay).tuple(bench.underlay).source == bench.node())
      let own = packet(transport, bench.pod(10), external, from: 5000, to: 8080)
      #expect(try bench.send(bench.fromPod(own), at: bench.podA).tuple(bench.underlay).source == bench.node())
      // Whole, and no larger than the way: what is, is left.
      let large = packet(
        transport, bench.client(), external, from: 5001, to: 8080, [UInt8](repeating: 1, count: 1465),
        with: IPFields(dontFragment: true))
      let before = kernel.handled
      _ = bench.send(bench.fromNode(large), at: bench.underlay)
      #expect(kernel.handled == before)
    }
  }
}
