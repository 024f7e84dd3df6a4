import Addresses

/// ICMP errors about packets of flows (RFC 5508, section 4; TUN-7): where the packet was translated, the error's addresses
/// and the packet that it quotes are put back to what the packet's sender knows.
extension Family {
  /// Sends on an ICMP error.
  mutating func passError(
    _ index: Int, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    let frame = batch[index]
    let octets = frame.octets
    let error = Key(addressesOf: octets, FlowKeyTail())
    let message = octets.dropping(min(Int(core.contexts[index].transport), octets.count))
    // The quoted packet went out where the error comes in: its answers would have come in there too. Who sent it is told,
    // and nobody else: else a flow of one's own would open the way to everybody (NP-6).
    let answers =
      core.contexts[index].flags.contains(.fragment) || message.count < ICMPv4Header.length
      ? -1
      : answering(
        message.dropping(ICMPv4Header.length), zone: core.ingressRecord.zone, sender: error.destinationAddress)
    guard answers >= 0, flows.table.slots[answers].rewrites else {
      return core.forwardWithoutFlow(
        index, source: error.sourceAddress, destination: error.destinationAddress, isExpected: answers >= 0, &batch,
        tables)
    }
    if let problem = core.sourceProblem(error.sourceAddress, tables) {
      return core.drop(index, problem, batch)
    }
    let slot = flows.table.slots[answers]
    let original = original(answers)
    var hop = slot.hop
    if slot.epoch != tables.epoch || hop == 0 {
      guard
        let route = core.route(
          index, source: error.sourceAddress, destination: original.sourceAddress, isTranslated: true, &batch, tables)
      else { return }
      hop = route.hop
    }
    // A host that reports was known by another address, too.
    let isByDestination = error.sourceAddress == slot.key.sourceAddress
    let translated = error.translated(
      destination: original.sourceAddress, port: 0, source: isByDestination ? (original.destinationAddress, 0) : nil)
    // What the checksum says about octets that did not change is left for the receiver to judge.
    var before = InternetChecksum()
    before.add(message)
    restore(message.dropping(ICMPv4Header.length), answers, isPartial: false)
    var after = InternetChecksum()
    after.add(message)
    var change = ChecksumDelta(replacing: before.folded, with: after.folded)
    if Key.isIPv6 { change += Key.Rewrite(error, to: translated).addresses }
    message.applyChecksum(change, at: 2)
    Key.Rewrite(error, to: translated).applyToQuoted(octets, transport: octets.count, 0, isPartial: false)
    core.emit(index, hop, &batch, tables)
  }

  /// Puts a packet that was to leave by a port of `zone` back to what its sender sent, if it was translated.
  func restore(_ frame: Frame, zone: Zone) {
    let answers = answering(frame.octets, zone: zone)
    guard answers >= 0, flows.table.slots[answers].rewrites else { return }
    restore(frame.octets, answers, isPartial: frame.flags.contains(.checksumPartial))
  }

  /// The position of the direction that answers a packet which left by a port of `zone`; negative where no flow is known,
  /// or where the packet is not from `sender`.
  private func answering(_ octets: Octets, zone: Zone, sender: IPAddress? = nil) -> Int {
    guard let quoted = QuotedPacket(octets, isIPv6: Key.isIPv6) else { return -1 }
    let key = Key(addressesOf: octets, quoted.tail)
    if let sender, key.sourceAddress != sender { return -1 }
    let reply = key.reversed(zone: zone)
    return flows.table.find(reply, reply.hash)
  }

  /// What packets that the direction at a position answers were before they were translated.
  private func original(_ answers: Int) -> Key {
    let slot = flows.table.slots[answers]
    let connection = flows.connections.places[Int(slot.connection)]
    return slot.isReply ? connection.forward : connection.reply
  }

  private func restore(_ octets: Octets, _ answers: Int, isPartial: Bool) {
    guard let quoted = QuotedPacket(octets, isIPv6: Key.isIPv6) else { return }
    let key = flows.table.slots[answers].key
    let sent = key.reversed(zone: Zone(rawValue: key.tail.zone))
    Key.Rewrite(sent, to: original(answers))
      .applyToQuoted(octets, transport: quoted.transport, quoted.tail.transport, isPartial: isPartial)
  }
}

/// The packet that an ICMP error is about, as far as it is quoted.
struct QuotedPacket {
  let transport: Int
  let tail: FlowKeyTail

  /// Nil where too little is quoted to tell the flow.
  init?(_ octets: Octets, isIPv6: Bool) {
    if isIPv6 {
      guard let header = IPv6Header(octets) else { return nil }
      let upper = header.upperLayer
      guard upper.outcome == .found, !upper.isLaterFragment else { return nil }
      transport = upper.offset
      tail = FlowKeyTail(quoting: octets, transport, upper.protocol)
    } else {
      guard let header = IPv4Header(octets), !header.isLaterFragment else { return nil }
      transport = header.headerLength
      tail = FlowKeyTail(quoting: octets, transport, header.protocol)
    }
    guard transport + 8 <= octets.count else { return nil }
  }
}

extension FlowKeyTail {
  /// What tells the flow of a quoted packet, without its zone.
  fileprivate init(quoting octets: Octets, _ transport: Int, _ carried: IPProtocol) {
    self.init(ports: 0, transport: carried.rawValue, flags: FlowKeyTail.used, zone: 0)
    guard transport + 8 <= octets.count else { return }
    switch carried {
    case .tcp, .udp, .sctp: ports = octets[u32Native: transport]
    case .icmp, .icmpv6:
      let identifier = UInt32(octets[u16Native: transport + 4])
      ports = identifier << 16 | identifier
      let isReply = carried == .icmp ? octets[transport] == 0 || octets[transport] == 14 : octets[transport] == 129
      if isReply { flags |= FlowKeyTail.icmpReply }
    default: break
    }
  }
}
