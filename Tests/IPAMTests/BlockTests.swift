import Addresses
import IPAM
import Model
import Testing

/// Block mode by its rules, one at a time.
@Suite("Blocks")
struct BlockTests {
  @Test("IPAM-2: a node takes a block of the pool's size and gives its addresses in turn")
  func ownBlock() throws {
    let bench = Bench(pool("10.0.0.0/16"))
    let first = try bench.add(1)[0]
    let second = try bench.add(2)[0]
    #expect(second.v4!.rawValue == first.v4!.rawValue + 1)
    let blocks = try bench.manager.snapshot().blocks
    #expect(blocks.count == 1)
    #expect(blocks[0].cidr.length == 26 && blocks[0].cidr.contains(first) && blocks[0].node == "a")
    #expect(try bench.manager.snapshot().affinities == [Affinity(node: "a", cidr: blocks[0].cidr, state: .confirmed)])
    #expect(try bench.problems() == [])
  }

  @Test("IPAM-2: IPv6 blocks are /122, and both families come in one answer, or none does")
  func dualStack() throws {
    let bench = Bench(pool("10.0.0.0/16", name: "four"), pool("fd00::/48", name: "six"))
    let answer = try bench.manager.assign(AssignRequest(attachment(1), node: "a", families: [.ipv4, .ipv6]))
    #expect(answer.addresses.map(\.prefixLength) == [32, 128])
    #expect(answer.addresses.map(\.pool) == ["four", "six"])
    #expect(try bench.manager.snapshot().blocks.map(\.cidr.length) == [26, 122])

    bench.catalog.withLock { _ = $0.pools.removeLast() }
    let error = #expect(throws: IPAMError.self) { try bench.add(2, families: [.ipv4, .ipv6]) }
    #expect(error?.kind == .exhausted)
    #expect(try bench.manager.snapshot().handles.count == 1)
  }

  @Test("IPAM-2: after own blocks comes a new one, then an empty one of another node, then borrowing")
  func order() throws {
    // Two blocks of two addresses.
    let bench = Bench(pool("10.0.0.0/30", blockSize: 31))
    try bench.manager.configure { $0.coolDownSeconds = 0 }
    for container in 1...3 { try bench.add(container, node: "a") }
    #expect(try bench.blocks(of: "a").count == 2)
    // The second block has one address free: b may only borrow it.
    let borrowed = try bench.add(4, node: "b")[0]
    let snapshot = try bench.manager.snapshot()
    #expect(try bench.blocks(of: "b") == [])
    let block = try #require(snapshot.blocks.first { $0.cidr.contains(borrowed) })
    #expect(block.node == "a" && block.allocations.values.contains { $0.node == "b" })
    // With one of a's blocks empty, b gets it.
    let addresses = snapshot.handles
    for container in 1...4 where addresses[attachment(container)]!.allSatisfy({ !block.cidr.contains($0) }) {
      try bench.remove(container)
    }
    try bench.add(5, node: "b")
    #expect(try bench.blocks(of: "b").count == 1 && bench.blocks(of: "a").count == 1)
    #expect(try bench.problems() == [])
  }

