import Addresses

/// The fast path's parser: whole TCP and UDP packets without options, bare or in a tunnel over IPv4, as most packets are.
/// It reads each header word once, and touches nothing. Whatever is not as expected, for better or worse, is left to the
/// general way, which decides what it is.
extension Pipeline {
  mutating func parsePlain(_ part: Range<Int>, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let isUnderlay = core.ingressRecord.role == PortRole.underlay.rawValue
    var next = part.lowerBound
    while true {
      let rest = next..<part.upperBound
      next = isUnderlay ? readUnderlay(rest, &batch, tables) : read(rest, &batch, tables)
      guard next < part.upperBound else { return }
      if !isUnderlay, LinkGuard.isIPv6(batch[next].octets) {
        let after = read6(next..<part.upperBound, &batch)
        guard after == next else {
          next = after
          continue
        }
      }
      parse(next, &batch, tables)
      next += 1
    }
  }

  /// Reads frames as long as they are plain IPv4, and returns the place of the first that is not.
  @inline(never)
  private mutating func read(
    _ part: Range<Int>, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    for index in part {
      let frame = batch[index]
      let octets = frame.octets
      guard frame.isOrdinary, octets.count >= EthernetHeader.length + PlainIPv4.length + UDPHeader.length,
        core.link.admits(octets), enter(index, frame, EthernetHeader.length, 0, 0, &batch, tables)
      else { return index }
    }
    return part.upperBound
  }

  /// The same for frames from the underlay: first out of the tunnel that they came in.
  @inline(never)
  private mutating func readUnderlay(
    _ part: Range<Int>, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    let end = unwrap(part, batch, tables)
    for index in part.lowerBound..<end {
      let outer = v4.plain[index]
      guard enter(index, batch[index], Int(outer.offset), outer.tunnel, outer.peer, &batch, tables) else {
        return index
      }
    }
    return end
  }

  /// A packet, whose IPv4 header is `offset` octets from the frame's start, gets its key and is listed, or is sent on at
  /// once where the flow table is small. False where it is
  /// not plain.
  @inline(__always)
  private mutating func enter(
    _ index: Int, _ frame: Frame, _ offset: Int, _ tunnel: Encapsulation.RawValue, _ peer: UInt16,
    _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    guard Int(frame.start) &+ offset >= HopRecord.templateSize, Int(frame.length) >= offset &+ 28 else { return false }
    let octets = frame.octets.dropping(offset)
    guard let header = PlainIPv4(octets) else { return false }
    let transport = header.transport
    let isTCP = transport == IPProtocol.tcp.rawValue
    guard isTCP || transport == IPProtocol.udp.rawValue,
      header.totalLength >= PlainIPv4.length &+ (isTCP ? TCPHeader.length : UDPHeader.length),
      header.timeToLive > 1
    else { return false }
    let tcpFlags = isTCP ? octets[PlainIPv4.length + 13] : 0
    // What opens and closes connections changes more than counts.
    guard tcpFlags & 0x07 == 0 else { return false }
    let isPartial = frame.flags.contains(.checksumPartial)
    if isPartial {
      guard tunnel == 0, frame.hasPartialChecksum(at: offset &+ PlainIPv4.length, offset: isTCP ? 16 : 6) else {
        return false
      }
    }
    let key = FlowKey4(
      addresses: header.addresses,
      tail: FlowKeyTail(
        ports: octets[u32Native: PlainIPv4.length], transport: transport, flags: FlowKeyTail.used,
        zone: core.ingressRecord.zone.rawValue))
    let hash = key.hash
    v4.flows.table.prefetch(hash)
    v4.keys[index] = key
    v4.plain[index] = PlainPacket(
      hash: hash, word: header.middle, length: UInt32(truncatingIfNeeded: header.totalLength),
      offset: UInt16(truncatingIfNeeded: offset), peer: peer, trafficClass: header.trafficClass, tcpFlags: tcpFlags,
      tunnel: tunnel, isPartial: isPartial)
    batch[index].port = core.ingress
    // What the device said about checksums was about the outer packet.
    if tunnel != Encapsulation.none.rawValue { batch[index].flags.remove(.checksumVerified) }
    if v4.list.isEmpty, v4.flows.table.isSmall {
      // The flow is in a cache, and no packet waits that must go first: no need to come back.
      let position = v4.flows.table.find(key, hash)
      if position >= 0, v4.sendPlain(index, position, tables.epoch, &core, &batch, tables) { return true }
    }
    v4.list.append(index)
    return true
  }

