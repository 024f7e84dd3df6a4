import Addresses
import EBPF
import Glibc
import Lab
import Ports
import Testing

@testable import Dataplane

/// A node whose flows the kernel carries, as far as that can be without devices: each frame goes through the kernel's
/// program and through the pipeline, and where the first carries it, both must give the same.
private final class Carrier {
  let bench: Bench
  /// The other node, which wraps packets for this one.
  let peer: Bench
  let offload: FlowOffloader
  private let ports: [PortIndex: OverlayPort]
  private(set) var carried = 0
  private var revision: UInt64

  init(_ encapsulation: Encapsulation, tunnel configure: @escaping (inout Tunnel) -> Void = { _ in }) throws {
    bench = Bench(encapsulation, tunnel: configure) {
      $0.nodeAddress4 = Bench.node4(1).v4
      $0.icmpErrorRate = 1_000_000
      $0.icmpErrorBurst = 1_000_000
    }
    peer = Bench(node: 2, encapsulation, tunnel: configure)
    for (number, endpoints) in [[bench.remote(10), bench.remote(11)], [bench.pod(11)]].enumerated() {
      for transport in [Transport.udp, .tcp] {
        let service = bench.addService("s\(number)-\(transport)", endpoints.map { ServicePort.Endpoint($0, 8080) })
        bench.setFrontend(
          .clusterIP, bench.vip(.ipv4, number + 1), Wire(family: .ipv4, transport: transport), service)
      }
    }
    bench.pipeline.isTracing = false
    peer.pipeline.isTracing = false
    bench.validates = false
    offload = try FlowOffloader(node: "bench-\(encapsulation)-\(getpid())", limit: 1024)
    var ports: [PortIndex: OverlayPort] = [:]
    for (number, index) in [bench.podA, bench.podB].enumerated() {
      ports[index] = OverlayPort(
        interface: 100 + Int32(number), mac: Bench.gatewayMAC, peer: Bench.podMAC(1, 10 + number), pod: index,
        isPair: number == 0)
    }
    var wire = OverlayPort(interface: 200, mac: Bench.underlayMAC(1), pod: nil, isPair: false)
    wire.vxlanPort = 4789
    wire.genevePort = 6081
    wire.vtep = Bench.vtepMAC(1)
    ports[bench.underlay] = wire
    self.ports = ports
    for port in ports.values { offload.pretend(port) }
    offload.underlayPort = bench.underlay
    revision = bench.tables.revision
    bench.pipeline.setOffload(offload)
  }

  func port(_ index: PortIndex) -> OverlayPort? { ports[index] }

  deinit { FlowOffloader.unload(node: offload.folder.node) }

  /// Sends a frame both ways; returns what the pipeline made of it, and whether the kernel would have carried it.
  @discardableResult
  func send(_ frame: MemoryFrame, at port: PortIndex) throws -> (sent: Sent, isCarried: Bool) {
    // As `DataPath.change` does it.
    if bench.tables.revision != revision {
      revision = bench.tables.revision
      offload.invalidate()
    }
    // Shorter ones the kernel does not try.
    guard frame.octets.count >= 34 else { return (bench.send([frame], at: port), false) }
    let result = try offload.run(frame.octets, at: ports[port]!)
    let sent = bench.send([frame], at: port)
    guard result.isCarried else { return (sent, false) }
    carried += 1
    let expected = sent.frames.values.flatMap { $0 }.map(\.octets)
    if expected != [result.frame] {
      Issue.record("the kernel makes \(hex(result.frame)), the pipeline \(expected.map(hex)) \(sent.drops)")
    }
    return (sent, true)
  }

  @discardableResult
  func send(_ octets: [UInt8], at port: PortIndex) throws -> (sent: Sent, isCarried: Bool) {
    try send(MemoryFrame(octets), at: port)
  }

