/// What a port knows of a frame besides its octets.
@frozen
public struct FrameFlags: OptionSet, Sendable {
  public var rawValue: UInt8

  @inlinable
  public init(rawValue: UInt8) { self.rawValue = rawValue }

  /// The transport checksum is partial: the field at `checksumStart + checksumOffset` holds the sum of the pseudo header
  /// alone, and somebody must still add the octets from `checksumStart` to the end (TUN-9).
  public static var checksumPartial: FrameFlags { FrameFlags(rawValue: 1) }
  /// The receiving device has verified the transport checksum.
  public static var checksumVerified: FrameFlags { FrameFlags(rawValue: 2) }
  /// The kernel stripped a VLAN tag into `vlanTPID` and `vlanTCI` (TUN-10).
  public static var vlanStripped: FrameFlags { FrameFlags(rawValue: 4) }
  /// The capture holds fewer octets than were on the wire.
  public static var truncated: FrameFlags { FrameFlags(rawValue: 8) }
}

/// How a super-frame is to be cut into segments, as in `virtio_net_hdr` (virtio 1.2, section 5.1.6).
@frozen
public enum Segmentation: UInt8, Sendable {
  /// An ordinary frame.
  case none = 0
  case tcp4 = 1
  case tcp6 = 4
  /// UDP segmentation (USO).
  case udp = 5
}

/// A frame: where its octets lie and what the port knows of them. A plain value; the octets belong to the port (or to
/// the worker's scratch memory) and stay where they are while headers are pushed and pulled.
///
/// The buffer is `buffer ..< buffer + capacity`; the packet is `length` octets from `start`; what lies before is headroom.
/// 64 octets, a cache line in a batch, and what nearly every packet needs comes first.
@safe
@frozen
public struct Frame: BitwiseCopyable {
  /// The first octet of the buffer.
  public var buffer: UnsafeMutableRawPointer
  /// The offset of the packet's first octet in the buffer: the headroom.
  public var start: UInt32
  /// The number of octets of the packet that are in the buffer.
  public var length: UInt32
  /// The size of the buffer in octets.
  public var capacity: UInt32
  /// The port that the frame came in by.
  public var port: PortIndex
  public var flags: FrameFlags
  public var segmentation: Segmentation
  /// Nanoseconds since 1970 of the moment of capture; 0 where the port does not say.
  public var timestamp: UInt64
  /// Where the partial checksum starts, as an offset in the *buffer*, so that pushing headers leaves it alone.
  public var checksumStart: UInt32
  /// Where the checksum field is, from `checksumStart`.
  public var checksumOffset: UInt16
  /// The payload octets of a segment; 0 for an ordinary frame.
  public var segmentSize: UInt16
  public var vlanTPID: UInt16
  public var vlanTCI: UInt16
  /// Of a super-frame that leaves whole for a tunnel: the octets of the tunnel's headers, from the outer network layer to
  /// the inner one, which the port's far side repeats before each segment (`PortCapabilities.tunnels`). Else 0.
  public var tunnelLength: UInt8
  /// The port's own handle of the buffer.
  public var slot: UInt32
  /// The octets of the packet that were on the wire and are not in the buffer: a capture was truncated.
  @usableFromInline var missing: UInt32
  @usableFromInline var padding: UInt64 = 0

  /// A frame of `length` octets at `buffer + start`, which must stay valid until the frame is released.
  @unsafe
  @inlinable
  public init(unsafe buffer: UnsafeMutableRawPointer, capacity: Int, start: Int, length: Int, slot: Int = 0) {
    precondition(start >= 0 && length >= 0 && start + length <= capacity && capacity <= 1 << 30)
    unsafe self.buffer = buffer
    self.capacity = UInt32(truncatingIfNeeded: capacity)
    self.start = UInt32(truncatingIfNeeded: start)
    self.length = UInt32(truncatingIfNeeded: length)
    self.slot = UInt32(truncatingIfNeeded: slot)
    missing = 0
    timestamp = 0
    checksumStart = 0
    checksumOffset = 0
    segmentSize = 0
    port = PortIndex(0)
    vlanTPID = 0
    vlanTCI = 0
    flags = []
    segmentation = .none
    tunnelLength = 0
  }

  /// The length of the packet on the wire; more than `length` only where a capture was truncated.
  @inlinable
  public var wireLength: UInt32 {
    get { length &+ missing }
    set { missing = newValue > length ? newValue &- length : 0 }
  }

  /// The packet's octets. They are the buffer's and live until the frame is released, whatever becomes of this value: a
  /// view that borrowed a local frame would also put the frame on the heap (Swift 6.3.1, 17 ns).
  @inlinable
  public var octets: Octets {
    @inline(__always)
    @_lifetime(immortal)
    get { unsafe Octets(unsafe: buffer + Int(start), count: Int(length)) }
  }

  /// The octets that can still be pushed before the packet.
  @inlinable
  public var headroom: Int { Int(start) }

  /// The octets that can still be added behind the packet.
  @inlinable
  public var tailroom: Int { Int(capacity) - Int(start) - Int(length) }

  /// Moves the start `count` octets forward: pulls a header off.
  @inlinable
  public mutating func pull(_ count: Int) {
    precondition(count >= 0 && count <= Int(length))
    start &+= UInt32(truncatingIfNeeded: count)
    length &-= UInt32(truncatingIfNeeded: count)
  }

  /// Leaves `length` octets from `offset` on: pulls headers off, and cuts what follows the packet.
  @inlinable
  @inline(__always)
  public mutating func narrow(from offset: Int, length: Int) {
    precondition(offset >= 0 && length >= 0 && offset + length <= Int(self.length))
    start &+= UInt32(truncatingIfNeeded: offset)
    self.length = UInt32(truncatingIfNeeded: length)
    missing = 0
  }

  /// Moves the start `count` octets back: makes room for a header, whose octets are whatever lay there.
  @inlinable
  public mutating func push(_ count: Int) {
    precondition(count >= 0 && count <= Int(start))
    start &-= UInt32(truncatingIfNeeded: count)
    length &+= UInt32(truncatingIfNeeded: count)
  }

  /// Cuts the packet to `count` octets, or lengthens it into the tailroom.
  @inlinable
  public mutating func setLength(_ count: Int) {
    precondition(count >= 0 && Int(start) + count <= Int(capacity))
    length = UInt32(truncatingIfNeeded: count)
    missing = 0
  }
}
