/// The fast path's way out for plain packets of known flows: counted, counted down, translated, wrapped and listed in one
/// go, each octet written once (`PlainDeparture`). Nothing is touched before it is sure that nothing stands in the way;
/// whatever does is the general way's business (`send`), whose result is the same octet for octet.
extension Family {
  /// Sends on listed packets from `first` on as long as they are plain, their flows known and current. Returns the place
  /// of the first that is not; the list's length where there is none.
  mutating func sendPlain(
    from first: Int, _ core: inout Core, _ batch: borrowing FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    let part = first..<min(list.count, PacketColumns.partLength)
    var departure = PlainDeparture(self, core, batch, tables)
    let next = departure.send(part)
    core.output.close(departure.leavingCount, port: departure.leavingPort)
    core.sentInGroups &+= departure.groupedCount
    // What leaves by another port, or is the port's to finish.
    for number in part.lowerBound..<part.lowerBound &+ departure.unlistedCount {
      let (index, position) = plain.view.listed(number)
      let hop = flows.table.slots[position].hop
      let port = tables.hops.records[Int(hop)].port
      if plain.view.mark(index).isPartial {
        core.contexts[index].hop = hop
        core.output.append(index, to: port, core.contexts)
      } else {
        core.output.appendFinished(index, to: port, core.contexts)
      }
    }
    return next
  }
}
