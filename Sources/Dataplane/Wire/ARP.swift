import Addresses

/// An ARP packet for IPv4 over Ethernet (RFC 826).
@frozen
public struct ARPPacket: ~Escapable {
  public let octets: Octets

  @inlinable
  public static var length: Int { 28 }

  /// What the sender wants (the field `ar$op`).
  @frozen
  public struct Operation: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
    public var rawValue: UInt16
    @inlinable
    public init(rawValue: UInt16) { self.rawValue = rawValue }
    @inlinable public static var request: Operation { Operation(rawValue: 1) }
    @inlinable public static var reply: Operation { Operation(rawValue: 2) }
  }

  /// Nil where the octets end too early or the packet is not about IPv4 over Ethernet.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    // Hardware 1, protocol 0x0800, lengths 6 and 4.
    guard octets.count >= 28, octets[u48: 0] == 0x0001_0800_0604 else { return nil }
    self.octets = octets
  }

  @inlinable
  public var operation: Operation {
    get { Operation(rawValue: octets[u16: 6]) }
    nonmutating set { octets[u16: 6] = newValue.rawValue }
  }

  @inlinable
  public var senderHardwareAddress: MACAddress {
    get { octets[mac: 8] }
    nonmutating set { octets[mac: 8] = newValue }
  }

  @inlinable
  public var senderProtocolAddress: IPv4Address {
    get { octets[ipv4: 14] }
    nonmutating set { octets[ipv4: 14] = newValue }
  }

  @inlinable
  public var targetHardwareAddress: MACAddress {
    get { octets[mac: 18] }
    nonmutating set { octets[mac: 18] = newValue }
  }

  @inlinable
  public var targetProtocolAddress: IPv4Address {
    get { octets[ipv4: 24] }
    nonmutating set { octets[ipv4: 24] = newValue }
  }

  /// Whether the sender only asks if its future address is free (RFC 5227, section 1.1).
  @inlinable
  public var isProbe: Bool { operation == .request && senderProtocolAddress == .any }

  /// Whether the sender announces its own address (RFC 5227, section 1.1).
  @inlinable
  public var isAnnouncement: Bool { senderProtocolAddress == targetProtocolAddress }

  /// Writes a packet into the first 28 octets.
  @inlinable
  public static func write(
    to octets: Octets, operation: Operation, senderHardwareAddress: MACAddress, senderProtocolAddress: IPv4Address,
    targetHardwareAddress: MACAddress, targetProtocolAddress: IPv4Address
  ) {
    octets[u64: 0] = 0x0001_0800_0604_0000 | UInt64(operation.rawValue)
    octets[mac: 8] = senderHardwareAddress
    octets[ipv4: 14] = senderProtocolAddress
    octets[mac: 18] = targetHardwareAddress
    octets[ipv4: 24] = targetProtocolAddress
  }
}
