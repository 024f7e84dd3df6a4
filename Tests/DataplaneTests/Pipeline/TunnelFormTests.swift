import Addresses
import Testing

@testable import Dataplane

/// A packet from pod A of node 1 to pod A of node 2, wrapped in one of the ways, octet for octet.
struct Form: CustomTestStringConvertible, Sendable {
  var encapsulation: Encapsulation
  var outer: IPFamily
  var inner: IPFamily
  /// Everything before the inner IP header. Of UDP the source port is left 0, of IPv6 the flow label.
  var headers: [UInt8]
  var options: HopOptions = []
  var key: UInt32?

  init(
    _ encapsulation: Encapsulation, _ outer: IPFamily, _ inner: IPFamily, _ headers: String, _ options: HopOptions = [],
    key: UInt32? = nil
  ) {
    self.encapsulation = encapsulation
    self.outer = outer
    self.inner = inner
    self.headers = bytes(headers)
    self.options = options
    self.key = key
  }

  var testDescription: String {
    "\(inner) in \(encapsulation) over \(outer)\(options.isEmpty ? "" : " with all fields")"
  }

  /// The inner packet as the pod sends it, as it is wrapped, and as the other pod gets it.
  var packet: [UInt8] { Form.packet(inner, 64) }
  var wrapped: [UInt8] { headers + Form.packet(inner, 63) }
  var delivered: [UInt8] { Form.packet(inner, 62) }

  /// UDP 1000 to 2000, "ok", DF set on IPv4.
  static func packet(_ family: IPFamily, _ timeToLive: Int) -> [UInt8] {
    switch (family, timeToLive) {
    case (.ipv4, 64): bytes("4500001e 12344000 40110fa0 0af4010a 0af4020a 03e807d0 000a6bbb 6f6b")
    case (.ipv4, 63): bytes("4500001e 12344000 3f1110a0 0af4010a 0af4020a 03e807d0 000a6bbb 6f6b")
    case (.ipv4, _): bytes("4500001e 12344000 3e1111a0 0af4010a 0af4020a 03e807d0 000a6bbb 6f6b")
    case (.ipv6, _):
      bytes(
        """
        60000000 000a11\(String(timeToLive, radix: 16)) fd000001000000000000000000000010
        fd000002000000000000000000000010 03e807d0 000a8a92 6f6b
        """)
    }
  }

  /// Options and identifiers for a hop.
  func configure(_ tunnel: inout Tunnel) {
    tunnel.options = options
    if let key { tunnel.identifier = key }
  }

  static let node = "020000000002 020000000001"
  static let vtep = "020000000e02 020000000e01"
  static let nodes4 = "c0000201 c0000202"
  static let nodes6 = "20010db8000000000000000000000001 20010db8000000000000000000000002"
  static let allGRE: HopOptions = [.greChecksum, .greKey, .greSequence]

