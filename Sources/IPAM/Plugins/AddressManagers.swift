import Addresses
import CNI
import Glibc
import Synchronization

/// Finds who gives the addresses that a network configuration asks for: what its section `ipam` names.
public final class AddressManagers: Sendable {
  private let node: String
  private let storePath: String
  private let provider: (any AddressProvider)?
  private let state = Mutex(State())

  private struct State {
    var catalog = PoolCatalog(pools: [])
    var stores: [String: SQLiteStore] = [:]
    var warmPools: [String: WarmPoolManager] = [:]
  }

  /// `storePath`: the store where the section names none. `provider`: what warm pools get their addresses from.
  public init(node: String, storePath: String = SQLiteStore.defaultPath, provider: (any AddressProvider)? = nil) {
    self.node = node
    self.storePath = storePath
    self.provider = provider
  }

  /// The pools as they are now.
  public func setCatalog(_ catalog: PoolCatalog) { state.withLock { $0.catalog = catalog } }

  public var catalog: PoolCatalog { state.withLock { $0.catalog } }

  /// The manager for a request. `kalsae` and `host-local` are done here; any other type is a plugin that is run.
  public func manager(for request: CNIRequest) throws(IPAMError) -> any AddressManager {
    let section = request.configuration.json["ipam"] ?? .object([])
    switch request.configuration.addressManager {
    case nil:
      throw IPAMError(
        .configuration, "the network configuration has no section \"ipam\"; write \"ipam\": {\"type\": \"kalsae\"}")
    case let type where Self.isOwn(type):
      let settings = try AddressSettings(section)
      let path = section["store"]?.text ?? storePath
      switch settings.mode {
      case .block: return try blocks(path)
      case .hostLocal: return try HostLocalManager(HostLocalManager.Settings(request.configuration))
      case .warmPool: return try warmPool(path, settings.targets)
      }
    case "host-local": return try HostLocalManager(HostLocalManager.Settings(request.configuration))
    default: return try DelegatedManager(request)
    }
  }

  /// What a request of a runtime asks its manager for.
  public func assignRequest(for request: CNIRequest) throws(IPAMError) -> AssignRequest {
    var asked = AssignRequest(
      request.attachment, pod: request.pod, node: node, requested: request.requestedAddresses)
    if Self.isOwn(request.configuration.addressManager) {
      let settings = try AddressSettings(request.configuration.json["ipam"] ?? .object([]))
      asked.families = settings.families(node: node, catalog: catalog)
      asked.pools = settings.pools
    }
    return asked
  }

  private static func isOwn(_ type: String?) -> Bool { type == "kalsae" || type == "kalsae-ipam" }

  /// Whether `maintain` has anything to do.
  public var needsMaintenance: Bool { state.withLock { !$0.warmPools.isEmpty } }

  /// Does what is due from time to time: every few seconds. May take as long.
  public func maintain() throws(IPAMError) {
    for pool in state.withLock({ Array($0.warmPools.values) }) { try pool.maintain() }
  }

  /// The blocks that nodes hold in the stores that are in use.
  public func blocks() -> [String: [IPPrefix]] {
    var result: [String: [IPPrefix]] = [:]
    // What was given before this process started counts too.
    if unsafe access(storePath, F_OK) == 0 { _ = try? store(storePath) }
    for path in state.withLock({ $0.stores.keys.sorted() }) {
      guard let snapshot = try? blocks(path).snapshot() else { continue }
      for affinity in snapshot.affinities where affinity.state == .confirmed {
        result[affinity.node, default: []].append(affinity.cidr)
      }
    }
    return result
  }

  private func blocks(_ path: String) throws(IPAMError) -> BlockManager {
    BlockManager(store: try store(path)) { [self] in catalog }
  }

  private func warmPool(_ path: String, _ targets: WarmPoolTargets) throws(IPAMError) -> WarmPoolManager {
    guard let provider else {
      throw IPAMError(
        .configuration,
        "ipam.mode is \"warm-pool\", and there is no provider of interfaces on this machine; use the mode "
          + "\"block\"")
    }
    let store = try store(path)
    return state.withLock { state in
      if let pool = state.warmPools[path] { return pool }
      let pool = WarmPoolManager(store: store, provider: provider, targets: targets)
      state.warmPools[path] = pool
      return pool
    }
  }

  /// A store is opened once.
  private func store(_ path: String) throws(IPAMError) -> SQLiteStore {
    if let store = state.withLock({ $0.stores[path] }) { return store }
    if let end = path.lastIndex(of: "/"), end > path.startIndex {
      try Files.makeFolder(String(path[..<end]), mode: 0o700)
    }
    let store = try SQLiteStore(path: path)
    return state.withLock { state in
      if let other = state.stores[path] { return other }
      state.stores[path] = store
      return store
    }
  }
}
