import Addresses
import Testing

@testable import Dataplane

private let addresses = "fd000000000000000000000000000001 fd000000000000000000000000000002"

@Suite struct IPv6Tests {
  let udp = bytes("6b9abcde 000d1103" + addresses + "003514e9000dacdf 68656c6c6f")
  /// Hop-by-hop, destination options, routing type 4, first fragment, UDP.
  let extended = bytes(
    """
    60000000 00480040 \(addresses) 3c00050200000100 2b01010a00000000 0000000000000100
    2c02040100000000 fd000000000000000000000000000007 11000001deadbeef 00010002001034ed 3132333435363738
    """)

  @Test func readsAHeader() {
    edited(udp + [0, 0]) { octets in
      let header = IPv6Header(octets)!
      expect(header.trafficClass == 0xb9)
      expect(header.dscp == 46)
      expect(header.ecn == .ect1)
      expect(header.flowLabel == 0xabcde)
      expect(header.payloadLength == 13)
      expect(header.hasValidLength)
      expect(header.nextHeader == .udp)
      expect(header.hopLimit == 3)
      expect(header.source == IPv6Address("fd00::1"))
      expect(header.destination == IPv6Address("fd00::2"))
      expect(header.payload.count == 13, "padding is left out")
      let upper = header.upperLayer
      expect(upper.outcome == .found && upper.protocol == .udp && upper.offset == 40 && upper.nextHeaderOffset == 6)
    }
  }

  @Test func writesAndChangesAHeader() {
    let written = edited([UInt8](repeating: 0xff, count: 40)) {
      IPv6Header.write(
        to: $0, trafficClass: 0xb9, flowLabel: 0xabcde, payloadLength: 13, nextHeader: .udp, hopLimit: 3,
        source: IPv6Address("fd00::1")!, destination: IPv6Address("fd00::2")!)
    }
    expect(written == Array(udp[..<40]))
    let changed = edited(written) { octets in
      let header = IPv6Header(octets)!
      header.trafficClass = 0x12
      header.flowLabel = 0x54321
      header.hopLimit = 2
    }
    expect(changed == bytes("61254321 000d1102" + addresses))
  }

  @Test func refusesWrongHeaders() {
    expectTruncations(of: udp, needing: 40) { IPv6Header($0) != nil }
    for first: UInt8 in [0x45, 0x50, 0x70, 0x00] {
      edited([first] + udp[1...]) { octets in expect(IPv6Header(octets) == nil) }
    }
    edited(udp) { octets in
      IPv6Header(octets)!.payloadLength = 14
      expect(!IPv6Header(octets)!.hasValidLength)
      expect(IPv6Header(octets)!.payload.count == 13)
    }
  }

  @Test func walksExtensionHeaders() {
    edited(extended) { octets in
      let upper = IPv6Header(octets)!.upperLayer
      expect(upper.outcome == .found)
      expect(upper.protocol == .udp)
      expect(upper.offset == 96)
      expect(upper.nextHeaderOffset == 88)
      expect(upper.fragmentHeaderOffset == 88)
      expect(upper.moreFragments && upper.isFragment && !upper.isLaterFragment)
      expect(upper.hasHopByHopOptions)
      expect(upper.routingType == 4)
    }
  }

  @Test func truncatedExtensionHeadersAreSeen() {
    for length in 40..<96 {
      edited(Array(extended[..<length])) { octets in
        expect(IPv6Header(octets)!.upperLayer.outcome == .truncated, "length \(length)")
      }
    }
    // The payload length counts, not only the octets that happen to lie there.
    edited(extended) { octets in
      let header = IPv6Header(octets)!
      header.payloadLength = 55
      expect(header.upperLayer.outcome == .truncated)
    }
  }

  @Test("TUN-8 a later fragment has no transport header") func stopsAtALaterFragment() {
    edited(bytes("60000000 00102c40" + addresses + "060005a8deadbeef 3132333435363738")) { octets in
      let upper = IPv6Header(octets)!.upperLayer
      expect(upper.outcome == .found)
      expect(upper.protocol == .tcp)
      expect(upper.isFragment && upper.isLaterFragment && !upper.moreFragments)
      expect(upper.fragmentOffset == 1448)
    }
    // What follows looks like a header with an absurd length, and is not looked at.
    edited(bytes("60000000 00102c40" + addresses + "3c0005a8deadbeef 3cff333435363738")) { octets in
      expect(IPv6Header(octets)!.upperLayer.outcome == .found)
    }
  }

  @Test("TUN-8 an atomic fragment is whole") func atomicFragment() {
    edited(bytes("60000000 00102c40" + addresses + "11000000deadbeef 0001000200083431")) { octets in
      let upper = IPv6Header(octets)!.upperLayer
      expect(upper.fragmentHeaderOffset == 40)
      expect(!upper.isFragment)
      expect(upper.protocol == .udp)
    }
  }

  @Test func stopsAtESPAndKnowsAH() {
    edited(bytes("60000000 00103240" + addresses + "0000000100000001 0000000000000000")) { octets in
      let upper = IPv6Header(octets)!.upperLayer
      expect(upper.outcome == .found && upper.protocol == .esp && upper.offset == 40)
    }
    // An authentication header counts its length in units of four octets: 24 here.
    edited(
      bytes("60000000 00203340" + addresses + "1104000000000001 00000001 000102030405060708090a0b 0001000200083431")
    ) { octets in
      let upper = IPv6Header(octets)!.upperLayer
      expect(upper.outcome == .found && upper.protocol == .udp && upper.offset == 64)
    }
  }

  @Test func boundsTheNumberOfHeaders() {
    func chain(_ count: Int) -> [UInt8] {
      var packet = bytes("60000000 00003c40" + addresses)
      for index in 0..<count { packet += [index == count - 1 ? 17 : 60, 0, 1, 4, 0, 0, 0, 0] }
      packet += bytes("0001000200080000")
      packet[5] = UInt8(packet.count - 40)
      return packet
    }
    edited(chain(8)) { octets in expect(IPv6Header(octets)!.upperLayer.outcome == .found) }
    edited(chain(9)) { octets in expect(IPv6Header(octets)!.upperLayer.outcome == .tooManyHeaders) }
  }

  @Test func misplacedHeadersAreSeen() {
    // Hop-by-hop options behind destination options.
    edited(bytes("60000000 00103c40" + addresses + "0000010400000000 1100010400000000")) { octets in
      expect(IPv6Header(octets)!.upperLayer.outcome == .misplaced)
    }
    // Two fragment headers.
    edited(bytes("60000000 00102c40" + addresses + "2c000001deadbeef 11000001deadbeef")) { octets in
      expect(IPv6Header(octets)!.upperLayer.outcome == .misplaced)
    }
  }

  @Test func randomChainsAlwaysEndInside() {
    var random = SeededGenerator(2)
    let kinds: [UInt8] = [0, 43, 44, 51, 60, 17, 6, 50, 59, 200]
    for _ in 0..<20_000 {
      var packet = bytes("60000000 00000040" + addresses) + random.bytes(Int.random(in: 0...120, using: &random))
      packet[5] = UInt8(packet.count - 40)
      packet[6] = kinds.randomElement(using: &random)!
      for index in stride(from: 40, to: packet.count, by: 8) {
        packet[index] = kinds.randomElement(using: &random)!
        if index + 1 < packet.count { packet[index + 1] &= 3 }
      }
      edited(packet) { octets in
        let upper = IPv6Header(octets)!.upperLayer
        expect(upper.offset <= octets.count)
      }
    }
  }
}
