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
    var sender = PlainSender(self, core, batch, tables)
    // Unsigned, and bounded by what there is room for: so the compiler knows that no place needs a check.
    let count = UInt(min(list.count, Core.batchLimit))
    var number = UInt(first)
    while number < count {
      let (index, position) = sender.plain.listed(Int(bitPattern: number))
      guard position >= 0, sender.send(index, position, &core) else { break }
      number &+= 1
    }
    core.output.close(sender.leaving)
    return Int(number)
  }

  /// Sends on a packet whose flow is at `position`. False where it is not for the fast path.
  @inline(never)
  mutating func sendPlain(
    _ index: Int, _ position: Int, _ core: inout Core, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    var sender = PlainSender(self, core, batch, tables)
    defer { core.output.close(sender.leaving) }
    return sender.send(index, position, &core)
  }
}

/// What the fast path's way out works with, in values of its own (`MemoryView`).
private struct PlainSender<Key: FlowKey> {
  let frames: FrameBatchView
  let plain: PlainPacketsView
  let slots: MemoryView<FlowSlot<Key>>
  let hops: MemoryView<HopRecord>
  let hopStates: MemoryView<HopState>
  /// Packets that need no finishing, and the port that they leave by.
  var leaving: FrameListView
  var leavingPort: Int
  let epoch: UInt32
  let second: UInt32
  let offloadMask: UInt32
  /// Whether packets may have to go the general way that else need not.
  let isCareful: Bool

  @inline(__always)
  init(
    _ family: borrowing Family<Key>, _ core: borrowing Core, _ batch: borrowing FrameBatch, _ tables: borrowing Tables
  ) {
    frames = batch.view
    plain = family.plain.view
    slots = family.flows.table.slots.view
    hops = tables.hops.records.view
    hopStates = core.hopStates.view
    (leaving, leavingPort) = core.output.open
    epoch = tables.epoch
    second = core.second
    offloadMask = core.offloadMask
    isCareful = core.hasLearnedMTU || core.offload != nil
  }

  @inline(__always)
  mutating func send(_ index: Int, _ position: Int, _ core: inout Core) -> Bool {
    let mark = plain.mark(index)
    let length = mark.length
    let hop = Int(slots[position].hop)
    // No plain packet is shorter than its headers.
    guard length >= PlainIPv4.length + UDPHeader.length, slots[position].epoch == epoch,
      // The first packet of a reply changes more than counts.
      slots[position].lowPackets != 0 || !slots[position].isReply,
      length <= Int(hops[hop].plainMTU), !isCareful || isOrdinary(position, hop)
    else { return false }
    let word = plain.word(index)
    let octets = frames[index].octets(from: mark.offset, length: length, room: PlainHeaders.room)
    frames[index].rewrap(from: mark.offset, length: length, Int(hops[hop].length))
    slots[position].count(octets: length, second: second)
    let inner = octets.dropping(PlainHeaders.room)
    if slots[position].rewrites {
      slots[position].rewrite.applyPlain(to: inner, word, isPartial: mark.isPartial)
    } else {
      Key.Rewrite.countDown(inner, word)
    }
    let kind = hops[hop].plain
    if kind == PlainHop.link.rawValue {
      octets.store(hops[hop].template.link, PlainHeaders.room - 16)
    } else if kind == PlainHop.udp.rawValue {
      octets.store(hops[hop].template.line, 0)
      finish(octets, overhead: 50, mark, word, hop)
      octets[u16: PlainHeaders.room - 30] = 0xc000 | UInt16(truncatingIfNeeded: plain.hash(index) >> 40) & 0x3fff
      octets[u16: PlainHeaders.room - 26] = UInt16(truncatingIfNeeded: length) &+ 30
    } else if kind == PlainHop.ipip.rawValue {
      octets.store(hops[hop].template.short, PlainHeaders.room - 48)
      finish(octets, overhead: 20, mark, word, hop)
    } else {
      octets.store(hops[hop].template.short, PlainHeaders.room - 48)
      finish(octets, overhead: 24, mark, word, hop)
    }
    if !mark.isPartial, Int(hops[hop].port.rawValue) == leavingPort {
      leaving.append(index)
    } else {
      (leaving, leavingPort) = list(index, hop, hops[hop].port, isFinished: !mark.isPartial, leaving, &core)
    }
    return true
  }

  /// Whether a packet's path has taught no smaller MTU, and its flow is not to be offered.
  @inline(__always)
  private func isOrdinary(_ position: Int, _ hop: Int) -> Bool {
    slots[position].lowPackets & offloadMask != offloadMask && hopStates[hop].learnedMTU == 0
  }

  /// Fills in what an outer IPv4 header, as the template has it, takes from the packet behind it (TUN-1, TUN-5).
  @inline(__always)
  private func finish(_ octets: Octets, overhead: Int, _ mark: PlainMark, _ word: UInt64, _ hop: Int) {
    let start = PlainHeaders.room - overhead
    let length = UInt32(truncatingIfNeeded: mark.length)
    let carried = UInt32(mark.trafficClass & hops[hop].trafficClassMask)
    octets[u32: start] = hops[hop].plainStart &+ (carried << 16) &+ length
    var sum = UInt32(hops[hop].plainSum) &+ carried &+ length
    // Identification, flags and offset. An atomic packet needs no identification (RFC 6864).
    if Key.Rewrite.dontFragment(word) {
      octets[u32: start + 4] = 0x4000
      sum &+= 0x4000
    } else {
      // One count for both families of inner packets: the pair of addresses is the same.
      let identification = hopStates[hop & ~1].identification
      hopStates[hop & ~1].identification = identification &+ 1
      octets[u32: start + 4] = UInt32(identification) << 16
      sum &+= UInt32(identification)
    }
    sum = (sum & 0xffff) &+ (sum >> 16)
    octets[u16: start + 10] = ~UInt16(truncatingIfNeeded: sum &+ (sum >> 16))
  }
}

/// Lists a packet that leaves by another port, or that the port may have to finish. (No method: a sender whose address is
/// handed on is read anew after each octet that is written.)
@inline(never)
private func list(
  _ index: Int, _ hop: Int, _ port: PortIndex, isFinished: Bool, _ leaving: FrameListView, _ core: inout Core
) -> (list: FrameListView, port: Int) {
  core.output.close(leaving)
  if isFinished {
    core.output.appendFinished(index, to: port, core.contexts)
  } else {
    core.contexts[index].hop = HopIndex(truncatingIfNeeded: hop)
    core.output.append(index, to: port, core.contexts)
  }
  return core.output.open
}

enum PlainHeaders {
  /// The octets before a packet that the fast path writes headers into: see `HopRecord.Template.line`.
  static var room: Int { 64 }
}
