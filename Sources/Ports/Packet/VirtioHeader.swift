import CLinux
import Dataplane

/// `virtio_net_hdr`: how the kernel says that a checksum is partial or that a frame is a super-frame, and is told so
/// (virtio 1.2, section 5.1.6; TUN-9).
typealias VirtioHeader = kalsae_vnet_header

extension VirtioHeader {
  static var needsChecksum: UInt8 { 1 }
  static var dataValid: UInt8 { 2 }
  static var segmentationECN: UInt8 { 0x80 }

  /// Notes in `frame` what the header says. The packet must be in the frame as the kernel wrote it.
  /// False where the header contradicts the frame.
  @inline(__always)
  func describe(_ frame: inout Frame) -> Bool {
    if flags & VirtioHeader.needsChecksum != 0 {
      guard Int(checksum_start) + Int(checksum_offset) + 2 <= Int(frame.length) else { return false }
      frame.flags.insert(.checksumPartial)
      frame.checksumStart = frame.start + UInt32(checksum_start)
      frame.checksumOffset = checksum_offset
    } else if flags & VirtioHeader.dataValid != 0 {
      frame.flags.insert(.checksumVerified)
    }
    if gso_type != 0 {
      guard let kind = Segmentation(rawValue: gso_type & ~VirtioHeader.segmentationECN), gso_size > 0 else {
        return false
      }
      frame.segmentation = kind
      frame.segmentSize = gso_size
    }
    return true
  }

  /// The header that goes out before `frame`.
  @inline(__always)
  init(for frame: Frame) {
    self.init()
    let length = Int(frame.length)
    let partial = frame.flags.contains(.checksumPartial) && frame.checksumStart >= frame.start
    let start = partial ? Int(frame.checksumStart - frame.start) : 0
    if partial {
      flags = VirtioHeader.needsChecksum
      checksum_start = UInt16(truncatingIfNeeded: start)
      checksum_offset = frame.checksumOffset
    }
    // What the kernel keeps in one piece; without it, it would look for contiguous memory for the whole frame.
    if length > 2048 { header_length = 256 }
    guard frame.segmentation != .none else { return }
    gso_type = frame.segmentation.rawValue
    gso_size = frame.segmentSize
    guard partial else { return }
    if frame.segmentation == .udp {
      header_length = UInt16(truncatingIfNeeded: min(start + 8, length))
    } else if start + 20 <= length {
      let octets = frame.octets
      header_length = UInt16(truncatingIfNeeded: min(start + Int(octets[start + 12] >> 4) * 4, length))
      // CWR belongs to the first segment alone (RFC 3168, section 6.1.2). The kernel marks such frames so, and the bit
      // in the TCP header says it just as well.
      if octets[start + 13] & 0x80 != 0 { gso_type |= VirtioHeader.segmentationECN }
    }
  }
}
