import Addresses

/// The fast path's parser: whole TCP and UDP packets over IPv4 without options, bare or in a tunnel over IPv4, as most
/// packets are. It reads each header word once, and leaves what `parse` leaves. Whatever is not as expected, for better
/// or worse, is left untouched to the general way, which decides what it is.
extension Pipeline {
  mutating func parsePlain(_ part: Range<Int>, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let isUnderlay = core.ingressRecord.role == PortRole.underlay.rawValue
    var next = part.lowerBound
    while true {
      next =
        isUnderlay ? readUnderlay(next..<part.upperBound, &batch, tables) : read(next..<part.upperBound, &batch, tables)
      guard next < part.upperBound else { return }
      parse(next, &batch, tables)
      next += 1
    }
  }

  /// Reads frames as long as they are plain, and returns the place of the first that is not.
  @inline(never)
  private mutating func read(
    _ part: Range<Int>, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    for index in part {
      let frame = batch[index]
      let octets = frame.octets
      guard frame.isFinished, octets.count >= EthernetHeader.length + PlainIPv4.length + UDPHeader.length,
        core.link.admits(octets),
        enter(index, octets.dropping(EthernetHeader.length), EthernetHeader.length, &batch, tables)
      else { return index }
    }
    return part.upperBound
  }

  /// The same for frames from the underlay.
  @inline(never)
  private mutating func readUnderlay(
    _ part: Range<Int>, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    for index in part {
      let frame = batch[index]
      let octets = frame.octets
      guard frame.isFinished, octets.count >= EthernetHeader.length + PlainIPv4.length + UDPHeader.length,
        core.link.admits(octets), unwrap(index, octets, &batch, tables)
      else { return index }
    }
    return part.upperBound
  }

  /// A packet, whose IPv4 header is at the start of `octets` and `offset` octets from the frame's start, is sent on at once
  /// where the flow table is small, or gets its context and key. False where it is not plain.
  @inline(__always)
  private mutating func enter(
    _ index: Int, _ octets: Octets, _ offset: Int, tunnel: Encapsulation.RawValue = 0, peer: UInt16 = 0,
    _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    guard octets.count >= PlainIPv4.length + UDPHeader.length, let header = PlainIPv4(octets) else { return false }
    let total = header.totalLength
    var tcpFlags: UInt8 = 0
    switch header.transport {
    case IPProtocol.udp.rawValue: guard total >= PlainIPv4.length + UDPHeader.length else { return false }
    case IPProtocol.tcp.rawValue:
      guard total >= PlainIPv4.length + TCPHeader.length, octets.count >= PlainIPv4.length + TCPHeader.length else {
        return false
      }
      tcpFlags = octets[PlainIPv4.length + 13]
    default: return false
    }
    let key = FlowKey4(
      addresses: header.addresses,
      tail: FlowKeyTail(
        ports: octets[u32Native: PlainIPv4.length], transport: header.transport, flags: FlowKeyTail.used,
        zone: core.ingressRecord.zone.rawValue))
    let hash = key.hash
    batch[index].port = core.ingress
    // What follows the packet is Ethernet's padding.
    batch[index].narrow(from: offset, length: total)
    if v4.list.isEmpty, v4.flows.table.isSmall {
      // The flow is in a cache, and no packet waits that must go first: no need to come back.
      let position = v4.flows.table.find(key, hash)
      let packet = PlainPacket(
        hash: hash, trafficClass: header.trafficClass, timeToLive: header.timeToLive, transport: header.transport,
        tcpFlags: tcpFlags, dontFragment: header.dontFragment)
      if position >= 0, v4.sendPlain(index, packet, position, tables.epoch, &core, &batch, tables) { return true }
    }
    v4.flows.table.prefetch(hash)
    v4.keys[index] = key
    core.contexts[index] = PacketContext(
      hash: hash, length: UInt32(truncatingIfNeeded: total), transport: UInt16(PlainIPv4.length),
      trafficClass: header.trafficClass, timeToLive: header.timeToLive, transportProtocol: header.transport,
      tcpFlags: tcpFlags, flags: header.dontFragment ? [.plain, .dontFragment] : .plain, tunnel: tunnel, peer: peer)
    v4.list.append(index)
    return true
  }

