import Addresses
import CNI
import Glibc
import IPAM
import Synchronization

/// Finds who gives the addresses that a network configuration asks for: what its section "ipam" names.
final class AddressManagers: Sendable {
  private let node: String
  /// The store of block mode where the section names none.
  private let storePath: String
  private let state = Mutex(State())

  private struct State {
    var catalog = PoolCatalog(pools: [])
    var stores: [String: SQLiteStore] = [:]
  }

  init(node: String, storePath: String) {
    self.node = node
    self.storePath = storePath
  }

  /// The pools as they are now.
  func setCatalog(_ catalog: PoolCatalog) { state.withLock { $0.catalog = catalog } }

  func manager(for request: CNIRequest) throws(IPAMError) -> any AddressManager {
    let section = request.configuration.json["ipam"] ?? .object([])
    switch request.configuration.addressManager {
    case nil:
      throw IPAMError(
        .configuration, "the network configuration has no section \"ipam\"; write \"ipam\": {\"type\": \"kalsae\"}")
    case "kalsae":
      let mode = section["mode"]?.text ?? "blocks"
      guard mode == "blocks" else {
        throw IPAMError(.configuration, "ipam.mode is '\(mode)'; the agent gives addresses in the mode \"blocks\"")
      }
      return try blocks(section["store"]?.text ?? storePath)
    case "host-local": return try HostLocalManager(HostLocalManager.Settings(request))
    case let other?:
      throw IPAMError(
        .configuration, "ipam.type is '\(other)'; the agent gives addresses by \"kalsae\" and \"host-local\"")
    }
  }

  private func blocks(_ path: String) throws(IPAMError) -> BlockManager {
    BlockManager(store: try store(path)) { [self] in state.withLock { $0.catalog } }
  }

  /// A store is opened once.
  private func store(_ path: String) throws(IPAMError) -> SQLiteStore {
    if let store = state.withLock({ $0.stores[path] }) { return store }
    let store = try SQLiteStore(path: path)
    return state.withLock { state in
      if let other = state.stores[path] { return other }
      state.stores[path] = store
      return store
    }
  }

  /// The blocks that nodes hold in the stores that are in use.
  func blocks() -> [String: [IPPrefix]] {
    var result: [String: [IPPrefix]] = [:]
    // What was given before the agent started counts too.
    if unsafe access(storePath, F_OK) == 0 { _ = try? store(storePath) }
    for path in state.withLock({ $0.stores.keys.sorted() }) {
      guard let snapshot = try? blocks(path).snapshot() else { continue }
      for affinity in snapshot.affinities where affinity.state == .confirmed {
        result[affinity.node, default: []].append(affinity.cidr)
      }
    }
    return result
  }
}

extension HostLocalManager.Settings {
  /// What the reference plugin reads from its section: `ranges`, or the one range of old.
  init(_ request: CNIRequest) throws(IPAMError) {
    let section = request.configuration.json["ipam"] ?? .object([])
    var sets: [[JSON]] = (section["ranges"]?.elements ?? []).map { $0.elements ?? [] }
    if section["subnet"] != nil { sets.insert([section], at: 0) }
    if let more = request.configuration.runtime.ipRanges?.elements { sets += more.map { $0.elements ?? [] } }
    var ranges: [RangeSet] = []
    for set in sets {
      var list: [AddressRange] = []
      for range in set { list.append(try AddressRange(range)) }
      ranges.append(try RangeSet(list))
    }
    self.init(network: request.configuration.name, rangeSets: ranges)
    dataFolder = section["dataDir"]?.text
    for route in section["routes"]?.elements ?? [] {
      guard let destination = route["dst"]?.text.flatMap({ IPPrefix($0) }) else {
        throw IPAMError(.configuration, "ipam.routes has \(route.serialized); each has a \"dst\" such as 0.0.0.0/0")
      }
      routes.append(AssignedRoute(destination: destination, gateway: route["gw"]?.text.flatMap { IPAddress($0) }))
    }
  }
}

extension AddressRange {
  init(_ json: JSON) throws(IPAMError) {
    guard let subnet = json["subnet"]?.text.flatMap({ IPPrefix($0) }) else {
      throw IPAMError(.configuration, "a range of ipam has no \"subnet\"; give it one such as 10.244.1.0/24")
    }
    func address(_ field: String) throws(IPAMError) -> IPAddress? {
      guard let text = json[field]?.text, !text.isEmpty else { return nil }
      guard let address = IPAddress(text) else {
        throw IPAMError(.configuration, "ipam: \(field) is '\(text)', no address; correct it or leave it out")
      }
      return address
    }
    try self.init(
      subnet: subnet, start: try address("rangeStart"), end: try address("rangeEnd"), gateway: try address("gateway"))
  }
}
