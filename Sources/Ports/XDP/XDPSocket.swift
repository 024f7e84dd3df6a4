import CLinux
import Glibc

/// An AF_XDP socket at a queue of a device, and its rings, as the port sees them.
@safe
final class XDPSocket {
  private let raw: UnsafeMutablePointer<kalsae_xdp>
  let queue: Int
  let isZeroCopy: Bool

  var descriptor: Int32 { unsafe raw.pointee.descriptor }

  /// Opens and binds a socket in the current network namespace; `shared`: one that has the memory registered.
  init(
    _ device: InterfaceDescription, queue: Int, memory: XDPMemory, receiveSize: Int, transmitSize: Int, shared: Int32?
  ) throws(PortError) {
    var options = unsafe kalsae_xdp_options()
    unsafe options.ifindex = device.index
    unsafe options.queue = UInt32(queue)
    unsafe options.memory = memory.base
    unsafe options.memory_size = UInt64(memory.chunks * memory.chunkSize)
    unsafe options.chunk = UInt32(memory.chunkSize)
    unsafe options.headroom = UInt32(XDPMemory.extraHeadroom)
    unsafe options.receive_size = UInt32(receiveSize)
    unsafe options.transmit_size = UInt32(transmitSize)
    unsafe options.shared = shared ?? -1
    let raw = UnsafeMutablePointer<kalsae_xdp>.allocate(capacity: 1)
    unsafe raw.initialize(to: kalsae_xdp())
    var step: UnsafePointer<CChar>?
    var result = unsafe kalsae_xdp_open(&options, raw, &step)
    if result == 0 {
      result = unsafe kalsae_xdp_bind(raw, &options, &step)
      for _ in 0..<XDPSocket.patience where result == -EBUSY {
        usleep(5_000)
        result = unsafe kalsae_xdp_bind(raw, &options, &step)
      }
      if result != 0 { unsafe kalsae_xdp_close(raw) }
    }
    guard result == 0 else {
      unsafe raw.deallocate()
      let operation = unsafe step.map { unsafe String(cString: $0) } ?? "open an AF_XDP socket"
      throw PortError(device: device.name, operation: operation, code: -result, remedy: XDPSocket.remedy(-result))
    }
    unsafe self.raw = raw
    self.queue = queue
    isZeroCopy = unsafe raw.pointee.is_zero_copy != 0
  }

  /// The kernel lets go of a queue some time after its socket was closed: how often to try again, 5 ms later each time.
  private static let patience = 40

  private static func remedy(_ code: Int32) -> String? {
    switch code {
    case EAFNOSUPPORT: "the kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"
    case EBUSY: "another program has an AF_XDP socket at this queue of the device"
    case ENOBUFS, ENOMEM: "lower the number of frames, or raise the limit of locked memory: `ulimit -l`"
    default: nil
    }
  }

  /// Gives it back to the kernel; afterwards nothing may be asked of it.
  func close() { unsafe kalsae_xdp_close(raw) }

  deinit {
    close()
    unsafe raw.deallocate()
  }

  // MARK: Rings

  /// Received frames that wait.
  var received: Int { unsafe Int(kalsae_xdp_waiting(&raw.pointee.receive)) }
  /// Sent frames whose chunks come back.
  var completed: Int { unsafe Int(kalsae_xdp_waiting(&raw.pointee.completion)) }
  /// Chunks that the kernel can still be given for frames to come.
  var fillRoom: Int { unsafe Int(kalsae_xdp_room(&raw.pointee.fill)) }
  /// Frames that it can still be given to send.
  var transmitRoom: Int { unsafe Int(kalsae_xdp_room(&raw.pointee.transmit)) }
  /// Frames that it was given and has not looked at.
  var unsent: Int { unsafe Int(kalsae_xdp_unread(&raw.pointee.transmit)) }

  @inline(__always)
  func receivedFrame(_ index: Int) -> (address: UInt64, length: Int) {
    let frame = unsafe kalsae_xdp_read_frame(&raw.pointee.receive, UInt32(truncatingIfNeeded: index))
    return (frame.address, Int(frame.length))
  }

  func consumeReceived(_ count: Int) {
    unsafe kalsae_xdp_consume(&raw.pointee.receive, UInt32(truncatingIfNeeded: count))
  }

  @inline(__always)
  func completedAddress(_ index: Int) -> UInt64 {
    unsafe kalsae_xdp_read_address(&raw.pointee.completion, UInt32(truncatingIfNeeded: index))
  }

  func consumeCompleted(_ count: Int) {
    unsafe kalsae_xdp_consume(&raw.pointee.completion, UInt32(truncatingIfNeeded: count))
  }

  @inline(__always)
  func setFill(_ index: Int, _ address: UInt64) {
    unsafe kalsae_xdp_write_address(&raw.pointee.fill, UInt32(truncatingIfNeeded: index), address)
  }

  func produceFill(_ count: Int) { unsafe kalsae_xdp_produce(&raw.pointee.fill, UInt32(truncatingIfNeeded: count)) }

  @inline(__always)
  func setTransmit(_ index: Int, _ address: UInt64, length: UInt32) {
    unsafe kalsae_xdp_write_frame(&raw.pointee.transmit, UInt32(truncatingIfNeeded: index), address, length)
  }

  func produceTransmit(_ count: Int) {
    unsafe kalsae_xdp_produce(&raw.pointee.transmit, UInt32(truncatingIfNeeded: count))
  }

  var mustWakeToSend: Bool { unsafe kalsae_xdp_needs_wakeup(&raw.pointee.transmit) != 0 }
  var mustWakeToReceive: Bool { unsafe kalsae_xdp_needs_wakeup(&raw.pointee.fill) != 0 }
}
