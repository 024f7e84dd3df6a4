import Addresses
import Ports
import Testing

@testable import Dataplane

/// Flows that one process saves and another restores.
@Suite struct FlowSnapshotTests {
  private static let owner = "11111111-2222-3333-4444-555555555555"

  private func send(_ bench: Bench, _ wire: Wire, from port: Int, _ flags: Int) -> IPAddress? {
    let sent = bench.send(
      bench.fromPod(
        packet(
          wire.transport, bench.pod(10, wire.family), bench.vip(wire.family), from: port, to: 80, flags: flags)),
      at: bench.podA)
    return (sent.tuples(bench.underlay) + sent.tuples(bench.podB)).first?.destination
  }

  @Test("translated connections go on to their endpoints in another process, UDP too (KP-51)", arguments: Wire.all)
  func restored(_ wire: Wire) {
    let old = Bench.forServices()
    let endpoints = (30..<38).map { old.endpoint($0, wire.family) }
    old.serve(wire, endpoints)
    let chosen = (0..<40).map { send(old, wire, from: 5000 + $0, Flag.syn) }
    #expect(Set(chosen).count > 3)
    let octets = old.pipeline.saveFlows(old.tables, owner: Self.owner)

    let new = Bench.forServices()
    // Another order of endpoints, and ports of the same names under other numbers would be another process's choice.
    new.serve(wire, endpoints.reversed())
    let outcome = new.pipeline.restoreFlows(octets, new.tables, owner: Self.owner, at: new.now)
    #expect(outcome?.restored == 40)
    #expect(outcome?.lost == 0)
    #expect((0..<40).map { send(new, wire, from: 5000 + $0, Flag.ack) } == chosen)
    #expect(new.pipeline.flowCount == 40)
    // The way back is translated without anything having gone out before.
    let again = Bench.forServices()
    again.serve(wire, endpoints)
    _ = again.pipeline.restoreFlows(octets, again.tables, owner: Self.owner, at: again.now)
    let answer = packet(
      wire.transport, chosen[0]!, again.pod(10, wire.family), from: 8080, to: 5000, flags: Flag.ack)
    #expect(
      again.send(again.fromNode(answer), at: again.underlay).only(again.podA)
        == again.toPod(
          hopped(
            packet(
              wire.transport, again.vip(wire.family), again.pod(10, wire.family), from: 80, to: 5000, flags: Flag.ack)))
    )
  }

  @Test("what is cut off, of another start of the machine or no snapshot at all is left out, and nothing breaks")
  func refused() {
    let old = Bench.forServices()
    let wire = Wire(family: .ipv4, transport: .tcp)
    old.serve(wire, [old.endpoint(30, .ipv4)])
    for port in 0..<3 { _ = send(old, wire, from: 5000 + port, Flag.syn) }
    let octets = old.pipeline.saveFlows(old.tables, owner: Self.owner)
    let new = Bench.forServices()
    for length in 0..<octets.count {
      let outcome = new.pipeline.restoreFlows(
        Array(octets[..<length]), new.tables, owner: Self.owner, at: new.now)
      #expect(outcome == nil)
      #expect(new.pipeline.flowCount == 0)
    }
    #expect(new.pipeline.restoreFlows(octets, new.tables, owner: "another", at: new.now) == nil)
    for position in stride(from: 0, to: octets.count, by: 3) {
      var broken = octets
      broken[position] ^= 0x55
      _ = new.pipeline.restoreFlows(broken, new.tables, owner: Self.owner, at: new.now)
      new.pipeline.forgetFlows()
    }
    // Connections that would have expired meanwhile do not come back.
    let late = new.pipeline.restoreFlows(octets, new.tables, owner: Self.owner, at: 90_000_000_000_000)
    #expect(late?.restored == 0)
    #expect(late?.lost == 3)
  }
}
