/// A 48-bit Ethernet address (IEEE 802).
@frozen
public struct MACAddress: Hashable, Sendable {
  /// The address as a number: the first octet on the wire is bits 47 to 40. The upper 16 bits are zero.
  public var rawValue: UInt64

  @inlinable
  public init(rawValue: UInt64) { self.rawValue = rawValue & 0xffff_ffff_ffff }

  /// ff:ff:ff:ff:ff:ff
  @inlinable
  public static var broadcast: MACAddress { MACAddress(rawValue: 0xffff_ffff_ffff) }

  /// 00:00:00:00:00:00
  @inlinable
  public static var zero: MACAddress { MACAddress(rawValue: 0) }

  /// Whether the group bit is set: multicast or broadcast.
  @inlinable
  public var isGroup: Bool { rawValue >> 40 & 1 == 1 }

  /// The group address that an IPv6 multicast destination is sent to (RFC 2464, section 7).
  @inlinable
  public init(multicast address: IPv6Address) { self.init(rawValue: 0x3333_0000_0000 | address.low & 0xffff_ffff) }
}

extension MACAddress: LosslessStringConvertible {
  /// Reads six two-digit hexadecimal numbers separated by colons.
  public init?(_ text: String) { self.init(parsing: text) }

  /// Reads the text form out of a part of a string.
  public init?(parsing text: some StringProtocol) {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 6 else { return nil }
    var value: UInt64 = 0
    for part in parts {
      // The standard library reads signs too.
      guard part.utf8.count == 2, part.first != "+", part.first != "-", let byte = UInt8(part, radix: 16) else {
        return nil
      }
      value = value << 8 | UInt64(byte)
    }
    rawValue = value
  }

  public var description: String {
    (0..<6).map { index in
      let octet = rawValue >> (40 - 8 * UInt64(index)) & 0xff
      return (octet < 16 ? "0" : "") + String(octet, radix: 16)
    }.joined(separator: ":")
  }
}

extension MACAddress {
  /// A locally administered unicast address made from a name: the same name gives the same address on every node.
  /// (NODE-5: the VTEP's address is derived from the node's name.)
  public init(derivedFrom name: String) {
    // FNV-1a: stable across processes, unlike `Hasher`.
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
    hash ^= hash >> 32
    self.init(rawValue: hash & ~(0x3 << 40) | 0x2 << 40)
  }

  /// The address of a pod whose own is not recorded: `0a:58` and the last four octets of its address, as the
  /// reference bridge plugin makes it.
  public init(pod address: IPAddress) {
    switch address {
    case .v4(let a): self.init(rawValue: 0x0a58 << 32 | UInt64(a.rawValue))
    case .v6(let a): self.init(rawValue: 0x0a58 << 32 | a.low & 0xffff_ffff)
    }
  }
}
