import CLinux
import Dataplane
import Glibc

/// The arrays that `sendmmsg` wants: for each frame a vnet header and the frame's octets where they lie.
@safe
struct TransmitQueue: ~Copyable {
  static var capacity: Int { 256 }

  private let messages: UnsafeMutablePointer<kalsae_message>
  private let vectors: UnsafeMutablePointer<iovec>
  private let headers: UnsafeMutablePointer<VirtioHeader>
  private let marks: UnsafeMutablePointer<kalsae_mark_message>

  /// `headerLength`: the octets of the vnet header, 10 for AF_PACKET.
  init(headerLength: Int) {
    let n = TransmitQueue.capacity
    unsafe messages = .allocate(capacity: n)
    unsafe vectors = .allocate(capacity: 2 * n)
    unsafe headers = .allocate(capacity: n)
    unsafe marks = .allocate(capacity: n)
    unsafe marks.initialize(repeating: kalsae_mark_message(), count: n)
    unsafe messages.initialize(repeating: kalsae_message(), count: n)
    unsafe vectors.initialize(repeating: iovec(), count: 2 * n)
    unsafe headers.initialize(repeating: VirtioHeader(), count: n)
    for i in 0..<n {
      unsafe vectors[2 * i] = iovec(iov_base: headers + i, iov_len: headerLength)
      unsafe messages[i].iov = vectors + 2 * i
      unsafe messages[i].iov_count = 2
    }
  }

  deinit {
    unsafe messages.deallocate()
    unsafe vectors.deallocate()
    unsafe headers.deallocate()
    unsafe marks.deallocate()
  }

  /// Puts `frame` at `position`.
  @inline(__always)
  func set(_ frame: Frame, at position: Int) {
    precondition(position >= 0 && position < TransmitQueue.capacity)
    unsafe headers[position] = VirtioHeader(for: frame)
    unsafe vectors[2 * position + 1] = iovec(
      iov_base: frame.buffer + Int(frame.start), iov_len: Int(frame.length))
    if frame.tunnelLength == 0 {
      unsafe messages[position].control_length = 0
    } else {
      setTunnel(frame, at: position)
    }
  }

  /// Says by the packet's mark what the tunnel's headers are, and by its Ethernet type what is inside.
  @inline(never)
  private func setTunnel(_ frame: Frame, at position: Int) {
    let octets = frame.octets
    let isIPv6 = octets[u16: 12] == 0x86dd
    let kind: UInt32 =
      switch octets[14 + (isIPv6 ? 6 : 9)] {
      case 47: KALSAE_TUNNEL_GRE
      case 17: KALSAE_TUNNEL_UDP
      default: 0
      }
    octets[u16: 12] = frame.segmentation == .tcp6 ? 0x86dd : 0x0800
    unsafe kalsae_mark_set(
      marks + position, kalsae_tunnel_mark(kind | (isIPv6 ? KALSAE_TUNNEL_IPV6 : 0), UInt32(frame.tunnelLength)))
    unsafe messages[position].control = UnsafeMutableRawPointer(marks + position)
    unsafe messages[position].control_length = UInt64(MemoryLayout<kalsae_mark_message>.size)
  }

  /// Sends the frames of `range`; their number or a negated error number.
  func send(_ range: Range<Int>, on descriptor: Int32) -> Int {
    precondition(range.lowerBound >= 0 && range.upperBound <= TransmitQueue.capacity)
    return unsafe Int(kalsae_send(descriptor, messages + range.lowerBound, UInt32(range.count)))
  }
}
