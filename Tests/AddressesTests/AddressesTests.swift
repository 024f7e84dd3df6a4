import Testing

@testable import Addresses

@Suite struct IPv4AddressTests {
  @Test(
    "IPv4 addresses are read and written in dotted-decimal notation",
    arguments: [
      ("0.0.0.0", 0), ("10.0.0.1", 0x0a00_0001), ("255.255.255.255", 0xffff_ffff), ("192.168.1.20", 0xc0a8_0114),
    ] as [(String, UInt32)])
  func roundTrip(text: String, value: UInt32) {
    #expect(IPv4Address(text)?.rawValue == value)
    #expect(IPv4Address(rawValue: value).description == text)
  }

  @Test(
    "what is no IPv4 address is refused",
    arguments: [
      "", ".", "1.2.3", "1.2.3.4.5", "1.2.3.", ".1.2.3", "1..2.3", "256.0.0.1", "1.2.3.256", "01.2.3.4", "1.2.3.00",
      " 1.2.3.4", "1.2.3.4 ", "1.2.3.4\n", "+1.2.3.4", "-1.2.3.4", "0x1.2.3.4", "1.2.3.4/24", "a.b.c.d",
      "99999999999999999999.1.1.1", "1.2.3.٤",
    ])
  func malformed(text: String) { #expect(IPv4Address(text) == nil) }

  @Test("special IPv4 addresses are told apart (RFC 5771, 1122, 3927, 1812)")
  func classes() {
    #expect(IPv4Address(224, 0, 0, 1).isMulticast)
    #expect(!IPv4Address(223, 255, 255, 255).isMulticast)
    #expect(!IPv4Address(240, 0, 0, 1).isMulticast)
    #expect(IPv4Address(127, 255, 0, 1).isLoopback)
    #expect(IPv4Address(169, 254, 1, 1).isLinkLocal)
    #expect(!IPv4Address(169, 253, 1, 1).isLinkLocal)
    for bad in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
      #expect(!IPv4Address(bad)!.isValidSource, "\(bad)")
    }
    #expect(IPv4Address(10, 0, 0, 1).isValidSource)
  }
}

@Suite struct IPv6AddressTests {
  @Test(
    "IPv6 addresses are written as RFC 5952 asks",
    arguments: [
      // Section 4.1: leading zeros go. 4.2.1: as short as possible.
      ("2001:0db8:0000:0000:0000:0000:0002:0001", "2001:db8::2:1"),
      // 4.2.2: one zero group alone stays.
      ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
      // 4.2.3: the longest run, and the first of equals.
      ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
      ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
      // 4.3: lower case.
      ("2001:DB8::ABCD", "2001:db8::abcd"),
      // 5: an embedded IPv4 address where the prefix says that it is one.
      ("::ffff:c000:0201", "::ffff:192.0.2.1"),
      ("::FFFF:192.0.2.1", "::ffff:192.0.2.1"),
      ("0:0:0:0:0:0:0:0", "::"), ("::1", "::1"), ("1::", "1::"), ("fe80::1", "fe80::1"),
      ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"), ("::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"),
      ("64:ff9b::10.0.0.1", "64:ff9b::a00:1"), ("1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"),
      ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ])
  func canonical(text: String, expected: String) throws {
    let address = try #require(IPv6Address(text))
    #expect(address.description == expected)
    #expect(IPv6Address(expected) == address)
  }

