import Addresses
import Foundation
import IPAM
import Testing

/// A folder that goes with the test. In memory where the machine has such a file system: what is tested here is not the disk.
struct TemporaryFolder: ~Copyable {
  let path: String

  init(_ name: String) throws {
    let base = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
    path = "\(base)/kalsae-\(name)-\(UUID().uuidString.prefix(8))"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// The store in a file: what only it can get wrong.
@Suite("SQLite store")
struct SQLiteStoreTests {
  @Test("IPAM-2: a write that names an old revision is refused, also where the object was deleted and made anew")
  func compareAndSwap() throws {
    let folder = try TemporaryFolder("cas")
    let store = try SQLiteStore(path: "\(folder.path)/ipam.db")
    func get() throws -> StoredObject? { try store.read { try $0.get(.block, "k") } }
    try store.update { try $0.put(.block, "k", [1], replacing: nil) }
    let first = try #require(try get())
    try store.update { try $0.delete(.block, "k", revision: first.revision) }
    try store.update { try $0.put(.block, "k", [1], replacing: nil) }
    let second = try #require(try get())
    #expect(second.revision > first.revision)
    #expect(throws: StoreConflict.self) {
      try store.update { transaction in
        try transaction.put(.block, "other", [2], replacing: nil)
        try transaction.put(.block, "k", [3], replacing: first.revision)
      }
    }
    #expect(throws: StoreConflict.self) { try store.update { try $0.delete(.block, "k", revision: first.revision) } }
    #expect(throws: StoreConflict.self) { try store.update { try $0.put(.block, "k", [4], replacing: nil) } }
    // Nothing of a refused transaction stays.
    #expect(try get() == second)
    #expect(try store.read { try $0.keys(.block, prefix: "") } == ["k"])
    #expect(try store.integrity() == [])
  }

  @Test("IPAM-6: what was written is there after opening again, and the rules hold on the file as in memory")
  func reopen() throws {
    let folder = try TemporaryFolder("reopen")
    let path = "\(folder.path)/ipam.db"
    var addresses: [IPAddress] = []
    for round in 0..<3 {
      let bench = Bench(
        try SQLiteStore(path: path), [pool("10.0.0.0/24", blockSize: 30), pool("fd00::/112", name: "six")])
      for container in 0..<6 {
        addresses += try bench.add("\(round).\(container)", node: "n\(container % 2)", families: [.ipv4, .ipv6])
      }
      #expect(try bench.problems() == [])
    }
    #expect(Set(addresses).count == 36)
  }

  @Test("IPAM-2: keys are listed by prefix, and a prefix that is a part of another's does not take its keys")
  func prefixes() throws {
    let folder = try TemporaryFolder("prefix")
    let store = try SQLiteStore(path: "\(folder.path)/ipam.db")
    try store.update { transaction in
      for key in ["n1|a", "n1|b", "n10|a", "n|é"] { try transaction.put(.affinity, key, [], replacing: nil) }
    }
    #expect(try store.read { try $0.keys(.affinity, prefix: "n1|") } == ["n1|a", "n1|b"])
    #expect(try store.read { try $0.keys(.affinity, prefix: "n|") } == ["n|é"])
  }

  @Test("A store that cannot be opened says why and what to do")
  func unusable() throws {
    let folder = try TemporaryFolder("bad")
    let missing = #expect(throws: IPAMError.self) { try SQLiteStore(path: "\(folder.path)/none/ipam.db") }
    #expect(missing?.message.contains("check that its directory exists") == true)
    let path = "\(folder.path)/ipam.db"
    try Data("this is no database, only some text that is long enough to be looked at as a header".utf8)
      .write(to: URL(filePath: path))
    let damaged = #expect(throws: IPAMError.self) { try SQLiteStore(path: path) }
    #expect(damaged?.kind == .storage && damaged?.message.contains("is damaged") == true)
  }
}
