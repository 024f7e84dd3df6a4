/// What a worker has to send, listed while it holds the pipeline that it shares with others and sent when it does not: the
/// kernel's work of sending takes a hundred times as long as the pipeline's.
///
/// The pipeline sees ports that only list. Frames in the memory of the port that the batch came from stay there until it is
/// released, and are sent from the batch; those that the pipeline made in memory of its own are copied, because the next worker
/// uses that again.
@safe
final class Outbox {
  /// The ports that the pipeline sees.
  private(set) var ports = PortSet()
  private var frames = FrameBatch(capacity: Outbox.capacity)
  private var arena = FrameArena(capacity: 1 << 20)
  private var listed: [ListingPort] = []
  /// Frames that a port did not take.
  private(set) var refused: [(frame: Frame, reason: DropReason)] = []

  /// The batch that is being worked on: where its list is, and its frames' buffers as they came.
  private var batch: UnsafeMutablePointer<Frame>?
  private var buffers = Memory<UInt>(count: FrameBatch.standardCapacity)
  private var received = 0

  private static var capacity: Int { 1024 }

  /// Puts a port at a place, or takes it away.
  func set(_ port: (any Port)?, at index: PortIndex) {
    ports[index] = port.map { ListingPort($0, self, capacity: Outbox.capacity) }
  }

  /// From now on frames of this batch, as they came in, stay where they are until it is released.
  func begin(_ batch: borrowing FrameBatch) {
    unsafe self.batch = batch.view.pointer
    received = batch.count
    for index in 0..<received { unsafe buffers[index] = UInt(bitPattern: batch[index].buffer) }
  }

  /// There is no batch: all frames are the pipeline's.
  func beginWithout() {
    unsafe batch = nil
    received = 0
  }

  /// Sends what is listed; `batch`: the one that `begin` was told.
  func send(_ batch: borrowing FrameBatch) {
    for port in listed {
      send(batch, port.received, port)
      port.received.removeAll()
      sendMade(port)
    }
    listed.removeAll(keepingCapacity: true)
  }

  /// Forgets all frames: to be called when those that were refused are counted, before the batch is released.
  func end() {
    refused.removeAll(keepingCapacity: true)
    frames.removeAll()
    arena.reset()
  }

  private func sendMade(_ port: ListingPort) {
    send(frames, port.made, port)
    port.made.removeAll()
  }

  private func send(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList, _ port: ListingPort) {
    guard !indices.isEmpty else { return }
    let sent = port.port.transmit(batch, indices)
    for position in sent..<max(sent, indices.count) {
      refused.append((batch[indices[position]], port.port.isExhausted ? .portDown : .transmitFull))
    }
  }

  /// Lists frames for a port; sends them at once, behind what is listed for it, where there is no room.
  fileprivate func list(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList, _ port: ListingPort) -> Int {
    let isReceived = unsafe batch.view.pointer == self.batch
    if port.received.isEmpty, port.made.isEmpty { listed.append(port) }
    if isReceived, port.made.isEmpty, indices.count <= port.received.room, stays(batch, indices) {
      // As nearly all are: the list is taken as a whole.
      port.received.append(contentsOf: indices)
      return indices.count
    }
    // All that follows must go behind it.
    describeReceived(port)
    for position in 0..<indices.count {
      let index = indices[position]
      let frame = batch[index]
      guard port.made.room > 0, !frames.isFull,
        let kept = isReceived && stays(frame, index, received, buffers.view) ? frame : copy(frame)
      else { return position + sendRest(batch, indices, from: position, port) }
      port.made.append(frames.count)
      frames.append(kept)
    }
    return indices.count
  }

  /// Whether the octets of all frames lie where they came in.
  private func stays(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Bool {
    let (frames, received, buffers) = (batch.view, received, buffers.view)
    for position in 0..<indices.count {
      let index = indices[position]
      guard stays(frames[index], index, received, buffers) else { return false }
    }
    return true
  }

  @inline(__always)
  private func stays(_ frame: Frame, _ index: Int, _ received: Int, _ buffers: MemoryView<UInt>) -> Bool {
    guard index < received else { return false }
    return unsafe UInt(bitPattern: frame.buffer) == buffers[index]
  }

  /// Puts what is listed of the batch among what was made; sends it at once where there is no room.
  private func describeReceived(_ port: ListingPort) {
    let count = port.received.count
    guard count > 0, let batch = unsafe batch else { return }
    if port.made.room >= count, frames.capacity - frames.count >= count {
      for position in 0..<count {
        port.made.append(frames.count)
        frames.append(unsafe batch[port.received[position]])
      }
    } else {
      sendMade(port)
      var rest = FrameBatch(capacity: count)
      var all = FrameList(capacity: count)
      for position in 0..<count {
        all.append(position)
        rest.append(unsafe batch[port.received[position]])
      }
      send(rest, all, port)
    }
    port.received.removeAll()
  }

  private func copy(_ frame: Frame) -> Frame? {
    guard let made = arena.frame(length: Int(frame.length)) else { return nil }
    made.octets.copy(from: frame.octets, to: 0)
    var copy = frame
    unsafe copy.buffer = made.buffer
    (copy.capacity, copy.start) = (made.capacity, made.start)
    copy.checksumStart = frame.checksumStart &- frame.start &+ made.start
    return copy
  }

  private func sendRest(
    _ batch: borrowing FrameBatch, _ indices: borrowing FrameList, from position: Int, _ port: ListingPort
  ) -> Int {
    sendMade(port)
    var rest = FrameList(capacity: max(1, indices.count - position))
    for position in position..<indices.count { rest.append(indices[position]) }
    return port.port.transmit(batch, rest)
  }
}

/// A port as the pipeline sees it that several workers share.
private final class ListingPort: Port {
  let port: any Port
  private unowned let outbox: Outbox
  /// The frames that are listed for it, in order: of the batch, and behind these of the outbox.
  var received = FrameList()
  var made: FrameList

  init(_ port: any Port, _ outbox: Outbox, capacity: Int) {
    self.port = port
    self.outbox = outbox
    made = FrameList(capacity: capacity)
  }

  var name: String { port.name }
  var capabilities: PortCapabilities { port.capabilities }
  var mtu: Int { port.mtu }
  var statistics: PortStatistics { port.statistics }
  var descriptor: Int32? { port.descriptor }
  var isExhausted: Bool { port.isExhausted }

  func receive(into batch: inout FrameBatch) -> Int { port.receive(into: &batch) }
  func release(_ batch: inout FrameBatch) { port.release(&batch) }
  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    outbox.list(batch, indices, self)
  }
}
