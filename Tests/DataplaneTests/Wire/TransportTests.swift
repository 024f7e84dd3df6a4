import Addresses
import Testing

@testable import Dataplane

private let ipv4 = "0a010203 0a040506"
private let ipv6 = "fd000000000000000000000000000001 fd000000000000000000000000000002"
private let a4 = IPv4Address(10, 1, 2, 3)
private let b4 = IPv4Address(10, 4, 5, 6)
private let a6 = IPv6Address("fd00::1")!
private let b6 = IPv6Address("fd00::2")!

@Suite struct TCPTests {
  let syn = bytes("9c4001bb 01020304 05060708 a012faf0 728d0000 020405b4 0402080a 11223344 55667788 01030307")
  let sack = bytes("9c4001bb 00000000 00000000 a0102000 00000000 0101 0512 000003e8 000007d0 00000bb8 00000fa0 6869")

  @Test func readsAHeader() {
    edited(syn + [1, 2]) { octets in
      let header = TCPHeader(octets)!
      expect(header.sourcePort == 40000)
      expect(header.destinationPort == 443)
      expect(header.sequenceNumber == 0x0102_0304)
      expect(header.acknowledgmentNumber == 0x0506_0708)
      expect(header.headerLength == 40)
      expect(header.flags == [.syn, .ack])
      expect(header.window == 64240)
      expect(header.checksum == 0x728d)
      expect(header.urgentPointer == 0)
      expect(header.payload.array == [1, 2])
    }
  }

  @Test func readsOptions() {
    edited(syn) { octets in
      var options = TCPHeader(octets)!.options
      let mss = options.next()!
      expect(mss.maximumSegmentSize == 1460)
      expect(mss.windowScale == nil)
      expect(options.next()!.isSACKPermitted)
      let timestamps = options.next()!.timestamps!
      expect(timestamps == (0x1122_3344, 0x5566_7788))
      expect(options.next()!.windowScale == 7)
      expect(options.next() == nil)
      expect(!options.isMalformed)
    }
    edited(sack) { octets in
      var options = TCPHeader(octets)!.options
      let option = options.next()!
      expect(option.sackBlockCount == 2)
      expect(option.sackBlock(0) == (1000, 2000))
      expect(option.sackBlock(1) == (3000, 4000))
    }
  }

  @Test(arguments: ["0200", "0201", "02", "01020405", "0803"])
  func endsAtAHostileOption(_ hex: String) {
    edited(bytes(hex)) { octets in
      var options = TCPOptions(octets)
      while let option = options.next() { expect(option.octets.count >= 2) }
      expect(options.isMalformed)
    }
  }

  @Test func optionsOfAWrongLengthMeanNothing() {
    edited(bytes("0203 05 0304 0101 0502 0809 00000000000000")) { octets in
      var options = TCPOptions(octets)
      var count = 0
      while let option = options.next() {
        count += 1
        expect(option.maximumSegmentSize == nil && option.windowScale == nil && option.timestamps == nil)
      }
      expect(count == 4)
    }
  }

  @Test func refusesWrongHeaders() {
    expectTruncations(of: syn, needing: 40) { TCPHeader($0) != nil }
    expectTruncations(of: sack, needing: 40) { TCPHeader($0) != nil }
    for offset: UInt8 in 0..<5 {
      var wrong = syn
      wrong[12] = offset << 4
      edited(wrong) { octets in expect(TCPHeader(octets) == nil) }
    }
  }

  @Test("TUN-9 the checksum over IPv4") func checksum4() {
    let pseudo = InternetChecksum(pseudoHeaderOf: a4, b4, protocol: .tcp, length: syn.count)
    edited(syn) { octets in
      let header = TCPHeader(octets)!
      expect(header.isChecksumValid(pseudo))
      header.checksum = 0x1234
      expect(!header.isChecksumValid(pseudo))
      header.updateChecksum(pseudo)
      expect(header.checksum == 0x728d)
    }
  }

  @Test("TUN-9 the checksum over IPv6, odd length") func checksum6() {
    let packet = bytes("60000000 00170640" + ipv6 + "9c4001bb 00000000 00000000 50022000 247b0000 6f6464")
    edited(packet) { octets in
      let ip = IPv6Header(octets)!
      let header = TCPHeader(ip.payload)!
      let pseudo = ip.pseudoHeader(.tcp, length: 23)
      expect(header.isChecksumValid(pseudo))
      header.updateChecksum(pseudo)
      expect(header.checksum == 0x247b)
    }
  }

  @Test func writesAHeader() {
    let written = edited([UInt8](repeating: 0xff, count: 20)) {
      TCPHeader.write(
        to: $0, sourcePort: 40000, destinationPort: 443, sequenceNumber: 0x0102_0304, acknowledgmentNumber: 0x0506_0708,
        flags: [.rst, .ack], window: 0)
    }
    expect(written == bytes("9c4001bb 01020304 05060708 50140000 00000000"))
  }
}

