import Addresses

/// What a classifier wants of packets to one of the host's addresses. Addresses that want the same share the program's
/// part for it.
private struct Profile: Hashable {
  /// Tunnels end here.
  var isLocal = false
  var ports: [UInt8: [ClosedRange<UInt32>]] = [:]

  var transports: [UInt8] { ports.keys.sorted() }
}

extension PacketClassifier {
  /// Ports that are looked for in one place, for all that want the same, of both families.
  struct PortTable {
    var ports: [UInt8: [ClosedRange<UInt32>]]
    var label: FilterProgram.Label
  }

  /// Where the ports of a profile are looked for: with the protocol in memory, and in X how far from the start of the
  /// network-layer header the transport's is.
  private func portsLabel(
    _ profile: Profile, _ p: inout FilterProgram, _ tables: inout [PortTable]
  ) -> FilterProgram.Label {
    if let known = tables.first(where: { $0.ports == profile.ports }) { return known.label }
    let table = PortTable(ports: profile.ports, label: p.label())
    tables.append(table)
    return table.label
  }

  func matchPorts(
    _ p: inout FilterProgram, _ table: PortTable, _ hit: FilterProgram.Label, _ miss: FilterProgram.Label
  ) {
    p.place(table.label)
    let transports = table.ports.keys.sorted().map { ($0, p.label()) }
    p.recall(0)
    for (number, label) in transports { p.jump(label, ifEqual: UInt32(number)) }
    p.jump(miss)
    for (number, label) in transports {
      p.place(label)
      p.load(.u16, .indexed(PacketClassifier.ethernet + 2))
      p.search((table.ports[number] ?? [])[...], hit, miss)
    }
  }

  /// The addresses of a family by what is wanted of packets to them, in an order that is always the same.
  private func profiles(_ family: IPFamily) -> [(profile: Profile, addresses: [IPAddress])] {
    var byAddress: [IPAddress: Profile] = [:]
    for address in localAddresses where address.family == family {
      byAddress[address] = Profile(
        isLocal: true, ports: udpPorts.isEmpty ? [:] : [17: udpPorts.map { UInt32($0)...UInt32($0) }])
    }
    for door in doors {
      let ranges = door.ports.map { UInt32($0.lowerBound)...UInt32($0.upperBound) }
      for address in door.addresses where address.family == family {
        byAddress[address, default: Profile()].ports[door.transport, default: []] += ranges
      }
    }
    var groups: [Profile: [IPAddress]] = [:]
    for (address, var profile) in byAddress {
      profile.ports = profile.ports.mapValues(\.joined)
      groups[profile, default: []].append(address)
    }
    return groups.map { ($0.key, $0.value.sorted()) }.sorted { $0.addresses[0] < $1.addresses[0] }
  }

  /// Leads to `hit` or `miss`.
  func matchIPv4(
    _ p: inout FilterProgram, _ tables: inout [PortTable], _ hit: FilterProgram.Label, _ miss: FilterProgram.Label
  ) {
    let ip = PacketClassifier.ethernet
    var owned: [ClosedRange<UInt32>] = []
    for case .v4(let prefix) in destinations {
      let first = prefix.address.rawValue & IPv4Prefix.mask(prefix.length)
      owned.append(first...(first | ~IPv4Prefix.mask(prefix.length)))
    }
    let others = p.label()
    p.load(.u32, .absolute(ip + 16))
    p.search(owned.joined[...], hit, others)
    p.place(others)
    let profiles = self.profiles(.ipv4).map { ($0.profile, $0.addresses, p.label()) }
    for (_, addresses, label) in profiles {
      for case .v4(let address) in addresses { p.jump(label, ifEqual: address.rawValue) }
    }
    p.jump(miss)
    for (profile, _, label) in profiles {
      p.place(label)
      let ports = portsLabel(profile, &p, &tables)
      matchTransport4(&p, profile, ports, hit, miss)
    }
  }

  private func matchTransport4(
    _ p: inout FilterProgram, _ profile: Profile, _ ports: FilterProgram.Label, _ hit: FilterProgram.Label,
    _ miss: FilterProgram.Label
  ) {
    let ip = PacketClassifier.ethernet
    p.load(.u8, .absolute(ip + 9))
    if profile.isLocal { for number in protocols { p.jump(hit, ifEqual: UInt32(number)) } }
    if profile.isLocal, takesShared {
      let noICMP = p.label()
      p.jump(noICMP, unlessEqual: 1)
      p.load(.u16, .absolute(ip + 6))
      p.jump(takesQueryReplies ? hit : miss, ifAny: 0x1fff)
      p.loadIPv4HeaderLength(at: ip)
      p.load(.u8, .indexed(ip))
      for type: UInt32 in [3, 11, 12] { p.jump(hit, ifEqual: type) }
      if takesQueryReplies { for type: UInt32 in [0, 14] { p.jump(hit, ifEqual: type) } }
      p.jump(miss)
      p.place(noICMP)
    }
    let wanted = p.label()
    for number in profile.transports { p.jump(wanted, ifEqual: UInt32(number)) }
    p.jump(miss)
    p.place(wanted)
    p.store(0)
    p.load(.u16, .absolute(ip + 6))
    p.jump(takesShared ? hit : miss, ifAny: 0x1fff)
    p.loadIPv4HeaderLength(at: ip)
    p.jump(ports)
  }

