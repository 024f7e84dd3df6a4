import Addresses
import CDataplane
import Testing

@testable import Dataplane

@Suite struct ChecksumTests {
  @Test func agreesWithThePlainWayForEveryLengthAndOffset() {
    var random = SeededGenerator(3)
    let data = random.bytes(700)
    let ones = [UInt8](repeating: 0xff, count: 700)
    for source in [data, ones] {
      for offset in [0, 1, 2, 3, 7] {
        for length in 0...(source.count - offset) {
          let expected = ~slowChecksum(Array(source[offset..<(offset + length)]))
          edited(source) { octets in
            var sum = InternetChecksum()
            let part = octets.dropping(offset).prefix(length)
            sum.add(part)
            expect(sum.folded.bigEndian == expected)
            let whole = unsafe source.withUnsafeBytes { unsafe kalsae_sum_portable($0.baseAddress! + offset, length) }
            expect(InternetChecksum.fold(whole).bigEndian == expected)
          }
        }
      }
    }
  }

  @Test func copiesAndSumsInOnePass() {
    var random = SeededGenerator(4)
    for length in Array(0...300) + [1399, 1400, 9001, 65535] {
      let data = random.bytes(length)
      var target = [UInt8](repeating: 0xee, count: length + 5)
      var sum: UInt64 = 0
      edited(data) { source in
        target = edited(target) { sum = $0.copySumming(from: source, to: 3) }
        expect(InternetChecksum.fold(sum) == InternetChecksum.fold(source.sum))
      }
      expect(target == [0xee, 0xee, 0xee] + data + [0xee, 0xee])
    }
  }

  @Test func partsAtOddDistancesAddUp() {
    var random = SeededGenerator(5)
    for _ in 0..<500 {
      let data = random.bytes(Int.random(in: 1...300, using: &random))
      let cut = Int.random(in: 0...data.count, using: &random)
      edited(data) { octets in
        var sum = InternetChecksum()
        sum.add(octets.prefix(cut))
        if cut % 2 == 0 { sum.add(octets.dropping(cut)) } else { sum.addOdd(octets.dropping(cut)) }
        expect(sum.complement.bigEndian == slowChecksum(data))
      }
    }
  }

  @Test("TUN-9 a sum that the known vectors of CRC32c give") func crc32c() {
    let vectors: [([UInt8], UInt32)] = [
      (Array("123456789".utf8), 0xe306_9283), ([UInt8](repeating: 0, count: 32), 0x8a91_36aa),
      ([UInt8](repeating: 0xff, count: 32), 0x62a8_ab43), (Array(0..<32), 0x46dd_794e),
    ]
    for (data, expected) in vectors {
      edited(data) { octets in expect(~octets.crc32c(continuing: .max) == expected) }
    }
  }

  @Test func bothWaysOfCRC32cAgree() {
    var random = SeededGenerator(6)
    for length in 0...200 {
      let data = random.bytes(length)
      let portable = unsafe data.withUnsafeBytes { unsafe kalsae_crc32c_portable(.max, $0.baseAddress, length) }
      edited(data) { octets in expect(octets.crc32c(continuing: .max) == portable) }
    }
  }
}

@Suite struct ChecksumDeltaTests {
  /// Words near both ends of the range, where a carry that is lost shows.
  static let edges: [UInt16] = [0, 1, 2, 0x00ff, 0x0100, 0x7fff, 0x8000, 0xff00, 0xfffe, 0xffff]

  @Test("TUN-9 the example of RFC 1624, section 4, with end-around carry") func example() {
    // HC = 0xDD2F, m = 0x5555, m' = 0x3285: HC' = 0x0000, where RFC 1141 would give 0xFFFF.
    let delta = ChecksumDelta(replacing: UInt16(0x5555).bigEndian, with: UInt16(0x3285).bigEndian)
    expect(delta.applied(to: UInt16(0xdd2f).bigEndian) == 0)
  }

