import Addresses

extension Core {
  /// Sends a packet, whose network-layer header is the frame's start, on by a hop, as it is.
  mutating func emit(_ index: Int, _ hop: HopIndex, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    if admit(index, hop, &batch, tables) { dispatch(index, hop, &batch, tables) }
  }

  /// Whether a packet can leave by a hop: the time to live is not at its end, and the link can carry it. Where it cannot,
  /// its sender is told, with the packet as it came in.
  @inline(__always)
  mutating func admit(
    _ index: Int, _ hop: HopIndex, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    let context = contexts[index]
    let number = Int(hop)
    guard context.timeToLive > 1 || context.flags.contains(.originated) else {
      timeExceeded(index, &batch, tables)
      return false
    }
    var mtu = tables.hops.records[number].mtu
    if hopStates[number].learnedMTU != 0 { mtu = learnedMTU(number, mtu, tables) }
    let size = batch[index].segmentation == .none ? context.length : segmentLength(batch[index], context)
    guard size <= mtu else {
      tooBig(index, hop, mtu: mtu, &batch, tables)
      return false
    }
    guard batch[index].headroom >= HopRecord.templateSize else {
      drop(index, .noHeadroom, batch)
      return false
    }
    return true
  }

  /// Whether `admit` would cut a packet into fragments.
  @inline(__always)
  func mustCut(_ index: Int, _ hop: HopIndex, _ batch: borrowing FrameBatch, _ tables: borrowing Tables) -> Bool {
    let context = contexts[index]
    guard !context.flags.contains(.dontFragment), context.timeToLive > 1 else { return false }
    let size = batch[index].segmentation == .none ? context.length : segmentLength(batch[index], context)
    let learned = hopStates[Int(hop)].learnedMTU
    return size > tables.hops.records[Int(hop)].mtu || learned != 0 && size > learned
  }

  /// Whether the neighbour of a hop may be there. Where it did not answer, the sender is told.
  @inline(__always)
  mutating func isReachable(
    _ index: Int, _ hop: HopIndex, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    if tables.hops.records[Int(hop)].neighbour != NeighbourState.failed.rawValue { return true }
    awaitNeighbour(index, hop, &batch, tables)
    return false
  }

  /// Counts down the time to live, puts the hop's headers in front and lists the packet for its port. Where the
  /// neighbour's address is not known yet, the packet waits, as it is.
  @inline(__always)
  mutating func dispatch(_ index: Int, _ hop: HopIndex, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let context = contexts[index]
    let number = Int(hop)
    contexts[index].hop = hop
    if tables.hops.records[number].neighbour != NeighbourState.resolved.rawValue {
      return awaitNeighbour(index, hop, &batch, tables)
    }
    if !context.flags.contains(.originated) {
      countDown(batch[index].octets, context)
      record(.timeToLive(Int(context.timeToLive) - 1))
    }
    push(&batch[index], number, context, tables)
    let port = tables.hops.records[number].port
    output.append(index, to: port, contexts)
    record(.sent(port: port, hop: hop))
  }

  /// Decrements the time to live or hop limit, with the IPv4 header checksum (RFC 1624).
  @inline(__always)
  private func countDown(_ octets: Octets, _ context: PacketContext) {
    let timeToLive = context.timeToLive &- 1
    if context.isIPv6 {
      octets[7] = timeToLive
      return
    }
    octets[8] = timeToLive
    octets.applyChecksum(.hop, at: 10)
  }

  /// Puts the hop's headers before the packet and fills in what depends on it.
  @inline(__always)
  mutating func push(
    _ frame: inout Frame, _ number: Int, _ context: PacketContext, _ tables: borrowing Tables
  ) {
    frame.push(HopRecord.templateSize)
    frame.octets.store(tables.hops.records[number].template, 0)
    frame.pull(HopRecord.templateSize &- Int(tables.hops.records[number].length))
    let encapsulation = tables.hops.records[number].encapsulation
    if encapsulation != Encapsulation.none.rawValue {
      encapsulate(&frame, number, context, tables)
      if isTracing, let remote = tables.hop(HopIndex(number))?.tunnel?.remote {
        trace.append(.encapsulated(Encapsulation(rawValue: encapsulation) ?? .none, remote: remote))
      }
    }
  }

