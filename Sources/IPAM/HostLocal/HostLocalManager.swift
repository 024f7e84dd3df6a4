import Addresses

/// Addresses as the reference plugin `host-local` gives them, on its store (IPAM-1), with the GC and STATUS that it
/// lacks.
public final class HostLocalManager: AddressManager {
  public struct Settings: Sendable, Equatable {
    /// The name of the network.
    public var network: String
    /// An attachment gets one address of each.
    public var rangeSets: [RangeSet]
    public var routes: [AssignedRoute] = []
    public var dns: NameResolution?
    /// The folder of the store; nil for the reference plugin's own.
    public var dataFolder: String?

    public init(network: String, rangeSets: [RangeSet]) {
      self.network = network
      self.rangeSets = rangeSets
    }
  }

  private let settings: Settings
  private let store: HostLocalStore

  public init(_ settings: Settings) throws(IPAMError) {
    guard !settings.rangeSets.isEmpty else {
      throw IPAMError(.configuration, "ipam has no ranges; give it \"ranges\": [[{\"subnet\": …}]]")
    }
    for (index, set) in settings.rangeSets.enumerated() {
      for other in settings.rangeSets[..<index] {
        for range in set.ranges where other.ranges.contains(where: { $0.overlaps(range) }) {
          throw IPAMError(
            .configuration,
            "the range \(range.start)-\(range.end) overlaps one of another range set; correct one of them")
        }
      }
    }
    self.settings = settings
    store = try HostLocalStore(data: settings.dataFolder, network: settings.network)
  }

  public func assign(_ request: AssignRequest) throws(IPAMError) -> Assignment {
    let (container, interface) = (request.attachment.containerID, request.attachment.interface)
    return try store.locked { () throws(IPAMError) in
      let held = try store.entries().filter { $0.belongs(to: container, interface) }
      if let one = held.first(where: { entry in settings.rangeSets.contains { $0.range(of: entry.address) != nil } }) {
        throw IPAMError(
          .refused,
          "\(one.address) has been allocated to \(container) already; delete the container before it is added "
            + "again")
      }
      var given: [AssignedAddress] = []
      do throws(IPAMError) {
        var wanted = request.requested
        for (index, set) in settings.rangeSets.enumerated() {
          let place = wanted.firstIndex { set.range(of: $0) != nil }
          let address = place.map { wanted.remove(at: $0) }
          given.append(try take(address, set, index, container, interface))
        }
        guard wanted.isEmpty else {
          throw IPAMError(
            .refused,
            "\(wanted.map(\.description).joined(separator: ", ")) cannot be given: no range set has it, or the "
              + "one that has it gives another address already")
        }
      } catch {
        for entry in try store.entries() where given.contains(where: { $0.address == entry.address }) {
          store.remove(entry)
        }
        throw error
      }
      return Assignment(addresses: given, routes: settings.routes, dns: settings.dns)
    }
  }

  private func take(
    _ requested: IPAddress?, _ set: RangeSet, _ index: Int, _ container: String, _ interface: String
  ) throws(IPAMError) -> AssignedAddress {
    if let requested, let range = set.range(of: requested) {
      guard requested != range.gateway else {
        throw IPAMError(.refused, "\(requested) is the gateway of \(range.subnet); ask for another address")
      }
      guard try store.reserve(requested, container, interface, rangeSet: index) else {
        throw IPAMError(.refused, "\(requested) is in use; ask for another address, or release it")
      }
      return assigned(requested, range)
    }
    let last = try store.lastReserved(rangeSet: index)
    for (address, range) in set.candidates(after: last) {
      if try store.reserve(address, container, interface, rangeSet: index) { return assigned(address, range) }
    }
    throw IPAMError(
      .exhausted,
      "no free address in range set \(index) (\(set.ranges.map { "\($0.start)-\($0.end)" }.joined(separator: ", "))"
        + ") of network \(settings.network); make the range larger, or look for leaked addresses in \(store.folder)")
  }

  private func assigned(_ address: IPAddress, _ range: AddressRange) -> AssignedAddress {
    AssignedAddress(address: address, prefixLength: range.subnet.length, gateway: range.gateway)
  }

  public func release(_ attachment: Attachment) throws(IPAMError) {
    try store.locked { () throws(IPAMError) in
      let all = try store.entries()
      // As the reference plugin: what names the interface first, and only else what names the container alone.
      let exact = all.filter { $0.containerID == attachment.containerID && $0.interface == attachment.interface }
      for entry in exact.isEmpty ? all.filter({ $0.belongs(to: attachment.containerID, attachment.interface) }) : exact
      {
        store.remove(entry)
      }
    }
  }

  /// Addresses without an owner are taken back too: a reference plugin that was killed leaves such files.
  public func collect(keeping valid: Set<Attachment>, network: String) throws(IPAMError) -> [Attachment] {
    try store.locked { () throws(IPAMError) in
      var released: Set<Attachment> = []
      for entry in try store.entries() {
        guard !valid.contains(where: { entry.belongs(to: $0.containerID, $0.interface) }) else { continue }
        store.remove(entry)
        released.insert(
          Attachment(network: network, containerID: entry.containerID, interface: entry.interface ?? ""))
      }
      return released.sorted()
    }
  }

  public func check(_ attachment: Attachment, has addresses: [IPAddress]) throws(IPAMError) {
    let held = try store.locked { () throws(IPAMError) in
      try store.entries().filter { $0.belongs(to: attachment.containerID, attachment.interface) }.map(\.address)
    }
    for address in addresses where !held.contains(address) {
      throw IPAMError(
        .mismatch, "\(address) is not assigned to \(attachment); delete the container and make it again")
    }
    guard !held.isEmpty else {
      throw IPAMError(.mismatch, "\(attachment) has no address; delete the container and make it again")
    }
  }

  public func ready() throws(IPAMError) {
    guard Files.isWritable(store.folder) else {
      throw IPAMError(.storage, "the folder \(store.folder) cannot be written; check its owner and mode")
    }
    let taken = try store.locked { () throws(IPAMError) in Set(try store.entries().map(\.address)) }
    for (index, set) in settings.rangeSets.enumerated()
    where !set.candidates(after: nil).contains(where: { !taken.contains($0.address) }) {
      throw IPAMError(
        .exhausted, "range set \(index) of network \(settings.network) has no free address; make the range larger")
    }
  }
}
