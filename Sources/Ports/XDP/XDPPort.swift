public import Addresses
import CDataplane
import CLinux
public import Dataplane
import Glibc

/// A port on a network device of the kernel, by AF_XDP sockets, one for each queue of the device that is the port's: a program
/// at the device hands them frames before the kernel has made packets of them, into memory that all such ports share, and what
/// goes out by another one is not copied here. Several ports, each with queues of its own, can be on one device.
///
/// The port gets nothing until a program redirects to its `socketDescriptors`. It carries single frames up to `mtu`; what the program
/// passes on comes in by the port that is `behind` it, where there is one, and super-frames go out by that.
public final class XDPPort: Port {
  public let name: String
  public let interfaceIndex: Int32
  /// The hardware address of the device when the port was opened.
  public let mac: MACAddress
  /// The device's MTU: as of the opening or of the last `refresh()`, or as the worker was told since.
  public var mtu: Int
  public private(set) var state: State = .up
  public var capabilities: PortCapabilities { behind?.capabilities ?? [] }
  public var isExhausted: Bool { state == .removed }
  public var descriptor: Int32? { sender.descriptor }
  /// The AF_XDP sockets by the device's queues, for the program's map.
  public var socketDescriptors: [(queue: Int, descriptor: Int32)] { sockets.map { ($0.queue, $0.descriptor) } }
  /// Whether the device's driver reads and writes the memory itself; else the kernel copies once.
  public var isZeroCopy: Bool { sender.isZeroCopy }
  /// Why the device holds no packets back under load although it was to; nil: it does, or was not to.
  public private(set) var moderationRefusal: PortError?
  /// What takes the frames that the program passes on, and sends super-frames; its frames come in by this port.
  public let behind: AFPacketPort?
  /// Says whether packets come in bundles now.
  public let bundling: Bundling
  let memory: XDPMemory

  /// One for each queue, and the first of them, by which all frames go out.
  private let sockets: [XDPSocket]
  private let sender: XDPSocket
  /// Which of the sockets is looked at first.
  private var turn = 0
  private let options: Options
  private let number: UInt16
  private let moderation: Moderation?
  /// Chunks that are handed out with a batch.
  private var handedOut: ChunkList
  /// Chunks that wait for use.
  private var spare: ChunkList
  /// Whether the transmit ring may hold frames that the kernel has not looked at.
  private var hasUnsent = false
  private var statisticsSoFar = PortStatistics()
  private var countersSoFar = Counters()
  private var emptyReceives = 0
  private var single = FrameList(capacity: 1)

  /// As many as go between the port and the memory at once; it keeps no more than twice as many for want of use.
  private let portion: Int
  /// The most packets that the kernel moves when it is asked to: those of a batch.
  private static let budget: Int32 = 256
  private static let patience = 64

  /// Opens the device of that name. `beside`: a port at other queues of it.
  public convenience init(
    interface: String, memory: XDPMemory, behind: AFPacketPort? = nil, beside: XDPPort? = nil,
    options: Options = Options()
  ) throws(PortError) {
    try self.init(interface, memory, behind, beside, options) { () throws(PortError) in
      try InterfaceDescription(named: interface)
    }
  }

  /// Opens the device of that index. `beside`: a port at other queues of it.
  public convenience init(
    interface: Int32, memory: XDPMemory, behind: AFPacketPort? = nil, beside: XDPPort? = nil,
    options: Options = Options()
  ) throws(PortError) {
    try self.init("interface \(interface)", memory, behind, beside, options) { () throws(PortError) in
      try InterfaceDescription(index: interface)
    }
  }

