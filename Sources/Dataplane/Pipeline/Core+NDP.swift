import Addresses

/// Proxy neighbour discovery (NODE-2, RFC 4389) and the gateways' own echo replies.
extension Core {
  /// Answers a neighbour solicitation as `answerARP` does a request. The frame's start is the IPv6 header.
  @inline(never)
  mutating func answerNDP(_ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    var frame = batch[index]
    let octets = frame.octets
    let transport = Int(contexts[index].transport)
    guard let header = IPv6Header(octets), let icmp = ICMPv6Header(octets.dropping(transport)) else {
      return drop(index, .badTransport, batch)
    }
    // RFC 4861, section 7.1.1: from the link itself, whole, and with a right checksum.
    guard header.hopLimit == 255, contexts[index].tunnel == 0,
      icmp.isChecksumValid(header.pseudoHeader(.icmpv6, length: octets.count - transport)),
      let message = NeighborMessage(icmp.octets), message.isSolicitation, !message.targetAddress.isMulticast
    else { return drop(index, .ndpIgnored, batch) }
    let source = header.source
    let target = message.targetAddress
    // Duplicate address detection has the unspecified source; it is left alone.
    guard source != .any, source != target else { return drop(index, .ndpIgnored, batch) }
    if ingressRecord.role == PortRole.pod.rawValue, !source.isLinkLocal {
      guard tables.podAddresses.find(source) == UInt32(ingress.rawValue) else {
        return drop(index, .sourceAddress, batch)
      }
    }
    var asker: MACAddress?
    var options = message.options
    while let option = options.next() {
      if let address = option.sourceLinkAddress { asker = address }
    }
    if asker == nil, ingressRecord.peerMAC != 0 { asker = MACAddress(rawValue: ingressRecord.peerMAC) }
    let extra = IPv6Header.length + NeighborMessage.lengthWithAddress - octets.count
    guard !options.isMalformed, let asker, !asker.isGroup, answersFor(.v6(target), tables), frame.tailroom >= extra
    else { return drop(index, .ndpIgnored, batch) }

    let own = MACAddress(rawValue: ingressRecord.mac)
    frame.setLength(IPv6Header.length + NeighborMessage.lengthWithAddress)
    frame.becomeOwn()
    frame.push(EthernetHeader.length)
    let answer = frame.octets
    EthernetHeader.write(to: answer, destination: asker, source: own, etherType: .ipv6)
    let network = answer.dropping(EthernetHeader.length)
    IPv6Header.write(
      to: network, payloadLength: NeighborMessage.lengthWithAddress, nextHeader: .icmpv6, hopLimit: 255,
      source: target, destination: source)
    let advertisement = network.dropping(IPv6Header.length)
    NeighborMessage.writeAdvertisement(
      to: advertisement, target: target, targetLinkAddress: own, flags: [.router, .solicited])
    if let header = IPv6Header(network) {
      ICMPv6Header(advertisement)?.updateChecksum(
        header.pseudoHeader(.icmpv6, length: NeighborMessage.lengthWithAddress))
    }
    batch[index] = frame
    record(.answered("NDP: \(target) is at \(own)"))
    output.append(index, to: ingress, contexts)
  }

  /// Answers an echo request to a gateway address (169.254.1.1 and its IPv6 sibling); nothing else lives there.
  mutating func answerGateway(_ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let context = contexts[index]
    let frame = batch[index]
    let octets = frame.octets
    let message = octets.dropping(Int(context.transport))
    guard !context.flags.contains(.fragment), message.count >= 8 else { return drop(index, .icmpIgnored, batch) }
    batch[index].becomeOwn()
    let destination: IPAddress
    if context.isIPv6 {
      guard context.transportProtocol == IPProtocol.icmpv6.rawValue, message[0] == 128, let header = IPv6Header(octets)
      else { return drop(index, .invalidDestination, batch) }
      let source = header.source
      header.source = header.destination
      header.destination = source
      header.hopLimit = 64
      destination = .v6(source)
      message[0] = 129
      ICMPv6Header(message)?.updateChecksum(header.pseudoHeader(.icmpv6, length: message.count))
    } else {
      guard context.transportProtocol == IPProtocol.icmp.rawValue, message[0] == 8, let header = IPv4Header(octets)
      else { return drop(index, .invalidDestination, batch) }
      let source = header.source
      header.source = header.destination
      header.destination = source
      header.timeToLive = 64
      header.updateChecksum()
      destination = .v4(source)
      message[0] = 0
      ICMPv4Header(message)?.updateChecksum()
    }
    record(.answered("echo reply"))
    originate(index, to: destination, isError: false, &batch, tables)
  }
}
