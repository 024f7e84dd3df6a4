import Addresses
import Agent
import Glibc
import Lab

/// What `kalsae demo` does.
final class DemoRun {
  private let lab: Lab
  let cluster: Cluster
  let program: String
  private let size: Int
  private let captures: String
  private var agents: [Child] = []
  private let report: DemoReport
  private let wantsKernel: Bool

  init(lab: Lab, size: Int, captures: String, ebpf: Bool, report: DemoReport) throws {
    self.lab = lab
    self.report = report
    wantsKernel = ebpf
    self.size = size
    self.captures = captures
    if unsafe mkdir(captures, 0o755) != 0, errno != EEXIST {
      throw Failure(
        .io, "demo: cannot make the folder \(captures): \(unsafe String(cString: strerror(errno))); see --captures")
    }
    guard let program = ownPath() else { throw Failure(.software, "demo: cannot find the path of this program") }
    self.program = program
    cluster = try Cluster(lab: lab, program: program, plans: [.init("a"), .init("b")], ebpf: ebpf)
    if ebpf { try cluster.configureNodes() }
  }

  /// Runs the modes.
  func run(_ modes: [DemoMode]) throws {
    report.say("Two nodes on one wire, each with a pod on veth and a pod on TAP:")
    for node in cluster.nodes {
      report.say(
        "  \(node.name)  \(node.ipv4)  "
          + node.pods.map { "\($0.name) \($0.ipv4) (\($0.attachment.rawValue))" }
          .joined(separator: ", "))
    }
    let payload = try Payload(byteCount: size * 1_000_000)
    agents = try cluster.start()
    report.say("Both agents are ready.\n")
    var rows: [DemoResult] = []
    for (number, mode) in modes.enumerated() {
      report.progress = "[\(number + 1)/\(modes.count)] \(mode.title)"
      do {
        rows.append(try show(mode, payload))
      } catch {
        report.clearProgress()
        report.fail(mode.title, "\(error)")
      }
    }
    report.clearProgress()
    report.say(DemoResult.table(rows))
    report.say(try carried())
    report.say("The wire of each mode: \(modes.map { path($0) }.joined(separator: " "))")
  }

  // MARK: One mode

  private func show(_ mode: DemoMode, _ payload: Payload) throws -> DemoResult {
    let (a, b) = (cluster.nodes[0].pods, cluster.nodes[1].pods)
    let family = mode.family
    var result = DemoResult(mode: mode)

    report.step("the pool's manifest changes")
    if mode == .vxlan6 { try cluster.setMode(.direct, ipv6: .vxlan) } else { try cluster.setMode(mode.mode) }
    let mtu = family == .ipv6 || mode.mode != .direct ? cluster.podMTU(mode.mode) : cluster.podMTU(.direct)
    result.mtu = mtu
    let before = try drops()
    let carriedBefore = try carriedPackets()

    report.step("ping")
    let capture = try cluster.nodes[0].namespace.capture(on: "eth0", to: path(mode), snapLength: 192, limit: 5000)
    for from in a {
      for to in b {
        let ping = try from.namespace.ping("\(to.address(family))", count: 10, interval: .milliseconds(20))
        result.pings += ping.transmitted
        result.answers += ping.received
        if from.name == a[0].name, to.name == b[0].name { result.latency = ping.roundTrip?.average }
        report.check(ping.isComplete, mode.title, "\(from.name) pings \(to.name): \(ping)")
      }
    }
    let large = try a[0].namespace.ping(
      "\(b[1].address(family))", count: 3, interval: .milliseconds(50), size: 65507)
    result.isLargePingComplete = large.isComplete
    report.check(large.isComplete, mode.title, "the largest ping: \(large)")

    report.step("the gateway")
    result.gateway = try gateway(of: [a[0], a[1]], family, mode)

    report.step("TCP, \(size) MB from veth to veth")
    let veth = try lab.transfer(
      payload, from: a[0].namespace, to: b[0].namespace, address: b[0].address(family), timeout: .seconds(90))
    result.veth = veth
    report.step("TCP, \(size) MB from TAP to TAP")
    result.tap = try lab.transfer(
      payload, from: a[1].namespace, to: b[1].namespace, address: b[1].address(family), timeout: .seconds(90))

    report.step("a packet that is too big")
    result.pathMTU = try pathMTU(a[0], b[0], mode, mtu)

    report.step("what was captured and dropped")
    _ = try capture.stop()
    let seen = try PacketCheck.count(in: path(mode), filter: mode.filter)
    result.captured = seen
    report.check(seen > 0, mode.title, "\(path(mode)) holds no packet that matches `\(mode.filter)`")
    result.drops = try drops().subtracting(before)
    if wantsKernel {
      let carried = try carriedPackets().values.reduce(0, +) - carriedBefore.values.reduce(0, +)
      result.carried = carried
      // IPv6 is carried in user space.
      report.check(carried > 0 || family == .ipv6, mode.title, "the kernel carried no packet")
    }
    report.check(
      result.drops.unexplained == 0, mode.title, "\(result.drops.unexplained) packets were lost without a reason")
    return result
  }

