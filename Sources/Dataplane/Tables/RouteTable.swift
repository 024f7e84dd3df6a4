import Addresses

/// The place of a route in the route table. 0 is no route.
public typealias RouteIndex = UInt32
/// The place of a next hop in the hop table. 0 is no hop.
public typealias HopIndex = UInt32

/// What to do with packets to a prefix.
public enum RouteAction: UInt8, Sendable {
  /// Send by one of the next hops.
  case forward
  /// The address is the node's own: hand to the host.
  case local
  /// Drop without a word (NODE-7: the node's own blocks, where no pod has the address).
  case blackhole
  /// Drop and tell the sender that the host is unreachable.
  case unreachable
}

/// A route: a prefix and where its packets go.
public struct Route: Sendable, Equatable {
  public var prefix: IPPrefix
  public var action: RouteAction
  /// The next hops; a flow stays with one of them, chosen by its hash.
  public var hops: [HopIndex]

  public init(_ prefix: IPPrefix, _ action: RouteAction = .forward, hops: [HopIndex] = []) {
    self.prefix = prefix
    self.action = action
    self.hops = hops
  }
}

/// What the packet path knows of a route. The generation counts changes of what packets that match it should do.
struct RouteRecord: BitwiseCopyable {
  var generation: UInt32
  var firstHop: HopIndex
  /// Where the other hops are listed, if there are several.
  var group: UInt32
  var hopCount: UInt16
  var groupCapacity: UInt16
  var length: UInt8
  var action: RouteAction.RawValue
}

/// Longest-prefix routes of both families. Look-up takes a number of memory accesses that does not grow with the number
/// of routes: at most three for IPv4; for IPv6 one hash probe per prefix length in use.
///
/// A change bumps the generation of just the routes whose packets may now go elsewhere.
struct RouteTable: ~Copyable {
  private(set) var records = Memory<RouteRecord>(count: 1024)
  private var recordCount = 1
  private var free: [RouteIndex] = []
  private var groups = Memory<HopIndex>(count: 1024)
  private var groupCount = 1
  private var v4 = RouteTrie4()
  private var v6 = AddressTable()
  private var lengths6 = PrefixLengths()
  private var lengthCounts6 = [Int](repeating: 0, count: 129)
  /// What the control side knows; the packet path reads the structures above.
  private var routes: [IPPrefix: RouteIndex] = [:]
  private var prefixes: [IPPrefix?] = [nil]

  var count: Int { routes.count }

  @inline(__always)
  func lookup(_ address: IPv4Address) -> RouteIndex { v4.lookup(address) }

  @inline(__always)
  func lookup(_ address: IPv6Address) -> RouteIndex {
    var remaining = lengths6
    while let length = remaining.popLongest() {
      let masked = address.masked(length)
      if let route = v6.find(masked.high, masked.low, tag: UInt32(length)) { return route }
    }
    return 0
  }

  @inline(__always)
  func lookup(_ address: IPAddress) -> RouteIndex {
    switch address {
    case .v4(let a): lookup(a)
    case .v6(let a): lookup(a)
    }
  }

  /// The hop of a flow with this hash; 0 where the route has none.
  @inline(__always)
  func hop(of route: RouteIndex, hash: UInt64) -> HopIndex {
    let record = records[Int(route)]
    if record.hopCount <= 1 { return record.firstHop }
    let choice = Int(truncatingIfNeeded: (hash >> 32).multipliedFullWidth(by: UInt64(record.hopCount) << 32).high)
    return groups[Int(record.group) + choice]
  }

  /// The prefix of a route, for display.
  func prefix(of route: RouteIndex) -> IPPrefix? { Int(route) < prefixes.count ? prefixes[Int(route)] : nil }

  func contains(_ prefix: IPPrefix) -> Bool { routes[prefix] != nil }

  /// All prefixes that have a route.
  var allPrefixes: some Collection<IPPrefix> { routes.keys }

  /// The route that packets to all of `prefix` take that have no narrower one; 0: none.
  func route(to prefix: IPPrefix) -> RouteIndex { routes[prefix] ?? covering(prefix) }

