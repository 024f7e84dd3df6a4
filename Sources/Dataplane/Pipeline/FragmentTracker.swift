/// What is known of datagrams that pass in fragments: the ports that the first fragment told, and which octets have been
/// seen, so that overlaps are found (TUN-8; RFC 5722). Nothing is put together here. Bounded; the oldest gives way.
struct FragmentTracker: ~Copyable {
  struct Entry: BitwiseCopyable {
    var identity: UInt64
    /// The second when the entry is forgotten; 0: free.
    var deadline: UInt32
    var hasFirst: Bool
    /// An overlap was seen: every further fragment is dropped.
    var isPoisoned: Bool
    var ports: UInt32
    var transport: UInt8
    var flags: UInt8
    /// The length of the whole datagram's payload; 0: not known yet.
    var total: UInt32
    /// The octets that have passed, and how far they reach.
    var passed: UInt32
    var reach: UInt32
  }

  private static var count: Int { 1024 }
  private static var ways: Int { 4 }
  /// One bit for each eight octets of 64 KiB.
  private static var words: Int { 128 }
  /// Seconds that a datagram is remembered from its first fragment on.
  var lifetime: UInt32 = 30

  /// Datagrams that gave way to others before their time.
  private(set) var evicted: UInt64 = 0

  private let entries = Memory<Entry>(count: FragmentTracker.count)
  private let seen = Memory<UInt64>(count: FragmentTracker.count * FragmentTracker.words)

  /// How full the table is.
  func use(second: UInt32) -> TableUse {
    TableUse(
      .fragments, (0..<entries.count).count { entries[$0].deadline > second }, of: entries.count,
      octets: entries.octets + seen.octets)
  }

  enum Verdict {
    /// Goes the way of its flow, whose ports are now in the tail.
    case follow
    /// The first fragment, now known.
    case first
    case wait
    case drop(DropReason)
  }

  /// Names a datagram: addresses, identification, protocol and zone.
  @inline(__always)
  static func identity(_ a: UInt64, _ b: UInt64, _ c: UInt64) -> UInt64 { mix(mix(a, b), c) | 1 }

  /// Takes a fragment into account. For a first fragment `tail` has the ports; for later ones they are put in.
  mutating func track(
    _ identity: UInt64, offset: Int, length: Int, more: Bool, _ tail: inout FlowKeyTail, second: UInt32
  ) -> Verdict {
    // All but the last are multiples of eight octets; none reaches beyond the longest datagram.
    guard length > 0, offset + length <= 65535, !more || length % 8 == 0 else { return .drop(.fragmentInvalid) }
    let place = find(identity, second: second)
    if entries[place].isPoisoned { return .drop(.fragmentOverlap) }
    let end = UInt32(offset + length)
    if entries[place].total != 0, end > entries[place].total || (!more && end != entries[place].total) {
      return .drop(.fragmentInvalid)
    }
    // The last one is not before others.
    if !more, end < entries[place].reach { return .drop(.fragmentInvalid) }
    if offset > 0, !entries[place].hasFirst { return .wait }
    guard mark(place, from: offset / 8, to: (offset + length + 7) / 8) else {
      entries[place].isPoisoned = true
      return .drop(.fragmentOverlap)
    }
    if !more { entries[place].total = end }
    entries[place].passed += UInt32(length)
    entries[place].reach = max(entries[place].reach, end)
    // A whole datagram is forgotten: a fast sender comes round to the same identification within the lifetime.
    if entries[place].passed == entries[place].total { entries[place].deadline = 0 }
    if offset == 0 {
      entries[place].hasFirst = true
      entries[place].ports = tail.ports
      entries[place].transport = tail.transport
      entries[place].flags = tail.flags
      return .first
    }
    tail.ports = entries[place].ports
    tail.transport = entries[place].transport
    tail.flags = entries[place].flags
    return .follow
  }

  private mutating func find(_ identity: UInt64, second: UInt32) -> Int {
    let first = Int(truncatingIfNeeded: identity >> 32) & (FragmentTracker.count - 1) & ~(FragmentTracker.ways - 1)
    var oldest = first
    for place in first..<first + FragmentTracker.ways {
      if entries[place].deadline > second, entries[place].identity == identity { return place }
      if entries[place].deadline < entries[oldest].deadline { oldest = place }
    }
    if entries[oldest].deadline > second { evicted &+= 1 }
    entries[oldest] = Entry(
      identity: identity, deadline: second &+ lifetime, hasFirst: false, isPoisoned: false, ports: 0,
      transport: 0, flags: 0, total: 0, passed: 0, reach: 0)
    for word in oldest * FragmentTracker.words..<(oldest + 1) * FragmentTracker.words { seen[word] = 0 }
    return oldest
  }

  /// Marks units of eight octets; false where one is marked already.
  private func mark(_ place: Int, from first: Int, to end: Int) -> Bool {
    let base = place * FragmentTracker.words
    for unit in first..<end {
      let bit = UInt64(1) << UInt64(unit & 63)
      if seen[base + unit >> 6] & bit != 0 { return false }
      seen[base + unit >> 6] |= bit
    }
    return true
  }
}
