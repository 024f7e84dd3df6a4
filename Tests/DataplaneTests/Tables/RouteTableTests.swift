import Addresses
import Testing

@testable import Dataplane

/// Longest-prefix match against the plainest there is: all routes, the longest that contains the address.
@Suite struct RouteTableTests {
  struct Reference {
    var routes: [IPPrefix: [HopIndex]] = [:]

    func lookup(_ address: IPAddress) -> IPPrefix? {
      routes.keys.filter { $0.contains(address) }.max { $0.length < $1.length }
    }
  }

  private func randomPrefix(_ family: IPFamily, _ random: inout SeededGenerator) -> IPPrefix {
    if family == .ipv4 {
      // Few bits that differ, so that prefixes cover each other and share groups.
      let address = IPv4Address(
        [10, 10, 10, 172, 0, 255].randomElement(using: &random)!, [0, 1, 244].randomElement(using: &random)!,
        UInt8.random(in: 0...3, using: &random), UInt8.random(in: 0...255, using: &random))
      let length = [0, 1, 4, 7, 8, 9, 12, 16, 20, 23, 24, 25, 26, 28, 30, 31, 32].randomElement(using: &random)!
      return IPPrefix(.v4(address), length: length)!
    }
    let address = IPv6Address(
      high: [0xfd00_0001_0000_0000, 0xfd00_0001_0000_00ff, 0x2001_0db8_0000_0001].randomElement(using: &random)!
        | UInt64.random(in: 0...3, using: &random),
      low: UInt64.random(in: 0...255, using: &random) << (random.next() % 2 == 0 ? 0 : 56))
    let length = [0, 1, 16, 32, 48, 63, 64, 65, 96, 120, 126, 127, 128].randomElement(using: &random)!
    return IPPrefix(.v6(address), length: length)!
  }

  private func randomAddress(near prefix: IPPrefix, _ random: inout SeededGenerator) -> IPAddress {
    switch prefix {
    case .v4(let p):
      let host = UInt32(truncatingIfNeeded: random.next()) & ~IPv4Prefix.mask(p.length)
      return .v4(IPv4Address(rawValue: p.address.rawValue | host))
    case .v6(let p):
      let noise = IPv6Address(high: random.next(), low: random.next())
      let kept = noise.masked(p.length)
      return .v6(
        IPv6Address(high: p.address.high | noise.high ^ kept.high, low: p.address.low | noise.low ^ kept.low))
    }
  }

  @Test("look-ups agree with a linear search under random changes", arguments: [UInt64(1), 20_261_121, 77])
  func agreesWithLinearSearch(_ seed: UInt64) {
    var random = SeededGenerator(seed)
    var table = RouteTable()
    var reference = Reference()
    for step in 0..<700 {
      let family: IPFamily = random.next() % 2 == 0 ? .ipv4 : .ipv6
      let prefix = randomPrefix(family, &random)
      if random.next() % 5 < 2 {
        // Mostly one that is there.
        let victim =
          random.next() % 8 == 0
          ? prefix
          : reference.routes.keys.sorted { $0.description < $1.description }.randomElement(using: &random) ?? prefix
        table.remove(victim)
        reference.routes[victim] = nil
      } else {
        let hops = (0..<Int.random(in: 1...4, using: &random)).map { _ in
          HopIndex.random(in: 1...1000, using: &random) * 2
        }
        table.insert(Route(prefix, hops: hops))
        reference.routes[prefix] = hops
      }
      #expect(table.count == reference.routes.count)
      for _ in 0..<12 {
        let near = random.next() % 2 == 0 ? prefix : randomPrefix(family, &random)
        let address = randomAddress(near: near, &random)
        let expected = reference.lookup(address)
        let route = table.lookup(address)
        guard table.prefix(of: route) == expected else {
          Issue.record(
            "seed \(seed), step \(step): \(address) → \(String(describing: table.prefix(of: route))), not \(String(describing: expected))"
          )
          return
        }
        guard let expected else { continue }
        let hops = reference.routes[expected]!
        let hash = random.next()
        guard hops.contains(table.hop(of: route, hash: hash)) else {
          Issue.record("seed \(seed), step \(step): hop \(table.hop(of: route, hash: hash)) of \(hops)")
          return
        }
      }
    }
  }

