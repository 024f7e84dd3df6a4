import Addresses
import CDataplane
import Ports
import Testing

@testable import Dataplane

@Suite("Parser of the fast path")
struct PlainReaderTests {
  @Test(
    "KP-15: packets that end where their memory does, from pods and in tunnels: nothing behind them is read",
    arguments: IPFamily.allCases, FastPathTests.lanes)
  func atTheEnd(family: IPFamily, lanes: UInt8) throws {
    let twins = Twins(.vxlan)
    let (bench, peer) = (twins.fast, twins.peer)
    bench.pipeline.core.lanes = lanes
    let (local, remote) = (bench.pod(10, family), peer.pod(10, family))
    let service = twins.frontends[family]![0]
    let fields = IPFields(dontFragment: true)
    for isTCP in [false, true] {
      func packet(_ source: IPAddress, _ destination: IPAddress, _ ports: (Int, Int)) -> [UInt8] {
        isTCP
          ? tcp(source, destination, from: ports.0, to: ports.1, Flag.ack, with: fields)
          : udp(source, destination, from: ports.0, to: ports.1, [], with: fields)
      }
      let there = (0..<8).map { bench.fromPod(packet(local, service, (3000 + $0, 80))) }
      try expectUnread(behind: there, at: bench.podA, of: bench)
      let back = (0..<8).map { MemoryFrame(peer.fromPod(packet(remote, local, (8080, 4000 + $0)))) }
      try expectUnread(
        behind: try #require(peer.send(back, at: peer.podA).frames[peer.underlay]).map(\.octets), at: bench.underlay,
        of: bench)
    }
  }

  /// Sends frames that each end before a page that is not there.
  private func expectUnread(behind frames: [[UInt8]], at port: PortIndex, of bench: Bench) throws {
    let out = port == bench.podA ? bench.underlay : bench.podA
    // From now on their flows are known.
    let expected = bench.send(frames.map { MemoryFrame($0) }, at: port).octets(out)
    #expect(expected.count == frames.count)
    // Two pages for each, of which the second is gone.
    let page = 4096
    let memory = unsafe frames.map { _ in unsafe kalsae_map(2 * page)! }
    for number in frames.indices { unsafe kalsae_unmap(memory[number] + page, page) }
    defer { for number in frames.indices { unsafe kalsae_unmap(memory[number], page) } }
    var batch = FrameBatch()
    batch.ingress = port
    for (number, octets) in frames.enumerated() {
      let start = page - octets.count
      let frame = unsafe Frame(unsafe: memory[number], capacity: page, start: start, length: octets.count)
      frame.octets.copy(from: octets, to: 0)
      batch.append(frame)
    }
    bench.pipeline.process(&batch, from: port, at: bench.now, bench.tables, bench.ports)
    #expect(bench.tick().octets(out) == expected)
    batch.removeAll()
  }

