/// Memory for frames that a worker makes itself: segments, fragments, answers. Frames are laid one behind the other and
/// given back all at once, so that making one costs an addition.
///
/// Whoever resets the arena has sent, or copied, every frame made since the last reset.
@safe
@frozen
public struct FrameArena: ~Copyable {
  @usableFromInline let memory: UnsafeMutableRawPointer
  public let capacity: Int
  @usableFromInline var used: Int

  /// The default holds a super-frame of 64 KiB cut into segments of 536 octets under any headers, and stays within a
  /// core's second-level cache.
  public init(capacity: Int = 256 << 10) {
    precondition(capacity > 0 && capacity <= 1 << 30)
    unsafe memory = .allocate(byteCount: capacity, alignment: 64)
    self.capacity = capacity
    used = 0
  }

  deinit { unsafe memory.deallocate() }

  /// Whether no frame is out.
  @inlinable
  public var isEmpty: Bool { used == 0 }

  /// A frame of `length` octets whose contents are undefined, behind `headroom` octets; nil where there is no room left.
  @inlinable
  public mutating func frame(length: Int, headroom: Int = Headroom.minimum) -> Frame? {
    precondition(length >= 0 && headroom >= 0)
    // Whole cache lines.
    let size = (headroom + length + 63) & ~63
    guard size <= capacity - used else { return nil }
    let frame = unsafe Frame(unsafe: memory + used, capacity: size, start: headroom, length: length)
    used += size
    return frame
  }

  /// Takes back all frames.
  @inlinable
  public mutating func reset() { used = 0 }
}
