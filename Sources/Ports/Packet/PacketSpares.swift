import Glibc
import Synchronization

/// Packet sockets with their rings that wait for a device: what takes the kernel some 10 ms is done before anybody waits
/// for it. Each holds a ring, of 2 MiB for a pod's device. May be used from any thread.
public final class PacketSpares: Sendable {
  private struct Spare {
    var socket: Int32
    var memory: UInt
  }

  private struct State {
    var spares: [Spare] = []
    /// Those that are being prepared.
    var coming = 0
    var isClosed = false
  }

  public let options: AFPacketPort.Options
  public let limit: Int
  private let slotSize: Int
  private let blocks: Int
  private let state = Mutex(State())

  /// Keeps up to `limit` sockets for devices with this MTU.
  public init(options: AFPacketPort.Options = .pod, mtu: Int = 1500, limit: Int) {
    self.options = options
    self.limit = limit
    (slotSize, blocks) = options.ring(mtu: mtu)
  }

  deinit {
    for spare in state.withLock({ $0.spares }) { AFPacketPort.discard(spare.socket, spare.memory, blocks: blocks) }
  }

  /// How many are ready.
  public var count: Int { state.withLock { $0.spares.count } }

  /// Opens the device of that index, by a socket that is ready if there is one that suits the device.
  public func open(interface: Int32) throws(PortError) -> AFPacketPort {
    try AFPacketPort(interface: interface, spares: self)
  }

  /// Prepares one more, where there are fewer than there should be; returns whether it did. Takes long.
  @discardableResult
  public func prepareOne() throws(PortError) -> Bool {
    let isNeeded = state.withLock { state in
      guard !state.isClosed, state.spares.count + state.coming < limit else { return false }
      state.coming += 1
      return true
    }
    guard isNeeded else { return false }
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
      if !state.isClosed { state.spares.append(Spare(socket: made.socket, memory: made.memory)) }
      return !state.isClosed
    }
    if !isKept { AFPacketPort.discard(made.socket, made.memory, blocks: blocks) }
    return isKept
  }

  /// Gives all back and prepares no more; returns when they are gone, some 30 ms for each later. To be called while
  /// packets still move: a process that ends with sockets takes as long to end, and its successor waits for that.
  public func close() {
    let spares = state.withLock { state in
      state.isClosed = true
      defer { state.spares = [] }
      return state.spares
    }
    for spare in spares {
      unsafe munmap(UnsafeMutableRawPointer(bitPattern: spare.memory), blocks * PacketRing.blockSize)
      Glibc.close(spare.socket)
    }
  }

  /// A socket with a ring of this shape; nil where none is ready.
  func take(slotSize: Int, blocks: Int) -> (socket: Int32, memory: UInt)? {
    guard slotSize == self.slotSize, blocks == self.blocks else { return nil }
    return state.withLock { $0.spares.popLast() }.map { ($0.socket, $0.memory) }
  }
}
