public import Dataplane

/// The frames that wait in the ports of a process that ends, for the one that comes after it: what senders have under way
/// is not lost with the process, and nobody has to send it again, for which TCP would wait some 200 ms.
///
/// As octets it begins with a mark, an owner of 36 octets, and the time; integers are little-endian.
public struct WaitingFrames: Sendable, Equatable {
  /// The frames by their port's name, in the order in which they came.
  public private(set) var frames: [String: [MemoryFrame]] = [:]
  /// When they were taken, in nanoseconds of the machine's clock.
  public let time: UInt64
  /// The octets that are left of `limit`.
  private var room: Int

  /// The octets of all frames, at most.
  public static let limit = 16 << 20
  private static let mark = Array("kalsae frames 1\n".utf8)
  private static let ownerLength = 36

  public init(time: UInt64, limit: Int = WaitingFrames.limit) {
    self.time = time
    room = limit
  }

  public var count: Int { frames.values.reduce(0) { $0 + $1.count } }

  /// Takes all that waits in a port that nobody else reads any more, as long as there is room.
  public mutating func take(from port: any Port, named name: String) {
    var batch = FrameBatch()
    while room > 0 {
      let count = port.receive(into: &batch)
      guard count > 0 else { return }
      for position in 0..<count {
        let frame = MemoryFrame(batch[position])
        guard frame.octets.count <= MemoryPort.longestFrame else { continue }
        // More may come as fast as it is taken.
        guard frame.octets.count <= room else {
          room = 0
          break
        }
        room -= frame.octets.count
        frames[name, default: []].append(frame)
      }
      port.release(&batch)
    }
  }

  // MARK: As octets

  /// `owner`: what the time is of, such as the machine's start; 36 octets of it count.
  public func octets(owner: String) -> [UInt8] {
    var out = WaitingFrames.mark + WaitingFrames.field(owner)
    func put<N: FixedWidthInteger>(_ number: N) {
      for shift in 0..<N.bitWidth / 8 { out.append(UInt8(truncatingIfNeeded: number >> N(shift * 8))) }
    }
    put(time)
    for (name, list) in frames.sorted(by: { $0.key < $1.key }) {
      put(UInt16(clamping: name.utf8.count))
      out += name.utf8.prefix(Int(UInt16.max))
      put(UInt32(list.count))
      for frame in list {
        put(UInt32(frame.octets.count))
        put(UInt32(clamping: frame.wireLength))
        put(Int32(clamping: frame.partialChecksumStart ?? -1))
        put(UInt16(clamping: frame.partialChecksumOffset))
        put(UInt16(clamping: frame.segmentSize))
        put(frame.segmentation.rawValue)
        put(UInt8(frame.checksumVerified ? 1 : 0))
        put(UInt8(clamping: frame.tunnelLength))
        put(frame.timestamp)
        out += frame.octets
      }
    }
    return out
  }

  /// Reads what another process left; nil where it is not of this owner, or is damaged.
  public init?(_ octets: [UInt8], owner: String) {
    let start = WaitingFrames.mark + WaitingFrames.field(owner)
    guard octets.starts(with: start) else { return nil }
    var rest = octets[start.count...]
    func next<N: FixedWidthInteger>(_: N.Type) -> N? {
      guard rest.count >= N.bitWidth / 8 else { return nil }
      var number: N = 0
      for shift in 0..<N.bitWidth / 8 { number |= N(truncatingIfNeeded: rest.removeFirst()) << N(shift * 8) }
      return number
    }
    func take(_ count: Int) -> ArraySlice<UInt8>? {
      guard count <= rest.count else { return nil }
      defer { rest = rest.dropFirst(count) }
      return rest.prefix(count)
    }
    guard let time = next(UInt64.self) else { return nil }
    self.init(time: time)
    while !rest.isEmpty {
      guard let length = next(UInt16.self), let name = take(Int(length)), let count = next(UInt32.self) else {
        return nil
      }
      var list: [MemoryFrame] = []
      for _ in 0..<count {
        guard let length = next(UInt32.self), length <= MemoryPort.longestFrame, let wire = next(UInt32.self),
          let start = next(Int32.self), let offset = next(UInt16.self), let size = next(UInt16.self),
          let segmentation = next(UInt8.self).flatMap(Segmentation.init), let flags = next(UInt8.self),
          let tunnel = next(UInt8.self), let timestamp = next(UInt64.self),
          let octets = take(Int(length)), start < 0 || Int(start) + Int(offset) + 2 <= Int(length)
        else { return nil }
        var frame = MemoryFrame(
          Array(octets), timestamp: timestamp, wireLength: Int(wire),
          partialChecksumStart: start < 0 ? nil : Int(start), partialChecksumOffset: Int(offset),
          checksumVerified: flags & 1 != 0, segmentation: segmentation, segmentSize: Int(size))
        frame.tunnelLength = Int(tunnel)
        list.append(frame)
      }
      frames[String(decoding: name, as: UTF8.self)] = list
    }
  }

  private static func field(_ owner: String) -> [UInt8] {
    let octets = Array(owner.utf8.prefix(ownerLength))
    return octets + [UInt8](repeating: 0, count: ownerLength - octets.count)
  }
}
