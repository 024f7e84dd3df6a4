import Addresses

/// Which endpoint a client's connections to a service port go to (KP-50). Bounded: eight places to a bucket, of which
/// the one that ends first gives way. 24 octets an entry.
struct AffinityTable: ~Copyable {
  struct Entry: BitwiseCopyable {
    var client: UInt64
    var service: ServiceIndex
    var backend: BackendIndex
    var generation: UInt32
    /// The second when it ends; 0: free.
    var until: UInt32
  }

  private static var ways: Int { 8 }
  private var entries: Memory<Entry>
  private var isEmpty = true
  private let mask: Int
  /// Entries that gave way to others before their time.
  private(set) var evicted: UInt64 = 0

  /// Room for `limit` clients.
  init(limit: Int) {
    let size = max(64, limit.nextPowerOfTwo)
    entries = Memory(count: size)
    mask = size / AffinityTable.ways - 1
  }

  /// How full the table is. Of a large one a part is counted: entries are spread by their hash.
  func use(second: UInt32) -> TableUse {
    let part = min(entries.count, 1 << 16)
    let live = (0..<part).count { entries[$0].until > second }
    return TableUse(.affinity, live * (entries.count / part), of: entries.count, octets: entries.octets)
  }

  mutating func removeAll() {
    if !isEmpty { entries = Memory(count: entries.count) }
    isEmpty = true
  }

  private func name(_ client: IPAddress, _ service: ServiceIndex) -> UInt64 {
    switch client {
    case .v4(let a): mix(UInt64(a.rawValue), UInt64(service) | 4 << 40) | 1
    case .v6(let a): mix(mix(a.high, a.low), UInt64(service) | 6 << 40) | 1
    }
  }

  func find(
    _ client: IPAddress, _ service: ServiceIndex, second: UInt32
  ) -> (backend: BackendIndex, generation: UInt32)? {
    let name = name(client, service)
    let first = (Int(truncatingIfNeeded: name >> 20) & mask) * AffinityTable.ways
    for place in first..<first + AffinityTable.ways {
      let entry = entries[place]
      if entry.client == name, entry.service == service, entry.until > second {
        return (entry.backend, entry.generation)
      }
    }
    return nil
  }

  /// Enters a choice, or makes it last longer.
  mutating func store(
    _ client: IPAddress, _ service: ServiceIndex, _ backend: BackendIndex, _ generation: UInt32, second: UInt32,
    timeout: UInt32
  ) {
    let name = name(client, service)
    let first = (Int(truncatingIfNeeded: name >> 20) & mask) * AffinityTable.ways
    var best = first
    for place in first..<first + AffinityTable.ways {
      if entries[place].client == name, entries[place].service == service {
        best = place
        break
      }
      if entries[place].until < entries[best].until { best = place }
    }
    if entries[best].until > second, entries[best].client != name { evicted &+= 1 }
    isEmpty = false
    entries[best] = Entry(
      client: name, service: service, backend: backend, generation: generation, until: second &+ timeout)
  }
}
