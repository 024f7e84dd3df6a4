import Addresses
import Testing

@testable import Dataplane

@Suite struct VXLANTests {
  let packet = bytes("0800000000100000 020000000002")

  @Test("TUN-3 the identifier is read") func reads() {
    edited(packet) { octets in
      let header = VXLANHeader(octets)!
      expect(header.isIdentifierValid)
      expect(header.identifier == 4096)
      expect(header.payload.array == bytes("020000000002"))
    }
    expectTruncations(of: packet, needing: 8) { VXLANHeader($0) != nil }
  }

  @Test("TUN-3 all bits but the I flag are ignored when received") func ignoresReservedBits() {
    edited(bytes("ffffffffffffffff")) { octets in
      expect(VXLANHeader(octets)!.isIdentifierValid)
      expect(VXLANHeader(octets)!.identifier == 0xff_ffff)
    }
    edited(bytes("f7ffffff123456ff")) { octets in
      expect(!VXLANHeader(octets)!.isIdentifierValid)
      expect(VXLANHeader(octets)!.identifier == 0x12_3456)
    }
  }

  @Test("TUN-3 all bits but the I flag are zero when sent") func writes() {
    let written = edited([UInt8](repeating: 0xff, count: 8)) { VXLANHeader.write(to: $0, identifier: 0xff00_1000) }
    expect(written == bytes("0800000000100000"))
  }
}

@Suite struct GRETests {
  /// Checksum, key and sequence number around an IPv4 packet of an odd length.
  let full = bytes(
    """
    b0000800 eb880000 aabbccdd 00000007 4500001f 00010000 40115fc0 0a010203 0a040506
    00010002 000b1163 6f6464
    """)

  @Test("TUN-2 all optional fields are read and the checksum is verified") func readsAllFields() {
    edited(full) { octets in
      let header = GREHeader(octets)!
      expect(header.fields == [.checksum, .key, .sequenceNumber])
      expect(header.headerLength == 16)
      expect(header.protocolType == .ipv4)
      expect(header.checksum == 0xeb88)
      expect(header.key == 0xaabb_ccdd)
      expect(header.sequenceNumber == 7)
      expect(header.isChecksumValid)
      expect(header.payload.count == 31)
      octets[30] ^= 1
      expect(!header.isChecksumValid)
      header.updateChecksum()
      expect(header.isChecksumValid)
      octets[30] ^= 1
      header.updateChecksum()
      expect(octets.array == full)
    }
    expectTruncations(of: full, needing: 16) { GREHeader($0) != nil }
  }

  @Test("TUN-2 every combination of optional fields is written and read") func allCombinations() {
    for bits in 0..<8 {
      let checksum = bits & 1 != 0
      let key: UInt32? = bits & 2 != 0 ? 0x0102_0304 : nil
      let sequenceNumber: UInt32? = bits & 4 != 0 ? 0x0506_0708 : nil
      edited([UInt8](repeating: 0xff, count: 40)) { octets in
        let length = GREHeader.write(
          to: octets, protocolType: .ethernet, checksum: checksum, key: key, sequenceNumber: sequenceNumber)
        let header = GREHeader(octets)!
        header.updateChecksum()
        expect(length == 4 + 4 * bits.nonzeroBitCount)
        expect(header.headerLength == length)
        expect(header.protocolType == .ethernet)
        expect(header.key == key)
        expect(header.sequenceNumber == sequenceNumber)
        expect((header.checksum != nil) == checksum)
        expect(header.isChecksumValid)
        if checksum { expect(slowChecksum(octets.array) == 0) }
        expect(octets.array[length...].allSatisfy { $0 == 0xff })
      }
    }
    expect(edited([1, 1, 1, 1]) { GREHeader.write(to: $0, protocolType: .ipv6) } == bytes("000086dd"))
  }

  @Test("TUN-2 bits that change the header are refused, other reserved bits ignored") func reservedBits() {
    for bit in 0..<16 {
      let flags = UInt16(0x8000) >> UInt16(bit)
      var packet = [UInt8](repeating: 0, count: 16)
      packet[0] = UInt8(flags >> 8)
      packet[1] = UInt8(flags & 0xff)
      edited(packet) { octets in
        // Routing, strict source route, recursion; the version.
        let refused = [1, 4, 5, 13, 14, 15].contains(bit)
        expect((GREHeader(octets) == nil) == refused, "bit \(bit)")
      }
    }
  }
}

@Suite struct GeneveTests {
  let packet = bytes(
    "03406558 12345600 01028001 01020304 01030100 020000000002 020000000001 0800")

  @Test("TUN-4 header and options are read") func reads() {
    edited(packet) { octets in
      let header = GeneveHeader(octets)!
      expect(header.headerLength == 20)
      expect(header.protocolType == .ethernet)
      expect(header.identifier == 0x12_3456)
      expect(header.hasCriticalOptions)
      expect(!header.isControl)
      expect(EthernetHeader(header.payload)!.etherType == .ipv4)
      var options = header.options
      let first = options.next()!
      expect(first.optionClass == 0x0102)
      expect(first.type == 0x80)
      expect(first.isCritical)
      expect(first.data.array == [1, 2, 3, 4])
      let second = options.next()!
      expect(second.optionClass == 0x0103)
      expect(!second.isCritical)
      expect(second.data.count == 0)
      expect(options.next() == nil)
      expect(!options.isMalformed)
    }
    expectTruncations(of: packet, needing: 20) { GeneveHeader($0) != nil }
  }

  @Test("TUN-4 another version is refused") func refusesVersions() {
    for version: UInt8 in 1...3 {
      edited([version << 6 | 3] + packet[1...]) { octets in expect(GeneveHeader(octets) == nil) }
    }
  }

  @Test("TUN-4 an option that reaches beyond the header is seen") func hostileOption() {
    edited(bytes("01406558 12345600 0102801f") + packet) { octets in
      var options = GeneveHeader(octets)!.options
      expect(options.next() == nil)
      expect(options.isMalformed)
    }
  }

  @Test func writes() {
    let written = edited([UInt8](repeating: 0xff, count: 8)) {
      GeneveHeader.write(to: $0, protocolType: .ethernet, identifier: 0x12_3456)
    }
    expect(written == bytes("0000655812345600"))
  }
}
