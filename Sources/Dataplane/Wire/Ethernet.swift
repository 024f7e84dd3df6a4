import Addresses

/// A VLAN tag (IEEE 802.1Q, clause 9): the protocol identifier and the control information.
@frozen
public struct VLANTag: Hashable, Sendable, BitwiseCopyable {
  /// `.vlan` or `.serviceVLAN`.
  public var protocolIdentifier: EtherType
  /// Priority (3 bits), drop eligible (1 bit), identifier (12 bits).
  public var control: UInt16

  @inlinable
  public init(protocolIdentifier: EtherType = .vlan, control: UInt16) {
    self.protocolIdentifier = protocolIdentifier
    self.control = control
  }

  @inlinable
  public var identifier: UInt16 { control & 0xfff }

  @inlinable
  public var priority: UInt8 { UInt8(truncatingIfNeeded: control >> 13) }

  @inlinable
  public var isDropEligible: Bool { control & 0x1000 != 0 }
}

/// An Ethernet II header with up to two VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).
///
/// A third tag counts as payload: `etherType` is then a tag's.
@frozen
public struct EthernetHeader: ~Escapable {
  /// The frame from the destination address on, without the frame check sequence.
  public let octets: Octets
  /// 14, 18 or 22.
  public let headerLength: Int

  /// The length without tags.
  @inlinable
  public static var length: Int { 14 }

  /// Nil where the octets end inside the header.
  @inlinable
  @_lifetime(copy octets)
  public init?(_ octets: Octets) {
    guard octets.count >= 14 else { return nil }
    var length = 14
    if EtherType(rawValue: octets[u16: 12]).isTag {
      guard octets.count >= 18 else { return nil }
      length = 18
      if EtherType(rawValue: octets[u16: 16]).isTag {
        guard octets.count >= 22 else { return nil }
        length = 22
      }
    }
    self.octets = octets
    headerLength = length
  }

  @inlinable
  public var destination: MACAddress {
    get { octets[mac: 0] }
    nonmutating set { octets[mac: 0] = newValue }
  }

  @inlinable
  public var source: MACAddress {
    get { octets[mac: 6] }
    nonmutating set { octets[mac: 6] = newValue }
  }

  /// What the frame carries, behind the tags.
  @inlinable
  public var etherType: EtherType {
    get { EtherType(rawValue: octets[u16: headerLength - 2]) }
    nonmutating set { octets[u16: headerLength - 2] = newValue.rawValue }
  }

  /// 0, 1 or 2.
  @inlinable
  public var tagCount: Int { (headerLength - 14) / 4 }

  /// The tag at `index`, 0 being the outermost.
  @inlinable
  public func tag(_ index: Int) -> VLANTag {
    precondition(index >= 0 && index < tagCount)
    return VLANTag(
      protocolIdentifier: EtherType(rawValue: octets[u16: 12 + 4 * index]), control: octets[u16: 14 + 4 * index])
  }

  @inlinable
  public var payload: Octets {
    @_lifetime(copy self) get { octets.dropping(headerLength) }
  }

  /// Writes a header without tags into the first 14 octets.
  @inlinable
  public static func write(
    to octets: Octets, destination: MACAddress, source: MACAddress, etherType: EtherType
  ) {
    octets[u64: 0] = destination.rawValue << 16 | source.rawValue >> 32
    octets[u32: 8] = UInt32(truncatingIfNeeded: source.rawValue)
    octets[u16: 12] = etherType.rawValue
  }
}
