/// Why a packet was dropped, with its first octets, for people who look.
public struct DropSample: Sendable {
  public var timestamp: UInt64
  public var port: PortIndex
  public var reason: DropReason
  /// The octets of the whole packet.
  public var length: Int
  /// The first octets from the network-layer header on, at most `DropSample.octetCount`.
  public var octets: [UInt8]

  public static var octetCount: Int { 96 }

  public init(timestamp: UInt64, port: PortIndex, reason: DropReason, length: Int, octets: [UInt8]) {
    self.timestamp = timestamp
    self.port = port
    self.reason = reason
    self.length = length
    self.octets = octets
  }
}

/// The drops of one worker by port and reason, and the last of them. Written by the worker; read from elsewhere only at
/// a batch boundary.
struct DropCounters: ~Copyable {
  private static var stride: Int { 64 }
  private var counts = Memory<UInt64>(count: 64 * DropCounters.stride)
  private let samples = Memory<Sample>(count: 64)
  private var sampleCount = 0

  struct Sample: BitwiseCopyable {
    var timestamp: UInt64
    var port: PortIndex
    var reason: UInt8
    var octetCount: UInt8
    var length: UInt32
    var octets:
      (
        UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64
      )
  }

  init() { precondition(DropReason.allCases.count <= DropCounters.stride) }

  mutating func reserve(ports: Int) { counts.grow(to: ports * DropCounters.stride) }

  func count(_ reason: DropReason, at port: PortIndex) -> UInt64 {
    let index = Int(port.rawValue) * DropCounters.stride + Int(reason.rawValue)
    return index < counts.count ? counts[index] : 0
  }

  /// Counts packets of which nothing is left to sample.
  mutating func add(_ reason: DropReason, at port: PortIndex, count: Int) {
    let index = Int(port.rawValue) * DropCounters.stride + Int(reason.rawValue)
    if index < counts.count { counts[index] &+= UInt64(count) }
  }

  mutating func add(_ reason: DropReason, at port: PortIndex, frame: Frame, timestamp: UInt64) {
    let index = Int(port.rawValue) * DropCounters.stride + Int(reason.rawValue)
    counts[index] &+= 1
    // The first drops of a kind are all kept; of a flood, each power of two.
    let count = counts[index]
    guard count <= 8 || count & (count - 1) == 0 else { return }
    let octets = frame.octets
    let kept = min(octets.count, DropSample.octetCount)
    let position = sampleCount % samples.count
    samples[position].timestamp = timestamp
    samples[position].port = port
    samples[position].reason = reason.rawValue
    samples[position].octetCount = UInt8(kept)
    samples[position].length = frame.wireLength
    samples.octets(of: position).copy(from: octets.prefix(kept), to: MemoryLayout<Sample>.offset(of: \.octets)!)
    sampleCount += 1
  }

  /// The samples, oldest first.
  var recent: [DropSample] {
    (max(0, sampleCount - samples.count)..<sampleCount).map { number in
      let position = number % samples.count
      let sample = samples[position]
      let start = MemoryLayout<Sample>.offset(of: \.octets)!
      return DropSample(
        timestamp: sample.timestamp, port: sample.port, reason: DropReason(rawValue: sample.reason)!,
        length: Int(sample.length),
        octets: samples.octets(of: position).dropping(start).prefix(Int(sample.octetCount)).array)
    }
  }
}
