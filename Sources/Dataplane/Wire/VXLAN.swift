/// A VXLAN header (RFC 7348, section 5).
@frozen
public struct VXLANHeader: ~Escapable {
  public let octets: Octets

  @inlinable
  public static var length: Int { 8 }

  /// The destination port that IANA assigned.
  @inlinable
  public static var port: UInt16 { 4789 }

  /// Nil where the octets end inside the header.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 8 else { return nil }
    self.octets = octets
  }

  /// The I flag. All other bits are ignored when received (TUN-3).
  @inlinable
  public var isIdentifierValid: Bool { octets[0] & 0x08 != 0 }

  /// The VXLAN network identifier (VNI), 24 bits.
  @inlinable
  public var identifier: UInt32 {
    get { octets[u32: 4] >> 8 }
    nonmutating set { octets[u32: 4] = octets[u32: 4] & 0xff | newValue << 8 }
  }

  /// The inner Ethernet frame.
  @inlinable
  public var payload: Octets {
    @_lifetime(copy self) get { octets.dropping(8) }
  }

  /// Writes a header into the first eight octets: I flag set, all other bits zero (TUN-3).
  @inlinable
  public static func write(to octets: Octets, identifier: UInt32) {
    octets[u64: 0] = 0x0800_0000_0000_0000 | UInt64(identifier & 0xff_ffff) << 8
  }
}
