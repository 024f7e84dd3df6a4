import Dataplane
import Ports

/// The virtual time of a replay: what frames that were held or made carry when they go out.
final class ReplayClock {
  var now: UInt64 = 0
}

/// A port of a replay: frames come from a capture, if there is one; those that go out are counted, and written or
/// compared if asked for.
final class ReplayPort: Port {
  let name: String
  let source: CapturePort?
  var capabilities: PortCapabilities { [] }
  let mtu: Int
  var statistics: PortStatistics {
    var all = source?.statistics ?? PortStatistics()
    all.sentFrames = sentFrames
    all.sentOctets = sentOctets
    return all
  }
  var descriptor: Int32? { nil }
  // Whether a port's file has come to its end says nothing about what it can send.
  var isExhausted: Bool { false }

  private let clock: ReplayClock
  private let sinks: [any FrameSink]
  private var sentFrames: UInt64 = 0
  private var sentOctets: UInt64 = 0

  init(name: String, mtu: Int, source: CapturePort?, sinks: [any FrameSink], clock: ReplayClock) {
    self.name = name
    self.mtu = mtu
    self.source = source
    self.sinks = sinks
    self.clock = clock
  }

  func receive(into batch: inout FrameBatch) -> Int { source?.receive(into: &batch) ?? 0 }

  func release(_ batch: inout FrameBatch) {
    if let source { source.release(&batch) } else { batch.removeAll() }
  }

  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    var octets: UInt64 = 0
    for position in 0..<indices.count { octets &+= UInt64(batch[indices[position]].length) }
    sentOctets &+= octets
    sentFrames &+= UInt64(indices.count)
    guard !sinks.isEmpty else { return indices.count }
    for position in 0..<indices.count {
      var frame = batch[indices[position]]
      // A frame goes out at the time it came in, or when it was let go.
      frame.timestamp = max(frame.timestamp, clock.now)
      for sink in sinks { sink.take(frame) }
    }
    return indices.count
  }
}

/// Where sent frames go.
protocol FrameSink: AnyObject {
  func take(_ frame: Frame)
}

/// A capture that is made when its first frame comes, or at the end.
final class FileSink: FrameSink {
  let path: String
  private var writer: CaptureWriter?
  private var failure: PortError?

  init(path: String) { self.path = path }

  func take(_ frame: Frame) {
    open()
    writer?.write(frame)
  }

  private func open() {
    guard writer == nil, failure == nil else { return }
    do { writer = try CaptureWriter(path: path) } catch { failure = error }
  }

  /// What stops the writing, if anything does.
  var problem: PortError? { failure ?? writer?.failure }

  func finish() throws(ReplayError) {
    open()
    if let failure { throw ReplayError(failure) }
    do throws(PortError) { try writer?.finish() } catch { throw ReplayError(error) }
  }
}
