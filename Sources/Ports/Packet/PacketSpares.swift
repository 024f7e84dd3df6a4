public import CLinux
import Glibc
import Synchronization

/// Packet sockets with their rings that wait for a device: what takes the kernel some 10 ms is done before anybody waits
/// for it, and for many at once. Each holds a ring, of 1 MiB for a pod's device. May be used from any thread.
public final class PacketSpares: Sendable {
  private struct Spare {
    var socket: Int32
    var memory: UInt
  }

  private struct State {
    var spares: [Spare] = []
    /// Those that are being prepared, or that somebody said he would.
    var coming = 0
    /// Those who wait for them.
    var waiting = 0
    /// How many more devices than usual are about to be opened.
    var expected = 0
    var isClosed = false
  }

  public let options: AFPacketPort.Options
  /// The MTU of the devices that they suit.
  public let mtu: Int
  public let limit: Int
  private let slotSize: Int
  private let blocks: Int
  private let state = Mutex(State())

  /// Keeps up to `limit` sockets for devices with this MTU.
  public init(options: AFPacketPort.Options = .pod, mtu: Int = 1500, limit: Int) {
    self.options = options
    self.mtu = mtu
    self.limit = limit
    (slotSize, blocks) = options.ring(mtu: mtu)
  }

  deinit {
    for spare in state.withLock({ $0.spares }) { AFPacketPort.discard(spare.socket, spare.memory, blocks: blocks) }
  }

  /// How many are ready.
  public var count: Int { state.withLock { $0.spares.count } }

  /// Opens the device of that index, by a socket that is ready, or about to be, if it suits the device. `filter`: in the
  /// place of that of the options.
  public func open(interface: Int32, filter: [sock_filter] = []) throws(PortError) -> AFPacketPort {
    try AFPacketPort(interface: interface, spares: self, filter: filter)
  }

  /// That so many devices are about to be opened: returns how many more sockets there should be. So often
  /// `prepareReserved` must be called, best by as many threads, which wait together; whoever opens a device meanwhile
  /// waits for them.
  public func reserve(expected: Int = 0) -> Int {
    state.withLock { state in
      guard !state.isClosed else { return 0 }
      state.expected += expected
      let missing = max(0, max(limit, state.expected) - state.spares.count - state.coming)
      state.coming += missing
      return missing
    }
  }

  /// Nobody is about to open many devices any more: what is beyond the limit goes, and what is still on its way.
  public func trim() {
    let surplus = state.withLock { state in
      state.expected = 0
      let count = max(0, state.spares.count - limit)
      defer { state.spares.removeLast(count) }
      return state.spares.suffix(count)
    }
    for spare in surplus { AFPacketPort.discard(spare.socket, spare.memory, blocks: blocks) }
  }

  /// Prepares one of those that were reserved. Takes long.
  public func prepareReserved() throws(PortError) {
    let made: (socket: Int32, memory: UInt)
    do throws(PortError) {
      let (options, slotSize, blocks) = (options, slotSize, blocks)
      made = try inNamespace(options.namespace, device: "spare socket") { () throws(PortError) in
        try AFPacketPort.prepare(options, device: "spare socket", slotSize: slotSize, blocks: blocks)
      }
    } catch {
      state.withLock { $0.coming -= 1 }
      throw error
    }
    let isKept = state.withLock { state in
      state.coming -= 1
      guard !state.isClosed, state.spares.count < max(limit, state.expected) else { return false }
      state.spares.append(Spare(socket: made.socket, memory: made.memory))
      return true
    }
    if !isKept { AFPacketPort.discard(made.socket, made.memory, blocks: blocks) }
  }

  /// Gives all back and prepares no more; they are gone some 30 ms later (`AFPacketPort.waitForClosing`).
  public func close() {
    let spares = state.withLock { state in
      state.isClosed = true
      defer { state.spares = [] }
      return state.spares
    }
    for spare in spares { AFPacketPort.discard(spare.socket, spare.memory, blocks: blocks) }
  }

  /// A socket with a ring of this shape, which may be on its way; nil where none is.
  func take(slotSize: Int, blocks: Int) -> (socket: Int32, memory: UInt)? {
    guard slotSize == self.slotSize, blocks == self.blocks else { return nil }
    var isWaiting = false
    while true {
      let (spare, waits) = state.withLock { state -> (Spare?, Bool) in
        let spare = state.spares.popLast()
        let waits = spare == nil && state.coming > (isWaiting ? 0 : state.waiting)
        if waits, !isWaiting { state.waiting += 1 }
        if !waits, isWaiting { state.waiting -= 1 }
        if spare != nil { state.expected = max(0, state.expected - 1) }
        return (spare, waits)
      }
      guard waits else { return spare.map { ($0.socket, $0.memory) } }
      isWaiting = true
      usleep(200)
    }
  }
}
