import CDataplane

/// A one's complement sum of 16-bit words (RFC 1071).
///
/// Words are added as they lie in memory: the sum does not depend on the byte order as long as it is stored the same
/// way (RFC 1071, section 2 (B)). All values named `Native` or documented as "as in memory" go with `u16Native`.
@frozen
public struct InternetChecksum: BitwiseCopyable, Sendable {
  /// Two's complement sum of words of up to 32 bits; the carries are folded at the end.
  @usableFromInline var sum: UInt64

  @inlinable
  public init() { sum = 0 }

  /// Continues a sum that was folded before.
  @inlinable
  public init(folded: UInt16) { sum = UInt64(folded) }

  /// Adds a word as in memory.
  @inlinable
  public mutating func add(native word: UInt16) { sum &+= UInt64(word) }

  /// Adds two words as in memory.
  @inlinable
  public mutating func add(native words: UInt32) { sum &+= UInt64(words) }

  /// Adds a word given as a number.
  @inlinable
  public mutating func add(_ word: UInt16) { sum &+= UInt64(word.bigEndian) }

  /// Adds octets that start at an even distance from the start of the summed data. An odd last octet is padded with 0.
  @inlinable
  public mutating func add(_ octets: Octets) { sum &+= octets.sum }

  /// Adds octets that start at an odd distance from the start of the summed data.
  @inlinable
  public mutating func addOdd(_ octets: Octets) {
    sum &+= UInt64(InternetChecksum.fold(octets.sum).byteSwapped)
  }

  /// Adds the first `length` octets, a multiple of four: for headers, where a call would cost more than the sum.
  @inlinable
  @inline(__always)
  public mutating func addHeader(_ octets: Octets, _ length: Int) {
    precondition(length <= octets.count)
    var offset = 0
    while offset &+ 4 <= length {
      sum &+= UInt64(octets[u32Native: offset])
      offset &+= 4
    }
  }

  @inlinable
  @inline(__always)
  static func fold(_ sum: UInt64) -> UInt16 {
    var s = (sum & 0xffff_ffff) &+ (sum >> 32)
    s = (s & 0xffff_ffff) &+ (s >> 32)
    s = (s & 0xffff) &+ (s >> 16)
    s = (s & 0xffff) &+ (s >> 16)
    return UInt16(truncatingIfNeeded: s)
  }

  /// The sum in 16 bits, as in memory. 0 only if every word was 0.
  @inlinable
  public var folded: UInt16 { InternetChecksum.fold(sum) }

  /// The complement of the sum, as in memory: what goes into a checksum field.
  @inlinable
  public var complement: UInt16 { ~folded }
}

extension Octets {
  /// The sum of the 16-bit words as in memory, folded to at most 33 bits. An odd last octet is padded with 0.
  @inlinable
  public var sum: UInt64 { unsafe kalsae_sum(base, count) }
}

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

  /// The checksum field after the change: HC' = ~(~HC + ~m + m'), RFC 1624, equation 3. Values as in memory.
  @inlinable
  public func applied(to checksum: UInt16) -> UInt16 {
    ~InternetChecksum.fold(UInt64(~checksum) &+ UInt64(value))
  }
}
