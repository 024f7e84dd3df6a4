import Dataplane
import Glibc

/// Memory for frames that a port copies in: slots of one size, aligned, touched only when used.
@safe
struct FramePool: ~Copyable {
  let slots: Int
  let slotSize: Int
  private let base: UnsafeMutableRawPointer

  /// `slotSize` includes headroom; a multiple of 16.
  init(slots: Int, slotSize: Int) {
    precondition(slots > 0 && slotSize > 0 && slotSize % 16 == 0)
    self.slots = slots
    self.slotSize = slotSize
    let memory = unsafe mmap(
      nil, slots * slotSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard unsafe memory != MAP_FAILED, let memory = unsafe memory else { fatalError("out of memory for frames") }
    unsafe base = memory
  }

  deinit { unsafe munmap(base, slots * slotSize) }

  /// A frame of `length` octets behind `headroom` in slot `slot`; its octets are whatever lay there.
  @inline(__always)
  func frame(_ slot: Int, headroom: Int, length: Int) -> Frame {
    precondition(slot >= 0 && slot < slots)
    return unsafe Frame(
      unsafe: base + slot * slotSize, capacity: slotSize, start: headroom, length: length, slot: slot)
  }

  /// The address of slot `slot`, for a system call.
  @unsafe
  @inline(__always)
  func address(_ slot: Int) -> UnsafeMutableRawPointer {
    precondition(slot >= 0 && slot < slots)
    return unsafe base + slot * slotSize
  }
}