  @Test(
    "Frames are read up to the first that is not plain, in groups and one by one",
    arguments: FastPathTests.carriers, FastPathTests.lanes)
  func groups(_ carried: (encapsulation: Encapsulation, family: IPFamily), lanes: UInt8) throws {
    let (encapsulation, family) = carried
    let twins = Twins(encapsulation)
    twins.fast.pipeline.core.lanes = lanes
    let (bench, isTunnel) = (twins.fast, encapsulation != .none)
    let sender = isTunnel ? twins.peer : bench
    let port = isTunnel ? bench.underlay : bench.podA
    let packets = (0..<16).map { number in
      let (source, destination) = (sender.pod(10, family), (isTunnel ? bench : twins.peer).pod(11, family))
      return sender.fromPod(
        number % 3 == 0
          ? tcp(source, destination, from: 1000 + number, Flag.ack) : udp(source, destination, from: 1000 + number))
    }
    let frames =
      isTunnel
      ? try #require(sender.send(packets.map { MemoryFrame($0) }, at: sender.podA).frames[sender.underlay])
      : packets.map { MemoryFrame($0) }
    #expect(frames.count == 16)
    // The first batch says which tunnel it is and where to.
    bench.send(frames, at: port)

    func read<Key: FlowKey>(_ list: [MemoryFrame], _ sink: PlainSink<Key>) -> Int {
      let source = bench.port(port)
      for frame in list { source.enqueue(frame) }
      var batch = FrameBatch()
      _ = source.receive(into: &batch)
      defer { source.release(&batch) }
      bench.pipeline.core.begin(at: bench.now, bench.tables)
      bench.pipeline.core.enter(port, bench.tables)
      var reader = PlainReader(sink, batch.view, bench.pipeline.core, part: 0)
      guard isTunnel else { return reader.read(0..<list.count) }
      #expect(bench.pipeline.core.arrival.encapsulation == encapsulation)
      reader.expect(encapsulation, bench.pipeline.core, bench.tables.settings)
      return reader.unwrap(0..<list.count)
    }
    func read(_ list: [MemoryFrame]) -> Int {
      family == .ipv4
        ? read(list, PlainSink(bench.pipeline.v4, bench.pipeline.core))
        : read(list, PlainSink(bench.pipeline.v6, bench.pipeline.core))
    }
    #expect(read(frames) == 16)
    for number in 0..<16 {
      var bent = frames
      // The time to live of the packet that is carried: IPv4's checksum is wrong then, and IPv6's is used up.
      let header = frames[number].octets.count - Array(packets[number].dropFirst(14)).count
      if family == .ipv4 { bent[number].octets[header + 8] ^= 1 } else { bent[number].octets[header + 7] = 1 }
      #expect(read(bent) == number)
      // The version.
      bent = frames
      bent[number].octets[header] ^= 0x10
      #expect(read(bent) == number)
      guard isTunnel else { continue }
      // Of the outer header the checksum.
      bent = frames
      bent[number].octets[14 + 10] ^= 1
      #expect(read(bent) == number)
      // The outer packet's end before the inner one's, with the right checksum.
      bent = frames
      withOctets(&bent[number].octets) {
        let outer = IPv4Header($0.dropping(14))
        outer?.totalLength -= 1
        outer?.updateChecksum()
      }
      #expect(read(bent) == number)
    }
    // What is left of a group is read one by one.
    #expect(read(Array(frames.prefix(15))) == 15)
  }

