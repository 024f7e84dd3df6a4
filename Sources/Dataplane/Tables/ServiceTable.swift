import Addresses

/// The place of a service port in its table.
public typealias ServiceIndex = UInt32
/// The place of an endpoint of a service port in its table. 0 is none.
public typealias BackendIndex = UInt32

/// How a new connection gets its endpoint (KP-15).
public enum LoadBalancing: UInt8, Sendable {
  case random
  /// By the hash of the connection's addresses and ports (Maglev, NSDI 2016): nodes agree without talking, and few
  /// connections move when an endpoint goes.
  case maglev
}

/// One port of a service as the packet path needs it: which endpoints new connections may go to.
public struct ServicePort: Sendable, Equatable {
  public struct Endpoint: Sendable, Hashable, Comparable {
    public var address: IPAddress
    public var port: UInt16

    public init(_ address: IPAddress, _ port: UInt16) {
      self.address = address
      self.port = port
    }

    public static func < (a: Endpoint, b: Endpoint) -> Bool { (a.address, a.port) < (b.address, b.port) }
  }

  /// `namespace/name:port`, for people.
  public var name: String
  /// The endpoints that pass readiness and topology, on any node (KP-10).
  public var cluster: [Endpoint]
  /// Those on this node (KP-11).
  public var local: [Endpoint]
  /// Seconds that a client stays with its endpoint (KP-50); 0: no affinity.
  public var affinity: UInt32
  public var balancing: LoadBalancing

  public init(
    name: String, cluster: [Endpoint], local: [Endpoint], affinity: UInt32 = 0, balancing: LoadBalancing = .random
  ) {
    self.name = name
    self.cluster = cluster
    self.local = local
    self.affinity = affinity
    self.balancing = balancing
  }
}

/// An address and port that a service is reached by.
public struct Frontend: Sendable, Hashable {
  public enum Kind: UInt8, Sendable {
    case clusterIP
    case externalIP
    case loadBalancer
    case nodePort
  }

  public var kind: Kind
  /// nil: every address that NodePorts are served on.
  public var address: IPAddress?
  public var family: IPFamily
  /// The IP protocol number.
  public var transport: UInt8
  public var port: UInt16

  public init(_ kind: Kind, address: IPAddress?, family: IPFamily, transport: UInt8, port: UInt16) {
    self.kind = kind
    self.address = address
    self.family = family
    self.transport = transport
    self.port = port
  }
}

/// What holds for the connections that come by a frontend.
public struct FrontendPolicy: Sendable, Hashable {
  /// Only endpoints of this node (internal or external traffic policy, as the frontend's kind says).
  public var isLocal: Bool
  /// Who may connect (KP-38); nil: all.
  public var sourceRanges: [IPPrefix]?

  public init(isLocal: Bool, sourceRanges: [IPPrefix]? = nil) {
    self.isLocal = isLocal
    self.sourceRanges = sourceRanges
  }
}

struct FrontendRecord: BitwiseCopyable {
  var service: ServiceIndex
  var kind: Frontend.Kind.RawValue
  var isLocal: Bool
  var hasSourceRanges: Bool
}

struct ServiceRecord: BitwiseCopyable {
  /// Where the endpoints are listed: those of the cluster, then those of the node.
  var list: UInt32
  var clusterCount: UInt32
  var localCount: UInt32
  var affinity: UInt32
  /// Where the Maglev tables are, cluster then local, and how long they are; 0: chosen at random.
  var maglev: UInt32
  var clusterMaglevSize: UInt32
  var localMaglevSize: UInt32
  var inUse: Bool
}

/// An endpoint of one service port. Its generation counts how often the place changed hands.
struct BackendRecord: BitwiseCopyable {
  var high: UInt64
  var low: UInt64
  var port: UInt16
  var isIPv6: Bool
  var inUse: Bool
  var generation: UInt32
  var service: ServiceIndex

  @inline(__always)
  var address: IPAddress {
    isIPv6 ? .v6(IPv6Address(high: high, low: low)) : .v4(IPv4Address(rawValue: UInt32(truncatingIfNeeded: low)))
  }
}

/// What leads from a frontend to an endpoint: see `MemoryView`.
struct ServiceTableView: BitwiseCopyable {
  let numbers: AddressTableView
  let frontends: MemoryView<FrontendRecord>
  let services: MemoryView<ServiceRecord>
  let lists: MemoryView<UInt32>
  let backends: MemoryView<BackendRecord>

