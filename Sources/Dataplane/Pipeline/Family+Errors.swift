import Addresses

/// ICMP errors about translated packets (RFC 5508, section 4; TUN-7): address and quoted packet are put back to what the
/// sender knows.
extension Family {
  /// Sends on an error about a packet of a translated flow. False where it is about none.
  mutating func relayError(
    _ index: Int, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    let frame = batch[index]
    let octets = frame.octets
    let message = octets.dropping(min(Int(core.contexts[index].transport), octets.count))
    guard !core.contexts[index].flags.contains(.fragment), message.count >= ICMPv4Header.length,
      let quoted = QuotedPacket(message.dropping(ICMPv4Header.length), isIPv6: Key.isIPv6)
    else { return false }
    // The quoted packet went out where the error comes in: its answers would have come in there too.
    let zone = core.ingressRecord.zone
    let sent = Key(addressesOf: quoted.octets, quoted.tail)
    let reply = sent.reversed(zone: zone)
    let position = flows.table.find(reply, reply.hash)
    guard position >= 0, flows.table.slots[position].rewrites else { return false }
    let connection = flows.connections.places[Int(flows.table.slots[position].connection)]
    let isReply = flows.table.slots[position].isReply
    // What the packet looked like before it was translated.
    let original = isReply ? connection.forward : connection.reply
    var hop = flows.table.slots[position].hop
    if flows.table.slots[position].epoch != tables.epoch || hop == 0 {
      let route = tables.routes.lookup(original.sourceAddress)
      hop = route == 0 ? 0 : tables.routes.hop(of: route, hash: 0)
      guard hop != 0 else { return false }
      hop = HopTable.index(hop, isIPv6: Key.isIPv6)
    }
    let error = Key(addressesOf: octets, FlowKeyTail())
    let translated = Key.error(
      error, from: error.sourceAddress == sent.destinationAddress ? original.destinationAddress : nil,
      to: original.sourceAddress)
    original.writeAddresses(to: quoted.octets)
    quoted.writePorts(original.tail)
    translated.writeAddresses(to: octets)
    if Key.isIPv6 {
      if let header = IPv6Header(octets) {
        ICMPv6Header(message)?.updateChecksum(header.pseudoHeader(.icmpv6, length: message.count))
      }
    } else {
      ICMPv4Header(message)?.updateChecksum()
    }
    core.emit(index, hop, &batch, tables)
    return true
  }
}

extension FlowKey {
  /// An error message's addresses with another destination, and another source where the reporter was translated too.
  static func error(_ key: Self, from source: IPAddress?, to destination: IPAddress) -> Self {
    key.translated(destination: destination, port: 0, source: source.map { ($0, 0) })
  }
}

/// The packet that an ICMP error is about, as far as it is quoted.
struct QuotedPacket: ~Escapable {
  let octets: Octets
  let transport: Int
  let tail: FlowKeyTail

  /// Nil where too little is quoted to tell the flow.
  @_lifetime(copy octets)
  init?(_ octets: Octets, isIPv6: Bool) {
    let transport: Int
    let carried: UInt8
    if isIPv6 {
      guard let header = IPv6Header(octets) else { return nil }
      let upper = header.upperLayer
      guard upper.outcome == .found, !upper.isLaterFragment else { return nil }
      transport = upper.offset
      carried = upper.protocol.rawValue
    } else {
      guard let header = IPv4Header(octets), !header.isLaterFragment else { return nil }
      transport = header.headerLength
      carried = octets[9]
    }
    guard transport + 8 <= octets.count else { return nil }
    var tail = FlowKeyTail(ports: 0, transport: carried, flags: FlowKeyTail.used, zone: 0)
    switch carried {
    case IPProtocol.tcp.rawValue, IPProtocol.udp.rawValue, IPProtocol.sctp.rawValue:
      tail.ports = octets[u32Native: transport]
    case IPProtocol.icmp.rawValue, IPProtocol.icmpv6.rawValue:
      let identifier = UInt32(octets[u16Native: transport + 4])
      tail.ports = identifier << 16 | identifier
      if octets[transport] == 0 || octets[transport] == 129 { tail.flags |= FlowKeyTail.icmpReply }
    default: return nil
    }
    self.octets = octets
    self.transport = transport
    self.tail = tail
  }

  /// Writes the ports (or the identifier) that the packet had before. Its own transport checksum is left as it was
  /// received: too little of the packet is quoted for anybody to check it.
  func writePorts(_ tail: FlowKeyTail) {
    if tail.isQuery {
      octets[u16Native: transport + 4] = UInt16(truncatingIfNeeded: tail.ports)
    } else {
      octets[u32Native: transport] = tail.ports
    }
  }
}
