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

  /// `headerLength`: the octets of the vnet header, 10 for AF_PACKET.
  init(headerLength: Int) {
    let n = TransmitQueue.capacity
    unsafe messages = .allocate(capacity: n)
    unsafe vectors = .allocate(capacity: 2 * n)
    unsafe headers = .allocate(capacity: n)
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
  }

  /// Puts `frame` at `position`.
  @inline(__always)
  func set(_ frame: Frame, at position: Int) {
    precondition(position >= 0 && position < TransmitQueue.capacity)
    unsafe headers[position] = VirtioHeader(for: frame)
    unsafe vectors[2 * position + 1] = iovec(
      iov_base: frame.buffer + Int(frame.start), iov_len: Int(frame.length))
  }

  /// Sends the frames of `range`; their number or a negated error number.
  func send(_ range: Range<Int>, on descriptor: Int32) -> Int {
    precondition(range.lowerBound >= 0 && range.upperBound <= TransmitQueue.capacity)
    return unsafe Int(kalsae_send(descriptor, messages + range.lowerBound, UInt32(range.count)))
  }
}
