import Addresses
import Dataplane
import EBPF
import Glibc
import Lab
import Testing

@testable import Ports

/// `a` and `b` with the far ends of their devices in `f`, which reach each other only through AF_XDP ports there.
private final class XDPLine {
  let lab: Lab
  let a: Namespace
  let b: Namespace
  let f: Namespace
  let memory: XDPMemory
  private let steerer: Steerer
  var steering = Steering()

  init(_ name: String, chunks: Int = 4096, mtu: Int? = nil) throws {
    lab = try Lab(name: name)
    (a, b, f) = (try lab.namespace("a"), try lab.namespace("b"), try lab.namespace("f"))
    try lab.veth(
      Endpoint(a, "eth0", mtu: mtu, addresses: ["10.1.0.1/24", "fd01::1/64"]), Endpoint(f, "fa", mtu: mtu))
    try lab.veth(
      Endpoint(b, "eth0", mtu: mtu, addresses: ["10.1.0.2/24", "fd01::2/64"]), Endpoint(f, "fb", mtu: mtu))
    memory = try XDPMemory(chunks: chunks)
    steerer = try Steerer(Steering())
  }

  func open(
    _ name: String, slots: Int = 512, sendSlots: Int? = nil, queues: [Int]? = nil, behind: AFPacketPort? = nil,
    beside: XDPPort? = nil
  ) throws -> XDPPort {
    var options = XDPPort.Options()
    options.namespace = f.path
    options.slots = slots
    options.sendSlots = sendSlots ?? slots
    options.queues = queues
    return try XDPPort(interface: name, memory: memory, behind: behind, beside: beside, options: options)
  }

  /// Has all devices receive and send by this many queues.
  func raiseQueues(to count: Int) throws {
    for (namespace, device) in [(a, "eth0"), (b, "eth0"), (f, "fa"), (f, "fb")] {
      try namespace.withNamespace { try XDPPort.raiseQueues(of: device, to: count) }
    }
  }

  /// Has the device's packets come in by the port: all, or what is `steering`'s.
  func steer(_ port: XDPPort, _ others: [XDPPort] = [], isShared: Bool = false) throws {
    if isShared {
      steering.sharedDevices.append(port.interfaceIndex)
    } else {
      steering.ownDevices.append(port.interfaceIndex)
    }
    try steerer.set(steering)
    let sockets = ([port] + others).flatMap(\.socketDescriptors)
    try steerer.setSockets(sockets, of: port.interfaceIndex)
    try f.withNamespace { try steerer.attach(to: port.interfaceIndex) }
  }

  func port(_ name: String, slots: Int = 512) throws -> XDPPort {
    let port = try open(name, slots: slots)
    try steer(port)
    return port
  }

  func leave(_ interface: Int32) throws {
    steerer.detach(from: interface)
    try steerer.setSockets([], of: interface)
  }

  var counted: (taken: UInt64, withoutSocket: UInt64, passed: UInt64) { steerer.counted }

  /// What the kernel says of a device.
  func description(_ name: String) throws -> String {
    try f.run("ip", "-d", "link", "show", name).check().standardOutput
  }
}

@Suite("AF_XDP", .enabled(if: Lab.isAvailable, "needs root and network namespaces"))
struct XDPTests {
  @Test("pings and TCP pass both ways, with checksums that are whole, and from port to port nothing is copied")
  func forwards() throws {
    let line = try XDPLine("xdp")
    defer { line.lab.cleanUp() }
    let all = line.memory.free
    func run() throws {
      let (fa, fb) = (try line.port("fa"), try line.port("fb"))
      #expect(fa.mtu == 1500)
      #expect(fa.mac == (try line.f.mac(of: "fa")))
      #expect(line.memory.free < all)
      let forwarder = try Forwarder(fa, fb)
      #expect(try line.a.ping("10.1.0.2", count: 3).isComplete)
      #expect(try line.b.ping("fd01::1", count: 3).isComplete)
      let payload = try Payload(byteCount: 16 << 20)
      for address in [IPAddress.v4(IPv4Address(10, 1, 0, 2)), IPAddress("fd01::2")!] {
        try line.lab.transfer(payload, from: line.a, to: line.b, address: address)
      }
      forwarder.stop()
      #expect(forwarder.superFrames == 0 && forwarder.partialChecksums == 0)
      let (sa, sb) = (fa.statistics, fb.statistics)
      #expect(sa.sentFrames + sa.sendErrors == sb.receivedFrames)
      #expect(sb.sentFrames + sb.sendErrors == sa.receivedFrames)
      #expect(sa.receivedOctets > 32 << 20)
      // The pods' stacks leave checksums to the device.
      #expect(fa.counters.finishedChecksums > 1000)
      #expect(fa.counters.sentCopies == 0 && fb.counters.sentCopies == 0)
      #expect(fb.counters.sentInPlace == sb.sentFrames)
      #expect(fa.counters.invalidTransmit == 0 && fa.counters.invalidReceive == 0)
      #expect(try line.description("fa").contains("prog/xdp"))
      for port in [fa, fb] { try line.leave(port.interfaceIndex) }
    }
    try run()
    // Nothing is left: no program, no frame.
    #expect(try !line.description("fa").contains("prog/xdp"))
    #expect(line.memory.free == all)
  }

