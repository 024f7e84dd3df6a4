import CLinux
import Dataplane
import Glibc
import Synchronization

/// The memory of all AF_XDP ports: chunks of one size, each with room for a frame. What came in by one port can so go out by
/// another one without being copied. A chunk is somebody's: free, a port's, or being sent by a port.
///
/// Ports may be opened and closed from any thread; each moves packets from its own worker's.
@safe
public final class XDPMemory: Sendable {
  /// As many chunks as there can be: 256 MiB of the smaller ones.
  public static let largest = 1 << 17

  public let chunkSize: Int
  public let chunks: Int
  /// Octets of the largest network-layer packet that a chunk has room for.
  public let largestMTU: Int
  nonisolated(unsafe) let base: UnsafeMutableRawPointer
  private nonisolated(unsafe) let owners: UnsafeMutablePointer<UInt16>
  private let state: Mutex<State>

  @safe
  private struct State: ~Copyable {
    /// The chunks that nobody has are the first `count` of these.
    let free: UnsafeMutablePointer<UInt32>
    var count: Int
    /// The sockets that have the memory registered, by their ports' numbers.
    var sockets: [UInt16: Int32] = [:]
    /// The numbers of the ports that are there.
    var ports: Set<UInt16> = []
    var lastPort: UInt16 = 0
  }

  /// The kernel's headroom is a multiple of 32; with this the network-layer header begins on one too.
  static let extraHeadroom = 18
  static var headroom: Int { Int(KALSAE_XDP_HEADROOM) + extraHeadroom }
  /// Of an owner: that the kernel is sending the chunk.
  private static let sending: UInt16 = 0x8000

  /// Memory for `chunks` frames of devices with an MTU of up to `mtu`: taken at once, and not swapped out while ports use it.
  public init(chunks: Int, mtu: Int = 1500) throws(PortError) {
    // Ethernet with two tags; room for an answer that is longer than its question.
    let needed = XDPMemory.headroom + 22 + mtu + 64
    guard chunks > 0, chunks <= XDPMemory.largest, mtu > 0, needed <= 4096 else {
      throw PortError(
        device: "AF_XDP", operation: "make memory for frames",
        detail: "\(chunks) frames of up to \(mtu) octets",
        remedy:
          "a frame must fit a page: an MTU of \(4096 - XDPMemory.headroom - 86) is the most; frames: 1 to \(XDPMemory.largest)"
      )
    }
    chunkSize = needed <= 2048 ? 2048 : 4096
    largestMTU = chunkSize - XDPMemory.headroom - 86
    self.chunks = chunks
    let memory = unsafe mmap(
      nil, chunks * chunkSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard unsafe memory != MAP_FAILED, let memory = unsafe memory else {
      throw PortError(device: "AF_XDP", operation: "make memory for \(chunks) frames", code: errno)
    }
    unsafe madvise(memory, chunks * chunkSize, MADV_HUGEPAGE)
    unsafe base = memory
    unsafe owners = .allocate(capacity: chunks)
    unsafe owners.initialize(repeating: 0, count: chunks)
    let free = UnsafeMutablePointer<UInt32>.allocate(capacity: chunks)
    for chunk in 0..<chunks { unsafe free[chunk] = UInt32(chunks - 1 - chunk) }
    state = unsafe Mutex(State(free: free, count: chunks))
  }

  deinit {
    state.withLock { unsafe $0.free.deallocate() }
    unsafe owners.deallocate()
    unsafe munmap(base, chunks * chunkSize)
  }

  /// The chunks that nobody has.
  public var free: Int { state.withLock { $0.count } }

  // MARK: Ports

  /// The number of a new port; nil: there are as many as there can be.
  func addPort() -> UInt16? {
    state.withLock { state in
      guard state.ports.count < Int(XDPMemory.sending) - 1 else { return nil }
      repeat {
        state.lastPort = state.lastPort + 1 == XDPMemory.sending ? 1 : state.lastPort + 1
      } while state.ports
        .contains(state.lastPort)
      state.ports.insert(state.lastPort)
      return state.lastPort
    }
  }

  /// A socket that the memory is registered with, which a new one can share it with.
  var shared: Int32? { state.withLock { $0.sockets.values.first } }

  func note(_ socket: Int32, of port: UInt16) { state.withLock { $0.sockets[port] = socket } }

  /// The port is about to close its socket.
  func forget(_ port: UInt16) { state.withLock { _ = $0.sockets.removeValue(forKey: port) } }

  /// Takes back all that a port has, and its number: its socket is closed.
  func reclaim(_ port: UInt16) {
    state.withLock { state in
      for chunk in 0..<UInt32(chunks) {
        guard unsafe kalsae_xdp_owner(owners, chunk) & ~XDPMemory.sending == port else { continue }
        unsafe kalsae_xdp_set_owner(owners, chunk, 0)
        unsafe state.free[state.count] = chunk
        state.count += 1
      }
      state.ports.remove(port)
    }
  }

  // MARK: Chunks

  /// Moves up to `count` free chunks to the end of a port's list.
  func take(_ count: Int, for port: UInt16, into list: inout ChunkList) {
    state.withLock { state in
      for _ in 0..<min(count, state.count, list.room) {
        state.count -= 1
        let chunk = unsafe state.free[state.count]
        unsafe kalsae_xdp_set_owner(owners, chunk, port)
        list.append(chunk)
      }
    }
  }

  /// Gives the last `count` chunks of a port's list back.
  func give(_ count: Int, from list: inout ChunkList) {
    state.withLock { state in
      for _ in 0..<min(count, list.count) {
        let chunk = list.removeLast()
        unsafe kalsae_xdp_set_owner(owners, chunk, 0)
        unsafe state.free[state.count] = chunk
        state.count += 1
      }
    }
  }

  /// Whether the port has the chunk, and is not sending it.
  @inline(__always)
  func belongs(_ chunk: UInt32, to port: UInt16) -> Bool {
    precondition(chunk < chunks)
    return unsafe kalsae_xdp_owner(owners, chunk) == port
  }

  /// The port begins to send the chunk, whose-ever it was.
  @inline(__always)
  func beginSending(_ chunk: UInt32, _ port: UInt16) {
    precondition(chunk < chunks)
    unsafe kalsae_xdp_set_owner(owners, chunk, port | XDPMemory.sending)
  }

  /// The port has sent the chunk and has it now.
  @inline(__always)
  func endSending(_ chunk: UInt32, _ port: UInt16) {
    precondition(chunk < chunks)
    unsafe kalsae_xdp_set_owner(owners, chunk, port)
  }

  /// The chunk that holds an address of the kernel's.
  @inline(__always)
  func chunk(at address: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: address / UInt64(chunkSize)) }