  @Test("TUN-9 incremental equals full for every edge") func edges() {
    // The header's last word keeps the sum of the whole from being 0, which only a header of zeros has.
    for other in Self.edges {
      for old in Self.edges {
        for new in Self.edges {
          func full(_ word: UInt16) -> UInt16 {
            slowChecksum([UInt8(word >> 8), UInt8(word & 0xff), UInt8(other >> 8), UInt8(other & 0xff), 0, 1])
          }
          let delta = ChecksumDelta(replacing: old.bigEndian, with: new.bigEndian)
          expect(delta.applied(to: full(old).bigEndian).bigEndian == full(new))
        }
      }
    }
  }

  /// A random header of 16 words with words at the edges among them; never all zeros.
  private func header(_ random: inout SeededGenerator) -> [UInt8] {
    var result: [UInt8] = [0x45, 0x00]
    for _ in 0..<21 {
      let word =
        Bool.random(using: &random)
        ? Self.edges.randomElement(using: &random)! : .random(in: 0...0xffff, using: &random)
      result += [UInt8(word >> 8), UInt8(word & 0xff)]
    }
    return result
  }

  @Test("TUN-9 incremental equals full for addresses, ports and their sums") func addresses() {
    var random = SeededGenerator(7)
    for _ in 0..<20_000 {
      let old = header(&random)
      let new = header(&random)
      var changed = old
      changed.replaceSubrange(4..<8, with: new[4..<8])
      changed.replaceSubrange(8..<10, with: new[8..<10])
      changed.replaceSubrange(12..<28, with: new[12..<28])
      var oldAddress = IPv4Address.any
      var newAddress = IPv4Address.any
      var delta = ChecksumDelta()
      edited(old) { o in
        edited(new) { n in
          oldAddress = o[ipv4: 4]
          newAddress = n[ipv4: 4]
          delta += ChecksumDelta(replacing: oldAddress, with: newAddress)
          delta += ChecksumDelta(replacingPort: o[u16: 8], with: n[u16: 8])
          delta += ChecksumDelta(replacing: o[ipv6: 12], with: n[ipv6: 12])
        }
      }
      let before = slowChecksum(old)
      let after = slowChecksum(changed)
      expect(delta.applied(to: before.bigEndian).bigEndian == after)
      expect((-delta).applied(to: after.bigEndian).bigEndian == before)
      // As UDP sends it.
      let udp = { (checksum: UInt16) in checksum == 0 ? UInt16(0xffff) : checksum }
      expect(delta.appliedUDP(to: udp(before).bigEndian).bigEndian == udp(after))
      // A partial checksum holds the sum itself.
      expect(delta.appliedPartial(to: (~before).bigEndian).bigEndian == ~after)
    }
  }

  @Test("TUN-9 a UDP checksum of 0 stays 0, and never becomes 0") func udp() {
    for old in Self.edges {
      for new in Self.edges {
        let delta = ChecksumDelta(replacing: old, with: new)
        expect(delta.appliedUDP(to: 0) == 0)
        for checksum in Self.edges where checksum != 0 { expect(delta.appliedUDP(to: checksum) != 0) }
      }
    }
  }

  @Test func noChangeChangesNothing() {
    for checksum in Self.edges {
      // 0xffff is the other zero; a field never holds it but in UDP.
      expect(ChecksumDelta().applied(to: checksum) == checksum)
      edited([UInt8](repeating: 0, count: 4)) { octets in
        octets[u16Native: 2] = checksum
        octets.applyChecksum(ChecksumDelta(), at: 2)
        expect(octets[u16Native: 2] == checksum)
        octets.applyUDPChecksum(ChecksumDelta(), at: 2)
        expect(octets[u16Native: 2] == checksum)
        octets.applyPartialChecksum(ChecksumDelta(), at: 2)
        expect(octets[u16Native: 2] == checksum)
      }
    }
  }
}
