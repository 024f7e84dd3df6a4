import Addresses

/// A range of addresses of a subnet, as `host-local` configures it (IPAM-1).
public struct AddressRange: Sendable, Hashable {
  public let subnet: IPPrefix
  /// The first and the last address that may be given.
  public let start: IPAddress
  public let end: IPAddress
  /// Never given; the first address of the subnet where nothing else is said.
  public let gateway: IPAddress

  /// Fills in what is left out: the whole subnet without its own and its broadcast address.
  public init(
    subnet: IPPrefix, start: IPAddress? = nil, end: IPAddress? = nil, gateway: IPAddress? = nil
  ) throws(IPAMError) {
    guard subnet.length <= subnet.family.width - 2 else {
      throw IPAMError(.configuration, "the subnet \(subnet) is too small; give one with four addresses or more")
    }
    self.subnet = subnet
    let last = subnet.last - (subnet.family == .ipv4 ? 1 : 0)
    self.start = start ?? IPAddress(number: subnet.first + 1, subnet.family)
    self.end = end ?? IPAddress(number: last, subnet.family)
    self.gateway = gateway ?? IPAddress(number: subnet.first + 1, subnet.family)
    for (name, address) in [("rangeStart", start), ("rangeEnd", end), ("gateway", gateway)] {
      if let address, !subnet.contains(address), name != "gateway" || address.family != subnet.family {
        throw IPAMError(.configuration, "\(name) \(address) is not in the subnet \(subnet); correct one of them")
      }
    }
    guard self.start <= self.end else {
      throw IPAMError(.configuration, "rangeStart \(self.start) is after rangeEnd \(self.end); swap them")
    }
  }

  public func contains(_ address: IPAddress) -> Bool { start <= address && address <= end }

  func overlaps(_ other: AddressRange) -> Bool {
    subnet.family == other.subnet.family && start <= other.end && other.start <= end
  }
}

/// Ranges of one family of which an attachment gets one address.
public struct RangeSet: Sendable, Hashable {
  public let ranges: [AddressRange]

  public init(_ ranges: [AddressRange]) throws(IPAMError) {
    guard let family = ranges.first?.subnet.family else {
      throw IPAMError(.configuration, "a range set is empty; give it a range with a subnet, or take it away")
    }
    guard ranges.allSatisfy({ $0.subnet.family == family }) else {
      throw IPAMError(.configuration, "a range set mixes IPv4 and IPv6; make a set of its own for each family")
    }
    for (index, range) in ranges.enumerated() {
      if let other = ranges[..<index].first(where: { $0.overlaps(range) }) {
        throw IPAMError(
          .configuration, "the ranges \(other.start)-\(other.end) and \(range.start)-\(range.end) overlap; correct one")
      }
    }
    self.ranges = ranges
  }

  var family: IPFamily { ranges[0].subnet.family }

  func range(of address: IPAddress) -> AddressRange? { ranges.first { $0.contains(address) } }

  /// All addresses that may be given, once each, round and round from the one after `last`. Gateways are left out.
  func candidates(after last: IPAddress?) -> some Sequence<(address: IPAddress, range: AddressRange)> {
    let first = last.flatMap { last in ranges.firstIndex { $0.contains(last) } }
    let start = first ?? 0
    // The rest of the range of the last address, the other ranges, and the beginning of that range.
    var spans: [(AddressRange, UInt128, UInt128)] = []
    if first != nil, let last, last < ranges[start].end {
      spans.append((ranges[start], last.number + 1, ranges[start].end.number))
    }
    for step in (first == nil ? 0 : 1)..<ranges.count {
      let range = ranges[(start + step) % ranges.count]
      spans.append((range, range.start.number, range.end.number))
    }
    if first != nil, let last { spans.append((ranges[start], ranges[start].start.number, last.number)) }
    let family = family
    return spans.lazy.flatMap { range, from, to in
      (from...to).lazy.map { (address: IPAddress(number: $0, family), range: range) }
    }.filter { $0.address != $0.range.gateway }
  }
}
