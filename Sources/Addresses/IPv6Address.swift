/// An IPv6 address (RFC 4291).
@frozen
public struct IPv6Address: Hashable, Sendable, Comparable {
  /// The first eight octets as a number in host byte order.
  public var high: UInt64
  /// The last eight octets as a number in host byte order.
  public var low: UInt64

  @inlinable
  public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// `::`
  @inlinable
  public static var any: IPv6Address { IPv6Address(high: 0, low: 0) }

  /// `::1`
  @inlinable
  public static var loopback: IPv6Address { IPv6Address(high: 0, low: 1) }

  /// Whether the address is in ff00::/8.
  @inlinable
  public var isMulticast: Bool { high >> 56 == 0xff }

  /// Whether the address is in fe80::/10.
  @inlinable
  public var isLinkLocal: Bool { high >> 54 == 0x3fa }

  @inlinable
  public var isLoopback: Bool { self == .loopback }

  /// Whether a packet may carry this address as its source when it is forwarded (RFC 4291, section 2.5.3 and 2.7).
  @inlinable
  public var isValidSource: Bool { !isMulticast && self != .any && !isLoopback }

  /// The solicited-node multicast address that a neighbour solicitation for this address goes to (RFC 4291, 2.7.1).
  @inlinable
  public var solicitedNode: IPv6Address {
    IPv6Address(high: 0xff02_0000_0000_0000, low: 0x0000_0001_ff00_0000 | low & 0xff_ffff)
  }

  @inlinable
  public static func < (a: IPv6Address, b: IPv6Address) -> Bool { (a.high, a.low) < (b.high, b.low) }
}

extension IPv6Address: LosslessStringConvertible {
  /// Reads the text forms of RFC 4291, section 2.2, with a dotted-decimal tail allowed. Zone ids are not.
  public init?(_ text: String) { self.init(parsing: text) }

  /// Reads the text form out of a part of a string.
  public init?(parsing text: some StringProtocol) {
    guard text.utf8.count <= 45 else { return nil }
    var groups: [UInt16] = []
    var gap: Int?
    var parts = text.split(separator: ":", omittingEmptySubsequences: false)[...]
    guard parts.count >= 3 else { return nil }
    // A leading or trailing `::` shows as two empty parts.
    if parts.first!.isEmpty {
      guard parts[parts.startIndex + 1].isEmpty else { return nil }
      parts = parts.dropFirst()
    }
    if parts.last!.isEmpty {
      guard parts[parts.endIndex - 2].isEmpty else { return nil }
      parts = parts.dropLast()
    }
    for (index, part) in zip(parts.indices, parts) {
      if part.isEmpty {
        guard gap == nil else { return nil }
        gap = groups.count
      } else if part.contains(".") {
        guard index == parts.endIndex - 1, let v4 = IPv4Address(parsing: part) else { return nil }
        groups += [UInt16(v4.rawValue >> 16), UInt16(v4.rawValue & 0xffff)]
      } else {
        guard part.utf8.count <= 4, part.utf8.allSatisfy({ $0 != UInt8(ascii: "+") && $0 != UInt8(ascii: "-") }),
          let group = UInt16(part, radix: 16)
        else { return nil }
        groups.append(group)
      }
    }
    if let gap {
      guard groups.count < 8 else { return nil }
      groups.insert(contentsOf: repeatElement(0, count: 8 - groups.count), at: gap)
    }
    guard groups.count == 8 else { return nil }
    high = groups[..<4].reduce(0) { $0 << 16 | UInt64($1) }
    low = groups[4...].reduce(0) { $0 << 16 | UInt64($1) }
  }

  /// The canonical text form of RFC 5952.
  public var description: String {
    let groups = (0..<8).map { UInt16(truncatingIfNeeded: ($0 < 4 ? high : low) >> (48 - 16 * UInt64($0 % 4))) }
    if high == 0, low >> 32 == 0xffff {
      return "::ffff:\(IPv4Address(rawValue: UInt32(truncatingIfNeeded: low)))"
    }
    // The longest run of two or more zero groups, the first of equals, becomes `::`.
    var best = 0..<0
    var start = 0
    while start < 8 {
      guard groups[start] == 0 else {
        start += 1
        continue
      }
      let end = groups[start...].firstIndex { $0 != 0 } ?? 8
      if end - start > max(best.count, 1) { best = start..<end }
      start = end
    }
    func hex(_ range: Range<Int>) -> String { groups[range].map { String($0, radix: 16) }.joined(separator: ":") }
    return best.isEmpty ? hex(0..<8) : "\(hex(0..<best.lowerBound))::\(hex(best.upperBound..<8))"
  }
}
