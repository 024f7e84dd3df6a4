import Addresses
import FoundationEssentials

/// The objects of a store in a transaction, typed. Writes name the revision that was read.
struct Objects {
  let transaction: any StoreTransaction

  init(_ transaction: any StoreTransaction) { self.transaction = transaction }

  /// An object and the revision under which it was read; nil where it is new.
  struct Versioned<Value> {
    var value: Value
    var revision: Int64?
  }

  // MARK: Blocks

  func block(_ cidr: IPPrefix) throws -> Versioned<Block>? { try get(.block, "\(cidr)") }

  func blockCIDRs() throws -> [IPPrefix] {
    try transaction.keys(.block, prefix: "").compactMap { IPPrefix($0) }
  }

  func blocks() throws -> [Versioned<Block>] { try list(.block, prefix: "") }

  func put(_ block: Versioned<Block>) throws { try put(.block, "\(block.value.cidr)", block) }

  func delete(_ block: Versioned<Block>) throws { try delete(.block, "\(block.value.cidr)", block) }

  // MARK: Affinities

  func affinity(_ node: String, _ cidr: IPPrefix) throws -> Versioned<Affinity>? {
    try get(.affinity, Affinity.key(node, cidr))
  }

  func affinities(of node: String) throws -> [Versioned<Affinity>] { try list(.affinity, prefix: "\(node)|") }

  func affinities() throws -> [Versioned<Affinity>] { try list(.affinity, prefix: "") }

  func put(_ affinity: Versioned<Affinity>) throws {
    try put(.affinity, Affinity.key(affinity.value.node, affinity.value.cidr), affinity)
  }

  func delete(_ affinity: Versioned<Affinity>) throws {
    try delete(.affinity, Affinity.key(affinity.value.node, affinity.value.cidr), affinity)
  }

  // MARK: Handles

  func handle(_ attachment: Attachment) throws -> Versioned<Handle>? { try get(.handle, attachment.handle) }

  func handles(ofNetwork network: String) throws -> [Versioned<Handle>] { try list(.handle, prefix: "\(network)|") }

  func handles() throws -> [Versioned<Handle>] { try list(.handle, prefix: "") }

  func put(_ handle: Versioned<Handle>) throws { try put(.handle, handle.value.attachment.handle, handle) }

  func delete(_ handle: Versioned<Handle>) throws { try delete(.handle, handle.value.attachment.handle, handle) }

  // MARK: Warm pools

  func interfaces() throws -> [Versioned<WarmInterface>] { try list(.interface, prefix: "") }

  func interface(_ id: String) throws -> Versioned<WarmInterface>? { try get(.interface, id) }

  func put(_ interface: Versioned<WarmInterface>) throws { try put(.interface, interface.value.id, interface) }

  func delete(_ interface: Versioned<WarmInterface>) throws { try delete(.interface, interface.value.id, interface) }

  // MARK: Configuration

  func configuration() throws -> Versioned<IPAMConfiguration> {
    try get(.configuration, "default") ?? Versioned(value: IPAMConfiguration(), revision: nil)
  }

  func put(_ configuration: Versioned<IPAMConfiguration>) throws {
    try put(.configuration, "default", configuration)
  }

  // MARK: Coding

  private func get<T: Decodable>(_ kind: ObjectKind, _ key: String) throws -> Versioned<T>? {
    try transaction.get(kind, key).map { try Versioned(value: decode(kind, $0), revision: $0.revision) }
  }

  private func list<T: Decodable>(_ kind: ObjectKind, prefix: String) throws -> [Versioned<T>] {
    try transaction.list(kind, prefix: prefix).map { try Versioned(value: decode(kind, $0), revision: $0.revision) }
  }

  private func decode<T: Decodable>(_ kind: ObjectKind, _ object: StoredObject) throws -> T {
    do {
      return try JSONDecoder().decode(T.self, from: Data(object.value))
    } catch {
      throw IPAMError(
        .storage,
        "the \(kind.rawValue) \(object.key) of the address store cannot be read: \(error). It was written by "
          + "a newer kalsae, or the store is damaged; update, or restore the store")
    }
  }

  private func put<T: Encodable>(_ kind: ObjectKind, _ key: String, _ object: Versioned<T>) throws {
    try transaction.put(kind, key, [UInt8](JSONEncoder().encode(object.value)), replacing: object.revision)
  }

  private func delete<T>(_ kind: ObjectKind, _ key: String, _ object: Versioned<T>) throws {
    guard let revision = object.revision else { return }
    try transaction.delete(kind, key, revision: revision)
  }
}

extension ObjectStore {
  func updateObjects<R>(_ body: (Objects) throws -> R) throws(IPAMError) -> R {
    do { return try update { try body(Objects($0)) } } catch { throw IPAMError(wrapping: error) }
  }

  func readObjects<R>(_ body: (Objects) throws -> R) throws(IPAMError) -> R {
    do { return try read { try body(Objects($0)) } } catch { throw IPAMError(wrapping: error) }
  }
}

extension IPAMError {
  init(wrapping error: any Error) {
    switch error {
    case let error as IPAMError: self = error
    case is StoreConflict:
      self.init(.busy, "the address store changed with every attempt to write to it; try again")
    default: self.init(.storage, "the address store failed: \(error)")
    }
  }
}
