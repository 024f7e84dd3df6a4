import Addresses
import Dataplane

/// A packet in words: one line as `tcpdump` writes it, and which field an octet belongs to.
///
/// Reads Ethernet with tags, ARP, IPv4, IPv6, ICMP, TCP, UDP, SCTP and what is inside of IPIP, GRE, VXLAN and Geneve.
public struct PacketText: Sendable {
  /// `10.1.0.5.43210 > 10.1.1.7.80: TCP S, length 60`; layers of a tunnel are separated by ` | `.
  public private(set) var line = ""
  private var fields: [(start: Int, length: Int, name: String)] = []
  private var prefix = ""
  private var depth = 0

  /// Reads a frame from its Ethernet header on.
  public init(_ octets: Octets) { readEthernet(octets, at: 0) }

  /// Reads a packet from its IP header on.
  public init(network octets: Octets) { readNetwork(octets, at: 0) }

  /// The field that the octet at `offset` belongs to: `IPv4 time to live`.
  public func field(at offset: Int) -> String? {
    fields.last { $0.start <= offset && offset < $0.start + $0.length }?.name
  }

  private mutating func add(_ layer: String, _ start: Int, _ parts: [(Int, String)]) {
    var offset = start
    for (length, name) in parts {
      fields.append((offset, length, "\(prefix)\(layer) \(name)"))
      offset += length
    }
  }

  private mutating func say(_ text: String) { line += (line.isEmpty ? "" : " ") + text }

  private mutating func readEthernet(_ octets: Octets, at start: Int) {
    guard let header = EthernetHeader(octets.dropping(start)) else { return say("[\(octets.count - start) octets]") }
    add("Ethernet", start, [(6, "destination"), (6, "source")])
    for tag in 0..<header.tagCount {
      add("VLAN", start + 12 + 4 * tag, [(2, "tag type"), (2, "tag")])
      say("vlan \(header.tag(tag).identifier),")
    }
    let network = start + header.headerLength
    add("Ethernet", network - 2, [(2, "type")])
    switch header.etherType {
    case .ipv4, .ipv6: readNetwork(octets, at: network)
    case .arp: readARP(octets, at: network)
    default:
      let hex = String(header.etherType.rawValue, radix: 16)
      say("\(header.source) > \(header.destination), ethertype 0x\(hex), length \(octets.count - start)")
    }
  }

  private mutating func readARP(_ octets: Octets, at start: Int) {
    add(
      "ARP", start,
      [
        (2, "hardware type"), (2, "protocol type"), (1, "hardware length"), (1, "protocol length"), (2, "operation"),
        (6, "sender hardware address"), (4, "sender address"), (6, "target hardware address"), (4, "target address"),
      ])
    guard let arp = ARPPacket(octets.dropping(start)) else { return say("ARP, malformed") }
    if arp.operation == .request {
      say("ARP who-has \(arp.targetProtocolAddress) tell \(arp.senderProtocolAddress)")
    } else {
      say("ARP \(arp.senderProtocolAddress) is-at \(arp.senderHardwareAddress)")
    }
  }

  private mutating func readNetwork(_ octets: Octets, at start: Int) {
    guard start < octets.count else { return say("empty") }
    if octets[start] >> 4 == 6 { readIPv6(octets, at: start) } else { readIPv4(octets, at: start) }
  }

  private mutating func readIPv4(_ octets: Octets, at start: Int) {
    add(
      "IPv4", start,
      [
        (1, "version and header length"), (1, "DSCP and ECN"), (2, "total length"), (2, "identification"),
        (2, "flags and fragment offset"), (1, "time to live"), (1, "protocol"), (2, "header checksum"), (4, "source"),
        (4, "destination"),
      ])
    guard let header = IPv4Header(octets.dropping(start)) else { return say("IPv4, malformed") }
    if header.hasOptions { fields.append((start + 20, header.headerLength - 20, "\(prefix)IPv4 options")) }
    let notes =
      header.isFragment
      ? " fragment \(header.fragmentOffset)\(header.moreFragments ? "+" : "")" : ""
    let transport = start + header.headerLength
    let addresses = (header.source.description, header.destination.description)
    guard !header.isLaterFragment else {
      return say("\(addresses.0) > \(addresses.1): IPv4 protocol \(header.protocol.rawValue)\(notes)")
    }
    readTransport(octets, at: transport, header.protocol, addresses, notes)
  }

  private mutating func readIPv6(_ octets: Octets, at start: Int) {
    add(
      "IPv6", start,
      [
        (4, "version, traffic class and flow label"), (2, "payload length"), (1, "next header"), (1, "hop limit"),
        (16, "source"), (16, "destination"),
      ])
    guard let header = IPv6Header(octets.dropping(start)) else { return say("IPv6, malformed") }
    let upper = header.upperLayer
    if upper.offset > 40 { fields.append((start + 40, upper.offset - 40, "\(prefix)IPv6 extension headers")) }
    let notes = upper.isFragment ? " fragment \(upper.fragmentOffset)\(upper.moreFragments ? "+" : "")" : ""
    let addresses = (header.source.description, header.destination.description)
    guard upper.outcome == .found, !upper.isLaterFragment else {
      return say("\(addresses.0) > \(addresses.1): IPv6 next header \(upper.protocol.rawValue)\(notes)")
    }
    readTransport(octets, at: start + upper.offset, upper.protocol, addresses, notes)
  }

