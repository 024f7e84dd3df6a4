import Addresses
import Testing

@testable import Dataplane

@Suite struct ICMPv4Tests {
  let echo = bytes("080006f6 12340005 70696e67")
  let fragmentationNeeded = bytes(
    "03041987 000005aa 4500001c 00010000 401158b5 0a040506 0a090909 0009000a0008ddaf")

  @Test func readsEcho() {
    edited(echo) { octets in
      let header = ICMPv4Header(octets)!
      expect(header.type == .echoRequest)
      expect(!header.type.isError)
      expect(header.code == 0)
      expect(header.identifier == 0x1234)
      expect(header.sequenceNumber == 5)
      expect(header.isChecksumValid)
      expect(header.payload.array == Array("ping".utf8))
    }
    expectTruncations(of: echo, needing: 8) { ICMPv4Header($0) != nil }
  }

  @Test("TUN-7 the packet and the MTU inside a fragmentation-needed are read") func readsAnError() {
    edited(fragmentationNeeded) { octets in
      let header = ICMPv4Header(octets)!
      expect(header.type == .destinationUnreachable)
      expect(header.type.isError)
      expect(header.code == ICMPv4Header.Unreachable.fragmentationNeeded)
      expect(header.nextHopMTU == 1450)
      expect(header.isChecksumValid)
      let embedded = IPv4Header(header.payload)!
      expect(embedded.source == IPv4Address(10, 4, 5, 6))
      expect(UDPHeader(embedded.payload)!.sourcePort == 9)
    }
  }

  @Test("TUN-7 only error types are errors") func errors() {
    let errors = (UInt8.min...255).filter { ICMPv4Header.MessageType(rawValue: $0).isError }
    expect(errors == [3, 4, 5, 11, 12])
  }

  @Test func writesAnError() {
    let written = edited([UInt8](repeating: 0xff, count: 8) + fragmentationNeeded[8...]) { octets in
      ICMPv4Header.write(
        to: octets, type: .destinationUnreachable, code: ICMPv4Header.Unreachable.fragmentationNeeded, rest: 1450)
      ICMPv4Header(octets)!.updateChecksum()
    }
    expect(written == fragmentationNeeded)
  }
}

private let linkLocal = "fe800000000000000000000000000001 ff0200000000000000000001ff000002"

@Suite struct ICMPv6Tests {
  let tooBig = bytes(
    """
    60000000 00383a40 fd000000000000000000000000000001 fd000000000000000000000000000002 02008d59 00000500
    60000000 00081140 fd000000000000000000000000000002 fd000000000000000000000000000009 0035003500080568
    """)

  @Test("TUN-7 the packet and the MTU inside a packet-too-big are read") func readsAnError() {
    edited(tooBig) { octets in
      let ip = IPv6Header(octets)!
      let header = ICMPv6Header(ip.payload)!
      expect(header.type == .packetTooBig)
      expect(header.type.isError)
      expect(header.mtu == 1280)
      expect(header.isChecksumValid(ip.pseudoHeader(.icmpv6, length: 56)))
      expect(IPv6Header(header.payload)!.destination == IPv6Address("fd00::9"))
      header.code = 1
      expect(!header.isChecksumValid(ip.pseudoHeader(.icmpv6, length: 56)))
    }
    expectTruncations(of: Array(tooBig[40...]), needing: 8) { ICMPv6Header($0) != nil }
  }

  @Test func writesAnError() {
    let written = edited(tooBig) { octets in
      let ip = IPv6Header(octets)!
      ICMPv6Header.write(to: ip.payload, type: .packetTooBig, code: 0, rest: 1280)
      ICMPv6Header(ip.payload)!.updateChecksum(ip.pseudoHeader(.icmpv6, length: 56))
    }
    expect(written == tooBig)
  }
}

@Suite struct NDPTests {
  let solicitation = bytes(
    "60000000 00203aff" + linkLocal + "87007a97 00000000 fe800000000000000000000000000002 0101020000000001")
  let advertisement = bytes("8800b819 c0000000 fe800000000000000000000000000002 0201020000000002")
  let routerAdvertisement = bytes(
    """
    8600e676 40080708 00000001 00000002 0101020000000002 05010000000005aa
    030440c0 ffffffff ffffffff 00000000 fd000001000000000000000000000000
    """)

