import Addresses

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

  /// Adds a sum that `Octets.sum` or `copySumming` returned for octets at an even distance.
  @inlinable
  public mutating func add(sum words: UInt64) { sum &+= words }

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

  /// The complement as UDP sends it: 0 means "none" there, so that a computed 0 becomes 0xffff (RFC 768; TUN-9).
  @inlinable
  public var udpComplement: UInt16 { complement == 0 ? 0xffff : complement }
}

extension InternetChecksum {
  /// The sum of the pseudo header of a transport over IPv4 (RFC 9293, section 3.1). `length` is that of transport header
  /// and payload.
  @inlinable
  public init(
    pseudoHeaderOf source: IPv4Address, _ destination: IPv4Address, protocol: IPProtocol, length: Int
  ) {
    sum =
      UInt64(source.rawValue.bigEndian) &+ UInt64(destination.rawValue.bigEndian)
      &+ InternetChecksum.tail(`protocol`, length)
  }

  /// The sum of the pseudo header of a transport over IPv6 (RFC 8200, section 8.1). `length` is that of transport header
  /// and payload.
  @inlinable
  public init(
    pseudoHeaderOf source: IPv6Address, _ destination: IPv6Address, protocol: IPProtocol, length: Int
  ) {
    sum =
      InternetChecksum.words(source) &+ InternetChecksum.words(destination) &+ InternetChecksum.tail(`protocol`, length)
  }

  /// Adds the length to the sum of a pseudo header that was made with length 0.
  @inlinable
  public mutating func addLength(_ length: Int) { sum &+= UInt64(UInt32(truncatingIfNeeded: length).bigEndian) }

  /// Protocol and length: the part of the pseudo header that changes from segment to segment.
  @inlinable
  static func tail(_ protocol: IPProtocol, _ length: Int) -> UInt64 {
    UInt64(UInt32(`protocol`.rawValue).bigEndian) &+ UInt64(UInt32(truncatingIfNeeded: length).bigEndian)
  }

  @inlinable
  static func words(_ address: IPv6Address) -> UInt64 {
    let high = address.high.bigEndian
    let low = address.low.bigEndian
    return (high & 0xffff_ffff) &+ (high >> 32) &+ (low & 0xffff_ffff) &+ (low >> 32)
  }
}

extension IPv4Header {
  /// The sum of the pseudo header for the transport that the packet carries, whole; `length` is that of transport header
  /// and payload.
  @inlinable
  public func pseudoHeader(length: Int) -> InternetChecksum {
    InternetChecksum(pseudoHeaderOf: source, destination, protocol: self.protocol, length: length)
  }
}

extension IPv6Header {
  /// The sum of the pseudo header for a transport behind the extension headers; `length` is that of transport header and
  /// payload. A routing header with segments left would name another final destination (RFC 8200, section 8.1).
  @inlinable
  public func pseudoHeader(_ protocol: IPProtocol, length: Int) -> InternetChecksum {
    InternetChecksum(pseudoHeaderOf: source, destination, protocol: `protocol`, length: length)
  }
}

// A transport's octets in view must end where the transport ends, without Ethernet padding.

extension TCPHeader {
  /// Whether the checksum is right.
  @inlinable
  public func isChecksumValid(_ pseudoHeader: InternetChecksum) -> Bool {
    var sum = pseudoHeader
    sum.add(octets)
    return sum.folded == 0xffff
  }

  /// Computes the checksum.
  @inlinable
  public func updateChecksum(_ pseudoHeader: InternetChecksum) {
    octets[u16Native: 16] = 0
    var sum = pseudoHeader
    sum.add(octets)
    octets[u16Native: 16] = sum.complement
  }
}

extension UDPHeader {
  /// Whether the checksum is right. A checksum of 0 is none, and right: over IPv6 the caller decides if it may be so
  /// (RFC 6935).
  @inlinable
  public func isChecksumValid(_ pseudoHeader: InternetChecksum) -> Bool {
    guard octets[u16Native: 6] != 0 else { return true }
    var sum = pseudoHeader
    sum.add(octets)
    return sum.folded == 0xffff
  }

  /// Computes the checksum; a computed 0 becomes 0xffff (TUN-9).
  @inlinable
  public func updateChecksum(_ pseudoHeader: InternetChecksum) {
    octets[u16Native: 6] = 0
    var sum = pseudoHeader
    sum.add(octets)
    octets[u16Native: 6] = sum.udpComplement
  }
}

extension ICMPv6Header {
  /// Whether the checksum is right.
  @inlinable
  public func isChecksumValid(_ pseudoHeader: InternetChecksum) -> Bool {
    var sum = pseudoHeader
    sum.add(octets)
    return sum.folded == 0xffff
  }

  /// Computes the checksum.
  @inlinable
  public func updateChecksum(_ pseudoHeader: InternetChecksum) {
    octets[u16Native: 2] = 0
    var sum = pseudoHeader
    sum.add(octets)
    octets[u16Native: 2] = sum.complement
  }
}