  @inline(__always)
  func address(of chunk: UInt32) -> UInt64 { UInt64(chunk) * UInt64(chunkSize) }

  /// A frame of `length` octets `offset` octets into the chunk.
  @inline(__always)
  func frame(_ chunk: UInt32, offset: Int, length: Int, slot: UInt32) -> Frame {
    precondition(chunk < chunks)
    return unsafe Frame(
      unsafe: base + Int(chunk) * chunkSize, capacity: chunkSize, start: offset, length: length, slot: Int(slot))
  }

  /// The chunk whose buffer a frame has; nil: its octets lie elsewhere.
  @inline(__always)
  func chunk(of frame: Frame) -> UInt32? {
    let offset = unsafe UInt(bitPattern: frame.buffer) &- UInt(bitPattern: base)
    return offset < UInt(chunks * chunkSize) ? UInt32(truncatingIfNeeded: offset / UInt(chunkSize)) : nil
  }
}

/// Chunks that a port has at hand, the last come the first to go: it is most likely still in the processor's cache.
@safe
struct ChunkList: ~Copyable {
  private let chunks: UnsafeMutablePointer<UInt32>
  let capacity: Int
  private(set) var count = 0

  init(capacity: Int) {
    self.capacity = capacity
    unsafe chunks = .allocate(capacity: capacity)
  }

  deinit { unsafe chunks.deallocate() }

  var room: Int { capacity - count }

  @inline(__always)
  subscript(_ index: Int) -> UInt32 {
    precondition(index >= 0 && index < count)
    return unsafe chunks[index]
  }

  @inline(__always)
  mutating func append(_ chunk: UInt32) {
    precondition(count < capacity)
    unsafe chunks[count] = chunk
    count &+= 1
  }

  @inline(__always)
  mutating func removeLast() -> UInt32 {
    precondition(count > 0)
    count &-= 1
    return unsafe chunks[count]
  }

  mutating func removeAll() { count = 0 }
}
