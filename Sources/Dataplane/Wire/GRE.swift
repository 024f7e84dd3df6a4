/// A GRE header (RFC 2784) with the key and sequence number of RFC 2890.
@frozen
public struct GREHeader: ~Escapable {
  /// The header and all that follows: the checksum covers it.
  public let octets: Octets
  /// 4 octets, and 4 more for each of checksum, key and sequence number.
  public let headerLength: Int

  /// Which optional fields are present.
  @frozen
  public struct Fields: OptionSet, Hashable, Sendable, BitwiseCopyable {
    public var rawValue: UInt8
    @inlinable
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    @inlinable public static var checksum: Fields { Fields(rawValue: 0x80) }
    @inlinable public static var key: Fields { Fields(rawValue: 0x20) }
    @inlinable public static var sequenceNumber: Fields { Fields(rawValue: 0x10) }

    /// The length of a header with these fields.
    @inlinable
    public var headerLength: Int { 4 + 4 * (rawValue & 0xb0).nonzeroBitCount }
  }

  /// Nil where the octets end inside the header, the version is not 0, or a bit is set that changes the header in a way
  /// nobody uses any more: routing, strict source route, recursion (RFC 2784, section 2.3; TUN-2).
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    // Bits 1, 4 and 5 and the version; the rest of Reserved0 is ignored.
    guard octets.count >= 4, octets[u16: 0] & 0x4c07 == 0 else { return nil }
    let length = Fields(rawValue: octets[0]).headerLength
    guard length <= octets.count else { return nil }
    self.octets = octets
    headerLength = length
  }

  @inlinable
  public var fields: Fields { Fields(rawValue: octets[0] & 0xb0) }

  @inlinable
  public var protocolType: EtherType {
    get { EtherType(rawValue: octets[u16: 2]) }
    nonmutating set { octets[u16: 2] = newValue.rawValue }
  }

  /// Nil where the header has none.
  @inlinable
  public var checksum: UInt16? { fields.contains(.checksum) ? octets[u16: 4] : nil }

  /// Nil where the header has none.
  @inlinable
  public var key: UInt32? {
    fields.contains(.key) ? octets[u32: fields.contains(.checksum) ? 8 : 4] : nil
  }

  /// Where the sequence number is: the last four octets of the header. Nil where the header has none.
  @inlinable
  public var sequenceNumberOffset: Int? { fields.contains(.sequenceNumber) ? headerLength - 4 : nil }

  /// Nil where the header has none.
  @inlinable
  public var sequenceNumber: UInt32? { fields.contains(.sequenceNumber) ? octets[u32: headerLength - 4] : nil }

  /// Whether the checksum over header and payload is right, or absent. The octets in view must end where the packet
  /// ends.
  @inlinable
  public var isChecksumValid: Bool {
    guard fields.contains(.checksum) else { return true }
    var sum = InternetChecksum()
    sum.add(octets)
    return sum.folded == 0xffff
  }

  /// Computes the checksum over header and payload, if the header has one. The octets in view must end where the packet
  /// ends.
  @inlinable
  public func updateChecksum() {
    guard fields.contains(.checksum) else { return }
    octets[u32: 4] = 0
    var sum = InternetChecksum()
    sum.add(octets)
    octets[u16Native: 4] = sum.complement
  }

  @inlinable
  public var payload: Octets {
    @_lifetime(copy self) get { octets.dropping(headerLength) }
  }

  /// Writes a header and returns its length. A checksum field is left 0: `updateChecksum` fills it once the payload is
  /// in place.
  @inlinable
  @discardableResult
  public static func write(
    to octets: Octets, protocolType: EtherType, checksum: Bool = false, key: UInt32? = nil,
    sequenceNumber: UInt32? = nil
  ) -> Int {
    var fields: Fields = []
    var offset = 4
    if checksum {
      fields.insert(.checksum)
      octets[u32: offset] = 0
      offset += 4
    }
    if let key {
      fields.insert(.key)
      octets[u32: offset] = key
      offset += 4
    }
    if let sequenceNumber {
      fields.insert(.sequenceNumber)
      octets[u32: offset] = sequenceNumber
      offset += 4
    }
    octets[u32: 0] = UInt32(fields.rawValue) << 24 | UInt32(protocolType.rawValue)
    return offset
  }
}
