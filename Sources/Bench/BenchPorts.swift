import Dataplane

/// Hands out the same buffers again and again, each refilled from the packet of the next flow. Filling is not part of
/// what is timed: a network card would have done it.
final class SourcePort: Port {
  let name = "source"
  let capabilities: PortCapabilities = []
  let mtu = 65535
  let statistics = PortStatistics()
  let descriptor: Int32? = nil
  let isExhausted = false

  private let templates: [[UInt8]]
  private var arena: FrameArena
  private var frames: [Frame] = []
  private var next = 0
  private let sink: SinkPort

  /// A port that delivers `templates` in turn, in batches of `batch` frames; what is sent by it goes to `sink`.
  init(templates: [[UInt8]], batch: Int, sink: SinkPort) {
    self.sink = sink
    precondition(!templates.isEmpty)
    self.templates = templates
    let longest = templates.map(\.count).max()!
    arena = FrameArena(capacity: batch * (longest + 320))
    for _ in 0..<batch { frames.append(arena.frame(length: longest, headroom: 192)!) }
  }

  /// Writes the packets of the next flows into the buffers.
  func refill() {
    for index in frames.indices {
      let template = templates[next]
      frames[index].setLength(template.count)
      frames[index].octets.copy(from: template, to: 0)
      next = next + 1 == templates.count ? 0 : next + 1
    }
  }

  func receive(into batch: inout FrameBatch) -> Int {
    for frame in frames { batch.append(frame) }
    return frames.count
  }

  /// What the buffers hold.
  var current: [[UInt8]] { frames.map { $0.octets.array } }

  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int { sink.transmit(batch, indices) }

  func release(_ batch: inout FrameBatch) { batch.removeAll() }
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
