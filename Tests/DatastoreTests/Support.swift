import Foundation
import Model
import Synchronization
import Testing

@testable import Datastore

/// A directory that lasts as long as the test.
final class TemporaryDirectory: Sendable {
  let path: String

  init() throws {
    let url = FileManager.default.temporaryDirectory.appendingPathComponent("kalsae-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    path = url.path
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func path(of name: String) -> String { "\(path)/\(name)" }

  /// Writes in place, as `cat >` does.
  func write(_ name: String, _ text: String) throws {
    try text.write(toFile: path(of: name), atomically: false, encoding: .utf8)
  }

  /// Writes beside and renames, as editors do.
  func replace(_ name: String, _ text: String) throws {
    try write(".\(name).new", text)
    try #require(unsafe rename(path(of: ".\(name).new"), path(of: name)) == 0)
  }

  func remove(_ name: String) throws { try FileManager.default.removeItem(atPath: path(of: name)) }

  func makeFolder(_ name: String) throws {
    try FileManager.default.createDirectory(atPath: path(of: name), withIntermediateDirectories: false)
  }

  /// A symbolic link that takes the place of an older one at once.
  func link(_ name: String, to target: String) throws {
    let temporary = path(of: ".link-\(UUID().uuidString)")
    try FileManager.default.createSymbolicLink(atPath: temporary, withDestinationPath: target)
    try #require(unsafe rename(temporary, path(of: name)) == 0)
  }
}

func pod(_ name: String, ip: String = "10.0.0.1") -> String {
  "{apiVersion: v1, kind: Pod, metadata: {name: \(name)}, status: {podIP: \(ip)}}\n"
}

/// Changes in short: `+Pod default/a`, `-Node n`.
func summary(_ update: Update) -> [String] {
  update.changes.map { change in
    switch change {
    case .upsert: "+\(change.key)"
    case .delete: "-\(change.key)"
    }
  }
}

/// The updates of a watch as they come in.
final class Updates: Sendable {
  private let updates = Mutex<[Update]>([])

  func append(_ update: Update) { updates.withLock { $0.append(update) } }

  var all: [Update] { updates.withLock { $0 } }

  /// Waits until `condition` holds, for five seconds at most.
  func wait(until condition: () -> Bool) async -> Bool {
    for _ in 0..<500 {
      if condition() { return true }
      try? await Task.sleep(for: .milliseconds(10))
    }
    return false
  }
}