  @Test("the queues of a device are dealt out to ports, each with a thread of its own, and pings and TCP pass by all")
  func dealtOut() throws {
    let line = try XDPLine("xdpqueues", chunks: 8192)
    defer { line.lab.cleanUp() }
    try line.raiseQueues(to: 2)
    let all = line.memory.free
    func run() throws {
      let (fa0, fb0) = (try line.open("fa", queues: [0]), try line.open("fb", queues: [0]))
      let (fa1, fb1) = (
        try line.open("fa", queues: [1], beside: fa0), try line.open("fb", queues: [1], beside: fb0)
      )
      #expect(fa0.socketDescriptors.map(\.queue) == [0] && fa1.socketDescriptors.map(\.queue) == [1])
      #expect(fa0.bundling === fa1.bundling)
      #expect(line.memory.free == all - 4 * 512)
      try line.steer(fa0, [fa1])
      try line.steer(fb0, [fb1])
      let forwarders = [try Forwarder(fa0, fb0), try Forwarder(fa1, fb1)]
      #expect(try line.a.ping("10.1.0.2", count: 3).isComplete)
      #expect(try line.b.ping("fd01::1", count: 3).isComplete)
      let payload = try Payload(byteCount: 1 << 20)
      // The sender's stack deals its connections out to the queues of its device.
      for _ in 0..<12 { try line.lab.transfer(payload, from: line.a, to: line.b, address: IPAddress("10.1.0.2")!) }
      for forwarder in forwarders { forwarder.stop() }
      for (from, to) in [(fa0, fb0), (fa1, fb1)] {
        #expect(from.statistics.receivedFrames > 100, "queue \(from.socketDescriptors[0].queue)")
        #expect(from.statistics.receivedFrames == to.statistics.sentFrames + to.statistics.sendErrors)
        #expect(to.counters.sentCopies == 0 && to.counters.invalidTransmit == 0)
      }
      #expect(line.counted.withoutSocket == 0)
      for port in [fa0, fb0] { try line.leave(port.interfaceIndex) }
    }
    try run()
    #expect(line.memory.free == all)
  }

