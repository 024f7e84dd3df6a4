import Addresses
import Glibc
import Lab
import Ports
import Synchronization
import Testing

@testable import Dataplane

/// A data plane whose lanes share one pipeline, with the tables of a node on a bench. Each lane has ports of its own.
private struct SharedNode {
  let path = DataPath(workers: 2, sharing: .flows, flowLimit: 4096)
  let bench: Bench
  let peer: Bench
  let service: IPAddress
  private(set) var ports: [[PortIndex: MemoryPort]] = []

  init() {
    bench = Bench(.vxlan, slots: 64)
    peer = Bench(node: 2, .vxlan, slots: 64)
    service = bench.vip(.ipv4, 1)
    let number = bench.addService("shop", [ServicePort.Endpoint(bench.remote(10), 8080)])
    bench.setFrontend(.clusterIP, service, Wire(family: .ipv4, transport: .udp), number)
    let bench = self.bench
    path.change { swap(&$0, &bench.tables) }
    for lane in path.lanes {
      var list: [PortIndex: MemoryPort] = [:]
      for index in [bench.podA, bench.podB, bench.underlay, bench.host] {
        list[index] = MemoryPort(capabilities: [], slots: 64)
        lane[port: index] = list[index]
      }
      ports.append(list)
    }
  }

  /// What came out by a port, by any lane's.
  func sent(_ index: PortIndex) -> [[UInt8]] { ports.flatMap { $0[index]!.outbox.map(\.octets) } }

  var drops: Int {
    path.change { _ in
      path.lanes[0].withPipeline { pipeline in Int(pipeline.dropCounts(ports: 64).reduce(0) { $0 + $1.packets }) }
    }
  }
}

/// Sends like another port, after something else has happened.
private final class LatePort: Port {
  let port: MemoryPort
  var before: () -> Void = {}

  init(_ port: MemoryPort) { self.port = port }

  var name: String { port.name }
  var capabilities: PortCapabilities { port.capabilities }
  var mtu: Int { port.mtu }
  var statistics: PortStatistics { port.statistics }
  var descriptor: Int32? { nil }
  var isExhausted: Bool { false }
  func receive(into batch: inout FrameBatch) -> Int { port.receive(into: &batch) }
  func release(_ batch: inout FrameBatch) { port.release(&batch) }
  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    before()
    before = {}
    return port.transmit(batch, indices)
  }
}

@Suite("Workers that share flows")
struct SharedFlowsTests {
  /// A datagram of a client's to a server, with a number in it.
  private func datagram(_ from: IPAddress, _ to: IPAddress, _ ports: (Int, Int), number: Int) -> [UInt8] {
    udp(
      from, to, from: ports.0, to: ports.1,
      [UInt8(number >> 8), UInt8(number & 0xff)] + [UInt8](repeating: 7, count: 20))
  }

