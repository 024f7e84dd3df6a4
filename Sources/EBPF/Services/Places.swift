/// Gives out places of an array. One that is given back is given out again only after `release`: until then a program may
/// still be looking at it.
struct Places {
  private var next: UInt32 = 1
  private var free: [UInt32] = []
  private var waiting: [UInt32] = []
  var capacity: Int

  init(capacity: Int) { self.capacity = capacity }

  var isWaiting: Bool { !waiting.isEmpty }
  var used: Int { Int(next) - 1 - free.count - waiting.count }

  mutating func take() throws(MapsAreFull) -> UInt32 {
    if let place = free.popLast() { return place }
    guard Int(next) < capacity else { throw MapsAreFull() }
    next += 1
    return next - 1
  }

  mutating func give(back place: UInt32) { waiting.append(place) }

  mutating func release() {
    free += waiting
    waiting.removeAll()
  }
}

/// Gives out runs of words, as `Places` does places. Runs are as long as a power of two, up to 64 words, then as a
/// multiple of 64, so that those given back fit others.
struct Runs {
  private var next = 1
  private var free: [Int: [UInt32]] = [:]
  private var waiting: [(place: UInt32, length: Int)] = []
  var capacity: Int

  init(capacity: Int) { self.capacity = capacity }

  var isWaiting: Bool { !waiting.isEmpty }

  static func size(_ length: Int) -> Int {
    if length > 64 { return (length + 63) & ~63 }
    var size = 1
    while size < length { size *= 2 }
    return size
  }

  mutating func take(_ length: Int) throws(MapsAreFull) -> UInt32 {
    let size = Runs.size(length)
    if let place = free[size]?.popLast() { return place }
    guard next + size <= capacity else { throw MapsAreFull() }
    next += size
    return UInt32(next - size)
  }

  mutating func give(back place: UInt32, _ length: Int) { waiting.append((place, Runs.size(length))) }

  mutating func release() {
    for run in waiting { free[run.length, default: []].append(run.place) }
    waiting.removeAll()
  }
}

/// The maps have no room for what is to be written: larger ones are needed.
struct MapsAreFull: Error {}
