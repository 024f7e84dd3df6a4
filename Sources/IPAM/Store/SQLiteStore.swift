import FoundationEssentials
import GRDB
import Glibc

/// Objects in an SQLite database file, for any number of processes of one machine.
///
/// A write takes the database's write lock before it reads (BEGIN IMMEDIATE), so that writers never work in vain, and
/// is on the disk when it returns (write-ahead log, `synchronous = FULL`). Who waits for the lock asks again at short,
/// random intervals that do not grow, so that no process waits longer than the others.
public final class SQLiteStore: ObjectStore {
  /// Where the agent of a machine keeps its addresses.
  public static let defaultPath = "/var/lib/kalsae/ipam.db"

  /// The database file.
  public let path: String
  private let queue: DatabaseQueue

  /// Opens or makes the database. `wait`: how long a write waits for others, at most.
  public init(path: String, wait: Duration = .seconds(20)) throws(IPAMError) {
    self.path = path
    var configuration = Configuration()
    configuration.label = "ipam"
    // Reads must not upgrade to writes half way.
    configuration.readonly = false
    configuration.busyMode = .callback { attempts in
      // The mean pause is half a millisecond: the number of attempts bounds the time.
      guard attempts < Int(wait / .microseconds(500)) else { return false }
      usleep(UInt32.random(in: 100...900))
      return true
    }
    configuration.prepareDatabase { database in
      try database.execute(sql: "PRAGMA synchronous = FULL")
    }
    do {
      queue = try DatabaseQueue(path: path, configuration: configuration)
      try queue.inDatabase { database in
        if try String.fetchOne(database, sql: "PRAGMA journal_mode")?.lowercased() != "wal" {
          try database.execute(sql: "PRAGMA journal_mode = WAL")
        }
      }
      try migrate()
    } catch {
      throw IPAMError(opening: path, error)
    }
  }

  private func migrate() throws {
    let version = try queue.inDatabase { try Int.fetchOne($0, sql: "PRAGMA user_version") ?? 0 }
    guard version != Self.version else { return }
    try queue.writeWithoutTransaction { database in
      try database.inTransaction(.immediate) {
        // Another process may have been faster.
        switch try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0 {
        case 0:
          try database.execute(
            sql: """
              CREATE TABLE object (
                kind TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, value BLOB NOT NULL,
                PRIMARY KEY (kind, key));
              CREATE TABLE revision (last INTEGER NOT NULL);
              INSERT INTO revision VALUES (0);
              PRAGMA user_version = \(Self.version);
              """)
        case Self.version: break
        case let other:
          throw IPAMError(
            .storage, "\(path) has version \(other) of the address store, which this kalsae does not know; update it")
        }
        return .commit
      }
    }
  }

  private static let version = 1

  public func update<R>(_ body: (any StoreTransaction) throws -> R) throws -> R {
    try run { database in
      var result: R?
      try database.inTransaction(.immediate) {
        let transaction = SQLiteTransaction(database)
        result = try body(transaction)
        try transaction.finish()
        return .commit
      }
      return result!
    }
  }

  public func read<R>(_ body: (any StoreTransaction) throws -> R) throws -> R {
    try run { database in
      var result: R?
      try database.inTransaction(.deferred) {
        result = try body(SQLiteTransaction(database))
        return .commit
      }
      return result!
    }
  }

  private func run<R>(_ body: (Database) throws -> R) throws -> R {
    do {
      return try queue.writeWithoutTransaction(body)
    } catch let error as DatabaseError {
      throw IPAMError(using: path, error)
    }
  }

  /// Whether the file is sound, in SQLite's eyes; what is wrong with it otherwise.
  public func integrity() throws -> [String] {
    try run { try String.fetchAll($0, sql: "PRAGMA integrity_check(20)") }.filter { $0 != "ok" }
  }
}

private final class SQLiteTransaction: StoreTransaction {
  private let database: Database
  /// The revision that this transaction's writes have; nil as long as there are none.
  private var revision: Int64?

  init(_ database: Database) { self.database = database }

