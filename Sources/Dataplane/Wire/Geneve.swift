/// A Geneve header (RFC 8926, section 3.4).
@frozen
public struct GeneveHeader: ~Escapable {
  public let octets: Octets
  /// The length of the header with its options in octets: 8 to 260.
  public let headerLength: Int

  /// The length without options.
  @inlinable
  public static var length: Int { 8 }

  /// The destination port that IANA assigned.
  @inlinable
  public static var port: UInt16 { 6081 }

  /// Nil where the octets end inside the header or the version is not 0 (TUN-4). Reserved bits are ignored.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 8 else { return nil }
    let length = 8 + Int(octets[0] & 0x3f) * 4
    guard octets[0] >> 6 == 0, length <= octets.count else { return nil }
    self.octets = octets
    headerLength = length
  }

  /// The O bit: a control packet, not for the tunnel's users.
  @inlinable
  public var isControl: Bool { octets[1] & 0x80 != 0 }

  /// The C bit: at least one option is critical.
  @inlinable
  public var hasCriticalOptions: Bool { octets[1] & 0x40 != 0 }

  @inlinable
  public var protocolType: EtherType {
    get { EtherType(rawValue: octets[u16: 2]) }
    nonmutating set { octets[u16: 2] = newValue.rawValue }
  }

  /// The virtual network identifier (VNI), 24 bits.
  @inlinable
  public var identifier: UInt32 {
    get { octets[u32: 4] >> 8 }
    nonmutating set { octets[u32: 4] = octets[u32: 4] & 0xff | newValue << 8 }
  }

  @inlinable
  public var options: GeneveOptions {
    @_lifetime(copy self) get { GeneveOptions(octets.prefix(headerLength).dropping(8)) }
  }

  @inlinable
  public var payload: Octets {
    @_lifetime(copy self) get { octets.dropping(headerLength) }
  }

  /// Writes a header without options into the first eight octets.
  @inlinable
  public static func write(to octets: Octets, protocolType: EtherType, identifier: UInt32) {
    octets[u64: 0] = UInt64(protocolType.rawValue) << 32 | UInt64(identifier & 0xff_ffff) << 8
  }
}

/// An option of a Geneve header (RFC 8926, section 3.5).
@frozen
public struct GeneveOption: ~Escapable {
  /// The whole option with its four octets of header.
  public let octets: Octets

  @inlinable
  @_lifetime(copy octets)
  init(_ octets: Octets) { self.octets = octets }

  @inlinable
  public var optionClass: UInt16 { octets[u16: 0] }

  /// The type with the critical bit, the highest.
  @inlinable
  public var type: UInt8 { octets[2] }

  /// Whether a receiver that does not know the option must drop the packet.
  @inlinable
  public var isCritical: Bool { octets[2] & 0x80 != 0 }

  @inlinable
  public var data: Octets {
    @_lifetime(copy self) get { octets.dropping(4) }
  }
}

/// The options of a Geneve header, one after the other.
@frozen
public struct GeneveOptions: ~Escapable {
  @usableFromInline var rest: Octets
  /// Whether an option reaches beyond the header; the iteration ends there.
  public private(set) var isMalformed = false

  @inlinable
  @_lifetime(copy octets)
  public init(_ octets: Octets) { rest = octets }

  @inlinable
  @_lifetime(copy self)
  public mutating func next() -> GeneveOption? {
    guard rest.count > 0 else { return nil }
    guard rest.count >= 4, 4 + Int(rest[3] & 0x1f) * 4 <= rest.count else {
      malformed()
      rest = rest.prefix(0)
      return nil
    }
    let length = 4 + Int(rest[3] & 0x1f) * 4
    let option = GeneveOption(rest.prefix(length))
    rest = rest.dropping(length)
    return option
  }

  @usableFromInline
  @_lifetime(self: copy self)
  mutating func malformed() { isMalformed = true }
}