  /// Adds a route, or changes the one with the same prefix.
  mutating func insert(_ route: Route) {
    let index: RouteIndex
    let known = routes[route.prefix]
    let isNew = known == nil
    if let known {
      index = known
    } else {
      index = allocate(route.prefix)
      routes[route.prefix] = index
      // Flows that were decided by the covering route may belong to this one now.
      touch(covering(route.prefix))
    }
    var record = records[Int(index)]
    record.generation &+= 1
    record.length = UInt8(route.prefix.length)
    record.action = route.action.rawValue
    record.firstHop = route.hops.first ?? 0
    if route.hops.count > 1 {
      if Int(record.groupCapacity) < route.hops.count {
        record.group = UInt32(groupCount)
        record.groupCapacity = UInt16(route.hops.count)
        groupCount += route.hops.count
        if groupCount > groups.count { groups.grow(to: groupCount * 2) }
      }
      for (offset, hop) in route.hops.enumerated() { groups[Int(record.group) + offset] = hop }
    }
    record.hopCount = UInt16(route.hops.count)
    records[Int(index)] = record
    switch route.prefix {
    case .v4(let prefix): v4.insert(prefix, index, records: records)
    case .v6(let prefix):
      v6.insert(prefix.address.high, prefix.address.low, tag: UInt32(prefix.length), value: index)
      if isNew {
        lengthCounts6[prefix.length] += 1
        lengths6.set(prefix.length, true)
      }
    }
  }

  /// Takes a route out; unknown prefixes are ignored.
  mutating func remove(_ prefix: IPPrefix) {
    guard let index = routes.removeValue(forKey: prefix) else { return }
    switch prefix {
    case .v4(let p): v4.remove(p, index, parent: covering(prefix))
    case .v6(let p):
      v6.remove(p.address.high, p.address.low, tag: UInt32(p.length))
      lengthCounts6[p.length] -= 1
      lengths6.set(p.length, lengthCounts6[p.length] > 0)
    }
    records[Int(index)].generation &+= 1
    records[Int(index)].hopCount = 0
    records[Int(index)].firstHop = 0
    prefixes[Int(index)] = nil
    free.append(index)
  }

  /// The route that packets to `prefix` take where `prefix` itself has none.
  private func covering(_ prefix: IPPrefix) -> RouteIndex {
    for length in stride(from: prefix.length - 1, through: 0, by: -1) {
      if let wider = IPPrefix(prefix.address, length: length), let route = routes[wider] { return route }
    }
    return 0
  }

  private mutating func touch(_ route: RouteIndex) {
    records[Int(route)].generation &+= 1
  }

  private mutating func allocate(_ prefix: IPPrefix) -> RouteIndex {
    if let index = free.popLast() {
      prefixes[Int(index)] = prefix
      return index
    }
    let index = RouteIndex(recordCount)
    recordCount += 1
    if recordCount > records.count { records.grow(to: recordCount * 2) }
    prefixes.append(prefix)
    return index
  }
}

/// The IPv6 prefix lengths in use, longest first.
struct PrefixLengths: BitwiseCopyable {
  private var counts: (UInt64, UInt64, UInt64) = (0, 0, 0)

  /// Takes the longest length out of this copy.
  @inline(__always)
  mutating func popLongest() -> Int? {
    if counts.2 != 0 {
      counts.2 = 0
      return 128
    }
    if counts.1 != 0 {
      let bit = 63 - counts.1.leadingZeroBitCount
      counts.1 &= ~(1 << UInt64(bit))
      return 64 + bit
    }
    if counts.0 != 0 {
      let bit = 63 - counts.0.leadingZeroBitCount
      counts.0 &= ~(1 << UInt64(bit))
      return bit
    }
    return nil
  }

  mutating func set(_ length: Int, _ used: Bool) {
    let bit = UInt64(1) << UInt64(length & 63)
    switch length >> 6 {
    case 0: counts.0 = used ? counts.0 | bit : counts.0 & ~bit
    case 1: counts.1 = used ? counts.1 | bit : counts.1 & ~bit
    default: counts.2 = used ? 1 : 0
    }
  }
}
