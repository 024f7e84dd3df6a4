import Addresses
import Lab
import Testing

@Suite(
  "Another kernel", .serialized,
  .enabled(if: Lab.isAvailable && KernelPeer.isPrepared, "needs root, and tools/kernel-peer prepare"),
  .timeLimit(.minutes(5)))
struct KernelPeerTests {
  @Test("it boots, answers and exchanges transfers over plain IP", arguments: [false, true])
  func plain(offload: Bool) throws {
    let lab = try Lab(name: "peer")
    defer { lab.cleanUp() }
    let node = try lab.namespace("node")
    let peer = try KernelPeer(
      in: node, tap: "tap0", mac: MACAddress(rawValue: 0x02_00_00_00_00_42), addresses: ["10.0.0.2/24", "fd00::2/64"],
      offload: offload)
    try node.ip("addr add 10.0.0.1/24 dev tap0", "addr add fd00::1/64 dev tap0 nodad")
    #expect(try peer.run("uname", "-s").check().standardOutput == "Linux\n")
    #expect(try peer.run("sh", "-c", "exit 3").status == .exited(3))
    #expect(try node.ping("10.0.0.2").isComplete)
    #expect(try node.ping("fd00::2").isComplete)
    #expect(try node.ping("10.0.0.2", count: 1, size: 65_507).isComplete)
    #expect(try node.arping(IPv4Address(10, 0, 0, 2), on: "tap0")?.description == "02:00:00:00:00:42")

    let payload = try Payload(byteCount: 3_000_000)
    for address in ["10.0.0.2", "fd00::2"] {
      try peer.receive(payload, from: node, at: #require(IPAddress(address)), port: 5001)
    }
    for address in ["10.0.0.1", "fd00::1"] {
      try peer.send(byteCount: 3_000_000, to: node, at: #require(IPAddress(address)))
    }
    #expect(throws: LabError.self) { try peer.run("sleep", "30", timeout: .seconds(1)) }
    try peer.stop()
    #expect(throws: LabError.self) { try peer.run("true") }
  }

  @Test("it has every kind of tunnel, and a bridge")
  func tunnels() throws {
    let lab = try Lab(name: "tunnels")
    defer { lab.cleanUp() }
    let node = try lab.namespace("node")
    let peer = try KernelPeer(in: node, tap: "tap0", addresses: ["10.0.0.2/24", "fd00::2/64"])
    try node.ip("addr add 10.0.0.1/24 dev tap0", "addr add fd00::1/64 dev tap0 nodad")
    try peer.shell(
      """
      ends="local 10.0.0.2 remote 10.0.0.1"
      ip link add t1 type ipip $ends
      ip link add t2 type gre $ends key 7
      ip link add t3 type gretap $ends
      ip link add t4 type sit $ends
      ip link add t5 type geneve id 5 remote 10.0.0.1
      ip link add t6 type vxlan id 4096 dstport 4789 $ends
      ip link add t7 type ip6gre local fd00::2 remote fd00::1
      ip link add t8 type ip6tnl mode any local fd00::2 remote fd00::1
      ip link add t9 type bridge
      ip link set t6 up
      ip addr add 10.1.0.2/24 dev t6
      """)
    let devices = try peer.shell("ls /sys/class/net")
    for number in 1...9 { #expect(devices.contains("t\(number)\n")) }
    // This machine's kernel has VXLAN: a packet through it shows that frames come out of the TAP device as they should.
    try node.ip(
      "link add vxlan0 type vxlan id 4096 dstport 4789 local 10.0.0.1 remote 10.0.0.2", "link set vxlan0 up",
      "addr add 10.1.0.1/24 dev vxlan0")
    #expect(try node.ping("10.1.0.2").isComplete)
    try peer.receive(
      try Payload(byteCount: 1_000_000), from: node, at: #require(IPAddress("10.1.0.2")), port: 5001)
  }
}
