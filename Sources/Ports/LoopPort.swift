public import Dataplane

/// A port without end, for benchmarks: every batch holds the same frames again, restored from templates in place;
/// what is sent is counted. Nothing is allocated after the port was made.
public final class LoopPort: Port {
  public let name: String
  public let capabilities: PortCapabilities
  public let mtu: Int
  public private(set) var statistics = PortStatistics()
  public var descriptor: Int32? { nil }
  /// How many frames are still to come.
  public private(set) var remaining: Int
  public var isExhausted: Bool { remaining == 0 }

  private static let headroom = 256
  private let pool: FramePool
  private var templates: FrameBatch
  private let originals: FramePool
  private var next = 0
  private let restored: Int

  /// A port that delivers `templates` over and over, `count` frames in all, at most all templates in one batch.
  ///
  /// `restoring`: the octets at the beginning of a frame that are written anew each time; what lies behind must not be
  /// changed by the pipeline.
  public init(
    name: String = "loop", templates frames: [MemoryFrame], count: Int = .max, mtu: Int = 1500, restoring: Int = 128,
    capabilities: PortCapabilities = [.checksum, .tcp4, .tcp6, .udp]
  ) {
    precondition(!frames.isEmpty && frames.count <= 1 << 20)
    self.name = name
    self.mtu = mtu
    self.capabilities = capabilities
    remaining = count
    restored = restoring
    let longest = frames.map(\.octets.count).max()!
    let size = (LoopPort.headroom + longest + 64 + 63) / 64 * 64
    pool = FramePool(slots: frames.count, slotSize: size)
    originals = FramePool(slots: frames.count, slotSize: (max(longest, 16) + 15) / 16 * 16)
    templates = FrameBatch(capacity: min(frames.count, 65_536))
    precondition(frames.count <= templates.capacity, "at most 65536 templates")
    for (index, frame) in frames.enumerated() {
      var original = originals.frame(index, headroom: 0, length: 0)
      frame.write(to: &original)
      var slot = pool.frame(index, headroom: LoopPort.headroom, length: 0)
      frame.write(to: &slot)
      templates.append(slot)
    }
  }

  public func receive(into batch: inout FrameBatch) -> Int {
    let count = min(batch.capacity - batch.count, templates.count, remaining)
    for _ in 0..<count {
      let frame = templates[next]
      let length = min(restored, Int(frame.length))
      frame.octets.copy(from: originals.frame(next, headroom: 0, length: length).octets, to: 0)
      batch.append(frame)
      statistics.receivedOctets += UInt64(frame.length)
      next = next + 1 == templates.count ? 0 : next + 1
    }
    remaining -= count
    statistics.receivedFrames += UInt64(count)
    return count
  }

  public func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    for position in 0..<indices.count { statistics.sentOctets += UInt64(batch[indices[position]].length) }
    statistics.sentFrames += UInt64(indices.count)
    return indices.count
  }

  public func release(_ batch: inout FrameBatch) { batch.removeAll() }
}
