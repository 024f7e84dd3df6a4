import IPAM
import Synchronization

/// The process ended before this write.
struct Crash: Error {}

/// Objects in memory, with revisions as the real stores have them, and with what tests need: an end of the process
/// before any chosen write, and another writer between reading and writing.
final class MemoryStore: ObjectStore {
  private struct Contents {
    var objects: [ObjectKind: [String: StoredObject]] = [:]
    var revision: Int64 = 0
    /// Writes that still succeed; nil = all.
    var remaining: Int?
    var writes = 0
    /// Called before each commit, outside of the lock, once.
    var interloper: (@Sendable () -> Void)?
  }

  private let contents = Mutex(Contents())

  /// How many transactions have written something.
  var writes: Int { contents.withLock { $0.writes } }

  /// The process ends before the write after `count` more of them; nil = it does not.
  func crash(after count: Int?) { contents.withLock { $0.remaining = count } }

  /// Another writer acts between the reads and the write of the next transaction.
  func interfere(_ body: (@Sendable () -> Void)?) { contents.withLock { $0.interloper = body } }

  func update<R>(_ body: (any StoreTransaction) throws -> R) throws -> R {
    for _ in 0..<1000 {
      let transaction = MemoryTransaction(contents.withLock { $0.objects })
      let result = try body(transaction)
      let interloper = contents.withLock { contents in
        let body = contents.interloper
        contents.interloper = nil
        return body
      }
      interloper?()
      do {
        try commit(transaction.writes)
        return result
      } catch is StoreConflict {
        continue
      }
    }
    throw StoreConflict()
  }

  func read<R>(_ body: (any StoreTransaction) throws -> R) throws -> R {
    try body(MemoryTransaction(contents.withLock { $0.objects }))
  }

  private func commit(_ writes: [MemoryTransaction.Write]) throws {
    guard !writes.isEmpty else { return }
    try contents.withLock { contents in
      if let remaining = contents.remaining {
        guard remaining > 0 else { throw Crash() }
        contents.remaining = remaining - 1
      }
      for write in writes where contents.objects[write.kind]?[write.key]?.revision != write.expected {
        throw StoreConflict()
      }
      contents.revision += 1
      contents.writes += 1
      for write in writes {
        contents.objects[write.kind, default: [:]][write.key] = write.value.map {
          StoredObject(key: write.key, revision: contents.revision, value: $0)
        }
      }
    }
  }
}

private final class MemoryTransaction: StoreTransaction {
  struct Write {
    var kind: ObjectKind
    var key: String
    var expected: Int64?
    var value: [UInt8]?
  }

  private let objects: [ObjectKind: [String: StoredObject]]
  private(set) var writes: [Write] = []

  init(_ objects: [ObjectKind: [String: StoredObject]]) { self.objects = objects }

  func get(_ kind: ObjectKind, _ key: String) -> StoredObject? { objects[kind]?[key] }

  func keys(_ kind: ObjectKind, prefix: String) -> [String] { list(kind, prefix: prefix).map(\.key) }

  func list(_ kind: ObjectKind, prefix: String) -> [StoredObject] {
    (objects[kind] ?? [:]).values.filter { $0.key.hasPrefix(prefix) }.sorted { $0.key < $1.key }
  }

  func put(_ kind: ObjectKind, _ key: String, _ value: [UInt8], replacing: Int64?) {
    writes.append(Write(kind: kind, key: key, expected: replacing, value: value))
  }

  func delete(_ kind: ObjectKind, _ key: String, revision: Int64) {
    writes.append(Write(kind: kind, key: key, expected: revision, value: nil))
  }
}
