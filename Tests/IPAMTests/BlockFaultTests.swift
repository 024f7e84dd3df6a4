import Addresses
import IPAM
import Model
import Synchronization
import Testing

/// Block mode when the process ends between two writes, and when another writes in between.
@Suite("Block faults")
struct BlockFaultTests {
  /// What happens in order, with room for claims, changes of hands and borrowing: two nodes, four blocks of two.
  private static func story(_ bench: Bench<MemoryStore>) throws {
    for container in 0..<4 { try bench.add(container, node: container % 2 == 0 ? "a" : "b") }
    for container in 4..<7 { try bench.add(container, node: "a") }
    for container in 0..<6 { try bench.remove(container) }
    bench.advance(60)
    for container in 10..<17 { try bench.add(container, node: "b") }
    for container in 10..<17 { try bench.remove(container) }
    bench.advance(60)
    try bench.add(20, node: "a", requested: [IPAddress("10.0.0.5")!])
  }

  private static func bench() -> Bench<MemoryStore> { Bench(pool("10.0.0.0/29", blockSize: 31)) }

  @Test("IPAM-6: whichever write the process ends before, the books agree and nothing is lost")
  func everyCrash() throws {
    let whole = Self.bench()
    try Self.story(whole)
    let count = whole.store.writes
    #expect(count > 30)
    for crash in 0..<count {
      let bench = Self.bench()
      bench.store.crash(after: crash)
      #expect(throws: IPAMError.self) { try Self.story(bench) }
      bench.store.crash(after: nil)
      #expect(try bench.problems() == [], "crash before write \(crash + 1)")
      // Every address can still be given: to one node, by itself.
      _ = try bench.manager.collect(keeping: [], network: "net")
      bench.advance(60)
      var given: Set<IPAddress> = []
      for container in 100..<108 { given.formUnion(try bench.add(container, node: "c")) }
      #expect(given.count == 8, "crash before write \(crash + 1)")
      #expect(try bench.problems() == [], "crash before write \(crash + 1)")
    }
  }

  @Test("IPAM-2: whichever transaction another node gets ahead of, no address is given twice")
  func everyConflict() throws {
    let whole = Self.bench()
    try Self.story(whole)
    for place in 0..<whole.store.writes {
      let bench = Self.bench()
      let left = Mutex(place)
      // Arms itself anew before each transaction until the chosen one has come.
      @Sendable func intrude() {
        let isNow = left.withLock { left in
          left -= 1
          return left < 0
        }
        if isNow {
          _ = try? bench.add("intruder", node: "c")
        } else {
          bench.store.interfere { intrude() }
        }
      }
      bench.store.interfere { intrude() }
      // With one more address in use the last of them may find no room: that is no matter here.
      try? Self.story(bench)
      #expect(try bench.problems() == [], "before write \(place + 1)")
    }
  }

  @Test("IPAM-2: of two nodes that want one block at once, one gets it and the other finds another way")
  func race() throws {
    let bench = Bench(pool("10.0.0.0/30", blockSize: 30))
    bench.store.interfere { _ = try? bench.add("b", node: "b") }
    try bench.add("a", node: "a")
    let snapshot = try bench.manager.snapshot()
    #expect(snapshot.blocks.count == 1 && snapshot.handles.count == 2)
    #expect(snapshot.affinities.count == 1 && snapshot.affinities[0].state == .confirmed)
    #expect(snapshot.contradictions == [])
  }
}
