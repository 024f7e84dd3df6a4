import Addresses

/// A hash table from (address, tag) to a number. The tag tells families and prefix lengths apart, so that one table
/// serves hosts and prefixes. Linear probing, at most a quarter full, so that most keys are where they are looked for first;
/// growing by doubling.
struct AddressTable: ~Copyable {
  struct Slot: BitwiseCopyable {
    var high: UInt64
    var low: UInt64
    /// The tag plus one; 0 marks a free slot.
    var tag: UInt32
    var value: UInt32
  }

  private var slots: Memory<Slot>
  private var mask: Int
  private(set) var count = 0
  var octets: Int { slots.octets }
  /// The entries that there is room for before the table grows.
  var capacity: Int { (mask + 1) / 4 }

  init(capacity: Int = 32) {
    let size = max(64, (capacity * 4).nextPowerOfTwo)
    slots = Memory(count: size)
    mask = size - 1
  }

  @inline(__always)
  private func home(_ high: UInt64, _ low: UInt64, _ tag: UInt32) -> Int { view.home(high, low, tag) }

  /// The value of a key; nil where there is none.
  @inline(__always)
  func find(_ high: UInt64, _ low: UInt64, tag: UInt32) -> UInt32? { view.find(high, low, tag: tag) }

  /// See `MemoryView`.
  var view: AddressTableView {
    @inline(__always) get { AddressTableView(slots: slots.view, mask: mask) }
  }

  /// Sets the value of a key.
  mutating func insert(_ high: UInt64, _ low: UInt64, tag: UInt32, value: UInt32) {
    if (count + 1) * 4 > mask + 1 { grow() }
    var position = home(high, low, tag + 1)
    while slots[position].tag != 0 {
      if slots[position].low == low && slots[position].high == high && slots[position].tag == tag + 1 {
        slots[position].value = value
        return
      }
      position = (position + 1) & mask
    }
    slots[position] = Slot(high: high, low: low, tag: tag + 1, value: value)
    count += 1
  }

  /// Takes a key out. What stood behind it in its run moves up, so that no tombstone is left.
  mutating func remove(_ high: UInt64, _ low: UInt64, tag: UInt32) {
    var hole = home(high, low, tag + 1)
    while true {
      let slot = slots[hole]
      if slot.tag == 0 { return }
      if slot.low == low && slot.high == high && slot.tag == tag + 1 { break }
      hole = (hole + 1) & mask
    }
    count -= 1
    var position = hole
    while true {
      position = (position + 1) & mask
      let slot = slots[position]
      if slot.tag == 0 { break }
      let distance = (position - home(slot.high, slot.low, slot.tag)) & mask
      if distance >= (position - hole) & mask {
        slots[hole] = slot
        hole = position
      }
    }
    slots[hole].tag = 0
  }

  /// Hands every entry to `body`, in no order.
  func visit(_ body: (_ high: UInt64, _ low: UInt64, _ tag: UInt32, _ value: UInt32) -> Void) {
    for position in 0...mask where slots[position].tag != 0 {
      let slot = slots[position]
      body(slot.high, slot.low, slot.tag - 1, slot.value)
    }
  }

  private mutating func grow() {
    var bigger = AddressTable(capacity: (mask + 1) / 2)
    for position in 0...mask where slots[position].tag != 0 {
      let slot = slots[position]
      bigger.insert(slot.high, slot.low, tag: slot.tag - 1, value: slot.value)
    }
    self = bigger
  }
}

/// The table for a loop that looks addresses up: see `MemoryView`.
struct AddressTableView: BitwiseCopyable {
  fileprivate let slots: MemoryView<AddressTable.Slot>
  fileprivate let mask: Int

  @inline(__always)
  fileprivate func home(_ high: UInt64, _ low: UInt64, _ tag: UInt32) -> Int {
    Int(truncatingIfNeeded: mix(high ^ UInt64(tag) << 32, low)) & mask
  }

  /// Asks for the place of a key.
  @inline(__always)
  func prefetch(_ high: UInt64, _ low: UInt64, tag: UInt32) { slots.prefetch(home(high, low, tag &+ 1)) }

  /// The value of a key; nil where there is none.
  @inline(__always)
  func find(_ high: UInt64, _ low: UInt64, tag: UInt32) -> UInt32? {
    var position = home(high, low, tag &+ 1)
    while true {
      let slot = slots[position]
      if slot.tag == 0 { return nil }
      if slot.low == low && slot.high == high && slot.tag == tag &+ 1 { return slot.value }
      position = (position + 1) & mask
    }
  }
}

extension AddressTableView {
  /// The value of an address; nil where there is none.
  @inline(__always)
  func find(_ address: IPAddress) -> UInt32? {
    switch address {
    case .v4(let a): find(0, UInt64(a.rawValue), tag: AddressTable.tagV4)
    case .v6(let a): find(a.high, a.low, tag: AddressTable.tagV6)
    }
  }
}

extension AddressTable {
  fileprivate static var tagV4: UInt32 { 0x400 }
  fileprivate static var tagV6: UInt32 { 0x600 }

  @inline(__always)
  func find(_ address: IPv4Address) -> UInt32? { find(0, UInt64(address.rawValue), tag: AddressTable.tagV4) }

  @inline(__always)
  func find(_ address: IPv6Address) -> UInt32? { find(address.high, address.low, tag: AddressTable.tagV6) }

  /// The addresses, sorted, where the entries are those of the functions below.
  var addresses: [IPAddress] {
    var list: [IPAddress] = []
    visit { high, low, tag, _ in
      list.append(
        tag == AddressTable.tagV4
          ? .v4(IPv4Address(rawValue: UInt32(truncatingIfNeeded: low))) : .v6(IPv6Address(high: high, low: low)))
    }
    return list.sorted()
  }

  @inline(__always)
  func find(_ address: IPAddress) -> UInt32? { view.find(address) }

  mutating func insert(_ address: IPAddress, value: UInt32) {
    switch address {
    case .v4(let a): insert(0, UInt64(a.rawValue), tag: AddressTable.tagV4, value: value)
    case .v6(let a): insert(a.high, a.low, tag: AddressTable.tagV6, value: value)
    }
  }

  mutating func remove(_ address: IPAddress) {
    switch address {
    case .v4(let a): remove(0, UInt64(a.rawValue), tag: AddressTable.tagV4)
    case .v6(let a): remove(a.high, a.low, tag: AddressTable.tagV6)
    }
  }
}

extension Int {
  /// The least power of two that is not less than this number.
  var nextPowerOfTwo: Int { self <= 1 ? 1 : 1 << (Int.bitWidth - (self - 1).leadingZeroBitCount) }
}
