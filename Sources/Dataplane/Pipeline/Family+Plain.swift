/// The fast path's way out for plain packets of known flows: counted, counted down, translated, wrapped and listed in one
/// go, each octet written once. Nothing is touched before it is sure that nothing stands in the way; whatever does is
/// the general way's business (`send`), whose result is the same octet for octet.
extension Family {
  /// Sends on listed packets from `first` on as long as they are plain, their flows known and current. Returns the place
  /// of the first that is not; the list's length where there is none. (A loop of its own: nothing that is called from it
  /// takes registers.)
  @inline(never)
  mutating func sendPlain(
    from first: Int, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    let epoch = tables.epoch
    var number = first
    while number < list.count {
      let position = Int(positions[number])
      guard position >= 0, sendPlain(list[number], position, epoch, &core, &batch, tables) else { return number }
      number &+= 1
    }
    return number
  }

  /// Sends on a packet whose flow is at `position`. False where it is not for the fast path.
  @inline(__always)
  mutating func sendPlain(
    _ index: Int, _ position: Int, _ epoch: UInt32, _ core: inout Core, _ batch: inout FrameBatch,
    _ tables: borrowing Tables
  ) -> Bool {
    let length = plain[index].length
    guard length != 0 else { return false }
    let hop = Int(flows.table.slots[position].hop)
    let seen = flows.table.slots[position].packetsLow
    guard flows.table.slots[position].epoch == epoch,
      // The first packet of a reply changes more than counts, and some are to offer their flow.
      seen != 0 || !flows.table.slots[position].isReply, seen & core.offloadMask != core.offloadMask,
      length <= UInt32(tables.hops.records[hop].plainMTU), !core.hasLearnedMTU || core.hopStates[hop].learnedMTU == 0
    else { return false }
    let offset = Int(plain[index].offset)
    let word = plain[index].word
    let octets = batch[index].octets(from: offset, length: Int(length), room: PlainHeaders.room)
    batch[index].rewrap(from: offset, length: Int(length), Int(tables.hops.records[hop].length))
    flows.table.slots[position].countPlain(octets: length, second: core.second)
    let inner = octets.dropping(PlainHeaders.room)
    if flows.table.slots[position].rewrites {
      flows.table.slots[position].rewrite.applyPlain(to: inner, word, isPartial: plain[index].isPartial)
    } else {
      Key.Rewrite.countDown(inner, word)
    }
    switch tables.hops.records[hop].plain {
    case PlainHop.link.rawValue:
      octets.store(tables.hops.records[hop].template.link, PlainHeaders.room - 16)
    case PlainHop.udp.rawValue:
      octets.store(tables.hops.records[hop].template.line, 0)
      finishPlain(octets, overhead: 50, index, hop, &core, tables)
      octets[u16: PlainHeaders.room - 30] = 0xc000 | UInt16(truncatingIfNeeded: plain[index].hash >> 40) & 0x3fff
      octets[u16: PlainHeaders.room - 26] = UInt16(truncatingIfNeeded: length) &+ 30
    case PlainHop.ipip.rawValue:
      octets.store(tables.hops.records[hop].template.short, PlainHeaders.room - 48)
      finishPlain(octets, overhead: 20, index, hop, &core, tables)
    default:
      octets.store(tables.hops.records[hop].template.short, PlainHeaders.room - 48)
      finishPlain(octets, overhead: 24, index, hop, &core, tables)
    }
    if plain[index].isPartial {
      core.contexts[index].hop = HopIndex(truncatingIfNeeded: hop)
      core.output.append(index, to: tables.hops.records[hop].port, core.contexts)
    } else {
      core.output.appendFinished(index, to: tables.hops.records[hop].port, core.contexts)
    }
    return true
  }

  /// Fills in what an outer IPv4 header, as the template has it, takes from the packet behind it (TUN-1, TUN-5).
  @inline(__always)
  private func finishPlain(
    _ octets: Octets, overhead: Int, _ index: Int, _ hop: Int, _ core: inout Core, _ tables: borrowing Tables
  ) {
    let start = PlainHeaders.room - overhead
    let length = plain[index].length
    let carried = UInt32(plain[index].trafficClass & tables.hops.records[hop].trafficClassMask)
    octets[u32: start] = tables.hops.records[hop].plainStart &+ (carried << 16) &+ length
    var sum = UInt32(tables.hops.records[hop].plainSum) &+ carried &+ length
    // Identification, flags and offset. An atomic packet needs no identification (RFC 6864).
    if Key.Rewrite.dontFragment(plain[index].word) {
      octets[u32: start + 4] = 0x4000
      sum &+= 0x4000
    } else {
      // One count for both families of inner packets: the pair of addresses is the same.
      let identification = core.hopStates[hop & ~1].identification
      core.hopStates[hop & ~1].identification = identification &+ 1
      octets[u32: start + 4] = UInt32(identification) << 16
      sum &+= UInt32(identification)
    }
    sum = (sum & 0xffff) &+ (sum >> 16)
    octets[u16: start + 10] = ~UInt16(truncatingIfNeeded: sum &+ (sum >> 16))
  }
}

enum PlainHeaders {
  /// The octets before a packet that the fast path writes headers into: see `HopRecord.Template.line`.
  static var room: Int { 64 }
}