  static let all: [Form] = [
    Form(.none, .ipv4, .ipv4, "\(node) 0800"),
    Form(.none, .ipv4, .ipv6, "\(node) 86dd"),
    Form(.ipip, .ipv4, .ipv4, "\(node) 0800 45000032 00004000 4004b6c4 \(nodes4)"),
    Form(.ipip, .ipv4, .ipv6, "\(node) 0800 45000046 00004000 4029b68b \(nodes4)"),
    Form(.ipip, .ipv6, .ipv4, "\(node) 86dd 60000000 001e0440 \(nodes6)"),
    Form(.ipip, .ipv6, .ipv6, "\(node) 86dd 60000000 00322940 \(nodes6)"),
    Form(.gre, .ipv4, .ipv4, "\(node) 0800 45000036 00004000 402fb695 \(nodes4) 00000800"),
    Form(.gre, .ipv4, .ipv6, "\(node) 0800 4500004a 00004000 402fb681 \(nodes4) 000086dd"),
    Form(.gre, .ipv6, .ipv4, "\(node) 86dd 60000000 00222f40 \(nodes6) 00000800"),
    Form(.gre, .ipv6, .ipv6, "\(node) 86dd 60000000 00362f40 \(nodes6) 000086dd"),
    Form(
      .gre, .ipv4, .ipv4, "\(node) 0800 45000042 00004000 402fb689 \(nodes4) b0000800 e97c0000 aabbccdd 00000000",
      allGRE, key: 0xaabb_ccdd),
    Form(
      .gre, .ipv4, .ipv6, "\(node) 0800 45000056 00004000 402fb675 \(nodes4) b00086dd e0590000 aabbccdd 00000000",
      allGRE, key: 0xaabb_ccdd),
    Form(
      .gre, .ipv6, .ipv4, "\(node) 86dd 60000000 002e2f40 \(nodes6) b0000800 e97c0000 aabbccdd 00000000",
      allGRE, key: 0xaabb_ccdd),
    Form(
      .gre, .ipv6, .ipv6, "\(node) 86dd 60000000 00422f40 \(nodes6) b00086dd e0590000 aabbccdd 00000000",
      allGRE, key: 0xaabb_ccdd),
    Form(
      .vxlan, .ipv4, .ipv4,
      """
      \(node) 0800 45000050 00004000 4011b699 \(nodes4) 000012b5 003c0000 08000000 00100000 \(vtep) 0800
      """),
    Form(
      .vxlan, .ipv4, .ipv6,
      """
      \(node) 0800 45000064 00004000 4011b685 \(nodes4) 000012b5 00500000 08000000 00100000 \(vtep) 86dd
      """),
    Form(
      .vxlan, .ipv6, .ipv4,
      """
      \(node) 86dd 60000000 003c1140 \(nodes6) 000012b5 003c0000 08000000 00100000 \(vtep) 0800
      """),
    Form(
      .vxlan, .ipv6, .ipv6,
      """
      \(node) 86dd 60000000 00501140 \(nodes6) 000012b5 00500000 08000000 00100000 \(vtep) 86dd
      """),
    Form(
      .geneve, .ipv4, .ipv4,
      """
      \(node) 0800 45000050 00004000 4011b699 \(nodes4) 000017c1 003c0000 00006558 00100000 \(vtep) 0800
      """),
    Form(
      .geneve, .ipv4, .ipv6,
      """
      \(node) 0800 45000064 00004000 4011b685 \(nodes4) 000017c1 00500000 00006558 00100000 \(vtep) 86dd
      """),
    Form(
      .geneve, .ipv6, .ipv4,
      """
      \(node) 86dd 60000000 003c1140 \(nodes6) 000017c1 003c0000 00006558 00100000 \(vtep) 0800
      """),
    Form(
      .geneve, .ipv6, .ipv6,
      """
      \(node) 86dd 60000000 00501140 \(nodes6) 000017c1 00500000 00006558 00100000 \(vtep) 86dd
      """),
  ]
}

@Suite struct TunnelFormTests {
  @Test("NODE-5 TUN-1 TUN-2 TUN-3 TUN-4 every tunnel over every underlay, octet for octet", arguments: Form.all)
  func encapsulates(_ form: Form) {
    let bench = Bench(node: 1, form.encapsulation, outer: form.outer, tunnel: form.configure)
    var frame = bench.send(bench.fromPod(form.packet), at: bench.podA).only(bench.underlay)
    #expect(frame.count == form.wrapped.count)
    guard frame.count == form.wrapped.count else { return }
    if form.encapsulation != .none, form.outer == .ipv6 {
      // Twenty bits that only have to be the same for all packets of a flow.
      frame[15] &= 0xf0
      frame.replaceSubrange(16..<18, with: [0, 0])
    }
    if form.encapsulation == .vxlan || form.encapsulation == .geneve {
      let port = form.outer == .ipv4 ? 34 : 54
      #expect(u16(frame, port) >= 49152)
      frame.replaceSubrange(port..<port + 2, with: [0, 0])
    }
    #expect(hex(frame) == hex(form.wrapped))
  }

