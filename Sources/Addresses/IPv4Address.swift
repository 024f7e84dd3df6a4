/// An IPv4 address (RFC 791).
@frozen
public struct IPv4Address: Hashable, Sendable, Comparable {
  /// The address as a number in host byte order: 10.0.0.1 is `0x0a000001`.
  public var rawValue: UInt32

  @inlinable
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  @inlinable
  public init(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) {
    rawValue = UInt32(a) << 24 | UInt32(b) << 16 | UInt32(c) << 8 | UInt32(d)
  }

  /// 0.0.0.0
  @inlinable
  public static var any: IPv4Address { IPv4Address(rawValue: 0) }

  /// 255.255.255.255
  @inlinable
  public static var broadcast: IPv4Address { IPv4Address(rawValue: .max) }

  /// Whether the address is in 224.0.0.0/4 (RFC 5771).
  @inlinable
  public var isMulticast: Bool { rawValue >> 28 == 0xe }

  /// Whether the address is in 127.0.0.0/8 (RFC 1122, section 3.2.1.3).
  @inlinable
  public var isLoopback: Bool { rawValue >> 24 == 127 }

  /// Whether the address is in 169.254.0.0/16 (RFC 3927).
  @inlinable
  public var isLinkLocal: Bool { rawValue >> 16 == 0xa9fe }

  /// Whether a packet may carry this address as its source when it is forwarded (RFC 1812, section 5.3.7).
  @inlinable
  public var isValidSource: Bool { rawValue >> 24 != 0 && !isMulticast && self != .broadcast && !isLoopback }

  @inlinable
  public static func < (a: IPv4Address, b: IPv4Address) -> Bool { a.rawValue < b.rawValue }
}

extension IPv4Address: LosslessStringConvertible {
  /// Reads dotted-decimal notation: four numbers of 0 to 255 without leading zeros.
  public init?(_ text: String) { self.init(parsing: text) }

  /// Reads the text form out of a part of a string.
  public init?(parsing text: some StringProtocol) {
    var value: UInt32 = 0
    var parts = 0
    for part in text.split(separator: ".", omittingEmptySubsequences: false) {
      guard let byte = decimal(part, max: 255), parts < 4 else { return nil }
      value = value << 8 | UInt32(byte)
      parts += 1
    }
    guard parts == 4 else { return nil }
    rawValue = value
  }

  public var description: String {
    "\(rawValue >> 24).\(rawValue >> 16 & 0xff).\(rawValue >> 8 & 0xff).\(rawValue & 0xff)"
  }
}

/// Reads a decimal number without sign or leading zeros, at most `max`.
func decimal(_ text: some StringProtocol, max: Int) -> Int? {
  let digits = text.utf8
  guard let first = digits.first, digits.count <= 10, first != UInt8(ascii: "0") || digits.count == 1 else {
    return nil
  }
  var value = 0
  for digit in digits {
    guard digit >= UInt8(ascii: "0"), digit <= UInt8(ascii: "9") else { return nil }
    value = value * 10 + Int(digit - UInt8(ascii: "0"))
  }
  return value <= max ? value : nil
}
