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
      if !isUnderlay {
        let rest = next..<part.upperBound
        let after =
          switch LinkGuard.type(batch[next].octets) {
          case EtherType.ipv6.rawValue: read6(rest, batch)
          case EtherType.arp.rawValue: readARP(rest, &batch, tables)
          default: next
          }
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
  private mutating func read(_ part: Range<Int>, _ batch: borrowing FrameBatch) -> Int {
    var reader = PlainReader(PlainSink(v4, core), batch.view, core, part: PacketColumns.part(of: part.lowerBound))
    let next = reader.read(part)
    v4.list.append(contentsOf: part.lowerBound..<next)
    return next
  }

  /// Reads frames as long as they are plain IPv6, and returns the place of the first that is not.
  @inline(never)
  private mutating func read6(_ part: Range<Int>, _ batch: borrowing FrameBatch) -> Int {
    var reader = PlainReader(PlainSink(v6, core), batch.view, core, part: PacketColumns.part(of: part.lowerBound))
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

  /// Reads frames from the underlay as long as they are plain, bare or in a tunnel over IPv4 from a peer, and returns the
  /// place of the first that is not.
  private mutating func readUnderlay(
    _ part: Range<Int>, _ batch: borrowing FrameBatch, _ tables: borrowing Tables
  ) -> Int {
    var next = readAlike(part, batch, tables, inGroups: true)
    while next < part.upperBound {
      let before = core.arrival
      guard core.learns(from: batch[next], tables) else { break }
      // Where frames come in different ways by turns, groups are not worth while.
      let first = next..<min(next + 8, part.upperBound)
      var after = readAlike(first, batch, tables, inGroups: false)
      guard after > next else {
        // It is not plain, and says nothing of those that follow.
        core.arrival = before
        break
      }
      if after == first.upperBound { after = readAlike(after..<part.upperBound, batch, tables, inGroups: true) }
      next = after
    }
    return next
  }

  /// Reads frames that came as the last one did.
  @inline(never)
  private mutating func readAlike(
    _ part: Range<Int>, _ batch: borrowing FrameBatch, _ tables: borrowing Tables, inGroups: Bool
  ) -> Int {
    core.arrival.isIPv6
      ? v6.readAlike(part, core, batch, tables, inGroups: inGroups)
      : v4.readAlike(part, core, batch, tables, inGroups: inGroups)
  }
}

extension Family {
  @inline(__always)
  fileprivate mutating func readAlike(
    _ part: Range<Int>, _ core: borrowing Core, _ batch: borrowing FrameBatch, _ tables: borrowing Tables,
    inGroups: Bool
  ) -> Int {
    let encapsulation = core.arrival.encapsulation
    var reader = PlainReader(
      PlainSink(self, core), batch.view, core, part: PacketColumns.part(of: part.lowerBound))
    if !inGroups { reader.readsSingly() }
    var end = part.lowerBound
    if encapsulation == .none {
      reader.exclude(tables.settings.vxlanPort, tables.settings.genevePort)
      end = reader.read(part)
    } else if core.arrival.local != TunnelPeers.noLocal, encapsulation != .gre || tables.settings.greKey == nil {
      reader.expect(encapsulation, core, tables.settings)
      let unwrapped = part.lowerBound..<reader.unwrap(part)
      end = reader.trust(tables.peers4, encapsulation, unwrapped)
    }
    list.append(contentsOf: part.lowerBound..<end)
    return end
  }
}
