import Dataplane

/// The packets of a benchmark's flows: what differs from flow to flow lies one behind the other, what is the same in all
/// of them once. A million flows of 64 KiB frames need no more than their headers.
struct PacketSet {
  /// The octets of each frame that may differ.
  static let headLength = 128

  let count: Int
  /// The octets of a frame.
  let length: Int
  private let headLength: Int
  private var heads: [UInt8] = []
  private var tail: [UInt8] = []

  /// The packets that `packet` makes for flows 0 up to but not including `count`, which are all of one length and differ
  /// in their first octets only.
  init(count: Int, _ packet: (Int) -> [UInt8]) {
    precondition(count > 0)
    self.count = count
    let first = packet(0)
    length = first.count
    headLength = min(length, PacketSet.headLength)
    tail = Array(first.dropFirst(headLength))
    heads.reserveCapacity(count * headLength)
    for flow in 0..<count {
      let octets = flow == 0 ? first : packet(flow)
      precondition(octets.count == length && octets.dropFirst(headLength).elementsEqual(tail))
      heads += octets.prefix(headLength)
    }
  }

  /// The frame of a flow.
  func octets(_ flow: Int) -> [UInt8] { heads[flow * headLength..<(flow + 1) * headLength] + tail }

  /// Writes the packet of a flow into a frame; `isWhole`: also what is the same in all.
  @inline(__always)
  func write(_ flow: Int, to frame: inout Frame, isWhole: Bool) {
    frame.setLength(length)
    frame.octets.copy(from: heads, at: flow * headLength, count: headLength, to: 0)
    if isWhole, !tail.isEmpty { frame.octets.copy(from: tail, to: headLength) }
  }
}

/// Hands out the same buffers again and again, each refilled from the packet of the next flow. Filling is not part of
/// what is timed: a network card would have done it.
final class SourcePort: Port {
  let name = "source"
  let capabilities: PortCapabilities = []
  let mtu = 65535
  let statistics = PortStatistics()
  let descriptor: Int32? = nil
  let isExhausted = false

  private let packets: PacketSet
  private var arena: FrameArena
  private var fresh: [Frame] = []
  private var frames: FrameBatch
  private var next = 0
  private let sink: SinkPort

  /// A port that delivers `packets` in turn, in batches of `batch` frames; what is sent by it goes to `sink`.
  init(_ packets: PacketSet, batch: Int, sink: SinkPort) {
    self.sink = sink
    self.packets = packets
    arena = FrameArena(capacity: batch * (packets.length + 320))
    for _ in 0..<batch { fresh.append(arena.frame(length: packets.length, headroom: 192)!) }
    frames = FrameBatch(capacity: batch)
    for frame in fresh { frames.append(frame) }
    refill(isWhole: true)
    next = 0
  }

  /// Writes the packets of the next flows into the buffers; `isWhole`: also what no stage is expected to change.
  func refill(isWhole: Bool) {
    for index in 0..<frames.count {
      frames[index] = fresh[index]
      packets.write(next, to: &frames[index], isWhole: isWhole)
      next = next + 1 == packets.count ? 0 : next + 1
    }
  }

  func receive(into batch: inout FrameBatch) -> Int {
    if frames[0].port != batch.ingress {
      // The first time; a network card's port would write it with the rest.
      for index in 0..<frames.count {
        fresh[index].port = batch.ingress
        frames[index].port = batch.ingress
      }
    }
    // The frames are described already, as those of a network card's port are when it has received them: not once more.
    precondition(batch.count == 0)
    swap(&batch, &frames)
    return batch.count
  }

  /// Whether not all packets of another batch would be those of flows that had no turn since `restart`.
  var isAtEnd: Bool { next + frames.count > packets.count || next == 0 }

  /// Begins with the first flow again.
  func restart() { next = 0 }

  /// What the buffers hold.
  var current: [[UInt8]] { (0..<frames.count).map { frames[$0].octets.array } }

  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int { sink.transmit(batch, indices) }

  func release(_ batch: inout FrameBatch) {
    swap(&batch, &frames)
    batch.removeAll()
  }
}

/// Takes what is sent, and keeps copies when asked.
final class SinkPort: Port {
  let name: String
  let capabilities: PortCapabilities = []
  let mtu = 65535
  private(set) var statistics = PortStatistics()
  let descriptor: Int32? = nil
  let isExhausted = false
  var isKeeping = false
  private(set) var kept: [[UInt8]] = []

  init(name: String) { self.name = name }

  func receive(into batch: inout FrameBatch) -> Int { 0 }

  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    statistics.sentFrames += UInt64(indices.count)
    if isKeeping {
      for position in 0..<indices.count { kept.append(batch[indices[position]].octets.array) }
    }
    return indices.count
  }

  func release(_ batch: inout FrameBatch) {}

  func takeKept() -> [[UInt8]] {
    defer { kept = [] }
    return kept
  }
}
