import Addresses

/// Puts fragments together (RFC 791, section 3.2; RFC 8200, section 4.5) that are addressed to this node: the outer
/// packets of tunnels. Memory and work are bounded: a fixed number of datagrams, of fragments in each, and of time.
///
/// Fragments that overlap make the whole datagram be dropped (RFC 5722; TUN-8), for IPv4 too; an exact copy of one that
/// is there is ignored.
@safe
public struct Reassembler: ~Copyable {
  /// Why a fragment, and with it its datagram, was dropped.
  public enum Refusal: UInt8, Error, Sendable {
    /// The packet is no fragment.
    case notAFragment
    /// Lengths that are wrong: beyond the octets, empty, or no multiple of eight before the last.
    case malformed
    /// The first fragment ends inside the transport header (RFC 1858, RFC 8200).
    case tinyFragment
    /// The datagram would exceed 65535 octets.
    case tooLong
    /// Fragments cover the same octets (RFC 5722).
    case overlap
    /// Fragments disagree on where the datagram ends.
    case inconsistentEnd
    /// Marked and unmarked fragments, of a transport that does not know marks (RFC 3168, section 5.3).
    case inconsistentECN
    case tooManyFragments
    /// The headers of the first fragment are longer than there is room for.
    case headerTooLong
    /// Another fragment of the datagram was refused before.
    case datagramRefused
  }

  /// What became of a fragment.
  public enum Outcome {
    /// The datagram is whole: the first fragment's headers, made right, and the whole payload. The octets are the
    /// reassembler's and stay valid until its next call.
    case complete(Frame)
    /// Others are missing.
    case held
    /// The same fragment was here before.
    case duplicate
    case refused(Refusal)
  }

  /// The most fragments in a datagram: 65,535 octets in packets of 276.
  public static var maximumFragments: Int { 256 }
  /// The most octets of headers, with the link layer's.
  public static var maximumHeaders: Int { 384 }
  static var payloadStart: Int { 512 }
  static var slotSize: Int { payloadStart + 65536 }

  let memory: UnsafeMutableRawPointer
  let contexts: UnsafeMutablePointer<ReassemblyContext>
  /// The octets that have come, in order, as first and end: `maximumFragments` for each context.
  let ranges: UnsafeMutablePointer<(start: UInt16, end: UInt16)>
  public let capacity: Int
  /// Nanoseconds from a datagram's first fragment until it is given up.
  public var timeout: UInt64
  var delivered: Int?

  /// Datagrams that were given up because there was no room for another.
  public private(set) var evicted: UInt64 = 0
  /// Datagrams whose time was up.
  public private(set) var expired: UInt64 = 0

  /// Room for `capacity` datagrams at once (64 KiB each, touched only when used); `timeout` is in nanoseconds.
  public init(capacity: Int = 64, timeout: UInt64 = 30_000_000_000) {
    precondition(capacity > 0 && capacity <= 4096)
    self.capacity = capacity
    self.timeout = timeout
    unsafe memory = .allocate(byteCount: capacity * Reassembler.slotSize, alignment: 4096)
    unsafe contexts = .allocate(capacity: capacity)
    unsafe contexts.initialize(repeating: ReassemblyContext(), count: capacity)
    unsafe ranges = .allocate(capacity: capacity * Reassembler.maximumFragments)
    unsafe ranges.initialize(repeating: (0, 0), count: capacity * Reassembler.maximumFragments)
  }

  deinit {
    unsafe memory.deallocate()
    unsafe contexts.deallocate()
    unsafe ranges.deallocate()
  }

  /// Takes a fragment whose IP header is `network` octets into the packet. `now` is in nanoseconds, of any clock that
  /// only goes forward. The frame can be released afterwards.
  public mutating func insert(_ frame: Frame, network: Int, now: UInt64) -> Outcome {
    freeDelivered()
    let piece: FragmentPiece
    switch FragmentPiece.read(frame.octets, network: network) {
    case .success(let read): piece = read
    case .failure(let refusal): return .refused(refusal)
    }
    let index = find(piece.key, now)
    var context = unsafe contexts[index]
    if context.state == .refused { return .refused(.datagramRefused) }
    let outcome = add(piece, frame, network, index, &context)
    if case .refused = outcome { context.state = .refused }
    if case .complete = outcome { delivered = index }
    unsafe contexts[index] = context
    return outcome
  }

  /// Gives up the datagrams whose time is up, and returns how many that were. Refused ones do not count.
  @discardableResult
  public mutating func expire(now: UInt64) -> Int {
    freeDelivered()
    var count = 0
    for index in 0..<capacity {
      let context = unsafe contexts[index]
      guard context.state != .free, context.deadline <= now else { continue }
      if context.state == .collecting { count += 1 }
      unsafe contexts[index].state = .free
    }
    expired &+= UInt64(count)
    return count
  }

  /// The memory for fragments, most of which is touched only when it is used.
  var octets: Int { capacity * Reassembler.slotSize }

  /// The datagrams of which fragments are held.
  public var count: Int {
    var count = 0
    for index in 0..<capacity where unsafe contexts[index].state == .collecting { count += 1 }
    return count
  }
}

extension Reassembler {
  private mutating func freeDelivered() {
    guard let index = delivered else { return }
    unsafe contexts[index].state = .free
    delivered = nil
  }

