import Addresses

extension Pipeline {
  /// A packet from the underlay for one of the node's own addresses. True when it was a tunnel packet or a report about
  /// one; else it belongs to a flow, to a NodePort, or to the host.
  mutating func localUnderlay(
    _ index: Int, isIPv6: Bool, isFragment: Bool, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    let context = core.contexts[index]
    switch context.transportProtocol {
    case IPProtocol.ipv4.rawValue, IPProtocol.ipv6.rawValue, IPProtocol.gre.rawValue: break
    case IPProtocol.udp.rawValue:
      let frame = batch[index]
      let octets = frame.octets
      if isFragment {
        // Only what a peer sent can be a tunnel packet; all else goes on as it is.
        let peer = isIPv6 ? tables.peerAddresses.find(octets[ipv6: 8]) : tables.peerAddresses.find(octets[ipv4: 12])
        guard peer != nil else { return false }
        break
      }
      guard Int(context.transport) + UDPHeader.length <= octets.count else { return false }
      let port = octets[u16: Int(context.transport) + 2]
      guard port == tables.settings.vxlanPort || port == tables.settings.genevePort else { return false }
    case IPProtocol.icmp.rawValue where !isIPv6 && !isFragment:
      return passOn(core.learnFromError4(index, &batch, tables), index, &batch, tables)
    case IPProtocol.icmpv6.rawValue where isIPv6 && !isFragment:
      return passOn(core.learnFromError6(index, &batch, tables), index, &batch, tables)
    default: return false
    }
    if isFragment {
      // Whose packet it is shows when it is whole.
      if core.reassemble(index, isIPv6: isIPv6, &batch, tables) {
        network(index, isIPv6: isIPv6, &batch, tables)
      }
    } else {
      decapsulate(index, isIPv6: isIPv6, &batch, tables)
    }
    return true
  }

  /// Tells the sender of an inner packet what happened to it, in terms of what it sent: a packet in a tunnel may have been
  /// translated. False where there was nothing to tell of.
  private mutating func passOn(
    _ report: Core.TunnelReport, _ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    switch report {
    case .none: return false
    case .done: return true
    case .tell(let message):
      restore(index, zone: .underlay, batch)
      core.sendError(message, about: index, &batch, tables)
      return true
    }
  }

  /// Puts a packet that was to leave by a port of `zone` back to what its sender sent.
  mutating func restore(_ index: Int, zone: Zone, _ batch: borrowing FrameBatch) {
    if core.contexts[index].isIPv6 {
      v6.restore(batch[index], zone: zone)
    } else {
      v4.restore(batch[index], zone: zone)
    }
  }