@Suite struct UDPTests {
  let packet = bytes("45000021 00010000 40115fbe" + ipv4 + "003514e9 000d8bd6 68656c6c6f")

  @Test func readsAHeader() {
    edited(Array(packet[20...]) + [9]) { octets in
      let header = UDPHeader(octets)!
      expect(header.sourcePort == 53)
      expect(header.destinationPort == 5353)
      expect(header.datagramLength == 13)
      expect(header.hasValidLength)
      expect(header.checksum == 0x8bd6)
      expect(header.payload.array == Array("hello".utf8))
    }
    expectTruncations(of: Array(packet[20...]), needing: 8) { UDPHeader($0) != nil }
  }

  @Test func wrongLengthsStayInside() {
    for length in [0, 7, 14, 65535] {
      edited(Array(packet[20...])) { octets in
        let header = UDPHeader(octets)!
        header.datagramLength = length
        expect(!header.hasValidLength)
        expect(header.payload.count <= 5)
      }
    }
  }

  @Test("TUN-9 the checksum over IPv4 and IPv6") func checksums() {
    edited(packet) { octets in
      let ip = IPv4Header(octets)!
      let header = UDPHeader(ip.payload)!
      let pseudo = ip.pseudoHeader(length: 13)
      expect(header.isChecksumValid(pseudo))
      header.updateChecksum(pseudo)
      expect(header.checksum == 0x8bd6)
      header.checksum = 0x8bd7
      expect(!header.isChecksumValid(pseudo))
    }
    edited(bytes("003514e9 000dacdf 68656c6c6f")) { octets in
      let pseudo = InternetChecksum(pseudoHeaderOf: a6, b6, protocol: .udp, length: 13)
      expect(UDPHeader(octets)!.isChecksumValid(pseudo))
    }
  }

  @Test("TUN-9 a checksum of 0 is none, a computed 0 goes out as 0xffff") func zeroChecksum() {
    let pseudo = InternetChecksum(pseudoHeaderOf: a4, b4, protocol: .udp, length: 10)
    let datagram = bytes("003514e9 000a 0000 0000")
    // The payload is chosen so that all words sum up to 0xffff.
    let filler = slowChecksum(pseudoHeader(packet, network: 0, protocol: 17, length: 10), datagram)
    let zero = datagram[..<8] + [UInt8(filler >> 8), UInt8(filler & 0xff)]
    edited(Array(zero)) { octets in
      let header = UDPHeader(octets)!
      expect(header.isChecksumValid(pseudo), "none")
      header.updateChecksum(pseudo)
      expect(header.checksum == 0xffff)
      expect(header.isChecksumValid(pseudo))
    }
  }

  @Test func writesAHeader() {
    let written = edited([UInt8](repeating: 0xff, count: 8)) {
      UDPHeader.write(to: $0, sourcePort: 50000, destinationPort: 4789, length: 50)
    }
    expect(written == bytes("c35012b5 00320000"))
  }
}

@Suite struct SCTPTests {
  let packet = bytes("13881770 01020304 3896b9d2 00030015 00000001 00020003 00000004 68656c6c6f 000000 04000004")

  @Test func readsHeaderAndChunks() {
    edited(packet) { octets in
      let header = SCTPHeader(octets)!
      expect(header.sourcePort == 5000)
      expect(header.destinationPort == 6000)
      expect(header.verificationTag == 0x0102_0304)
      var chunks = header.chunks
      let data = chunks.next()!
      expect(data.type == .data)
      expect(data.flags == 3)
      expect(data.value.array.suffix(5) == Array("hello".utf8))
      let heartbeat = chunks.next()!
      expect(heartbeat.type.rawValue == 4)
      expect(heartbeat.octets.count == 4)
      expect(chunks.next() == nil)
      expect(!chunks.isMalformed)
    }
    expectTruncations(of: packet, needing: 12) { SCTPHeader($0) != nil }
  }

  @Test("TUN-9 CRC32c, lowest octet first on the wire") func checksum() {
    edited(packet) { octets in
      let header = SCTPHeader(octets)!
      expect(header.checksum == 0xd2b9_9638)
      expect(header.isChecksumValid)
      header.checksum = 1
      expect(!header.isChecksumValid)
      header.updateChecksum()
      expect(octets.array == packet)
    }
  }

  @Test(arguments: ["000300", "00000000", "00000003", "000000ff00", "0000000801"])
  func endsAtAHostileChunk(_ hex: String) {
    edited(bytes(hex)) { octets in
      var chunks = SCTPChunks(octets)
      expect(chunks.next() == nil)
      expect(chunks.isMalformed)
    }
  }

  @Test func theLastPaddingMayBeMissing() {
    edited(bytes("0600000501")) { octets in
      var chunks = SCTPChunks(octets)
      expect(chunks.next()!.type == .abort)
      expect(chunks.next() == nil)
      expect(!chunks.isMalformed)
    }
  }
}
