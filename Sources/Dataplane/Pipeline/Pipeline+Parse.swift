import Addresses

extension Pipeline {
  /// Reads the link-layer header of a received frame, pulls it off, and reads on.
  @inline(__always)
  mutating func parse(_ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    batch[index].port = core.ingress
    core.contexts[index] = PacketContext()
    let frame = batch[index]
    let octets = frame.octets
    if core.isTracing { core.trace.append(.received(port: core.ingress, length: octets.count)) }
    guard octets.count >= EthernetHeader.length else { return core.drop(index, .truncatedFrame, batch) }
    let destination = octets[u48: 0]
    if destination != core.ingressRecord.mac {
      if destination >> 40 & 1 == 1 {
        core.contexts[index].flags.insert(.linkGroup)
      } else if core.ingressRecord.role != PortRole.wire.rawValue {
        return core.drop(index, .notOurMAC, batch)
      }
    }
    if core.ingressRecord.peerMAC != 0, octets[u48: 6] != core.ingressRecord.peerMAC {
      return core.drop(index, .sourceMAC, batch)
    }
    let type = octets[u16: 12]
    if type == EtherType.ipv4.rawValue {
      batch[index].pull(EthernetHeader.length)
      network4(index, &batch, tables)
    } else if type == EtherType.ipv6.rawValue {
      batch[index].pull(EthernetHeader.length)
      network6(index, &batch, tables)
    } else {
      parseOther(index, &batch, tables)
    }
  }

  /// Frames that are not plain IP: tags, ARP, the unknown.
  @inline(never)
  private mutating func parseOther(_ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let frame = batch[index]
    guard let header = EthernetHeader(frame.octets) else { return core.drop(index, .badEthernet, batch) }
    if core.ingressRecord.role != PortRole.wire.rawValue {
      // A priority tag (identifier 0) belongs to every port.
      for tag in 0..<header.tagCount where header.tag(tag).identifier != 0 {
        return core.drop(index, .unknownVLAN, batch)
      }
    }
    let type = header.etherType
    let length = header.headerLength
    switch type {
    case .ipv4, .ipv6:
      batch[index].pull(length)
      network(index, isIPv6: type == .ipv6, &batch, tables)
    case .arp: core.answerARP(index, headerLength: length, &batch, tables)
    default: core.drop(index, type.isLength || !type.isTag ? .unknownEtherType : .badEthernet, batch)
    }
  }

  mutating func network(_ index: Int, isIPv6: Bool, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    if isIPv6 { network6(index, &batch, tables) } else { network4(index, &batch, tables) }
  }

  /// An IPv4 packet whose header is the frame's start.
  mutating func network4(_ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let frame = batch[index]
    let octets = frame.octets
    guard octets.count >= IPv4Header.length else { return core.drop(index, .badIPv4Header, batch) }
    let headerLength = Int(octets[0] & 0xf) * 4
    let total = Int(octets[u16: 2])
    guard octets[0] >> 4 == 4, headerLength >= IPv4Header.length, total >= headerLength, headerLength <= octets.count
    else { return core.drop(index, .badIPv4Header, batch) }
    if total != octets.count {
      if total < octets.count {
        // Ethernet's padding is not part of the packet.
        batch[index].setLength(total)
      } else if !frame.flags.contains(.truncated) || total > Int(frame.wireLength) {
        return core.drop(index, .badIPv4Header, batch)
      }
    }
    var sum = InternetChecksum()
    sum.addHeader(octets, headerLength)
    guard sum.folded == 0xffff else { return core.drop(index, .badIPv4Checksum, batch) }

    let fragmentField = octets[u16: 6]
    let transportProtocol = octets[9]
    var context = core.contexts[index]
    context.length = UInt32(truncatingIfNeeded: total)
    context.transport = UInt16(truncatingIfNeeded: headerLength)
    context.trafficClass = octets[1]
    context.timeToLive = octets[8]
    context.transportProtocol = transportProtocol
    context.flags.remove(.ipv6)
    if fragmentField & 0x4000 != 0 { context.flags.insert(.dontFragment) }
    if headerLength > IPv4Header.length {
      context.flags.insert(.hasOptions)
      if core.hasSourceRoute(index, batch) { return core.drop(index, .sourceRoute, batch) }
    }
    core.contexts[index] = context
    // RFC 1812, section 5.3.4: a packet sent to a link-layer group must not be forwarded to a unicast address.
    if context.flags.contains(.linkGroup) { return core.drop(index, .multicast, batch) }
    guard core.isPartialChecksumPlausible(frame, context) else { return core.drop(index, .badTransport, batch) }
    let addresses = octets[u64Native: 12]

    if core.ingressRecord.role == PortRole.underlay.rawValue, core.contexts[index].tunnel == 0,
      tables.localAddresses.find(octets[ipv4: 16]) != nil,
      localUnderlay(index, isIPv6: false, isFragment: fragmentField & 0x3fff != 0, &batch, tables)
    {
      return
    }

    var tail = FlowKeyTail(
      ports: 0, transport: transportProtocol, flags: FlowKeyTail.used, zone: core.ingressRecord.zone.rawValue)
    if fragmentField & 0x3fff != 0 {
      core.contexts[index].flags.insert(.fragment)
      let identity = FragmentTracker.identity(
        addresses, 0,
        UInt64(octets[u16: 4]) << 32 | UInt64(transportProtocol) << 16 | UInt64(core.ingressRecord.zone.rawValue))
      let offset = Int(fragmentField & 0x1fff) * 8
      guard
        core.followFragment(
          index, identity, offset: offset, length: total - headerLength, more: fragmentField & 0x2000 != 0, &tail,
          &batch, tables)
      else { return }
    } else {
      guard core.readTransport(index, &tail, batch) else { return }
    }
    let key = FlowKey4(addresses: addresses, tail: tail)
    let hash = key.hash
    core.contexts[index].hash = hash
    if core.contexts[index].flags.contains(.icmpError) {
      return v4.passError(index, &core, &batch, tables)
    }
    v4.enlist(index, key, hash)
  }

