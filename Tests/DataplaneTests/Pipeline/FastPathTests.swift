import Addresses
import CEmulatedVectors
import Ports
import Testing

@testable import Dataplane

@Suite("Fast path")
struct FastPathTests {
  static let ways: [(String, Encapsulation, HopOptions, PortCapabilities)] =
    Encapsulation.allCases.map { ("\($0)", $0, [], []) } + [
      ("no tunnel, ports that finish checksums", .none, [], .checksum),
      ("VXLAN, ports that finish checksums", .vxlan, [], .checksum),
      ("VXLAN with pipe DSCP", .vxlan, .pipeDSCP, []), ("VXLAN with uniform TTL", .vxlan, .uniformTTL, []),
      ("VXLAN with a UDP checksum", .vxlan, .udpChecksum, []),
      ("GRE with all fields", .gre, [.greChecksum, .greSequence], []), ("VXLAN with uniform DSCP", .vxlan, [], []),
    ]

  /// How many words are taken at a time: all that this processor can, or what stands for its instructions.
  static let lanes: [UInt8] = [1, 4, 8].filter { $0 <= Core.mostLanes || $0 == 8 && hasEights }
  private static let hasEights = kalsae_emulate_eights() != 0

  /// What packets of both families come in.
  static let carriers = Encapsulation.allCases.flatMap { way in IPFamily.allCases.map { (way, $0) } }
  /// Each way for both families of packets.
  static let carried = ways.indices.flatMap { way in IPFamily.allCases.map { (way, $0) } }

  private static func twins(_ way: Int, lanes: UInt8, batch: Int = 24) -> Twins {
    let (name, encapsulation, options, capabilities) = ways[way]
    let twins = Twins(
      encapsulation, capabilities: capabilities, batch: batch,
      tunnel: {
        $0.options = options
        $0.dscp = 11
      },
      settings: {
        $0.uniformTTL = options.contains(.uniformTTL)
        $0.uniformDSCP = name.hasSuffix("uniform DSCP")
      })
    twins.fast.pipeline.core.lanes = lanes
    return twins
  }

  @Test(
    "The code for vectors of 512 bits is among what is tested, where the processor has none too",
    .enabled(if: Core.mostLanes > 1, "needs a processor with AVX2"))
  func eights() {
    #expect(FastPathTests.lanes == [1, 4, 8], "install Debian's libsimde-dev")
  }

  @Test(
    "TUN-1, TUN-5, TUN-6, TUN-9, NODE-4: random packets by the fast path and by the general one: the same octets, drops and flows",
    arguments: FastPathTests.ways.indices, FastPathTests.lanes)
  func sameAsGeneral(_ way: Int, lanes: UInt8) {
    var isCalm = false
    let twins = FastPathTests.twins(way, lanes: lanes, batch: FrameBatch.standardCapacity)
    var random = SeededGenerator(UInt64(7 + way))
    for round in 0..<240 {
      // Now and then more than a part of a batch, and whole ones.
      let count = round % 24 == 23 ? Int.random(in: 120...256, using: &random) : Int.random(in: 1...24, using: &random)
      // Runs of plain packets, so that groups are whole.
      isCalm = random.next() % 2 == 0
      let calm: IPFamily? = isCalm ? random.next() % 3 == 0 ? .ipv6 : .ipv4 : nil
      switch random.next() % 4 {
      case 0:
        let frames = (0..<count).map { _ in frame(bench: twins.peer, to: twins.fast, twins, calm: calm, &random) }
        let wrapped = twins.peer.send(frames, at: twins.peer.podA).frames[twins.peer.underlay] ?? []
        twins.send(wrapped.map { bent($0, oneOf: isCalm ? 16 : 3, &random) }, at: twins.fast.underlay)
      default:
        let frames = (0..<count).map { _ in
          bent(
            frame(bench: twins.fast, to: twins.peer, twins, calm: calm, &random), oneOf: isCalm ? 16 : 3, &random)
        }
        twins.send(frames, at: random.next() % 8 == 0 ? twins.fast.podB : twins.fast.podA)
      }
      change(twins, &random)
    }
    twins.expectSameFlows()
    #expect(twins.fast.pipeline.flowCount > 20)
  }

