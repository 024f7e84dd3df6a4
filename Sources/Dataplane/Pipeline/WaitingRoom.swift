/// What a held packet waits for.
enum WaitReason: Equatable {
  /// The Ethernet address of a hop's neighbour.
  case neighbour(HopIndex)
  /// The first fragment of a datagram, by its identity.
  case firstFragment(UInt64)
  /// Nothing: it was made from a packet of this batch and goes out behind it.
  case turn
}

/// Packets that cannot go on yet, copied out of their port's memory. Bounded in number and time (NODE: the packet is
/// queued, not lost).
struct WaitingRoom: ~Copyable {
  enum Outcome {
    /// To be sent by its hop.
    case send
    /// To be read again.
    case read
    case timedOut(DropReason)
  }

  struct Place {
    var frame: Frame
    var context: PacketContext
    var reason: WaitReason
    var deadline: UInt64
    var arrival: UInt64
    /// Which hop it waits for: places of hops are used again.
    var hopSerial: UInt32
    var isReleased = false
  }

  private static var placeCount: Int { 128 }
  /// Room for a super-frame and its headroom.
  private static var placeSize: Int { 66 << 10 }
  /// A held packet stands at its network-layer header: besides a hop's headers, an ICMPv6 error must fit before it.
  private static var headroom: Int { Headroom.minimum + 64 }
  /// As long as a kernel waits for an answer: three times a second.
  static var neighbourPatience: UInt64 { 3_000_000_000 }
  static var fragmentPatience: UInt64 { 1_000_000_000 }
  /// What one hop may hold, so that a dead neighbour does not starve the others.
  private static var perReason: Int { 32 }

  private let memory = Memory<UInt8>(count: WaitingRoom.placeCount * WaitingRoom.placeSize)
  private var places: [Place?] = Array(repeating: nil, count: WaitingRoom.placeCount)
  private var outcomes: [Outcome] = []
  private var collected: [Int] = []
  private(set) var count = 0
  /// Those that wait for nothing any more.
  private var ready = 0
  private var arrivals: UInt64 = 0

  var isEmpty: Bool { count == 0 }
  var capacity: Int { WaitingRoom.placeCount }
  var octets: Int { memory.octets }
  /// Whether a packet waits only for its turn.
  var hasReady: Bool { ready > 0 }

  /// Keeps a copy of a packet. False where there is no room.
  mutating func hold(
    _ frame: Frame, _ context: PacketContext, for reason: WaitReason, at now: UInt64, hopSerial: UInt32 = 0
  ) -> Bool {
    let length = Int(frame.length)
    guard length + WaitingRoom.headroom <= WaitingRoom.placeSize,
      reason == .turn || places.count(where: { $0?.reason == reason }) < WaitingRoom.perReason,
      let number = places.firstIndex(where: { $0 == nil })
    else { return false }
    var copy = memory.frame(
      at: number * WaitingRoom.placeSize, capacity: WaitingRoom.placeSize, headroom: WaitingRoom.headroom,
      length: length)
    copy.octets.copy(from: frame.octets, to: 0)
    copy.takeMetadata(of: frame)
    let patience: UInt64 =
      switch reason {
      case .neighbour: WaitingRoom.neighbourPatience
      case .firstFragment: WaitingRoom.fragmentPatience
      case .turn: 0
      }
    places[number] = Place(
      frame: copy, context: context, reason: reason, deadline: now &+ patience, arrival: arrivals, hopSerial: hopSerial)
    arrivals += 1
    count += 1
    if reason == .turn { ready += 1 }
    return true
  }

  /// Lets go on what waited for this.
  mutating func release(_ reason: WaitReason) {
    for number in places.indices where places[number]?.reason == reason && places[number]?.isReleased == false {
      places[number]?.isReleased = true
      ready += 1
    }
  }

  /// Lists what need not wait any longer, oldest first, with its contexts at the same positions. Its memory stays until
  /// `release()`.
  mutating func collect(
    into batch: inout FrameBatch, _ contexts: borrowing PerPacket<PacketContext>, at now: UInt64,
    _ tables: borrowing Tables
  ) {
    outcomes.removeAll(keepingCapacity: true)
    collected.removeAll(keepingCapacity: true)
    let order = places.indices.filter { places[$0] != nil }.sorted { places[$0]!.arrival < places[$1]!.arrival }
    for number in order {
      guard let place = places[number], !batch.isFull else { continue }
      let outcome: Outcome
      switch place.reason {
      case .neighbour(let hop):
        let record = tables.hops.records[Int(hop)]
        if !record.inUse || record.serial != place.hopSerial || record.neighbour == NeighbourState.failed.rawValue {
          outcome = .timedOut(.neighbourUnreachable)
        } else if record.neighbour == NeighbourState.resolved.rawValue {
          outcome = .send
        } else if place.deadline <= now {
          outcome = .timedOut(.neighbourUnreachable)
        } else {
          continue
        }
      case .turn: outcome = .send
      case .firstFragment:
        if place.isReleased {
          outcome = .read
        } else if place.deadline <= now {
          outcome = .timedOut(.fragmentNoFirst)
        } else {
          continue
        }
      }
      contexts[batch.count] = place.context
      batch.append(place.frame)
      outcomes.append(outcome)
      collected.append(number)
    }
  }

  func outcome(_ index: Int) -> Outcome { outcomes[index] }

  /// Frees the places of what was collected.
  mutating func release() {
    for number in collected {
      if places[number]?.reason == .turn || places[number]?.isReleased == true { ready -= 1 }
      places[number] = nil
    }
    count -= collected.count
    collected.removeAll(keepingCapacity: true)
  }
}

extension Frame {
  /// Takes over what is known of another frame whose packet was copied here.
  mutating func takeMetadata(of other: Frame) {
    wireLength = other.wireLength
    timestamp = other.timestamp
    checksumStart = other.checksumStart &+ start &- other.start
    checksumOffset = other.checksumOffset
    segmentSize = other.segmentSize
    port = other.port
    vlanTPID = other.vlanTPID
    vlanTCI = other.vlanTCI
    flags = other.flags
    segmentation = other.segmentation
  }
}

extension Memory where T == UInt8 {
  /// A frame of `length` octets in a part of the memory.
  func frame(at offset: Int, capacity: Int, headroom: Int, length: Int) -> Frame {
    precondition(offset >= 0 && offset + capacity <= count && headroom + length <= capacity)
    return unsafe Frame(
      unsafe: UnsafeMutableRawPointer(base + offset), capacity: capacity, start: headroom, length: length)
  }
}
