import Addresses
import Dataplane
import Foundation
import Glibc
import Lab
import Testing

@testable import Ports

/// These tests make network namespaces, which needs root; elsewhere they are reported as skipped.
@Suite("AF_PACKET", .enabled(if: Lab.isAvailable, "needs root and network namespaces"))
struct AFPacketTests {
  /// `a` – veth – `f` – veth – `b`: a and b reach each other only through what the test puts between f's devices.
  private struct Line {
    let lab: Lab
    let a: Namespace
    let b: Namespace
    let f: Namespace

    init(_ name: String, mtu: Int? = nil) throws {
      lab = try Lab(name: name)
      a = try lab.namespace("a")
      b = try lab.namespace("b")
      f = try lab.namespace("f")
      try lab.veth(
        Endpoint(a, "eth0", mtu: mtu, addresses: ["10.1.0.1/24", "fd01::1/64"]), Endpoint(f, "fa", mtu: mtu))
      try lab.veth(
        Endpoint(b, "eth0", mtu: mtu, addresses: ["10.1.0.2/24", "fd01::2/64"]), Endpoint(f, "fb", mtu: mtu))
    }

    func port(_ name: String, slots: Int = 120, inRing: Bool = true) throws -> AFPacketPort {
      var options = AFPacketPort.Options.pod
      if inRing { options.superFrames = .ring }
      options.namespace = f.path
      options.slots = slots
      return try AFPacketPort(interface: name, options: options)
    }
  }

  @Test(
    "pings and TCP super-frames pass between two ports, with partial checksums handed on (TUN-9)",
    arguments: [true, false])
  func forwards(inRing: Bool) throws {
    let line = try Line("forward")
    defer { line.lab.cleanUp() }
    let (fa, fb) = (try line.port("fa", inRing: inRing), try line.port("fb", inRing: inRing))
    #expect(fa.mtu == 1500)
    #expect(fa.mac == (try line.f.mac(of: "fa")))
    let forwarder = try Forwarder(fa, fb)
    #expect(try line.a.ping("10.1.0.2", count: 3).isComplete)
    #expect(try line.a.ping("fd01::2", count: 3).isComplete)
    let payload = try Payload(byteCount: 64 << 20)
    for address in [IPAddress.v4(IPv4Address(10, 1, 0, 2)), IPAddress("fd01::2")!] {
      try line.lab.transfer(payload, from: line.a, to: line.b, address: address)
    }
    forwarder.stop()
    #expect(forwarder.superFrames > 100)
    #expect(forwarder.partialChecksums > 100)
    let (sa, sb) = (fa.statistics, fb.statistics)
    #expect(sa.sentFrames + sa.sendErrors == sb.receivedFrames)
    #expect(sb.sentFrames + sb.sendErrors == sa.receivedFrames)
    #expect(sa.sendErrors == 0 && sb.sendErrors == 0)
    #expect(sa.receivedOctets > 64 << 20)
  }

  @Test(
    "a tag that the kernel strips is put back and passes on, also before a super-frame (TUN-10)",
    arguments: [true, false])
  func tags(inRing: Bool) throws {
    let line = try Line("tags")
    defer { line.lab.cleanUp() }
    var options = AFPacketPort.Options.pod
    options.namespace = line.a.path
    let a = try AFPacketPort(interface: "eth0", options: options)
    options.namespace = line.b.path
    let b = try AFPacketPort(interface: "eth0", options: options)
    let (fa, fb) = (try line.port("fa", inRing: inRing), try line.port("fb", inRing: inRing))
    let forwarder = try Forwarder(fa, fb)

    // Ethernet, tag with priority 3 and VLAN 7, then ARP; and 802.1ad before 802.1Q.
    let tagged = Array(arp[..<12]) + [0x81, 0, 0x60, 7] + Array(arp[12...]) + [UInt8](repeating: 0, count: 18)
    let twice = Array(arp[..<12]) + [0x88, 0xa8, 0, 9, 0x81, 0, 0, 8] + Array(arp[12...])
    // A TCP super-frame of 3 segments with CWR, in VLAN 7; the checksum field holds the pseudo header's sum.
    let payload = (0..<2500).map { UInt8(truncatingIfNeeded: $0) }
    let tcp: [UInt8] =
      [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 7, 8, 0]
      + [0x45, 0, 0x09, 0xec, 0, 1, 0x40, 0, 64, 6, 0x1c, 0xfc, 10, 1, 0, 1, 10, 1, 0, 2]
      + [0x04, 0xd2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x90, 0x20, 0, 0x1d, 0xe2, 0, 0] + payload
    let superFrame = MemoryFrame(
      tcp, partialChecksumStart: 38, partialChecksumOffset: 16, segmentation: .tcp4, segmentSize: 1000)
    #expect(send([MemoryFrame(tagged), MemoryFrame(twice), superFrame], by: a) == 3)

    var received: [MemoryFrame] = []
    try waitUntil("three frames") {
      received += drain(b).filter { [0x81, 0x88].contains($0.octets[12]) }
      return received.count >= 3
    }
    forwarder.stop()
    #expect(received.map(\.octets) == [tagged, twice, tcp])
    #expect(forwarder.tagged == [0x6007, 7])
    #expect(forwarder.superFrames == 1)
    #expect(received[2].segmentation == .tcp4)
    #expect(received[2].segmentSize == 1000)
    #expect(received[2].partialChecksumStart == 38)
    #expect(received[2].partialChecksumOffset == 16)
  }

