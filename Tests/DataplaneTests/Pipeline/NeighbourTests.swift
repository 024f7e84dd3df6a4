import Addresses
import Ports
import Testing

@testable import Dataplane

/// Hops whose neighbour's Ethernet address is not known: packets wait, they are not lost.
@Suite struct NeighbourTests {
  private static let families: [IPFamily] = [.ipv4, .ipv6]

  private func pending(_ encapsulation: Encapsulation = .ipip) -> (bench: Bench, hop: Hop) {
    let bench = Bench(encapsulation)
    let resolved = Bench.hopDescription(from: 1, to: 2, encapsulation, .ipv4, port: bench.underlay)
    var hop = resolved
    hop.destination = nil
    bench.tables.updateHop(bench.hop, hop)
    return (bench, resolved)
  }

  private func frame(_ bench: Bench, _ number: Int, _ family: IPFamily = .ipv4, ttl: Int = 64) -> [UInt8] {
    bench.fromPod(
      udp(bench.pod(10, family), bench.remote(10, family), from: 1000 + number, with: IPFields(ttl: ttl)))
  }

  /// The source ports of the inner packets, in order.
  private func ports(_ sent: Sent, _ bench: Bench, _ family: IPFamily = .ipv4) -> [Int] {
    sent.octets(bench.underlay).map { u16($0, 34 + (family == .ipv4 ? 20 : 40)) - 1000 }
  }

  @Test("NODE-5 packets wait, the address is asked for once, and they go out in order", arguments: families)
  func waits(_ family: IPFamily) {
    let (bench, resolved) = pending()
    for number in 0..<5 {
      let sent = bench.send(frame(bench, number, family), at: bench.podA)
      #expect(sent.isSilent)
      #expect(sent.drops.isEmpty)
      #expect(sent.trace.last == .queued(neighbour: Bench.node4(2)))
    }
    #expect(bench.pipeline.takeRequests() == [.resolve(bench.hop)])
    #expect(bench.pipeline.takeRequests().isEmpty)
    #expect(bench.tick(1).isSilent)
    bench.tables.updateHop(bench.hop, resolved)
    let sent = bench.tick(0.1)
    #expect(ports(sent, bench, family) == [0, 1, 2, 3, 4])
    // Once only, time to live one less.
    #expect(sent.octets(bench.underlay).allSatisfy { $0[34 + (family == .ipv4 ? 8 : 7)] == 63 })
    #expect(bench.tick(5).isSilent)
    #expect(bench.pipeline.flowCount == 5)
  }

  @Test("packets that come later do not overtake those that wait")
  func order() {
    let (bench, resolved) = pending()
    for number in 0..<4 { bench.send(frame(bench, number), at: bench.podA) }
    bench.tables.updateHop(bench.hop, resolved)
    let sent = bench.send(frame(bench, 4), frame(bench, 5), at: bench.podA)
    #expect(ports(sent, bench) == [0, 1, 2, 3, 4, 5])
  }

  @Test("only so many packets wait for a hop, the rest has a reason")
  func bounded() {
    let (bench, resolved) = pending()
    var drops = 0
    for number in 0..<200 { drops += bench.send(frame(bench, number), at: bench.podA).drops[.neighbourPending] ?? 0 }
    #expect(drops > 100)
    bench.tables.updateHop(bench.hop, resolved)
    #expect(bench.tick().octets(bench.underlay).count == 200 - drops)
  }

  @Test("after three seconds without an answer: host unreachable to each sender", arguments: families)
  func timesOut(_ family: IPFamily) {
    let (bench, _) = pending()
    let packet = Array(frame(bench, 0, family)[14...])
    bench.send(bench.fromPod(packet), at: bench.podA)
    #expect(bench.tick(2.9).isSilent)
    let sent = bench.tick(0.2)
    #expect(sent.drops == [.neighbourUnreachable: 1])
    let expected =
      family == .ipv4
      ? icmp(Bench.node4(1), bench.pod(10), 3, 1, packet, with: IPFields(tos: 0xc0))
      : icmp(Bench.node6(1), bench.pod(10, .ipv6), 1, 3, packet)
    #expect(hex(sent.only(bench.podA)) == hex(bench.toPod(expected)))
    #expect(bench.tick(5).isSilent)
  }

  @Test("a neighbour that failed: told at once, and asked for again", arguments: families)
  func failed(_ family: IPFamily) {
    let (bench, resolved) = pending()
    bench.tables.failHop(bench.hop)
    let sent = bench.send(frame(bench, 0, family), at: bench.podA)
    #expect(sent.octets(bench.podA).count == 1)
    #expect(sent.drops == [.neighbourUnreachable: 1])
    #expect(bench.pipeline.takeRequests() == [.resolve(bench.hop)])
    bench.tables.updateHop(bench.hop, resolved)
    #expect(bench.send(frame(bench, 0, family), at: bench.podA).octets(bench.underlay).count == 1)
  }

  @Test("a neighbour fails while packets wait")
  func failsLater() {
    let (bench, _) = pending()
    bench.send(frame(bench, 0), at: bench.podA)
    bench.tables.failHop(bench.hop)
    let sent = bench.tick()
    #expect(sent.drops == [.neighbourUnreachable: 1])
    #expect(sent.octets(bench.podA).count == 1)
  }

  @Test("a hop is taken away while packets wait, and its place goes to another: they are not sent there")
  func removed() {
    let (bench, _) = pending()
    bench.send(frame(bench, 0), at: bench.podA)
    bench.tables.removeRoute(IPPrefix("10.244.2.0/24")!)
    bench.tables.removeHop(bench.hop)
    let reused = bench.tables.addHop(
      Bench.hopDescription(from: 1, to: 2, .vxlan, .ipv6, port: bench.underlay))
    #expect(reused == bench.hop)
    let sent = bench.tick()
    #expect(sent.octets(bench.underlay).isEmpty)
  }

  @Test("what is too big when it may go out at last is cut, and the parts go out too")
  func tooBigWaits() {
    let (bench, resolved) = pending()
    let packet = udp(bench.pod(10), bench.remote(10), [UInt8](repeating: 0, count: 1472), checksum: false)
    bench.send(bench.fromPod(packet), at: bench.podA)
    bench.tables.updateHop(bench.hop, resolved)
    #expect(bench.tick().octets(bench.underlay).count == 2)
  }

  @Test("TTL 1 is reported though the neighbour is not known")
  func timeToLive() {
    let (bench, resolved) = pending()
    bench.send(frame(bench, 0, ttl: 1), at: bench.podA)
    bench.tables.updateHop(bench.hop, resolved)
    let sent = bench.tick()
    #expect(sent.octets(bench.underlay).isEmpty)
  }
}