  /// The frontend that packets to an address and port belong to; nil: none. `address` nil asks for NodePorts.
  @inline(__always)
  func frontend(_ address: IPAddress?, isIPv6: Bool, transport: UInt8, port: UInt16) -> UInt32? {
    let (high, low) = ServiceTable.words(address)
    return numbers.find(high, low, tag: ServiceTable.tag(transport, port, isIPv6: isIPv6))
  }

  /// Asks for the place of a frontend.
  @inline(__always)
  func prefetchFrontend(_ address: IPAddress?, isIPv6: Bool, transport: UInt8, port: UInt16) {
    let (high, low) = ServiceTable.words(address)
    numbers.prefetch(high, low, tag: ServiceTable.tag(transport, port, isIPv6: isIPv6))
  }
}

/// The services: a hash probe from (address, protocol, port) to a frontend, and from there to endpoints by index. Cost and
/// memory per service do not depend on how many there are: some 24 octets a frontend, 32 a service port, 32 an endpoint
/// and 4 for its place in a list.
struct ServiceTable: ~Copyable {
  private(set) var frontends = AddressTable()
  private(set) var frontendRecords = Memory<FrontendRecord>(count: 256)
  private var frontendCount = 1
  private var freeFrontends: [UInt32] = []
  private var sourceRanges: [UInt32: [IPPrefix]] = [:]

  private(set) var services = Memory<ServiceRecord>(count: 256)
  private(set) var names: [String] = [""]
  private var freeServices: [ServiceIndex] = []
  private(set) var lists = WordHeap()

  private(set) var backends = Memory<BackendRecord>(count: 256)
  private var backendCount = 1
  private var freeBackends: [BackendIndex] = []
  /// The endpoints of each service port in order, with their places, for the control side.
  private(set) var installed: [[InstalledEndpoint]] = [[]]

  struct InstalledEndpoint {
    var endpoint: ServicePort.Endpoint
    var place: BackendIndex
  }

  /// Cluster IPs that some service has, with the number of their frontends (KP-37).
  private(set) var knownAddresses = AddressTable()
  /// The blocks of cluster IPs (KP-37).
  var serviceBlocks: [IPPrefix] = []
  /// What somebody who follows the table has not seen yet; nil: nobody does.
  var unseen: UnseenServices?

  @inline(__always)
  fileprivate static func tag(_ transport: UInt8, _ port: UInt16, isIPv6: Bool) -> UInt32 {
    (isIPv6 ? 1 << 25 : 1 << 24) | UInt32(transport) << 16 | UInt32(port)
  }

  @inline(__always)
  fileprivate static func words(_ address: IPAddress?) -> (UInt64, UInt64) {
    switch address {
    case .v4(let a): (0, UInt64(a.rawValue))
    case .v6(let a): (a.high, a.low)
    // An address that nobody has stands for all that NodePorts are served on.
    case nil: (.max, .max)
    }
  }

  /// How full the tables are.
  var use: [TableUse] {
    [
      TableUse(
        .frontends, frontends.count, of: frontends.capacity,
        octets: frontends.octets + frontendRecords.octets + knownAddresses.octets, grows: true),
      TableUse(
        .services, names.count - 1 - freeServices.count, of: services.count, octets: services.octets, grows: true),
      TableUse(
        .backends, backendCount - 1 - freeBackends.count, of: backends.count, octets: backends.octets, grows: true),
      TableUse(.serviceLists, lists.used, of: lists.capacity, octets: lists.octets, grows: true),
    ]
  }

  /// The frontend that packets to an address and port belong to; nil: none. `address` nil asks for NodePorts.
  @inline(__always)
  func frontend(_ address: IPAddress?, isIPv6: Bool, transport: UInt8, port: UInt16) -> UInt32? {
    view.frontend(address, isIPv6: isIPv6, transport: transport, port: port)
  }

  /// What leads from a frontend to an endpoint, for a loop: see `MemoryView`.
  var view: ServiceTableView {
    @inline(__always) get {
      ServiceTableView(
        numbers: frontends.view, frontends: frontendRecords.view, services: services.view, lists: lists.view,
        backends: backends.view)
    }
  }

