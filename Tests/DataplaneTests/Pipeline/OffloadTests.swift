import Addresses
import Ports
import Testing

@testable import Dataplane

/// Unfinished checksums and super-frames: what a port cannot carry is finished first (TUN-9). That every frame is right
/// is for the bench to see; here it is counted and put together again.
@Suite struct OffloadTests {
  private static let tunnels: [Encapsulation] = [.ipip, .gre, .vxlan, .geneve]
  private static let families: [IPFamily] = [.ipv4, .ipv6]
  private static let offloads: PortCapabilities = [.checksum, .tcp4, .tcp6, .udp]

  /// The octets of an IP header.
  private func header(_ family: IPFamily) -> Int { family == .ipv4 ? 20 : 40 }

  /// A frame of pod A whose TCP or UDP checksum is partial.
  private func partial(_ bench: Bench, _ packet: [UInt8], _ family: IPFamily) -> MemoryFrame {
    var packet = packet
    let start = header(family)
    let isTCP = packet[family == .ipv4 ? 9 : 6] == 6
    let field = start + (isTCP ? 16 : 6)
    let source = Array(packet[(family == .ipv4 ? 12..<16 : 8..<24)])
    let destination = Array(packet[(family == .ipv4 ? 16..<20 : 24..<40)])
    let sum = slowChecksum(source, destination, u32(packet.count - start), u32(isTCP ? 6 : 17))
    packet.replaceSubrange(field..<field + 2, with: u16(Int(~sum)))
    return MemoryFrame(
      bench.fromPod(packet), partialChecksumStart: 14 + start, partialChecksumOffset: isTCP ? 16 : 6)
  }

