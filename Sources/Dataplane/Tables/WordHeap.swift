/// Lists of words of any length in one piece of memory: freed lists are used again for lists of the same class of size,
/// so that memory stays in proportion to what is in use.
struct WordHeap: ~Copyable {
  private var memory = Memory<UInt32>(count: 1024)
  private var end = 1
  /// The words of all lists that are stored, rounded up as they are.
  private(set) var used = 0
  private var free: [Int: [UInt32]] = [:]

  /// Lengths are rounded up to powers of two up to 64 words, then to multiples of 64.
  private static func size(_ length: Int) -> Int { length <= 64 ? length.nextPowerOfTwo : (length + 63) & ~63 }

  @inline(__always)
  subscript(_ index: Int) -> UInt32 { memory[index] }

  /// The words for a loop: see `MemoryView`.
  var view: MemoryView<UInt32> {
    @inline(__always) get { memory.view }
  }

  /// Stores a list and returns its place; 0 for an empty one.
  mutating func allocate(_ words: [UInt32]) -> UInt32 {
    guard !words.isEmpty else { return 0 }
    let size = WordHeap.size(words.count)
    let place: UInt32
    if let again = free[size]?.popLast() {
      place = again
    } else {
      place = UInt32(end)
      end += size
      if end > memory.count { memory.grow(to: max(end, memory.count * 2)) }
    }
    used += size
    for (offset, word) in words.enumerated() { memory[Int(place) + offset] = word }
    return place
  }

  mutating func free(_ place: UInt32, _ length: Int) {
    guard place != 0, length > 0 else { return }
    let size = WordHeap.size(length)
    used -= size
    free[size, default: []].append(place)
  }

  var octets: Int { memory.octets }
  /// The words that there is memory for.
  var capacity: Int { memory.count }
}
