import Addresses
import Ports
import Testing

@testable import Dataplane

/// A packet costs one look-up: what is decided once, when it is decided again, and when it is forgotten.
@Suite struct FlowTests {
  private static let families: [IPFamily] = [.ipv4, .ipv6]

  private func isClassified(_ sent: Sent) -> Bool {
    sent.trace.contains { if case .routed = $0 { true } else { false } }
  }

  @Test("the first packet is classified, the next and the replies are not", arguments: families)
  func hits(_ family: IPFamily) {
    let bench = Bench()
    let there = bench.fromPod(udp(bench.pod(10, family), bench.pod(11, family)))
    let back = bench.fromPod(udp(bench.pod(11, family), bench.pod(10, family), from: 2000, to: 1000), 11)
    let first = bench.send(there, at: bench.podA)
    #expect(first.trace.contains(.flowMissing))
    #expect(isClassified(first))
    for (frame, port) in [(there, bench.podA), (back, bench.podB), (back, bench.podB), (there, bench.podA)] {
      let sent = bench.send(frame, at: port)
      #expect(sent.trace.contains(.flowFound))
      #expect(!isClassified(sent))
      #expect(sent.octets(port == bench.podA ? bench.podB : bench.podA).count == 1)
    }
    let flow = bench.pipeline.flows().first
    #expect(bench.pipeline.flowCount == 1)
    #expect(flow?.forward.packets == 3)
    #expect(flow?.forward.octets == 3 * UInt64(there.count - 14))
    #expect(flow?.reply.packets == 2)
    #expect(flow?.state == .established)
    #expect(flow?.source == bench.pod(10, family))
    #expect(flow?.destination == bench.pod(11, family))
    #expect(flow?.transport == .udp)
  }

  @Test("many packets of new flows in one batch: one flow each")
  func batch() {
    let bench = Bench(.ipip)
    let frames = (0..<64).map { MemoryFrame(bench.fromPod(udp(bench.pod(10), bench.remote(10), from: 1000 + $0 % 16))) }
    let sent = bench.send(frames, at: bench.podA)
    #expect(sent.octets(bench.underlay).count == 64)
    #expect(bench.pipeline.flowCount == 16)
    #expect(bench.pipeline.flows().allSatisfy { $0.forward.packets == 4 })
    // In the order in which they came, within each flow at least.
    #expect(sent.octets(bench.underlay).map { u16($0, 54) }.filter { $0 == 1003 }.count == 4)
  }

