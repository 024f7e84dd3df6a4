import Addresses
import Dataplane
import Glibc
import Lab
import Ports
import Synchronization
import Testing

@testable import Agent

/// A port in memory that a worker can wait for: readable once.
private final class WaitablePort: Port {
  let memory = MemoryPort(capabilities: [])
  private let ends: [Int32]

  init() throws {
    var ends: [Int32] = [-1, -1]
    try #require(unsafe pipe(&ends) == 0)
    self.ends = ends
  }

  deinit { for end in ends { close(end) } }

  var name: String { memory.name }
  var capabilities: PortCapabilities { memory.capabilities }
  var mtu: Int { memory.mtu }
  var statistics: PortStatistics { memory.statistics }
  var descriptor: Int32? { ends[0] }
  var isExhausted: Bool { false }

  /// Has the worker find the frame.
  func deliver(_ octets: [UInt8]) {
    memory.enqueue(octets)
    _ = unsafe write(ends[1], [UInt8(0)], 1)
  }

  func receive(into batch: inout FrameBatch) -> Int {
    var octet: UInt8 = 0
    _ = unsafe read(ends[0], &octet, 1)
    return memory.receive(into: &batch)
  }
  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    memory.transmit(batch, indices)
  }
  func release(_ batch: inout FrameBatch) { memory.release(&batch) }
}

/// The threads that move packets.
@Suite("Workers")
struct WorkerTests {
  private static let gateway = MACAddress("ee:ee:ee:ee:ee:ee")!
  private static let podA = MACAddress("0a:58:0a:f4:01:0a")!
  private static let podB = MACAddress("0a:58:0a:f4:01:0b")!

  /// A datagram of 10.244.1.10 to 10.244.1.11 with two octets, as pod A sends it.
  private var datagram: [UInt8] {
    var header: [UInt8] = [0x45, 0, 0, 30, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 244, 1, 10, 10, 244, 1, 11]
    var sum = stride(from: 0, to: header.count, by: 2).reduce(0) { $0 + Int(header[$1]) << 8 + Int(header[$1 + 1]) }
    while sum > 0xffff { sum = sum >> 16 + sum & 0xffff }
    (header[10], header[11]) = (UInt8(~sum >> 8 & 0xff), UInt8(~sum & 0xff))
    return [0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x0a, 0x08, 0x00] + header
      + [0x10, 0x00, 0x20, 0x00, 0, 10, 0, 0, 1, 2]
  }

  @Test(
    "ports are dealt out to the workers, and anew when some go; whoever does not receive by one sends by it",
    .enabled(if: Lab.isAvailable, "needs root and network namespaces"))
  func dealtOut() throws {
    let lab = try Lab(name: "dealt")
    defer { lab.cleanUp() }
    let (near, far) = (try lab.namespace("near"), try lab.namespace("far"))
    let path = DataPath(workers: 2, sharing: .flows)
    let workers = try Workers(path.lanes, busyPoll: false) { _ in }
    var ports: [AFPacketPort] = []
    var options = AFPacketPort.Options.pod
    options.namespace = near.path
    for number in 0..<6 {
      try lab.veth(Endpoint(near, "p\(number)"), Endpoint(far, "q\(number)"))
      ports.append(try AFPacketPort(interface: "p\(number)", options: options))
    }
    func index(_ number: Int) -> PortIndex { PortIndex(UInt16(number + 1)) }
    /// Which worker receives by a port; the other one must send by it, and get nothing.
    func owner(_ number: Int) throws -> Int {
      let here = path.lanes.map { $0[port: index(number)] }
      let owner = try #require(here.firstIndex { ($0 as? AFPacketPort) === ports[number] })
      let other = try #require(here[1 - owner])
      #expect(!(other is AFPacketPort) && other.descriptor == nil)
      return owner
    }
    try path.change { _ in
      for number in ports.indices { try workers.add([ports[number]], at: index(number)) }
      #expect(try ports.indices.map(owner) == [0, 1, 0, 1, 0, 1])
      // All of one worker's go.
      for number in [1, 3, 5] { workers.remove(index(number)) }
      #expect(path.lanes.allSatisfy { $0[port: index(1)] == nil })
      let left = try [0, 2, 4].map(owner)
      #expect(left.count { $0 == 0 } == 2 && left.count { $0 == 1 } == 1)
      // Nothing to be gained.
      workers.remove(index(left[0] == 0 ? 0 : 2))
      #expect(Set(try [0, 2, 4].filter { path.lanes[0][port: index($0)] != nil }.map(owner)) == [0, 1])
    }
  }

  @Test("NODE-5 what a worker holds for a neighbour it sends when it is woken, although another one lets time pass")
  func holds() throws {
    let path = DataPath(workers: 2, sharing: .flows, flowLimit: 2048, affinityLimit: 4096)
    let (from, to) = (try WaitablePort(), MemoryPort(capabilities: []))
    let requests = Requests()
    let worker = try Worker(path.lanes[1], processor: nil, passesTime: false) { requests.add($0) }
    var (hop, index) = (Hop(port: .none, source: Self.gateway, destination: nil, linkMTU: 1500), HopIndex(0))
    try path.change { tables in
      func pod(_ name: String, _ mac: MACAddress) -> PortIndex {
        tables.addPort(PortDescription(name: name, role: .pod, mac: Self.gateway, peerMAC: mac, mtu: 1500))
      }
      let (a, b) = (pod("a", Self.podA), pod("b", Self.podB))
      hop.port = b
      hop.neighbour = IPAddress("10.244.1.11")!
      index = tables.addHop(hop)
      tables.setPodAddress(IPAddress("10.244.1.10")!, port: a)
      tables.setPodAddress(IPAddress("10.244.1.11")!, port: b)
      tables.setRoute(Route(IPPrefix(host: IPAddress("10.244.1.11")!), hops: [index]))
      try worker.add(from, at: a)
      path.lanes[1][port: b] = to
    }
    from.deliver(datagram)
    try worker.start()
    defer { worker.stop() }
    try waitUntil("the worker to ask for the neighbour") { requests.all.contains(.resolve(index)) }
    hop.destination = Self.podB
    path.change { $0.updateHop(index, hop) }
    worker.waker.wake()
    try waitUntil("the packet to be sent") { path.change { _ in to.statistics.sentFrames } == 1 }
  }
}

/// What a worker has asked for.
private final class Requests: Sendable {
  private let list = Mutex<[ControlRequest]>([])
  var all: [ControlRequest] { list.withLock { $0 } }
  func add(_ more: [ControlRequest]) { list.withLock { $0 += more } }
}