  private init(
    _ label: String, _ memory: XDPMemory, _ behind: AFPacketPort?, _ beside: XDPPort?, _ options: Options,
    find: () throws(PortError) -> InterfaceDescription
  ) throws(PortError) {
    let (slots, sendSlots) = (options.slots, options.sendSlots)
    for number in [slots, sendSlots] where number < 64 || number > 32_768 || number & (number - 1) != 0 {
      throw PortError(
        device: label, operation: "open the port", detail: "\(number) slots",
        remedy: "choose a power of two from 64 to 32768")
    }
    var opened: [XDPSocket] = []
    var moderation = beside?.moderation
    let (device, refusal) = try inNamespace(options.namespace, device: label) {
      () throws(PortError) -> (InterfaceDescription, PortError?) in
      let device = try find()
      guard device.mtu <= memory.largestMTU else {
        throw PortError(
          device: device.name, operation: "use AF_XDP", detail: "its MTU is \(device.mtu)",
          remedy: "frames of at most \(memory.largestMTU) octets fit the memory")
      }
      let present = XDPPort.queues(of: device.name)
      let queues = options.queues ?? Array(0..<present.receive)
      guard let first = queues.first, first < present.send,
        queues.allSatisfy({ $0 >= 0 && $0 < present.receive })
      else {
        throw PortError(
          device: device.name, operation: "use AF_XDP at the queues \(queues)",
          detail: "it receives by \(present.receive) and sends by \(present.send)",
          remedy: "have it receive by more: `ethtool -L \(device.name) combined N`, or `rx N tx N` for a veth pair")
      }
      guard memory.free >= slots * queues.count else {
        throw PortError(
          device: device.name, operation: "use AF_XDP",
          detail: "\(memory.free) frames of the memory are left, and it takes \(slots * queues.count)",
          remedy: "give it more memory, or the port fewer slots")
      }
      for queue in queues {
        // Those of a device have one mode.
        let shared = opened.first?.descriptor ?? beside?.sender.descriptor ?? memory.shared
        // The first is the one that sends.
        let transmitSize = opened.isEmpty ? sendSlots : 64
        func socket(_ shared: Int32?) throws(PortError) -> XDPSocket {
          try XDPSocket(
            device, queue: queue, memory: memory, receiveSize: slots, transmitSize: transmitSize, shared: shared)
        }
        do throws(PortError) { opened.append(try socket(shared)) } catch {
          // One that the driver serves and one that it does not cannot share.
          guard shared != nil, opened.isEmpty,
            error.code == EINVAL || error.code == EOPNOTSUPP || error.code == EBADF
          else { throw error }
          opened.append(try socket(nil))
        }
      }
      guard options.moderates, beside == nil else { return (device, nil) }
      do throws(PortError) {
        moderation = try Moderation(device.name, namespace: options.namespace)
      } catch {
        return (device, error)
      }
      return (device, nil)
    }
    guard let number = memory.addPort() else {
      throw PortError(device: label, operation: "open the port", detail: "no memory has more ports")
    }
    sockets = opened
    sender = opened[0]
    self.number = number
    self.memory = memory
    self.behind = behind
    self.options = options
    self.moderation = moderation
    bundling = moderation?.bundling ?? Bundling()
    moderationRefusal = refusal
    handedOut = ChunkList(capacity: FrameBatch.standardCapacity)
    portion = max(16, min(FrameBatch.standardCapacity, slots * opened.count / 8))
    // What it keeps, what comes back with a batch, and what has been sent meanwhile.
    spare = ChunkList(capacity: 2 * portion + FrameBatch.standardCapacity + max(slots, sendSlots))
    name = device.name
    interfaceIndex = device.index
    mac = device.mac
    mtu = device.mtu
    if !device.isUp { state = .down }
    memory.note(sender.descriptor, of: number)
    for socket in sockets {
      let result = kalsae_xdp_prefer_polling(socket.descriptor, 1, XDPPort.budget)
      if result != 0, moderationRefusal == nil {
        moderationRefusal = PortError(device: name, operation: "have its packets moved by the worker", code: -result)
      }
    }
    refill()
  }

  deinit {
    memory.forget(number)
    for socket in sockets { socket.close() }
    // A driver that writes into the memory itself does so until the kernel has got round to telling it.
    if isZeroCopy { usleep(50_000) }
    memory.reclaim(number)
  }

  // MARK: Receiving

  public func receive(into batch: inout FrameBatch) -> Int {
    if hasUnsent { send() }
    var received = 0
    var found = 0
    for _ in sockets.indices where !batch.isFull {
      let socket = sockets[turn]
      turn = turn + 1 == sockets.count ? 0 : turn + 1
      var waiting = socket.received
      if waiting == 0 {
        // The kernel moves packets now, and in the worker's time: many at once.
        _ = kalsae_xdp_drive(socket.descriptor)
        waiting = socket.received
      }
      found += waiting
      received += take(waiting, from: socket, into: &batch)
    }
    moderation?.note(found, at: kalsae_monotonic())
    if let behind, !batch.isFull { received += behind.receive(into: &batch) }
    if received > 0 {
      if state == .down { state = .up }
    } else {
      recycle()
      // A device that goes leaves an error on the socket, which then polls ready until somebody takes it.
      emptyReceives &+= 1
      if emptyReceives & 63 == 0 { takeError() }
    }
    return received
  }