  @Test("frames that the ring has no room for are counted as kernel drops")
  func overflow() throws {
    let line = try Line("overflow")
    defer { line.lab.cleanUp() }
    let port = try line.port("fa", slots: 15)
    try line.a.ip("neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev eth0")
    _ = try line.a.run("ping", "-c", "40", "-i", "0.002", "-W", "0.1", "10.1.0.9")
    var batch = FrameBatch()
    #expect(port.receive(into: &batch) == 15)
    // A second look finds nothing: the slots are still out.
    #expect(port.receive(into: &batch) == 0)
    let statistics = port.statistics
    #expect(statistics.receivedFrames == 15)
    #expect(statistics.kernelDrops >= 25)
    #expect(port.statistics.kernelDrops == statistics.kernelDrops, "reading the counters does not count twice")
    port.release(&batch)
    _ = try line.a.run("ping", "-c", "2", "-i", "0.002", "-W", "0.1", "10.1.0.9")
    var received = 0
    for _ in 0..<3 { received += port.receive(into: &batch) }
    #expect(received >= 2, "returned slots are filled again")
  }

  @Test("frames carry the time, and the capture flags match what the kernel said")
  func metadata() throws {
    let line = try Line("metadata")
    defer { line.lab.cleanUp() }
    let port = try line.port("fa")
    try line.a.ip("neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev eth0")
    let before = UInt64(time(nil)) * 1_000_000_000
    _ = try line.a.run("ping", "-c", "1", "-W", "0.1", "10.1.0.9")
    _ = try line.a.run("bash", "-c", "echo hello > /dev/udp/10.1.0.9/9")
    let frames = drain(port).filter { $0.octets[12...13] == [8, 0] }
    try #require(frames.count == 2)
    let (echo, udp) = (frames[0], frames[1])
    #expect(echo.timestamp >= before && echo.timestamp < before + 60_000_000_000)
    #expect(echo.octets.count == 98 && echo.wireLength == 98)
    #expect(echo.partialChecksumStart == nil)
    #expect(udp.partialChecksumStart == 34)
    #expect(udp.partialChecksumOffset == 6)
  }

  @Test("a device that goes down, comes back and is removed is followed without a busy loop")
  func deviceState() throws {
    let line = try Line("state")
    defer { line.lab.cleanUp() }
    let port = try line.port("fa")
    let poller = try Poller()
    try poller.add(port.descriptor!, port: PortIndex(3))
    var batch = FrameBatch()
    func settle() {
      for _ in 0..<32 {
        while port.receive(into: &batch) > 0 { port.release(&batch) }
      }
    }
    settle()
    #expect(port.state == .up)

    try line.f.setDown("fa")
    #expect(poller.wait(nanoseconds: 1_000_000_000) == 1)
    #expect(poller.ready(0) == PortIndex(3))
    settle()
    #expect(port.state == .down)
    #expect(poller.wait(nanoseconds: 1_000_000) == 0)
    #expect(!port.isExhausted)

    // Sending into a device that is down is counted, and harmless.
    #expect(send([MemoryFrame(arp)], by: port) == 0)
    #expect(port.statistics.sendErrors == 1)

    try line.f.setUp("fa")
    try line.f.setMTU(1400, of: "fa")
    try waitUntil("the port to deliver again") {
      _ = try line.a.run("ping", "-c", "1", "-W", "0.05", "10.1.0.9")
      return port.receive(into: &batch) > 0
    }
    port.release(&batch)
    #expect(port.state == .up)
    port.refresh()
    #expect(port.mtu == 1400)
    #expect(send([MemoryFrame(arp)], by: port) == 1)

    try line.f.ip("link del fa")
    settle()
    #expect(port.state == .removed)
    #expect(port.isExhausted)
    #expect(send([MemoryFrame(arp)], by: port) == 0)
    #expect(poller.wait(nanoseconds: 1_000_000) == 0)
  }

  @Test("a frame that the device refuses does not hold back those after it")
  func refusals() throws {
    let line = try Line("refusals")
    defer { line.lab.cleanUp() }
    let (fa, fb) = (try line.port("fa"), try line.port("fb"))
    _ = drain(fb)
    let good = MemoryFrame(arp + [UInt8](repeating: 0, count: 18))
    let long = MemoryFrame(good.octets + [UInt8](repeating: 1, count: 3000))
    let wrong = MemoryFrame(good.octets, partialChecksumStart: 50, partialChecksumOffset: 40)
    #expect(send([good, long, wrong, good], by: fa) == 2)
    #expect(fa.statistics.sentFrames == 2)
    #expect(fa.statistics.sendErrors == 2)
    #expect(fa.statistics.sentOctets == 120)
  }