  @Test("NODE-5 TUN-1 TUN-2 TUN-3 TUN-4 every tunnel packet is taken apart, octet for octet", arguments: Form.all)
  func decapsulates(_ form: Form) {
    let bench = Bench(node: 2, form.encapsulation, outer: form.outer, tunnel: form.configure) { $0.greKey = form.key }
    let sent = bench.send(form.wrapped, at: bench.underlay)
    let delivered =
      bytes("0a580af4020a eeeeeeeeeeee") + form.headers.suffix(0) + u16(form.inner == .ipv4 ? 0x800 : 0x86dd)
    #expect(hex(sent.only(bench.podA)) == hex(delivered + form.delivered))
    if form.encapsulation != .none {
      #expect(sent.trace.contains(.decapsulated(form.encapsulation, peer: "node1")))
    }
  }

  @Test("NODE-5 what one node wraps the other unwraps, in both directions", arguments: Form.all)
  func roundTrip(_ form: Form) {
    let pair = Pair(form.encapsulation, outer: form.outer, tunnel: form.configure) { $0.greKey = form.key }
    for round in 0..<3 {
      let out = pair.one.send(pair.one.fromPod(form.packet), at: pair.one.podA).only(pair.one.underlay)
      let there = pair.two.send(out, at: pair.two.underlay)
      #expect(there.only(pair.two.podA) == pair.two.toPod(form.delivered))
      #expect(there.trace.contains(.flowFound) == (round > 0))

      let answer = udp(pair.two.pod(10, form.inner), pair.two.remote(10, form.inner), from: 2000, to: 1000)
      let back = pair.two.send(pair.two.fromPod(answer), at: pair.two.podA)
      #expect(back.trace.contains(.flowFound), "the reply's entry was made with the flow")
      let home = pair.one.send(back.only(pair.two.underlay), at: pair.one.underlay)
      #expect(home.trace.contains(.flowFound))
      #expect(home.only(pair.one.podA) == pair.one.toPod(hopped(hopped(answer))))
    }
    #expect(pair.one.pipeline.flowCount == 1)
    #expect(pair.two.pipeline.flowCount == 1)
  }

  @Test("TUN-3 the outer UDP checksum is right where one is asked for", arguments: [Encapsulation.vxlan, .geneve])
  func udpChecksum(_ encapsulation: Encapsulation) {
    for outer in [IPFamily.ipv4, .ipv6] {
      for inner in [IPFamily.ipv4, .ipv6] {
        let pair = Pair(encapsulation, outer: outer) { $0.options.insert(.udpChecksum) }
        let out = pair.one.send(pair.one.fromPod(Form.packet(inner, 64)), at: pair.one.podA).only(pair.one.underlay)
        // The bench itself looks whether it is right.
        #expect(u16(out, outer == .ipv4 ? 40 : 60) != 0)
        #expect(pair.two.send(out, at: pair.two.underlay).only(pair.two.podA) == pair.two.toPod(Form.packet(inner, 62)))
      }
    }
  }