  /// Reads frames as long as they are plain IPv6, and returns the place of the first that is not.
  @inline(never)
  private mutating func read6(_ part: Range<Int>, _ batch: inout FrameBatch) -> Int {
    for index in part {
      let frame = batch[index]
      let octets = frame.octets
      guard frame.isOrdinary, octets.count >= EthernetHeader.length + IPv6Header.length + UDPHeader.length,
        core.link.admits6(octets), Int(frame.start) >= HopRecord.templateSize
      else { return index }
      let packet = octets.dropping(EthernetHeader.length)
      let word = UInt64(littleEndian: packet[u64Native: 0])
      let length = IPv6Header.length &+ Int(packet[u16: 4])
      let transport = FlowRewrite6.transport(word)
      let isTCP = transport == IPProtocol.tcp.rawValue
      guard isTCP || transport == IPProtocol.udp.rawValue, length <= packet.count,
        length >= IPv6Header.length &+ (isTCP ? TCPHeader.length : UDPHeader.length),
        FlowRewrite6.timeToLive(word) > 1
      else { return index }
      let tcpFlags = isTCP ? packet[IPv6Header.length + 13] : 0
      guard tcpFlags & 0x07 == 0 else { return index }
      let isPartial = frame.flags.contains(.checksumPartial)
      if isPartial {
        guard frame.hasPartialChecksum(at: EthernetHeader.length + IPv6Header.length, offset: isTCP ? 16 : 6) else {
          return index
        }
      }
      let key = FlowKey6(
        addressesOf: packet,
        FlowKeyTail(
          ports: packet[u32Native: IPv6Header.length], transport: transport, flags: FlowKeyTail.used,
          zone: core.ingressRecord.zone.rawValue))
      let hash = key.hash
      v6.flows.table.prefetch(hash)
      v6.keys[index] = key
      v6.plain[index] = PlainPacket(
        hash: hash, word: word, length: UInt32(truncatingIfNeeded: length), offset: UInt16(EthernetHeader.length),
        peer: 0, trafficClass: UInt8(truncatingIfNeeded: packet[u16: 0] >> 4), tcpFlags: tcpFlags, tunnel: 0,
        isPartial: isPartial)
      batch[index].port = core.ingress
      v6.list.append(index)
    }
    return part.upperBound
  }

  /// Finds out of frames from the underlay which tunnel they came in, where the inner packet is and which peer sent it, and
  /// returns the place of the first that is not plain.
  @inline(never)
  private mutating func unwrap(_ part: Range<Int>, _ batch: borrowing FrameBatch, _ tables: borrowing Tables) -> Int {
    for index in part {
      let frame = batch[index]
      let octets = frame.octets
      guard frame.isFinished, octets.count >= EthernetHeader.length + PlainIPv4.length + UDPHeader.length,
        core.link.admits(octets)
      else { return index }
      let network = octets.dropping(EthernetHeader.length)
      var encapsulation = Encapsulation.none
      var skip = 0
      var peer: UInt16 = 0
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
      default: return index
      }
      if encapsulation != .none {
        guard let found = plainPeer(network, encapsulation, skip, tables) else { return index }
        peer = found
      }
      v4.plain[index].offset = UInt16(truncatingIfNeeded: EthernetHeader.length &+ skip)
      v4.plain[index].tunnel = encapsulation.rawValue
      v4.plain[index].peer = peer
    }
    return part.upperBound
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