  @Test("flows differ in every part of the key", arguments: families)
  func keys(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let a = bench.pod(10, family)
    let packets = [
      udp(a, bench.remote(10, family)), udp(a, bench.remote(11, family)), udp(a, bench.remote(10, family), from: 1),
      udp(a, bench.remote(10, family), to: 1), tcp(a, bench.remote(10, family), from: 1000, to: 2000, Flag.syn),
      sctp(a, bench.remote(10, family)),
      ip(a, bench.remote(10, family), 50, [UInt8](repeating: 0, count: 8)),
    ]
    for packet in packets {
      #expect(bench.send(bench.fromPod(packet), at: bench.podA).octets(bench.underlay).count == 1)
    }
    #expect(bench.pipeline.flowCount == packets.count)
    bench.send(bench.fromPod(udp(bench.pod(11, family), bench.remote(10, family)), 11), at: bench.podB)
    #expect(bench.pipeline.flowCount == packets.count + 1)
    for packet in packets { #expect(bench.send(bench.fromPod(packet), at: bench.podA).trace.contains(.flowFound)) }
  }

  @Test("an ICMP query and its answer are one flow; the other side's own query is another", arguments: families)
  func icmpQueries(_ family: IPFamily) {
    let bench = Bench()
    let (request, reply) = family == .ipv4 ? (8, 0) : (128, 129)
    func ping(_ pod: Int, _ type: Int) -> Sent {
      let (from, to) = (bench.pod(pod, family), bench.pod(21 - pod, family))
      return bench.send(
        bench.fromPod(icmp(from, to, type, rest: 0x0007_0001), pod), at: pod == 10 ? bench.podA : bench.podB)
    }
    #expect(ping(10, request).trace.contains(.flowMissing))
    #expect(ping(11, reply).trace.contains(.flowFound))
    #expect(bench.pipeline.flowCount == 1)
    // Pod B pings with the same identifier.
    #expect(ping(11, request).trace.contains(.flowMissing))
    #expect(ping(10, reply).trace.contains(.flowFound))
    #expect(bench.pipeline.flowCount == 2)
    #expect(ping(10, request).trace.contains(.flowFound))
    let flow = bench.pipeline.flows().first { $0.source == bench.pod(10, family) }
    #expect(flow?.sourcePort == 7)
    #expect(flow?.forward.packets == 2)
  }

  @Test("a source and destination that are alike, down to the port", arguments: families)
  func symmetric(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let packet = udp(bench.pod(10, family), bench.remote(10, family), from: 500, to: 500)
    for _ in 0..<2 { #expect(bench.send(bench.fromPod(packet), at: bench.podA).octets(bench.underlay).count == 1) }
    #expect(bench.pipeline.flowCount == 1)
  }

  // MARK: Changes

  @Test("a change of a route is seen by the next packet of its flows, and by no other flow's", arguments: families)
  func routeChange(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let via = bench.tables.addHop(Bench.hopDescription(from: 1, to: 2, .gre, .ipv4, port: bench.underlay))
    let block = IPPrefix(family == .ipv4 ? "10.244.2.0/24" : "fd00:2::/64")!
    let there = bench.fromPod(udp(bench.pod(10, family), bench.remote(10, family)))
    let local = bench.fromPod(udp(bench.pod(10, family), bench.pod(11, family)))
    for frame in [there, local] { bench.send(frame, at: bench.podA) }

    bench.tables.setRoute(Route(block, hops: [via]))
    let changed = bench.send(there, at: bench.podA)
    #expect(isClassified(changed))
    #expect(changed.only(bench.underlay)[23] == 47)
    let untouched = bench.send(local, at: bench.podA)
    #expect(!isClassified(untouched))
    #expect(untouched.octets(bench.podB).count == 1)
    // After that both are found again at once.
    for frame in [there, local] {
      let sent = bench.send(frame, at: bench.podA)
      #expect(sent.trace.contains(.flowFound))
      #expect(!sent.trace.contains(.flowStale))
    }
    #expect(bench.pipeline.flowCount == 2)
    #expect(bench.pipeline.flows().map(\.forward.packets).sorted() == [3, 3])
  }

  @Test("a longer prefix takes over the flows that it covers; without it they go back", arguments: families)
  func longerPrefix(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let via = bench.tables.addHop(Bench.hopDescription(from: 1, to: 2, .gre, .ipv4, port: bench.underlay))
    let ten = bench.fromPod(udp(bench.pod(10, family), bench.remote(10, family)))
    let eleven = bench.fromPod(udp(bench.pod(10, family), bench.remote(11, family)))
    let host = IPPrefix(host: bench.remote(10, family))
    func numbers() -> [UInt8] { [ten, eleven].map { bench.send($0, at: bench.podA).only(bench.underlay)[23] } }
    let inner: UInt8 = family == .ipv4 ? 4 : 41
    #expect(numbers() == [inner, inner])
    bench.tables.setRoute(Route(host, hops: [via]))
    #expect(numbers() == [47, inner])
    bench.tables.removeRoute(host)
    #expect(numbers() == [inner, inner])
    #expect(bench.pipeline.flowCount == 2)
  }

  @Test("a route that goes away, or turns into a black hole, ends its flows", arguments: families)
  func routeRemoved(_ family: IPFamily) {
    let block = IPPrefix(family == .ipv4 ? "10.244.2.0/24" : "fd00:2::/64")!
    let bench = Bench(.ipip)
    let frame = bench.fromPod(udp(bench.pod(10, family), bench.remote(10, family)))
    #expect(bench.send(frame, at: bench.podA).octets(bench.underlay).count == 1)
    bench.tables.setRoute(Route(block, .blackhole))
    #expect(bench.send(frame, at: bench.podA).drops == [.blackhole: 1])
    #expect(bench.pipeline.flowCount == 0)
    bench.tables.setRoute(Route(block, hops: [bench.hop]))
    #expect(bench.send(frame, at: bench.podA).octets(bench.underlay).count == 1)
    bench.tables.removeRoute(block)
    #expect(bench.send(frame, at: bench.podA).drops == [.noRoute: 1])
    #expect(bench.pipeline.flowCount == 0)
  }

  @Test("the reply direction follows a change of its own route", arguments: families)
  func replyRouteChange(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let there = bench.fromPod(udp(bench.pod(10, family), bench.pod(11, family)))
    let back = bench.fromPod(udp(bench.pod(11, family), bench.pod(10, family), from: 2000, to: 1000), 11)
    bench.send(there, at: bench.podA)
    #expect(bench.send(back, at: bench.podB).octets(bench.podA).count == 1)
    bench.tables.setRoute(Route(IPPrefix(host: bench.pod(10, family)), hops: [bench.hop]))
    #expect(bench.send(back, at: bench.podB).octets(bench.underlay).count == 1)
  }

  @Test("a hop that changes in place is followed without classification")
  func hopChange() {
    let bench = Bench(.ipip)
    let frame = bench.fromPod(udp(bench.pod(10), bench.remote(10)))
    bench.send(frame, at: bench.podA)
    var hop = Bench.hopDescription(from: 1, to: 2, .ipip, .ipv4, port: bench.underlay)
    hop.destination = MACAddress("02:00:00:00:00:77")
    bench.tables.updateHop(bench.hop, hop)
    let sent = bench.send(frame, at: bench.podA)
    #expect(sent.trace.contains(.flowFound))
    #expect(!isClassified(sent))
    #expect(Array(sent.only(bench.underlay)[..<6]) == bytes("020000000077"))
  }

  @Test("a pod moves to another port: its flows go there")
  func podMoves() {
    let bench = Bench(.ipip)
    let frame = bench.fromNode(ip(Bench.node4(2), Bench.node4(1), 4, udp(bench.remote(10), bench.pod(10))))
    #expect(bench.send(frame, at: bench.underlay).octets(bench.podA).count == 1)
    bench.tables.setPodAddress(bench.pod(10), port: bench.podB)
    bench.tables.setRoute(Route(IPPrefix(host: bench.pod(10)), hops: [bench.hopB]))
    #expect(bench.send(frame, at: bench.underlay).octets(bench.podB).count == 1)
    // Its answers come from the new port, in the same flow.
    let answer = bench.fromPod(udp(bench.pod(10), bench.remote(10), from: 2000, to: 1000), 11)
    #expect(bench.send(answer, at: bench.podB).octets(bench.underlay).count == 1)
    #expect(bench.send(frame, at: bench.underlay).octets(bench.podB).count == 1)
    #expect(bench.pipeline.flowCount == 1)
  }

  @Test("a port's rules change: its flows are looked at again")
  func portChange() {
    let bench = Bench(.ipip)
    var description = bench.tables.port(bench.podA)!
    description.checksSource = false
    bench.tables.updatePort(bench.podA, description)
    let frame = bench.fromPod(udp(IPAddress("203.0.113.7")!, bench.remote(10)))
    #expect(bench.send(frame, at: bench.podA).octets(bench.underlay).count == 1)
    description.checksSource = true
    bench.tables.updatePort(bench.podA, description)
    #expect(bench.send(frame, at: bench.podA).drops == [.sourceAddress: 1])
  }

  // MARK: Several next hops

  @Test("flows spread over the next hops evenly, and each stays with its own", arguments: [2, 3, 5])
  func multipath(_ count: Int) {
    for family in FlowTests.families {
      let bench = Bench(.ipip, flowLimit: 1 << 14)
      let hops = (0..<count).map { number in
        var hop = Bench.hopDescription(from: 1, to: 2, .ipip, .ipv4, port: bench.underlay)
        hop.destination = MACAddress(rawValue: 0x0200_0000_7700 | UInt64(number))
        return bench.tables.addHop(hop)
      }
      bench.tables.setRoute(Route(IPPrefix(family == .ipv4 ? "10.244.2.0/24" : "fd00:2::/64")!, hops: hops))
      func choices() -> [Int] {
        (0..<1200).map { flow in
          let packet = udp(bench.pod(10, family), bench.remote(10, family), from: 2000 + flow)
          return Int(bench.send(bench.fromPod(packet), at: bench.podA).only(bench.underlay)[5])
        }
      }
      let first = choices()
      for hop in 0..<count {
        let share = first.count { $0 == hop }
        #expect(abs(share - 1200 / count) < 1200 / count / 3, "hop \(hop) of \(count): \(share)")
      }
      #expect(choices() == first)
    }
  }

  @Test("flows of both families are listed, no more than asked for")
  func listing() {
    let bench = Bench(.ipip)
    for number in 0..<10 {
      for family in FlowTests.families {
        bench.send(
          bench.fromPod(udp(bench.pod(10, family), bench.remote(10, family), from: 1000 + number)), at: bench.podA)
      }
    }
    bench.tick(7)
    let flows = bench.pipeline.flows()
    #expect(flows.count == 20)
    #expect(flows.allSatisfy { $0.age == 7 && $0.idle == 7 && $0.state == .new && $0.destinationPort == 2000 })
    #expect(Set(flows.map(\.sourcePort)) == Set(1000..<1010))
    #expect(bench.pipeline.flows(limit: 13).count == 13)
  }
}
