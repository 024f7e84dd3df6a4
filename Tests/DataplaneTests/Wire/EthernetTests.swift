import Addresses
import Testing

@testable import Dataplane

private let one = MACAddress("02:00:00:00:00:01")!
private let two = MACAddress("02:00:00:00:00:02")!

@Suite struct EthernetTests {
  let plain = bytes("020000000002 020000000001 0800 45")
  let tagged = bytes("020000000002 020000000001 8100 2007 86dd 60")
  let doubled = bytes("020000000002 020000000001 88a8 a064 8100 7007 0800 45")

  @Test func readsAHeaderWithoutTags() {
    edited(plain) { octets in
      let header = EthernetHeader(octets)!
      expect(header.destination == two)
      expect(header.source == one)
      expect(header.etherType == .ipv4)
      expect(header.headerLength == 14)
      expect(header.tagCount == 0)
      expect(header.payload.array == [0x45])
    }
  }

  @Test("TUN-10 one and two VLAN tags are read") func readsTags() {
    edited(tagged) { octets in
      let header = EthernetHeader(octets)!
      expect(header.etherType == .ipv6)
      expect(header.tagCount == 1)
      expect(header.tag(0).identifier == 7)
      expect(header.tag(0).priority == 1)
      expect(header.payload.array == [0x60])
    }
    edited(doubled) { octets in
      let header = EthernetHeader(octets)!
      expect(header.etherType == .ipv4)
      expect(header.headerLength == 22)
      expect(header.tag(0) == VLANTag(protocolIdentifier: .serviceVLAN, control: 0xa064))
      expect(header.tag(0).priority == 5)
      expect(header.tag(1) == VLANTag(control: 0x7007))
      expect(header.tag(1).isDropEligible)
      expect(header.payload.array == [0x45])
    }
  }

  @Test func aThirdTagIsPayload() {
    edited(bytes("020000000002 020000000001 88a8 0001 8100 0002 8100 0003 0800")) { octets in
      let header = EthernetHeader(octets)!
      expect(header.headerLength == 22)
      expect(header.etherType == .vlan)
    }
  }

  @Test func refusesTruncatedHeaders() {
    expectTruncations(of: plain, needing: 14) { EthernetHeader($0) != nil }
    expectTruncations(of: tagged, needing: 18) { EthernetHeader($0) != nil }
    // The type of the outer tag alone decides that there is an inner one, so that 18 octets are not enough.
    expectTruncations(of: doubled, needing: 22) { EthernetHeader($0) != nil }
  }

  @Test func writesAHeader() {
    let written = edited([UInt8](repeating: 0xee, count: 15)) {
      EthernetHeader.write(to: $0, destination: two, source: one, etherType: .ipv4)
    }
    expect(written == bytes("020000000002 020000000001 0800 ee"))
  }

  @Test func writesFieldsInPlace() {
    let written = edited(tagged) { octets in
      let header = EthernetHeader(octets)!
      header.destination = one
      header.source = two
      header.etherType = .arp
    }
    expect(written == bytes("020000000001 020000000002 8100 2007 0806 60"))
  }

  @Test func tellsLengthsFromTypes() {
    expect(EtherType(rawValue: 0x05dc).isLength)
    expect(!EtherType.ipv4.isLength)
  }
}

@Suite struct ARPTests {
  let request = bytes("0001 0800 06 04 0001 020000000001 0a000001 000000000000 a9fe0101")

  @Test("NODE-2 a request for the gateway is read") func readsARequest() {
    edited(request) { octets in
      let packet = ARPPacket(octets)!
      expect(packet.operation == .request)
      expect(packet.senderHardwareAddress == one)
      expect(packet.senderProtocolAddress == IPv4Address(10, 0, 0, 1))
      expect(packet.targetHardwareAddress == .zero)
      expect(packet.targetProtocolAddress == IPv4Address(169, 254, 1, 1))
      expect(!packet.isProbe)
      expect(!packet.isAnnouncement)
    }
  }

  @Test("NODE-2 a duplicate-address probe is told from a request") func tellsAProbe() {
    edited(bytes("0001 0800 06 04 0001 020000000001 00000000 000000000000 0a000001")) { octets in
      expect(ARPPacket(octets)!.isProbe)
    }
    edited(bytes("0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000001")) { octets in
      expect(!ARPPacket(octets)!.isProbe)
      expect(ARPPacket(octets)!.isAnnouncement)
    }
  }

  @Test("NODE-2 a reply is written") func writesAReply() {
    let written = edited([UInt8](repeating: 0xff, count: 28)) {
      ARPPacket.write(
        to: $0, operation: .reply, senderHardwareAddress: MACAddress("ee:ee:ee:ee:ee:ee")!,
        senderProtocolAddress: IPv4Address(169, 254, 1, 1), targetHardwareAddress: one,
        targetProtocolAddress: IPv4Address(10, 0, 0, 1))
    }
    expect(written == bytes("0001 0800 06 04 0002 eeeeeeeeeeee a9fe0101 020000000001 0a000001"))
  }

  @Test func refusesOtherHardwareAndProtocols() {
    for offset in 0..<6 {
      var other = request
      other[offset] ^= 0x10
      edited(other) { octets in expect(ARPPacket(octets) == nil) }
    }
    expectTruncations(of: request, needing: 28) { ARPPacket($0) != nil }
  }
}