  /// Opens a TCP connection from pod A to `destination` and says that it is carried both ways; `answer` is the one who
  /// answers, and how its packets come in.
  func open(_ destination: IPAddress, port: Int = 80) throws -> (out: [UInt8], back: [UInt8]) {
    let out = { (flags: Int) in
      self.bench.fromPod(
        tcp(self.bench.pod(10), destination, to: port, flags, Array("hello".utf8), with: IPFields(dontFragment: true)))
    }
    let sent = try send(out(Flag.syn), at: bench.podA).sent
    // What the other node's pod gets says whom it answers.
    let received = peer.send(sent.frames[bench.underlay] ?? [], at: peer.underlay).only(peer.podA)
    let client = IPAddress("\(received[26]).\(received[27]).\(received[28]).\(received[29])")!
    let back = { (flags: Int) in
      let packet = tcp(
        self.peer.pod(10), client, from: u16(received, 36), to: u16(received, 34), flags, Array("there".utf8),
        with: IPFields(dontFragment: true))
      return self.peer.send([MemoryFrame(self.peer.fromPod(packet))], at: self.peer.podA).only(self.peer.underlay)
    }
    try send(back(Flag.syn | Flag.ack), at: bench.underlay)
    let (hello, there) = (out(Flag.ack), back(Flag.ack))
    for _ in 0..<4 {
      try send(hello, at: bench.podA)
      try send(there, at: bench.underlay)
    }
    return (hello, there)
  }
}

@Suite("Flows in the kernel", .serialized, .enabled(if: Lab.isAvailable, "needs root"))
struct KernelOffloadTests {
  static let ways: [(String, Encapsulation, HopOptions)] =
    Encapsulation.allCases.map { ("\($0)", $0, []) } + [("VXLAN with pipe DSCP", .vxlan, .pipeDSCP)]

  @Test(
    "TUN-1, TUN-3, TUN-5, TUN-6, TUN-9, NODE-4: random packets by the kernel's program and by the pipeline: where the first carries one, the same octets",
    arguments: KernelOffloadTests.ways.indices)
  func sameAsPipeline(_ way: Int) throws {
    let (_, encapsulation, options) = KernelOffloadTests.ways[way]
    let carrier = try Carrier(encapsulation) {
      $0.options = options
      $0.dscp = 11
    }
    var random = SeededGenerator(UInt64(70 + way))
    for _ in 0..<3000 {
      if random.next() % 3 == 0 {
        let frame = frame(from: carrier.peer, to: carrier.bench, isService: false, encapsulation, &random)
        let wrapped = carrier.peer.send([frame], at: carrier.peer.podA).frames[carrier.peer.underlay] ?? []
        for frame in wrapped {
          try carrier.send(bent(frame, oneOf: 4, leaving: 14, &random), at: carrier.bench.underlay)
        }
      } else {
        let frame = frame(
          from: carrier.bench, to: carrier.peer, isService: random.next() % 2 == 0, encapsulation, &random)
        try carrier.send(
          bent(frame, oneOf: 4, leaving: 14, &random),
          at: random.next() % 16 == 0 ? carrier.bench.podB : carrier.bench.podA)
      }
      switch random.next() % 300 {
      case 0: carrier.bench.tables.setRoute(Route(IPPrefix("10.244.2.0/24")!, hops: [carrier.bench.hop]))
      case 1: carrier.bench.tick(30)
      default: carrier.bench.now += 1_000_000
      }
    }
    #expect(carrier.carried > 100)
  }

  private func frame(
    from bench: Bench, to other: Bench, isService: Bool, _ encapsulation: Encapsulation, _ random: inout SeededGenerator
  ) -> MemoryFrame {
    let fields = IPFields(
      tos: Int.random(in: 0...255, using: &random) * Int(random.next() % 2),
      ttl: [64, 64, 255, 2, 1][Int(random.next() % 5)],
      // Of others the outer header has an identification, which is the sender's own business.
      dontFragment: encapsulation != .none || random.next() % 4 != 0, more: random.next() % 64 == 0)
    let destination =
      isService
      ? bench.vip(.ipv4, 1 + Int(random.next() % 2))
      : [other.pod(10), other.pod(11), bench.pod(11)][Int(random.next() % 3)]
    let ports = (1000 + Int(random.next() % 4), isService ? 80 : 2000 + Int(random.next() % 2))
    let payload = random.bytes(Int.random(in: 0...40, using: &random) + (random.next() % 40 == 0 ? 1480 : 0))
    if random.next() % 2 == 0 {
      return MemoryFrame(
        bench.fromPod(
          udp(
            bench.pod(10), destination, from: ports.0, to: ports.1, payload, checksum: random.next() % 8 != 0,
            with: fields)))
    }
    let flags = [Flag.ack, Flag.ack | Flag.psh, Flag.ack, Flag.ack, Flag.syn, Flag.fin | Flag.ack, Flag.rst]
    return MemoryFrame(
      bench.fromPod(
        tcp(
          bench.pod(10), destination, from: ports.0, to: ports.1, flags[Int(random.next() % 7)], payload, with: fields))
    )
  }

