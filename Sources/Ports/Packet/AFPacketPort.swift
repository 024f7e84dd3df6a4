public import Addresses
public import CLinux
public import Dataplane
import Glibc

/// A port on a network device of the kernel, by an AF_PACKET socket: frames come in by a ring that is shared with the
/// kernel and go out by `sendmmsg` from wherever they lie. Super-frames and partial checksums pass both ways.
///
/// The socket sees copies: the host's own stack goes on to process every frame, unless something at the device's
/// ingress stops it (NODE-3).
public final class AFPacketPort: Port {
  public struct Options: Sendable {
    /// The frames that can wait in the ring; rounded up to a multiple of 15, each 15 take 1 MiB.
    public var slots = 120
    /// The network namespace of the device, `/run/netns/NAME` for example; nil for the current one.
    public var namespace: String?
    /// Classic BPF: only frames for which the program returns non-zero come in. Empty: all.
    public var filter: [sock_filter] = []
    /// Asks the device for frames to other hardware addresses too.
    public var promiscuous = false
    /// Goes past the device's queueing discipline when sending.
    public var bypassQueueing = false
    /// Octets that may wait in the kernel to be sent.
    public var sendBuffer = 16 << 20

    public init() {}

    /// For a pod's device.
    public static var pod: Options { Options() }
    /// For the device that leads to the other nodes.
    public static var underlay: Options {
      var options = Options()
      options.slots = 255
      return options
    }
  }

  /// What became of the device.
  public enum State: Sendable, Equatable { case up, down, removed }

  public let name: String
  public let interfaceIndex: Int32
  public let capabilities: PortCapabilities
  /// The hardware address of the device when the port was opened.
  public let mac: MACAddress
  /// The device's MTU: as of the opening or of the last `refresh()`, or as the worker was told since.
  public var mtu: Int
  public private(set) var state: State = .up
  public var isExhausted: Bool { state == .removed }
  public var descriptor: Int32? { socket }

  private let socket: Int32
  private let namespace: String?
  private var ring: PacketRing
  private let queue = TransmitQueue(headerLength: 10)
  private var counters = PortStatistics()
  private var emptyReceives = 0

  /// The counters. Reading them asks the kernel for its own, so do not do it for every batch.
  public var statistics: PortStatistics {
    var drops: UInt32 = 0
    if unsafe kalsae_packet_drops(socket, &drops) == 0 { counters.kernelDrops += UInt64(drops) }
    return counters
  }

  /// Opens the device of that name.
  public convenience init(interface: String, options: Options = .pod) throws(PortError) {
    try self.init(options, label: interface) { () throws(PortError) in try InterfaceDescription(named: interface) }
  }

  /// Opens the device of that index.
  public convenience init(interface: Int32, options: Options = .pod) throws(PortError) {
    try self.init(options, label: "interface \(interface)") { () throws(PortError) in
      try InterfaceDescription(index: interface)
    }
  }

  private init(
    _ options: Options, label: String, find: () throws(PortError) -> InterfaceDescription
  ) throws(PortError) {
    guard options.slots > 0, options.slots <= 65_535, options.filter.count <= 4096 else {
      throw PortError(
        device: label, operation: "open the port",
        detail: "\(options.slots) slots, \(options.filter.count) filter instructions",
        remedy: "choose 1 to 65535 slots and at most 4096 instructions")
    }
    let blocks = (options.slots + PacketRing.slotsPerBlock - 1) / PacketRing.slotsPerBlock
    let (device, socket, memory) = try inNamespace(options.namespace, device: label) {
      () throws(PortError) -> (InterfaceDescription, Int32, UInt) in
      let device = try find()
      let (socket, memory) = try AFPacketPort.open(device, options, blocks: blocks)
      return (device, socket, memory)
    }
    self.socket = socket
    ring = unsafe PacketRing(unsafe: UnsafeMutableRawPointer(bitPattern: memory)!, blocks: blocks)
    name = device.name
    interfaceIndex = device.index
    mac = device.mac
    mtu = device.mtu
    namespace = options.namespace
    if !device.isUp { state = .down }
    // The kernel finishes what the device cannot. UDP segmentation came to vnet headers with Linux 6.2.
    capabilities =
      kalsae_kernel_at_least(6, 2) != 0 ? [.checksum, .tcp4, .tcp6, .udp] : [.checksum, .tcp4, .tcp6]
  }

  deinit { close(socket) }

