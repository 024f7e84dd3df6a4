import Addresses

extension IPFamily {
  /// The bits of an address.
  var width: Int { self == .ipv4 ? 32 : 128 }
}

extension IPAddress {
  /// The address as a number.
  var number: UInt128 {
    switch self {
    case .v4(let address): UInt128(address.rawValue)
    case .v6(let address): UInt128(address.high) << 64 | UInt128(address.low)
    }
  }

  init(number: UInt128, _ family: IPFamily) {
    switch family {
    case .ipv4: self = .v4(IPv4Address(rawValue: UInt32(truncatingIfNeeded: number)))
    case .ipv6:
      self = .v6(
        IPv6Address(high: UInt64(truncatingIfNeeded: number >> 64), low: UInt64(truncatingIfNeeded: number)))
    }
  }
}

extension IPPrefix {
  /// How many addresses the block has. (::/0 has one more than can be said.)
  var size: UInt128 {
    let bits = family.width - length
    return bits >= 128 ? .max : 1 << UInt128(bits)
  }

  var first: UInt128 { address.number }
  var last: UInt128 { first + (size - 1) }

  func address(at ordinal: Int) -> IPAddress { IPAddress(number: first + UInt128(ordinal), family) }

  /// The place of an address of the block.
  func ordinal(of address: IPAddress) -> Int { Int(address.number - first) }

  func overlaps(_ other: IPPrefix) -> Bool { contains(other) || other.contains(self) }

  /// The host's own block: /32 or /128.
  var hostLength: Int { family.width }
}

/// A number that a name stands for, the same in every process (FNV-1a).
func stableHash(_ text: String) -> UInt64 {
  text.utf8.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
}
