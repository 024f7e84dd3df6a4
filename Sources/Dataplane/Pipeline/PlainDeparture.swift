import CDataplane

/// The fast path's way out (`kalsae_plain_send4`), for one run of packets.
///
/// Unsafe: hands to C where frames, flows and hops are, and how many. Every place is checked there.
@safe
struct PlainDeparture<Key: FlowKey> {
  private var departure = unsafe kalsae_departure()
  /// The packets that there is room for in the list of those that leave.
  private let room: Int

  @inline(__always)
  init(
    _ family: borrowing Family<Key>, _ core: borrowing Core, _ batch: borrowing FrameBatch, _ tables: borrowing Tables
  ) {
    let frames = batch.view
    let slots = family.flows.table.slots.view
    let hops = tables.hops.records.view
    let states = core.hopStates.view
    let leaving = core.output.open
    unsafe departure.frames = UnsafeMutableRawPointer(frames.pointer).assumingMemoryBound(to: kalsae_frame.self)
    unsafe departure.frame_count = frames.count
    let start = PacketColumns.part(of: family.list[0])
    unsafe departure.columns = family.plain.view.columns.pointer(part: start)
    unsafe departure.start = start
    unsafe departure.lanes = core.lanes
    unsafe departure.slots = UnsafeMutableRawPointer(slots.pointer)
    unsafe departure.slot_count = slots.count
    unsafe departure.hops = UnsafePointer(
      UnsafeMutableRawPointer(hops.pointer).assumingMemoryBound(to: kalsae_hop.self))
    unsafe departure.hop_states = UnsafeMutableRawPointer(states.pointer)
      .assumingMemoryBound(to: kalsae_hop_state.self)
    unsafe departure.hop_count = min(hops.count, states.count)
    unsafe departure.leaving = leaving.list.pointer
    unsafe departure.leaving_count = leaving.list.count
    unsafe departure.leaving_port = Int32(truncatingIfNeeded: leaving.port)
    unsafe departure.may_open = leaving.mayOpen ? 1 : 0
    unsafe departure.epoch = tables.epoch
    unsafe departure.second = core.second
    // The kernel is given flows of IPv4 only.
    let isOffered = !Key.isIPv6 && core.offload != nil
    unsafe departure.offload_mask = isOffered ? core.offloadMask : .max
    unsafe departure.is_careful = core.hasLearnedMTU || isOffered ? 1 : 0
    room = leaving.list.capacity &- leaving.list.count
  }

  /// Sends on listed packets as long as they are plain, their flows known and current; returns the place of the first that
  /// was not sent.
  @inline(__always)
  mutating func send(_ part: Range<Int>) -> Int {
    let end = part.lowerBound &+ min(part.count, room)
    return unsafe withUnsafeMutablePointer(to: &departure) {
      let next =
        unsafe Key.isIPv6
        ? kalsae_plain_send6($0, part.lowerBound, end) : kalsae_plain_send4($0, part.lowerBound, end)
      return Int(next)
    }
  }

  /// The length of the list of finished packets by now, and the port that they leave by; -1: none.
  var leavingCount: Int { unsafe departure.leaving_count }
  var leavingPort: Int { unsafe Int(departure.leaving_port) }
  /// How many packets that were sent are still to be listed: they are at the beginning of the part.
  var unlistedCount: Int { unsafe departure.unlisted_count }
  /// How many packets were sent in groups.
  var groupedCount: Int { unsafe departure.grouped_count }
}

/// The fast path's look-up (`kalsae_plain_find4`).
///
/// Unsafe: hands to C where flows and packets are. What packets say leads nowhere but into the flow table.
enum PlainSearch {
  /// Finds the flows of the listed packets, and asks for the hops that they lead to.
  @inline(__always)
  static func find<Key: FlowKey>(
    _ family: borrowing Family<Key>, _ core: borrowing Core, _ tables: borrowing Tables
  ) {
    let slots = family.flows.table.slots.view
    var search = unsafe kalsae_search()
    let start = PacketColumns.part(of: family.list[0])
    unsafe search.columns = family.plain.view.columns.pointer(part: start)
    unsafe search.start = start
    unsafe search.slots = UnsafeRawPointer(slots.pointer)
    unsafe search.slot_count = slots.count
    unsafe search.hops = UnsafePointer(
      UnsafeMutableRawPointer(tables.hops.records.view.pointer).assumingMemoryBound(to: kalsae_hop.self))
    unsafe search.keys = UnsafeRawPointer(family.keys.view.pointer)
    unsafe search.packets = UnsafePointer(family.list.view.pointer)
    unsafe search.has_tunnels = tables.hops.hasTunnels ? 1 : 0
    unsafe search.lanes = core.lanes
    let count = min(family.list.count, PacketColumns.partLength)
    unsafe withUnsafePointer(to: search) {
      if Key.isIPv6 { unsafe kalsae_plain_find6($0, count) } else { unsafe kalsae_plain_find4($0, count) }
    }
  }
}