  @Test(
    "An established connection is carried both ways, to a service too; what opens, closes or is odd is not",
    arguments: Encapsulation.allCases)
  func connection(_ encapsulation: Encapsulation) throws {
    for isService in [false, true] {
      let carrier = try Carrier(encapsulation)
      let bench = carrier.bench
      let service = bench.addService("one", [ServicePort.Endpoint(bench.remote(10), 8080)])
      bench.setFrontend(.clusterIP, bench.vip(.ipv4, 3), Wire(family: .ipv4, transport: .tcp), service)
      let destination = isService ? bench.vip(.ipv4, 3) : bench.remote(10)
      let (out, back) = try carrier.open(destination)
      #expect(try carrier.send(out, at: bench.podA).isCarried)
      #expect(try carrier.send(back, at: bench.underlay).isCarried)
      let fields = IPFields(dontFragment: true)
      func carries(_ flags: Int, _ count: Int = 5, _ fields: IPFields = fields) throws -> Bool {
        let packet = tcp(bench.pod(10), destination, flags, [UInt8](repeating: 1, count: count), with: fields)
        return try carrier.send(bench.fromPod(packet), at: bench.podA).isCarried
      }
      #expect(try carries(Flag.ack | Flag.psh))
      #expect(try !carries(Flag.ack, 5, IPFields(ttl: 1, dontFragment: true)), "the end of its time to live")
      #expect(try !carries(Flag.ack, 5, IPFields(more: true)), "a fragment")
      #expect(try !carries(Flag.ack, 5, IPFields(dontFragment: true, options: [1, 1, 1, 0])), "options")
      #expect(try !carries(Flag.ack, 1461), "too big")
      // NODE-4: another pod's address.
      #expect(try !carrier.send(out, at: bench.podB).isCarried)
      // A tunnel packet of another node.
      if encapsulation != .none {
        var stranger = back
        stranger[29] = 77
        var header = Array(stranger[14..<34])
        rechecksum(&header)
        stranger.replaceSubrange(14..<34, with: header)
        #expect(try !carrier.send(stranger, at: bench.underlay).isCarried)
      }
      #expect(try !carries(Flag.ack | Flag.fin))
    }
  }

  @Test("A change of what a flow was decided by has its next packet come to user space, which offers it again")
  func change() throws {
    let carrier = try Carrier(.vxlan)
    let bench = carrier.bench
    let (out, _) = try carrier.open(bench.remote(10))
    #expect(try carrier.send(out, at: bench.podA).isCarried)
    let changes: [(inout Tables) -> Void] = [
      { $0.setRoute(Route(IPPrefix("10.244.2.0/24")!, hops: [bench.hop])) },
      { if let hop = $0.hop(bench.hop) { $0.updateHop(bench.hop, hop) } },
      { $0.setPeer(Peer(name: "node2", encapsulations: [.vxlan]), at: Bench.node4(2)) },
      { $0.settings.vxlanVNI = 4097 }, { $0.settings.vxlanVNI = 4096 },
      { $0.addLocalAddress(IPAddress("192.0.2.99")!) }, { $0.removeLocalAddress(IPAddress("192.0.2.99")!) },
    ]
    for change in changes {
      change(&bench.tables)
      #expect(try !carrier.send(out, at: bench.podA).isCarried)
      var isCarried = false
      for _ in 0..<4 { isCarried = try carrier.send(out, at: bench.podA).isCarried || isCarried }
      #expect(isCarried)
    }
    // A policy that forbids it: the kernel carries no packet more.
    bench.tables.removeRoute(IPPrefix("10.244.2.0/24")!)
    for _ in 0..<6 { #expect(try !carrier.send(out, at: bench.podA).isCarried) }
  }

  @Test("What the kernel carries counts as the flow's own, and keeps it from being idle; a flow that ends is let go")
  func counts() throws {
    let carrier = try Carrier(.vxlan)
    let bench = carrier.bench
    let (out, _) = try carrier.open(bench.remote(10))
    bench.pipeline.syncOffload()
    let before = bench.pipeline.flows()[0].forward.packets
    let wire = try #require(carrier.port(bench.podA))
    #expect(try carrier.offload.run(out, at: wire, repeating: 1).isCarried)
    bench.pipeline.syncOffload()
    #expect(bench.pipeline.flows()[0].forward.packets == before + 1)
    #expect(carrier.offload.totals.flows == 2)
    bench.pipeline.forgetFlows()
    bench.tick()
    #expect(carrier.offload.totals.flows == 0)
    #expect(try !carrier.offload.run(out, at: wire).isCarried)
  }
}