  @Test("a port takes what comes by all of its queues; what comes by another one goes on to the packet socket")
  func severalQueues() throws {
    let line = try XDPLine("xdpseveral", chunks: 8192)
    defer { line.lab.cleanUp() }
    try line.raiseQueues(to: 2)
    try line.a.ip("neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev eth0")
    let sendAll =
      "import socket\nfor p in range(20000, 20064):\n s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
      + "s.bind(('10.1.0.1', p)); s.sendto(b'x' * 20, ('10.1.0.9', 9))"
    func ports(_ port: XDPPort, _ count: Int) throws -> [Int] {
      try line.a.run("/usr/bin/python3", "-c", sendAll).check()
      var batch = FrameBatch(capacity: 24)
      var found: [Int] = []
      try waitUntil("the datagrams") {
        if port.receive(into: &batch) > 0 {
          for i in 0..<batch.count where batch[i].octets[u16: 12] == 0x0800 && batch[i].octets[23] == 17 {
            found.append(Int(batch[i].octets[u16: 34]))
          }
          port.release(&batch)
        }
        return found.count >= count
      }
      return found.sorted()
    }
    func run(_ queues: [Int], isOnly: Bool) throws {
      var options = AFPacketPort.Options.pod
      options.namespace = line.f.path
      let behind = isOnly ? nil : try AFPacketPort(interface: "fa", options: options)
      let port = try line.open("fa", queues: queues, behind: behind)
      try line.steer(port)
      let before = line.counted.withoutSocket
      // Whichever way they come, each comes once.
      #expect(try ports(port, 64) == Array(20000..<20064))
      let passed = line.counted.withoutSocket - before
      #expect(isOnly ? passed == 0 : passed > 0)
      if let behind { #expect(behind.statistics.receivedFrames >= passed) }
      try line.leave(port.interfaceIndex)
    }
    try run([0, 1], isOnly: true)
    try run([1], isOnly: false)
    #expect(line.memory.free == line.memory.chunks)
  }

  @Test(
    "a port with few slots sends for as long as it is asked to without receiving anything, and receives afterwards",
    arguments: [64, 128])
  func sendsOnly(slots: Int) throws {
    let line = try XDPLine("xdpsend", chunks: 2048)
    defer { line.lab.cleanUp() }
    func run() throws {
      let port = try line.open("fb", slots: slots)
      try line.steer(port)
      var options = AFPacketPort.Options.pod
      options.namespace = line.b.path
      let eye = try AFPacketPort(interface: "eth0", options: options)
      let frames = (0..<40).map { number in
        MemoryFrame([UInt8](repeating: 0xff, count: 12) + [0x88, 0xb5] + [UInt8](repeating: UInt8(number), count: 46))
      }
      var arrived = 0
      for _ in 0..<40 {
        #expect(send(frames, by: port) == 40)
        arrived += drain(eye).filter { $0.octets[12] == 0x88 && $0.octets[13] == 0xb5 }.count
      }
      try waitUntil("all frames") {
        arrived += drain(eye).filter { $0.octets[12] == 0x88 && $0.octets[13] == 0xb5 }.count
        return arrived >= 1600
      }
      #expect(arrived == 1600 && port.statistics.sendErrors == 0)
      // What came back is not kept beyond use: the ring of frames to come, twice a portion, what is under way.
      #expect(line.memory.chunks - line.memory.free <= slots + 2 * 16 + slots)
      // Frames that stay the port's: nobody sends them on.
      var batch = FrameBatch()
      var received = 0
      try line.b.ip("neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev eth0")
      _ = try line.b.run("ping", "-c", "40", "-i", "0.001", "-W", "0.1", "10.1.0.9")
      try waitUntil("the pings") {
        received += port.receive(into: &batch)
        port.release(&batch)
        return received >= 40
      }
      try line.leave(port.interfaceIndex)
    }
    try run()
    #expect(line.memory.free == line.memory.chunks)
  }

  @Test("frames that find no room are counted, and afterwards everything is as before")
  func overflow() throws {
    let line = try XDPLine("xdpfull")
    defer { line.lab.cleanUp() }
    func run() throws {
      let (fa, fb) = (try line.port("fa", slots: 64), try line.port("fb", slots: 64))
      // Nobody takes them.
      try line.a.ip("neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev eth0")
      _ = try line.a.run("ping", "-c", "200", "-i", "0.001", "-W", "0.1", "10.1.0.9")
      #expect(fa.statistics.kernelDrops > 50)
      let forwarder = try Forwarder(fa, fb)
      #expect(try line.a.ping("10.1.0.2", count: 50, interval: .milliseconds(2)).isComplete)
      forwarder.stop()
      for port in [fa, fb] { try line.leave(port.interfaceIndex) }
    }
    try run()
    #expect(line.memory.free == line.memory.chunks)
  }

  @Test("frames of other kinds of ports are copied; one that is sent twice goes out twice; no chunk is lost")
  func copies() throws {
    let line = try XDPLine("xdpcopy")
    defer { line.lab.cleanUp() }
    func run() throws {
      let (fa, fb) = (try line.port("fa"), try line.port("fb"))
      var options = AFPacketPort.Options.pod
      options.namespace = line.b.path
      let eye = try AFPacketPort(interface: "eth0", options: options)
      func seen(_ kind: UInt8) -> [[UInt8]] { drain(eye).map(\.octets).filter { $0[12] == 0x88 && $0[13] == kind } }
      let own = (0..<300).map { i in
        [UInt8](repeating: 0xff, count: 12) + [0x88, 0xb5] + (0..<(46 + i)).map { UInt8(truncatingIfNeeded: $0 + i) }
      }
      for part in stride(from: 0, to: 300, by: 100) {
        #expect(send(own[part..<(part + 100)].map { MemoryFrame($0) }, by: fb) == 100)
      }
      var received: [[UInt8]] = []
      try waitUntil("the frames") {
        received += seen(0xb5)
        return received.count >= 300
      }
      #expect(received == own)
      #expect(fb.counters.sentCopies == 300 && fb.counters.sentInPlace == 0)

      // From `a`, and then out by `fb` twice and back by `fa` as well.
      options.namespace = line.a.path
      let a = try AFPacketPort(interface: "eth0", options: options)
      let one = [UInt8](repeating: 0xff, count: 12) + [0x88, 0xb6] + [UInt8](repeating: 7, count: 46)
      #expect(send([MemoryFrame(one)], by: a) == 1)
      var batch = FrameBatch()
      var list = FrameList()
      try waitUntil("the frame") {
        if fa.receive(into: &batch) > 0 {
          for i in 0..<batch.count where batch[i].octets[u16: 12] == 0x88b6 { list.append(i) }
          if list.isEmpty { fa.release(&batch) }
        }
        return !list.isEmpty
      }
      #expect(fb.transmit(batch, list) == 1 && fa.transmit(batch, list) == 1 && fb.transmit(batch, list) == 1)
      fa.release(&batch)
      #expect(fb.counters.sentInPlace == 1 && fb.counters.sentCopies == 301 && fa.counters.sentCopies == 1)
      var twice: [[UInt8]] = []
      try waitUntil("the copies") {
        twice += seen(0xb6)
        return twice.count >= 2
      }
      #expect(twice == [one, one])
      // No frame that a chunk has no room for.
      #expect(send([MemoryFrame([UInt8](repeating: 1, count: 2000))], by: fb) == 0)
      #expect(fb.statistics.sendErrors == 1)
      for port in [fa, fb] { try line.leave(port.interfaceIndex) }
    }
    try run()
    #expect(line.memory.free == line.memory.chunks)
  }

  @Test(
    "NODE-3 of a shared device's packets the data plane's come in, the host gets the others, and the packet socket too")
  func shared() throws {
    let line = try XDPLine("xdpshare")
    defer { line.lab.cleanUp() }
    try line.f.addAddress("10.1.0.254/24", to: "fa")
    var options = AFPacketPort.Options.pod
    options.namespace = line.f.path
    let behind = try AFPacketPort(interface: "fa", options: options)
    let port = try line.open("fa", behind: behind)
    line.steering.localAddresses = [IPAddress("10.1.0.254")!]
    line.steering.udpPorts = [4789]
    try line.steer(port, isShared: true)
    #expect(try line.a.ping("10.1.0.254", count: 3).isComplete)
    for number in [4789, 4790] {
      let send = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 20, ('10.1.0.254', \(number)))"
      #expect(try line.a.run("/usr/bin/python3", "-c", "import socket; \(send)").isSuccess)
    }
    var batch = FrameBatch()
    var ports: [UInt16] = []
    var echoes = 0
    try waitUntil("both datagrams and the echoes") {
      if port.receive(into: &batch) > 0 {
        for i in 0..<batch.count where batch[i].octets[u16: 12] == 0x0800 {
          let octets = batch[i].octets
          if octets[23] == 1, octets[34] == 8 { echoes += 1 }
          if octets[23] == 17 { ports.append(octets[u16: 36]) }
        }
        port.release(&batch)
      }
      return ports.count >= 2 && echoes >= 3
    }
    #expect(ports.sorted() == [4789, 4790] && echoes == 3)
    // The one came by AF_XDP, the other did not.
    #expect(port.statistics.receivedFrames - behind.statistics.receivedFrames == 1)
    // Super-frames go out by the packet socket.
    #expect(port.capabilities == behind.capabilities && port.capabilities.contains(.tcp4))
    let payload = (0..<2500).map { UInt8(truncatingIfNeeded: $0) }
    let tcp: [UInt8] =
      [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]
      + [0x45, 0, 0x09, 0xec, 0, 1, 0x40, 0, 64, 6, 0x1c, 0xfc, 10, 1, 0, 1, 10, 1, 0, 2]
      + [0x04, 0xd2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x90, 0x20, 0, 0x1d, 0xe2, 0, 0] + payload
    let superFrame = MemoryFrame(
      tcp, partialChecksumStart: 34, partialChecksumOffset: 16, segmentation: .tcp4, segmentSize: 1000)
    #expect(send([superFrame], by: port) == 1)
    #expect(behind.statistics.sentFrames == 1)
    try line.leave(port.interfaceIndex)
  }

