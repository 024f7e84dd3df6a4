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
    /// Where super-frames wait to be taken.
    public enum Place: Sendable {
      /// In the ring, whose slots are as long: nothing is faster, and 15 slots take 1 MiB that cannot be swapped out.
      case ring
      /// In the socket's queue, from which each is taken by a system call, with this many octets of room. The ring's
      /// slots are as long as the device's MTU wants: 585 take 1 MiB for Ethernet's.
      case queue(Int)
    }

    public var superFrames = Place.queue(8 << 20)
    /// The frames that can wait in the ring; rounded up to whole MiB.
    public var slots = 585
    /// The network namespace of the device, `/run/netns/NAME` for example; nil for the current one.
    public var namespace: String?
    /// Classic BPF: only frames for which the program returns non-zero come in. Empty: all.
    public var filter: [sock_filter] = []
    /// Asks the device for frames to other hardware addresses too.
    public var promiscuous = false
    /// Goes past the device's queueing discipline when sending.
    public var bypassQueueing = false
    /// Has the kernel cut TCP super-frames in tunnels, where it can (tcx, Linux 6.6): see tunnel_shim.c.
    public var finishesTunnels = false
    /// Octets that may wait in the kernel to be sent.
    public var sendBuffer = 16 << 20

    public init() {}

    /// For a pod's device.
    public static var pod: Options { Options() }
    /// For the device that leads to the other nodes.
    public static var underlay: Options {
      var options = Options()
      // A burst of some TCP windows in packets of the link.
      options.superFrames = .queue(32 << 20)
      options.slots = 4680
      options.finishesTunnels = true
      return options
    }
  }

  /// What became of the device.
  public enum State: Sendable, Equatable { case up, down, removed }

  public let name: String
  public let interfaceIndex: Int32
  public internal(set) var capabilities: PortCapabilities
  /// The hardware address of the device when the port was opened.
  public let mac: MACAddress
  /// The device's MTU: as of the opening or of the last `refresh()`, or as the worker was told since.
  public var mtu: Int
  public private(set) var state: State = .up
  public var isExhausted: Bool { state == .removed }
  public var descriptor: Int32? { socket }

  private let socket: Int32
  /// What holds the tunnel program at the device's egress; negative: none.
  private let tunnels: Int32
  /// Why the kernel does not cut super-frames in tunnels although it was asked to; nil: it does, or was not asked.
  public let tunnelRefusal: PortError?
  private let namespace: String?
  private var ring: PacketRing
  /// Memory for super-frames from the socket's queue.
  private let pool: FramePool
  private var poolUsed = 0
  /// Few, so that they stay in the processor's cache between being taken and being sent, and so that the next stage begins
  /// before this one has taken all.
  private static let pooledFrames = 8
  private static let pooledHeadroom = 146
  private let output: PacketSender
  private var counters = PortStatistics()
  private var emptyReceives = 0

  /// The counters. Reading them asks the kernel for its own, so do not do it for every batch.
  public var statistics: PortStatistics {
    var drops: UInt32 = 0
    if unsafe kalsae_packet_drops(socket, &drops) == 0 { counters.kernelDrops += UInt64(drops) }
    return counters + output.statistics
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

  /// Opens the device of that index by a socket that was prepared, where one is ready that suits it.
  convenience init(interface: Int32, spares: PacketSpares, filter: [sock_filter]) throws(PortError) {
    var options = spares.options
    if !filter.isEmpty { options.filter = filter }
    try self.init(options, label: "interface \(interface)", spares: spares) { () throws(PortError) in
      try InterfaceDescription(index: interface)
    }
  }

  private init(
    _ options: Options, label: String, spares: PacketSpares? = nil,
    find: () throws(PortError) -> InterfaceDescription
  ) throws(PortError) {
    guard options.slots > 0, options.slots <= 65_535, options.filter.count <= 4096 else {
      throw PortError(
        device: label, operation: "open the port",
        detail: "\(options.slots) slots, \(options.filter.count) filter instructions",
        remedy: "choose 1 to 65535 slots and at most 4096 instructions")
    }
    let (device, socket, memory, slotSize, blocks, tunnels, refusal) = try inNamespace(
      options.namespace, device: label
    ) { () throws(PortError) -> (InterfaceDescription, Int32, UInt, Int, Int, Int32, PortError?) in
      let device = try find()
      let (slotSize, blocks) = options.ring(mtu: device.mtu)
      let (socket, memory) =
        if let spare = spares?.take(slotSize: slotSize, blocks: blocks) {
          spare
        } else {
          try AFPacketPort.prepare(options, device: device.name, slotSize: slotSize, blocks: blocks)
        }
      do throws(PortError) {
        // One that was prepared may know another.
        if spares != nil { try AFPacketPort.filter(socket, device.name, options.filter) }
        try AFPacketPort.bind(socket, device, options)
      } catch {
        AFPacketPort.discard(socket, memory, blocks: blocks)
        throw error
      }
      let (tunnels, refusal) = options.finishesTunnels ? AFPacketPort.attachTunnels(device) : (-1, nil)
      return (device, socket, memory, slotSize, blocks, tunnels, refusal)
    }
    self.socket = socket
    self.tunnels = tunnels
    tunnelRefusal = refusal
    ring = unsafe PacketRing(
      unsafe: UnsafeMutableRawPointer(bitPattern: memory)!, socket: socket, blocks: blocks, slotSize: slotSize)
    // Untouched where the ring has room for everything.
    pool = FramePool(slots: AFPacketPort.pooledFrames, slotSize: PacketRing.largestSlot)
    name = device.name
    interfaceIndex = device.index
    mac = device.mac
    mtu = device.mtu
    namespace = options.namespace
    if !device.isUp { state = .down }
    // The kernel finishes what the device cannot. UDP segmentation came to vnet headers with Linux 6.2.
    var capabilities: PortCapabilities = [.checksum, .tcp4, .tcp6]
    if kalsae_kernel_at_least(6, 2) != 0 { capabilities.insert(.udp) }
    if tunnels >= 0 { capabilities.insert(.tunnels) }
    self.capabilities = capabilities
    output = PacketSender(to: SendDescriptor(of: socket), name: name, mtu: mtu, capabilities)
  }

  /// Goes on with a port that another process has handed over. The descriptor belongs to the port, unless this throws.
  public init(adopting inherited: InheritedPort, finishesTunnels: Bool = false, namespace: String? = nil)
    throws(PortError)
  {
    let slots = inherited.slotSize > 0 ? PacketRing.blockSize / inherited.slotSize * inherited.blocks : 0
    guard inherited.kind == .packet, inherited.descriptor >= 0, inherited.next >= 0, inherited.next < slots,
      kalsae_packet_ifindex(inherited.descriptor) == inherited.interface
    else {
      throw PortError(device: inherited.device, operation: "go on with the port", detail: "it is no port of the device")
    }
    let device = try inNamespace(namespace, device: inherited.device) { () throws(PortError) in
      try InterfaceDescription(index: inherited.interface)
    }
    var memory: UnsafeMutableRawPointer?
    let result = unsafe kalsae_packet_map(
      inherited.descriptor, UInt(inherited.blocks * PacketRing.blockSize), &memory)
    guard result == 0, let memory = unsafe memory else {
      throw PortError(device: inherited.device, operation: "map the receive ring", code: -result)
    }
    socket = inherited.descriptor
    ring = unsafe PacketRing(
      unsafe: memory, socket: socket, blocks: inherited.blocks, slotSize: inherited.slotSize, next: inherited.next)
    pool = FramePool(slots: AFPacketPort.pooledFrames, slotSize: PacketRing.largestSlot)
    name = device.name
    interfaceIndex = device.index
    mac = device.mac
    mtu = device.mtu
    self.namespace = namespace
    if !device.isUp { state = .down }
    var capabilities = PortCapabilities(rawValue: inherited.capabilities)
    // The program went with the process that had attached it.
    (tunnels, tunnelRefusal) = finishesTunnels ? AFPacketPort.attachTunnels(device) : (-1, nil)
    if tunnels >= 0 { capabilities.insert(.tunnels) } else { capabilities.remove(.tunnels) }
    self.capabilities = capabilities
    output = PacketSender(to: SendDescriptor(of: socket), name: name, mtu: mtu, capabilities)
  }

  /// What another process needs to go on with the port. Nothing may be received here any more; the descriptor still
  /// belongs to this port.
  public var handover: InheritedPort {
    var port = InheritedPort(kind: .packet, interface: interfaceIndex, device: name, capabilities: capabilities)
    port.blocks = ring.blocks
    port.slotSize = ring.slotSize
    port.next = ring.next
    port.descriptor = socket
    return port
  }

  deinit {
    // The socket goes with its ring.
    if tunnels >= 0 { close(tunnels) }
  }

  /// Attaches the tunnel program: the descriptor that holds it, or why that cannot be.
  private static func attachTunnels(_ device: InterfaceDescription) -> (Int32, PortError?) {
    var step: UnsafePointer<CChar>?
    let result = unsafe kalsae_tunnel_attach(device.index, &step)
    guard result < 0 else { return (result, nil) }
    let operation = unsafe step.map { unsafe String(cString: $0) } ?? "attach the tunnel program"
    return (
      -1,
      PortError(
        device: device.name, operation: operation, code: -result,
        remedy: "it needs Linux 6.6 or later; until then super-frames in tunnels are cut here, which is slower")
    )
  }

  /// A socket with its ring that is bound to nothing yet: the descriptor, and the address of the ring's memory.
  static func prepare(
    _ options: Options, device: String, slotSize: Int, blocks: Int
  ) throws(PortError) -> (socket: Int32, memory: UInt) {
    var memory: UnsafeMutableRawPointer?
    var step: UnsafePointer<CChar>?
    let result = unsafe options.withRaw(slotSize: slotSize, blocks: blocks) { raw in
      unsafe kalsae_packet_prepare(&raw, &memory, &step)
    }
    guard result >= 0, let memory = unsafe memory else {
      let operation = unsafe step.map { unsafe String(cString: $0) } ?? "open the port"
      throw PortError(device: device, operation: operation, code: -result)
    }
    return (result, UInt(bitPattern: memory))
  }

  /// Returns when the sockets of all ports that are no more are gone, some 30 ms later. A process that ends before they have
  /// begun to go would let go of one after the other, and its successor waits for that.
  public static func waitForClosing() {
    // Nobody waits for ever: at the end the kernel closes what is left.
    for _ in 0..<4000 where kalsae_rings_closing() > 0 { usleep(500) }
  }

  static func discard(_ socket: Int32, _ memory: UInt, blocks: Int) {
    unsafe kalsae_ring_close(
      socket, UnsafeMutableRawPointer(bitPattern: memory), UInt(blocks * PacketRing.blockSize))
  }

  private static func bind(
    _ socket: Int32, _ device: InterfaceDescription, _ options: Options
  ) throws(PortError) {
    var step: UnsafePointer<CChar>?
    let result = unsafe options.withRaw(interface: device.index) { raw in
      unsafe kalsae_packet_bind(socket, &raw, &step)
    }
    guard result == 0 else {
      let operation = unsafe step.map { unsafe String(cString: $0) } ?? "open the port"
      throw PortError(device: device.name, operation: operation, code: -result)
    }
  }

  /// Puts another filter in the place of the present one, while frames go on coming in.
  public func setFilter(_ filter: [sock_filter]) throws(PortError) {
    guard !filter.isEmpty else {
      throw PortError(device: name, operation: "change the packet filter", code: EINVAL)
    }
    try AFPacketPort.filter(socket, name, filter)
  }

  private static func filter(_ socket: Int32, _ device: String, _ filter: [sock_filter]) throws(PortError) {
    guard !filter.isEmpty else { return }
    let result =
      filter.count > 4096
      ? -EINVAL
      : unsafe filter.withUnsafeBufferPointer {
        unsafe kalsae_packet_filter(socket, $0.baseAddress!, UInt16($0.count))
      }
    guard result == 0 else {
      throw PortError(device: device, operation: "change the packet filter", code: -result)
    }
  }

  /// Lets everything in that comes by the device.
  public func removeFilter() { kalsae_packet_unfilter(socket) }

  public func receive(into batch: inout FrameBatch) -> Int {
    var received = 0
    var octets = 0
    var skipped = 0
    var lost = 0
    loop: while !batch.isFull {
      let frame: Frame
      switch ring.take(canCopy: poolUsed < AFPacketPort.pooledFrames) {
      case .empty: break loop
      case .frame(let found): frame = found
      case .queued(let header):
        guard let found = takeQueued(header) else {
          skipped += 1
          continue
        }
        frame = found
      case .lost:
        lost += 1
        continue
      case .unusable:
        skipped += 1
        continue
      }
      batch.append(frame)
      received += 1
      octets += Int(frame.length)
    }
    counters.receivedFrames += UInt64(received)
    counters.receivedOctets += UInt64(octets)
    counters.receiveErrors += UInt64(skipped)
    counters.kernelDrops += UInt64(lost)
    if received == 0, skipped + lost > 0 {
      ring.returnAll()
      poolUsed = 0
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

  /// Takes a super-frame from the socket's queue. The slots that say so stand in the same order as the queue.
  private func takeQueued(_ header: kalsae_ring_frame) -> Frame? {
    let start = AFPacketPort.pooledHeadroom - 10
    let buffer = unsafe pool.address(poolUsed) + start
    let count = unsafe kalsae_packet_take(socket, buffer, UInt(PacketRing.largestSlot - start))
    guard count >= 10 + 14 else { return nil }
    var frame = pool.frame(poolUsed, headroom: AFPacketPort.pooledHeadroom, length: count - 10)
    poolUsed += 1
    var vnet = VirtioHeader()
    unsafe withUnsafeMutableBytes(of: &vnet) {
      unsafe $0.copyMemory(from: UnsafeRawBufferPointer(start: buffer, count: 10))
    }
    guard vnet.describe(&frame) else { return nil }
    frame.note(header)
    return frame
  }

  public func release(_ batch: inout FrameBatch) {
    ring.returnAll()
    poolUsed = 0
    batch.removeAll()
  }

  public func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    let sent = output.transmit(batch, indices)
    if output.takeFailure() {
      takeError()
      if state == .up { state = .down }
    }
    return sent
  }

  /// What another worker sends by; it must not outlive the port. nil: no descriptor is left.
  public func sender() -> PacketSender? {
    guard let copy = SendDescriptor(copying: socket) else { return nil }
    return PacketSender(to: copy, name: name, mtu: mtu, capabilities)
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