  /// The same for a frame from the underlay, out of the tunnel that it came in.
  @inline(__always)
  private mutating func unwrap(
    _ index: Int, _ octets: Octets, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    let network = octets.dropping(EthernetHeader.length)
    guard network.count >= PlainIPv4.length + UDPHeader.length else { return false }
    var encapsulation = Encapsulation.none
    var skip = 0
    switch network[9] {
    case IPProtocol.tcp.rawValue: break
    case IPProtocol.udp.rawValue:
      let port = network[u16: 22]
      if port == tables.settings.vxlanPort {
        encapsulation = .vxlan
      } else if port == tables.settings.genevePort {
        encapsulation = .geneve
      } else {
        break
      }
      skip = PlainIPv4.length + UDPHeader.length + VXLANHeader.length + EthernetHeader.length
    case IPProtocol.ipv4.rawValue:
      encapsulation = .ipip
      skip = PlainIPv4.length
    case IPProtocol.gre.rawValue:
      encapsulation = .gre
      skip = PlainIPv4.length + 4
    default: return false
    }
    var peer: UInt16 = 0
    if encapsulation != .none {
      guard let found = plainPeer(network, encapsulation, skip, tables) else { return false }
      peer = found
    }
    guard
      enter(
        index, network.dropping(skip), EthernetHeader.length + skip, tunnel: encapsulation.rawValue, peer: peer, &batch,
        tables)
    else { return false }
    // What the device said about checksums was about the outer packet.
    if encapsulation != .none { batch[index].flags.remove(.checksumVerified) }
    return true
  }

  /// The peer that sent a plain tunnel packet; nil where it is not one, or not from a peer (NODE-4), or where its outer
  /// header means something to the inner packet. The outer IPv4 header is at the start of `octets`, the inner one `skip`
  /// octets further.
  @inline(__always)
  private mutating func plainPeer(
    _ octets: Octets, _ encapsulation: Encapsulation, _ skip: Int, _ tables: borrowing Tables
  ) -> UInt16? {
    guard octets.count >= skip + PlainIPv4.length, let outer = PlainIPv4(octets),
      outer.totalLength >= skip + PlainIPv4.length,
      // TUN-5, TUN-6: nothing to carry over.
      outer.trafficClass == octets[skip + 1] || outer.trafficClass & 3 == 0 && !tables.settings.uniformDSCP,
      !tables.settings.uniformTTL || octets[skip + 8] <= outer.timeToLive
    else { return nil }
    // The inner packet must end where the outer one does, or before.
    guard skip + Int(octets[u16: skip + 2]) <= outer.totalLength else { return nil }
    let destination = IPv4Address(
      rawValue: UInt32(truncatingIfNeeded: UInt64(littleEndian: outer.addresses) >> 32).byteSwapped)
    if destination != core.lastLocal {
      guard tables.localAddresses.find(destination) != nil else { return nil }
      core.lastLocal = destination
    }
    let source = IPv4Address(rawValue: UInt32(truncatingIfNeeded: UInt64(littleEndian: outer.addresses)).byteSwapped)
    guard let peer = tables.peerAddresses.find(source),
      tables.peerEncapsulations[Int(peer)] & 1 << UInt32(encapsulation.rawValue) != 0
    else { return nil }
    switch encapsulation {
    case .none: return nil
    case .ipip: break
    case .gre:
      // No options: no key is wanted then.
      guard octets[u32: 20] == UInt32(EtherType.ipv4.rawValue), tables.settings.greKey == nil else { return nil }
    case .vxlan, .geneve:
      guard octets.count >= 50 else { return nil }
      let udp = octets[u32: 24]
      // No checksum, and a length that covers the headers and does not exceed the packet.
      guard udp & 0xffff == 0, udp >> 16 >= 8, Int(udp >> 16) <= outer.totalLength - PlainIPv4.length else {
        return nil
      }
      let shim = octets[u64: 28]
      if encapsulation == .vxlan {
        // TUN-3: of the flags only I counts.
        guard shim & 0x0800_0000_0000_0000 != 0,
          UInt32(truncatingIfNeeded: shim) >> 8 == tables.settings.vxlanVNI
        else { return nil }
      } else {
        // Version 0, no options, no control packet, Ethernet inside.
        guard shim >> 32 & 0xffff_ffff == 0x6558, UInt32(truncatingIfNeeded: shim) >> 8 == tables.settings.geneveVNI
        else { return nil }
      }
      guard octets[u48: 36] == tables.settings.vtepMAC.rawValue, octets[u16: 48] == EtherType.ipv4.rawValue else {
        return nil
      }
    }
    return UInt16(truncatingIfNeeded: peer)
  }
}
