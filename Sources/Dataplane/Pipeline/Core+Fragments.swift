import Addresses

/// Packets that come in parts (TUN-8).
extension Core {
  /// Gives a fragment the ports of its datagram's first one. False when it waits or was dropped.
  mutating func followFragment(
    _ index: Int, _ identity: UInt64, offset: Int, length: Int, more: Bool, _ tail: inout FlowKeyTail,
    _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    if offset == 0 {
      guard readTransport(index, &tail, batch) else { return false }
    } else {
      contexts[index].flags.insert(.laterFragment)
    }
    switch fragments.track(identity, offset: offset, length: length, more: more, &tail, second: second) {
    case .follow:
      contexts[index].transportProtocol = tail.transport
      return true
    case .first:
      if !waiting.isEmpty { waiting.release(.firstFragment(identity)) }
      return true
    case .wait:
      if !waiting.hold(batch[index], contexts[index], for: .firstFragment(identity), at: now) {
        drop(index, .fragmentNoFirst, batch)
      }
      return false
    case .drop(let reason):
      drop(index, reason, batch)
      return false
    }
  }

  /// Puts the fragments of a packet for this node together. False while some are missing, or where one was dropped.
  mutating func reassemble(
    _ index: Int, isIPv6: Bool, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    let (expired, evicted) = (reassembler.expired, reassembler.evicted)
    defer {
      // Datagrams that gave way to this one.
      if reassembler.expired != expired { drops.add(.reassemblyTimeout, at: ingress, count: 1) }
      if reassembler.evicted != evicted { drops.add(.reassemblyFull, at: ingress, count: 1) }
    }
    switch reassembler.insert(batch[index], network: 0, now: now) {
    case .held: return false
    case .duplicate:
      drop(index, .fragmentOverlap, batch)
      return false
    case .refused(let refusal):
      drop(index, refusal == .overlap || refusal == .datagramRefused ? .fragmentOverlap : .fragmentInvalid, batch)
      return false
    case .complete(let whole):
      // The reassembler wants its memory back before the batch is done.
      guard var copy = scratch.frame(length: Int(whole.length)) else {
        drop(index, .reassemblyFull, batch)
        return false
      }
      copy.octets.copy(from: whole.octets, to: 0)
      copy.port = batch[index].port
      copy.timestamp = batch[index].timestamp
      copy.slot = batch[index].slot
      batch[index] = copy
      contexts[index].length = copy.length
      contexts[index].flags.remove(.fragment)
      if isIPv6, let header = IPv6Header(copy.octets) {
        contexts[index].transport = UInt16(truncatingIfNeeded: header.upperLayer.offset)
        contexts[index].transportProtocol = header.upperLayer.protocol.rawValue
        contexts[index].trafficClass = header.trafficClass
      } else if let header = IPv4Header(copy.octets) {
        contexts[index].transport = UInt16(truncatingIfNeeded: header.headerLength)
        contexts[index].trafficClass = header.typeOfService
      }
      return true
    }
  }

  /// Cuts a packet that is too big for a hop, and may be cut, into fragments (RFC 791), which go out behind the batch. A
  /// super-frame is cut into smaller segments instead.
  mutating func fragment(
    _ index: Int, _ hop: HopIndex, mtu: UInt32, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    let context = contexts[index]
    if batch[index].segmentation == .tcp4 {
      let headers = segmentHeaders(batch[index], context)
      if headers + 64 <= Int(mtu) {
        batch[index].segmentSize = UInt16(truncatingIfNeeded: Int(mtu) - headers)
        return emit(index, hop, &batch, tables)
      }
    }
    guard batch[index].completeChecksum(), var plan = FragmentPlan(batch[index], network: 0, mtu: Int(mtu)) else {
      drop(index, .tooBig, batch)
      return sendError(.tooBig(mtu), about: index, &batch, tables)
    }
    var offset = 0
    while !plan.isComplete {
      pieces.removeAll()
      cutting.reset()
      guard plan.emit(into: &pieces, arena: &cutting) > 0 else { return drop(index, .noHeadroom, batch) }
      for number in 0..<pieces.count {
        var piece = context
        piece.length = pieces[number].length
        piece.flags.insert(.fragment)
        if offset > 0 { piece.flags.insert(.laterFragment) }
        offset += 1
        piece.hop = hop
        if !waiting.hold(pieces[number], piece, for: .turn, at: now) { drop(index, .transmitFull, batch) }
      }
    }
  }

  /// Gives up datagrams whose rest did not come in time.
  mutating func expireFragments() {
    let expired = reassembler.expire(now: now)
    if expired > 0 { drops.add(.reassemblyTimeout, at: ingress, count: expired) }
  }
}