  @Test(
    "TUN-1, TUN-5, TUN-6, TUN-9: batches of plain packets of known flows, of services and not, there and back: sent in groups they come out as singly",
    arguments: FastPathTests.carried, FastPathTests.lanes)
  func alike(_ carried: (way: Int, family: IPFamily), lanes: UInt8) throws {
    let (way, family) = carried
    let twins = FastPathTests.twins(way, lanes: lanes)
    let (bench, peer) = (twins.fast, twins.peer)
    var random = SeededGenerator(UInt64(70 + way))
    for round in 0..<48 {
      // What is sent before anything is bent makes all flows known.
      let isBent = round > 12 && round % 4 == 0
      let count = Int.random(in: 8...40, using: &random)
      var there: [[UInt8]] = []
      var back: [[UInt8]] = []
      for _ in 0..<count {
        let client = 3000 + Int(random.next() % 8)
        let fields = IPFields(
          tos: Int.random(in: 0...255, using: &random) * Int(random.next() % 2),
          identification: Int.random(in: 0...65535, using: &random), dontFragment: !isBent || random.next() % 8 != 0)
        let payload = random.bytes(Int.random(in: 30...60, using: &random))
        // Of services with one endpoint far away and one near, and of none.
        let (isService, isTCP) = (random.next() % 2 == 0, random.next() % 2 == 0)
        let server = isService ? twins.frontends[family]![round % 5 == 0 ? 1 : 0] : peer.pod(10, family)
        let ports = (client, isService ? 80 : 8080)
        let hasChecksum = random.next() % 4 != 0
        func packet(_ source: IPAddress, _ destination: IPAddress, _ ports: (Int, Int)) -> [UInt8] {
          isTCP
            ? tcp(source, destination, from: ports.0, to: ports.1, Flag.ack, payload, with: fields)
            : udp(source, destination, from: ports.0, to: ports.1, payload, checksum: hasChecksum, with: fields)
        }
        there.append(bench.fromPod(packet(bench.pod(10, family), server, ports)))
        back.append(peer.fromPod(packet(peer.pod(10, family), bench.pod(10, family), (8080, client))))
      }
      twins.send(there.map { MemoryFrame($0) }, at: bench.podA)
      let wrapped = peer.send(back.map { MemoryFrame($0) }, at: peer.podA).frames[peer.underlay] ?? []
      twins.send(wrapped.map { isBent ? bent($0, oneOf: 24, &random) : $0 }, at: bench.underlay)
    }
    twins.expectSameFlows()
    let grouped = bench.pipeline.core.sentInGroups
    // Of the others most go the general way.
    let options = FastPathTests.ways[way].2
    if lanes > 1, options.subtracting(.pipeDSCP).isEmpty {
      // What comes back with another DSCP outside goes singly.
      let least = options.isEmpty ? 1200 : 500
      #expect(grouped > least, "only \(grouped) packets were sent in groups")
    }
    #expect(twins.plain.pipeline.core.sentInGroups == 0)
  }

