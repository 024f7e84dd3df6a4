import Addresses

/// One direction of a flow: its key and all that its packets need, in whole cache lines: one for IPv4, two for IPv6.
struct FlowSlot<Key: FlowKey>: BitwiseCopyable {
  var key: Key
  /// The tables' epoch in which `hop` was last known to be right.
  var epoch: UInt32
  var hop: HopIndex
  var connection: ConnectionIndex
  /// Seconds of the pipeline's clock.
  var lastSeen: UInt32
  var octets: UInt64
  private(set) var packetsLow: UInt32 = 0
  private var packetsHigh: UInt16 = 0
  var isReply: Bool
  /// Whether `rewrite` changes anything.
  var rewrites = false
  var rewrite = Key.Rewrite.none
  private var padding: Key.Padding = Key.padding

  init(key: Key, connection: ConnectionIndex, isReply: Bool) {
    self.key = key
    self.connection = connection
    self.isReply = isReply
    epoch = 0
    hop = 0
    lastSeen = 0
    octets = 0
  }

  var packets: UInt64 { UInt64(packetsHigh) << 32 | UInt64(packetsLow) }

  mutating func resetCounts() {
    octets = 0
    packetsLow = 0
    packetsHigh = 0
  }

  @inline(__always)
  mutating func count(octets length: UInt32) {
    octets &+= UInt64(length)
    packetsLow &+= 1
    if packetsLow == 0 { packetsHigh &+= 1 }
  }

  /// Counts packets that somebody else carried.
  mutating func add(packets number: UInt64, octets length: UInt64) {
    octets &+= length
    let sum = packets &+ number
    packetsLow = UInt32(truncatingIfNeeded: sum)
    packetsHigh = UInt16(truncatingIfNeeded: sum >> 32)
  }

  /// Counts a packet that is neither the first nor one that carries over: see `packetsLow`.
  @inline(__always)
  mutating func countPlain(octets length: UInt32, second: UInt32) {
    lastSeen = second
    octets &+= UInt64(length)
    packetsLow &+= 1
  }

  /// Where packets go after the rewrite.
  var routedAddress: IPAddress { rewrites ? rewrite.destinationAddress : key.destinationAddress }
}

/// The flow table: both directions of every flow, by exact key. Open addressing with linear probing, at most half full;
/// the slot itself holds what the packet needs, so that a hit costs one memory access.
struct FlowTable<Key: FlowKey>: ~Copyable {
  private(set) var slots: Memory<FlowSlot<Key>>
  private var mask: Int
  private(set) var count = 0
  /// The most slots that may be in use.
  let limit: Int

  /// A table that starts small and grows to hold `limit` directions.
  init(limit: Int) {
    self.limit = limit
    let size = min(4096, max(64, (limit * 2).nextPowerOfTwo))
    slots = Memory(count: size)
    mask = size - 1
  }

  /// Whether the slots in use are a small part of a core's second-level cache, so that waiting for one costs less than
  /// coming back.
  var isSmall: Bool {
    @inline(__always) get { count <= 1 << 13 }
  }

  var isFull: Bool { count + 2 > limit }
  var octets: Int { slots.octets }
  var capacity: Int { mask + 1 }

  @inline(__always)
  func prefetch(_ hash: UInt64) { slots.prefetch(Int(truncatingIfNeeded: hash) & mask) }

  /// The position of a key; -1 where it is not in the table.
  @inline(__always)
  func find(_ key: Key, _ hash: UInt64) -> Int {
    var position = Int(truncatingIfNeeded: hash) & mask
    while true {
      let candidate = slots[position].key
      if candidate == key { return position }
      if candidate.isFree { return -1 }
      position = (position + 1) & mask
    }
  }

  /// Adds a slot, whose key must not be in the table, and returns its position. Positions known before are void.
  mutating func insert(_ slot: FlowSlot<Key>) -> Int {
    if (count + 1) * 2 > capacity { grow() }
    count += 1
    return place(slot)
  }

  private func place(_ slot: FlowSlot<Key>) -> Int {
    var position = Int(truncatingIfNeeded: slot.key.hash) & mask
    while !slots[position].key.isFree { position = (position + 1) & mask }
    slots[position] = slot
    return position
  }

  /// Takes a key out and returns what its slot held; positions known before are void.
  @discardableResult
  mutating func remove(_ key: Key) -> FlowSlot<Key>? {
    var hole = find(key, key.hash)
    guard hole >= 0 else { return nil }
    let removed = slots[hole]
    count -= 1
    var position = hole
    while true {
      position = (position + 1) & mask
      let candidate = slots[position].key
      if candidate.isFree { break }
      let home = Int(truncatingIfNeeded: candidate.hash) & mask
      if (position - home) & mask >= (position - hole) & mask {
        slots[hole] = slots[position]
        hole = position
      }
    }
    slots[hole].key = .free
    return removed
  }

  /// Doubles the table. What has moved is given back to the kernel on the way, and what is new takes memory only as it is
  /// filled, in the same order: never more than the doubled table is in use.
  private mutating func grow() {
    let old = exchange(&slots, with: Memory(count: capacity * 2))
    mask = mask * 2 + 1
    let step = (2 << 20) / MemoryLayout<FlowSlot<Key>>.stride
    for position in 0..<old.count {
      if !old[position].key.isFree { _ = place(old[position]) }
      if (position + 1) % step == 0 { old.discard(position + 1 - step..<position + 1) }
    }
  }
}
