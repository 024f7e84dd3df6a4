import Addresses
import CEBPF
import Dataplane

/// Where the service tables lie in the maps. Takes changes of the tables and says what is to be written: work is in
/// proportion to what changed. Knows nothing of the kernel.
struct ServiceMirror {
  /// How much room the maps have.
  struct Capacity: Equatable {
    var frontends = 1 << 12
    var services = 1 << 12
    var lists = 1 << 15
    var backends = 1 << 14
    var members = 1 << 14
    var ranges = 1 << 12

    init() {}

    /// Room for what is there and as much again.
    init(for changes: ServiceChanges) {
      func room(_ count: Int, _ least: Int) -> Int {
        var size = least
        while size < count * 2 { size *= 2 }
        return size
      }
      var backends = 0
      var words = 0
      for case let port? in changes.services.values {
        backends += Set(port.cluster).union(port.local).count
        words += Runs.size(ServiceMirror.listLength(port))
      }
      // Every cluster IP that is known takes an entry too.
      frontends = room(changes.frontends.count * 2, frontends)
      services = room(changes.services.count, services)
      lists = room(words, lists)
      self.backends = room(backends, self.backends)
      members = room(backends, members)
      ranges = room(changes.frontends.values.reduce(0) { $0 + ($1?.policy.sourceRanges?.count ?? 0) }, ranges)
    }
  }

  private struct InstalledService {
    var place: UInt32
    var port: ServicePort
    var list: UInt32
    var length: Int
    var endpoints: [ServicePort.Endpoint: UInt32]
    /// Whether its endpoints are members.
    var isLookedUp: Bool
  }

  private struct Member: Hashable {
    var identity: UInt64
    var endpoint: ServicePort.Endpoint
  }

  /// How many places of the tables have an endpoint in a set: a service port may change its place.
  private struct MemberCount {
    var cluster = 0
    var local = 0

    var sets: UInt32 {
      (cluster > 0 ? UInt32(KALSAE_MEMBER_CLUSTER) : 0) | (local > 0 ? UInt32(KALSAE_MEMBER_LOCAL) : 0)
    }
  }

  private struct InstalledFrontend {
    var place: UInt32
    var target: ServiceChanges.Target
  }

  private var servicePlaces: Places
  private var frontendPlaces: Places
  private var backendPlaces: Places
  private var runs: Runs
  private var services: [ServiceIndex: InstalledService] = [:]
  private var frontends: [FrontendPlace: InstalledFrontend] = [:]
  /// The service ports whose connections have no end that could be seen, so that endpoints are looked up.
  private var datagramServices: Set<ServiceIndex> = []
  /// Frontends by cluster IP (KP-37).
  private var known: [IPAddress: Int] = [:]
  private var addresses: Set<IPAddress> = []
  private let capacity: Capacity
  private var members: [Member: MemberCount] = [:]
  private var rangeCount = 0
  private var touchedMembers: [Member: MemberCount] = [:]
  private var touchedKnown: [IPAddress: Int] = [:]

  init(capacity: Capacity) {
    self.capacity = capacity
    servicePlaces = Places(capacity: capacity.services)
    frontendPlaces = Places(capacity: capacity.frontends)
    backendPlaces = Places(capacity: capacity.backends)
    runs = Runs(capacity: capacity.lists)
  }

  var serviceCount: Int { services.count }
  var frontendCount: Int { frontends.count }
  var endpointCount: Int { backendPlaces.used }

  /// Whether places were given back that programs may still look at.
  var isWaiting: Bool {
    servicePlaces.isWaiting || frontendPlaces.isWaiting || backendPlaces.isWaiting || runs.isWaiting
  }

  /// Has what was given back be used again. Only when all programs that were running then have ended.
  mutating func release() {
    servicePlaces.release()
    frontendPlaces.release()
    backendPlaces.release()
    runs.release()
  }