  @Test(
    "what is no IPv6 address is refused",
    arguments: [
      "", ":", ":::", "::1::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::",
      "::1:2:3:4:5:6:7:8",
      ":1:2:3:4:5:6:7", "1:2:3:4:5:6:7:", "12345::", "g::", "+1::", "-0::", "1: :2", "::1%eth0", "[::1]", "::1/64",
      "1.2.3.4", "::1.2.3", "::1.2.3.4.5", "::1.2.3.4:5", "1:2:3:4:5:6:7:1.2.3.4", "::256.0.0.1", "::01.2.3.4", " ::1",
      "0000:0000:0000:0000:0000:0000:0000:0000:0000",
    ])
  func malformed(text: String) { #expect(IPv6Address(text) == nil) }

  @Test("special IPv6 addresses are told apart (RFC 4291)")
  func classes() {
    #expect(IPv6Address("ff02::1")!.isMulticast)
    #expect(!IPv6Address("fe02::1")!.isMulticast)
    #expect(IPv6Address("fe80::1")!.isLinkLocal)
    #expect(IPv6Address("febf::1")!.isLinkLocal)
    #expect(!IPv6Address("fec0::1")!.isLinkLocal)
    #expect(IPv6Address.loopback.isLoopback && IPv6Address.loopback.description == "::1")
    for bad in ["::", "::1", "ff02::1"] { #expect(!IPv6Address(bad)!.isValidSource, "\(bad)") }
    #expect(IPv6Address("fe80::1")!.isValidSource)
  }

  @Test("a neighbour is asked for at its solicited-node address (RFC 4291, 2.7.1; RFC 2464, 7)")
  func solicitedNode() {
    let group = IPv6Address("4037::01:800:200e:8c6c")!.solicitedNode
    #expect(group.description == "ff02::1:ff0e:8c6c")
    #expect(MACAddress(multicast: group).description == "33:33:ff:0e:8c:6c")
  }

  @Test(
    "masking clears all but the first bits",
    arguments: [
      (0, "::"), (1, "8000::"), (63, "ffff:ffff:ffff:fffe::"), (64, "ffff:ffff:ffff:ffff::"),
      (65, "ffff:ffff:ffff:ffff:8000::"), (127, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"),
      (128, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ])
  func mask(length: Int, expected: String) {
    #expect(IPv6Address(high: .max, low: .max).masked(length) == IPv6Address(expected))
  }
}

@Suite struct IPAddressTests {
  @Test("an address of either family is read and ordered, IPv4 first")
  func both() {
    #expect(IPAddress("10.0.0.1") == .v4(IPv4Address(10, 0, 0, 1)))
    #expect(IPAddress("fd00::1")?.family == .ipv6)
    #expect(IPAddress("nonsense") == nil)
    let sorted = ["fd00::1", "10.0.0.2", "::1", "10.0.0.1"].map { IPAddress($0)! }.sorted()
    #expect(sorted.map(\.description) == ["10.0.0.1", "10.0.0.2", "::1", "fd00::1"])
  }
}

@Suite struct MACAddressTests {
  @Test("MAC addresses are read in either case and written in lower case")
  func roundTrip() {
    #expect(MACAddress("0A:58:0a:F4:01:02")?.rawValue == 0x0a58_0af4_0102)
    #expect(MACAddress(rawValue: 0x0a58_0af4_0102).description == "0a:58:0a:f4:01:02")
    #expect(MACAddress.broadcast.description == "ff:ff:ff:ff:ff:ff" && MACAddress.broadcast.isGroup)
    #expect(MACAddress("01:00:5e:00:00:01")!.isGroup)
    #expect(!MACAddress("02:00:00:00:00:01")!.isGroup)
  }

  @Test(
    "what is no MAC address is refused",
    arguments: [
      "", "00:11:22:33:44", "00:11:22:33:44:55:66", "0:11:22:33:44:55", "00-11-22-33-44-55", "00:11:22:33:44:5g",
      "+0:11:22:33:44:55", "-0:11:22:33:44:55", "00:11:22:33:44:+5", "001122334455", "00:11:22:33:44:55 ",
      "00:11:22:33:44:",
    ])
  func malformed(text: String) { #expect(MACAddress(text) == nil) }

  @Test("NODE-5 an address derived from a name is stable, local and unicast")
  func derived() {
    let one = MACAddress(derivedFrom: "node-1")
    #expect(one == MACAddress(derivedFrom: "node-1"))
    #expect(one != MACAddress(derivedFrom: "node-2"))
    for name in ["", "a", "node-1", "node-2", "zeta.example"] {
      let first = MACAddress(derivedFrom: name).rawValue >> 40
      #expect(first & 0x3 == 0x2, "\(name)")
    }
  }

  @Test("a pod's address is 0a:58 and the last four octets of its IP address")
  func pod() {
    #expect(MACAddress(pod: IPAddress("10.244.1.2")!).description == "0a:58:0a:f4:01:02")
    #expect(MACAddress(pod: IPAddress("fd00::abcd:1234")!).description == "0a:58:ab:cd:12:34")
  }
}

@Suite struct PrefixTests {
  @Test(
    "blocks are read, stripped of host bits and written",
    arguments: [
      ("10.244.0.0/16", "10.244.0.0/16"), ("10.244.3.7/16", "10.244.0.0/16"), ("0.0.0.0/0", "0.0.0.0/0"),
      ("255.255.255.255/0", "0.0.0.0/0"), ("10.0.0.1/32", "10.0.0.1/32"), ("fd00:10:244::1/64", "fd00:10:244::/64"),
      ("::/0", "::/0"), ("::1/128", "::1/128"), ("ffff::/1", "8000::/1"),
    ])
  func roundTrip(text: String, expected: String) { #expect(IPPrefix(text)?.description == expected) }

  @Test(
    "what is no block is refused",
    arguments: [
      "", "/", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0.0/8/8",
      "10.0.0/8", "::/129", "::", "fd00::/", "10.0.0.0/8 ", "10.0.0.0/255.0.0.0", "10.0.0.0/99999999999",
    ])
  func malformed(text: String) { #expect(IPPrefix(text) == nil) }

  @Test("a block holds its own addresses and smaller blocks of its family, nothing else")
  func contains() {
    let block = IPPrefix("10.244.0.0/16")!
    #expect(block.contains(IPAddress("10.244.0.0")!))
    #expect(block.contains(IPAddress("10.244.255.255")!))
    #expect(!block.contains(IPAddress("10.245.0.0")!))
    #expect(!block.contains(IPAddress("::ffff:10.244.0.1")!))
    #expect(block.contains(IPPrefix("10.244.3.0/24")!))
    #expect(block.contains(block))
    #expect(!block.contains(IPPrefix("10.0.0.0/8")!))
    #expect(!block.contains(IPPrefix("fd00::/24")!))
    #expect(IPPrefix("0.0.0.0/0")!.contains(IPAddress("255.255.255.255")!))
    #expect(!IPPrefix("0.0.0.0/0")!.contains(IPAddress("::")!))
    #expect(IPPrefix("::/0")!.contains(IPAddress("ffff::")!))
    #expect(IPPrefix("fd00::/64")!.contains(IPAddress("fd00::ffff:ffff:ffff:ffff")!))
    #expect(!IPPrefix("fd00::/64")!.contains(IPAddress("fd00:0:0:1::")!))
  }

  @Test("a length that the family does not have gives no block")
  func lengths() {
    #expect(IPPrefix(IPAddress("10.0.0.1")!, length: 33) == nil)
    #expect(IPPrefix(IPAddress("10.0.0.1")!, length: -1) == nil)
    #expect(IPPrefix(IPAddress("::1")!, length: 129) == nil)
    #expect(IPPrefix(host: IPAddress("10.0.0.1")!).description == "10.0.0.1/32")
    #expect(IPPrefix(host: IPAddress("::1")!).description == "::1/128")
  }
}