  @Test(
    "a change moves the generations of the routes whose packets may go elsewhere, and of no other",
    arguments: [UInt64(5), 6])
  func generations(_ seed: UInt64) {
    var random = SeededGenerator(seed)
    var table = RouteTable()
    var reference = Reference()
    /// The decision of an address: route and generation.
    func decisions(_ addresses: [IPAddress]) -> [(RouteIndex, UInt32)] {
      addresses.map { address in
        let route = table.lookup(address)
        return (route, table.records[Int(route)].generation)
      }
    }
    for step in 0..<500 {
      let family: IPFamily = random.next() % 2 == 0 ? .ipv4 : .ipv6
      let prefix = randomPrefix(family, &random)
      let addresses = (0..<8).map { _ in
        randomAddress(near: random.next() % 2 == 0 ? prefix : randomPrefix(family, &random), &random)
      }
      let before = decisions(addresses)
      let covering = addresses.map { reference.lookup($0) }
      let isNew = reference.routes[prefix] == nil
      // What covers the changed prefix without it.
      let parent = reference.routes.keys.filter { $0 != prefix && $0.contains(prefix) }.max { $0.length < $1.length }
      let removes = random.next() % 2 == 0
      if removes {
        table.remove(prefix)
        reference.routes[prefix] = nil
      } else {
        table.insert(Route(prefix, hops: [HopIndex(2 * step + 2)]))
        reference.routes[prefix] = [HopIndex(2 * step + 2)]
      }
      for ((address, old), was) in zip(zip(addresses, before), covering) {
        // A flow that was decided by `old` looks whether that route's generation is the same.
        let stale = table.records[Int(old.0)].generation != old.1
        let now = table.lookup(address)
        let moved = table.prefix(of: now) != was || !removes && was == prefix
        guard was != nil, old.0 != 0 else { continue }
        #expect(stale || !moved, "seed \(seed), step \(step): \(address) goes elsewhere and no flow would know")
        let mayBeTouched = was == prefix || isNew && !removes && was == parent
        #expect(
          !stale || mayBeTouched, "seed \(seed), step \(step): \(address), decided by \(was!), was touched by \(prefix)"
        )
      }
    }
  }

  @Test("flows spread over several hops by their hash, and a shrinking group leaves none behind")
  func hops() {
    var table = RouteTable()
    let prefix = IPPrefix("10.0.0.0/8")!
    for hops in [[2, 4, 6], [8], [2, 4, 6, 8, 10], [], [12, 14]] as [[HopIndex]] {
      table.insert(Route(prefix, hops: hops))
      let route = table.lookup(IPv4Address(10, 1, 2, 3))
      var random = SeededGenerator(9)
      var seen: [HopIndex: Int] = [:]
      for _ in 0..<10_000 { seen[table.hop(of: route, hash: random.next()), default: 0] += 1 }
      #expect(Set(seen.keys) == Set(hops.isEmpty ? [0] : hops))
      #expect(seen.values.allSatisfy { abs($0 - 10_000 / max(hops.count, 1)) < 400 })
    }
  }

  @Test("twenty thousand routes, each found, and none left when they are taken out")
  func many() {
    var table = RouteTable()
    func prefix(_ number: Int) -> IPPrefix {
      number % 2 == 0
        ? IPPrefix(.v4(IPv4Address(rawValue: 0x0b00_0000 + UInt32(number) << 3)), length: 29)!
        : IPPrefix(.v6(IPv6Address(high: 0xfd00_0000_0000_0000 | UInt64(number) << 8, low: 0)), length: 56)!
    }
    for number in 0..<20_000 { table.insert(Route(prefix(number), hops: [HopIndex(number * 2 + 2)])) }
    var wrong = 0
    for number in 0..<20_000 {
      let route = table.lookup(prefix(number).address)
      if table.hop(of: route, hash: 0) != HopIndex(number * 2 + 2) { wrong += 1 }
    }
    #expect(wrong == 0)
    #expect(table.count == 20_000)
    for number in 0..<20_000 { table.remove(prefix(number)) }
    #expect(table.count == 0)
    for number in stride(from: 0, to: 20_000, by: 97) { #expect(table.lookup(prefix(number).address) == 0) }
  }
}