  @Test(
    "Two threads carry the two directions of the same flows, of a service and not: all arrive, in order, and are counted"
  )
  func directions() throws {
    let node = SharedNode()
    let (bench, peer) = (node.bench, node.peer)
    let (clients, rounds) = (64, 60)
    let podA = node.ports[0][bench.podA]!
    let underlay = node.ports[1][bench.underlay]!
    // The first packets make the flows known, so that answers find them.
    func there(_ round: Int) {
      for client in 0..<clients {
        let isService = client % 2 == 0
        podA.enqueue(
          bench.fromPod(
            datagram(
              bench.pod(10), isService ? node.service : bench.remote(10), (3000 + client, isService ? 80 : 8080),
              number: round)))
      }
    }
    there(0)
    while node.path.lanes[0].poll(bench.podA, at: .at(1_000_000)) > 0 {}
    for round in 1..<rounds {
      there(round)
      let back = (0..<clients).map { client in
        MemoryFrame(peer.fromPod(datagram(peer.pod(10), bench.pod(10), (8080, 3000 + client), number: round)))
      }
      for frame in peer.send(back, at: peer.podA).frames[peer.underlay] ?? [] { underlay.enqueue(frame) }
    }
    let path = node.path
    let ended = Atomic(0)
    for (lane, port) in [(0, bench.podA), (1, bench.underlay)] {
      try startThread {
        var now: UInt64 = 2_000_000
        while path.lanes[lane].poll(port, at: .at(now)) > 0 {
          now += 1000
          path.lanes[lane].tick(at: now)
        }
        ended.wrappingAdd(1, ordering: .releasing)
      }
    }
    var patience = 20_000
    while ended.load(ordering: .acquiring) < 2, patience > 0 {
      usleep(1000)
      patience -= 1
    }
    try #require(patience > 0, "the threads did not end")

    #expect(node.drops == 0)
    // By client, the numbers of its packets in the order in which they came out.
    func numbers(_ frames: [[UInt8]], _ skip: Int, _ port: Int) -> [Int: [Int]] {
      var found: [Int: [Int]] = [:]
      for frame in frames {
        let udp = Array(frame.dropFirst(skip + 20))
        found[Int(udp[port]) << 8 | Int(udp[port + 1]), default: []].append(Int(udp[8]) << 8 | Int(udp[9]))
      }
      return found
    }
    let out = numbers(node.sent(bench.underlay), 14 + 50, 0)
    let back = numbers(node.sent(bench.podA), 14, 2)
    #expect(out.count == clients && back.count == clients)
    for client in 0..<clients {
      #expect(out[3000 + client] == Array(0..<rounds), "\(client)")
      #expect(back[3000 + client] == Array(1..<rounds), "\(client)")
    }
    // Answers of the service's endpoint come from the service.
    let sources = Set(node.sent(bench.podA).map { Array($0[26..<30]) })
    #expect(sources == Set([node.service, bench.remote(10)].map { Array(udp($0, $0)[12..<16]) }))
    let flows = path.change { _ in path.lanes[0].withPipeline { $0.flows() } }
    var packets: UInt64 = 0
    for flow in flows { packets += flow.forward.packets + flow.reply.packets }
    #expect(packets == UInt64(clients * (2 * rounds - 1)))
  }