  /// Takes in changes. Where there is no room, the mirror is of no use any more: a larger one is to be made.
  mutating func apply(_ changes: ServiceChanges) throws(MapsAreFull) -> MapWrites {
    var writes = MapWrites()
    for (index, port) in changes.services {
      guard let old = services[index], old.port.name != port?.name else { continue }
      remove(index, old, &writes)
      datagramServices.remove(index)
    }
    for case (let place, let target?) in changes.frontends where place.transport == 17 {
      // A service port and its frontends come together, so that this is known before it is installed.
      datagramServices.insert(target.service)
    }
    for (index, port) in changes.services {
      if let port { try install(index, port, &writes) }
    }
    for (place, target) in changes.frontends {
      if let target, let service = services[target.service] {
        try lead(place, to: target, service.place, &writes)
      } else {
        remove(place, &writes)
      }
    }
    if let wanted = changes.nodePortAddresses {
      let wanted = Set(wanted)
      for address in wanted.subtracting(addresses) {
        writes.addresses.set(kalsae_address(address), UInt32(KALSAE_ADDRESS_NODE_PORT))
      }
      for address in addresses.subtracting(wanted) { writes.removedAddresses.append(kalsae_address(address)) }
      addresses = wanted
    }
    try settle(&writes)
    return writes
  }

  // MARK: Service ports

  private static func maglevSize(_ port: ServicePort, _ endpoints: [ServicePort.Endpoint]) -> Int {
    port.balancing == .maglev && !endpoints.isEmpty ? MaglevTable.size(for: endpoints.count) : 0
  }

  static func listLength(_ port: ServicePort) -> Int {
    Int(KALSAE_LIST_HEAD) + port.cluster.count + port.local.count + maglevSize(port, port.cluster)
      + maglevSize(port, port.local)
  }

  private mutating func install(_ index: ServiceIndex, _ port: ServicePort, _ writes: inout MapWrites)
    throws(MapsAreFull)
  {
    let old = services[index]
    if let old, old.port == port, old.isLookedUp || !datagramServices.contains(index) { return }
    let place = if let old { old.place } else { try servicePlaces.take() }
    var endpoints: [ServicePort.Endpoint: UInt32] = [:]
    for endpoint in port.cluster + port.local where endpoints[endpoint] == nil {
      if let known = old?.endpoints[endpoint] {
        endpoints[endpoint] = known
      } else {
        let backend = try backendPlaces.take()
        endpoints[endpoint] = backend
        writes.backends.set(backend, kalsae_backend(endpoint))
      }
    }
    let maglev = [Self.maglevSize(port, port.cluster), Self.maglevSize(port, port.local)]
    var words: [UInt64] = [
      UInt64(port.cluster.count) | UInt64(port.local.count) << 32, UInt64(maglev[0]) | UInt64(maglev[1]) << 32,
      UInt64(port.affinity), serviceIdentity(port.name),
    ]
    for endpoint in port.cluster + port.local { words.append(UInt64(endpoints[endpoint]!)) }
    for (set, size) in zip([port.cluster, port.local], maglev) where size > 0 {
      for position in MaglevTable.positions(set, size: size) { words.append(UInt64(endpoints[set[position]]!)) }
    }
    let list = try runs.take(words.count)
    for (offset, word) in words.enumerated() { writes.lists.set(list + UInt32(offset), word) }
    writes.services.set(place, kalsae_service(list: list, zero: 0))
    if let old {
      runs.give(back: old.list, old.length)
      for (endpoint, backend) in old.endpoints where endpoints[endpoint] == nil { backendPlaces.give(back: backend) }
    }
    let isLookedUp = port.affinity > 0 || datagramServices.contains(index)
    setMembers(of: port, isNeeded: isLookedUp, by: 1)
    if let old { setMembers(of: old.port, isNeeded: old.isLookedUp, by: -1) }
    services[index] = InstalledService(
      place: place, port: port, list: list, length: words.count, endpoints: endpoints, isLookedUp: isLookedUp)
  }

