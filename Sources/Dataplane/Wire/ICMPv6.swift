/// An ICMPv6 message (RFC 4443).
@frozen
public struct ICMPv6Header: ~Escapable {
  /// The whole message: the checksum covers it.
  public let octets: Octets

  @inlinable
  public static var length: Int { 8 }

  @frozen
  public struct MessageType: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
    public var rawValue: UInt8
    @inlinable
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    @inlinable public static var destinationUnreachable: MessageType { MessageType(rawValue: 1) }
    @inlinable public static var packetTooBig: MessageType { MessageType(rawValue: 2) }
    @inlinable public static var timeExceeded: MessageType { MessageType(rawValue: 3) }
    @inlinable public static var parameterProblem: MessageType { MessageType(rawValue: 4) }
    @inlinable public static var echoRequest: MessageType { MessageType(rawValue: 128) }
    @inlinable public static var echoReply: MessageType { MessageType(rawValue: 129) }
    @inlinable public static var routerSolicitation: MessageType { MessageType(rawValue: 133) }
    @inlinable public static var routerAdvertisement: MessageType { MessageType(rawValue: 134) }
    @inlinable public static var neighborSolicitation: MessageType { MessageType(rawValue: 135) }
    @inlinable public static var neighborAdvertisement: MessageType { MessageType(rawValue: 136) }
    @inlinable public static var redirect: MessageType { MessageType(rawValue: 137) }

    /// Whether messages of this type report an error about an embedded packet (RFC 4443, section 2.1).
    @inlinable
    public var isError: Bool { rawValue < 128 }

    /// Whether messages of this type belong to neighbour discovery (RFC 4861).
    @inlinable
    public var isNeighborDiscovery: Bool { rawValue >= 133 && rawValue <= 137 }
  }

  /// Codes of `destinationUnreachable` (RFC 4443, section 3.1).
  public enum Unreachable {
    @inlinable public static var noRoute: UInt8 { 0 }
    @inlinable public static var administrativelyProhibited: UInt8 { 1 }
    @inlinable public static var address: UInt8 { 3 }
    @inlinable public static var port: UInt8 { 4 }
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

  /// Of echo messages.
  @inlinable
  public var identifier: UInt16 {
    get { octets[u16: 4] }
    nonmutating set { octets[u16: 4] = newValue }
  }

  /// Of echo messages.
  @inlinable
  public var sequenceNumber: UInt16 {
    get { octets[u16: 6] }
    nonmutating set { octets[u16: 6] = newValue }
  }

  /// The MTU of the next hop in a packet-too-big message (RFC 4443, section 3.2).
  @inlinable
  public var mtu: UInt32 {
    get { octets[u32: 4] }
    nonmutating set { octets[u32: 4] = newValue }
  }

  /// The octets behind the first eight: in error messages the packet that the message is about.
  @inlinable
  public var payload: Octets {
    @_lifetime(copy self) get { octets.dropping(8) }
  }

  /// Writes type, code and the second word (identifier and sequence number, MTU, or flags) with checksum 0.
  @inlinable
  public static func write(to octets: Octets, type: MessageType, code: UInt8, rest: UInt32) {
    octets[u64: 0] = UInt64(type.rawValue) << 56 | UInt64(code) << 48 | UInt64(rest)
  }
}
