/// Positions in a batch, in order.
@safe
@frozen
public struct FrameList: ~Copyable {
  @usableFromInline
  let indices: UnsafeMutablePointer<UInt16>
  public let capacity: Int
  @usableFromInline var filled: Int

  @inlinable
  public var count: Int { filled }

  public init(capacity: Int = FrameBatch.standardCapacity) {
    precondition(capacity > 0 && capacity <= 65536)
    unsafe indices = .allocate(capacity: capacity)
    self.capacity = capacity
    filled = 0
  }

  deinit { unsafe indices.deallocate() }

  @inlinable
  public var isEmpty: Bool { count == 0 }

  @inlinable
  public subscript(_ position: Int) -> Int {
    @inline(__always) get {
      precondition(position >= 0 && position < count)
      return unsafe Int(indices[position])
    }
  }

  @inlinable
  public mutating func append(_ index: Int) {
    precondition(count < capacity)
    unsafe indices[count] = UInt16(truncatingIfNeeded: index)
    filled &+= 1
  }

  @inlinable
  public mutating func removeAll() { filled = 0 }
}

/// The places of a list for a loop that appends by itself: see `MemoryView`.
@safe
struct FrameListView: BitwiseCopyable {
  /// The places, for C.
  @unsafe let pointer: UnsafeMutablePointer<UInt16>
  let count: Int
  let capacity: Int
}

extension FrameList {
  /// See `FrameListView`.
  var view: FrameListView {
    @inline(__always) get { unsafe FrameListView(pointer: indices, count: filled, capacity: capacity) }
  }

  /// How many more can be added.
  var room: Int { capacity &- filled }

  /// Adds another list's places; there must be room.
  mutating func append(contentsOf other: borrowing FrameList) {
    precondition(other.count <= room)
    unsafe (indices + filled).update(from: other.indices, count: other.count)
    filled &+= other.count
  }

  /// What the list was filled to by a loop.
  @inline(__always)
  mutating func take(_ count: Int) {
    precondition(count >= 0 && count <= capacity)
    filled = count
  }
}