  /// An IPv6 packet whose header is the frame's start.
  mutating func network6(_ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let frame = batch[index]
    guard let header = IPv6Header(frame.octets) else { return core.drop(index, .badIPv6Header, batch) }
    let octets = header.octets
    let total = IPv6Header.length + header.payloadLength
    if total != octets.count {
      if total < octets.count {
        batch[index].setLength(total)
      } else if !frame.flags.contains(.truncated) || total > Int(frame.wireLength) {
        return core.drop(index, .badIPv6Header, batch)
      }
    }
    let upper = header.upperLayer
    guard upper.outcome == .found else { return core.drop(index, .badExtensionHeader, batch) }
    core.contexts[index].length = UInt32(truncatingIfNeeded: total)
    core.contexts[index].transport = UInt16(truncatingIfNeeded: upper.offset)
    core.contexts[index].trafficClass = header.trafficClass
    core.contexts[index].timeToLive = header.hopLimit
    core.contexts[index].transportProtocol = upper.protocol.rawValue
    core.contexts[index].flags.insert([.ipv6, .dontFragment])
    guard core.isPartialChecksumPlausible(frame, core.contexts[index]) else {
      return core.drop(index, .badTransport, batch)
    }
    if upper.routingType == 0 { return core.drop(index, .sourceRoute, batch) }
    let destination = header.destination

    if upper.protocol == .icmpv6, !upper.isLaterFragment, upper.offset + 8 <= octets.count,
      ICMPv6Header.MessageType(rawValue: octets[upper.offset]).isNeighborDiscovery
    {
      return core.answerNDP(index, &batch, tables)
    }
    if core.contexts[index].flags.contains(.linkGroup) { return core.drop(index, .multicast, batch) }
    if core.ingressRecord.role == PortRole.underlay.rawValue, core.contexts[index].tunnel == 0,
      tables.localAddresses.find(destination) != nil,
      localUnderlay(index, isIPv6: true, isFragment: upper.isFragment, &batch, tables)
    {
      return
    }

    var tail = FlowKeyTail(
      ports: 0, transport: upper.protocol.rawValue, flags: FlowKeyTail.used, zone: core.ingressRecord.zone.rawValue)
    if upper.isFragment {
      core.contexts[index].flags.insert(.fragment)
      let identity = FragmentTracker.identity(
        octets[u64Native: 8] ^ octets[u64Native: 24].byteSwapped,
        octets[u64Native: 16] ^ octets[u64Native: 32].byteSwapped,
        UInt64(octets[u32: upper.fragmentHeaderOffset + 4]) << 32 | UInt64(core.ingressRecord.zone.rawValue))
      // A later fragment names the protocol of its first header only; the first fragment's flow has the right one.
      guard
        core.followFragment(
          index, identity, offset: upper.fragmentOffset, length: total - upper.fragmentHeaderOffset - 8,
          more: upper.moreFragments, &tail, &batch, tables)
      else { return }
    } else {
      guard core.readTransport(index, &tail, batch) else { return }
    }
    let key = FlowKey6(
      source0: octets[u64Native: 8], source1: octets[u64Native: 16], destination0: octets[u64Native: 24],
      destination1: octets[u64Native: 32], tail: tail)
    let hash = key.hash
    core.contexts[index].hash = hash
    if core.contexts[index].flags.contains(.icmpError) {
      return v6.passError(index, &core, &batch, tables)
    }
    v6.enlist(index, key, hash)
  }
}
