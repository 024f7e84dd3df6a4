import Addresses

/// Proxy ARP (NODE-2, RFC 1027).
extension Core {
  /// Answers an ARP request for an address that is reached elsewhere than on the asking interface. The frame's start is
  /// its Ethernet header.
  @inline(never)
  mutating func answerARP(
    _ index: Int, headerLength: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    let octets = batch[index].octets
    guard let arp = ARPPacket(octets.dropping(headerLength)) else { return drop(index, .badARP, batch) }
    let sender = arp.senderProtocolAddress
    let target = arp.targetProtocolAddress
    guard arp.operation == .request, !arp.isProbe, !arp.isAnnouncement else { return drop(index, .arpIgnored, batch) }
    // A probe's sender, which is 0, does not come here.
    let pair = UInt64(sender.rawValue) << 32 | UInt64(target.rawValue)
    let isKnown = pair == answeredPair
    if !isKnown, ingressRecord.role == PortRole.pod.rawValue {
      guard tables.podAddresses.find(sender) == UInt32(ingress.rawValue) else {
        return drop(index, .sourceAddress, batch)
      }
    }
    let asker = arp.senderHardwareAddress
    guard !asker.isGroup, asker == octets[mac: 6], isKnown || answersFor(target, tables) else {
      return drop(index, .arpIgnored, batch)
    }
    answeredPair = pair
    let own = MACAddress(rawValue: ingressRecord.mac)
    octets[mac: 0] = asker
    octets[mac: 6] = own
    ARPPacket.write(
      to: octets.dropping(headerLength), operation: .reply, senderHardwareAddress: own, senderProtocolAddress: target,
      targetHardwareAddress: asker, targetProtocolAddress: sender)
    batch[index].setLength(headerLength + ARPPacket.length)
    batch[index].becomeOwn()
    record(.answered("ARP: \(target) is at \(own)"))
    output.appendFinished(index, to: ingress, contexts)
  }

  /// Whether the data plane answers on the ingress port for an address. The gateway's is asked for most.
  @inline(__always)
  private mutating func answersFor(_ address: IPv4Address, _ tables: borrowing Tables) -> Bool {
    ingressRecord.role == PortRole.pod.rawValue && tables.gatewayAddresses.find(address) != nil
      || answersFor(.v4(address), tables)
  }

  /// Whether the data plane answers on the ingress port for an address.
  @inline(never)
  mutating func answersFor(_ address: IPAddress, _ tables: borrowing Tables) -> Bool {
    switch PortRole(rawValue: ingressRecord.role) {
    case .pod, .host:
      if tables.gatewayAddresses.find(address) != nil { return true }
      let route = tables.routes.lookup(address)
      guard route != 0 else { return false }
      let record = tables.routes.records[Int(route)]
      guard record.action == RouteAction.forward.rawValue || record.action == RouteAction.local.rawValue else {
        return false
      }
      return record.firstHop == 0 || tables.hops.records[Int(record.firstHop)].port != ingress
    // On the underlay the kernel answers for the node; pods it does not know.
    case .underlay: return tables.podAddresses.find(address) != nil
    case .wire, nil: return false
    }
  }

  /// Answers an ARP request that came through VXLAN or Geneve for a pod of this node: a peer that bridges asks so. The
  /// frame's start is the inner Ethernet header.
  mutating func answerARPInTunnel(
    _ index: Int, headerLength: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    guard let arp = ARPPacket(batch[index].octets.dropping(headerLength)) else { return drop(index, .badARP, batch) }
    let sender = arp.senderProtocolAddress
    let target = arp.targetProtocolAddress
    let asker = arp.senderHardwareAddress
    guard arp.operation == .request, !arp.isProbe, !arp.isAnnouncement, !asker.isGroup,
      tables.podAddresses.find(target) != nil
    else { return drop(index, .arpIgnored, batch) }
    // The way back: a hop to the peer that asked, in the same encapsulation.
    let route = tables.routes.lookup(sender)
    let hop = tables.routes.hop(of: route, hash: 0)
    guard route != 0, hop != 0, tables.hops.records[Int(hop)].encapsulation == contexts[index].tunnel,
      tables.hops.records[Int(hop)].neighbour == NeighbourState.resolved.rawValue
    else { return drop(index, .arpIgnored, batch) }
    let own = tables.settings.vtepMAC
    var frame = batch[index]
    ARPPacket.write(
      to: frame.octets.dropping(headerLength), operation: .reply, senderHardwareAddress: own,
      senderProtocolAddress: target, targetHardwareAddress: asker, targetProtocolAddress: sender)
    frame.pull(headerLength)
    frame.setLength(ARPPacket.length)
    frame.becomeOwn()
    contexts[index].length = UInt32(ARPPacket.length)
    contexts[index].timeToLive = 64
    contexts[index].trafficClass = 0
    contexts[index].flags = [.originated]
    contexts[index].hop = hop
    contexts[index].hash = mix(asker.rawValue, 0)
    guard frame.headroom >= HopRecord.templateSize else { return drop(index, .noHeadroom, batch) }
    push(&frame, Int(hop), contexts[index], tables)
    let inner = frame.octets.dropping(Int(tables.hops.records[Int(hop)].length) - EthernetHeader.length)
    inner[mac: 0] = asker
    inner[u16: 12] = EtherType.arp.rawValue
    // The inner Ethernet header is not the one that the outer checksum was computed over.
    if tables.hops.records[Int(hop)].options.contains(.udpChecksum) {
      finishUDP(
        &frame, tables.hops.records[Int(hop)].outerIPv6 ? IPv6Header.length : IPv4Header.length)
    }
    batch[index] = frame
    record(.answered("ARP in the tunnel: \(target) is at \(own)"))
    output.append(index, to: tables.hops.records[Int(hop)].port, contexts)
  }
}
