import Addresses

/// The place of a port in the data plane's table of ports.
@frozen
public struct PortIndex: Hashable, Sendable, BitwiseCopyable {
  public var rawValue: UInt16

  @inlinable
  public init(_ rawValue: UInt16) { self.rawValue = rawValue }

  /// No port.
  @inlinable
  public static var none: PortIndex { PortIndex(.max) }
}

/// What a port's far side does with frames that are not finished.
@frozen
public struct PortCapabilities: OptionSet, Hashable, Sendable {
  public var rawValue: UInt16

  @inlinable
  public init(rawValue: UInt16) { self.rawValue = rawValue }

  /// Accepts frames whose transport checksum is partial.
  public static var checksum: PortCapabilities { PortCapabilities(rawValue: 1) }
  /// Accepts TCP super-frames over IPv4.
  public static var tcp4: PortCapabilities { PortCapabilities(rawValue: 2) }
  /// Accepts TCP super-frames over IPv6.
  public static var tcp6: PortCapabilities { PortCapabilities(rawValue: 4) }
  /// Accepts UDP super-frames (USO).
  public static var udp: PortCapabilities { PortCapabilities(rawValue: 8) }

  /// Accepts TCP super-frames in tunnels whose headers are the same before every segment, but for what IP and UDP have in
  /// them: lengths, identification, the IPv4 header's checksum (`Frame.tunnelLength`).
  public static var tunnels: PortCapabilities { PortCapabilities(rawValue: 16) }

  @inlinable
  public func carries(_ segmentation: Segmentation) -> Bool {
    switch segmentation {
    case .none: true
    case .tcp4: contains(.tcp4)
    case .tcp6: contains(.tcp6)
    case .udp: contains(.udp)
    }
  }
}

/// Counters that a port keeps of itself. Written by its worker alone.
@frozen
public struct PortStatistics: Sendable, Equatable {
  public var receivedFrames: UInt64 = 0
  public var receivedOctets: UInt64 = 0
  /// Frames that the kernel dropped before the port could read them: the ring was full.
  public var kernelDrops: UInt64 = 0
  /// Frames that could not be read: too long for the buffer, a header that makes no sense.
  public var receiveErrors: UInt64 = 0
  public var sentFrames: UInt64 = 0
  public var sentOctets: UInt64 = 0
  /// Frames that the kernel refused.
  public var sendErrors: UInt64 = 0

  @inlinable
  public init() {}

  public static func + (one: PortStatistics, other: PortStatistics) -> PortStatistics {
    var sum = one
    sum.receivedFrames += other.receivedFrames
    sum.receivedOctets += other.receivedOctets
    sum.kernelDrops += other.kernelDrops
    sum.receiveErrors += other.receiveErrors
    sum.sentFrames += other.sentFrames
    sum.sentOctets += other.sentOctets
    sum.sendErrors += other.sendErrors
    return sum
  }
}

/// A place where frames come from and go to. Called from one worker only.
///
/// A worker receives a batch, processes it, hands frames to the ports that they go out by, and releases the batch to
/// the port that it came from. Frames stay in the receiving port's memory until then, so `transmit` has taken (or
/// copied) what it needs when it returns.
public protocol Port: AnyObject {
  /// The name that users know: an interface, a file, a label.
  var name: String { get }
  var capabilities: PortCapabilities { get }
  /// The octets of the largest network-layer packet (without link-layer header) that the port carries.
  var mtu: Int { get }
  var statistics: PortStatistics { get }
  /// A file descriptor that polls readable when frames wait; nil where there is nothing to wait for.
  var descriptor: Int32? { get }
  /// Whether nothing will ever come again: the end of a file, a device that is gone.
  var isExhausted: Bool { get }

  /// Fills the rest of `batch` with waiting frames and returns their number. Never blocks.
  ///
  /// Each frame has headroom of at least `Headroom.minimum` octets.
  func receive(into batch: inout FrameBatch) -> Int

  /// Sends the frames of `batch` whose positions are in `indices`, in that order, and returns how many went out.
  /// The rest are counted in `sendErrors` by the port, and dropped by the caller.
  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int

  /// Gives back the buffers of all frames that the last `receive` handed out.
  func release(_ batch: inout FrameBatch)
}

/// How much room there is before a received packet, so that any tunnel header can be pushed in place.
public enum Headroom {
  /// Ethernet with two tags (22), IPv6 (40), UDP (8), Geneve without options (8), inner Ethernet (14); rounded up.
  @inlinable
  public static var minimum: Int { 128 }
}
