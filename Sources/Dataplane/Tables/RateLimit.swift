/// How much may pass a port in one direction, as whole frames: a token bucket.
public struct RateLimit: Sendable, Hashable {
  /// At least 64, which is as good as nothing.
  public var bitsPerSecond: Int
  /// What may pass at once after a pause, in bits.
  public var burstBits: Int

  public init(bitsPerSecond: Int, burstBits: Int) {
    self.bitsPerSecond = bitsPerSecond
    self.burstBits = burstBits
  }
}

/// A limit as the packet path computes with it: in time. All zero: no limit.
struct PacedRate: BitwiseCopyable {
  /// The time that a bit takes, in 2⁻²⁰ ns.
  var timePerBit: UInt64 = 0
  /// The time that the burst takes, in nanoseconds.
  var burst: UInt64 = 0

  init() {}

  init(_ limit: RateLimit?) {
    guard let limit else { return }
    timePerBit = UInt64(1_000_000_000 << 20) / UInt64(max(limit.bitsPerSecond, 64))
    burst = time(bits: UInt64(max(limit.burstBits, 0)))
  }

  var isLimit: Bool { timePerBit != 0 }

  /// The time that so many bits take, in nanoseconds.
  @inline(__always)
  func time(bits: UInt64) -> UInt64 {
    let (product, overflow) = bits.multipliedReportingOverflow(by: timePerBit)
    return overflow ? UInt64.max >> 20 : product >> 20
  }
}

/// The limits of a port, by what the data plane does there.
struct PortLimits: BitwiseCopyable {
  var send = PacedRate()
  var receive = PacedRate()
}

/// Until when what has passed a port takes, at its rates.
struct PortPace: BitwiseCopyable {
  private var send: UInt64 = 0
  private var receive: UInt64 = 0

  mutating func sends(_ octets: UInt32, at now: UInt64, _ rate: PacedRate) -> Bool {
    PortPace.admits(octets, at: now, rate, &send)
  }

  mutating func receives(_ octets: UInt32, at now: UInt64, _ rate: PacedRate) -> Bool {
    PortPace.admits(octets, at: now, rate, &receive)
  }

  /// Whether a frame may pass. One that begins within the burst passes whole, and those behind it wait the longer: a
  /// super-frame may be larger than the burst.
  private static func admits(_ octets: UInt32, at now: UInt64, _ rate: PacedRate, _ until: inout UInt64) -> Bool {
    guard rate.isLimit else { return true }
    let start = max(until, now)
    guard start - now < max(rate.burst, 1) else { return false }
    until = start &+ rate.time(bits: UInt64(octets) << 3)
    return true
  }
}
