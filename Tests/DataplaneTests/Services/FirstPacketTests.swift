import Addresses
import Ports
import Testing

@testable import Dataplane

/// First packets of a batch wait for memory together; what becomes of them is the same as if each came alone.
@Suite("First packets together")
struct FirstPacketTests {
  /// A node with so many services that their tables are read ahead (`ServiceTable.isLarge`). Service n leads to port
  /// 8000 + n of one endpoint.
  private static let services = 4200

  private func bench(_ family: IPFamily, isTracing: Bool) -> Bench {
    let bench = Bench(.vxlan, settings: { $0.icmpErrorBurst = 1_000_000 })
    for number in 0..<FirstPacketTests.services {
      let service = bench.addService("s\(number)", [ServicePort.Endpoint(bench.remote(10, family), port(number))])
      bench.setFrontend(.clusterIP, vip(number, family), Wire(family: family, transport: .udp), service)
    }
    bench.pipeline.isTracing = isTracing
    return bench
  }

  private func port(_ number: Int) -> UInt16 { UInt16(8000 + number) }

  private func vip(_ number: Int, _ family: IPFamily) -> IPAddress {
    family == .ipv4
      ? IPAddress("10.96.\(number >> 8).\(number & 255)")! : IPAddress("fd00:96::\(String(number + 1, radix: 16))")!
  }

  @Test(
    "KP-15 each of many first packets in a batch reaches its own service's endpoint", arguments: bothFamilies)
  func spread(_ family: IPFamily) {
    let bench = bench(family, isTracing: false)
    var random = SeededGenerator(5)
    for round in 0..<8 {
      let numbers = (0..<200).map { _ in Int.random(in: 0..<FirstPacketTests.services, using: &random) }
      let frames = numbers.enumerated().map { place, number in
        MemoryFrame(
          bench.fromPod(udp(bench.pod(10, family), vip(number, family), from: 1000 + round * 200 + place, to: 80)))
      }
      let sent = bench.send(frames, at: bench.podA).octets(bench.underlay)
      let header = family == .ipv4 ? 20 : 40
      #expect(sent.map { u16($0, 64 + header + 2) } == numbers.map { Int(port($0)) })
    }
  }

  @Test("What is decided together is what is decided one by one: random first packets, known ones and refusals between")
  func sameAsAlone() {
    let (together, alone) = (bench(.ipv4, isTracing: false), bench(.ipv4, isTracing: true))
    var random = SeededGenerator(9)
    for round in 0..<60 {
      let frames = (0..<40).map { _ -> MemoryFrame in
        let destination: IPAddress
        switch random.next() % 6 {
        case 0: destination = together.remote(11)
        case 1: destination = together.pod(11)
        // Nobody's: refused.
        case 2: destination = IPAddress("10.200.0.1")!
        default: destination = vip(Int(random.next() % 6), .ipv4)
        }
        // Few ports, so that several packets of a batch are of one new flow.
        let ports = (2000 + round * 4 + Int(random.next() % 8), random.next() % 8 == 0 ? 81 : 80)
        let flags = random.next() % 2 == 0 ? Flag.syn : Flag.ack
        let source = random.next() % 16 == 0 ? IPAddress("10.244.9.9")! : together.pod(10)
        return MemoryFrame(
          together.fromPod(
            random.next() % 4 == 0
              ? tcp(source, destination, from: ports.0, to: ports.1, flags)
              : udp(source, destination, from: ports.0, to: ports.1)))
      }
      let (a, b) = (together.send(frames, at: together.podA), alone.send(frames, at: alone.podA))
      #expect(a.drops == b.drops)
      for port in Set(a.frames.keys).union(b.frames.keys) {
        #expect(a.octets(port).sorted(by: order) == b.octets(port).sorted(by: order))
      }
    }
    #expect(together.pipeline.flowStatistics == alone.pipeline.flowStatistics)
    #expect(together.pipeline.flowCount > 100)
  }

  private func order(_ a: [UInt8], _ b: [UInt8]) -> Bool { a.lexicographicallyPrecedes(b) }

  @Test("Memory that is given back is zero, and what lies beside it stays")
  func discard() {
    let memory = Memory<UInt64>(count: 4096)
    for index in 0..<4096 { memory[index] = UInt64(index + 1) }
    // Of these only one page is whole.
    memory.discard(300..<1100)
    for index in 0..<4096 { #expect(memory[index] == (512..<1024 ~= index ? 0 : UInt64(index + 1))) }
  }

  @Test("A flow table that doubles several times still finds every flow")
  func growth() {
    var table = FlowTable<FlowKey4>(limit: 1 << 19)
    func key(_ number: Int) -> FlowKey4 {
      FlowKey4(
        addresses: UInt64(number) &* 0x9e37_79b9_7f4a_7c15,
        tail: FlowKeyTail(ports: UInt32(number), transport: 17, flags: FlowKeyTail.used, zone: 1))
    }
    for number in 0..<200_000 {
      table.insert(
        FlowSlot(key: key(number), connection: UInt32(number), isReply: false, hop: 0, epoch: 0, second: 0),
        key(number).hash)
    }
    #expect(table.count == 200_000)
    for number in 0..<200_000 {
      let position = table.find(key(number), key(number).hash)
      guard position >= 0, table.slots[position].connection == UInt32(number) else {
        Issue.record("flow \(number) is lost")
        return
      }
    }
  }
}
