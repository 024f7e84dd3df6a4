import Addresses
import Ports
import Testing

@testable import Dataplane

/// A node on a bench: two pods, the underlay and the host, each behind a memory port. Frames are put in by one of them
/// and what comes out of all is returned.
///
/// Node 1 has 192.0.2.1 and 2001:db8::1 on the underlay, the blocks 10.244.1.0/24 and fd00:1::/64, and in them pod A
/// (.10, ::10) and pod B (.11, ::11). Node 2 is the same with 2 for 1. Each sends to the other's block by `hop`.
final class Bench {
  var tables = Tables()
  var pipeline: Pipeline
  var ports = PortSet()
  /// Nanoseconds; a test moves it on.
  var now: UInt64 = 1_000_000_000_000
  let own: Int
  let other: Int

  let podA: PortIndex
  let podB: PortIndex
  let underlay: PortIndex
  let host: PortIndex
  let hopA: HopIndex
  let hopB: HopIndex
  let hopHost: HopIndex
  /// The way to the other node's pods.
  let hop: HopIndex
  /// Who is asked before the pipeline.
  var kernel: KernelSubject?
  /// The kernel's programs for policy, which are asked too.
  private(set) var policySubject: PolicySubject? =
    PolicySubject.isOn && Subject.current == .pipeline ? PolicySubject() : nil
  /// Whether every frame that goes out is looked at for lengths and checksums.
  var validates = true

  private var memory: [PortIndex: MemoryPort] = [:]

  static let gatewayMAC = MACAddress("ee:ee:ee:ee:ee:ee")!
  static func underlayMAC(_ node: Int) -> MACAddress { MACAddress("02:00:00:00:00:0\(node)")! }
  static func vtepMAC(_ node: Int) -> MACAddress { MACAddress("02:00:00:00:0e:0\(node)")! }
  static func node4(_ node: Int) -> IPAddress { IPAddress("192.0.2.\(node)")! }
  static func node6(_ node: Int) -> IPAddress { IPAddress("2001:db8::\(node)")! }
  static func podMAC(_ node: Int, _ pod: Int) -> MACAddress {
    MACAddress("0a:58:0a:f4:0\(node):\(pod == 10 ? "0a" : "0b")")!
  }
  static func pod4(_ node: Int, _ pod: Int) -> IPAddress { IPAddress("10.244.\(node).\(pod)")! }
  static func pod6(_ node: Int, _ pod: Int) -> IPAddress { IPAddress("fd00:\(node)::\(pod)")! }

