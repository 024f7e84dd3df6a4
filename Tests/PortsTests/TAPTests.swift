import Addresses
import Dataplane
import Glibc
import Lab
import Testing

@testable import Ports

/// These tests make network namespaces, which needs root; elsewhere they are reported as skipped.
@Suite("TAP", .enabled(if: Lab.isAvailable, "needs root and network namespaces"))
struct TAPTests {
  private func options(_ namespace: Namespace, mac: MACAddress? = nil, mtu: Int? = nil) -> TAPPort.Options {
    var options = TAPPort.Options()
    options.namespace = namespace.path
    options.mac = mac
    options.mtu = mtu
    return options
  }

  @Test("pings and TCP super-frames pass between the TAP devices of two namespaces")
  func forwards() throws {
    let lab = try Lab(name: "tap")
    defer { lab.cleanUp() }
    let (a, b) = (try lab.namespace("a"), try lab.namespace("b"))
    let mac = MACAddress("0a:58:0a:02:00:01")!
    let ta = try TAPPort(name: "eth0", options: options(a, mac: mac, mtu: 1450))
    let tb = try TAPPort(name: "eth0", options: options(b, mtu: 1450))
    #expect(ta.mtu == 1450 && ta.mac == mac && ta.state == .up)
    #expect(try a.mac(of: "eth0") == mac)
    try a.ip("addr add 10.2.0.1/24 dev eth0", "addr add fd02::1/64 dev eth0 nodad")
    try b.ip("addr add 10.2.0.2/24 dev eth0", "addr add fd02::2/64 dev eth0 nodad")
    let forwarder = try Forwarder(ta, tb)
    #expect(try a.ping("10.2.0.2", count: 3, size: 3000).isComplete)
    let payload = try Payload(byteCount: 64 << 20)
    for address in [IPAddress("10.2.0.2")!, IPAddress("fd02::2")!] {
      try lab.transfer(payload, from: a, to: b, address: address)
    }
    forwarder.stop()
    #expect(forwarder.superFrames > 100)
    #expect(ta.statistics.receivedFrames == tb.statistics.sentFrames + tb.statistics.sendErrors)
    #expect(ta.statistics.sendErrors == 0 && tb.statistics.sendErrors == 0)
  }

  @Test("super-frames and partial checksums pass from a TAP device to an AF_PACKET port and back")
  func mixes() throws {
    let lab = try Lab(name: "mix")
    defer { lab.cleanUp() }
    let (a, b, f) = (try lab.namespace("a"), try lab.namespace("b"), try lab.namespace("f"))
    try lab.veth(Endpoint(b, "eth0", addresses: ["10.3.0.2/24"]), Endpoint(f, "fb"))
    let tap = try TAPPort(name: "eth0", options: options(a))
    try a.ip("addr add 10.3.0.1/24 dev eth0")
    var packet = AFPacketPort.Options.pod
    packet.namespace = f.path
    let forwarder = try Forwarder(tap, try AFPacketPort(interface: "fb", options: packet))
    let payload = try Payload(byteCount: 64 << 20)
    try lab.transfer(payload, from: a, to: b, address: IPAddress("10.3.0.2")!)
    try lab.transfer(payload, from: b, to: a, address: IPAddress("10.3.0.1")!)
    forwarder.stop()
    #expect(forwarder.superFrames > 100)
  }

  @Test("the device goes with its port, unless it is persistent")
  func lifetime() throws {
    let lab = try Lab(name: "life")
    defer { lab.cleanUp() }
    let namespace = try lab.namespace("n")
    do {
      let port = try TAPPort(name: "tap%d", options: options(namespace))
      #expect(port.name == "tap0")
      #expect(try namespace.devices().contains("tap0"))
      let error = #expect(throws: PortError.self) { try TAPPort(name: "tap0", options: options(namespace)) }
      #expect(error?.code == EBUSY, "\(String(describing: error))")
    }
    #expect(try !namespace.devices().contains("tap0"))
    var lasting = options(namespace)
    lasting.persistent = true
    do { _ = try TAPPort(name: "kept", options: lasting) }
    #expect(try namespace.devices().contains("kept"))
    _ = try TAPPort(name: "kept", options: lasting)
  }

  @Test("a device that goes down or is removed is followed")
  func deviceState() throws {
    let lab = try Lab(name: "tapstate")
    defer { lab.cleanUp() }
    let namespace = try lab.namespace("n")
    let port = try TAPPort(name: "tap7", options: options(namespace))
    var batch = FrameBatch()
    func settle() { while port.receive(into: &batch) > 0 { port.release(&batch) } }
    settle()
    #expect(send([MemoryFrame(arp)], by: port) == 1)
    try namespace.setDown("tap7")
    settle()
    #expect(send([MemoryFrame(arp), MemoryFrame(arp)], by: port) == 0)
    #expect(port.state == .down)
    #expect(port.statistics.sendErrors == 2)
    try namespace.setUp("tap7")
    #expect(send([MemoryFrame(arp)], by: port) == 1)
    #expect(port.state == .up)
    try namespace.setMTU(1300, of: "tap7")
    port.refresh()
    #expect(port.mtu == 1300)
    try namespace.ip("link del tap7")
    settle()
    #expect(port.isExhausted)
    #expect(send([MemoryFrame(arp)], by: port) == 0)
  }

  @Test("names that will not do, devices of another kind and missing namespaces are refused clearly")
  func errors() throws {
    let lab = try Lab(name: "taperr")
    defer { lab.cleanUp() }
    let namespace = try lab.namespace("n")
    try namespace.ip("link add v0 type veth peer name v1")
    func message(_ name: String, _ options: TAPPort.Options) -> String {
      do throws(PortError) {
        _ = try TAPPort(name: name, options: options)
        return ""
      } catch {
        return error.description
      }
    }
    #expect(message("", options(namespace)).contains("1 to 15 characters"))
    #expect(message("sixteen-letters!", options(namespace)).contains("1 to 15 characters"))
    #expect(message("v0", options(namespace)).contains("another kind of device"))
    #expect(message("t", options(namespace, mtu: 20)).contains("t: cannot set the MTU: EINVAL"))
    #expect(message("t", options(namespace, mac: .broadcast)).contains("set the hardware address: EADDRNOTAVAIL"))
    #expect(try !namespace.devices().contains("t"), "a port that was not opened leaves no device")
  }
}