  /// Takes the outer headers off a tunnel packet and reads the inner one.
  private mutating func decapsulate(
    _ index: Int, isIPv6: Bool, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    let frame = batch[index]
    let octets = frame.octets
    let context = core.contexts[index]
    let transport = Int(context.transport)
    let outer = context.trafficClass
    let timeToLive = context.timeToLive
    let peer = isIPv6 ? tables.peerAddresses.find(octets[ipv6: 8]) : tables.peerAddresses.find(octets[ipv4: 12])
    guard let peer else { return core.drop(index, .unknownPeer, batch) }
    guard transport <= octets.count else { return core.drop(index, .badTunnelHeader, batch) }
    let payload = octets.dropping(transport)

    let encapsulation: Encapsulation
    /// The octets between the outer transport header and the inner packet.
    var skip = 0
    var inner: EtherType
    switch context.transportProtocol {
    case IPProtocol.ipv4.rawValue:
      encapsulation = .ipip
      inner = .ipv4
    case IPProtocol.ipv6.rawValue:
      encapsulation = .ipip
      inner = .ipv6
    case IPProtocol.gre.rawValue:
      encapsulation = .gre
      guard let gre = GREHeader(payload) else { return core.drop(index, .badTunnelHeader, batch) }
      guard !frame.flags.isDisjoint(with: [.checksumPartial, .truncated]) || gre.isChecksumValid else {
        return core.drop(index, .badTunnelChecksum, batch)
      }
      guard gre.key == tables.settings.greKey else { return core.drop(index, .unknownVNI, batch) }
      skip = gre.headerLength
      inner = gre.protocolType
    default:
      let isCut = frame.flags.contains(.truncated)
      guard let udp = UDPHeader(payload), udp.hasValidLength || isCut && udp.datagramLength >= UDPHeader.length else {
        return core.drop(index, .badTunnelHeader, batch)
      }
      guard
        udp.checksum == 0 || isCut || frame.segmentation != .none
          || !frame.flags.isDisjoint(with: [.checksumPartial, .checksumVerified])
          || isUDPChecksumValid(octets, transport: transport, isIPv6: isIPv6)
      else { return core.drop(index, .badTunnelChecksum, batch) }
      let shim = payload.dropping(UDPHeader.length)
      if udp.destinationPort == tables.settings.vxlanPort {
        encapsulation = .vxlan
        guard let vxlan = VXLANHeader(shim), vxlan.isIdentifierValid else {
          return core.drop(index, .badTunnelHeader, batch)
        }
        guard vxlan.identifier == tables.settings.vxlanVNI else { return core.drop(index, .unknownVNI, batch) }
        skip = UDPHeader.length + VXLANHeader.length
        inner = .ethernet
      } else {
        encapsulation = .geneve
        guard let geneve = GeneveHeader(shim) else { return core.drop(index, .badTunnelHeader, batch) }
        guard geneve.identifier == tables.settings.geneveVNI else { return core.drop(index, .unknownVNI, batch) }
        // No option is known here, so a critical one forbids to go on (RFC 8926, section 3.5; TUN-4).
        guard !geneve.hasCriticalOptions else { return core.drop(index, .unknownOption, batch) }
        guard !geneve.isControl else { return core.drop(index, .innerProtocol, batch) }
        skip = UDPHeader.length + geneve.headerLength
        inner = geneve.protocolType
      }
    }
    guard tables.peerEncapsulations[Int(peer)] & 1 << UInt32(encapsulation.rawValue) != 0 else {
      return core.drop(index, .tunnelNotEnabled, batch)
    }
    skip += transport
    var isGroup = false
    if inner == .ethernet {
      guard skip <= octets.count, let ethernet = EthernetHeader(octets.dropping(skip)) else {
        return core.drop(index, .badTunnelHeader, batch)
      }
      inner = ethernet.etherType
      let destination = ethernet.destination
      let length = ethernet.headerLength
      core.contexts[index].tunnel = encapsulation.rawValue
      core.contexts[index].peer = UInt16(truncatingIfNeeded: peer)
      if inner == .arp {
        batch[index].pull(skip)
        return core.answerARPInTunnel(index, headerLength: length, &batch, tables)
      }
      if destination.isGroup {
        // Broadcast and multicast of the overlay: routed networks have no use for it.
        if inner != .ipv6 { return core.drop(index, .multicast, batch) }
        isGroup = true
      } else if destination != tables.settings.vtepMAC {
        return core.drop(index, .notOurMAC, batch)
      }
      skip += length
    }
    guard inner == .ipv4 || inner == .ipv6 else { return core.drop(index, .innerProtocol, batch) }
    if core.isTracing { core.trace.append(.decapsulated(encapsulation, peer: tables.peers[Int(peer)]?.name ?? "?")) }

    core.contexts[index] = PacketContext()
    core.contexts[index].tunnel = encapsulation.rawValue
    core.contexts[index].peer = UInt16(truncatingIfNeeded: peer)
    if isGroup { core.contexts[index].flags.insert(.linkGroup) }
    batch[index].pull(skip)
    // What the device said about checksums was about the outer packet, unless the partial one starts further in.
    batch[index].flags.remove(.checksumVerified)
    if batch[index].checksumStart < batch[index].start { batch[index].flags.remove(.checksumPartial) }
    guard combineHeaders(index, outer: outer, timeToLive: timeToLive, isIPv6: inner == .ipv6, batch, tables) else {
      return
    }
    network(index, isIPv6: inner == .ipv6, &batch, tables)
  }

  /// Carries what the underlay wrote into the outer header over to the inner one: the congestion mark (RFC 6040, section
  /// 4.2; TUN-5), and DSCP and time to live where tunnels are uniform (TUN-6). False when the packet was dropped. The
  /// inner header is the frame's start, and still unchecked.
  private mutating func combineHeaders(
    _ index: Int, outer: UInt8, timeToLive: UInt8, isIPv6: Bool, _ batch: borrowing FrameBatch,
    _ tables: borrowing Tables
  ) -> Bool {
    guard outer != 0 || tables.settings.uniformDSCP || tables.settings.uniformTTL else { return true }
    let frame = batch[index]
    let octets = frame.octets
    let inner: UInt8
    if isIPv6 {
      guard let header = IPv6Header(octets) else { return true }
      inner = header.trafficClass
      if tables.settings.uniformTTL, header.hopLimit > timeToLive { header.hopLimit = timeToLive }
    } else {
      guard let header = IPv4Header(octets) else { return true }
      inner = header.typeOfService
      if tables.settings.uniformTTL, header.timeToLive > timeToLive { header.rewriteTimeToLive(timeToLive) }
    }
    let mark: ECN
    switch (ECN(trafficClass: inner), ECN(trafficClass: outer)) {
    case (.notECT, .ce):
      core.drop(index, .ecnCongestion, batch)
      return false
    case (.ect0, .ect1): mark = .ect1
    case (.ect0, .ce), (.ect1, .ce): mark = .ce
    case (let own, _): mark = own
    }
    let value = (tables.settings.uniformDSCP ? outer : inner) & 0xfc | mark.rawValue
    guard value != inner else { return true }
    if isIPv6 {
      IPv6Header(octets)?.trafficClass = value
    } else {
      IPv4Header(octets)?.rewriteTypeOfService(value)
    }
    return true
  }

  private func isUDPChecksumValid(_ octets: Octets, transport: Int, isIPv6: Bool) -> Bool {
    let datagram = octets.dropping(transport)
    let length = Int(datagram[u16: 4])
    var sum = InternetChecksum()
    if isIPv6 {
      sum.addHeader(octets.dropping(8), 32)
    } else {
      sum.addHeader(octets.dropping(12), 8)
    }
    sum.add(UInt16(IPProtocol.udp.rawValue))
    sum.add(UInt16(truncatingIfNeeded: length))
    sum.add(datagram.prefix(length))
    return sum.folded == 0xffff
  }
}
