import CDataplane

/// A fixed number of zeroed elements in pages of their own: what tables are made of.
///
/// `T` must be valid when all its bits are zero. Access is bounds-checked. All unsafe memory access of the tables is in
/// this file.
@safe
struct Memory<T: BitwiseCopyable>: ~Copyable {
  private(set) var base: UnsafeMutablePointer<T>
  private(set) var count: Int

  /// Maps `count` elements (at least one). Stops the program when the machine has no address space left for it.
  init(count: Int) {
    precondition(count >= 0 && count <= 1 << 40)
    self.count = max(count, 1)
    unsafe base = Memory.map(self.count)
  }

  deinit { unsafe kalsae_unmap(base, Memory.size(count)) }

  private static func size(_ count: Int) -> Int { (count * MemoryLayout<T>.stride + 4095) & ~4095 }

  private static func map(_ count: Int) -> UnsafeMutablePointer<T> {
    guard let raw = unsafe kalsae_map(size(count)) else {
      fatalError("out of memory: \(size(count)) octets for a table of \(T.self)")
    }
    return unsafe raw.bindMemory(to: T.self, capacity: count)
  }

  /// The memory that the pages span, in octets.
  var octets: Int { Memory.size(count) }

  subscript(_ index: Int) -> T {
    @inline(__always) get {
      precondition(index >= 0 && index < count)
      return unsafe base[index]
    }
    @inline(__always) nonmutating set {
      precondition(index >= 0 && index < count)
      unsafe base[index] = newValue
    }
    @inline(__always) nonmutating _modify {
      precondition(index >= 0 && index < count)
      yield unsafe &base[index]
    }
  }

  /// Makes room for `newCount` elements; the old ones stay, the new ones are zero.
  mutating func grow(to newCount: Int) {
    guard newCount > count else { return }
    guard let raw = unsafe kalsae_grow(base, Memory.size(count), Memory.size(newCount)) else {
      fatalError("out of memory: \(Memory.size(newCount)) octets for a table of \(T.self)")
    }
    unsafe base = raw.bindMemory(to: T.self, capacity: newCount)
    count = newCount
  }

  /// Gives the memory of elements back to the kernel, as far as it is whole pages: they are zero then.
  func discard(_ range: Range<Int>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= count)
    let stride = MemoryLayout<T>.stride
    let (first, end) = ((range.lowerBound * stride + 4095) & ~4095, range.upperBound * stride & ~4095)
    if first < end { unsafe kalsae_discard(UnsafeMutableRawPointer(base) + first, end - first) }
  }

  /// See `MemoryView`.
  @inline(__always)
  func prefetch(_ index: Int) { view.prefetch(index) }

  @inline(__always)
  func prefetchPair(_ index: Int) { view.prefetchPair(index) }

  /// The octets of one element.
  @inline(__always)
  @_lifetime(borrow self)
  func octets(of index: Int) -> Octets {
    precondition(index >= 0 && index < count)
    return unsafe _overrideLifetime(
      Octets(unsafe: UnsafeMutableRawPointer(base + index), count: MemoryLayout<T>.stride), borrowing: self)
  }
}

/// The elements of a `Memory` for a loop: where they are and how many, in values of their own, so that what the loop writes
/// elsewhere does not have them read again. Not to be kept: it is good as long as the memory is neither gone nor grown.
@safe
struct MemoryView<T: BitwiseCopyable>: BitwiseCopyable {
  fileprivate let base: UnsafeMutablePointer<T>
  let count: Int

  subscript(_ index: Int) -> T {
    @inline(__always) get {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: count))
      return unsafe base[index]
    }
    @inline(__always) nonmutating _modify {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: count))
      yield unsafe &base[index]
    }
  }

  /// Asks for the cache line of an element, which will be written. Not checked: asking for memory that is not there does
  /// nothing.
  @inline(__always)
  func prefetch(_ index: Int) {
    unsafe kalsae_prefetch_write(UnsafeRawPointer(base) + index &* MemoryLayout<T>.stride)
  }

  /// Asks for the cache line of an element and the next one, which will be read; not checked.
  @inline(__always)
  func prefetchPair(_ index: Int) {
    let element = unsafe UnsafeRawPointer(base) + index &* MemoryLayout<T>.stride
    unsafe kalsae_prefetch(element)
    unsafe kalsae_prefetch(element + 64)
  }
}

extension MemoryView {
  /// The elements, for C.
  @unsafe
  var pointer: UnsafeMutablePointer<T> { unsafe base }
}

extension Memory {
  /// See `MemoryView`.
  var view: MemoryView<T> {
    @inline(__always) get { unsafe MemoryView(base: base, count: count) }
  }
}

/// One element for each packet of a batch, at most `Core.batchLimit`: a number of elements that the compiler knows, so
/// that an index which is small by its type, or by the loop that it comes from, needs no check.
@safe
struct PerPacket<T: BitwiseCopyable>: ~Copyable {
  fileprivate let base: UnsafeMutablePointer<T>

