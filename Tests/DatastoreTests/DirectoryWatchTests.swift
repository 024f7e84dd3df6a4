import Foundation
import Model
import Synchronization
import Testing

@testable import Datastore

@Suite struct DirectoryWatchTests {
  private let directory: TemporaryDirectory
  private let source: ManifestDirectory
  private let updates = Updates()

  init() throws {
    directory = try TemporaryDirectory()
    source = ManifestDirectory(directory.path)
  }

  /// No clock helps these tests: only what inotify tells is seen.
  private func watch(debounce: Duration = .milliseconds(50)) throws -> DirectoryWatch {
    try source.watch(options: .init(debounce: debounce, rescanInterval: .seconds(3600))) { [updates] in
      updates.append($0)
    }
  }

  private func address(of name: String) -> String? {
    source.state.pod("default", name)?.addresses.first?.description
  }

  @Test("a change on disk is applied live: written in place, renamed into place, deleted")
  func live() async throws {
    try directory.write("a.yaml", pod("a"))
    _ = try source.load()
    let watch = try watch()
    try directory.write("a.yaml", pod("a", ip: "10.0.0.2"))
    #expect(await updates.wait { address(of: "a") == "10.0.0.2" })
    try directory.replace("a.yaml", pod("a", ip: "10.0.0.3"))
    #expect(await updates.wait { address(of: "a") == "10.0.0.3" })
    try directory.write("b.yaml", pod("b"))
    #expect(await updates.wait { address(of: "b") != nil })
    try directory.remove("a.yaml")
    #expect(await updates.wait { address(of: "a") == nil })
    watch.stop()
    #expect(updates.all.flatMap(summary) == ["+Pod default/a", "+Pod default/a", "+Pod default/b", "-Pod default/a"])
  }

  @Test("what changed between the load and the watch is told first")
  func gap() async throws {
    _ = try source.load()
    try directory.write("a.yaml", pod("a"))
    let watch = try watch()
    #expect(await updates.wait { !updates.all.isEmpty })
    watch.stop()
    #expect(updates.all.flatMap(summary) == ["+Pod default/a"])
  }

  @Test("a broken change is told and keeps the last good state; mending it is told too")
  func broken() async throws {
    try directory.write("a.yaml", pod("a"))
    _ = try source.load()
    let watch = try watch()
    try directory.write("a.yaml", "{")
    #expect(await updates.wait { updates.all.last?.problems.count == 1 })
    #expect(address(of: "a") == "10.0.0.1")
    try directory.write("a.yaml", pod("a", ip: "10.0.0.4"))
    #expect(await updates.wait { address(of: "a") == "10.0.0.4" })
    watch.stop()
    #expect(updates.all.last?.resolved.count == 1)
  }

  @Test("a burst of writes gives few updates, the last of them with the final state")
  func debounce() async throws {
    _ = try source.load()
    let watch = try watch(debounce: .milliseconds(200))
    for number in 1...100 {
      try directory.write("a.yaml", pod("a", ip: "10.0.1.\(number)"))
      usleep(1000)
    }
    #expect(await updates.wait { address(of: "a") == "10.0.1.100" })
    watch.stop()
    #expect(updates.all.count < 10, "\(updates.all.count) updates")
  }

  @Test("a file that is rewritten in place step by step is never seen half written")
  func halfWritten() async throws {
    try directory.write("a.yaml", pod("a") + "---\n" + pod("b"))
    _ = try source.load()
    let watch = try watch(debounce: .milliseconds(300))
    for round in 2...3 {
      // Between the steps the file is empty, and then valid without the second pod. The thread itself sleeps: a task
      // could be resumed late, and a file that is left half written for long has to be taken for what it is.
      let handle = try #require(FileHandle(forWritingAtPath: directory.path(of: "a.yaml")))
      try handle.truncate(atOffset: 0)
      usleep(10_000)
      try handle.write(contentsOf: Data(pod("a", ip: "10.0.0.\(round)").utf8))
      usleep(10_000)
      try handle.write(contentsOf: Data("---\n\(pod("b", ip: "10.0.0.\(round)"))".utf8))
      try handle.close()
      #expect(await updates.wait { address(of: "b") == "10.0.0.\(round)" }, "round \(round)")
    }
    watch.stop()
    #expect(updates.all.map(summary) == Array(repeating: ["+Pod default/a", "+Pod default/b"], count: 2))
  }