  @Test("TUN-3 ARP in a tunnel is answered with a right outer checksum")
  func arpInTunnel() {
    let bench = Bench(node: 2, .vxlan) { $0.options.insert(.udpChecksum) }
    // Pod A of node 1 asks for pod A of node 2, through a bridge on its node.
    let request = bytes(
      """
      020000000002 020000000001 0800 4500004e 00000000 4011f69b c0000201 c0000202 c00012b5 003a0000 08000000 00100000
      ffffffffffff 0a580af4010a 0806 0001080006040001 0a580af4010a 0af4010a 000000000000 0af4020a
      """)
    var answer = bench.send(request, at: bench.underlay).only(bench.underlay)
    guard answer.count == 14 + 20 + 8 + 8 + 14 + 28 else {
      Issue.record("length \(answer.count)")
      return
    }
    let checksum = u16(answer, 40)
    var datagram = Array(answer[34...])
    #expect(checksum != 0)
    #expect(slowChecksum(pseudoHeader(answer, network: 14, protocol: 17, length: datagram.count), datagram) == 0)
    answer.replaceSubrange(34..<36, with: [0, 0])
    answer.replaceSubrange(40..<42, with: [0, 0])
    datagram = Array(answer[34...])
    #expect(
      hex(answer)
        == hex(
          bytes(
            """
            020000000001 020000000002 0800 4500004e 00000000 4011f69b c0000202 c0000201 000012b5 003a0000 08000000 00100000
            0a580af4010a 020000000e02 0806 0001080006040002 020000000e02 0af4020a 0a580af4010a 0af4010a
            """)))
  }

  @Test("TUN-3 the source port tells flows apart and stays with each", arguments: [Encapsulation.vxlan, .geneve])
  func sourcePorts(_ encapsulation: Encapsulation) {
    let bench = Bench(encapsulation)
    var ports: [Int] = []
    for flow in 0..<1000 {
      let packet = udp(bench.pod(10), bench.remote(10), from: 10000 + flow)
      let first = u16(bench.send(bench.fromPod(packet), at: bench.podA).only(bench.underlay), 34)
      let second = u16(bench.send(bench.fromPod(packet), at: bench.podA).only(bench.underlay), 34)
      #expect(first == second)
      #expect(first >= 49152)
      ports.append(first)
    }
    // 1000 out of 16384: a few meet, most do not; both halves of the range are used alike.
    #expect(Set(ports).count > 900)
    #expect((400...600).contains(ports.count { $0 & 0x2000 == 0 }))
    #expect((400...600).contains(ports.count { $0 & 1 == 0 }))
  }

  @Test("TUN-1 the outer DF is the inner one's, and without DF packets have identifications of their own")
  func dontFragment() {
    for encapsulation in [Encapsulation.ipip, .gre, .vxlan, .geneve] {
      let bench = Bench(encapsulation)
      func outerWords(_ dontFragment: Bool) -> (identification: Int, field: Int) {
        let packet = udp(bench.pod(10), bench.remote(10), with: IPFields(identification: 7, dontFragment: dontFragment))
        let frame = bench.send(bench.fromPod(packet), at: bench.podA).only(bench.underlay)
        return (u16(frame, 18), u16(frame, 20))
      }
      #expect(outerWords(true).field == 0x4000)
      let first = outerWords(false)
      let second = outerWords(false)
      #expect(first.field == 0 && second.field == 0)
      #expect(first.identification != second.identification)
    }
  }

  @Test("TUN-2 IPv4 and IPv6 inside share the sequence of the tunnel")
  func sharedSequence() {
    let bench = Bench(.gre) { $0.options = [.greSequence] }
    for (number, family) in [IPFamily.ipv4, .ipv6, .ipv6, .ipv4].enumerated() {
      let packet = udp(bench.pod(10, family), bench.remote(10, family))
      #expect(u32(bench.send(bench.fromPod(packet), at: bench.podA).only(bench.underlay), 38) == number)
    }
  }

  @Test("TUN-2 GRE sequence numbers go up by one")
  func sequence() {
    let bench = Bench(.gre) { $0.options = [.greSequence] }
    for number in 0..<5 {
      let frame = bench.send(bench.fromPod(udp(bench.pod(10), bench.remote(10))), at: bench.podA).only(bench.underlay)
      #expect(hex(Array(frame[34..<42])) == "10000800" + hex(u32(number)))
    }
  }

  @Test(
    "NODE-5 VXLAN and Geneve use the port and the network that they are told",
    arguments: [Encapsulation.vxlan, .geneve])
  func portAndNetwork(_ encapsulation: Encapsulation) {
    let pair = Pair(encapsulation) {
      $0.port = 8472
      $0.identifier = 0xab_cdef
    } settings: {
      $0.vxlanPort = encapsulation == .vxlan ? 8472 : 4789
      $0.genevePort = encapsulation == .geneve ? 8472 : 6081
      $0.vxlanVNI = 0xab_cdef
      $0.geneveVNI = 0xab_cdef
    }
    let packet = udp(pair.one.pod(10), pair.one.remote(10))
    let out = pair.one.send(pair.one.fromPod(packet), at: pair.one.podA).only(pair.one.underlay)
    #expect(u16(out, 36) == 8472)
    #expect(hex(Array(out[46..<50])) == "abcdef00")
    #expect(pair.two.send(out, at: pair.two.underlay).only(pair.two.podA) == pair.two.toPod(hopped(hopped(packet))))
    let stranger = Bench(node: 2, encapsulation)
    #expect(stranger.send(out, at: stranger.underlay).drops == [.leftToHost: 1])
  }
}
