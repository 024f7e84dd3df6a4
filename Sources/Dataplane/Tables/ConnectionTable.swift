/// The place of a connection in its table. 0 is none.
typealias ConnectionIndex = UInt32

/// How far a connection has come; decides how long it may be silent.
public enum ConnectionState: UInt8, Sendable, CaseIterable {
  /// Packets in one direction only.
  case new
  /// Packets in both directions.
  case established
  /// A FIN was seen.
  case closing
  /// An RST was seen, or FINs in both directions.
  case closed
}

/// What both directions of a flow share: what it was decided from, and when it ends.
struct Connection<Key: FlowKey>: BitwiseCopyable {
  var forward: Key
  var reply: Key
  /// The route that each direction was decided by, and its generation then.
  var forwardRoute: RouteIndex
  var forwardGeneration: UInt32
  var replyRoute: RouteIndex
  var replyGeneration: UInt32
  /// The endpoint of a service that it was given, and its generation then; 0: none.
  var backend: BackendIndex
  var backendGeneration: UInt32
  /// The pods whose policies were asked, and their generations then; 0: none.
  var sourcePod: UInt32
  var sourceGeneration: UInt32
  var destinationPod: UInt32
  var destinationGeneration: UInt32
  /// Seconds of the pipeline's clock.
  var created: UInt32
  /// The neighbours in the timer wheel's list.
  var next: ConnectionIndex
  var previous: ConnectionIndex
  /// The bucket of the timer wheel, plus one; 0 when the place is free.
  var bucket: UInt16
  var state: ConnectionState.RawValue
  var finSeen: UInt8
  /// Whether somebody else carries packets of it, or did.
  var isOffloaded = false

  @inline(__always)
  init(forward: Key, reply: Key, created: UInt32) {
    self.forward = forward
    self.reply = reply
    self.created = created
    forwardRoute = 0
    forwardGeneration = 0
    replyRoute = 0
    replyGeneration = 0
    backend = 0
    backendGeneration = 0
    sourcePod = 0
    sourceGeneration = 0
    destinationPod = 0
    destinationGeneration = 0
    next = 0
    previous = 0
    bucket = 0
    state = ConnectionState.new.rawValue
    finSeen = 0
  }
}

/// The connections of one family, with a timer wheel of one-second steps. Bounded; a free place is found in constant time.
struct ConnectionTable<Key: FlowKey>: ~Copyable {
  private(set) var places: Memory<Connection<Key>>
  private var used = 1
  /// The places that were ever in use end here.
  var extent: Int { used }
  /// The places that were in use and are free again, the last one first: side by side, so that those which come next are
  /// known before they are needed.
  private var free: Memory<ConnectionIndex>
  private var freeCount = 0
  private(set) var count = 0
  let limit: Int

  /// The first connection of each bucket.
  private let wheel = Memory<ConnectionIndex>(count: 4096)
  private var wheelSecond: UInt32 = 0
  private static var wheelMask: UInt32 { 4095 }

  init(limit: Int) {
    self.limit = limit
    places = Memory(count: min(limit + 1, 1024))
    free = Memory(count: min(limit + 1, 1024))
  }

  var octets: Int { places.octets + free.octets }

  /// Tells the wheel what time it is when the first connection comes: what is scheduled is counted from there.
  mutating func start(_ second: UInt32) {
    if wheelSecond == 0 { wheelSecond = second }
  }

  /// Takes a place; nil when all are taken.
  @inline(__always)
  mutating func allocate() -> ConnectionIndex? {
    guard count < limit else { return nil }
    count += 1
    guard freeCount > 0 else { return extend() }
    freeCount &-= 1
    // That of some flow soon to come.
    places.prefetchPair(Int(free[max(freeCount &- ConnectionTable.ahead, 0)]))
    return free[freeCount]
  }

  /// How many flows before it is needed a place is asked for.
  private static var ahead: Int { 4 }

  /// Takes a place that was never in use.
  @inline(never)
  private mutating func extend() -> ConnectionIndex {
    if used >= places.count {
      let size = min(limit + 1, places.count * 2)
      places.grow(to: size)
      free.grow(to: size)
    }
    used += 1
    return ConnectionIndex(used - 1)
  }

  mutating func release(_ index: ConnectionIndex) {
    unlink(index)
    free[freeCount] = index
    freeCount += 1
    count -= 1
  }

  /// Has `expire` look at the connection at `second`.
  @inline(__always)
  mutating func schedule(_ index: ConnectionIndex, at second: UInt32) {
    let places = places.view
    if places[Int(index)].bucket != 0 { unlink(index) }
    // Further away than the wheel is wide: looked at once on the way.
    let due = min(max(second, wheelSecond + 1), wheelSecond + ConnectionTable.wheelMask)
    let bucket = Int(due & ConnectionTable.wheelMask)
    let head = wheel[bucket]
    places[Int(index)].next = head
    places[Int(index)].previous = 0
    places[Int(index)].bucket = UInt16(bucket + 1)
    if head != 0 { places[Int(head)].previous = index }
    wheel[bucket] = index
  }

  @inline(never)
  private func unlink(_ index: ConnectionIndex) {
    let connection = places[Int(index)]
    guard connection.bucket != 0 else { return }
    if connection.previous != 0 {
      places[Int(connection.previous)].next = connection.next
    } else {
      wheel[Int(connection.bucket) - 1] = connection.next
    }
    if connection.next != 0 { places[Int(connection.next)].previous = connection.previous }
    places[Int(index)].bucket = 0
  }

  /// Steps the wheel to `second` and returns the next connection that is due, which is unlinked; nil when none is left.
  mutating func popDue(_ second: UInt32) -> ConnectionIndex? {
    start(second)
    while true {
      let index = wheel[Int(wheelSecond & ConnectionTable.wheelMask)]
      if index != 0, second >= wheelSecond {
        unlink(index)
        return index
      }
      guard wheelSecond < second else { return nil }
      // After a gap longer than the wheel every bucket is due once; there is no need to go round twice.
      wheelSecond = max(wheelSecond + 1, second > ConnectionTable.wheelMask ? second - ConnectionTable.wheelMask : 0)
    }
  }
}
