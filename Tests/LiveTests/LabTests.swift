import Addresses
import Glibc
import Lab
import Testing

@Suite("Lab", .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct LabTests {
  /// Two namespaces, a and b, on one wire: 10.0.0.1 and 10.0.0.2, fd00::1 and fd00::2.
  private func pair(_ name: String, mtu: Int? = nil) throws -> (lab: Lab, a: Namespace, b: Namespace) {
    let lab = try Lab(name: name)
    let (a, b) = (try lab.namespace("a"), try lab.namespace("b"))
    try lab.veth(
      Endpoint(
        a, "eth0", mac: MACAddress(rawValue: 0x02_00_00_00_00_0a), mtu: mtu, addresses: ["10.0.0.1/24", "fd00::1/64"]),
      Endpoint(
        b, "eth0", mac: MACAddress(rawValue: 0x02_00_00_00_00_0b), mtu: mtu, addresses: ["10.0.0.2/24", "fd00::2/64"]))
    return (lab, a, b)
  }

  @Test("namespaces are made, joined and removed")
  func lifecycle() throws {
    let (lab, a, b) = try pair("life")
    defer { lab.cleanUp() }
    #expect(a.name == "\(lab.prefix)-a")
    #expect(Set(try a.devices()) == ["lo", "eth0"])
    #expect(try a.mac(of: "eth0").description == "02:00:00:00:00:0a")
    #expect(try namespaces(ofProcess: getpid(), in: lab).filter { $0.contains("-life-") }.count == 2)
    #expect(try a.ping("10.0.0.2", count: 2).isComplete)
    #expect(try a.ping("fd00::2", count: 2).isComplete)
    #expect(try a.arping(IPv4Address(10, 0, 0, 2), on: "eth0") == b.mac(of: "eth0"))
    #expect(try a.arping(IPv4Address(10, 0, 0, 9), on: "eth0") == nil)
    #expect(try a.run("ls", "/sys/class/net").standardOutput.split(separator: "\n").contains("eth0"))

    lab.cleanUp()
    let other = try Lab(name: "witness")
    defer { other.cleanUp() }
    #expect(try namespaces(ofProcess: getpid(), in: other).filter { $0.contains("-life-") }.isEmpty)
    #expect(throws: LabError.self) { try lab.namespace("c") }
  }

  @Test("what others mount for their agents is not seen inside: the folder of agents' pins is a mount of its own")
  func pins() throws {
    let (lab, a, _) = try pair("pins")
    defer { lab.cleanUp() }
    let mounts = try a.run("cat", "/proc/self/mountinfo").check().standardOutput.split(separator: "\n")
      .map { $0.split(separator: " ") }
    let own = try #require(mounts.last { $0[4] == "/run/kalsae" })
    // Between the options and the dash stands what mounts come from elsewhere by.
    #expect(own[6] == "-", "\(own)")
    #expect(!mounts.contains { $0[4] == "/run/kalsae/bpf" && $0[1] == own[0] })
  }

  @Test("a program that is stopped hears that it is to end")
  func stopped() throws {
    let (lab, a, _) = try pair("stopped")
    defer { lab.cleanUp() }
    let child = try a.spawn("sleep", "60")
    child.signal(SIGSTOP)
    #expect(child.terminate()?.status == .signalled(SIGTERM))
  }

  @Test("two labs of one name do not meet")
  func sameName() throws {
    let (first, second) = (try Lab(name: "twin"), try Lab(name: "twin"))
    defer {
      first.cleanUp()
      second.cleanUp()
    }
    #expect(try first.namespace("a").name != second.namespace("a").name)
    #expect(throws: LabError.self) { try first.namespace("a") }
    #expect(throws: LabError.self) { try first.namespace("a/b") }
    #expect(throws: LabError.self) { try Lab(name: "../x") }
  }

  @Test("programs: output, status, input, time-out, and what is missing")
  func programs() throws {
    let (lab, a, _) = try pair("programs")
    defer { lab.cleanUp() }
    let result = try a.run("sh", "-c", "cat; echo no >&2; exit 7", input: "yes\n")
    #expect(result.standardOutput == "yes\n")
    #expect(result.standardError == "no\n")
    #expect(result.status == .exited(7))
    #expect(throws: LabError.self) { try result.check() }
    #expect(try a.run("sh", "-c", "kill -9 $$").status == .signalled(9))

    let start = ContinuousClock.now
    #expect(throws: LabError.self) { try a.run("sleep", "60", timeout: .milliseconds(100)) }
    #expect(start.duration(to: .now) < .seconds(5))
    let missing = #expect(throws: LabError.self) { try a.run("no-such-program") }
    #expect(missing.map { "\($0)" }?.contains("no-such-program is not installed") == true)
    let wrong = #expect(throws: LabError.self) { try a.ip("link set lo up", "link set nothing up") }
    #expect(wrong.map { "\($0)" }?.contains("link set nothing up") == true)

    let child = try a.spawn("sh", "-c", "echo ready; exec sleep 60")
    try waitUntil("the child to speak") { child.standardOutput == "ready\n" }
    #expect(child.isRunning)
    #expect(child.terminate()?.status == .signalled(SIGTERM))
  }

  @Test("what is opened inside belongs to the namespace")
  func inside() throws {
    let (lab, a, b) = try pair("inside")
    defer { lab.cleanUp() }
    try a.sysctl("net.ipv4.ip_default_ttl", "33")
    #expect(try a.sysctl("net/ipv4/ip_default_ttl") == "33")
    #expect(try b.sysctl("net/ipv4/ip_default_ttl") == "64")
    try a.setForwarding(true)
    #expect(try a.sysctl("net/ipv6/conf/all/forwarding") == "1")
    #expect(throws: LabError.self) { try a.sysctl("net/ipv4/no_such_key", "1") }
    struct Mine: Error {}
    #expect(throws: Mine.self) { try a.withNamespace { throw Mine() } }
  }

  @Test("a bridge joins three", arguments: [1500, 9000])
  func bridge(mtu: Int) throws {
    let lab = try Lab(name: "bridge")
    defer { lab.cleanUp() }
    let middle = try lab.namespace("middle")
    let ends = try (1...2).map { number in
      let end = try lab.namespace("end\(number)")
      try lab.veth(
        Endpoint(end, "eth0", mtu: mtu, addresses: ["10.0.0.\(number)/24"]), Endpoint(middle, "port\(number)", mtu: mtu)
      )
      return end
    }
    try lab.bridge(Endpoint(middle, "br0", mtu: mtu, addresses: ["10.0.0.254/24"]), ports: ["port1", "port2"])
    #expect(try ends[0].ping("10.0.0.2", count: 1, size: mtu - 28, dontFragment: true).isComplete)
    #expect(try ends[0].ping("10.0.0.254", count: 1).isComplete)
    #expect(try ends[0].ping("10.0.0.2", count: 1, size: 65_507).isComplete)
    let tooBig = try ends[0].ping("10.0.0.2", count: 1, size: mtu - 27, dontFragment: true)
    #expect(tooBig.received == 0)
    #expect(tooBig.localMTU == mtu)
    #expect(tooBig.reportedMTU == nil)
  }

  @Test("a transfer arrives intact, over IPv4 and IPv6", arguments: ["10.0.0.2", "fd00::2"])
  func transfer(address: String) throws {
    let (lab, a, b) = try pair("transfer")
    defer { lab.cleanUp() }
    let payload = try Payload(byteCount: 20_000_001)
    let result = try lab.transfer(payload, from: a, to: b, address: #require(IPAddress(address)))
    #expect(result.received.byteCount == 20_000_001)
    #expect(result.received.sha256 == payload.sha256)
    #expect(result.sent.pathMTU == 1500)
    #expect(result.bitsPerSecond > 0)
  }

  @Test("a payload is the stream that its seed says")
  func payload() throws {
    let (lab, a, b) = try pair("payload")
    defer { lab.cleanUp() }
    #expect(try Payload(byteCount: 1000, seed: 1).sha256 == Payload(byteCount: 1000, seed: 1).sha256)
    #expect(try Payload(byteCount: 1000, seed: 1).sha256 != Payload(byteCount: 1000, seed: 2).sha256)
    // SplitMix64 from seed 0 begins with 0xe220a8397b1dcdaf: sent in the order of this machine, low octet first.
    let eight = try Payload(byteCount: 8, seed: 0)
    let hash = try lab.transfer(eight, from: a, to: b, address: #require(IPAddress("10.0.0.2"))).received.sha256
    let expected = try a.run("sh", "-c", #"printf '\257\315\035\173\071\250\040\342' | sha256sum"#).standardOutput
    #expect(expected.hasPrefix(hash))
  }

  @Test("a transfer to nowhere ends within its bound and says so")
  func nowhere() throws {
    let (lab, a, b) = try pair("nowhere")
    defer { lab.cleanUp() }
    let payload = try Payload(byteCount: 1000)
    let refused = #expect(throws: LabError.self) {
      try TransferClient.send(payload, from: a, to: #require(IPAddress("10.0.0.2")), port: 9)
    }
    #expect(refused.map { "\($0)" }?.contains("Connection refused") == true)
    try b.setDown("eth0")
    let start = ContinuousClock.now
    #expect(throws: LabError.self) {
      try lab.transfer(payload, from: a, to: b, address: #require(IPAddress("10.0.0.2")), timeout: .milliseconds(300))
    }
    #expect(start.duration(to: .now) < .seconds(10))
  }

  @Test("without offloads a capture of a transfer is clean; with them tshark sees unfinished checksums")
  func capture() throws {
    let (lab, a, b) = try pair("capture")
    defer { lab.cleanUp() }
    let payload = try Payload(byteCount: 300_000)
    let folder = try lab.directory()
    func captured(_ name: String) throws -> String {
      let capture = try b.capture(on: "eth0", to: "\(folder)/\(name).pcap", filter: "tcp")
      try lab.transfer(payload, from: a, to: b, address: #require(IPAddress("10.0.0.2")))
      let (count, lost) = try capture.stop()
      #expect(count > 5)
      #expect(lost == 0)
      #expect(try PacketCheck.count(in: capture.path) == count)
      return capture.path
    }
    #expect(try !PacketCheck.findMalformed(in: captured("partial")).isEmpty)
    for end in [a, b] { try end.setOffloads(false, of: "eth0") }
    #expect(try PacketCheck.findMalformed(in: captured("finished")) == [])
  }

  @Test("a failing capture says why")
  func failingCapture() throws {
    let (lab, a, _) = try pair("failing")
    defer { lab.cleanUp() }
    let error = #expect(throws: LabError.self) { try a.capture(on: "eth7", to: "/dev/null") }
    #expect(error.map { "\($0)" }?.contains("eth7") == true)
    #expect(throws: LabError.self) { try PacketCheck.findMalformed(in: "/nonexistent.pcap") }
  }
}