  /// Takes as many frames as there is room for of those that wait in a socket.
  private func take(_ waiting: Int, from socket: XDPSocket, into batch: inout FrameBatch) -> Int {
    let count = min(waiting, batch.capacity - batch.count, handedOut.room)
    var received = 0
    var octets = 0
    for index in 0..<count {
      let (address, length) = socket.receivedFrame(index)
      let chunk = memory.chunk(at: address)
      handedOut.append(chunk)
      let offset = Int(address - memory.address(of: chunk))
      guard length >= 14, offset + length <= memory.chunkSize, offset >= Headroom.minimum else { continue }
      let frame = memory.frame(chunk, offset: offset, length: length, slot: UInt32(number) << XDPPort.chunkBits | chunk)
      if unsafe kalsae_finish_checksum(frame.buffer + offset, UInt32(length)) != 0 {
        countersSoFar.finishedChecksums += 1
      }
      batch.append(frame)
      received += 1
      octets += length
    }
    if count > 0 { socket.consumeReceived(count) }
    statisticsSoFar.receivedFrames += UInt64(received)
    statisticsSoFar.receivedOctets += UInt64(octets)
    statisticsSoFar.receiveErrors += UInt64(count - received)
    return received
  }

  /// The octets of a frame's slot that say which chunk it is; the others say whose.
  private static let chunkBits: UInt32 = 17

  public func release(_ batch: inout FrameBatch) {
    recycle()
    if let behind { behind.release(&batch) } else { batch.removeAll() }
  }

  /// Takes back the chunks that were handed out and nobody sends, and gives the kernel what it has room for.
  private func recycle() {
    for index in 0..<handedOut.count where memory.belongs(handedOut[index], to: number) {
      spare.append(handedOut[index])
    }
    handedOut.removeAll()
    takeCompleted()
    refill()
  }

  private func refill() {
    for place in sockets.indices {
      // Where there is not enough for all, not always the same ones get it.
      let socket = sockets[(turn + place) % sockets.count]
      let room = socket.fillRoom
      guard room > 0 else { continue }
      if spare.count < room { memory.take(room - spare.count, for: number, into: &spare) }
      let count = min(room, spare.count)
      for index in 0..<count {
        let chunk = spare.removeLast()
        socket.setFill(index, memory.address(of: chunk))
      }
      guard count > 0 else { return }
      socket.produceFill(count)
      if isZeroCopy, socket.mustWakeToReceive { _ = kalsae_xdp_drive(socket.descriptor) }
    }
  }

  /// Takes back the chunks that the kernel has sent.
  private func takeCompleted() {
    let count = min(sender.completed, spare.room)
    for index in 0..<count {
      let chunk = memory.chunk(at: sender.completedAddress(index))
      memory.endSending(chunk, number)
      spare.append(chunk)
    }
    if count > 0 { sender.consumeCompleted(count) }
    if spare.count > 2 * portion { memory.give(spare.count - portion, from: &spare) }
  }

  // MARK: Sending