  /// The context of a key: the one that there is, else a free one, else the one whose time is up soonest.
  private mutating func find(_ key: ReassemblyKey, _ now: UInt64) -> Int {
    var best = 0
    var bestDeadline = UInt64.max
    for index in 0..<capacity {
      let state = unsafe contexts[index].state
      let deadline = unsafe contexts[index].deadline
      if state != .free, deadline > now {
        if unsafe contexts[index].key == key { return index }
        if deadline < bestDeadline { (best, bestDeadline) = (index, deadline) }
      } else if bestDeadline > 0 {
        (best, bestDeadline) = (index, 0)
      }
    }
    if unsafe contexts[best].state == .collecting {
      if bestDeadline == 0 { expired &+= 1 } else { evicted &+= 1 }
    }
    var context = ReassemblyContext()
    context.state = .collecting
    context.key = key
    context.deadline = now &+ timeout
    unsafe contexts[best] = context
    return best
  }

  @_lifetime(borrow self)
  private func slot(_ index: Int) -> Octets {
    unsafe _overrideLifetime(
      Octets(unsafe: memory + index * Reassembler.slotSize, count: Reassembler.slotSize), borrowing: self)
  }

  private func add(
    _ piece: FragmentPiece, _ frame: Frame, _ network: Int, _ index: Int, _ context: inout ReassemblyContext
  ) -> Outcome {
    let payload = slot(index).dropping(Reassembler.payloadStart)
    let fragment = frame.octets.dropping(piece.payload).prefix(piece.length)
    // Where the fragment belongs among the others.
    let base = index * Reassembler.maximumFragments
    var low = 0
    var high = context.ranges
    while low < high {
      let middle = (low + high) / 2
      if unsafe Int(ranges[base + middle].start) < piece.offset { low = middle + 1 } else { high = middle }
    }
    if low < context.ranges, unsafe Int(ranges[base + low].start) < piece.end {
      let range = unsafe ranges[base + low]
      guard Int(range.start) == piece.offset, Int(range.end) == piece.end,
        fragment.isEqual(to: payload.dropping(piece.offset).prefix(piece.length))
      else { return .refused(.overlap) }
      // A copy that contradicts the other on being the last is not an exact one.
      return piece.more == (context.total == piece.end) ? .refused(.inconsistentEnd) : .duplicate
    }
    if low > 0, unsafe Int(ranges[base + low - 1].end) > piece.offset { return .refused(.overlap) }
    // Where the datagram ends.
    if let total = context.total {
      if !piece.more || piece.end > total { return .refused(.inconsistentEnd) }
    } else if !piece.more {
      if context.ranges > low { return .refused(.inconsistentEnd) }
      context.total = piece.end
    }
    guard context.ranges < Reassembler.maximumFragments else { return .refused(.tooManyFragments) }
    for position in stride(from: context.ranges, to: low, by: -1) {
      unsafe ranges[base + position] = ranges[base + position - 1]
    }
    unsafe ranges[base + low] = (UInt16(truncatingIfNeeded: piece.offset), UInt16(truncatingIfNeeded: piece.end))
    context.ranges += 1
    context.received += piece.length
    context.ecn |= 1 << piece.ecn.rawValue
    payload.copy(from: fragment, to: piece.offset)

    if piece.offset == 0 {
      guard piece.headerLength <= Reassembler.maximumHeaders else { return .refused(.headerTooLong) }
      slot(index).copy(
        from: frame.octets.prefix(piece.headerLength), to: Reassembler.payloadStart - piece.headerLength)
      context.headerLength = piece.headerLength
      context.network = network
      context.nextHeaderOffset = piece.nextHeaderOffset
      context.nextHeader = piece.nextHeader
      context.timestamp = frame.timestamp
      context.port = frame.port
      context.vlanTPID = frame.vlanTPID
      context.vlanTCI = frame.vlanTCI
      context.flags = frame.flags.intersection(.vlanStripped)
      context.slot = frame.slot
    }
    guard context.isComplete else { return .held }
    return finish(index, &context)
  }

  /// Makes the headers of a whole datagram right and hands it out.
  private func finish(_ index: Int, _ context: inout ReassemblyContext) -> Outcome {
    guard let headerLength = context.headerLength, let total = context.total else { return .held }
    let start = Reassembler.payloadStart - headerLength
    let made = unsafe Frame(
      unsafe: memory + index * Reassembler.slotSize, capacity: Reassembler.slotSize, start: start,
      length: headerLength + total)
    let packet = made.octets.dropping(context.network)
    let isMarked = context.ecn & 1 << ECN.ce.rawValue != 0
    if isMarked, context.ecn & 1 << ECN.notECT.rawValue != 0 { return .refused(.inconsistentECN) }
    if context.key.isIPv4 {
      guard packet.count <= 65535 else { return .refused(.tooLong) }
      packet[u16: 2] = UInt16(truncatingIfNeeded: packet.count)
      packet[u16: 6] = packet[u16: 6] & 0x4000
      if isMarked { packet[1] |= ECN.ce.rawValue }
      IPv4Header(packet)?.updateChecksum()
    } else {
      guard packet.count - 40 <= 65535 else { return .refused(.tooLong) }
      packet[u16: 4] = UInt16(truncatingIfNeeded: packet.count - 40)
      made.octets[context.nextHeaderOffset] = context.nextHeader.rawValue
      if isMarked { packet[1] |= ECN.ce.rawValue << 4 }
    }
    var frame = made
    frame.timestamp = context.timestamp
    frame.port = context.port
    frame.vlanTPID = context.vlanTPID
    frame.vlanTCI = context.vlanTCI
    frame.flags = context.flags
    frame.slot = context.slot
    context.state = .delivered
    return .complete(frame)
  }
}