  init() {
    guard let raw = unsafe kalsae_map(PerPacket.size) else { fatalError("out of memory for a batch of \(T.self)") }
    unsafe base = raw.bindMemory(to: T.self, capacity: Core.batchLimit)
  }

  deinit { unsafe kalsae_unmap(base, PerPacket.size) }

  private static var size: Int { (Core.batchLimit * MemoryLayout<T>.stride + 4095) & ~4095 }

  subscript(_ index: Int) -> T {
    @inline(__always) get {
      precondition(UInt(bitPattern: index) < UInt(Core.batchLimit))
      return unsafe base[index]
    }
    @inline(__always) nonmutating set {
      precondition(UInt(bitPattern: index) < UInt(Core.batchLimit))
      unsafe base[index] = newValue
    }
    @inline(__always) nonmutating _modify {
      precondition(UInt(bitPattern: index) < UInt(Core.batchLimit))
      yield unsafe &base[index]
    }
  }
}

/// The elements of a `PerPacket` for a loop: see `MemoryView`.
@safe
struct PerPacketView<T: BitwiseCopyable>: BitwiseCopyable {
  fileprivate let base: UnsafeMutablePointer<T>

  subscript(_ index: Int) -> T {
    @inline(__always) get {
      precondition(UInt(bitPattern: index) < UInt(Core.batchLimit))
      return unsafe base[index]
    }
    @inline(__always) nonmutating _modify {
      precondition(UInt(bitPattern: index) < UInt(Core.batchLimit))
      yield unsafe &base[index]
    }
  }
}

extension PerPacketView {
  /// The elements, for C.
  @unsafe
  var pointer: UnsafeMutablePointer<T> { unsafe base }
}

extension PerPacket {
  /// See `PerPacketView`.
  var view: PerPacketView<T> {
    @inline(__always) get { unsafe PerPacketView(base: base) }
  }
}

/// Eight words for each packet of a part of a batch, in columns that lie at fixed distances: a loop needs one address for
/// them all. Packets of different parts have the same places, so that these stay in the first-level cache.
@safe
struct PacketColumns: ~Copyable {
  private let base: UnsafeMutablePointer<UInt64>

  /// The packets of a part: see `Pipeline.process`. Parts begin at multiples of it.
  static var partLength: Int { Int(kalsae_part_length) }

  /// Where the part begins that a packet belongs to.
  @inline(__always)
  static func part(of index: Int) -> Int { index & ~(partLength &- 1) }

  init() {
    guard let raw = unsafe kalsae_map(PacketColumns.octets) else { fatalError("out of memory for a batch") }
    unsafe base = raw.bindMemory(to: UInt64.self, capacity: PacketColumns.octets / 8)
  }

  deinit { unsafe kalsae_unmap(base, PacketColumns.octets) }

  /// See `MemoryView`.
  var view: View {
    @inline(__always) get { unsafe View(base: base) }
  }

  @safe
  struct View: BitwiseCopyable {
    fileprivate let base: UnsafeMutablePointer<UInt64>

    /// The word of a packet in column 0 to 7.
    subscript(_ column: Int, _ index: Int) -> UInt64 {
      @inline(__always) get {
        precondition(column >= 0 && column < PacketColumns.count)
        return unsafe base[column &* PacketColumns.stride &+ index & (PacketColumns.partLength &- 1)]
      }
      @inline(__always) nonmutating set {
        precondition(column >= 0 && column < PacketColumns.count)
        unsafe base[column &* PacketColumns.stride &+ index & (PacketColumns.partLength &- 1)] = newValue
      }
    }

    /// Where the first column's word of a packet 0 would be, were it of the part that begins at `start`; for C.
    @unsafe
    func pointer(part start: Int) -> UnsafeMutablePointer<UInt64> { unsafe base - start }
  }

  private static var count: Int { Int(kalsae_column_count) }
  private static var stride: Int { Int(kalsae_column_length) }
  private static var octets: Int { (count * stride * 8 + 4095) & ~4095 }
}

/// Positions in a batch, in order.
struct PacketList: ~Copyable {
  private let indices = PerPacket<UInt8>()
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }

  subscript(_ position: Int) -> Int {
    @inline(__always) get { Int(indices[position]) }
  }

  @inline(__always)
  mutating func append(_ index: Int) {
    indices[count] = UInt8(truncatingIfNeeded: index)
    count &+= 1
  }

  mutating func removeAll() { count = 0 }

  /// The places of the list for a loop.
  var view: PerPacketView<UInt8> {
    @inline(__always) get { indices.view }
  }

  mutating func append(contentsOf range: Range<Int>) {
    precondition(range.count <= Core.batchLimit &- count)
    unsafe kalsae_enumerate(view.pointer + count, UInt8(truncatingIfNeeded: range.lowerBound), range.count)
    count &+= range.count
  }
}