  func get(_ kind: ObjectKind, _ key: String) throws -> StoredObject? {
    let statement = try database.cachedStatement(sql: "SELECT revision, value FROM object WHERE kind = ? AND key = ?")
    return try Row.fetchOne(statement, arguments: [kind.rawValue, key]).map { row in
      StoredObject(key: key, revision: row[0], value: [UInt8](row[1] as Data))
    }
  }

  func keys(_ kind: ObjectKind, prefix: String) throws -> [String] {
    let statement = try database.cachedStatement(
      sql: "SELECT key FROM object WHERE kind = ? AND key >= ? AND key < ? ORDER BY key")
    return try String.fetchAll(statement, arguments: [kind.rawValue, prefix, prefix + "\u{10FFFF}"])
  }

  func list(_ kind: ObjectKind, prefix: String) throws -> [StoredObject] {
    let statement = try database.cachedStatement(
      sql: "SELECT key, revision, value FROM object WHERE kind = ? AND key >= ? AND key < ? ORDER BY key")
    return try Row.fetchAll(statement, arguments: [kind.rawValue, prefix, prefix + "\u{10FFFF}"]).map { row in
      StoredObject(key: row[0], revision: row[1], value: [UInt8](row[2] as Data))
    }
  }

  func put(_ kind: ObjectKind, _ key: String, _ value: [UInt8], replacing: Int64?) throws {
    let next = try nextRevision()
    if let replacing {
      let statement = try database.cachedStatement(
        sql: "UPDATE object SET revision = ?, value = ? WHERE kind = ? AND key = ? AND revision = ?")
      try statement.execute(arguments: [next, Data(value), kind.rawValue, key, replacing])
    } else {
      let statement = try database.cachedStatement(
        sql: "INSERT INTO object (kind, key, revision, value) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING")
      try statement.execute(arguments: [kind.rawValue, key, next, Data(value)])
    }
    guard database.changesCount == 1 else { throw StoreConflict() }
  }

  func delete(_ kind: ObjectKind, _ key: String, revision: Int64) throws {
    _ = try nextRevision()
    let statement = try database.cachedStatement(
      sql: "DELETE FROM object WHERE kind = ? AND key = ? AND revision = ?")
    try statement.execute(arguments: [kind.rawValue, key, revision])
    guard database.changesCount == 1 else { throw StoreConflict() }
  }

  private func nextRevision() throws -> Int64 {
    if let revision { return revision }
    let next = (try Int64.fetchOne(database, sql: "SELECT last FROM revision") ?? 0) + 1
    revision = next
    return next
  }

  /// Writes down that this transaction's revision is taken.
  func finish() throws {
    guard let revision else { return }
    try database.cachedStatement(sql: "UPDATE revision SET last = ?").execute(arguments: [revision])
  }
}

extension IPAMError {
  fileprivate init(opening path: String, _ error: any Error) {
    if let error = error as? IPAMError {
      self = error
    } else if let error = error as? DatabaseError {
      self.init(using: path, error)
    } else {
      self.init(.storage, "cannot open the address store \(path): \(error)")
    }
  }

  fileprivate init(using path: String, _ error: DatabaseError) {
    switch error.resultCode {
    case .SQLITE_BUSY, .SQLITE_LOCKED:
      self.init(
        .busy,
        "the address store \(path) is held by another process; try again, and look for a stopped process "
          + "with `fuser \(path)` if this stays")
    case .SQLITE_FULL:
      self.init(.storage, "no space is left for the address store \(path); free some and try again")
    case .SQLITE_CORRUPT, .SQLITE_NOTADB:
      self.init(
        .storage,
        "the address store \(path) is damaged (\(error.message ?? "unreadable")); move it away with its "
          + "-wal and -shm files, and restart the node's pods so that a new one is made")
    case .SQLITE_CANTOPEN, .SQLITE_PERM, .SQLITE_READONLY:
      self.init(
        .storage,
        "cannot open the address store \(path) for writing (\(error.message ?? "not permitted")); check "
          + "that its directory exists and belongs to this user")
    default: self.init(.storage, "the address store \(path) failed: \(error.message ?? "\(error.resultCode)")")
    }
  }
}
