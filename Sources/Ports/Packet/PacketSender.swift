import CLinux
public import Dataplane
import Glibc

/// The sending half of an `AFPacketPort`: what a worker sends by that does not receive by the port. The kernel lets several
/// send by one socket at once.
public final class PacketSender: Port {
  public let name: String
  public let capabilities: PortCapabilities
  public let mtu: Int
  /// What was sent; nothing comes in.
  public private(set) var statistics = PortStatistics()
  public var descriptor: Int32? { nil }
  /// Only whoever receives finds out.
  public var isExhausted: Bool { false }

  private let socket: SendDescriptor
  private let queue = TransmitQueue(headerLength: 10)
  private var hasFailed = false

  init(to socket: consuming SendDescriptor, name: String, mtu: Int, _ capabilities: PortCapabilities) {
    self.socket = socket
    (self.name, self.mtu, self.capabilities) = (name, mtu, capabilities)
  }

  public func receive(into batch: inout FrameBatch) -> Int { 0 }

  public func release(_ batch: inout FrameBatch) { batch.removeAll() }

  public func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    var sent = 0
    var position = 0
    while position < indices.count {
      let count = min(indices.count - position, TransmitQueue.capacity)
      for i in 0..<count { queue.set(batch[indices[position + i]], at: i) }
      sent += send(count, batch, indices, from: position)
      position += count
    }
    return sent
  }

  /// Whether the device was found down or gone since the last call.
  func takeFailure() -> Bool {
    defer { hasFailed = false }
    return hasFailed
  }

  /// Sends what is in the queue, past frames that the kernel refuses.
  private func send(
    _ count: Int, _ batch: borrowing FrameBatch, _ indices: borrowing FrameList, from position: Int
  ) -> Int {
    var next = 0
    var sent = 0
    var patience = 5
    while next < count {
      let result = queue.send(next..<count, on: socket.number)
      if result > 0 {
        for i in next..<next + result { statistics.sentOctets += UInt64(batch[indices[position + i]].length) }
        statistics.sentFrames += UInt64(result)
        sent += result
        next += result
        continue
      }
      switch Int32(truncatingIfNeeded: -result) {
      case EAGAIN, ENOBUFS:
        // The device is behind. Waiting a little keeps the order; waiting long would hold up every other port.
        if patience > 0 {
          patience -= 1
          _ = kalsae_poll_writable(socket.number, 1)
          continue
        }
        statistics.sendErrors += UInt64(count - next)
        return sent
      case ENETDOWN, ENXIO, ENODEV:
        hasFailed = true
        statistics.sendErrors += UInt64(count - next)
        return sent
      default:
        statistics.sendErrors += 1
        next += 1
      }
    }
    return sent
  }
}