  @Test("a classic BPF filter keeps out what it does not match")
  func filter() throws {
    let line = try Line("filter")
    defer { line.lab.cleanUp() }
    var options = AFPacketPort.Options.pod
    options.namespace = line.f.path
    // ldh [12]; jeq #0x806, accept; ret 0
    options.filter = [
      .init(code: 0x28, jt: 0, jf: 0, k: 12), .init(code: 0x15, jt: 0, jf: 1, k: 0x806),
      .init(code: 0x06, jt: 0, jf: 0, k: .max), .init(code: 0x06, jt: 0, jf: 0, k: 0),
    ]
    let port = try AFPacketPort(interface: "fa", options: options)
    _ = try line.a.run("ping", "-c", "1", "-W", "0.2", "10.1.0.2")
    let frames = drain(port)
    #expect(!frames.isEmpty)
    #expect(frames.allSatisfy { $0.octets[12...13] == [8, 6] })
  }

  @Test("a socket that was prepared serves a device as one that was opened for it, and only one that its ring suits")
  func spares() throws {
    let line = try Line("spares")
    defer { line.lab.cleanUp() }
    var options = AFPacketPort.Options.pod
    options.namespace = line.f.path
    let spares = PacketSpares(options: options, limit: 2)
    #expect(spares.reserve() == 2 && spares.reserve() == 0)
    for _ in 0..<2 { try spares.prepareReserved() }
    #expect(spares.reserve() == 0 && spares.count == 2)
    func open(_ name: String) throws -> AFPacketPort {
      let device = try inNamespace(line.f.path, device: name) { () throws(PortError) in
        try InterfaceDescription(named: name)
      }
      return try spares.open(interface: device.index)
    }
    let (fa, fb) = (try open("fa"), try open("fb"))
    #expect(spares.count == 0)
    let forwarder = try Forwarder(fa, fb)
    #expect(try line.a.ping("10.1.0.2", count: 3).isComplete)
    let payload = try Payload(byteCount: 8 << 20)
    try line.lab.transfer(payload, from: line.a, to: line.b, address: .v4(IPv4Address(10, 1, 0, 2)))
    forwarder.stop()
    // None is ready, and then one whose slots would be too short: both are opened from the start.
    _ = try open("fa")
    #expect(spares.reserve() == 2)
    try spares.prepareReserved()
    try line.f.ip("link set fa mtu 9000")
    _ = try open("fa")
    #expect(spares.count == 1)
    spares.close()
    // What was still on its way when nobody wanted it any more is not kept.
    try spares.prepareReserved()
    #expect(spares.count == 0 && spares.reserve() == 0)
  }

  @Test("sockets for many devices are prepared at once, and who opens a device waits for one that is on its way")
  func expectedSpares() throws {
    let line = try Line("expected")
    defer { line.lab.cleanUp() }
    var options = AFPacketPort.Options.pod
    options.namespace = line.f.path
    let spares = PacketSpares(options: options, limit: 1)
    let index = try inNamespace(line.f.path, device: "fa") { () throws(PortError) in
      try InterfaceDescription(named: "fa").index
    }
    #expect(spares.reserve(expected: 6) == 6)
    let threads = (0..<3).map { _ in Thread { for _ in 0..<2 { try? spares.prepareReserved() } } }
    for thread in threads { thread.start() }
    // None is opened from the start: what is left of the six is less by each.
    for opened in 1...6 {
      _ = try spares.open(interface: index)
      #expect(spares.reserve() == (opened == 6 ? 1 : 0))
    }
    #expect(spares.count == 0)
    // Where fewer were opened than was said, no more than usual are kept.
    #expect(spares.reserve(expected: 4) == 3)
    for _ in 0..<3 { try spares.prepareReserved() }
    #expect(spares.reserve() == 0)
    spares.trim()
    #expect(spares.count == 1)
  }

  @Test("missing devices, namespaces and nonsense give one clear error each")
  func errors() throws {
    let lab = try Lab(name: "errors")
    defer { lab.cleanUp() }
    let namespace = try lab.namespace("n")
    var options = AFPacketPort.Options.pod
    options.namespace = namespace.path
    func message(_ interface: String, _ options: AFPacketPort.Options) -> String {
      do throws(PortError) {
        _ = try AFPacketPort(interface: interface, options: options)
        return ""
      } catch {
        return error.description
      }
    }
    #expect(message("nope0", options).contains("nope0: cannot find the interface: ENODEV"))
    #expect(message("nope0", options).contains("`ip link` lists them"))
    #expect(message("a-name-that-is-too-long", options).contains("ENODEV"))
    options.slots = 0
    #expect(message("lo", options).contains("0 slots"))
    options.slots = 15
    options.filter = [.init(code: 0xff, jt: 0, jf: 0, k: 0)]
    #expect(message("lo", options).contains("lo: cannot attach the packet filter: EINVAL"))
    options.namespace = "/run/netns/kalsae-no-such"
    #expect(message("lo", options).contains("no such namespace"))
    #expect(throws: PortError.self) { try AFPacketPort(interface: 12345) }
  }
}