  /// A super-frame of pod A: TCP or UDP with a payload of `count` octets in segments of `size`.
  private func superFrame(
    _ bench: Bench, _ family: IPFamily, to: IPAddress, isTCP: Bool = true, count: Int, size: Int,
    flags: Int = Flag.ack | Flag.psh, dontFragment: Bool = true
  ) -> MemoryFrame {
    let payload = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 13 ^ $0 >> 8) }
    let fields = IPFields(identification: 100, dontFragment: dontFragment)
    let packet =
      isTCP
      ? tcp(bench.pod(10, family), to, flags, sequence: 5000, payload, with: fields)
      : udp(bench.pod(10, family), to, payload, with: fields)
    var frame = partial(bench, packet, family)
    frame.segmentation = isTCP ? (family == .ipv4 ? .tcp4 : .tcp6) : .udp
    frame.segmentSize = size
    return frame
  }

  private func payload(_ frame: MemoryFrame) -> ArraySlice<UInt8> {
    frame.octets[(frame.partialChecksumStart! + (frame.segmentation == .udp ? 8 : 20))...]
  }

  @Test(
    "TUN-9 a partial checksum is finished for a port that cannot, and handed on to one that can", arguments: families)
  func checksum(_ family: IPFamily) {
    for isTCP in [true, false] {
      let plain = Bench()
      let able = Bench(capabilities: OffloadTests.offloads)
      let payload = Array("odd".utf8)
      let packet =
        isTCP
        ? tcp(plain.pod(10, family), plain.pod(11, family), Flag.ack, payload)
        : udp(plain.pod(10, family), plain.pod(11, family), payload)
      let done = plain.send([partial(plain, packet, family)], at: plain.podA)
      #expect(done.only(plain.podB) == plain.toPod(hopped(packet), 11))
      #expect(done.frames[plain.podB]?.first?.partialChecksumStart == nil)
      let sent = able.send([partial(able, packet, family)], at: able.podA)
      let frame = sent.frames[able.podB]?.first
      #expect(frame?.partialChecksumStart == 14 + header(family))
      #expect(frame?.partialChecksumOffset == (isTCP ? 16 : 6))
      #expect(frame.map { Array($0.octets[14...]) } == hopped(Array(partial(able, packet, family).octets[14...])))
    }
  }

  @Test("TUN-9 inside a tunnel no partial checksum leaves, whatever the port can", arguments: tunnels)
  func checksumInTunnel(_ encapsulation: Encapsulation) {
    for outer in OffloadTests.families {
      for family in OffloadTests.families {
        for options in [HopOptions([]), [.udpChecksum, .greChecksum]] {
          let bench = Bench(encapsulation, outer: outer, capabilities: OffloadTests.offloads) { $0.options = options }
          let packet = tcp(bench.pod(10, family), bench.remote(10, family), Flag.ack, Array("some".utf8))
          let sent = bench.send([partial(bench, packet, family)], at: bench.podA)
          let out = sent.only(bench.underlay)
          #expect(Array(out.suffix(packet.count)) == hopped(packet))
          #expect(sent.frames[bench.underlay]?.first?.partialChecksumStart == nil)
        }
      }
    }
  }

  @Test("TUN-9 a partial checksum in a tunnel packet that comes in is finished for the pod")
  func checksumFromTunnel() {
    for capabilities in [PortCapabilities([]), OffloadTests.offloads] {
      let one = Bench(node: 1, .vxlan)
      let two = Bench(node: 2, .vxlan, capabilities: capabilities)
      let packet = tcp(one.pod(10), one.remote(10), Flag.ack, Array("some".utf8))
      let out = one.send(one.fromPod(packet), at: one.podA).only(one.underlay)
      // As the kernel hands over what another container on this machine sent: the inner checksum is partial.
      let inner = Array(partial(one, hopped(packet), .ipv4).octets[14...])
      let start = out.count - packet.count
      let frame = MemoryFrame(Array(out[..<start]) + inner, partialChecksumStart: start + 20, partialChecksumOffset: 16)
      let delivered = two.send([frame], at: two.underlay).frames[two.podA]?.first
      if capabilities.isEmpty {
        #expect(delivered?.octets == two.toPod(hopped(hopped(packet))))
      } else {
        #expect(delivered?.partialChecksumStart == 34)
      }
    }
  }

  @Test(
    "NODE-4 TUN-9 a partial checksum elsewhere than in a transport header is no way to rewrite addresses",
    arguments: families)
  func misplacedChecksum(_ family: IPFamily) {
    let bench = Bench()
    for isTCP in [true, false] {
      let payload = Array("guest".utf8)
      let packet =
        isTCP
        ? tcp(bench.pod(10, family), bench.pod(11, family), Flag.ack, payload)
        : udp(bench.pod(10, family), bench.pod(11, family), payload)
      let transport = 14 + header(family)
      // Over the source address, the ports, and a field that the protocol has elsewhere.
      let places = [(14, 12), (transport - 2, 0), (transport, 0), (transport, isTCP ? 6 : 16)]
      for (start, offset) in places {
        let frame = MemoryFrame(
          bench.fromPod(packet), partialChecksumStart: start, partialChecksumOffset: offset)
        let sent = bench.send([frame], at: bench.podA)
        #expect(sent.drops == [.badTransport: 1], "\(start) \(offset)")
        #expect(sent.isSilent)
      }
    }
  }

  @Test("TUN-9 a partial or verified checksum of the outer header says nothing of the inner packet")
  func outerChecksum() {
    let one = Bench(node: 1, .vxlan)
    let two = Bench(node: 2, .vxlan)
    let packet = tcp(one.pod(10), one.remote(10), Flag.ack, Array("some".utf8))
    let out = one.send(one.fromPod(packet), at: one.podA).only(one.underlay)
    let frame = MemoryFrame(out, partialChecksumStart: 34, partialChecksumOffset: 6)
    #expect(two.send([frame], at: two.underlay).only(two.podA) == two.toPod(hopped(hopped(packet))))
    let verified = two.send([MemoryFrame(out, checksumVerified: true)], at: two.underlay).frames[two.podA]?.first
    #expect(verified?.checksumVerified == false)
  }

  @Test("TUN-9 UDP: 0 stays 0, a computed 0 goes out as 0xFFFF")
  func zero() {
    let bench = Bench(.vxlan)
    let none = udp(bench.pod(10), bench.remote(10), checksum: false)
    #expect(
      Array(bench.send(bench.fromPod(none), at: bench.podA).only(bench.underlay).suffix(none.count)) == hopped(none))
    // A payload that makes the sum of all words 0xffff.
    var packet = udp(bench.pod(10), bench.remote(10), [0, 0], checksum: false)
    let sum = slowChecksum(pseudo(bench.pod(10), bench.remote(10), 17, 10), Array(packet[20...]))
    packet.replaceSubrange(28..<30, with: u16(Int(sum)))
    let out = bench.send([partial(bench, packet, .ipv4)], at: bench.podA).only(bench.underlay)
    #expect(hex(Array(out[(out.count - 4)..<(out.count - 2)])) == "ffff")
  }

  @Test("TUN-9 SCTP: what is unfinished is a CRC32c")
  func sctp() {
    let bench = Bench(.ipip)
    // An INIT chunk's worth of octets with verification tag 0; the field's content is not the pseudo header's sum.
    let segment = bytes("04d2162e 00000000 00000000 01000014 11223344 00010000 000a000a 55667788")
    let packet = ip(bench.pod(10), bench.pod(11), 132, segment, with: IPFields(dontFragment: true))
    let frame = MemoryFrame(bench.fromPod(packet), partialChecksumStart: 34, partialChecksumOffset: 8)
    let out = bench.send([frame], at: bench.podA).only(bench.podB)
    let expected = crc32c(segment)
    let octets = (0..<4).map { UInt8(truncatingIfNeeded: expected >> (8 * UInt32($0))) }
    #expect(Array(out.dropFirst(42).prefix(4)) == octets)
  }

  /// RFC 9260, appendix A, bit by bit.
  private func crc32c(_ octets: [UInt8]) -> UInt32 {
    var crc = UInt32.max
    for octet in octets {
      crc ^= UInt32(octet)
      for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82f6_3b78 : crc >> 1 }
    }
    return ~crc
  }

  @Test(
    "NODE-4 TUN-9 a guest that puts its partial checksum over an address or a port does not pass", arguments: families)
  func forged(_ family: IPFamily) {
    let bench = Bench(.ipip)
    let packet = tcp(bench.pod(10, family), bench.remote(10, family), Flag.ack, [1, 2, 3, 4])
    let start = 14 + header(family)
    // Over the source address, the ports, in front of everything; and the right place for comparison.
    for (from, offset) in [
      (14, 12), (0, 26), (14, header(family)), (start, 0), (start, 2), (start - 2, 18), (start + 1, 1),
    ] {
      let sent = bench.send(
        [MemoryFrame(bench.fromPod(packet), partialChecksumStart: from, partialChecksumOffset: offset)], at: bench.podA)
      #expect(sent.drops == [.badTransport: 1], "\(from), \(offset)")
      #expect(sent.isSilent)
    }
    #expect(bench.send([partial(bench, packet, family)], at: bench.podA).octets(bench.underlay).count == 1)
  }

  // MARK: Super-frames

  @Test(
    "TUN-9 a super-frame goes whole to a port that carries it, and is cut for one that does not", arguments: families)
  func superFrames(_ family: IPFamily) {
    for isTCP in [true, false] {
      let able = Bench(capabilities: OffloadTests.offloads)
      let frame = superFrame(able, family, to: able.pod(11, family), isTCP: isTCP, count: 10_001, size: 1000)
      let whole = able.send([frame], at: able.podA).frames[able.podB] ?? []
      #expect(whole.count == 1)
      #expect(whole.first?.segmentSize == 1000)
      #expect(whole.first?.segmentation == frame.segmentation)
      #expect(whole.first.map { Array($0.octets[14...]) } == hopped(Array(frame.octets[14...])))

      for capabilities in [PortCapabilities([]), [.checksum]] {
        let plain = Bench(capabilities: capabilities)
        let sent = plain.send([frame], at: plain.podA)
        let segments = sent.frames[plain.podB] ?? []
        #expect(segments.count == 11)
        #expect(sent.drops.isEmpty)
        let start = 14 + header(family) + (isTCP ? 20 : 8)
        #expect(segments.flatMap { $0.octets[start...] } == Array(payload(frame)))
        for (number, segment) in segments.enumerated() {
          #expect((segment.partialChecksumStart != nil) == capabilities.contains(.checksum))
          #expect(segment.segmentation == .none)
          if isTCP {
            let sequence = u32(segment.octets, 14 + header(family) + 4)
            #expect(sequence == 5000 + 1000 * number)
            #expect(segment.octets[14 + header(family) + 13] & 8 == (number == 10 ? 8 : 0), "PSH in the last alone")
          }
          if family == .ipv4 { #expect(u16(segment.octets, 18) == 100 + number) }
        }
      }
    }
  }

  @Test("TUN-9 a super-frame is cut under every tunnel, and every piece is right", arguments: tunnels)
  func superFramesInTunnel(_ encapsulation: Encapsulation) {
    for outer in OffloadTests.families {
      for family in OffloadTests.families {
        for options in [HopOptions([]), [.udpChecksum, .greChecksum, .greSequence]] {
          for isTCP in [true, false] {
            let bench = Bench(encapsulation, outer: outer, capabilities: OffloadTests.offloads) { $0.options = options }
            let frame = superFrame(
              bench, family, to: bench.remote(10, family), isTCP: isTCP, count: 20_000 + 7, size: 1000)
            let sent = bench.send([frame], at: bench.podA)
            let segments = sent.octets(bench.underlay)
            #expect(segments.count == 21)
            #expect(sent.drops.isEmpty)
            let two = Bench(node: 2, encapsulation, outer: outer)
            let delivered = two.send(segments.map { MemoryFrame($0) }, at: two.underlay).octets(two.podA)
            let start = 14 + header(family) + (isTCP ? 20 : 8)
            #expect(delivered.flatMap { $0[start...] } == Array(payload(frame)))
          }
        }
      }
    }
  }

  @Test(
    "TUN-9 a super-frame leaves a tunnel whole for a port that finishes tunnels, where all its headers can be repeated",
    arguments: tunnels)
  func superFramesForTunnelPort(_ encapsulation: Encapsulation) throws {
    for outer in OffloadTests.families {
      for family in OffloadTests.families {
        for options in [HopOptions([]), [.udpChecksum, .greChecksum], [.greSequence]] {
          for isTCP in [true, false] {
            let able = OffloadTests.offloads.union(.tunnels)
            let bench = Bench(encapsulation, outer: outer, capabilities: able) { $0.options = options }
            let frame = superFrame(
              bench, family, to: bench.remote(10, family), isTCP: isTCP, count: 20_000 + 7, size: 1000)
            let sent = bench.send([frame], at: bench.podA).frames[bench.underlay] ?? []
            guard isTCP, options.isDisjoint(with: [.udpChecksum, .greChecksum, .greSequence]) else {
              #expect(sent.count == 21 && sent.allSatisfy { $0.tunnelLength == 0 && $0.segmentation == .none })
              continue
            }
            try #require(sent.count == 1)
            let whole = sent[0]
            let overhead = whole.octets.count - frame.octets.count
            #expect(whole.tunnelLength == overhead)
            #expect(whole.segmentation == frame.segmentation && whole.segmentSize == 1000)
            #expect(whole.partialChecksumStart == frame.partialChecksumStart! + overhead)
            #expect(Array(whole.octets[(14 + overhead)...]) == hopped(Array(frame.octets[14...])))
            // The outer headers are those of an ordinary packet of the length of the whole.
            let two = Bench(node: 2, encapsulation, outer: outer, capabilities: OffloadTests.offloads) {
              $0.options = options
            }
            let delivered = two.send([whole], at: two.underlay).frames[two.podA] ?? []
            #expect(delivered.count == 1 && delivered.first?.segmentation == frame.segmentation)
            #expect(delivered.first.map { Array(payload($0)) } == Array(payload(frame)))
          }
        }
      }
    }
  }

  @Test(
    "TUN-2 TUN-9 sequence numbers and identifications go on behind the segments of a super-frame",
    arguments: [true, false])
  func numbering(_ isTCP: Bool) {
    let bench = Bench(.gre) { $0.options = [.greSequence] }
    // 2005 octets in segments of 1000: three.
    let frame = superFrame(
      bench, .ipv4, to: bench.remote(10), isTCP: isTCP, count: 2005, size: 1000, dontFragment: false)
    var sequence: [Int] = []
    var identifications: [Int] = []
    for _ in 0..<3 {
      let packet = udp(bench.pod(10), bench.remote(10))
      for sent in [bench.send([frame], at: bench.podA), bench.send(bench.fromPod(packet), at: bench.podA)] {
        sequence += sent.octets(bench.underlay).map { u32($0, 38) }
        identifications += sent.octets(bench.underlay).map { u16($0, 18) }
      }
    }
    #expect(sequence == Array(0..<12))
    #expect(identifications == Array(identifications[0]..<identifications[0] + 12))
  }

  @Test("NODE-6 the MTU holds for each segment of a super-frame, not for the whole", arguments: families)
  func tooBig(_ family: IPFamily) {
    let bench = Bench(.vxlan, podMTU: 9000)
    let limit = 1450 - header(family) - 20
    let fits = superFrame(bench, family, to: bench.remote(10, family), count: 30_000, size: limit)
    #expect(bench.send([fits], at: bench.podA).octets(bench.underlay).allSatisfy { $0.count <= 1514 })
    let exceeds = superFrame(bench, family, to: bench.remote(10, family), count: 30_000, size: limit + 1)
    let sent = bench.send([exceeds], at: bench.podA)
    #expect(sent.drops == [.tooBig: 1])
    let answer = sent.only(bench.podA)
    #expect(family == .ipv4 ? u16(answer, 40) == 1450 : u32(answer, 58) == 1450)
  }

  @Test("NODE-6 a TCP super-frame whose segments may be cut gets smaller segments")
  func smallerSegments() {
    let bench = Bench(.vxlan, podMTU: 9000)
    let frame = superFrame(bench, .ipv4, to: bench.remote(10), count: 10_000, size: 1460, dontFragment: false)
    let sent = bench.send([frame], at: bench.podA)
    #expect(sent.drops.isEmpty)
    #expect(sent.octets(bench.underlay).allSatisfy { $0.count <= 1514 })
    #expect(sent.octets(bench.underlay).flatMap { $0[(14 + 50 + 40)...] } == Array(payload(frame)))
  }

  @Test("TUN-9 64 KiB at once, in the smallest segments, keep their order among other packets of the port")
  func order() {
    let bench = Bench(.ipip)
    let big = superFrame(bench, .ipv4, to: bench.remote(10), count: 60_000, size: 536)
    let before = MemoryFrame(bench.fromPod(tcp(bench.pod(10), bench.remote(10), sequence: 4000, Array("before".utf8))))
    let after = MemoryFrame(bench.fromPod(tcp(bench.pod(10), bench.remote(10), sequence: 65000, Array("after".utf8))))
    let sent = bench.send([before, big, after], at: bench.podA)
    let sequence = sent.octets(bench.underlay).map { u32($0, 58) }
    #expect(sequence.count == 114)
    #expect(sequence == sequence.sorted())
  }

  @Test("TUN-9 a super-frame that makes no sense is dropped with a reason")
  func nonsense() {
    let bench = Bench(.ipip)
    // Says TCP and is UDP.
    var frame = superFrame(bench, .ipv4, to: bench.remote(10), isTCP: false, count: 3000, size: 1000)
    frame.segmentation = .tcp4
    let sent = bench.send([frame], at: bench.podA)
    #expect(sent.isSilent)
    #expect(sent.drops.values.reduce(0, +) == 1)
  }
}