  @Test("What the pipeline made itself stays as it was while another worker has its turn: ICMP errors, fragments")
  func own() throws {
    let node = SharedNode()
    let bench = node.bench
    let lanes = node.path.lanes
    // A packet at its last hop, and one that has to go in fragments.
    func frames(_ number: Int) -> [[UInt8]] {
      let payload = [UInt8](repeating: UInt8(number), count: 1440)
      return [
        udp(bench.pod(10), bench.remote(10), from: 3000 + number, with: IPFields(ttl: 1)),
        udp(
          bench.pod(10), bench.remote(10), from: 3000 + number, payload,
          with: IPFields(identification: number, dontFragment: false)),
      ].map { bench.fromPod($0) }
    }
    let late = [bench.podA, bench.underlay].map { ($0, LatePort(node.ports[0][$0]!)) }
    for (index, port) in late { lanes[0][port: index] = port }
    for frame in frames(1) { node.ports[0][bench.podA]!.enqueue(frame) }
    var turns = 0
    for (number, (_, port)) in late.enumerated() {
      port.before = {
        for frame in frames(100 + number) { node.ports[1][bench.podA]!.enqueue(frame) }
        while lanes[1].poll(bench.podA, at: .at(1_000_000)) > 0 { turns += 1 }
      }
    }
    while lanes[0].poll(bench.podA, at: .at(1_000_000)) > 0 {}
    #expect(turns == 2)

    let alone = Bench(.vxlan, slots: 64)
    let expected = alone.send(frames(1).map { MemoryFrame($0) }, at: alone.podA)
    let first = node.ports[0]
    #expect(first[bench.podA]!.outbox.map(\.octets) == expected.octets(alone.podA))
    #expect(expected.octets(alone.podA).count == 1 && expected.octets(alone.underlay).count == 2)
    // Outer identifications are counted on by whoever is first.
    #expect(
      first[bench.underlay]!.outbox.map { Array($0.octets.dropFirst(64)) }
        == expected.octets(alone.underlay).map { Array($0.dropFirst(64)) })
  }

  @Test(
    "What came in and what the pipeline made leave a port in the order that one worker sends them in",
    arguments: [Int.max, 5])
  func order(limit: Int) throws {
    let node = SharedNode()
    let bench = node.bench
    let frames = (0..<9).map { number in
      // Every third has to go in fragments.
      number % 3 == 1
        ? bench.fromPod(
          udp(
            bench.pod(10), bench.remote(10), from: 4000 + number, [UInt8](repeating: UInt8(number), count: 1440),
            with: IPFields(identification: number, dontFragment: false)))
        : bench.fromPod(datagram(bench.pod(10), bench.remote(10), (3000 + number, 80), number: number))
    }
    let alone = Bench(.vxlan, slots: 64)
    // Twice: of flows that are not known, and that are.
    for round in 0..<2 {
      node.ports[0][bench.underlay]!.transmitLimit = limit
      for frame in frames { node.ports[0][bench.podA]!.enqueue(frame) }
      #expect(node.path.lanes[0].poll(bench.podA, at: .at(1_000_000)) == 9)
      let sent = node.ports[0][bench.underlay]!.takeOutbox().map { Array($0.octets.dropFirst(64)) }
      let expected = alone.send(frames.map { MemoryFrame($0) }, at: alone.podA).octets(alone.underlay)
        .map { Array($0.dropFirst(64)) }
      #expect(expected.count == 12)
      // Where the port takes fewer, those are in order too, and the rest are counted.
      var rest = expected[...]
      for frame in sent {
        let place = try #require(rest.firstIndex(of: frame))
        rest = rest[(place + 1)...]
      }
      #expect(sent.count == min(12, limit))
      let dropped = node.path.change { _ in
        node.path.lanes[0].withPipeline { $0.dropCount(.transmitFull, at: bench.podA) }
      }
      #expect(Int(dropped) == (12 - sent.count) * (round + 1))
    }
  }

  @Test("Where a turn makes more than there is room for, what was listed before goes first, and nothing is lost")
  func crowded() throws {
    let (first, second) = (MemoryPort(name: "first"), MemoryPort(name: "second"))
    let outbox = Outbox()
    let (a, b) = (PortIndex(1), PortIndex(2))
    outbox.set(first, at: a)
    outbox.set(second, at: b)
    func frame(_ kind: UInt8, _ number: Int) -> [UInt8] {
      [UInt8](repeating: kind, count: 60) + [UInt8(number >> 8), UInt8(number & 0xff)]
    }
    func list(_ range: Range<Int>) -> FrameList {
      var list = FrameList()
      for place in range { list.append(place) }
      return list
    }
    func batch(_ port: MemoryPort, _ frames: [[UInt8]]) -> FrameBatch {
      for frame in frames { port.enqueue(frame) }
      var batch = FrameBatch()
      _ = port.receive(into: &batch)
      return batch
    }
    let source = MemoryPort(name: "source")
    let received = batch(source, (0..<3).map { frame(1, $0) })
    outbox.begin(received)
    #expect(outbox.ports[b]!.transmit(received, list(0..<3)) == 3)
    // More than a thousand that the pipeline made, for another port.
    let made = MemoryPort(name: "made")
    let own = batch(made, (0..<200).map { frame(2, $0) })
    for _ in 0..<6 { #expect(outbox.ports[a]!.transmit(own, list(0..<200)) == 200) }
    #expect(outbox.ports[b]!.transmit(own, list(7..<9)) == 2)
    outbox.send(received)
    #expect(outbox.refused.isEmpty)
    #expect(second.outbox.map(\.octets) == (0..<3).map { frame(1, $0) } + [frame(2, 7), frame(2, 8)])
    #expect(first.outbox.map(\.octets) == (0..<1200).map { frame(2, $0 % 200) })
    outbox.end()
  }

  @Test("What a port does not take is counted as dropped, as by one worker")
  func refused() throws {
    let node = SharedNode()
    let bench = node.bench
    node.ports[0][bench.underlay]!.transmitLimit = 3
    for number in 0..<8 {
      node.ports[0][bench.podA]!.enqueue(
        bench.fromPod(datagram(bench.pod(10), bench.remote(10), (3000 + number, 80), number: number)))
    }
    #expect(node.path.lanes[0].poll(bench.podA, at: .at(1_000_000)) == 8)
    #expect(node.sent(bench.underlay).count == 3)
    let count = node.path.change { _ in
      node.path.lanes[0].withPipeline { $0.dropCount(.transmitFull, at: bench.podA) }
    }
    #expect(count == 5)
  }
}
