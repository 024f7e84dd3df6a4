public import Dataplane

/// A frame with its octets and all that a port knows of it: what tests put in and take out.
public struct MemoryFrame: Sendable, Equatable {
  public var octets: [UInt8]
  /// Nanoseconds since 1970.
  public var timestamp: UInt64
  /// The length on the wire; more than the octets where a capture was truncated.
  public var wireLength: Int
  /// Where the partial checksum starts, from the first octet of the frame; nil for a finished checksum.
  public var partialChecksumStart: Int?
  /// Where the checksum field is, from there.
  public var partialChecksumOffset: Int
  public var checksumVerified: Bool
  public var segmentation: Segmentation
  public var segmentSize: Int
  /// The octets of the tunnel's headers that a super-frame leaves whole with (`Frame.tunnelLength`); else 0.
  public var tunnelLength = 0

  public init(
    _ octets: [UInt8], timestamp: UInt64 = 0, wireLength: Int? = nil, partialChecksumStart: Int? = nil,
    partialChecksumOffset: Int = 0, checksumVerified: Bool = false, segmentation: Segmentation = .none,
    segmentSize: Int = 0
  ) {
    self.octets = octets
    self.timestamp = timestamp
    self.wireLength = wireLength ?? octets.count
    self.partialChecksumStart = partialChecksumStart
    self.partialChecksumOffset = partialChecksumOffset
    self.checksumVerified = checksumVerified
    self.segmentation = segmentation
    self.segmentSize = segmentSize
  }

  /// A copy of `frame` as it is now.
  public init(_ frame: Frame) {
    let partial = frame.flags.contains(.checksumPartial)
    self.init(
      frame.octets.array, timestamp: frame.timestamp, wireLength: Int(frame.wireLength),
      partialChecksumStart: partial ? Int(frame.checksumStart) - Int(frame.start) : nil,
      partialChecksumOffset: partial ? Int(frame.checksumOffset) : 0,
      checksumVerified: frame.flags.contains(.checksumVerified), segmentation: frame.segmentation,
      segmentSize: Int(frame.segmentSize))
    tunnelLength = Int(frame.tunnelLength)
  }

  /// Writes the octets into `frame`, which must have room, and notes the rest in it.
  func write(to frame: inout Frame) {
    frame.setLength(octets.count)
    frame.octets.copy(from: octets, to: 0)
    frame.wireLength = UInt32(truncatingIfNeeded: wireLength)
    frame.timestamp = timestamp
    if octets.count < wireLength { frame.flags.insert(.truncated) }
    if checksumVerified { frame.flags.insert(.checksumVerified) }
    if let start = partialChecksumStart {
      frame.flags.insert(.checksumPartial)
      frame.checksumStart = frame.start + UInt32(truncatingIfNeeded: start)
      frame.checksumOffset = UInt16(truncatingIfNeeded: partialChecksumOffset)
    }
    frame.segmentation = segmentation
    frame.segmentSize = UInt16(truncatingIfNeeded: segmentSize)
    frame.tunnelLength = UInt8(truncatingIfNeeded: tunnelLength)
  }
}

/// A port in memory, for tests, benchmarks, and frames that another process has left: what is put into `inbox` comes in, what goes out is found in `outbox`.
public final class MemoryPort: Port {
  /// The longest frame that fits: a super-frame with two VLAN tags.
  public static let longestFrame = 65_560

  public let name: String
  public let capabilities: PortCapabilities
  public var mtu: Int
  public private(set) var statistics = PortStatistics()
  public var descriptor: Int32? { nil }
  /// Set by the test: nothing will be put into the inbox any more.
  public var isFinished = false
  public var isExhausted: Bool { isFinished && waiting == 0 }

  /// Whether `transmit` keeps copies in `outbox`; without, it only counts.
  public var keepsOutbox = true
  public private(set) var outbox: [MemoryFrame] = []
  /// How many frames `transmit` still takes before it refuses: for tests of a device that is behind.
  public var transmitLimit = Int.max

  private static let headroom = 256
  private let pool: FramePool
  private var inbox: [MemoryFrame] = []
  private var nextInbox = 0
  private var used = 0

  /// A port that holds up to `slots` frames at a time between `receive` and `release`.
  public init(
    name: String = "memory", mtu: Int = 1500, capabilities: PortCapabilities = [.checksum, .tcp4, .tcp6, .udp],
    slots: Int = FrameBatch.standardCapacity
  ) {
    self.name = name
    self.mtu = mtu
    self.capabilities = capabilities
    // Not a multiple of the page size: the first octets of frames would all compete for the same cache lines.
    pool = FramePool(slots: slots, slotSize: MemoryPort.headroom + MemoryPort.longestFrame + 72)
  }

  private var waiting: Int { inbox.count - nextInbox }

  /// Adds a frame to those that wait.
  public func enqueue(_ frame: MemoryFrame) {
    precondition(frame.octets.count <= MemoryPort.longestFrame)
    inbox.append(frame)
  }

  /// Adds a frame of these octets.
  public func enqueue(_ octets: [UInt8], timestamp: UInt64 = 0) {
    enqueue(MemoryFrame(octets, timestamp: timestamp))
  }

  /// Takes everything that was sent since the last call.
  public func takeOutbox() -> [MemoryFrame] {
    defer { outbox = [] }
    return outbox
  }

  public func receive(into batch: inout FrameBatch) -> Int {
    var received = 0
    while !batch.isFull, nextInbox < inbox.count, used < pool.slots {
      var frame = pool.frame(used, headroom: MemoryPort.headroom, length: 0)
      inbox[nextInbox].write(to: &frame)
      batch.append(frame)
      statistics.receivedOctets += UInt64(frame.length)
      used += 1
      nextInbox += 1
      received += 1
    }
    if nextInbox == inbox.count {
      inbox.removeAll(keepingCapacity: true)
      nextInbox = 0
    }
    statistics.receivedFrames += UInt64(received)
    return received
  }

  public func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    let count = min(indices.count, transmitLimit)
    for position in 0..<count {
      let frame = batch[indices[position]]
      statistics.sentOctets += UInt64(frame.length)
      if keepsOutbox { outbox.append(MemoryFrame(frame)) }
    }
    if transmitLimit != Int.max { transmitLimit -= count }
    statistics.sentFrames += UInt64(count)
    statistics.sendErrors += UInt64(indices.count - count)
    return count
  }

  public func release(_ batch: inout FrameBatch) {
    used = 0
    batch.removeAll()
  }
}