  /// Fills in the outer headers (TUN-1 to TUN-6).
  @inline(__always)
  private mutating func encapsulate(
    _ frame: inout Frame, _ number: Int, _ context: PacketContext, _ tables: borrowing Tables
  ) {
    let options = tables.hops.records[number].options
    let length = Int(context.length) &+ Int(tables.hops.records[number].overhead)
    let octets = frame.octets
    let network = octets.dropping(EthernetHeader.length)
    let trafficClass = options.contains(.pipeDSCP) ? context.trafficClass & 3 : context.trafficClass
    let timeToLive = context.timeToLive &- (context.flags.contains(.originated) ? 0 : 1)
    let segments =
      frame.segmentation == .none ? 1 : segmentCount(frame, context, pushed: Int(tables.hops.records[number].length))
    let transport: Int
    if tables.hops.records[number].outerIPv6 {
      transport = IPv6Header.length
      network[u32: 0] |= UInt32(trafficClass) << 20 | UInt32(truncatingIfNeeded: context.hash >> 20) & 0xf_ffff
      network[u16: 4] = UInt16(truncatingIfNeeded: length &- IPv6Header.length)
      if options.contains(.uniformTTL) { network[7] = timeToLive }
    } else {
      transport = IPv4Header.length
      var sum = InternetChecksum(folded: tables.hops.records[number].headerSum)
      network[1] |= trafficClass
      sum.add(UInt16(trafficClass))
      network[u16: 2] = UInt16(truncatingIfNeeded: length)
      sum.add(UInt16(truncatingIfNeeded: length))
      if context.flags.contains(.dontFragment) {
        // An atomic packet needs no identification (RFC 6864).
        network[u16: 6] = 0x4000
        sum.add(0x4000)
      } else {
        // One count for both families of inner packets: the pair of addresses is the same.
        let identification = hopStates[number & ~1].identification
        hopStates[number & ~1].identification = identification &+ UInt16(truncatingIfNeeded: segments)
        network[u16: 4] = identification
        sum.add(identification)
      }
      if options.contains(.uniformTTL) {
        network[8] = timeToLive
        sum.add(UInt16(timeToLive) << 8)
      }
      network[u16Native: 10] = sum.complement
    }
    let encapsulation = tables.hops.records[number].encapsulation
    if encapsulation >= Encapsulation.vxlan.rawValue {
      network[u16: transport] = 0xc000 | UInt16(truncatingIfNeeded: context.hash >> 40) & 0x3fff
      network[u16: transport &+ 4] = UInt16(truncatingIfNeeded: length &- transport)
      if options.contains(.udpChecksum) { finishUDP(&frame, transport) }
    } else if encapsulation == Encapsulation.gre.rawValue, !options.isDisjoint(with: [.greChecksum, .greSequence]) {
      finishGRE(&frame, number, transport, segments: segments)
    }
  }

  /// The checksum of the outer UDP header. Of a super-frame only that there is one is marked: each segment has its own.
  @inline(never)
  func finishUDP(_ frame: inout Frame, _ transport: Int) {
    let offset = EthernetHeader.length + transport + 6
    guard frame.segmentation == .none else {
      frame.octets[u16: offset] = 0xffff
      return
    }
    _ = frame.completeChecksum()
    let network = frame.octets.dropping(EthernetHeader.length)
    let datagram = network.dropping(transport)
    datagram[u16Native: 6] = 0
    var sum: InternetChecksum
    if transport == IPv6Header.length, let header = IPv6Header(network) {
      sum = header.pseudoHeader(.udp, length: datagram.count)
    } else if let header = IPv4Header(network) {
      sum = header.pseudoHeader(length: datagram.count)
    } else {
      return
    }
    sum.add(datagram)
    datagram[u16Native: 6] = sum.udpComplement
  }

  @inline(never)
  private mutating func finishGRE(_ frame: inout Frame, _ number: Int, _ transport: Int, segments: Int) {
    let start = EthernetHeader.length + transport
    if let header = GREHeader(frame.octets.dropping(start)), let offset = header.sequenceNumberOffset {
      // One count for the tunnel, whatever is inside (RFC 2890, section 2.2): the hop's records are two.
      let tunnel = number & ~1
      header.octets[u32: offset] = hopStates[tunnel].greSequence
      hopStates[tunnel].greSequence &+= UInt32(truncatingIfNeeded: segments)
    }
    guard frame.segmentation == .none else { return }
    _ = frame.completeChecksum()
    GREHeader(frame.octets.dropping(start))?.updateChecksum()
  }

  // MARK: Super-frames

  /// The headers of a super-frame's segments from the network layer on.
  func segmentHeaders(_ frame: Frame, _ context: PacketContext) -> Int {
    let transport = Int(context.transport)
    guard frame.segmentation != .udp else { return transport + UDPHeader.length }
    let octets = frame.octets
    guard transport + TCPHeader.length <= octets.count else { return transport + TCPHeader.length }
    return transport + Int(octets[transport + 12] >> 4) * 4
  }

  /// The network-layer length of the longest segment of a super-frame.
  private func segmentLength(_ frame: Frame, _ context: PacketContext) -> UInt32 {
    min(context.length, UInt32(segmentHeaders(frame, context)) + UInt32(frame.segmentSize))
  }

  /// The number of segments of a super-frame before which `pushed` octets of headers stand by now.
  private func segmentCount(_ frame: Frame, _ context: PacketContext, pushed: Int) -> Int {
    var inner = frame
    inner.pull(pushed)
    let payload = max(0, Int(context.length) - segmentHeaders(inner, context))
    return max(1, (payload + Int(frame.segmentSize) - 1) / max(1, Int(frame.segmentSize)))
  }

  /// The largest inner packet of a hop whose path taught a smaller one than its link has.
  private mutating func learnedMTU(_ number: Int, _ mtu: UInt32, _ tables: borrowing Tables) -> UInt32 {
    guard hopStates[number].learnedUntil > second,
      hopStates[number].learnedSerial == tables.hops.records[number].serial
    else {
      hopStates[number].learnedMTU = 0
      return mtu
    }
    return min(mtu, hopStates[number].learnedMTU)
  }

  // MARK: Neighbours

  /// Keeps a packet whose neighbour's Ethernet address is being asked for.
  @inline(never)
  private mutating func awaitNeighbour(
    _ index: Int, _ hop: HopIndex, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    if tables.hops.records[Int(hop)].neighbour == NeighbourState.failed.rawValue {
      // Somebody may have plugged it in again: asking costs little.
      requests.add(.resolve(hop & ~1))
      return reject(index, .neighbourUnreachable, &batch, tables)
    }
    requests.add(.resolve(hop & ~1))
    record(.queued(neighbour: tables.hop(hop)?.neighbour))
    let serial = tables.hops.records[Int(hop)].serial
    if !waiting.hold(batch[index], contexts[index], for: .neighbour(hop), at: now, hopSerial: serial) {
      drop(index, .neighbourPending, batch)
    }
  }
}