  public func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    guard state != .down else {
      statisticsSoFar.sendErrors += UInt64(indices.count)
      return 0
    }
    takeCompleted()
    var sent = 0
    var queued = 0
    var room = sender.transmitRoom
    for position in 0..<indices.count {
      var frame = batch[indices[position]]
      guard frame.segmentation == .none else {
        // What is queued goes first, so that no flow is reordered.
        send(queued)
        queued = 0
        room = sender.transmitRoom
        sent += sendBehind(batch, indices[position])
        continue
      }
      if queued == room {
        send(queued)
        queued = 0
        takeCompleted()
        room = sender.transmitRoom
      }
      guard queued < room, frame.completeChecksum(), let chunk = chunk(for: &frame) else {
        statisticsSoFar.sendErrors += 1
        continue
      }
      sender.setTransmit(queued, memory.address(of: chunk) + UInt64(frame.start), length: frame.length)
      queued += 1
      sent += 1
      statisticsSoFar.sentFrames += 1
      statisticsSoFar.sentOctets += UInt64(frame.length)
    }
    send(queued)
    return sent
  }

  /// The chunk that holds the frame and is the port's to send: its own where it lies in one that nobody sends yet, else a
  /// copy, which `frame` then is. nil: there is none.
  @inline(__always)
  private func chunk(for frame: inout Frame) -> UInt32? {
    if let chunk = memory.chunk(of: frame),
      memory.belongs(chunk, to: UInt16(truncatingIfNeeded: frame.slot >> XDPPort.chunkBits))
    {
      memory.beginSending(chunk, number)
      countersSoFar.sentInPlace += 1
      return chunk
    }
    return copy(&frame)
  }

  private func copy(_ frame: inout Frame) -> UInt32? {
    let length = Int(frame.length)
    guard length <= memory.chunkSize - XDPMemory.headroom else { return nil }
    if spare.count == 0 { memory.take(portion, for: number, into: &spare) }
    guard spare.count > 0 else { return nil }
    let chunk = spare.removeLast()
    let copy = memory.frame(chunk, offset: XDPMemory.headroom, length: length, slot: chunk)
    unsafe memcpy(copy.buffer + Int(copy.start), frame.buffer + Int(frame.start), length)
    frame = copy
    memory.beginSending(chunk, number)
    countersSoFar.sentCopies += 1
    return chunk
  }

  /// Sends a frame by the port behind.
  private func sendBehind(_ batch: borrowing FrameBatch, _ index: Int) -> Int {
    guard let behind else {
      statisticsSoFar.sendErrors += 1
      return 0
    }
    single.removeAll()
    single.append(index)
    return behind.transmit(batch, single)
  }

  /// Hands the kernel `count` more entries of the transmit ring, and has it send.
  private func send(_ count: Int) {
    guard count > 0 else { return }
    sender.produceTransmit(count)
    send()
  }

  private func send() {
    hasUnsent = false
    guard sender.mustWakeToSend else { return }
    var left = sender.unsent
    for _ in 0..<XDPPort.patience where left > 0 {
      let error = -kalsae_xdp_send(sender.descriptor)
      let now = sender.unsent
      switch error {
      case 0: return
      case EAGAIN where now < left: left = now
      case ENETDOWN, ENXIO, ENODEV:
        takeError()
        if state == .up { state = .down }
        return
      default:
        // The device is behind: the next call goes on.
        hasUnsent = true
        return
      }
    }
    hasUnsent = left > 0
  }

  // MARK: State

  /// The counters. Reading them asks the kernel for its own, so do not do it for every batch.
  public var statistics: PortStatistics {
    var sum = statisticsSoFar
    let counters = counters
    sum.kernelDrops += counters.receiveDropped + counters.receiveRingFull
    if let behind { sum = sum + behind.statistics }
    return sum
  }

  /// What the kernel counts for the sockets, and what the port does.
  public var counters: Counters {
    var counters = countersSoFar
    for socket in sockets {
      var found = kalsae_xdp_statistics()
      guard unsafe kalsae_xdp_count(socket.descriptor, &found) == 0 else { continue }
      counters.receiveDropped += found.receive_dropped
      counters.receiveRingFull += found.receive_ring_full
      counters.fillRingEmpty += found.fill_ring_empty
      counters.transmitRingEmpty += found.transmit_ring_empty
      counters.invalidReceive += found.receive_invalid
      counters.invalidTransmit += found.transmit_invalid
    }
    return counters
  }

  private func takeError() {
    for socket in sockets where kalsae_socket_error(socket.descriptor) != 0 { return refresh() }
  }

  /// Reads the device's state and MTU anew: on the port's worker, when the control plane has heard of a change.
  public func refresh() {
    behind?.refresh()
    guard state != .removed else { return }
    let index = interfaceIndex
    do throws(PortError) {
      let device = try inNamespace(options.namespace, device: name) { () throws(PortError) in
        try InterfaceDescription(index: index)
      }
      mtu = device.mtu
      state = device.isUp ? .up : .down
    } catch {
      if error.code == ENODEV || error.code == ENXIO { state = .removed }
    }
  }
}
