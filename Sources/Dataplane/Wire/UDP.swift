/// A UDP header (RFC 768).
@frozen
public struct UDPHeader: ~Escapable {
  public let octets: Octets

  @inlinable
  public static var length: Int { 8 }

  /// Nil where the octets end inside the header. The length field is not looked at: see `hasValidLength`.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 8 else { return nil }
    self.octets = octets
  }

  /// Whether the length field covers the header and does not exceed the octets in view.
  @inlinable
  public var hasValidLength: Bool { datagramLength >= 8 && datagramLength <= octets.count }

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

  /// Header and payload in octets.
  @inlinable
  public var datagramLength: Int {
    get { Int(octets[u16: 4]) }
    nonmutating set { octets[u16: 4] = UInt16(truncatingIfNeeded: newValue) }
  }

  /// 0 means that the sender computed none.
  @inlinable
  public var checksum: UInt16 {
    get { octets[u16: 6] }
    nonmutating set { octets[u16: 6] = newValue }
  }

  /// What the datagram carries, as far as the octets in view go.
  @inlinable
  public var payload: Octets {
    @_lifetime(copy self) get { octets.prefix(max(min(datagramLength, octets.count), 8)).dropping(8) }
  }

  /// Writes a header with checksum 0 into the first eight octets. `length` counts header and payload.
  @inlinable
  public static func write(to octets: Octets, sourcePort: UInt16, destinationPort: UInt16, length: Int) {
    precondition(length >= 8 && length <= 65535)
    octets[u64: 0] =
      UInt64(sourcePort) << 48 | UInt64(destinationPort) << 32 | UInt64(truncatingIfNeeded: length) << 16
  }
}
