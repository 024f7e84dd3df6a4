import Addresses
import IPAM
import Model
import Testing

/// Numbers that look random and are the same each time (SplitMix64).
struct SeededNumbers: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }
}

/// Block mode against a model that knows nothing of blocks: who has which address, and since when nobody has.
@Suite("Block model")
struct BlockModelTests {
  private struct Model {
    var owners: [IPAddress: Int] = [:]
    var released: [IPAddress: Int64] = [:]
    let all: [IPAddress]
    let reserved: Set<IPAddress>

    func isFree(_ address: IPAddress, _ now: Int64, coolDown: Int64) -> Bool {
      owners[address] == nil && !reserved.contains(address) && released[address].map { $0 + coolDown <= now } ?? true
    }
  }

  @Test(
    "IPAM-6: over random lives of containers, what is given is free, and exhausted means that nothing is",
    arguments: 1...8)
  func random(seed: Int) throws {
    var random = SeededNumbers(state: UInt64(seed))
    let blockSize = Int.random(in: 28...32, using: &random)
    let reservations = seed % 3 == 0 ? [IPPrefix("10.0.0.16/29")!, IPPrefix("10.0.0.40/32")!] : []
    let coolDown: Int64 = seed % 2 == 0 ? 10 : 0
    let bench = Bench(pool("10.0.0.0/26", blockSize: blockSize), reservations: reservations)
    try bench.manager.configure { $0.coolDownSeconds = coolDown }
    let all = (0..<64).map { IPAddress("10.0.0.\($0)")! }
    var model = Model(all: all, reserved: Set(all.filter { address in reservations.contains { $0.contains(address) } }))
    var containers: [Int: [IPAddress]] = [:]
    for step in 0..<250 {
      let now = bench.clock.withLock { $0 }
      let node = "n\(Int.random(in: 0..<4, using: &random))"
      switch Int.random(in: 0..<10, using: &random) {
      case 0..<6:
        let own = try bench.manager.snapshot().blocks.filter { $0.node == node }.map(\.cidr)
        let ownFree = all.contains { address in
          own.contains { $0.contains(address) } && model.isFree(address, now, coolDown: coolDown)
        }
        do {
          let address = try bench.add(step, node: node)[0]
          #expect(model.isFree(address, now, coolDown: coolDown), "\(address) at step \(step)")
          #expect(!ownFree || own.contains { $0.contains(address) }, "own blocks come first, step \(step)")
          model.owners[address] = step
          containers[step] = [address]
        } catch {
          #expect(error.kind == .exhausted)
          #expect(!all.contains { model.isFree($0, now, coolDown: coolDown) }, "step \(step): \(error)")
        }
      case 6:
        let wanted = all.randomElement(using: &random)!
        do {
          _ = try bench.add(step, node: node, requested: [wanted])
          #expect(model.owners.updateValue(step, forKey: wanted) == nil)
          containers[step] = [wanted]
        } catch {
          #expect(error.kind == .refused && model.owners[wanted] != nil, "step \(step): \(error)")
        }
      case 7, 8:
        guard let victim = containers.keys.sorted().randomElement(using: &random) else { continue }
        try bench.remove(victim)
        for address in containers.removeValue(forKey: victim)! {
          model.owners[address] = nil
          model.released[address] = now
        }
      default: bench.advance(Int64.random(in: 0...6, using: &random))
      }
    }
    let snapshot = try bench.manager.snapshot()
    #expect(snapshot.contradictions == [])
    let given = snapshot.blocks.flatMap { block in block.allocations.keys.map { block.cidr.address(at: $0) } }
    #expect(Set(given) == Set(model.owners.keys) && given.count == model.owners.count)
  }
}

extension IPPrefix {
  fileprivate func address(at ordinal: Int) -> IPAddress {
    .v4(IPv4Address(rawValue: address.v4!.rawValue + UInt32(ordinal)))
  }
}
