public import Addresses

/// What makes two frontends the same to a packet.
public struct FrontendPlace: Sendable, Hashable {
  /// nil: every address that NodePorts are served on.
  public var address: IPAddress?
  public var family: IPFamily
  /// The IP protocol number.
  public var transport: UInt8
  public var port: UInt16

  public init(address: IPAddress?, family: IPFamily, transport: UInt8, port: UInt16) {
    self.address = address
    self.family = family
    self.transport = transport
    self.port = port
  }

  public init(_ frontend: Frontend) {
    self.init(
      address: frontend.address, family: frontend.family, transport: frontend.transport, port: frontend.port)
  }
}

/// What has changed in the service tables, for another data path that does the same: as it is now, not how it came about.
public struct ServiceChanges: Sendable {
  public struct Target: Sendable, Equatable {
    public var kind: Frontend.Kind
    public var policy: FrontendPolicy
    public var service: ServiceIndex

    public init(_ kind: Frontend.Kind, _ policy: FrontendPolicy, service: ServiceIndex) {
      self.kind = kind
      self.policy = policy
      self.service = service
    }
  }

  /// Service ports by their place; nil: gone.
  public var services: [ServiceIndex: ServicePort?] = [:]
  /// Frontends; nil: gone.
  public var frontends: [FrontendPlace: Target?] = [:]
  /// All addresses that NodePorts are served on; nil: they are as they were.
  public var nodePortAddresses: [IPAddress]?

  public init() {}

  public var isEmpty: Bool { services.isEmpty && frontends.isEmpty && nodePortAddresses == nil }
}

/// What somebody who follows the service tables has not seen yet.
struct UnseenServices {
  var services: Set<ServiceIndex> = []
  var frontends: Set<FrontendPlace> = []
  var nodePortAddresses = true
}

extension Tables {
  /// Begins to note changes of the service tables, as if all that is there had just come.
  public mutating func followServices() {
    var unseen = UnseenServices()
    for index in services.names.indices where services.services[index].inUse { unseen.services.insert(UInt32(index)) }
    services.frontends.visit { high, low, tag, _ in unseen.frontends.insert(FrontendPlace(high, low, tag)) }
    services.unseen = unseen
  }

  public mutating func unfollowServices() { services.unseen = nil }

  /// What changed since the last call; nothing where nobody follows.
  public mutating func takeServiceChanges() -> ServiceChanges {
    var changes = ServiceChanges()
    guard let unseen = services.unseen else { return changes }
    services.unseen = UnseenServices(nodePortAddresses: false)
    for index in unseen.services { changes.services[index] = .some(services.port(index)) }
    for place in unseen.frontends { changes.frontends[place] = .some(services.target(place)) }
    if unseen.nodePortAddresses { changes.nodePortAddresses = nodePortAddresses.addresses }
    return changes
  }
}

extension ServiceTable {
  /// A service port as it was given; nil: there is none.
  func port(_ index: ServiceIndex) -> ServicePort? {
    guard Int(index) < names.count else { return nil }
    let record = services[Int(index)]
    guard record.inUse else { return nil }
    return ServicePort(
      name: names[Int(index)], cluster: endpoints(of: index, isLocal: false),
      local: endpoints(of: index, isLocal: true), affinity: record.affinity,
      balancing: record.clusterMaglevSize > 0 || record.localMaglevSize > 0 ? .maglev : .random)
  }

  func target(_ place: FrontendPlace) -> ServiceChanges.Target? {
    guard
      let found = frontend(
        place.address, isIPv6: place.family == .ipv6, transport: place.transport, port: place.port)
    else { return nil }
    let record = frontendRecords[Int(found)]
    return ServiceChanges.Target(
      Frontend.Kind(rawValue: record.kind) ?? .clusterIP,
      FrontendPolicy(isLocal: record.isLocal, sourceRanges: ranges(of: found)), service: record.service)
  }
}

extension FrontendPlace {
  /// From a key of the frontends' table.
  fileprivate init(_ high: UInt64, _ low: UInt64, _ tag: UInt32) {
    let isIPv6 = tag & 1 << 25 != 0
    let isAny = high == .max && low == .max
    self.init(
      address: isAny
        ? nil
        : isIPv6
          ? .v6(IPv6Address(high: high, low: low)) : .v4(IPv4Address(rawValue: UInt32(truncatingIfNeeded: low))),
      family: isIPv6 ? .ipv6 : .ipv4, transport: UInt8(truncatingIfNeeded: tag >> 16),
      port: UInt16(truncatingIfNeeded: tag))
  }
}

/// The permutation tables of Maglev for a data path that keeps its own.
public enum MaglevTable {
  /// How long the table for a number of endpoints is.
  public static func size(for endpoints: Int) -> Int { Maglev.size(for: endpoints) }

  /// For each place the position of its endpoint in the list.
  public static func positions(_ endpoints: [ServicePort.Endpoint], size: Int) -> [Int] {
    Maglev.table(endpoints, size: size).map(Int.init)
  }
}