  /// Whether the table is more than a core's first cache holds beside the rest.
  var isLarge: Bool { frontends.count > 256 }

  func ranges(of frontend: UInt32) -> [IPPrefix]? { sourceRanges[frontend] }

  /// Whether some service has the cluster IP, on whatever port.
  func isKnown(_ address: IPAddress) -> Bool { knownAddresses.find(address) != nil }

  func name(of service: ServiceIndex) -> String { Int(service) < names.count ? names[Int(service)] : "" }

  /// The endpoints of a set, sorted, for people.
  func endpoints(of service: ServiceIndex, isLocal: Bool) -> [ServicePort.Endpoint] {
    let record = services[Int(service)]
    let first = Int(record.list) + (isLocal ? Int(record.clusterCount) : 0)
    return (first..<first + Int(isLocal ? record.localCount : record.clusterCount)).map { position in
      let backend = backends[Int(lists[position])]
      return ServicePort.Endpoint(backend.address, backend.port)
    }.sorted()
  }

  // MARK: Changes

  mutating func addService(_ port: ServicePort) -> ServiceIndex {
    let index = freeServices.popLast() ?? ServiceIndex(names.count)
    if Int(index) == names.count {
      names.append("")
      installed.append([])
    }
    if Int(index) >= services.count { services.grow(to: services.count * 2) }
    services[Int(index)] = ServiceRecord(
      list: 0, clusterCount: 0, localCount: 0, affinity: 0, maglev: 0, clusterMaglevSize: 0, localMaglevSize: 0,
      inUse: true)
    updateService(index, port)
    return index
  }

  /// Brings a service port up to date. Endpoints that stay keep their place and generation.
  mutating func updateService(_ index: ServiceIndex, _ port: ServicePort) {
    unseen?.services.insert(index)
    names[Int(index)] = port.name
    let old = installed[Int(index)]
    var places: [InstalledEndpoint] = []
    places.reserveCapacity(port.cluster.count)
    var next = 0
    // Both in order: what is in both stays.
    for endpoint in ServiceTable.union(port.cluster, port.local) {
      while next < old.count, old[next].endpoint < endpoint {
        removeBackend(old[next].place)
        next += 1
      }
      if next < old.count, old[next].endpoint == endpoint {
        places.append(old[next])
        next += 1
      } else {
        places.append(InstalledEndpoint(endpoint: endpoint, place: addBackend(endpoint, index)))
      }
    }
    for endpoint in old[next...] { removeBackend(endpoint.place) }
    installed[Int(index)] = places

    var record = services[Int(index)]
    let words = (port.cluster + port.local).map { ServiceTable.place(of: $0, in: places) }
    lists.free(record.list, Int(record.clusterCount + record.localCount))
    record.list = lists.allocate(words)
    record.clusterCount = UInt32(port.cluster.count)
    record.localCount = UInt32(port.local.count)
    record.affinity = port.affinity
    lists.free(record.maglev, Int(record.clusterMaglevSize + record.localMaglevSize))
    record.maglev = 0
    record.clusterMaglevSize = 0
    record.localMaglevSize = 0
    if port.balancing == .maglev {
      func table(_ endpoints: [ServicePort.Endpoint]) -> [BackendIndex] {
        let own = endpoints.map { ServiceTable.place(of: $0, in: places) }
        return Maglev.table(endpoints, size: Maglev.size(for: endpoints.count)).map { own[Int($0)] }
      }
      let cluster = table(port.cluster)
      let local = table(port.local)
      record.maglev = lists.allocate(cluster + local)
      record.clusterMaglevSize = UInt32(cluster.count)
      record.localMaglevSize = UInt32(local.count)
    }
    services[Int(index)] = record
  }

  /// The endpoints of either set, each once, in order.
  private static func union(
    _ cluster: [ServicePort.Endpoint], _ local: [ServicePort.Endpoint]
  ) -> [ServicePort.Endpoint] {
    var all = local.isEmpty ? cluster : cluster + local
    if zip(all, all.dropFirst()).allSatisfy({ $0 < $1 }) { return all }
    all.sort()
    return all.indices.filter { $0 == 0 || all[$0] != all[$0 - 1] }.map { all[$0] }
  }

  /// The place of an endpoint of a service port; nil: it does not offer it.
  func backend(of endpoint: ServicePort.Endpoint, in service: ServiceIndex) -> BackendIndex? {
    installed[Int(service)].first { $0.endpoint == endpoint }?.place
  }

