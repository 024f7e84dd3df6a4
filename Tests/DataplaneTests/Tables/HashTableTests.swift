import Addresses
import Testing

@testable import Dataplane

/// The hash tables against `Dictionary`, and the timer wheel against a sorted list.
@Suite struct HashTableTests {
  private struct Key: Hashable {
    var high: UInt64
    var low: UInt64
    var tag: UInt32
  }

  @Test("AddressTable agrees with Dictionary under random inserts and removes", arguments: [UInt64(11), 12])
  func addressTable(_ seed: UInt64) {
    var random = SeededGenerator(seed)
    var table = AddressTable()
    var reference: [Key: UInt32] = [:]
    func key() -> Key {
      Key(
        high: UInt64.random(in: 0...3, using: &random) << 60, low: UInt64.random(in: 0...400, using: &random),
        tag: [0, 64, 128, 0x400].randomElement(using: &random)!)
    }
    for step in 0..<20_000 {
      let key = key()
      // Grows for a while, then shrinks.
      if random.next() % 10 < (step < 10_000 ? 7 : 3) {
        table.insert(key.high, key.low, tag: key.tag, value: UInt32(step))
        reference[key] = UInt32(step)
      } else {
        table.remove(key.high, key.low, tag: key.tag)
        reference[key] = nil
      }
      guard table.count == reference.count, table.find(key.high, key.low, tag: key.tag) == reference[key] else {
        Issue.record("seed \(seed), step \(step)")
        return
      }
    }
    for (key, value) in reference { #expect(table.find(key.high, key.low, tag: key.tag) == value) }
    for _ in 0..<1000 {
      let key = key()
      #expect(table.find(key.high, key.low, tag: key.tag) == reference[key])
    }
  }

  @Test("addresses of both families do not meet")
  func families() {
    var table = AddressTable()
    table.insert(IPAddress("0.0.0.5")!, value: 4)
    table.insert(IPAddress("::5")!, value: 6)
    #expect(table.find(IPAddress("0.0.0.5")!) == 4)
    #expect(table.find(IPAddress("::5")!) == 6)
    table.remove(IPAddress("0.0.0.5")!)
    #expect(table.find(IPAddress("0.0.0.5")!) == nil)
    #expect(table.find(IPAddress("::5")!) == 6)
    table.remove(IPAddress("0.0.0.5")!)
    #expect(table.count == 1)
  }

  @Test("FlowTable agrees with Dictionary under random inserts and removes", arguments: [UInt64(21), 22])
  func flowTable(_ seed: UInt64) {
    flowTable(seed) { number, random in
      FlowKey4(
        addresses: UInt64(number % 50), tail: FlowKeyTail(ports: UInt32(number), transport: 17, flags: 0x80, zone: 1))
    }
    flowTable(seed) { number, random in
      FlowKey6(
        source0: 1, source1: UInt64(number % 50), destination0: 2, destination1: 3,
        tail: FlowKeyTail(ports: UInt32(number), transport: 6, flags: 0x80, zone: 1))
    }
  }

  private func flowTable<K: FlowKey>(_ seed: UInt64, _ key: (Int, inout SeededGenerator) -> K) {
    var random = SeededGenerator(seed)
    var table = FlowTable<K>(limit: 1 << 14)
    var reference: [Int: ConnectionIndex] = [:]
    for step in 0..<30_000 {
      let number = Int.random(in: 0..<8000, using: &random)
      let key = key(number, &random)
      if reference[number] == nil, random.next() % 10 < (step < 15_000 ? 8 : 3) {
        table.insert(
          FlowSlot(key: key, connection: ConnectionIndex(step), isReply: false, hop: 0, epoch: 0, second: 0), key.hash)
        reference[number] = ConnectionIndex(step)
      } else {
        let removed = table.remove(key)
        #expect(removed?.connection == reference[number])
        reference[number] = nil
      }
      guard table.count == reference.count else {
        Issue.record("seed \(seed), step \(step): \(table.count) for \(reference.count)")
        return
      }
    }
    for number in 0..<8000 {
      let key = key(number, &random)
      let position = table.find(key, key.hash)
      #expect((position >= 0 ? table.slots[position].connection : nil) == reference[number])
    }
    #expect(table.capacity >= table.count * 2)
  }

  @Test("the key of an answer's answer is the key itself")
  func reversedKeys() {
    var random = SeededGenerator(3)
    for transport in [1, 6, 17, 58, 132, 50] as [UInt8] {
      for _ in 0..<100 {
        let tail = FlowKeyTail(
          ports: UInt32(truncatingIfNeeded: random.next()), transport: transport, flags: 0x80,
          zone: UInt16(truncatingIfNeeded: random.next()))
        let four = FlowKey4(addresses: random.next(), tail: tail)
        let zone = Zone(rawValue: tail.zone)
        #expect(four.reversed(zone: .underlay).reversed(zone: zone) == four)
        #expect(four.reversed(zone: zone).sourceAddress == four.destinationAddress)
        let six = FlowKey6(
          source0: random.next(), source1: random.next(), destination0: random.next(), destination1: random.next(),
          tail: tail)
        #expect(six.reversed(zone: .underlay).reversed(zone: zone) == six)
        #expect(six.reversed(zone: zone).destinationAddress == six.sourceAddress)
      }
    }
  }

  @Test("hashes of keys that lie close together differ in all parts that are used")
  func hashes() {
    var low: Set<UInt64> = []
    var high: Set<UInt64> = []
    for host in 0..<64 {
      for port in 0..<64 {
        let key = FlowKey4(
          addresses: UInt64(0x0a01_f40a) | UInt64(host) << 56,
          tail: FlowKeyTail(ports: UInt32(port) << 8 | 0x5000_0000, transport: 6, flags: 0x80, zone: 3))
        low.insert(key.hash & 0xfff)
        high.insert(key.hash >> 52)
      }
    }
    // 4096 balls into 4096 bins leave 1507 empty on average.
    #expect(low.count > 2300)
    #expect(high.count > 2300)
  }

  // MARK: The timer wheel

  @Test(
    "the timer wheel gives up connections as a sorted list does, over small steps and large gaps",
    arguments: [UInt64(31), 32, 33])
  func wheel(_ seed: UInt64) {
    var random = SeededGenerator(seed)
    var table = ConnectionTable<FlowKey4>(limit: 4096)
    /// When each is due, in truth.
    var due: [ConnectionIndex: UInt32] = [:]
    var second = UInt32.random(in: 1...2_000_000_000, using: &random)
    table.start(second)
    for step in 0..<3000 {
      switch random.next() % 10 {
      case 0..<5:
        if let index = table.allocate() {
          table.places[Int(index)].bucket = 0
          #expect(due[index] == nil, "a place is given once")
          // Also further ahead than the wheel is wide.
          let at = second + [1, 10, 120, 4094, 4096, 9000, 86400].randomElement(using: &random)!
          table.schedule(index, at: at)
          due[index] = at
        }
      case 5:
        if let index = due.keys.sorted().randomElement(using: &random) {
          table.release(index)
          due[index] = nil
        }
      case 6:
        if let index = due.keys.sorted().randomElement(using: &random) {
          let at = second + UInt32.random(in: 1...5000, using: &random)
          table.schedule(index, at: at)
          due[index] = at
        }
      default:
        second += [1, 1, 1, 2, 7, 100, 4095, 4096, 5000, 50_000].randomElement(using: &random)!
        var given: Set<ConnectionIndex> = []
        var looks = 0
        while let index = table.popDue(second) {
          looks += 1
          guard let at = due[index], looks < 20_000 else {
            Issue.record("seed \(seed), step \(step): \(index) is nobody's")
            return
          }
          if at > second {
            // Looked at on the way round: goes in again.
            table.schedule(index, at: at)
          } else {
            given.insert(index)
            table.release(index)
            due[index] = nil
          }
        }
        let late = due.filter { $0.value <= second }
        #expect(late.isEmpty, "seed \(seed), step \(step): \(late.count) not given up")
        if !late.isEmpty { return }
      }
      #expect(table.count == due.count)
    }
  }

  @Test("places are bounded and are used again")
  func places() {
    var table = ConnectionTable<FlowKey4>(limit: 2000)
    let first = (0..<2000).compactMap { _ in table.allocate() }
    #expect(Set(first).count == 2000)
    #expect(!first.contains(0))
    #expect(table.allocate() == nil)
    for index in first { table.release(index) }
    #expect(Set((0..<2000).compactMap { _ in table.allocate() }) == Set(first))
  }
}
