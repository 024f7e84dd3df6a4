import CDataplane

// Work over many octets at once, by way of C.
extension Octets {
  /// The sum of the 16-bit words as in memory, folded to at most 33 bits. An odd last octet is padded with 0.
  @inlinable
  public var sum: UInt64 { unsafe kalsae_sum(base, count) }

  /// Copies the octets of `source` to `offset` and returns their `sum`, in one pass. The two must not overlap.
  @inlinable
  public func copySumming(from source: Octets, to offset: Int) -> UInt64 {
    check(offset, source.count)
    return unsafe kalsae_copy_sum(base + offset, source.base, source.count)
  }

  /// Whether `other` has the same octets.
  @inlinable
  public func isEqual(to other: Octets) -> Bool {
    unsafe count == other.count && kalsae_equal(base, other.base, count) != 0
  }

  /// Continues a CRC32c (RFC 9260, appendix A) over the octets.
  @inlinable
  public func crc32c(continuing crc: UInt32) -> UInt32 { unsafe kalsae_crc32c(crc, base, count) }
}