  @Test("folders are followed: new ones, full ones that are moved in, and deleted ones")
  func folders() async throws {
    _ = try source.load()
    let watch = try watch()
    try directory.makeFolder("sub")
    try directory.write("sub/a.yaml", pod("a"))
    #expect(await updates.wait { address(of: "a") != nil })
    try directory.write("sub/a.yaml", pod("a", ip: "10.0.0.2"))
    #expect(await updates.wait { address(of: "a") == "10.0.0.2" })

    let other = try TemporaryDirectory()
    try other.write("b.yaml", pod("b"))
    try FileManager.default.moveItem(atPath: other.path, toPath: directory.path(of: "moved"))
    #expect(await updates.wait { address(of: "b") != nil })
    try directory.write("moved/b.yaml", pod("b", ip: "10.0.0.5"))
    #expect(await updates.wait { address(of: "b") == "10.0.0.5" })
    try directory.remove("sub")
    #expect(await updates.wait { address(of: "a") == nil })
    watch.stop()
  }

  @Test("a symbolic link that is swapped, as for a mounted ConfigMap, brings the new contents at once")
  func symlinkSwap() async throws {
    try directory.makeFolder("..one")
    try directory.write("..one/a.yaml", pod("a"))
    try directory.link("..data", to: "..one")
    try directory.link("a.yaml", to: "..data/a.yaml")
    #expect(summary(try source.load()) == ["+Pod default/a"])
    let watch = try watch()
    for round in 2...4 {
      try directory.makeFolder("..\(round)")
      try directory.write("..\(round)/a.yaml", pod("a", ip: "10.0.0.\(round)"))
      try directory.link("..data", to: "..\(round)")
      #expect(await updates.wait { address(of: "a") == "10.0.0.\(round)" }, "round \(round)")
    }
    watch.stop()
    #expect(updates.all.allSatisfy { $0.problems == [] && $0.changes.count == 1 })
  }

  @Test("a directory that is deleted and made anew is found again")
  func recreated() async throws {
    try directory.write("a.yaml", pod("a"))
    _ = try source.load()
    let watch = try watch()
    try FileManager.default.removeItem(atPath: directory.path)
    #expect(await updates.wait { updates.all.contains { !$0.problems.isEmpty } })
    let staging = try TemporaryDirectory()
    try staging.write("a.yaml", pod("a", ip: "10.0.0.2"))
    try FileManager.default.moveItem(atPath: staging.path, toPath: directory.path)
    #expect(await updates.wait { address(of: "a") == "10.0.0.2" })
    // And it is watched, not only found.
    try directory.write("b.yaml", pod("b"))
    #expect(await updates.wait { address(of: "b") != nil })
    watch.stop()
  }

  @Test("what inotify cannot see is found by the clock")
  func rescan() async throws {
    let elsewhere = try TemporaryDirectory()
    try elsewhere.write("a.yaml", pod("a"))
    try directory.link("a.yaml", to: elsewhere.path(of: "a.yaml"))
    _ = try source.load()
    let watch = try source.watch(options: .init(rescanInterval: .milliseconds(50))) { [updates] in updates.append($0) }
    try elsewhere.write("a.yaml", pod("a", ip: "10.0.0.2"))
    #expect(await updates.wait { address(of: "a") == "10.0.0.2" })
    watch.stop()
  }

  @Test("a watch ends when it is told to, also from its own handler and when nobody holds it; nothing is left open")
  func stop() async throws {
    func openDescriptors() throws -> Int {
      let names = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")
      let targets = names.map { try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\($0)") }
      return targets.count { $0?.contains("inotify") == true }
    }
    for _ in 0..<50 {
      let watch = try watch()
      watch.stop()
      watch.stop()
    }
    for _ in 0..<50 { _ = try watch() }
    try directory.write("a.yaml", pod("a"))
    _ = try source.load()
    final class Box: Sendable {
      let watch = Mutex<DirectoryWatch?>(nil)
    }
    let box = Box()
    let counted = Updates()
    box.watch.withLock { watch in
      watch = try? source.watch { update in
        counted.append(update)
        box.watch.withLock { $0.take() }?.stop()
      }
    }
    try directory.write("b.yaml", pod("b"))
    #expect(await updates.wait { counted.all.count == 1 })
    try directory.write("c.yaml", pod("c"))
    try await Task.sleep(for: .milliseconds(200))
    #expect(counted.all.count == 1)
    // Other tests watch at the same time: a leak of these hundred would show all the same.
    #expect(try openDescriptors() < 50)
  }
}
