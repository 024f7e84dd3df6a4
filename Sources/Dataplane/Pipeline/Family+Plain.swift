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
      let index = list[number]
      let position = Int(positions[number])
      guard position >= 0, core.contexts[index].flags.contains(.plain) else { return number }
      let packet = PlainPacket(
        hash: core.contexts[index].hash, trafficClass: core.contexts[index].trafficClass,
        timeToLive: core.contexts[index].timeToLive, transport: core.contexts[index].transportProtocol,
        tcpFlags: core.contexts[index].tcpFlags, dontFragment: core.contexts[index].flags.contains(.dontFragment))
      guard sendPlain(index, packet, position, epoch, &core, &batch, tables) else { return number }
      number &+= 1
    }
    return number
  }

  /// False where the packet is not for the fast path.
  @inline(__always)
  mutating func sendPlain(
    _ index: Int, _ packet: PlainPacket, _ position: Int, _ epoch: UInt32, _ core: inout Core,
    _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    let hop = Int(flows.table.slots[position].hop)
    let kind = tables.hops.records[hop].plain
    let isTCP = packet.transport == IPProtocol.tcp.rawValue
    let seen = flows.table.slots[position].packetsLow
    let frame = batch[index]
    let length = frame.length
    let checksum = Key.Rewrite.headerLength &+ (isTCP ? 16 : 6)
    guard flows.table.slots[position].epoch == epoch, kind != PlainHop.no.rawValue, packet.timeToLive > 1,
      length <= tables.hops.records[hop].mtu, Int(length) >= checksum &+ 2,
      // What opens and closes connections, and the first packet of a direction, changes more than counts.
      packet.tcpFlags & 0x07 == 0, seen != 0, seen & core.offloadMask != core.offloadMask,
      frame.headroom >= HopRecord.templateSize, !core.hasLearnedMTU || core.hopStates[hop].learnedMTU == 0
    else { return false }
    let octets = frame.octets(withHeadroom: PlainHeaders.room)
    batch[index].wrap(Int(tables.hops.records[hop].length))
    flows.table.slots[position].countPlain(octets: length, second: core.second)

    let inner = octets.dropping(PlainHeaders.room)
    if flows.table.slots[position].rewrites {
      flows.table.slots[position].rewrite.applyPlain(
        to: inner, timeToLive: packet.timeToLive &- 1, checksum: checksum, isTCP: isTCP)
    } else {
      Key.Rewrite.countDown(inner, timeToLive: packet.timeToLive &- 1)
    }
    switch kind {
    case PlainHop.udp.rawValue:
      octets.store(tables.hops.records[hop].template.line, 0)
      core.finishPlain(octets, overhead: 50, length, packet, hop, tables)
      octets[u16: PlainHeaders.room - 30] = 0xc000 | UInt16(truncatingIfNeeded: packet.hash >> 40) & 0x3fff
      octets[u16: PlainHeaders.room - 26] = UInt16(truncatingIfNeeded: length) &+ 30
    case PlainHop.ipip.rawValue:
      octets.store(tables.hops.records[hop].template.short, PlainHeaders.room - 48)
      core.finishPlain(octets, overhead: 20, length, packet, hop, tables)
    case PlainHop.gre.rawValue:
      octets.store(tables.hops.records[hop].template.short, PlainHeaders.room - 48)
      core.finishPlain(octets, overhead: 24, length, packet, hop, tables)
    default: octets.store(tables.hops.records[hop].template.link, PlainHeaders.room - 16)
    }
    core.output.appendFinished(index, to: tables.hops.records[hop].port, core.contexts)
    return true
  }
}

/// What the way out wants to know of a plain packet.
struct PlainPacket {
  var hash: UInt64
  var trafficClass: UInt8
  var timeToLive: UInt8
  var transport: UInt8
  var tcpFlags: UInt8
  var dontFragment: Bool
}

enum PlainHeaders {
  /// The octets before a packet that the fast path writes headers into: see `HopRecord.Template.line`.
  static var room: Int { 64 }
}

extension Core {
  /// Fills in what an outer IPv4 header, as the template has it, takes from the packet behind it (TUN-1, TUN-5).
  @inline(__always)
  mutating func finishPlain(
    _ octets: Octets, overhead: Int, _ length: UInt32, _ packet: PlainPacket, _ hop: Int, _ tables: borrowing Tables
  ) {
    let start = PlainHeaders.room - overhead
    let carried = UInt32(packet.trafficClass & tables.hops.records[hop].trafficClassMask)
    octets[u32: start] = tables.hops.records[hop].plainStart &+ (carried << 16) &+ length
    var sum = UInt32(tables.hops.records[hop].plainSum) &+ carried &+ length
    // Identification, flags and offset. An atomic packet needs no identification (RFC 6864).
    if packet.dontFragment {
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