  private mutating func readTransport(
    _ octets: Octets, at start: Int, _ transport: IPProtocol, _ addresses: (String, String), _ notes: String
  ) {
    let rest = octets.dropping(min(start, octets.count))
    func ports(_ source: UInt16, _ destination: UInt16, _ name: String) -> String {
      "\(addresses.0).\(source) > \(addresses.1).\(destination): \(name)\(notes), length \(rest.count)"
    }
    switch transport {
    case .tcp:
      add(
        "TCP", start,
        [
          (2, "source port"), (2, "destination port"), (4, "sequence number"), (4, "acknowledgement number"),
          (2, "offset and flags"), (2, "window"), (2, "checksum"), (2, "urgent pointer"),
        ])
      guard rest.count >= 20 else { return say("\(addresses.0) > \(addresses.1): TCP, truncated") }
      let names = ["F", "S", "R", "P", ".", "U"]
      let flags = names.indices.filter { rest[13] >> UInt8($0) & 1 == 1 }.map { names[$0] }.joined()
      say(ports(rest[u16: 0], rest[u16: 2], "TCP \(flags.isEmpty ? "none" : flags)"))
    case .udp:
      add("UDP", start, [(2, "source port"), (2, "destination port"), (2, "length"), (2, "checksum")])
      guard rest.count >= 8 else { return say("\(addresses.0) > \(addresses.1): UDP, truncated") }
      let port = rest[u16: 2]
      if port == VXLANHeader.port, depth < 3, let vxlan = VXLANHeader(rest.dropping(8)) {
        add("VXLAN", start + 8, [(1, "flags"), (3, "reserved"), (3, "VNI"), (1, "reserved")])
        enter("\(addresses.0) > \(addresses.1): VXLAN \(vxlan.identifier)")
        return readEthernet(octets, at: start + 16)
      }
      if port == GeneveHeader.port, depth < 3, let geneve = GeneveHeader(rest.dropping(8)) {
        add(
          "Geneve", start + 8, [(2, "version, option length and flags"), (2, "protocol"), (3, "VNI"), (1, "reserved")])
        enter("\(addresses.0) > \(addresses.1): Geneve \(geneve.identifier)")
        return readPayload(octets, at: start + 8 + geneve.headerLength, geneve.protocolType)
      }
      say(ports(rest[u16: 0], port, "UDP"))
    case .sctp:
      add("SCTP", start, [(2, "source port"), (2, "destination port"), (4, "verification tag"), (4, "checksum")])
      guard rest.count >= 12 else { return say("\(addresses.0) > \(addresses.1): SCTP, truncated") }
      say(ports(rest[u16: 0], rest[u16: 2], "SCTP"))
    case .icmp, .icmpv6:
      let name = transport == .icmp ? "ICMP" : "ICMPv6"
      add(name, start, [(1, "type"), (1, "code"), (2, "checksum"), (4, "rest of header")])
      guard rest.count >= 8 else { return say("\(addresses.0) > \(addresses.1): \(name), truncated") }
      say(
        "\(addresses.0) > \(addresses.1): \(name) \(icmpName(transport, rest[0], rest[1]))\(notes), length \(rest.count)"
      )
    case .gre where depth < 3:
      guard let gre = GREHeader(rest) else { return say("\(addresses.0) > \(addresses.1): GRE, malformed") }
      add("GRE", start, [(2, "flags and version"), (2, "protocol"), (gre.headerLength - 4, "checksum, key, sequence")])
      enter("\(addresses.0) > \(addresses.1): GRE" + (gre.key.map { " key \($0)" } ?? ""))
      readPayload(octets, at: start + gre.headerLength, gre.protocolType)
    case .ipv4 where depth < 3, .ipv6 where depth < 3:
      enter("\(addresses.0) > \(addresses.1): IPIP")
      readNetwork(octets, at: start)
    default:
      say("\(addresses.0) > \(addresses.1): protocol \(transport.rawValue)\(notes), length \(rest.count)")
    }
  }

  private mutating func readPayload(_ octets: Octets, at start: Int, _ type: EtherType) {
    guard start <= octets.count else { return say("truncated") }
    switch type {
    case .ethernet: readEthernet(octets, at: start)
    case .ipv4, .ipv6: readNetwork(octets, at: start)
    default: say("ethertype 0x\(String(type.rawValue, radix: 16))")
    }
  }

  private mutating func enter(_ text: String) {
    say(text + " |")
    prefix += "inner "
    depth += 1
  }
}

/// An ICMP message in words, as far as it has a usual name.
func icmpName(_ transport: IPProtocol, _ type: UInt8, _ code: UInt8) -> String {
  if transport == .icmp {
    switch (type, code) {
    case (0, _): return "echo reply"
    case (8, _): return "echo request"
    case (3, 0): return "net unreachable"
    case (3, 1): return "host unreachable"
    case (3, 3): return "port unreachable"
    case (3, 4): return "fragmentation needed"
    case (3, _): return "destination unreachable, code \(code)"
    case (11, 0): return "time exceeded"
    default: return "type \(type), code \(code)"
    }
  }
  switch (type, code) {
  case (1, 0): return "no route"
  case (1, 3): return "address unreachable"
  case (1, 4): return "port unreachable"
  case (2, _): return "packet too big"
  case (3, 0): return "time exceeded"
  case (128, _): return "echo request"
  case (129, _): return "echo reply"
  case (135, _): return "neighbor solicitation"
  case (136, _): return "neighbor advertisement"
  default: return "type \(type), code \(code)"
  }
}