  @Test(
    "Frames with IPv6 are read up to the first that is not plain, in groups and one by one",
    arguments: FastPathTests.lanes)
  func groups6(lanes: UInt8) throws {
    let bench = Twins(.none).fast
    bench.pipeline.core.lanes = lanes
    let excluded: [UInt16] = [4789, 6081]
    let packets = (0..<16).map { number in
      let (source, destination) = (bench.pod(10, .ipv6), bench.remote(10, .ipv6))
      return bench.fromPod(
        number % 3 == 0
          ? tcp(source, destination, from: 1000 + number, Flag.ack, [1, 2, 3])
          : udp(source, destination, from: 1000 + number, to: 2000, [1, 2, 3]))
    }
    func read(_ list: [[UInt8]], flag: FrameFlags = []) -> Int {
      let source = bench.port(bench.podA)
      for octets in list { source.enqueue(octets) }
      var batch = FrameBatch()
      _ = source.receive(into: &batch)
      defer { source.release(&batch) }
      for index in 0..<batch.count { batch[index].flags.formUnion(index == 9 ? flag : []) }
      bench.pipeline.core.begin(at: bench.now, bench.tables)
      bench.pipeline.core.enter(bench.podA, bench.tables)
      var reader = PlainReader(
        PlainSink(bench.pipeline.v6, bench.pipeline.core), batch.view, bench.pipeline.core, part: 0)
      reader.exclude(excluded[0], excluded[1])
      return reader.read(0..<list.count)
    }
    #expect(read(packets) == 16)
    let view = bench.pipeline.v6.plain.view
    for (number, octets) in packets.enumerated() {
      #expect(bench.pipeline.v6.keys[number].sourceAddress == bench.pod(10, .ipv6))
      #expect(bench.pipeline.v6.keys[number].destinationAddress == bench.remote(10, .ipv6))
      #expect(bench.pipeline.v6.keys[number].tail.sourcePort == UInt16(1000 + number))
      #expect(view.hash(number) == bench.pipeline.v6.keys[number].hash)
      #expect(view.mark(number).length == octets.count - 14)
      #expect(FlowRewrite6.timeToLive(view.word(number)) == octets[21])
    }
    // Destination and source of the frame, its type; version, length, next header, hop limit.
    let bends: [(place: Int, value: UInt8)] = [
      (5, 0x77), (11, 0x77), (13, 0x06), (14, 0x50), (18, 1), (19, 0xff), (19, 19), (19, 7), (19, 0), (20, 0), (20, 58),
      (21, 1), (21, 0),
    ]
    for number in packets.indices {
      for bend in bends {
        var bent = packets
        bent[number][bend.place] = bend.value
        #expect(read(bent) == number, "octet \(bend.place) of packet \(number): \(bend.value)")
      }
      var bent = packets
      if number % 3 == 0 {
        bent[number][14 + 40 + 13] = UInt8(Flag.syn)
      } else {
        let port = excluded[number & 1]
        bent[number].replaceSubrange(56..<58, with: [UInt8(port >> 8), UInt8(port & 255)])
      }
      #expect(read(bent) == number)
    }
    for flag in [FrameFlags.truncated, .checksumPartial] { #expect(read(packets, flag: flag) == 9) }
    // The traffic class is in two octets.
    var classes = packets
    for number in classes.indices { (classes[number][14], classes[number][15]) = (0x6a, 0x50 + UInt8(number)) }
    #expect(read(classes) == 16)
    for number in classes.indices { #expect(view.mark(number).trafficClass == 0xa5) }
    // What is left of a group is read one by one.
    #expect(read(Array(packets.prefix(15))) == 15)
  }

  @Test(
    "NODE-4 who may send in a tunnel, asked for packets in groups and singly, as Dictionary has it",
    arguments: FastPathTests.lanes)
  func peers(lanes: UInt8) {
    let twins = Twins(.vxlan)
    let bench = twins.fast
    bench.pipeline.core.lanes = lanes
    let columns = bench.pipeline.v4.plain.view
    var batch = FrameBatch()
    bench.pipeline.core.begin(at: bench.now, bench.tables)
    bench.pipeline.core.enter(bench.underlay, bench.tables)
    var reader = PlainReader(
      PlainSink(bench.pipeline.v4, bench.pipeline.core), batch.view, bench.pipeline.core, part: 0)
    var random = SeededGenerator(5)
    var table = PeerTable()
    var known: [IPv4Address: UInt16] = [:]
    // Few enough for many that are looked for in the same place.
    func address() -> IPv4Address { IPv4Address(10, 0, UInt8(random.next() & 3), UInt8(random.next() & 255)) }
    for round in 0..<400 {
      for _ in 0..<20 {
        let address = address()
        // Grows for a while, then shrinks.
        if random.next() % 10 < (round < 200 ? 7 : 3) {
          let peer = UInt16(truncatingIfNeeded: random.next())
          // Every fourth sends in another tunnel.
          table.set(address, peer: peer, encapsulations: peer & 3 == 0 ? 1 << 1 : 1 << 1 | 1 << 3)
          known[address] = peer
        } else {
          table.remove(address)
          known[address] = nil
        }
      }
      #expect(table.count == known.count)
      let asked = (0..<61).map { _ in
        random.next() % 10 < 8 ? known.randomElement(using: &random)?.key ?? address() : address()
      }
      for (index, address) in asked.enumerated() {
        columns.columns[3, index] = UInt64(address.rawValue.bigEndian)
        columns.setMark(index, .general)
      }
      var next = 0
      while next < asked.count {
        let end = reader.trust(table, .vxlan, next..<asked.count)
        for index in next..<end {
          #expect(known[asked[index]].map { $0 & 3 != 0 ? $0 : nil } == columns.mark(index).peer, "round \(round)")
        }
        if end < asked.count { #expect(known[asked[end]].map { $0 & 3 == 0 } ?? true, "round \(round)") }
        next = end + 1
      }
    }
    batch.removeAll()
  }

  @Test("Flows and hops lie in memory as the code in C believes")
  func layout() { #expect(PlainLayout.isAsExpected) }

  @Test("One hop less gives the IPv4 header the checksum that computing it anew gives")
  func countDown() {
    var random = SeededGenerator(3)
    for round in 0..<20_000 {
      var packet = ip(
        IPAddress("10.\(round & 255).3.4")!, IPAddress("10.0.0.\(round >> 8)")!, 17, [],
        with: IPFields(
          tos: Int(random.next() & 255), ttl: 2 + Int(random.next() % 250), identification: Int(random.next() & 0xffff))
      )
      let expected = hopped(packet)
      withOctets(&packet) {
        $0[u32Native: 8] = kalsae_count_down4(UInt32(littleEndian: $0[u32Native: 8])).littleEndian
      }
      #expect(packet == expected)
    }
  }
}