  /// Says which endpoints are in which set of a service port, for those who have to look whether one still is; nothing
  /// where nobody has to.
  private mutating func setMembers(of port: ServicePort, isNeeded: Bool, by change: Int) {
    guard isNeeded else { return }
    let identity = serviceIdentity(port.name)
    for (set, isLocal) in [(port.cluster, false), (port.local, true)] {
      for endpoint in set {
        let member = Member(identity: identity, endpoint: endpoint)
        let old = members[member] ?? MemberCount()
        if touchedMembers[member] == nil { touchedMembers[member] = old }
        var new = old
        if isLocal { new.local += change } else { new.cluster += change }
        members[member] = new.sets == 0 ? nil : new
      }
    }
  }

  /// Writes what became of members and known cluster IPs: one may have been given up by one and taken by another.
  private mutating func settle(_ writes: inout MapWrites) throws(MapsAreFull) {
    for (member, old) in touchedMembers {
      let sets = members[member]?.sets ?? 0
      if sets == old.sets { continue }
      let key = kalsae_member_key(member.identity, member.endpoint)
      if sets == 0 { writes.removedMembers.append(key) } else { writes.members.set(key, sets) }
    }
    touchedMembers.removeAll()
    for (address, old) in touchedKnown {
      let isKnown = known[address] != nil
      if isKnown == (old > 0) { continue }
      let key = kalsae_frontend_key(known: address)
      if isKnown { writes.frontends.set(key, 0) } else { writes.removedFrontends.append(key) }
    }
    touchedKnown.removeAll()
    guard members.count <= capacity.members, rangeCount <= capacity.ranges,
      frontends.count + known.count < capacity.frontends
    else { throw MapsAreFull() }
  }

  private mutating func count(_ address: IPAddress?, by change: Int) {
    guard let address else { return }
    let old = known[address] ?? 0
    if touchedKnown[address] == nil { touchedKnown[address] = old }
    known[address] = old + change > 0 ? old + change : nil
  }

  private mutating func remove(_ index: ServiceIndex, _ old: InstalledService, _ writes: inout MapWrites) {
    services[index] = nil
    servicePlaces.give(back: old.place)
    runs.give(back: old.list, old.length)
    for backend in old.endpoints.values { backendPlaces.give(back: backend) }
    setMembers(of: old.port, isNeeded: old.isLookedUp, by: -1)
  }

  // MARK: Frontends

  private mutating func lead(
    _ place: FrontendPlace, to target: ServiceChanges.Target, _ service: UInt32, _ writes: inout MapWrites
  ) throws(MapsAreFull) {
    let old = frontends[place]
    let number: UInt32
    if let old { number = old.place } else { number = try frontendPlaces.take() }
    let ranges = Set(target.policy.sourceRanges ?? [])
    let before = Set(old?.target.policy.sourceRanges ?? [])
    for range in ranges.subtracting(before) { writes.ranges.set(kalsae_range_key(number, range), 1) }
    for range in before.subtracting(ranges) { writes.removedRanges.append(kalsae_range_key(number, range)) }
    rangeCount += ranges.count - before.count
    let flags =
      (target.policy.isLocal ? KALSAE_FRONTEND_LOCAL : 0)
      | (target.policy.sourceRanges != nil ? KALSAE_FRONTEND_RANGES : 0)
    writes.frontendRecords.set(
      number, kalsae_frontend(service: service, kind: target.kind.rawValue, flags: UInt8(flags), zero: 0))
    if old == nil { writes.frontends.set(kalsae_frontend_key(place), number) }
    if target.kind == .clusterIP { count(place.address, by: 1) }
    if old?.target.kind == .clusterIP { count(place.address, by: -1) }
    frontends[place] = InstalledFrontend(place: number, target: target)
  }

  private mutating func remove(_ place: FrontendPlace, _ writes: inout MapWrites) {
    guard let old = frontends.removeValue(forKey: place) else { return }
    writes.removedFrontends.append(kalsae_frontend_key(place))
    for range in Set(old.target.policy.sourceRanges ?? []) {
      writes.removedRanges.append(kalsae_range_key(old.place, range))
      rangeCount -= 1
    }
    frontendPlaces.give(back: old.place)
    if old.target.kind == .clusterIP { count(place.address, by: -1) }
  }
}
