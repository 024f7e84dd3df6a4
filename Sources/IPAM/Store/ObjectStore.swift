/// The kinds of object that are kept.
public enum ObjectKind: String, Sendable, CaseIterable {
  case configuration
  case block
  case affinity
  case handle
  /// An interface of a warm pool.
  case interface
}

/// Where address managers keep their objects: by kind and key, each with the revision of its last change.
///
/// Every write is a compare-and-swap: it names the revision that it replaces. Revisions rise with every change of the
/// store and never come again, not even for an object that was deleted and made anew, so that no writer can mistake
/// an object for the one that it has read (IPAM-2). Any store with such revisions will do: SQLite on one machine, or
/// a service that several machines share.
public protocol ObjectStore: Sendable {
  /// Runs `body`, whose reads see one state, and then makes its writes all at once, if what it read of the objects
  /// that it writes is still so; else it begins anew, a bounded number of times. Nothing is written where `body` throws.
  func update<R>(_ body: (any StoreTransaction) throws -> R) throws -> R

  /// Runs `body` on one state, without writing.
  func read<R>(_ body: (any StoreTransaction) throws -> R) throws -> R
}

/// One state of a store, and what is to be written to it.
public protocol StoreTransaction: AnyObject {
  func get(_ kind: ObjectKind, _ key: String) throws -> StoredObject?
  /// The keys that begin with `prefix`, in order.
  func keys(_ kind: ObjectKind, prefix: String) throws -> [String]
  /// The objects whose keys begin with `prefix`, in the order of their keys.
  func list(_ kind: ObjectKind, prefix: String) throws -> [StoredObject]
  /// Writes an object; `replacing` is the revision that was read, nil where there was none.
  func put(_ kind: ObjectKind, _ key: String, _ value: [UInt8], replacing: Int64?) throws
  func delete(_ kind: ObjectKind, _ key: String, revision: Int64) throws
}

public struct StoredObject: Sendable, Equatable {
  public var key: String
  public var revision: Int64
  public var value: [UInt8]

  public init(key: String, revision: Int64, value: [UInt8]) {
    self.key = key
    self.revision = revision
    self.value = value
  }
}

/// An object has changed since it was read.
public struct StoreConflict: Error, Sendable {
  public init() {}
}
