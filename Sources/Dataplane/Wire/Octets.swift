import CDataplane

/// A view of a run of octets in a frame: the one type through which packets are read and written.
///
/// The view is copyable and does not escape the scope that it was made in. Its length is fixed when it is made; every
/// access is checked against it, and after one `guard octets.count >= n` the optimiser removes the checks of the
/// accesses below `n`. Multi-octet values are in network byte order (big endian) unless the name says `Native`.
///
/// All unsafe memory access of the wire room is in this file and in `Octets+Bulk.swift`.
@safe
@frozen
public struct Octets: ~Escapable {
  @usableFromInline
  let base: UnsafeMutableRawPointer

  /// The number of octets in view.
  public let count: Int

  /// A view of `count` octets at `base`, which must stay valid and unshared for as long as the view is used.
  @unsafe
  @inlinable
  @_lifetime(immortal)
  public init(unsafe base: UnsafeMutableRawPointer, count: Int) {
    unsafe self.base = base
    self.count = count
  }

  @inlinable
  @inline(__always)
  func check(_ offset: Int, _ width: Int) {
    precondition(offset >= 0 && offset &+ width <= count, "octets out of range")
  }

  @inlinable
  @inline(__always)
  func load<T: BitwiseCopyable>(_ offset: Int, as type: T.Type) -> T {
    check(offset, MemoryLayout<T>.size)
    return unsafe base.loadUnaligned(fromByteOffset: offset, as: type)
  }

  @inlinable
  @inline(__always)
  func store<T: BitwiseCopyable>(_ value: T, _ offset: Int) {
    check(offset, MemoryLayout<T>.size)
    unsafe base.storeBytes(of: value, toByteOffset: offset, as: T.self)
  }

  @inlinable
  public subscript(_ offset: Int) -> UInt8 {
    @inline(__always) get { load(offset, as: UInt8.self) }
    @inline(__always) nonmutating set { store(newValue, offset) }
  }

  /// The 16-bit value at `offset`, network byte order.
  @inlinable
  public subscript(u16 offset: Int) -> UInt16 {
    @inline(__always) get { UInt16(bigEndian: load(offset, as: UInt16.self)) }
    @inline(__always) nonmutating set { store(newValue.bigEndian, offset) }
  }

  /// The 32-bit value at `offset`, network byte order.
  @inlinable
  public subscript(u32 offset: Int) -> UInt32 {
    @inline(__always) get { UInt32(bigEndian: load(offset, as: UInt32.self)) }
    @inline(__always) nonmutating set { store(newValue.bigEndian, offset) }
  }

  /// The 64-bit value at `offset`, network byte order.
  @inlinable
  public subscript(u64 offset: Int) -> UInt64 {
    @inline(__always) get { UInt64(bigEndian: load(offset, as: UInt64.self)) }
    @inline(__always) nonmutating set { store(newValue.bigEndian, offset) }
  }

  /// The 48-bit value at `offset`, network byte order, in the lower bits.
  @inlinable
  public subscript(u48 offset: Int) -> UInt64 {
    @inline(__always) get { UInt64(self[u16: offset]) << 32 | UInt64(self[u32: offset + 2]) }
    @inline(__always) nonmutating set {
      self[u16: offset] = UInt16(truncatingIfNeeded: newValue >> 32)
      self[u32: offset + 2] = UInt32(truncatingIfNeeded: newValue)
    }
  }

  /// The 16 bits at `offset` as they lie in memory: for comparing, hashing and one's complement sums.
  @inlinable
  public subscript(u16Native offset: Int) -> UInt16 {
    @inline(__always) get { load(offset, as: UInt16.self) }
    @inline(__always) nonmutating set { store(newValue, offset) }
  }

  /// The 32 bits at `offset` as they lie in memory.
  @inlinable
  public subscript(u32Native offset: Int) -> UInt32 {
    @inline(__always) get { load(offset, as: UInt32.self) }
    @inline(__always) nonmutating set { store(newValue, offset) }
  }

  /// The 64 bits at `offset` as they lie in memory.
  @inlinable
  public subscript(u64Native offset: Int) -> UInt64 {
    @inline(__always) get { load(offset, as: UInt64.self) }
    @inline(__always) nonmutating set { store(newValue, offset) }
  }

  /// The octets from `offset` to the end. `offset` may equal `count`.
  @inlinable
  @inline(__always)
  @_lifetime(copy self)
  public func dropping(_ offset: Int) -> Octets {
    check(offset, 0)
    return unsafe _overrideLifetime(Octets(unsafe: base + offset, count: count &- offset), copying: self)
  }

  /// The first `length` octets.
  @inlinable
  @inline(__always)
  @_lifetime(copy self)
  public func prefix(_ length: Int) -> Octets {
    check(0, length)
    precondition(length >= 0)
    return unsafe _overrideLifetime(Octets(unsafe: base, count: length), copying: self)
  }

  /// Copies the octets of `source` to `offset`. The two may overlap.
  @inlinable
  public func copy(from source: Octets, to offset: Int) {
    check(offset, source.count)
    unsafe (base + offset).copyMemory(from: source.base, byteCount: source.count)
  }

  /// Copies `bytes` to `offset`.
  public func copy(from bytes: [UInt8], to offset: Int) {
    check(offset, bytes.count)
    unsafe bytes.withUnsafeBytes { source in
      if let start = source.baseAddress { unsafe (base + offset).copyMemory(from: start, byteCount: source.count) }
    }
  }

  /// Copies `length` octets of `bytes` from `start` on to `offset`.
  public func copy(from bytes: [UInt8], at start: Int, count length: Int, to offset: Int) {
    precondition(start >= 0 && length >= 0 && start + length <= bytes.count)
    check(offset, length)
    unsafe bytes.withUnsafeBytes { source in
      if let first = source.baseAddress { unsafe (base + offset).copyMemory(from: first + start, byteCount: length) }
    }
  }

  /// Sets `length` octets at `offset` to `value`.
  @inlinable
  public func fill(_ value: UInt8 = 0, from offset: Int, count length: Int) {
    precondition(length >= 0)
    check(offset, length)
    unsafe (base + offset).initializeMemory(as: UInt8.self, repeating: value, count: length)
  }

  /// A copy of the octets, for tests and for display.
  public var array: [UInt8] {
    unsafe Array(UnsafeRawBufferPointer(start: base, count: count))
  }

  /// Asks for the first cache line to be read.
  @inlinable
  @inline(__always)
  public func prefetch() { unsafe kalsae_prefetch(base) }
}

/// Runs `body` on a view of `bytes`, and leaves in `bytes` what it wrote.
@inlinable
public func withOctets<R>(_ bytes: inout [UInt8], _ body: (Octets) throws -> R) rethrows -> R {
  try unsafe bytes.withUnsafeMutableBytes { buffer in
    guard let base = buffer.baseAddress else {
      var nothing: UInt8 = 0
      return try unsafe withUnsafeMutableBytes(of: &nothing) {
        try unsafe body(Octets(unsafe: $0.baseAddress!, count: 0))
      }
    }
    return try unsafe body(Octets(unsafe: base, count: buffer.count))
  }
}
