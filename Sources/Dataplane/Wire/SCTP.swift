import CDataplane

/// An SCTP packet (RFC 9260, section 3).
@frozen
public struct SCTPHeader: ~Escapable {
  /// The whole packet: the checksum covers it.
  public let octets: Octets

  /// The length of the common header.
  @inlinable
  public static var length: Int { 12 }

  /// Nil where the octets end inside the common header.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 12 else { return nil }
    self.octets = octets
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
  public var verificationTag: UInt32 {
    get { octets[u32: 4] }
    nonmutating set { octets[u32: 4] = newValue }
  }

  /// The checksum as a number: the CRC32c goes onto the wire lowest octet first (RFC 9260, appendix A).
  @inlinable
  public var checksum: UInt32 {
    get { octets[u32: 8].byteSwapped }
    nonmutating set { octets[u32: 8] = newValue.byteSwapped }
  }

  /// The CRC32c of the packet with zeros in place of the checksum. The octets in view must end where the packet ends.
  @inlinable
  public var computedChecksum: UInt32 {
    let ports = kalsae_crc32c_zeros(octets.prefix(8).crc32c(continuing: .max))
    return ~octets.dropping(12).crc32c(continuing: ports)
  }

  @inlinable
  public var isChecksumValid: Bool { checksum == computedChecksum }

  @inlinable
  public func updateChecksum() { checksum = computedChecksum }

  @inlinable
  public var chunks: SCTPChunks {
    @_lifetime(copy self) get { SCTPChunks(octets.dropping(12)) }
  }

  /// Writes a common header with checksum 0 into the first twelve octets.
  @inlinable
  public static func write(to octets: Octets, sourcePort: UInt16, destinationPort: UInt16, verificationTag: UInt32) {
    octets[u16: 0] = sourcePort
    octets[u16: 2] = destinationPort
    octets[u32: 4] = verificationTag
    octets[u32: 8] = 0
  }
}

/// A chunk of an SCTP packet (RFC 9260, section 3.2).
@frozen
public struct SCTPChunk: ~Escapable {
  @frozen
  public struct ChunkType: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
    public var rawValue: UInt8
    @inlinable
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    @inlinable public static var data: ChunkType { ChunkType(rawValue: 0) }
    @inlinable public static var initiation: ChunkType { ChunkType(rawValue: 1) }
    @inlinable public static var initiationAcknowledgment: ChunkType { ChunkType(rawValue: 2) }
    @inlinable public static var abort: ChunkType { ChunkType(rawValue: 6) }
    @inlinable public static var shutdown: ChunkType { ChunkType(rawValue: 7) }
    @inlinable public static var shutdownComplete: ChunkType { ChunkType(rawValue: 14) }
  }

  /// The whole chunk without its padding.
  public let octets: Octets

  @inlinable
  @_lifetime(copy octets)
  init(_ octets: Octets) { self.octets = octets }

  @inlinable
  public var type: ChunkType { ChunkType(rawValue: octets[0]) }

  @inlinable
  public var flags: UInt8 { octets[1] }

  @inlinable
  public var value: Octets {
    @_lifetime(copy self) get { octets.dropping(4) }
  }
}

/// The chunks of an SCTP packet, one after the other.
@frozen
public struct SCTPChunks: ~Escapable {
  @usableFromInline var rest: Octets
  /// Whether a chunk reaches beyond the packet; the iteration ends there.
  public private(set) var isMalformed = false

  @inlinable
  @_lifetime(copy octets)
  public init(_ octets: Octets) { rest = octets }

  @inlinable
  @_lifetime(copy self)
  public mutating func next() -> SCTPChunk? {
    guard rest.count > 0 else { return nil }
    guard rest.count >= 4, rest[u16: 2] >= 4, Int(rest[u16: 2]) <= rest.count else {
      malformed()
      rest = rest.prefix(0)
      return nil
    }
    let length = Int(rest[u16: 2])
    let chunk = SCTPChunk(rest.prefix(length))
    // The padding to a multiple of four is not counted in the length, and may be missing at the end.
    rest = rest.dropping(min((length + 3) & ~3, rest.count))
    return chunk
  }

  @usableFromInline
  @_lifetime(self: copy self)
  mutating func malformed() { isMalformed = true }
}