  @Test(
    "TUN-1, KP-15: whole batches, of so many flows that some are further on in the table: sent in groups they come out as singly",
    arguments: FastPathTests.carriers, FastPathTests.lanes)
  func whole(_ carried: (way: Encapsulation, family: IPFamily), lanes: UInt8) throws {
    let way = try #require(Encapsulation.allCases.firstIndex(of: carried.way))
    let twins = FastPathTests.twins(way, lanes: lanes, batch: FrameBatch.standardCapacity)
    let (bench, peer, family) = (twins.fast, twins.peer, carried.family)
    var random = SeededGenerator(UInt64(170 + way))
    let clients = 3000..<3480
    for round in 0..<4 {
      // The first rounds begin all flows; in the last there are odd packets between.
      let chosen = clients.shuffled(using: &random)
      let begun = round < 2 ? Array(clients.dropFirst(240 * round).prefix(240)) : Array(chosen.prefix(256))
      func packet(_ source: IPAddress, _ destination: IPAddress, _ ports: (Int, Int)) -> [UInt8] {
        let payload = random.bytes(Int.random(in: 30...60, using: &random))
        return udp(
          source, destination, from: ports.0, to: ports.1, payload, with: IPFields(dontFragment: true))
      }
      func spoiled(_ frame: MemoryFrame) -> MemoryFrame { round == 3 ? bent(frame, oneOf: 40, &random) : frame }
      let there = begun.map { bench.fromPod(packet(bench.pod(10, family), peer.pod(10, family), ($0, 8080))) }
      let back = begun.map { peer.fromPod(packet(peer.pod(10, family), bench.pod(10, family), (8080, $0))) }
      twins.send(there.map { spoiled(MemoryFrame($0)) }, at: bench.podA)
      let wrapped = peer.send(back.map { MemoryFrame($0) }, at: peer.podA).frames[peer.underlay] ?? []
      #expect(wrapped.count == back.count)
      twins.send(wrapped.map(spoiled), at: bench.underlay)
    }
    twins.expectSameFlows()
    let elsewhere =
      family == .ipv4
      ? bench.pipeline.v4.flows.table.elsewhere : bench.pipeline.v6.flows.table.elsewhere
    #expect(elsewhere > 40, "only \(elsewhere) keys are not where they are looked for first")
    if lanes > 1 { #expect(bench.pipeline.core.sentInGroups > 600) }
  }

  @Test(
    "TUN-1, KP-15: a batch of packets of flows that begin with it: those behind the first come out as singly",
    arguments: FastPathTests.carried, FastPathTests.lanes)
  func beginning(_ carried: (way: Int, family: IPFamily), lanes: UInt8) {
    let (way, family) = carried
    let twins = FastPathTests.twins(way, lanes: lanes)
    let bench = twins.fast
    for (number, server) in [twins.peer.pod(10, family), twins.frontends[family]![0]].enumerated() {
      let destination = (server, number == 0 ? 2000 : 80)
      for client in [3000, 3001] {
        let packets = (0..<60).map { sent in
          // Ethernet's padding behind each, of one flow or of two by turns.
          let port = client + (client == 3001 ? 10 * (sent / 30) : 0)
          return bench.fromPod(
            udp(
              bench.pod(10, family), destination.0, from: port, to: destination.1,
              [UInt8](repeating: UInt8(sent), count: 40), with: IPFields(dontFragment: true)))
            + [1, 2, 3]
        }
        let before = bench.pipeline.core.sentInGroups
        twins.send(packets.map { MemoryFrame($0) }, at: bench.podA)
        if lanes > 1, FastPathTests.ways[way].2.isEmpty {
          #expect(bench.pipeline.core.sentInGroups >= before + 16)
        }
      }
    }
    twins.expectSameFlows()
  }

  @Test(
    "Among frames that come alike, one that is not plain goes by itself, and those behind it in groups; so do runs of both families",
    arguments: FastPathTests.carriers, FastPathTests.lanes.filter { $0 > 1 })
  func among(_ carried: (encapsulation: Encapsulation, family: IPFamily), lanes: UInt8) throws {
    let (encapsulation, family) = carried
    let twins = Twins(encapsulation)
    let (bench, peer) = (twins.fast, twins.peer)
    bench.pipeline.core.lanes = lanes
    // Wrapped one by one: the first of a flow would go behind the others.
    func wrapped(_ packet: [UInt8]) throws -> MemoryFrame {
      try #require(peer.send([MemoryFrame(peer.fromPod(packet))], at: peer.podA).frames[peer.underlay]?.first)
    }
    func plain(_ family: IPFamily, _ count: Int) throws -> [MemoryFrame] {
      try (0..<count).map { _ in
        try wrapped(
          udp(peer.pod(10, family), bench.pod(10, family), from: 3000, to: 2000, with: IPFields(dontFragment: true)))
      }
    }
    func grouped(_ frames: [MemoryFrame]) -> Int {
      let before = bench.pipeline.core.sentInGroups
      twins.send(frames, at: bench.underlay)
      return bench.pipeline.core.sentInGroups - before
    }
    let other: IPFamily = family == .ipv4 ? .ipv6 : .ipv4
    // From now on the flows are known, and how they come.
    for family in [other, family] { _ = grouped(try plain(family, 4)) }
    let calm = try plain(family, 8)
    for stranger in [other, family] {
      let opening = try wrapped(tcp(peer.pod(10, stranger), bench.pod(10, stranger), Flag.syn))
      let ping = try wrapped(
        icmp(peer.pod(10, stranger), bench.pod(10, stranger), stranger == .ipv4 ? 8 : 128, rest: 0x10001))
      for frame in [opening, ping] {
        let grouped = grouped(calm + [frame] + calm)
        // IPv4 is looked up first: behind what it sends the general way nothing is listed by that port any more.
        #expect(grouped == (stranger == .ipv4 && family == .ipv6 ? 0 : 16))
      }
      #expect(bench.pipeline.core.arrival.isIPv6 == (family == .ipv6))
    }
    // The first eight after a change are read singly, and sent in groups all the same.
    #expect(grouped(try plain(other, 10) + plain(family, 10)) == 16)
    #expect(bench.pipeline.core.arrival.isIPv6 == (family == .ipv6))
    twins.expectSameFlows()
  }

  @Test(
    "TUN-1, NODE-4: batches in tunnels over IPv6 go the general way, and come out of it as singly",
    arguments: [Encapsulation.ipip, .gre, .vxlan, .geneve], FastPathTests.lanes)
  func overIPv6(_ encapsulation: Encapsulation, lanes: UInt8) throws {
    let node = Bench(encapsulation, outer: .ipv6, slots: 24)
    let peer = Bench(node: 2, encapsulation, outer: .ipv6, slots: 24)
    node.pipeline.core.lanes = lanes
    node.pipeline.isTracing = false
    for family in IPFamily.allCases {
      let packets = (0..<16).map {
        peer.fromPod(
          udp(
            peer.pod(10, family), node.pod(10, family), from: 3000 + $0 % 3, to: 2000,
            with: IPFields(dontFragment: true)))
      }
      for _ in 0..<2 {
        let wrapped = try #require(peer.send(packets.map { MemoryFrame($0) }, at: peer.podA).frames[peer.underlay])
        #expect(node.send(wrapped, at: node.underlay).frames[node.podA]?.count == packets.count)
      }
    }
    #expect(node.pipeline.core.arrival == Arrival())
  }

  /// A packet of a pod, of one of few flows, so that most are known. `calm`: nothing rare, and of this family.
  private func frame(
    bench: Bench, to other: Bench, _ twins: Twins, calm: IPFamily?, _ random: inout SeededGenerator
  ) -> MemoryFrame {
    let isCalm = calm != nil
    var fields = IPFields(
      tos: Int.random(in: 0...255, using: &random) * Int(random.next() % 2),
      ttl: [64, 64, 255, 2, 1, 0][Int(random.next() % 6)], identification: Int.random(in: 0...65535, using: &random),
      dontFragment: random.next() % 4 != 0, more: random.next() % 32 == 0,
      options: random.next() % 32 == 0 ? [1, 1, 1, 0] : [])
    if isCalm { (fields.ttl, fields.more, fields.options) = (64, false, []) }
    let isService = random.next() % 2 == 0
    let family = calm ?? (random.next() % 3 == 0 ? .ipv6 : .ipv4)
    let destination =
      isService && bench.own == 1
      ? twins.frontends[family]![Int(random.next() % 2)]
      : [other.pod(10, family), other.pod(11, family), bench.pod(11, family)][Int(random.next() % 3)]
    let ports = (1000 + Int(random.next() % 6), isService ? 80 : 2000 + Int(random.next() % 3))
    let payload = random.bytes(Int.random(in: 0...40, using: &random) + (random.next() % 40 == 0 ? 1480 : 0))
    let packet: [UInt8]
    if random.next() % 2 == 0 {
      packet = udp(
        bench.pod(10, family), destination, from: ports.0, to: ports.1, payload, checksum: random.next() % 8 != 0,
        with: fields)
    } else {
      let flags = [Flag.ack, Flag.ack | Flag.psh, Flag.ack, Flag.syn, Flag.fin | Flag.ack, Flag.rst]
      let kind = Int(random.next() % (isCalm ? 3 : 6))
      packet = tcp(
        bench.pod(10, family), destination, from: ports.0, to: ports.1, flags[kind], payload,
        with: fields)
    }
    var frame = MemoryFrame(bench.fromPod(packet))
    // Ethernet's padding.
    if random.next() % 4 == 0 { frame.octets += random.bytes(Int(random.next() % 12)) }
    if random.next() % 8 == 0 { frame.checksumVerified = true }
    // A checksum that somebody is to finish, rarely not where it should be. What the field holds makes no difference.
    if bench.own == 1, random.next() % 3 == 0 {
      let isTCP = packet[family == .ipv4 ? 9 : 6] == 6
      let header = family == .ipv4 ? Int(packet[0] & 15) * 4 : 40
      frame.partialChecksumStart = 14 + header + (random.next() % 16 == 0 ? 2 : 0)
      frame.partialChecksumOffset = isTCP == (random.next() % 16 != 0) ? 16 : 6
    }
    frame.wireLength = frame.octets.count
    return frame
  }

  /// What happens to tables and time between packets.
  private func change(_ twins: Twins, _ random: inout SeededGenerator) {
    let choice = random.next() % 60
    let port = PortIndex(UInt16(random.next() % 2))
    for bench in [twins.fast, twins.plain] {
      switch choice {
      case 0: bench.tables.setRoute(Route(IPPrefix("10.244.2.0/24")!, hops: [bench.hop]))
      case 1: bench.tables.failHop(bench.hop)
      case 2, 3:
        if let hop = bench.tables.hop(bench.hop) { bench.tables.updateHop(bench.hop, hop) }
      case 4: bench.tick(30)
      case 5:
        // The path has a smaller MTU by now: an error about a tunnel packet says so.
        let tunnel = ip(bench.node(), bench.otherNode(), 4, udp(bench.pod(10), bench.remote(10)))
        let error = icmp(bench.otherNode(), bench.node(), 3, 4, rest: 600, tunnel)
        bench.send(bench.fromNode(error), at: bench.underlay)
      case 6:
        if let description = bench.tables.port(port) { bench.tables.updatePort(port, description) }
      default: bench.now += 1_000_000
      }
    }
  }
}

extension FlowTable {
  /// The keys that are not where they are looked for first.
  fileprivate var elsewhere: Int {
    (0..<capacity).count {
      !slots[$0].key.isFree && Int(truncatingIfNeeded: slots[$0].key.hash) & (capacity - 1) != $0
    }
  }
}
