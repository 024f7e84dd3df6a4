/// An ICMP message for IPv4 (RFC 792).
@frozen
public struct ICMPv4Header: ~Escapable {
  /// The whole message: the checksum covers it.
  public let octets: Octets

  @inlinable
  public static var length: Int { 8 }

  @frozen
  public struct MessageType: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
    public var rawValue: UInt8
    @inlinable
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    @inlinable public static var echoReply: MessageType { MessageType(rawValue: 0) }
    @inlinable public static var destinationUnreachable: MessageType { MessageType(rawValue: 3) }
    @inlinable public static var sourceQuench: MessageType { MessageType(rawValue: 4) }
    @inlinable public static var redirect: MessageType { MessageType(rawValue: 5) }
    @inlinable public static var echoRequest: MessageType { MessageType(rawValue: 8) }
    @inlinable public static var timeExceeded: MessageType { MessageType(rawValue: 11) }
    @inlinable public static var parameterProblem: MessageType { MessageType(rawValue: 12) }
    @inlinable public static var timestampRequest: MessageType { MessageType(rawValue: 13) }
    @inlinable public static var timestampReply: MessageType { MessageType(rawValue: 14) }

    /// Whether messages of this type report an error about an embedded packet (RFC 1122, section 3.2.2).
    @inlinable
    public var isError: Bool {
      switch rawValue {
      case 3, 4, 5, 11, 12: true
      default: false
      }
    }
  }

  /// Codes of `destinationUnreachable` (RFC 792; RFC 1812, section 5.2.7.1).
  public enum Unreachable {
    @inlinable public static var net: UInt8 { 0 }
    @inlinable public static var host: UInt8 { 1 }
    @inlinable public static var `protocol`: UInt8 { 2 }
    @inlinable public static var port: UInt8 { 3 }
    @inlinable public static var fragmentationNeeded: UInt8 { 4 }
    @inlinable public static var administrativelyProhibited: UInt8 { 13 }
  }

  /// Nil where the octets end inside the eight octets that all messages start with.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 8 else { return nil }
    self.octets = octets
  }

  @inlinable
  public var type: MessageType {
    get { MessageType(rawValue: octets[0]) }
    nonmutating set { octets[0] = newValue.rawValue }
  }

  @inlinable
  public var code: UInt8 {
    get { octets[1] }
    nonmutating set { octets[1] = newValue }
  }

  @inlinable
  public var checksum: UInt16 {
    get { octets[u16: 2] }
    nonmutating set { octets[u16: 2] = newValue }
  }

  /// Of echo and timestamp messages.
  @inlinable
  public var identifier: UInt16 {
    get { octets[u16: 4] }
    nonmutating set { octets[u16: 4] = newValue }
  }

  /// Of echo and timestamp messages.
  @inlinable
  public var sequenceNumber: UInt16 {
    get { octets[u16: 6] }
    nonmutating set { octets[u16: 6] = newValue }
  }

  /// The MTU of the next hop in a fragmentation-needed message (RFC 1191, section 4).
  @inlinable
  public var nextHopMTU: UInt16 {
    get { octets[u16: 6] }
    nonmutating set { octets[u16: 6] = newValue }
  }

  /// The octets behind the first eight: in error messages the packet that the message is about.
  @inlinable
  public var payload: Octets {
    @_lifetime(copy self) get { octets.dropping(8) }
  }

  /// Whether the checksum is right. The octets in view must end where the message ends.
  @inlinable
  public var isChecksumValid: Bool {
    var sum = InternetChecksum()
    sum.add(octets)
    return sum.folded == 0xffff
  }

  /// Computes the checksum. The octets in view must end where the message ends.
  @inlinable
  public func updateChecksum() {
    octets[u16Native: 2] = 0
    var sum = InternetChecksum()
    sum.add(octets)
    octets[u16Native: 2] = sum.complement
  }

  /// Writes type, code and the second word (identifier and sequence number, or unused and MTU) with checksum 0.
  @inlinable
  public static func write(to octets: Octets, type: MessageType, code: UInt8, rest: UInt32) {
    octets[u64: 0] = UInt64(type.rawValue) << 56 | UInt64(code) << 48 | UInt64(rest)
  }
}