  /// The descriptor, and the address of the ring's memory.
  private static func open(
    _ device: InterfaceDescription, _ options: Options, blocks: Int
  ) throws(PortError) -> (Int32, UInt) {
    var memory: UnsafeMutableRawPointer?
    var step: UnsafePointer<CChar>?
    let result = unsafe options.filter.withUnsafeBufferPointer { filter in
      var raw = unsafe kalsae_packet_options()
      unsafe raw.ifindex = device.index
      unsafe raw.slot_size = UInt32(PacketRing.slotSize)
      unsafe raw.block_size = UInt32(PacketRing.blockSize)
      unsafe raw.blocks = UInt32(blocks)
      unsafe raw.reserve = UInt32(PacketRing.reserve)
      unsafe raw.send_buffer = UInt32(clamping: options.sendBuffer)
      unsafe raw.promiscuous = options.promiscuous ? 1 : 0
      unsafe raw.qdisc_bypass = options.bypassQueueing ? 1 : 0
      unsafe raw.filter = filter.baseAddress
      unsafe raw.filter_length = UInt16(filter.count)
      return unsafe kalsae_packet_open(&raw, &memory, &step)
    }
    guard result >= 0, let memory = unsafe memory else {
      let operation = unsafe step.map { unsafe String(cString: $0) } ?? "open the port"
      throw PortError(device: device.name, operation: operation, code: -result)
    }
    return (result, UInt(bitPattern: memory))
  }

  /// Puts another filter in the place of the present one, while frames go on coming in.
  public func setFilter(_ filter: [sock_filter]) throws(PortError) {
    let result =
      filter.isEmpty || filter.count > 4096
      ? -EINVAL
      : unsafe filter.withUnsafeBufferPointer {
        unsafe kalsae_packet_filter(socket, $0.baseAddress!, UInt16($0.count))
      }
    guard result == 0 else {
      throw PortError(device: name, operation: "change the packet filter", code: -result)
    }
  }

  public func receive(into batch: inout FrameBatch) -> Int {
    var received = 0
    var octets = 0
    var skipped = 0
    while !batch.isFull {
      let (filled, frame) = ring.take()
      guard filled else { break }
      guard let frame else {
        skipped += 1
        continue
      }
      batch.append(frame)
      received += 1
      octets += Int(frame.length)
    }
    counters.receivedFrames += UInt64(received)
    counters.receivedOctets += UInt64(octets)
    if skipped > 0 {
      counters.receiveErrors += UInt64(skipped)
      if received == 0 { ring.returnAll() }
    }
    if received > 0 {
      if state == .down { state = .up }
    } else {
      // A device that goes down leaves an error on the socket, which then polls ready until somebody takes it.
      emptyReceives += 1
      if emptyReceives & 7 == 0 { takeError() }
    }
    return received
  }

  public func release(_ batch: inout FrameBatch) {
    ring.returnAll()
    batch.removeAll()
  }

  public func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    var sent = 0
    var position = 0
    while position < indices.count {
      let count = min(indices.count - position, TransmitQueue.capacity)
      for i in 0..<count { queue.set(batch[indices[position + i]], at: i) }
      sent += send(count, batch, indices, from: position)
      position += count
    }
    return sent
  }

  /// Sends what is in the queue, past frames that the kernel refuses.
  private func send(
    _ count: Int, _ batch: borrowing FrameBatch, _ indices: borrowing FrameList, from position: Int
  ) -> Int {
    var next = 0
    var sent = 0
    var patience = 5
    while next < count {
      let result = queue.send(next..<count, on: socket)
      if result > 0 {
        for i in next..<next + result { counters.sentOctets += UInt64(batch[indices[position + i]].length) }
        counters.sentFrames += UInt64(result)
        sent += result
        next += result
        continue
      }
      switch Int32(truncatingIfNeeded: -result) {
      case EAGAIN, ENOBUFS:
        // The device is behind. Waiting a little keeps the order; waiting long would hold up every other port.
        if patience > 0 {
          patience -= 1
          _ = kalsae_poll_writable(socket, 1)
          continue
        }
        counters.sendErrors += UInt64(count - next)
        return sent
      case ENETDOWN, ENXIO, ENODEV:
        takeError()
        if state == .up { state = .down }
        counters.sendErrors += UInt64(count - next)
        return sent
      default:
        counters.sendErrors += 1
        next += 1
      }
    }
    return sent
  }

  /// Takes the socket's pending error and notes what became of the device.
  private func takeError() {
    let error = kalsae_socket_error(socket)
    if kalsae_packet_ifindex(socket) != interfaceIndex {
      state = .removed
    } else if error == ENETDOWN {
      state = .down
    }
  }

  /// Reads the device's state and MTU anew: on the port's worker, when the control plane has heard of a change.
  public func refresh() {
    takeError()
    guard state != .removed else { return }
    let index = interfaceIndex
    guard
      let device = try? inNamespace(
        namespace, device: name,
        { () throws(PortError) in
          try InterfaceDescription(index: index)
        })
    else { return }
    mtu = device.mtu
    state = device.isUp ? .up : .down
  }
}