  @Test("the device holds packets back as it did before, once the port is gone")
  func moderation() throws {
    let line = try XDPLine("xdpmod")
    defer { line.lab.cleanUp() }
    func deferrals() throws -> String {
      try line.f.run("cat", "/sys/class/net/fa/napi_defer_hard_irqs", "/sys/class/net/fa/gro_flush_timeout").check()
        .standardOutput
    }
    let before = try deferrals()
    func run() throws {
      let port = try line.open("fa")
      #expect(port.moderationRefusal == nil || kalsaeKernelIsOlder)
      if port.moderationRefusal == nil { #expect(try deferrals() != before) }
    }
    try run()
    #expect(try deferrals() == before)
  }

  private var kalsaeKernelIsOlder: Bool {
    var name = utsname()
    guard unsafe uname(&name) == 0 else { return false }
    let release = unsafe withUnsafeBytes(of: &name.release) {
      unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
    }
    let numbers = release.split(whereSeparator: { !$0.isNumber }).prefix(2).compactMap { Int($0) }
    return numbers.count == 2 && (numbers[0], numbers[1]) < (6, 14)
  }

  @Test("what cannot be is refused with what to do about it, and takes no frame")
  func refused() throws {
    #expect(throws: PortError.self) { _ = try XDPMemory(chunks: 0) }
    #expect(throws: PortError.self) { _ = try XDPMemory(chunks: 64, mtu: 9000) }
    #expect(try XDPMemory(chunks: 64, mtu: 3000).chunkSize == 4096)
    let line = try XDPLine("xdpno", chunks: 1024, mtu: 3000)
    defer { line.lab.cleanUp() }
    let (fa, memory) = ("fa", line.memory)
    func refusal(_ name: String, slots: Int) -> PortError? {
      do {
        _ = try line.open(name, slots: slots)
        return nil
      } catch { return error as? PortError }
    }
    #expect(refusal(fa, slots: 100)?.remedy == "choose a power of two from 64 to 32768")
    #expect(refusal("none", slots: 64)?.remedy?.contains("no interface none") == true)
    #expect(refusal(fa, slots: 64)?.description.contains("frames of at most 1688 octets fit the memory") == true)
    try line.f.setMTU(1500, of: fa)
    #expect(refusal(fa, slots: 2048)?.description.contains("1024 frames of the memory are left") == true)
    #expect(memory.free == 1024)
    let port = try line.open(fa, slots: 64)
    #expect(refusal(fa, slots: 64)?.code == EBUSY)
    let beyond = #expect(throws: PortError.self) { try line.open(fa, slots: 64, queues: [0, 1]) }
    #expect(beyond?.description.contains("use AF_XDP at the queues [0, 1]: it receives by 1") == true)
    let many = #expect(throws: PortError.self) {
      try line.f.withNamespace { try XDPPort.raiseQueues(of: fa, to: 5000) }
    }
    #expect(many?.code == ERANGE)
    #expect(memory.free == 1024 - 64)
    withExtendedLifetime(port) {}
  }

  @Test("a device that goes is noticed")
  func gone() throws {
    let line = try XDPLine("xdpgone")
    defer { line.lab.cleanUp() }
    let port = try line.port("fa")
    try line.f.setDown("fa")
    port.refresh()
    #expect(port.state == .down)
    #expect(send([MemoryFrame([UInt8](repeating: 1, count: 60))], by: port) == 0)
    try line.f.setUp("fa")
    port.refresh()
    #expect(port.state == .up)
    try line.f.ip("link del fa")
    var batch = FrameBatch()
    try waitUntil("the port to see it") {
      _ = port.receive(into: &batch)
      return port.isExhausted
    }
  }
}
