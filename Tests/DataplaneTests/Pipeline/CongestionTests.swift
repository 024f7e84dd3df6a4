import Addresses
import Ports
import Testing

@testable import Dataplane

/// What of the traffic class and the time to live goes from one header to the other (TUN-5, TUN-6).
@Suite struct CongestionTests {
  private static let tunnels: [Encapsulation] = [.ipip, .gre, .vxlan, .geneve]

  /// Sets the outer traffic class of a frame, and its time to live if asked for.
  private func setOuter(_ frame: [UInt8], tos: Int, ttl: Int? = nil) -> [UInt8] {
    var packet = Array(frame[14...])
    if packet[0] >> 4 == 4 {
      packet[1] = UInt8(tos)
      if let ttl { packet[8] = UInt8(ttl) }
      rechecksum(&packet)
    } else {
      packet[0] = 0x60 | UInt8(tos >> 4)
      packet[1] = packet[1] & 15 | UInt8(tos & 15) << 4
      if let ttl { packet[7] = UInt8(ttl) }
    }
    return Array(frame[..<14]) + packet
  }

  private func tos(_ packet: ArraySlice<UInt8>) -> Int {
    let octets = Array(packet)
    return octets[0] >> 4 == 4 ? Int(octets[1]) : u16(octets, 0) >> 4 & 0xff
  }

  private func ttl(_ packet: ArraySlice<UInt8>) -> Int {
    let octets = Array(packet)
    return octets[0] >> 4 == 4 ? Int(octets[8]) : Int(octets[7])
  }

  @Test("TUN-5 decapsulation, the whole table of RFC 6040, figure 4", arguments: CongestionTests.tunnels)
  func table(_ encapsulation: Encapsulation) {
    // Not-ECT 0, ECT(1) 1, ECT(0) 2, CE 3; rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE; nil: dropped.
    let rows: [(inner: Int, results: [Int?])] = [
      (0, [0, 0, 0, nil]),
      (2, [2, 2, 1, 3]),
      (1, [1, 1, 1, 3]),
      (3, [3, 3, 3, 3]),
    ]
    for outerFamily in [IPFamily.ipv4, .ipv6] {
      for innerFamily in [IPFamily.ipv4, .ipv6] {
        let pair = Pair(encapsulation, outer: outerFamily)
        for row in rows {
          for (outer, result) in zip([0, 2, 1, 3], row.results) {
            let packet = udp(
              pair.one.pod(10, innerFamily), pair.one.remote(10, innerFamily),
              with: IPFields(tos: 0x28 << 2 | row.inner))
            let frame = pair.one.send(pair.one.fromPod(packet), at: pair.one.podA).only(pair.one.underlay)
            let sent = pair.two.send(setOuter(frame, tos: 0x0c << 2 | outer), at: pair.two.underlay)
            if let result {
              let out = sent.only(pair.two.podA)
              // The inner DSCP stands.
              #expect(tos(out[14...]) == 0x28 << 2 | result, "inner \(row.inner), outer \(outer)")
            } else {
              #expect(sent.drops == [.ecnCongestion: 1], "inner \(row.inner), outer \(outer)")
              #expect(sent.isSilent)
            }
          }
        }
      }
    }
  }