  func matchIPv6(
    _ p: inout FilterProgram, _ tables: inout [PortTable], _ hit: FilterProgram.Label, _ miss: FilterProgram.Label
  ) {
    let ip = PacketClassifier.ethernet
    func words(_ address: IPv6Address) -> [UInt32] {
      [address.high >> 32, address.high, address.low >> 32, address.low].map { UInt32(truncatingIfNeeded: $0) }
    }
    /// Goes to `label` where the first `length` bits of the destination are those of `address`.
    func match(_ address: IPv6Address, _ length: Int, _ label: FilterProgram.Label) {
      let differs = p.label()
      for (index, word) in words(address).enumerated() where length > 32 * index {
        p.load(.u32, .absolute(ip + 24 + 4 * index))
        if length < 32 * (index + 1) { p.and(IPv4Prefix.mask(length - 32 * index)) }
        p.jump(differs, unlessEqual: word)
      }
      p.jump(label)
      p.place(differs)
    }
    for case .v6(let prefix) in destinations { match(prefix.address, prefix.length, hit) }
    let profiles = self.profiles(.ipv6).map { ($0.profile, $0.addresses, p.label()) }
    for (_, addresses, label) in profiles {
      for case .v6(let address) in addresses { match(address, 128, label) }
    }
    p.jump(miss)
    for (profile, _, label) in profiles {
      p.place(label)
      let ports = portsLabel(profile, &p, &tables)
      matchTransport6(&p, profile, ports, hit, miss)
    }
  }

  private func matchTransport6(
    _ p: inout FilterProgram, _ profile: Profile, _ ports: FilterProgram.Label, _ hit: FilterProgram.Label,
    _ miss: FilterProgram.Label
  ) {
    let ip = PacketClassifier.ethernet
    // A is the next header, X the length of the headers before it. Destination options come before the inner packet of
    // RFC 2473 tunnels (the encapsulation limit), a fragment header anywhere; in this order, each at most once.
    let (noOptions, noFragment, first) = (p.label(), p.label(), p.label())
    func matchProtocols() {
      if profile.isLocal { for number in protocols { p.jump(hit, ifEqual: UInt32(number)) } }
    }
    p.setX(40)
    p.load(.u8, .absolute(ip + 6))
    p.jump(noOptions, unlessEqual: 60)
    p.load(.u8, .absolute(ip + 41))
    p.add(1)
    p.multiply(8)
    p.add(40)
    p.moveToX()
    p.load(.u8, .absolute(ip + 40))
    p.place(noOptions)
    p.jump(noFragment, unlessEqual: 44)
    p.load(.u8, .indexed(ip))
    p.store(0)
    matchProtocols()
    p.load(.u16, .indexed(ip + 2))
    p.and(0xfff8)
    p.jump(first, ifEqual: 0)
    if takesShared {
      p.recall(0)
      for number in profile.transports { p.jump(hit, ifEqual: UInt32(number)) }
      if takesQueryReplies { p.jump(hit, ifEqual: 58) }
    }
    p.jump(miss)
    p.place(first)
    p.takeX()
    p.add(8)
    p.moveToX()
    p.jump(ports)
    p.place(noFragment)
    p.store(0)
    matchProtocols()
    if profile.isLocal, takesShared {
      let noICMP = p.label()
      p.jump(noICMP, unlessEqual: 58)
      // The types below 128 are errors (RFC 4443, section 2.1); 129 is an echo reply.
      p.load(.u8, .indexed(ip))
      p.jump(hit, ifLess: 128)
      if takesQueryReplies { p.jump(hit, ifEqual: 129) }
      p.jump(miss)
      p.place(noICMP)
    }
    p.jump(ports)
  }
}

extension FilterProgram {
  /// Goes to `hit` where A is in one of the ranges, else to `miss`. The ranges are in order and apart, as `joined` makes
  /// them: of many only a few are looked at.
  mutating func search(_ ranges: ArraySlice<ClosedRange<UInt32>>, _ hit: Label, _ miss: Label) {
    if ranges.count > 4 {
      let middle = ranges.startIndex + ranges.count / 2
      let lower = label()
      jump(lower, ifLess: ranges[middle].lowerBound)
      search(ranges[middle...], hit, miss)
      place(lower)
      return search(ranges[..<middle], hit, miss)
    }
    for range in ranges {
      if range.lowerBound == range.upperBound {
        jump(hit, ifEqual: range.lowerBound)
      } else {
        jump(miss, ifLess: range.lowerBound)
        if range.upperBound == .max { return jump(hit) }
        jump(hit, ifLess: range.upperBound + 1)
      }
    }
    jump(miss)
  }
}

extension [ClosedRange<UInt32>] {
  /// The same numbers in as few ranges as can be, in order.
  var joined: [ClosedRange<UInt32>] {
    var result: [ClosedRange<UInt32>] = []
    for range in sorted(by: { $0.lowerBound < $1.lowerBound }) {
      if let last = result.last, last.upperBound == .max || range.lowerBound <= last.upperBound + 1 {
        result[result.count - 1] = last.lowerBound...Swift.max(last.upperBound, range.upperBound)
      } else {
        result.append(range)
      }
    }
    return result
  }
}