  /// Asks for the gateway by ARP, or looks whether neighbour discovery has found it; the number of right answers.
  private func gateway(of pods: [Cluster.Pod], _ family: IPFamily, _ mode: DemoMode) throws -> Int {
    var found = 0
    for pod in pods {
      let mac: MACAddress?
      if family == .ipv4 {
        mac = try pod.namespace.arping(Cluster.gateway4, on: "eth0")
      } else {
        let text = try pod.namespace.run("ip", "-6", "neigh", "show", "\(Cluster.gateway6)", "dev", "eth0")
          .standardOutput
        mac = text.split(separator: " ").lazy.compactMap { MACAddress(String($0)) }.first
      }
      if mac == MACAddress("ee:ee:ee:ee:ee:ee") { found += 1 }
      report.check(
        mac == MACAddress("ee:ee:ee:ee:ee:ee"), mode.title,
        "\(pod.name) asked for its gateway and got \(mac.map { "\($0)" } ?? "no answer")")
    }
    return found
  }

  /// Gives two pods devices whose MTU is the wire's, so that their packets do not fit the tunnel, and returns the MTU
  /// that the sender is told.
  private func pathMTU(_ from: Cluster.Pod, _ to: Cluster.Pod, _ mode: DemoMode, _ mtu: Int) throws -> Int? {
    let full = cluster.podMTU(.direct)
    for pod in [from, to] { try pod.namespace.setMTU(full, of: "eth0") }
    defer {
      for pod in [from, to] {
        try? pod.namespace.setMTU(mtu, of: "eth0")
        try? cluster.forgetPaths(of: pod)
      }
    }
    let header = mode.family == .ipv4 ? 28 : 48
    let address = to.address(mode.family)
    let ping = try from.namespace.ping(
      "\(address)", count: 2, size: full - header, dontFragment: true, wait: .seconds(1))
    if full == mtu {
      report.check(ping.isComplete, mode.title, "a packet of \(full) octets did not pass: \(ping)")
      return ping.isComplete ? full : nil
    }
    let told = ping.reportedMTU
    report.check(
      told == mtu, mode.title, "a packet of \(full) octets: told \(told.map { "\($0)" } ?? "nothing") instead of \(mtu)"
    )
    // TCP starts with segments for the wire's MTU and must find out by itself.
    try cluster.forgetPaths(of: from)
    let sent = try lab.transfer(
      Payload(byteCount: 5_000_000, seed: 2), from: from.namespace, to: to.namespace, address: address
    ).sent
    report.check(sent.pathMTU == mtu, mode.title, "TCP believes in a path MTU of \(sent.pathMTU) instead of \(mtu)")
    return told
  }

  /// Who carried the packets, in words.
  private func carried() throws -> String {
    let parts = try carriedPackets().sorted { $0.key < $1.key }.map { "\($0.value) on \($0.key)" }
    return parts.isEmpty
      ? "User space carried all packets."
      : "The kernel carried established IPv4 flows of pods on veth (\(parts.joined(separator: ", ")) packets); user space "
        + "decided them and carried all others."
  }

  /// What each node's kernel has carried, where it carries flows.
  private func carriedPackets() throws -> [String: UInt64] {
    var packets: [String: UInt64] = [:]
    for node in cluster.nodes {
      let status = try AgentClient(socketPath: cluster.socket(of: node)).ask(AgentRequest(.status)).reply.status
      packets[node.name] = status?.carriedPackets
    }
    return packets
  }

  private func drops() throws -> DropSummary {
    var summary = DropSummary()
    for node in cluster.nodes {
      let client = AgentClient(socketPath: cluster.socket(of: node))
      summary.add(try client.ask(AgentRequest(.drops)).reply, try client.ask(AgentRequest(.ports)).reply)
    }
    return summary
  }

  // MARK: Words

  private func path(_ mode: DemoMode) -> String { "\(captures)/\(mode.rawValue).pcap" }

  /// Leaves all as it is, says how to look around, and waits for Ctrl-C.
  func stand() throws -> Never {
    let (a, b) = (cluster.nodes[0], cluster.nodes[1])
    report.say(
      """

      Everything stands until Ctrl-C. Look around from another terminal:
        ip netns exec \(a.pods[0].namespace.name) ping \(b.pods[0].ipv4)
        ip netns exec \(a.pods[1].namespace.name) ping \(b.pods[1].ipv6)
        ip netns exec \(a.namespace.name) ping \(b.pods[0].ipv4)
        ip netns exec \(a.namespace.name) tcpdump -ni eth0
        \(program) get status --socket \(cluster.socket(of: a))
        \(program) get routes --socket \(cluster.socket(of: a))
        \(program) flows --socket \(cluster.socket(of: a))
        \(program) drops --watch --socket \(cluster.socket(of: a))
        $EDITOR \(cluster.state)/pools.yaml     # the agents follow
        tail -f \(cluster.log(of: a))
      """)
    Interruption.wait()
  }
}

/// The path of the running program.
func ownPath() -> String? {
  var buffer = [UInt8](repeating: 0, count: 4096)
  let count = unsafe buffer.withUnsafeMutableBytes {
    unsafe readlink("/proc/self/exe", $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
  }
  return count > 0 && count < buffer.count ? String(decoding: buffer[..<count], as: UTF8.self) : nil
}
