/// Up to `capacity` frames that go through the pipeline together. Owns the list, not the octets.
@safe
@frozen
public struct FrameBatch: ~Copyable {
  /// As many frames as a stage can hold in flight with prefetch.
  @inlinable
  public static var standardCapacity: Int { 256 }

  @usableFromInline
  let frames: UnsafeMutablePointer<Frame>
  public let capacity: Int
  @usableFromInline var filled: Int
  /// Where the frames that are added come in; none: they have their ports.
  public internal(set) var ingress = PortIndex.none

  @inlinable
  public var count: Int { filled }

  public init(capacity: Int = FrameBatch.standardCapacity) {
    precondition(capacity > 0 && capacity <= 65536)
    let room = UnsafeMutableRawPointer.allocate(byteCount: capacity * MemoryLayout<Frame>.stride, alignment: 64)
    unsafe frames = room.bindMemory(to: Frame.self, capacity: capacity)
    self.capacity = capacity
    filled = 0
  }

  deinit { unsafe frames.deallocate() }

  @inlinable
  public var isFull: Bool { count == capacity }

  @inlinable
  public subscript(_ index: Int) -> Frame {
    @inline(__always) get {
      precondition(index >= 0 && index < count)
      return unsafe frames[index]
    }
    @inline(__always) set {
      precondition(index >= 0 && index < count)
      unsafe frames[index] = newValue
    }
    @inline(__always) _modify {
      precondition(index >= 0 && index < count)
      yield unsafe &frames[index]
    }
  }

  /// Adds a frame at the end; the batch must not be full.
  @inlinable
  public mutating func append(_ frame: Frame) {
    precondition(count < capacity)
    unsafe frames[count] = frame
    if ingress != .none { unsafe frames[count].port = ingress }
    filled &+= 1
  }

  /// Keeps the first `count` frames of the list.
  mutating func truncate(to count: Int) {
    precondition(count >= 0 && count <= filled)
    filled = count
  }

  /// Empties the list.
  @inlinable
  public mutating func removeAll() { filled = 0 }
}

/// The frames of a batch for a loop: see `MemoryView`.
@safe
struct FrameBatchView: BitwiseCopyable {
  fileprivate let frames: UnsafeMutablePointer<Frame>
  let count: Int

  subscript(_ index: Int) -> Frame {
    @inline(__always) get {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: count))
      return unsafe frames[index]
    }
    @inline(__always) nonmutating _modify {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: count))
      yield unsafe &frames[index]
    }
  }
}

extension FrameBatchView {
  /// The frames, for C.
  @unsafe
  var pointer: UnsafeMutablePointer<Frame> { unsafe frames }
}

extension FrameBatch {
  /// See `FrameBatchView`.
  var view: FrameBatchView {
    @inline(__always) get { unsafe FrameBatchView(frames: frames, count: count) }
  }
}
