import Addresses
import Testing

@testable import Dataplane

@Suite struct IPv4Tests {
  let udp = bytes("45000021 00010000 40115fbe 0a010203 0a040506 003514e9000d8bd6 68656c6c6f")
  /// No-operation, loose source route, record route with its padding.
  let options = bytes("49b9002f 12340000 3f113230 0a010203 0a040506 01830704 01020304 07070400 00000000 0001")

  @Test func readsAHeader() {
    edited(udp + [0, 0, 0]) { octets in
      let header = IPv4Header(octets)!
      expect(header.headerLength == 20)
      expect(header.totalLength == 33)
      expect(header.hasValidLength)
      expect(header.identification == 1)
      expect(header.timeToLive == 64)
      expect(header.protocol == .udp)
      expect(header.checksum == 0x5fbe)
      expect(header.isChecksumValid)
      expect(header.source == IPv4Address(10, 1, 2, 3))
      expect(header.destination == IPv4Address(10, 4, 5, 6))
      expect(!header.isFragment)
      expect(!header.hasOptions)
      expect(header.payload.array == Array(udp[20...]), "padding is left out")
    }
  }

  @Test func readsServiceAndCongestion() {
    edited(options) { octets in
      let header = IPv4Header(octets)!
      expect(header.typeOfService == 0xb9)
      expect(header.dscp == 46)
      expect(header.ecn == .ect1)
    }
  }

  @Test func readsOptions() {
    edited(options) { octets in
      let header = IPv4Header(octets)!
      expect(header.headerLength == 36)
      expect(header.isChecksumValid)
      var options = header.options
      let first = options.next()!
      expect(first.type == 131)
      expect(first.isSourceRoute)
      expect(first.isCopied)
      expect(first.octets.array == bytes("83070401020304"))
      let second = options.next()!
      expect(second.type == 7)
      expect(!second.isCopied)
      expect(options.next() == nil)
      expect(!options.isMalformed)
    }
  }

  @Test(arguments: ["8300", "8301", "83", "0183ff01", "07050000"])
  func endsAtAHostileOption(_ hex: String) {
    edited(bytes(hex)) { octets in
      var options = IPv4Options(octets)
      expect(options.next() == nil)
      expect(options.isMalformed)
      expect(options.next() == nil)
    }
  }

  @Test func randomOptionsAlwaysEnd() {
    var random = SeededGenerator(1)
    for _ in 0..<5_000 {
      edited(random.bytes(Int.random(in: 0...40, using: &random))) { octets in
        var options = IPv4Options(octets)
        var count = 0
        while let option = options.next() {
          count += option.octets.count
          expect(option.octets.count >= 2)
        }
        expect(count <= 40)
      }
    }
  }

  @Test("TUN-8 a fragment is known by the MF flag and by the offset") func knowsFragments() {
    func header(_ field: UInt16, _ check: (IPv4Header) -> Void) {
      var packet = udp
      packet[6] = UInt8(field >> 8)
      packet[7] = UInt8(field & 0xff)
      edited(packet) { check(IPv4Header($0)!) }
    }
    header(0x4000) {
      expect($0.dontFragment)
      expect(!$0.isFragment)
    }
    header(0x2000) {
      expect($0.isFragment && $0.moreFragments)
      expect(!$0.isLaterFragment)
    }
    header(0x20b9) {
      expect($0.isFragment && $0.isLaterFragment)
      expect($0.fragmentOffset == 1480)
    }
    header(0x00b9) {
      expect($0.isFragment && $0.isLaterFragment, "the last fragment has no MF")
      expect(!$0.moreFragments)
    }
  }

  @Test func refusesWrongHeaders() {
    expectTruncations(of: udp, needing: 20) { IPv4Header($0) != nil }
    expectTruncations(of: options, needing: 36) { IPv4Header($0) != nil }
    for first: UInt8 in [0x44, 0x40, 0x55, 0x65, 0x05] {
      edited([first] + udp[1...]) { octets in expect(IPv4Header(octets) == nil) }
    }
  }

  @Test func lengthsThatDoNotFitAreSeen() {
    for length in [0, 19, 34, 65535] {
      edited(udp) { octets in
        let header = IPv4Header(octets)!
        header.totalLength = length
        expect(!header.hasValidLength)
        // Whatever the length says, the payload stays inside the octets.
        expect(header.payload.count <= 13)
      }
    }
  }

  @Test("TUN-9 decrementing the time to live keeps the checksum right, for every value") func decrements() {
    for ttl in UInt8(1)...255 {
      for protocolNumber: UInt8 in [0, 6, 17, 255] {
        edited(udp) { octets in
          let header = IPv4Header(octets)!
          header.timeToLive = ttl
          header.protocol = IPProtocol(rawValue: protocolNumber)
          header.updateChecksum()
          header.decrementTimeToLive()
          expect(header.timeToLive == ttl - 1)
          expect(header.isChecksumValid)
          let incremental = header.checksum
          header.updateChecksum()
          expect(header.checksum == incremental)
        }
      }
    }
  }

  @Test("TUN-5 rewriting ECN keeps the checksum right") func rewritesService() {
    for value in UInt8.min...255 {
      edited(options) { octets in
        let header = IPv4Header(octets)!
        header.rewriteTypeOfService(value)
        expect(header.typeOfService == value)
        let incremental = header.checksum
        header.updateChecksum()
        expect(header.checksum == incremental)
      }
    }
  }

  @Test func writesAHeader() {
    let written = edited([UInt8](repeating: 0xff, count: 20)) {
      IPv4Header.write(
        to: $0, totalLength: 33, identification: 1, protocol: .udp, source: IPv4Address(10, 1, 2, 3),
        destination: IPv4Address(10, 4, 5, 6))
    }
    expect(written == Array(udp[..<20]))
    let marked = edited(written) {
      IPv4Header.write(
        to: $0, typeOfService: 0xb8, totalLength: 20, dontFragment: true, timeToLive: 9, protocol: .ipv4,
        source: .any, destination: .broadcast)
    }
    expect(marked == bytes("45b80014 00004000 0904") + marked[10..<12] + bytes("00000000ffffffff"))
    expect(slowChecksum(marked) == 0)
  }
}