  @Test("IPAM-2: strict affinity borrows nothing, and says so")
  func strict() throws {
    let bench = Bench(pool("10.0.0.0/30", blockSize: 30))
    try bench.manager.configure { $0.strictAffinity = true }
    try bench.add(1, node: "a")
    let error = #expect(throws: IPAMError.self) { try bench.add(2, node: "b") }
    #expect(error?.kind == .exhausted)
    #expect(error?.message.contains("strictAffinity") == true)
    // An address of the other node's block cannot be asked for either.
    let asked = #expect(throws: IPAMError.self) {
      try bench.add(3, node: "b", requested: [IPAddress("10.0.0.3")!])
    }
    #expect(asked?.kind == .refused)
  }

  @Test("IPAM-2: maxBlocksPerHost and autoAllocateBlocks bound what a node takes")
  func limits() throws {
    let bench = Bench(pool("10.0.0.0/24", blockSize: 31))
    try bench.manager.configure { $0.maxBlocksPerHost = 1 }
    try bench.add(1)
    try bench.add(2)
    let error = #expect(throws: IPAMError.self) { try bench.add(3) }
    #expect(error?.message.contains("maxBlocksPerHost") == true)
    try bench.manager.configure {
      $0.maxBlocksPerHost = 0
      $0.autoAllocateBlocks = false
    }
    #expect(#expect(throws: IPAMError.self) { try bench.add(3) }?.message.contains("autoAllocateBlocks") == true)
  }

  @Test("IPAM-2: pools that are disabled or do not select the node give nothing; a pool that is named does")
  func selection() throws {
    let bench = Bench(
      pool("10.0.0.0/24", name: "off", disabled: true), pool("10.0.1.0/24", name: "east", nodes: "zone == 'east'"),
      pool("10.0.2.0/24", name: "rest", nodes: "zone != 'east'"), labels: ["a": ["zone": "east"]])
    #expect(IPPrefix("10.0.1.0/24")!.contains(try bench.add(1, node: "a")[0]))
    #expect(IPPrefix("10.0.2.0/24")!.contains(try bench.add(2, node: "b")[0]))
    #expect(IPPrefix("10.0.1.0/24")!.contains(try bench.add(3, node: "b", pools: ["east"])[0]))
    #expect(IPPrefix("10.0.2.0/24")!.contains(try bench.add(4, node: "a", pools: ["10.0.2.0/24"])[0]))
    #expect(#expect(throws: IPAMError.self) { try bench.add(5, pools: ["off"]) }?.kind == .exhausted)
    #expect(#expect(throws: IPAMError.self) { try bench.add(5, pools: ["none"]) }?.kind == .refused)
  }

  @Test("IPAM-2: an address cools down before it is given again, and a wrong clock does not lock it away")
  func coolDown() throws {
    let bench = Bench(pool("10.0.0.0/31", blockSize: 31))
    try bench.add(1)
    try bench.add(2)
    try bench.remove(1)
    let error = #expect(throws: IPAMError.self) { try bench.add(3) }
    #expect(error?.message.contains("1 cool down") == true)
    bench.advance(29)
    #expect(throws: IPAMError.self) { try bench.add(3) }
    bench.advance(1)
    try bench.add(3)
    try bench.remove(2)
    bench.advance(-1000)
    try bench.add(4)
  }

  @Test("IPAM-2: an address comes again as late as possible")
  func latestReuse() throws {
    let bench = Bench(pool("10.0.0.0/29", blockSize: 29))
    try bench.manager.configure { $0.coolDownSeconds = 0 }
    var seen: [IPAddress] = []
    for container in 0..<8 {
      seen += try bench.add(container)
      try bench.remove(container)
    }
    #expect(Set(seen).count == 8)
  }

  @Test("IPAM-2: reserved addresses are given only when asked for")
  func reservations() throws {
    let bench = Bench(
      pool("10.0.0.0/28", blockSize: 29), reservations: [IPPrefix("10.0.0.0/29")!, IPPrefix("10.0.0.8/30")!])
    var given: [IPAddress] = []
    for container in 0..<4 { given += try bench.add(container) }
    #expect(given.allSatisfy { IPPrefix("10.0.0.12/30")!.contains($0) })
    #expect(throws: IPAMError.self) { try bench.add(5) }
    #expect(try bench.add(6, requested: [IPAddress("10.0.0.3")!]) == [IPAddress("10.0.0.3")!])
  }

  @Test("CNI-10: requested addresses are given exactly, even while they cool down, and refused where somebody has them")
  func requested() throws {
    let bench = Bench(pool("10.0.0.0/24"), pool("fd00::/64", name: "six"))
    let wanted = [IPAddress("10.0.0.77")!, IPAddress("fd00::7")!]
    #expect(try bench.add(1, requested: wanted) == wanted)
    let error = #expect(throws: IPAMError.self) { try bench.add(2, requested: wanted) }
    #expect(error?.kind == .refused && error?.message.contains("in use by default/1 on node a") == true)
    try bench.remove(1)
    #expect(try bench.add(2, requested: wanted) == wanted)
    #expect(#expect(throws: IPAMError.self) { try bench.add(3, requested: [IPAddress("11.0.0.1")!]) }?.kind == .refused)
    #expect(try bench.problems() == [])
  }

  @Test("IPAM-6: asking again gives the same answer; another question is refused")
  func again() throws {
    let bench = Bench(pool("10.0.0.0/24"), pool("fd00::/64", name: "six"))
    let first = try bench.add(1)
    #expect(try bench.add(1) == first)
    #expect(#expect(throws: IPAMError.self) { try bench.add(1, families: [.ipv4, .ipv6]) }?.kind == .refused)
  }

  @Test("CNI-4: release is idempotent, and takes only the interface that it names (CNI-12)")
  func release() throws {
    let bench = Bench(pool("10.0.0.0/24"))
    let manager = bench.manager
    _ = try manager.assign(AssignRequest(attachment(1), node: "a"))
    let second = try manager.assign(AssignRequest(attachment(1, "net1"), node: "a"))
    try manager.release(attachment(1))
    try manager.release(attachment(1))
    try manager.release(attachment("never"))
    #expect(try manager.snapshot().handles == [attachment(1, "net1"): second.addresses.map(\.address)])
    #expect(try bench.problems() == [])
  }

  @Test("CNI-6: collection takes back what is not named, of its own network only")
  func collect() throws {
    let bench = Bench(pool("10.0.0.0/24"))
    let manager = bench.manager
    for container in 1...3 { _ = try manager.assign(AssignRequest(attachment(container), node: "a")) }
    _ = try manager.assign(AssignRequest(attachment(1, network: "other"), node: "a"))
    #expect(try manager.collect(keeping: [attachment(2)], network: "net") == [attachment(1), attachment(3)])
    #expect(Set(try manager.snapshot().handles.keys) == [attachment(2), attachment(1, network: "other")])
  }

  @Test("CNI-5: check finds an address too few and one too many")
  func check() throws {
    let bench = Bench(pool("10.0.0.0/24"))
    let address = try bench.add(1)[0]
    try bench.manager.check(attachment(1), has: [address])
    for wrong in [[], [IPAddress("10.0.0.200")!], [address, IPAddress("10.0.0.200")!]] {
      #expect(#expect(throws: IPAMError.self) { try bench.manager.check(attachment(1), has: wrong) }?.kind == .mismatch)
    }
  }

  @Test("CNI-6: STATUS says that there is no pool")
  func ready() throws {
    try Bench(pool("10.0.0.0/24")).manager.ready()
    let error = #expect(throws: IPAMError.self) { try Bench(pool("10.0.0.0/24", disabled: true)).manager.ready() }
    #expect(error?.kind == .exhausted)
  }

  @Test("IPAM-2: blocks of another size, from before the pool was changed, are not overlapped")
  func blockSizeChanged() throws {
    let bench = Bench(pool("10.0.0.0/24", blockSize: 28))
    for container in 0..<20 { try bench.add(container, node: "n\(container % 3)") }
    bench.catalog.withLock { $0.pools = [pool("10.0.0.0/24", blockSize: 26)] }
    var container = 20
    while (try? bench.add(container, node: "n\(container % 5)")) != nil { container += 1 }
    #expect(container > 100)
    #expect(try bench.manager.snapshot().blocks.contains { $0.cidr.length == 26 })
    #expect(try bench.problems() == [])
  }
}