  /// A node that reaches the other by `encapsulation`, with an outer header of family `outer`.
  init(
    node: Int = 1, _ encapsulation: Encapsulation = .none, outer: IPFamily = .ipv4, mtu: Int = 1500,
    podMTU: Int = 1500, capabilities: PortCapabilities = [], flowLimit: Int = 4096, slots: Int = 8,
    tunnel configure: (inout Tunnel) -> Void = { _ in }, settings change: (inout Settings) -> Void = { _ in }
  ) {
    own = node
    other = 3 - node
    pipeline = Pipeline(flowLimit: flowLimit)
    let own = own
    let other = other

    func pod(_ name: String, _ number: Int) -> PortDescription {
      PortDescription(
        name: name, role: .pod, mac: Bench.gatewayMAC, peerMAC: Bench.podMAC(own, number), mtu: podMTU,
        capabilities: capabilities)
    }
    podA = tables.addPort(pod("podA", 10))
    podB = tables.addPort(pod("podB", 11))
    underlay = tables.addPort(
      PortDescription(
        name: "underlay", role: .underlay, mac: Bench.underlayMAC(own), mtu: mtu, capabilities: capabilities))
    host = tables.addPort(
      PortDescription(
        name: "host", role: .host, mac: MACAddress("02:00:00:00:00:fe")!, mtu: podMTU, capabilities: capabilities))

    hopA = tables.addHop(
      Hop(port: podA, source: Bench.gatewayMAC, destination: Bench.podMAC(own, 10), linkMTU: podMTU))
    hopB = tables.addHop(
      Hop(port: podB, source: Bench.gatewayMAC, destination: Bench.podMAC(own, 11), linkMTU: podMTU))
    hopHost = tables.addHop(
      Hop(
        port: host, source: MACAddress("02:00:00:00:00:fe")!, destination: MACAddress("02:00:00:00:00:ff")!,
        linkMTU: podMTU))
    hop = tables.addHop(
      Bench.hopDescription(from: own, to: other, encapsulation, outer, port: underlay, mtu: mtu, configure))

    for (pod, port, podHop) in [(10, podA, hopA), (11, podB, hopB)] {
      for address in [Bench.pod4(own, pod), Bench.pod6(own, pod)] {
        tables.setPodAddress(address, port: port)
        tables.setRoute(Route(IPPrefix(host: address), hops: [podHop]))
      }
    }
    for address in [Bench.node4(own), Bench.node6(own)] {
      tables.addLocalAddress(address)
      tables.setRoute(Route(IPPrefix(host: address), .local, hops: [hopHost]))
    }
    for address in [Bench.node4(other), Bench.node6(other)] {
      tables.setPeer(Peer(name: "node\(other)", encapsulations: Set(Encapsulation.allCases)), at: address)
    }
    tables.addGatewayAddress(IPAddress("169.254.1.1")!)
    tables.addGatewayAddress(IPAddress("fe80::ecee:eeff:feee:eeee")!)
    tables.setRoute(Route(IPPrefix("10.244.\(own).0/24")!, .blackhole))
    tables.setRoute(Route(IPPrefix("fd00:\(own)::/64")!, .blackhole))
    tables.setRoute(Route(IPPrefix("10.244.\(other).0/24")!, hops: [hop]))
    tables.setRoute(Route(IPPrefix("fd00:\(other)::/64")!, hops: [hop]))
    tables.settings.vtepMAC = Bench.vtepMAC(own)
    tables.settings.icmpSource4 = Bench.node4(own).v4
    tables.settings.icmpSource6 = Bench.node6(own).v6
    change(&tables.settings)
    for (index, name) in [(podA, "podA"), (podB, "podB"), (underlay, "underlay"), (host, "host")] {
      addMemoryPort(name, at: index, capabilities: capabilities, slots: slots)
    }
    pipeline.isTracing = true
  }

  static func hopDescription(
    from own: Int, to other: Int, _ encapsulation: Encapsulation, _ outer: IPFamily, port: PortIndex, mtu: Int = 1500,
    _ configure: (inout Tunnel) -> Void = { _ in }
  ) -> Hop {
    let remote = outer == .ipv4 ? node4(other) : node6(other)
    var hop = Hop(
      port: port, source: underlayMAC(own), destination: underlayMAC(other), neighbour: remote, linkMTU: mtu)
    if encapsulation != .none {
      var tunnel = Tunnel(encapsulation, local: outer == .ipv4 ? node4(own) : node6(own), remote: remote)
      if encapsulation == .vxlan || encapsulation == .geneve { tunnel.identifier = 4096 }
      tunnel.innerSource = vtepMAC(own)
      tunnel.innerDestination = vtepMAC(other)
      configure(&tunnel)
      hop.tunnel = tunnel
    }
    return hop
  }

  func addMemoryPort(_ name: String, at index: PortIndex, capabilities: PortCapabilities = [], slots: Int = 8) {
    let port = MemoryPort(name: name, capabilities: capabilities, slots: slots)
    memory[index] = port
    ports[index] = port
  }

  func port(_ index: PortIndex) -> MemoryPort { memory[index]! }
}

/// What came of some frames: what went out by each port, what was dropped, what was decided.
struct Sent {
  var frames: [PortIndex: [MemoryFrame]] = [:]
  var drops: [DropReason: Int] = [:]
  var trace: [TraceEvent] = []

  func octets(_ port: PortIndex) -> [[UInt8]] { (frames[port] ?? []).map(\.octets) }
  /// The only frame that went out at all; an empty one, and a failed test, where there are none or several.
  func only(_ port: PortIndex, sourceLocation: SourceLocation = #_sourceLocation) -> [UInt8] {
    let count = frames.values.reduce(0) { $0 + $1.count }
    #expect(count == 1, "frames went out: \(count), dropped: \(drops)", sourceLocation: sourceLocation)
    let found = octets(port)
    #expect(found.count == 1, "by this port: \(found.count)", sourceLocation: sourceLocation)
    return found.first ?? []
  }
  var isSilent: Bool { frames.values.allSatisfy(\.isEmpty) }
}