  @Test("TUN-5 congestion marked outside is marked inside, octet for octet")
  func literal() {
    let bench = Bench(node: 2, .ipip)
    let frame = bytes(
      """
      020000000002 020000000001 0800 45030032 00004000 4004b6c1 c0000201 c0000202
      4502001e 12344000 3f11109e 0af4010a 0af4020a 03e807d0 000a6bbb 6f6b
      """)
    #expect(
      hex(bench.send(frame, at: bench.underlay).only(bench.podA))
        == hex(
          bytes(
            "0a580af4020a eeeeeeeeeeee 0800 4503001e 12344000 3e11119d 0af4010a 0af4020a 03e807d0 000a6bbb 6f6b")))
  }

  @Test("TUN-5 TUN-6 encapsulation copies ECN and, in the uniform model, DSCP", arguments: CongestionTests.tunnels)
  func copies(_ encapsulation: Encapsulation) {
    for outer in [IPFamily.ipv4, .ipv6] {
      let bench = Bench(encapsulation, outer: outer)
      for family in [IPFamily.ipv4, .ipv6] {
        for value in [0, 1, 2, 3, 0x28 << 2 | 2, 0xff] {
          let packet = udp(bench.pod(10, family), bench.remote(10, family), with: IPFields(tos: value))
          let frame = bench.send(bench.fromPod(packet), at: bench.podA).only(bench.underlay)
          #expect(tos(frame[14...]) == value)
        }
      }
    }
  }

  @Test(
    "TUN-6 in the pipe model the outer DSCP is the tunnel's, ECN is still copied", arguments: CongestionTests.tunnels)
  func pipe(_ encapsulation: Encapsulation) {
    for outer in [IPFamily.ipv4, .ipv6] {
      let bench = Bench(encapsulation, outer: outer) {
        $0.options.insert(.pipeDSCP)
        $0.dscp = 0x2e
      }
      for ecn in 0..<4 {
        let packet = udp(bench.pod(10), bench.remote(10), with: IPFields(tos: 0x08 << 2 | ecn))
        let frame = bench.send(bench.fromPod(packet), at: bench.podA).only(bench.underlay)
        #expect(tos(frame[14...]) == 0x2e << 2 | ecn)
        #expect(tos(frame.suffix(30)) == 0x08 << 2 | ecn)
      }
    }
  }

  @Test("TUN-6 the outer DSCP is carried over where decapsulation is uniform", arguments: [IPFamily.ipv4, .ipv6])
  func uniformDSCP(_ family: IPFamily) {
    let pair = Pair(.gre, settings: { $0.uniformDSCP = true })
    let packet = udp(pair.one.pod(10, family), pair.one.remote(10, family), with: IPFields(tos: 0x28 << 2 | 2))
    let frame = pair.one.send(pair.one.fromPod(packet), at: pair.one.podA).only(pair.one.underlay)
    for (outer, expected) in [(0x0c << 2 | 3, 0x0c << 2 | 3), (0x0c << 2, 0x0c << 2 | 2), (0, 2)] {
      let out = pair.two.send(setOuter(frame, tos: outer), at: pair.two.underlay).only(pair.two.podA)
      #expect(tos(out[14...]) == expected)
    }
  }

  @Test("TUN-6 the outer time to live is the tunnel's own, or the inner one's", arguments: CongestionTests.tunnels)
  func timeToLive(_ encapsulation: Encapsulation) {
    for outer in [IPFamily.ipv4, .ipv6] {
      for family in [IPFamily.ipv4, .ipv6] {
        let pipe = Bench(encapsulation, outer: outer) { $0.timeToLive = 99 }
        let uniform = Bench(encapsulation, outer: outer) { $0.options.insert(.uniformTTL) }
        let packet = udp(pipe.pod(10, family), pipe.remote(10, family), with: IPFields(ttl: 33))
        let piped = pipe.send(pipe.fromPod(packet), at: pipe.podA).only(pipe.underlay)
        #expect(ttl(piped[14...]) == 99)
        let unified = uniform.send(uniform.fromPod(packet), at: uniform.podA).only(uniform.underlay)
        #expect(ttl(unified[14...]) == 32)
        // What the underlay took away is missing inside, where decapsulation is uniform; else not.
        let two = Bench(node: 2, encapsulation, outer: outer, settings: { $0.uniformTTL = true })
        let worn = setOuter(unified, tos: 0, ttl: 20)
        #expect(ttl(two.send(worn, at: two.underlay).only(two.podA)[14...]) == 19)
        let fresh = setOuter(unified, tos: 0, ttl: 200)
        #expect(ttl(two.send(fresh, at: two.underlay).only(two.podA)[14...]) == 31)
        let other = Bench(node: 2, encapsulation, outer: outer)
        #expect(ttl(other.send(worn, at: other.underlay).only(other.podA)[14...]) == 31)
      }
    }
  }
}
