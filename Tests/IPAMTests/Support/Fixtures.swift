import Addresses
import IPAM
import Model
import Synchronization

func pool(
  _ cidr: String, name: String = "pool", blockSize: Int? = nil, nodes: String = "all()", disabled: Bool = false
) -> IPPool {
  IPPool(
    metadata: ObjectMetadata(name: name), cidr: IPPrefix(cidr)!, blockSize: blockSize,
    nodeSelector: try! Selector(parsing: nodes), disabled: disabled)
}

func attachment(_ container: some CustomStringConvertible, _ interface: String = "eth0", network: String = "net")
  -> Attachment
{
  Attachment(network: network, containerID: "\(container)", interface: interface)
}

/// A block manager whose store, pools and clock the test holds.
final class Bench<Store: ObjectStore>: Sendable {
  let store: Store
  let catalog: Mutex<PoolCatalog>
  let clock = Mutex<Int64>(1_000_000)
  var manager: BlockManager {
    BlockManager(store: store, catalog: { self.catalog.withLock { $0 } }, time: { self.clock.withLock { $0 } })
  }

  init(_ store: Store, _ pools: [IPPool], reservations: [IPPrefix] = [], labels: [String: [String: String]] = [:]) {
    self.store = store
    catalog = Mutex(PoolCatalog(pools: pools, reservations: reservations, nodeLabels: labels))
  }

  func advance(_ seconds: Int64) { clock.withLock { $0 += seconds } }

  /// Adds a container and gives its addresses' text.
  @discardableResult
  func add(
    _ container: some CustomStringConvertible, node: String = "a", families: Set<IPFamily> = [.ipv4],
    requested: [IPAddress] = [], pools: [String] = []
  ) throws(IPAMError) -> [IPAddress] {
    try manager.assign(
      AssignRequest(
        attachment(container), pod: PodName(namespace: "default", name: "\(container)"), node: node,
        families: families, requested: requested, pools: pools)
    ).addresses.map(\.address)
  }

  func remove(_ container: some CustomStringConvertible) throws(IPAMError) {
    try manager.release(attachment(container))
  }

  /// The CIDRs of the blocks that a node has.
  func blocks(of node: String) throws -> [String] {
    try manager.snapshot().blocks.filter { $0.node == node }.map { "\($0.cidr)" }
  }

  func problems() throws -> [String] { try manager.snapshot().contradictions }
}

extension Bench<MemoryStore> {
  convenience init(_ pools: IPPool..., reservations: [IPPrefix] = [], labels: [String: [String: String]] = [:]) {
    self.init(MemoryStore(), pools, reservations: reservations, labels: labels)
  }
}
