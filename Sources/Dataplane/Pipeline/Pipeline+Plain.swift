/// The fast path's parser: whole TCP and UDP packets without options, bare or in a tunnel over IPv4, as most packets are.
/// It reads each header word once, and touches nothing. Whatever is not as expected, for better or worse, is left to the
/// general way, which decides what it is.
extension Pipeline {
  mutating func parsePlain(_ part: Range<Int>, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let isUnderlay = core.ingressRecord.role == PortRole.underlay.rawValue
    var next = part.lowerBound
    while true {
      let rest = next..<part.upperBound
      next = isUnderlay ? readUnderlay(rest, batch, tables) : read(rest, batch)
      guard next < part.upperBound else { return }
      let others = next..<part.upperBound
      let after =
        switch LinkGuard.type(batch[next].octets) {
        case EtherType.ipv6.rawValue: read6(others, batch, tables, isUnderlay: isUnderlay)
        case EtherType.arp.rawValue where !isUnderlay: readARP(others, &batch, tables)
        default: next
        }
      guard after == next else {
        next = after
        continue
      }
      parse(next, &batch, tables)
      next += 1
    }
  }

  /// Reads frames as long as they are plain IPv4, and returns the place of the first that is not.
  @inline(never)
  private mutating func read(_ part: Range<Int>, _ batch: borrowing FrameBatch) -> Int {
    let next = PlainReader(PlainSink(v4, core), batch.view, core, part: PacketColumns.part(of: part.lowerBound)).read(
      part)
    v4.list.append(contentsOf: part.lowerBound..<next)
    return next
  }

  /// Reads frames as long as they are plain IPv6 without a tunnel, and returns the place of the first that is not.
  @inline(never)
  private mutating func read6(
    _ part: Range<Int>, _ batch: borrowing FrameBatch, _ tables: borrowing Tables, isUnderlay: Bool
  ) -> Int {
    var reader = PlainReader(PlainSink(v6, core), batch.view, core, part: PacketColumns.part(of: part.lowerBound))
    if isUnderlay { reader.exclude(tables.settings.vxlanPort, tables.settings.genevePort) }
    let next = reader.read(part)
    v6.list.append(contentsOf: part.lowerBound..<next)
    return next
  }

  /// Answers requests of ARP without a tag, as long as there are such, and returns the place of the first frame that is none.
  @inline(never)
  private mutating func readARP(
    _ part: Range<Int>, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    let port = core.ingressRecord
    for index in part {
      let octets = batch[index].octets
      guard LinkGuard.type(octets) == EtherType.arp.rawValue, octets[0] & 1 == 1 || octets[u48: 0] == port.mac,
        port.peerMAC == 0 || octets[u48: 6] == port.peerMAC
      else { return index }
      batch[index].port = core.ingress
      core.answerARP(index, headerLength: EthernetHeader.length, &batch, tables)
    }
    return part.upperBound
  }

  /// Reads frames from the underlay as long as they are plain IPv4, bare or in a tunnel from a peer, and returns the place
  /// of the first that is not.
  private mutating func readUnderlay(
    _ part: Range<Int>, _ batch: borrowing FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    var next = readAlike(part, batch, tables, inGroups: true)
    // Where frames come in different ways by turns, groups are not worth while.
    while next < part.upperBound, core.learns(from: batch[next], tables) {
      next = readAlike(next..<part.upperBound, batch, tables, inGroups: false)
    }
    v4.list.append(contentsOf: part.lowerBound..<next)
    return next
  }

  /// Reads frames that came as the last one did.
  @inline(never)
  private mutating func readAlike(
    _ part: Range<Int>, _ batch: borrowing FrameBatch, _ tables: borrowing Tables, inGroups: Bool
  ) -> Int {
    let frames = batch.view
    let sink = PlainSink(v4, core)
    let encapsulation = core.lastEncapsulation
    var reader = PlainReader(sink, frames, core, part: PacketColumns.part(of: part.lowerBound))
    if !inGroups { reader.readsSingly() }
    guard encapsulation != .none else {
      reader.exclude(tables.settings.vxlanPort, tables.settings.genevePort)
      return reader.read(part)
    }
    guard core.lastLocal != TunnelPeers.noLocal, encapsulation != .gre || tables.settings.greKey == nil else {
      return part.lowerBound
    }
    reader.expect(encapsulation, core, tables.settings)
    let end = reader.unwrap(part)
    return reader.trust(tables.peers4, encapsulation, part.lowerBound..<end)
  }
}
