import Addresses

/// One direction of a flow: its key and all that its packets need, in whole cache lines: one for IPv4, two for IPv6.
struct FlowSlot<Key: FlowKey>: BitwiseCopyable {
  var key: Key
  var connection: ConnectionIndex
  /// Seconds of the pipeline's clock.
  var lastSeen: UInt32
  /// The tables' epoch in which `hop` was last known to be right.
  var epoch: UInt32
  var hop: HopIndex
  /// From the lowest bit on: packets (48), whether the direction is the answers' (bit 48), whether `rewrite` changes
  /// anything (bit 56).
  private(set) var tally: UInt64
  var octets: UInt64
  var rewrite = Key.Rewrite.none
  private var padding: Key.Padding = Key.padding

  /// A direction without packets. `hop` 0: its way is not decided.
  @inline(__always)
  init(key: Key, connection: ConnectionIndex, isReply: Bool, hop: HopIndex, epoch: UInt32, second: UInt32) {
    self.key = key
    self.connection = connection
    tally = isReply ? 1 << 48 : 0
    self.epoch = hop == 0 ? 0 : epoch
    self.hop = hop
    lastSeen = second
    octets = 0
  }

  private static var packetsMask: UInt64 { (1 << 48) - 1 }

  var packets: UInt64 {
    @inline(__always) get { tally & FlowSlot.packetsMask }
  }

  var isReply: Bool {
    @inline(__always) get { tally & 1 << 48 != 0 }
  }

  /// Whether `rewrite` changes anything.
  var rewrites: Bool {
    @inline(__always) get { tally & 1 << 56 != 0 }
    @inline(__always) set { tally = tally & ~(1 << 56) | (newValue ? 1 << 56 : 0) }
  }

  mutating func resetCounts() {
    octets = 0
    tally &= ~FlowSlot.packetsMask
  }

  /// Counts a packet.
  @inline(__always)
  mutating func count(octets length: Int, second: UInt32) {
    lastSeen = second
    octets &+= UInt64(length)
    tally &+= 1
  }

  /// Counts packets that somebody else carried.
  mutating func add(packets number: UInt64, octets length: UInt64) {
    octets &+= length
    tally = tally & ~FlowSlot.packetsMask | (packets &+ number) & FlowSlot.packetsMask
  }

  /// Where packets go after the rewrite.
  var routedAddress: IPAddress { rewrites ? rewrite.destinationAddress : key.destinationAddress }
}

/// The flow table: both directions of every flow, by exact key. Open addressing with linear probing, at most half full, and
/// a quarter while it is small, so that most keys are where they are looked for first; the slot itself holds what the
/// packet needs, so that a hit costs one memory access.
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

  /// The slots of a table that is no longer small: 64 MiB of IPv4 flows, 128 of IPv6.
  private static var spacious: Int { 1 << 20 }

  var isFull: Bool { count + 2 > limit }
  var octets: Int { slots.octets }
  var capacity: Int { mask + 1 }

  @inline(__always)
  func prefetch(_ hash: UInt64) { view.prefetch(hash) }

  /// The position of a key; -1 where it is not in the table.
  @inline(__always)
  func find(_ key: Key, _ hash: UInt64) -> Int { view.find(key, hash) }

  /// See `MemoryView`.
  var view: FlowTableView<Key> {
    @inline(__always) get { FlowTableView(slots: slots.view, mask: mask) }
  }

  /// Adds a slot, whose key must not be in the table and has this hash. Positions known before are void.
  @inline(__always)
  mutating func insert(_ slot: FlowSlot<Key>, _ hash: UInt64) {
    if (count + 1) * 2 > capacity || capacity < FlowTable.spacious && (count + 1) * 4 > capacity { grow() }
    count += 1
    view.place(slot, hash)
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
      if !old[position].key.isFree { view.place(old[position], old[position].key.hash) }
      if (position + 1) % step == 0 { old.discard(position + 1 - step..<position + 1) }
    }
  }
}

/// The flow table for a loop that looks flows up and counts their packets: see `MemoryView`.
struct FlowTableView<Key: FlowKey>: BitwiseCopyable {
  let slots: MemoryView<FlowSlot<Key>>
  fileprivate let mask: Int

  @inline(__always)
  func prefetch(_ hash: UInt64) { slots.prefetch(Int(truncatingIfNeeded: hash) & mask) }

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

  /// Writes a slot into the first free place.
  @inline(__always)
  fileprivate func place(_ slot: FlowSlot<Key>, _ hash: UInt64) {
    var position = Int(truncatingIfNeeded: hash) & mask
    while !slots[position].key.isFree { position = (position + 1) & mask }
    slots[position] = slot
  }
}