  /// The place of an endpoint, which must be there.
  private static func place(of endpoint: ServicePort.Endpoint, in places: [InstalledEndpoint]) -> BackendIndex {
    var (low, high) = (0, places.count - 1)
    while low < high {
      let middle = (low + high) / 2
      if places[middle].endpoint < endpoint { low = middle + 1 } else { high = middle }
    }
    return places[low].place
  }

  mutating func removeService(_ index: ServiceIndex) {
    unseen?.services.insert(index)
    let record = services[Int(index)]
    for endpoint in installed[Int(index)] { removeBackend(endpoint.place) }
    installed[Int(index)] = []
    lists.free(record.list, Int(record.clusterCount + record.localCount))
    lists.free(record.maglev, Int(record.clusterMaglevSize + record.localMaglevSize))
    services[Int(index)].inUse = false
    names[Int(index)] = ""
    freeServices.append(index)
  }

  private mutating func addBackend(_ endpoint: ServicePort.Endpoint, _ service: ServiceIndex) -> BackendIndex {
    let index = freeBackends.popLast() ?? BackendIndex(backendCount)
    if Int(index) == backendCount { backendCount += 1 }
    if Int(index) >= backends.count { backends.grow(to: backends.count * 2) }
    let (high, low) = ServiceTable.words(endpoint.address)
    backends[Int(index)] = BackendRecord(
      high: high, low: low, port: endpoint.port, isIPv6: endpoint.address.family == .ipv6, inUse: true,
      generation: backends[Int(index)].generation &+ 1, service: service)
    return index
  }

  private mutating func removeBackend(_ index: BackendIndex) {
    backends[Int(index)].inUse = false
    backends[Int(index)].generation &+= 1
    freeBackends.append(index)
  }

  mutating func setFrontend(_ frontend: Frontend, _ policy: FrontendPolicy, service: ServiceIndex) {
    unseen?.frontends.insert(FrontendPlace(frontend))
    let (high, low) = ServiceTable.words(frontend.address)
    let tag = ServiceTable.tag(frontend.transport, frontend.port, isIPv6: frontend.family == .ipv6)
    let index: UInt32
    if let known = frontends.find(high, low, tag: tag) {
      index = known
      forget(known, frontend.address)
    } else {
      index = freeFrontends.popLast() ?? UInt32(frontendCount)
      if index == UInt32(frontendCount) { frontendCount += 1 }
      if Int(index) >= frontendRecords.count { frontendRecords.grow(to: frontendRecords.count * 2) }
      frontends.insert(high, low, tag: tag, value: index)
    }
    if frontend.kind == .clusterIP, let address = frontend.address {
      knownAddresses.insert(address, value: (knownAddresses.find(address) ?? 0) + 1)
    }
    sourceRanges[index] = policy.sourceRanges
    frontendRecords[Int(index)] = FrontendRecord(
      service: service, kind: frontend.kind.rawValue, isLocal: policy.isLocal,
      hasSourceRanges: policy.sourceRanges != nil)
  }

  mutating func removeFrontend(_ frontend: Frontend) {
    unseen?.frontends.insert(FrontendPlace(frontend))
    let (high, low) = ServiceTable.words(frontend.address)
    let tag = ServiceTable.tag(frontend.transport, frontend.port, isIPv6: frontend.family == .ipv6)
    guard let index = frontends.find(high, low, tag: tag) else { return }
    frontends.remove(high, low, tag: tag)
    forget(index, frontend.address)
    sourceRanges[index] = nil
    freeFrontends.append(index)
  }

  /// Counts a frontend at a cluster IP less.
  private mutating func forget(_ index: UInt32, _ address: IPAddress?) {
    guard frontendRecords[Int(index)].kind == Frontend.Kind.clusterIP.rawValue, let address,
      let count = knownAddresses.find(address)
    else { return }
    if count > 1 { knownAddresses.insert(address, value: count - 1) } else { knownAddresses.remove(address) }
  }
}

extension ServicePort.Endpoint: CustomStringConvertible {
  /// `10.0.0.1:80`, `[fd00::1]:80`
  public var description: String {
    switch address {
    case .v4(let a): "\(a):\(port)"
    case .v6(let a): "[\(a)]:\(port)"
    }
  }
}