extension Bench {
  /// Puts frames in by a port, as one batch (or as many as its slots ask for), and returns what came of it.
  @discardableResult
  func send(
    _ list: [MemoryFrame], at index: PortIndex, sourceLocation: SourceLocation = #_sourceLocation
  ) -> Sent {
    let before = dropCounts
    pipeline.clearTrace()
    do { try policySubject?.prepare(self) } catch { Issue.record(error, sourceLocation: sourceLocation) }
    let port = port(index)
    var early: [Sent] = []
    for frame in list {
      do {
        if let sent = try kernel?.run(frame, at: index, self) {
          early.append(sent)
          continue
        }
      } catch {
        Issue.record(error, sourceLocation: sourceLocation)
      }
      port.enqueue(frame)
    }
    var batch = FrameBatch()
    while port.receive(into: &batch) > 0 {
      pipeline.process(&batch, from: index, at: now, tables, ports)
      port.release(&batch)
    }
    var sent = collect(since: before, sourceLocation)
    for other in early {
      sent.frames.merge(other.frames) { $0 + $1 }
      sent.drops.merge(other.drops) { $0 + $1 }
      check(other.frames.values.flatMap { $0 }, "the kernel", sourceLocation)
    }
    do { try policySubject?.compare(list, at: index, self, sent, sourceLocation) } catch {
      Issue.record(error, sourceLocation: sourceLocation)
    }
    return sent
  }

  @discardableResult
  func send(
    _ list: [UInt8]..., at index: PortIndex, sourceLocation: SourceLocation = #_sourceLocation
  ) -> Sent {
    send(list.map { MemoryFrame($0) }, at: index, sourceLocation: sourceLocation)
  }

  /// Lets time pass: the clock goes on by `seconds` and the pipeline ticks.
  @discardableResult
  func tick(_ seconds: Double = 0, sourceLocation: SourceLocation = #_sourceLocation) -> Sent {
    // The kernel's clock is the machine's.
    if seconds >= 1 { policySubject?.stop() }
    let before = dropCounts
    pipeline.clearTrace()
    now += UInt64(seconds * 1e9)
    pipeline.tick(at: now, tables, ports)
    return collect(since: before, sourceLocation)
  }

  private func collect(since before: [DropReason: Int], _ sourceLocation: SourceLocation) -> Sent {
    var sent = Sent()
    for (index, port) in memory {
      let frames = port.takeOutbox()
      if !frames.isEmpty { sent.frames[index] = frames }
      check(frames, port.name, sourceLocation)
    }
    sent.drops = dropCounts.merging(before) { $0 - $1 }.filter { $0.value != 0 }
    sent.trace = pipeline.trace
    return sent
  }

  private func check(_ frames: [MemoryFrame], _ sender: String, _ sourceLocation: SourceLocation) {
    guard validates else { return }
    for frame in frames {
      if let problem = problem(in: frame) {
        Issue.record("\(sender): \(problem) in \(hex(frame.octets))", sourceLocation: sourceLocation)
      }
    }
  }

  /// Forgets all flows.
  func forgetFlows() {
    pipeline.forgetFlows()
    kernel?.forget()
  }

  /// All drops so far, by reason.
  var dropCounts: [DropReason: Int] {
    pipeline.dropCounts(ports: 16).reduce(into: [:]) { $0[$1.reason, default: 0] += Int($1.packets) }
  }
}

func hex(_ octets: [UInt8]) -> String {
  octets.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

/// Two nodes whose underlays are one wire.
struct Pair {
  let one: Bench
  let two: Bench

  init(
    _ encapsulation: Encapsulation, outer: IPFamily = .ipv4, mtu: Int = 1500,
    tunnel configure: (inout Tunnel) -> Void = { _ in }, settings change: (inout Settings) -> Void = { _ in }
  ) {
    one = Bench(node: 1, encapsulation, outer: outer, mtu: mtu, tunnel: configure, settings: change)
    two = Bench(node: 2, encapsulation, outer: outer, mtu: mtu, tunnel: configure, settings: change)
  }
}