  @Test("NODE-2 a solicitation is read") func readsASolicitation() {
    edited(solicitation) { octets in
      let ip = IPv6Header(octets)!
      expect(ICMPv6Header(ip.payload)!.isChecksumValid(ip.pseudoHeader(.icmpv6, length: 32)))
      expect(ICMPv6Header(ip.payload)!.type.isNeighborDiscovery)
      let message = NeighborMessage(ip.payload)!
      expect(message.isSolicitation)
      expect(message.targetAddress == IPv6Address("fe80::2"))
      var options = message.options
      let option = options.next()!
      expect(option.sourceLinkAddress == MACAddress("02:00:00:00:00:01"))
      expect(option.targetLinkAddress == nil)
      expect(options.next() == nil)
      expect(!options.isMalformed)
    }
    expectTruncations(of: Array(solicitation[40...]), needing: 24) { NeighborMessage($0) != nil }
  }

  @Test("NODE-2 a solicitation is written, with and without the sender's address") func writesASolicitation() {
    let written = edited(solicitation[..<40] + [UInt8](repeating: 0xff, count: 32)) { octets in
      let ip = IPv6Header(octets)!
      let length = NeighborMessage.writeSolicitation(
        to: ip.payload, target: IPv6Address("fe80::2")!, sourceLinkAddress: MACAddress("02:00:00:00:00:01")!)
      expect(length == 32)
      ICMPv6Header(ip.payload)!.updateChecksum(ip.pseudoHeader(.icmpv6, length: length))
    }
    expect(written == solicitation)
    edited([UInt8](repeating: 0xff, count: 24)) { octets in
      expect(NeighborMessage.writeSolicitation(to: octets, target: .loopback, sourceLinkAddress: nil) == 24)
      expect(octets.array == bytes("8700000000000000 00000000000000000000000000000001"))
    }
  }

  @Test("NODE-2 an advertisement without Override is written and read") func advertises() {
    let written = edited([UInt8](repeating: 0xff, count: 32)) { octets in
      let length = NeighborMessage.writeAdvertisement(
        to: octets, target: IPv6Address("fe80::2")!, targetLinkAddress: MACAddress("02:00:00:00:00:02")!,
        flags: [.router, .solicited])
      let pseudo = InternetChecksum(
        pseudoHeaderOf: IPv6Address("fe80::2")!, IPv6Address("fe80::1")!, protocol: .icmpv6, length: length)
      ICMPv6Header(octets)!.updateChecksum(pseudo)
    }
    expect(written == advertisement)
    edited(advertisement) { octets in
      let message = NeighborMessage(octets)!
      expect(!message.isSolicitation)
      expect(message.flags == [.router, .solicited])
      var options = message.options
      expect(options.next()!.targetLinkAddress == MACAddress("02:00:00:00:00:02"))
    }
  }

  @Test func readsARouterAdvertisement() {
    edited(routerAdvertisement) { octets in
      let message = RouterAdvertisement(octets)!
      expect(message.currentHopLimit == 64)
      expect(message.routerLifetime == 1800)
      expect(message.reachableTime == 1)
      expect(message.retransmissionTimer == 2)
      var options = message.options
      expect(options.next()!.sourceLinkAddress == MACAddress("02:00:00:00:00:02"))
      expect(options.next()!.mtu == 1450)
      expect(options.next()!.prefix.map { IPPrefix.v6($0) } == IPPrefix("fd00:1::/64"))
      expect(options.next() == nil)
      expect(!options.isMalformed)
    }
    expectTruncations(of: routerAdvertisement, needing: 16) { RouterAdvertisement($0) != nil }
  }

  @Test func readsAndWritesARouterSolicitation() {
    let written = edited([UInt8](repeating: 0xff, count: 16)) { octets in
      expect(RouterSolicitation.write(to: octets, sourceLinkAddress: MACAddress("02:00:00:00:00:01")) == 16)
      var options = RouterSolicitation(octets)!.options
      expect(options.next()!.sourceLinkAddress == MACAddress("02:00:00:00:00:01"))
      expect(NeighborMessage(octets) == nil)
    }
    expect(written == bytes("8500000000000000 0101020000000001"))
    expectTruncations(of: written, needing: 8) { RouterSolicitation($0) != nil }
  }

  @Test(arguments: ["0100020000000001", "0102020000000001", "01"])
  func endsAtAHostileOption(_ hex: String) {
    edited(bytes(hex)) { octets in
      var options = NDPOptions(octets)
      expect(options.next() == nil)
      expect(options.isMalformed)
    }
  }
}
