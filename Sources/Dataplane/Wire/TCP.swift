/// The control bits of a TCP header (RFC 9293, section 3.1).
@frozen
public struct TCPFlags: OptionSet, Hashable, Sendable, BitwiseCopyable {
  public var rawValue: UInt8

  @inlinable
  public init(rawValue: UInt8) { self.rawValue = rawValue }

  @inlinable public static var fin: TCPFlags { TCPFlags(rawValue: 0x01) }
  @inlinable public static var syn: TCPFlags { TCPFlags(rawValue: 0x02) }
  @inlinable public static var rst: TCPFlags { TCPFlags(rawValue: 0x04) }
  @inlinable public static var psh: TCPFlags { TCPFlags(rawValue: 0x08) }
  @inlinable public static var ack: TCPFlags { TCPFlags(rawValue: 0x10) }
  @inlinable public static var urg: TCPFlags { TCPFlags(rawValue: 0x20) }
  /// ECN echo (RFC 3168).
  @inlinable public static var ece: TCPFlags { TCPFlags(rawValue: 0x40) }
  /// Congestion window reduced (RFC 3168).
  @inlinable public static var cwr: TCPFlags { TCPFlags(rawValue: 0x80) }
}

/// A TCP header (RFC 9293, section 3.1).
@frozen
public struct TCPHeader: ~Escapable {
  public let octets: Octets
  /// The length of the header with its options in octets: 20 to 60.
  public let headerLength: Int

  /// The length without options.
  @inlinable
  public static var length: Int { 20 }

  /// Nil where the octets end inside the header or the data offset is too small.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 20 else { return nil }
    let length = Int(octets[12] >> 4) * 4
    guard length >= 20, length <= octets.count else { return nil }
    self.octets = octets
    headerLength = length
  }

  @inlinable
  public var sourcePort: UInt16 {
    get { octets[u16: 0] }
    nonmutating set { octets[u16: 0] = newValue }
  }

  @inlinable
  public var destinationPort: UInt16 {
    get { octets[u16: 2] }
    nonmutating set { octets[u16: 2] = newValue }
  }

  @inlinable
  public var sequenceNumber: UInt32 {
    get { octets[u32: 4] }
    nonmutating set { octets[u32: 4] = newValue }
  }

  @inlinable
  public var acknowledgmentNumber: UInt32 {
    get { octets[u32: 8] }
    nonmutating set { octets[u32: 8] = newValue }
  }

  @inlinable
  public var flags: TCPFlags {
    get { TCPFlags(rawValue: octets[13]) }
    nonmutating set { octets[13] = newValue.rawValue }
  }

  @inlinable
  public var window: UInt16 {
    get { octets[u16: 14] }
    nonmutating set { octets[u16: 14] = newValue }
  }

  @inlinable
  public var checksum: UInt16 {
    get { octets[u16: 16] }
    nonmutating set { octets[u16: 16] = newValue }
  }

  @inlinable
  public var urgentPointer: UInt16 {
    get { octets[u16: 18] }
    nonmutating set { octets[u16: 18] = newValue }
  }

  @inlinable
  public var options: TCPOptions {
    @_lifetime(copy self) get { TCPOptions(octets.prefix(headerLength).dropping(20)) }
  }

  @inlinable
  public var payload: Octets {
    @_lifetime(copy self) get { octets.dropping(headerLength) }
  }

  /// Writes a header without options and with checksum 0 into the first 20 octets.
  @inlinable
  public static func write(
    to octets: Octets, sourcePort: UInt16, destinationPort: UInt16, sequenceNumber: UInt32,
    acknowledgmentNumber: UInt32, flags: TCPFlags, window: UInt16
  ) {
    octets[u16: 0] = sourcePort
    octets[u16: 2] = destinationPort
    octets[u32: 4] = sequenceNumber
    octets[u32: 8] = acknowledgmentNumber
    octets[u16: 12] = 0x5000 | UInt16(flags.rawValue)
    octets[u16: 14] = window
    octets[u32: 16] = 0
  }
}

/// An option of a TCP header (RFC 9293, section 3.2). The accessors are nil for an option of another kind or length.
@frozen
public struct TCPOption: ~Escapable {
  public let kind: UInt8
  /// The whole option with kind and length.
  public let octets: Octets

  @inlinable
  @_lifetime(copy octets)
  init(kind: UInt8, octets: Octets) {
    self.kind = kind
    self.octets = octets
  }

  @inlinable
  public var maximumSegmentSize: UInt16? { kind == 2 && octets.count == 4 ? octets[u16: 2] : nil }

  /// The shift count, at most 14 (RFC 7323, section 2.3).
  @inlinable
  public var windowScale: UInt8? { kind == 3 && octets.count == 3 ? min(octets[2], 14) : nil }

  @inlinable
  public var isSACKPermitted: Bool { kind == 4 && octets.count == 2 }

  /// The number of blocks of a selective acknowledgment (RFC 2018, section 3).
  @inlinable
  public var sackBlockCount: Int? { kind == 5 && (octets.count - 2) % 8 == 0 ? (octets.count - 2) / 8 : nil }

  /// The left and right edge of a block of a selective acknowledgment.
  @inlinable
  public func sackBlock(_ index: Int) -> (left: UInt32, right: UInt32) {
    (octets[u32: 2 + 8 * index], octets[u32: 6 + 8 * index])
  }

  /// RFC 7323, section 3.2.
  @inlinable
  public var timestamps: (value: UInt32, echoReply: UInt32)? {
    kind == 8 && octets.count == 10 ? (octets[u32: 2], octets[u32: 6]) : nil
  }
}

/// The options of a TCP header, one after the other. No-operation options are left out.
@frozen
public struct TCPOptions: ~Escapable {
  @usableFromInline var rest: Octets
  /// Whether an option reaches beyond the header; the iteration ends there.
  public private(set) var isMalformed = false

  @inlinable
  @_lifetime(copy octets)
  public init(_ octets: Octets) { rest = octets }

  @inlinable
  @_lifetime(copy self)
  public mutating func next() -> TCPOption? {
    while rest.count > 0 {
      let kind = rest[0]
      if kind == 0 { break }
      if kind == 1 {
        rest = rest.dropping(1)
        continue
      }
      guard rest.count >= 2, rest[1] >= 2, Int(rest[1]) <= rest.count else {
        malformed()
        break
      }
      let option = TCPOption(kind: kind, octets: rest.prefix(Int(rest[1])))
      rest = rest.dropping(Int(rest[1]))
      return option
    }
    rest = rest.prefix(0)
    return nil
  }

  @usableFromInline
  @_lifetime(self: copy self)
  mutating func malformed() { isMalformed = true }
}
