extension Frame {
  /// Finishes a partial checksum: adds the octets from `checksumStart` to the end of the packet to the sum of the pseudo
  /// header in the field, stores the complement and clears the flag. True also where nothing was to do.
  ///
  /// False, with the frame as it was, where the checksum lies outside the packet, or where the frame is a super-frame,
  /// whose segments have their own checksums. Such a frame must not leave on a wire (TUN-9).
  public mutating func completeChecksum() -> Bool {
    guard flags.contains(.checksumPartial) else { return true }
    let end = start &+ length
    guard segmentation == .none, checksumStart >= start, checksumStart <= end,
      UInt32(checksumOffset) &+ 2 <= end &- checksumStart
    else { return false }
    let covered = octets.dropping(Int(checksumStart &- start))
    // Of the transports that offload, SCTP alone has its field at 8, and it is a CRC32c there.
    if checksumOffset == 8 {
      guard let sctp = SCTPHeader(covered) else { return false }
      sctp.updateChecksum()
      flags.remove(.checksumPartial)
      return true
    }
    var sum = InternetChecksum()
    sum.add(covered)
    // Of the transports that offload, UDP alone has its field at 6, and there 0 means "none".
    covered[u16Native: Int(checksumOffset)] = checksumOffset == 6 ? sum.udpComplement : sum.complement
    flags.remove(.checksumPartial)
    return true
  }

  /// Marks the checksum `offset` octets into the transport at `transport` (from the packet's start) as partial. The field
  /// must hold the sum of the pseudo header.
  @inlinable
  public mutating func setPartialChecksum(transport: Int, offset: Int) {
    precondition(transport >= 0 && transport + offset + 2 <= Int(length))
    checksumStart = start &+ UInt32(truncatingIfNeeded: transport)
    checksumOffset = UInt16(truncatingIfNeeded: offset)
    flags.insert(.checksumPartial)
  }
}
