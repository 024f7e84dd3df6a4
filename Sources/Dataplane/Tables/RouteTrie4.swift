import Addresses

/// Longest-prefix match for IPv4 in at most three memory accesses, whatever the number of routes (the DIR-24-8 scheme
/// with a short table in front): prefixes of up to 8 bits are in `short`, of up to 24 in `middle`, longer ones in groups
/// of 256 that `middle` points to.
struct RouteTrie4: ~Copyable {
  private static var pointer: UInt32 { 1 << 31 }

  private let short = Memory<UInt32>(count: 256)
  /// 64 MiB of address space; only pages that a route touches exist.
  private let middle = Memory<UInt32>(count: 1 << 24)
  private var groups = Memory<UInt32>(count: 256 * 16)
  private var groupCount = 0
  private var freeGroups: [UInt32] = []

  @inline(__always)
  func lookup(_ address: IPv4Address) -> RouteIndex {
    let entry = middle[Int(address.rawValue >> 8)]
    if entry & RouteTrie4.pointer != 0 {
      let route = groups[Int(entry & ~RouteTrie4.pointer) << 8 | Int(address.rawValue & 0xff)]
      if route != 0 { return route }
    } else if entry != 0 {
      return entry
    }
    return short[Int(address.rawValue >> 24)]
  }

  /// Puts `route` wherever no longer prefix stands.
  mutating func insert(_ prefix: IPv4Prefix, _ route: RouteIndex, records: borrowing Memory<RouteRecord>) {
    let length = UInt8(prefix.length)
    replace(prefix, with: route) { old in old == 0 || records[Int(old)].length <= length }
  }

  /// Puts `parent`, the covering route, wherever `route` stood.
  mutating func remove(_ prefix: IPv4Prefix, _ route: RouteIndex, parent: RouteIndex) {
    replace(prefix, with: prefix.length > 8 && isShort(parent, prefix) ? 0 : parent) { $0 == route }
    if prefix.length > 24 { collapse(Int(prefix.address.rawValue >> 8)) }
  }

  /// Whether the covering route is in the short table, and so needs no entry in the others.
  private func isShort(_ parent: RouteIndex, _ prefix: IPv4Prefix) -> Bool {
    short[Int(prefix.address.rawValue >> 24)] == parent
  }

  private mutating func replace(_ prefix: IPv4Prefix, with route: RouteIndex, where condition: (RouteIndex) -> Bool) {
    let address = prefix.address.rawValue
    if prefix.length <= 8 {
      let first = Int(address >> 24)
      for position in first..<first + 1 << (8 - prefix.length) where condition(short[position]) {
        short[position] = route
      }
      return
    }
    if prefix.length <= 24 {
      let first = Int(address >> 8)
      for position in first..<first + 1 << (24 - prefix.length) {
        let entry = middle[position]
        guard entry & RouteTrie4.pointer != 0 else {
          if condition(entry) { middle[position] = route }
          continue
        }
        let group = Int(entry & ~RouteTrie4.pointer) << 8
        for inner in group..<group + 256 where condition(groups[inner]) { groups[inner] = route }
      }
      return
    }
    let position = Int(address >> 8)
    if middle[position] & RouteTrie4.pointer == 0 {
      let group = split(middle[position])
      middle[position] = group
    }
    let first = Int(middle[position] & ~RouteTrie4.pointer) << 8 | Int(address & 0xff)
    for inner in first..<first + 1 << (32 - prefix.length) where condition(groups[inner]) { groups[inner] = route }
  }

  /// A group whose 256 entries are all `route`.
  private mutating func split(_ route: RouteIndex) -> UInt32 {
    let group = freeGroups.popLast() ?? UInt32(groupCount)
    if group == UInt32(groupCount) { groupCount += 1 }
    if groupCount * 256 > groups.count { groups.grow(to: groups.count * 2) }
    for inner in Int(group) << 8..<Int(group + 1) << 8 { groups[inner] = route }
    return group | RouteTrie4.pointer
  }

  /// Gives a group back when all its entries are the same.
  private mutating func collapse(_ position: Int) {
    let entry = middle[position]
    guard entry & RouteTrie4.pointer != 0 else { return }
    let group = Int(entry & ~RouteTrie4.pointer) << 8
    let route = groups[group]
    for inner in group..<group + 256 where groups[inner] != route { return }
    middle[position] = route
    freeGroups.append(UInt32(group >> 8))
  }
}
