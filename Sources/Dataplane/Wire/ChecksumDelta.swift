import Addresses

/// How a checksum changes when the data that it covers changes (RFC 1624): the one's complement difference between the
/// new data and the old. Deltas add up, and one delta serves every checksum that covers the change.
@frozen
public struct ChecksumDelta: Hashable, Sendable, BitwiseCopyable {
  /// The difference as in memory. 0 and 0xffff both mean no change.
  @usableFromInline var value: UInt16

  /// No change.
  @inlinable
  public init() { value = 0 }

  @inlinable
  init(sum: UInt64) { value = InternetChecksum.fold(sum) }

  /// The change of a 16-bit word at an even distance; values as in memory.
  @inlinable
  public init(replacing old: UInt16, with new: UInt16) { self.init(sum: UInt64(~old) &+ UInt64(new)) }

  /// The change of 32 bits; values as in memory.
  @inlinable
  public init(replacing old: UInt32, with new: UInt32) { self.init(sum: UInt64(~old) &+ UInt64(new)) }

  /// The change of a port, or of another 16-bit number at an even distance.
  @inlinable
  public init(replacingPort old: UInt16, with new: UInt16) { self.init(replacing: old.bigEndian, with: new.bigEndian) }

  @inlinable
  public init(replacing old: IPv4Address, with new: IPv4Address) {
    self.init(replacing: old.rawValue.bigEndian, with: new.rawValue.bigEndian)
  }

  @inlinable
  public init(replacing old: IPv6Address, with new: IPv6Address) {
    let none = IPv6Address(high: ~old.high, low: ~old.low)
    self.init(sum: InternetChecksum.words(none) &+ InternetChecksum.words(new))
  }

  /// Both changes.
  @inlinable
  public static func + (a: ChecksumDelta, b: ChecksumDelta) -> ChecksumDelta {
    ChecksumDelta(sum: UInt64(a.value) &+ UInt64(b.value))
  }

  @inlinable
  public static func += (a: inout ChecksumDelta, b: ChecksumDelta) { a = a + b }

  /// The change undone.
  @inlinable
  public static prefix func - (a: ChecksumDelta) -> ChecksumDelta {
    var result = ChecksumDelta()
    result.value = ~a.value
    return result
  }

  /// What one hop less does to the checksum of an IPv4 header: the time to live is the upper octet of its word.
  @inlinable
  public static var hop: ChecksumDelta {
    @inline(__always) get {
      var result = ChecksumDelta()
      result.value = UInt16(0xfeff).bigEndian
      return result
    }
  }

  /// The checksum field after the change: HC' = ~(~HC + ~m + m'), RFC 1624, equation 3. Values as in memory.
  @inlinable
  public func applied(to checksum: UInt16) -> UInt16 {
    ~InternetChecksum.fold(UInt64(~checksum) &+ UInt64(value))
  }

  /// The UDP checksum field after the change: 0 is none and stays, a computed 0 becomes 0xffff (TUN-9). As in memory.
  @inlinable
  public func appliedUDP(to checksum: UInt16) -> UInt16 {
    guard checksum != 0 else { return 0 }
    let result = applied(to: checksum)
    return result == 0 ? 0xffff : result
  }

  /// The field of a partial checksum after the change: it holds the sum of the pseudo header, not its complement, so
  /// that only changes of addresses, protocol and length belong there. As in memory.
  @inlinable
  public func appliedPartial(to sum: UInt16) -> UInt16 { InternetChecksum.fold(UInt64(sum) &+ UInt64(value)) }
}

extension Octets {
  /// Applies a change to the checksum field at `offset` (IPv4, TCP, ICMP, ICMPv6).
  @inlinable
  public func applyChecksum(_ delta: ChecksumDelta, at offset: Int) {
    self[u16Native: offset] = delta.applied(to: self[u16Native: offset])
  }

  /// Applies a change to the UDP checksum field at `offset` (TUN-9).
  @inlinable
  public func applyUDPChecksum(_ delta: ChecksumDelta, at offset: Int) {
    self[u16Native: offset] = delta.appliedUDP(to: self[u16Native: offset])
  }

  /// Applies a change of the pseudo header to the field of a partial checksum at `offset`.
  @inlinable
  public func applyPartialChecksum(_ delta: ChecksumDelta, at offset: Int) {
    self[u16Native: offset] = delta.appliedPartial(to: self[u16Native: offset])
  }
}
