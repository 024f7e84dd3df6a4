import CLinux
public import Dataplane
import Glibc

/// The sending half of a `TAPPort`: what a worker sends by that does not receive by the port. The kernel lets several write
/// to one device at once.
public final class TAPSender: Port {
  /// What became of the device, as sending shows it.
  enum Outcome { case sent, down, removed }

  public let name: String
  public let capabilities: PortCapabilities
  public let mtu: Int
  /// What was sent; nothing comes in.
  public private(set) var statistics = PortStatistics()
  public var descriptor: Int32? { nil }
  /// Only whoever receives finds out.
  public var isExhausted: Bool { false }

  private let file: SendDescriptor
  private var outcome: Outcome?

  init(to file: consuming SendDescriptor, name: String, mtu: Int, _ capabilities: PortCapabilities) {
    self.file = file
    (self.name, self.mtu, self.capabilities) = (name, mtu, capabilities)
  }

  public func receive(into batch: inout FrameBatch) -> Int { 0 }

  public func release(_ batch: inout FrameBatch) { batch.removeAll() }

  public func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    var sent = 0
    for position in 0..<indices.count {
      let frame = batch[indices[position]]
      var header = VirtioHeader(for: frame)
      let result = unsafe kalsae_tap_write(file.number, &header, frame.buffer + Int(frame.start), UInt(frame.length))
      switch -result {
      case 0:
        sent += 1
        statistics.sentOctets += UInt64(frame.length)
        outcome = .sent
      case EIO:
        // The kernel's word for a device that is down.
        outcome = .down
      case EBADFD, ENODEV:
        outcome = .removed
      default:
        break
      }
    }
    statistics.sentFrames += UInt64(sent)
    statistics.sendErrors += UInt64(indices.count - sent)
    return sent
  }

  /// What the last frames met since the last call; nil: nothing was sent.
  func takeOutcome() -> Outcome? {
    defer { outcome = nil }
    return outcome
  }
}
