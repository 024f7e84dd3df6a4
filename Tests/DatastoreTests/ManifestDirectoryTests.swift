import Foundation
import Model
import Testing

@testable import Datastore

@Suite struct ManifestDirectoryTests {
  private let directory: TemporaryDirectory
  private let source: ManifestDirectory

  init() throws {
    directory = try TemporaryDirectory()
    source = ManifestDirectory(directory.path)
  }

  @Test("the manifests of a directory and its subfolders are read, in the order of need")
  func load() throws {
    try directory.write("b.yaml", pod("b") + "---\n" + pod("c"))
    try directory.write("a.json", #"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}"#)
    try directory.makeFolder("sub")
    try directory.write("sub/ns.yml", "{apiVersion: v1, kind: Namespace, metadata: {name: dev}}\n")
    try directory.makeFolder("sub/deeper")
    try directory.write("sub/deeper/x.yaml", pod("too-deep"))
    // None of these is a manifest.
    for name in [".hidden.yaml", "x.yaml~", "#x.yaml#", "#x.yaml", ".x.yaml.swp", "README.md", "sub/.x.yaml"] {
      try directory.write(name, "][")
    }
    let update = try source.load()
    #expect(summary(update) == ["+Namespace dev", "+Node n", "+Pod default/b", "+Pod default/c"])
    #expect(update.problems == [] && update.notices == [])
    #expect(source.state.pods.count == 2)
    #expect(source.refresh().isEmpty)
  }

  @Test("a missing directory, a file in its place and an unreadable one are told with the remedy")
  func missing() throws {
    func error(_ path: String) -> String? {
      do {
        _ = try ManifestDirectory(path).load()
        return nil
      } catch { return error.description }
    }
    #expect(
      error(directory.path(of: "none"))
        == "\(directory.path)/none: cannot read the directory: No such file or directory;"
        + " create it, or check the spelling of its path")
    try directory.write("file", "")
    #expect(error(directory.path(of: "file"))?.contains("is not a directory; name the directory") == true)
    #expect(try source.load().isEmpty)
  }

  @Test("what a change on disk asks for is told, and nothing else")
  func changes() throws {
    try directory.write("a.yaml", pod("a") + "---\n" + pod("b"))
    try directory.write("b.yaml", pod("c"))
    _ = try source.load()
    try directory.write("a.yaml", pod("a") + "---\n" + pod("b", ip: "10.0.0.2") + "---\n" + pod("d"))
    #expect(summary(source.refresh()) == ["+Pod default/b", "+Pod default/d"])
    try directory.write("a.yaml", "# a comment moves the lines\n" + pod("d"))
    #expect(summary(source.refresh()) == ["-Pod default/b", "-Pod default/a"])
    try directory.remove("b.yaml")
    #expect(summary(source.refresh()) == ["-Pod default/c"])
    #expect(Array(source.state.pods.keys) == [ObjectKey(.pod, namespace: "default", name: "d")])
  }

  @Test("a file of the same size, changed within one tick of the clock, is not missed")
  func sameTick() throws {
    for round in 0..<20 {
      try directory.write("a.yaml", pod("a", ip: "10.0.0.\(round % 10)"))
      #expect(summary(source.refresh()) == ["+Pod default/a"], "round \(round)")
    }
  }

  @Test("a broken file keeps its last good objects until it is mended")
  func brokenFile() throws {
    try directory.write("a.yaml", pod("a"))
    try directory.write("b.yaml", pod("b"))
    _ = try source.load()
    try directory.write("a.yaml", pod("a", ip: "10.0.0.2") + "---\na: {b")
    try directory.write("b.yaml", pod("b", ip: "10.0.0.3"))
    let broken = source.refresh()
    #expect(summary(broken) == ["+Pod default/b"])
    #expect(broken.problems.count == 1)
    let message = try #require(broken.problems.first?.description)
    #expect(message.hasPrefix("\(directory.path)/a.yaml:3: is not valid YAML"), "\(message)")
    #expect(message.hasSuffix("(its last good objects stay)"))
    #expect(source.state.pods.count == 2)
    #expect(source.refresh().isEmpty, "what is known already is not told again")

    try directory.write("a.yaml", pod("a", ip: "10.0.0.2"))
    let mended = source.refresh()
    #expect(summary(mended) == ["+Pod default/a"])
    #expect(mended.problems == [] && mended.resolved == broken.problems && source.problems == [])
  }

  @Test("a broken object keeps its last good version while the others of its file apply")
  func brokenObject() throws {
    try directory.write("a.yaml", pod("a") + "---\n" + pod("b"))
    _ = try source.load()
    try directory.write("a.yaml", pod("a", ip: "nonsense") + "---\n" + pod("b", ip: "10.0.0.2") + "---\n" + pod("c"))
    let update = source.refresh()
    #expect(summary(update) == ["+Pod default/b", "+Pod default/c"])
    #expect(update.problems.count == 1)
    let message = try #require(update.problems.first?.description)
    #expect(message.hasPrefix("\(directory.path)/a.yaml:1:66: Pod default/a: status.podIP: expected"), "\(message)")
    #expect(message.hasSuffix("(its last good version stays)"))
    #expect(source.state.pod("default", "a")?.addresses.map(\.description) == ["10.0.0.1"])
    // Taken out of the file it goes, broken or not.
    try directory.write("a.yaml", pod("b", ip: "10.0.0.2"))
    #expect(summary(source.refresh()) == ["-Pod default/c", "-Pod default/a"])
  }

  @Test("an object that cannot be told by its name takes none of its file's away")
  func unidentified() throws {
    try directory.write("a.yaml", pod("a") + "---\n" + pod("b"))
    _ = try source.load()
    try directory.write("a.yaml", pod("a") + "---\n" + pod("B!"))
    let update = source.refresh()
    #expect(update.changes == [] && update.problems.count == 1)
    #expect(source.state.pods.count == 2)
  }

  @Test("a broken file that was never good gives nothing, and says so once")
  func brokenFromTheStart() throws {
    try directory.write("a.yaml", "a:\n\tb: c\n")
    try directory.write("b.yaml", pod("b"))
    let update = try source.load()
    #expect(summary(update) == ["+Pod default/b"])
    #expect(
      update.problems.count == 1 && update.problems[0].description.hasSuffix("indent with blanks instead of tabs"))
  }

  @Test("the same object in two files counts once, and the second is refused naming both")
  func duplicates() throws {
    try directory.write("b.yaml", pod("a", ip: "10.0.0.2"))
    #expect(summary(try source.load()) == ["+Pod default/a"])
    // The order of the paths decides, whichever was there before: a restart comes to the same state.
    try directory.write("a.yaml", "\n" + pod("a", ip: "10.0.0.1"))
    let update = source.refresh()
    #expect(summary(update) == ["+Pod default/a"])
    #expect(
      update.problems.map(\.description) == [
        "\(directory.path)/b.yaml:1:1: Pod default/a: stands in \(directory.path)/a.yaml already, which counts;"
          + " remove it from one of the files"
      ])
    #expect(source.state.pod("default", "a")?.addresses.map(\.description) == ["10.0.0.1"])
    #expect(try ManifestDirectory(directory.path).load().problems == update.problems)

    try directory.remove("a.yaml")
    let resolved = source.refresh()
    #expect(summary(resolved) == ["+Pod default/a"] && resolved.resolved == update.problems)
    #expect(source.state.pod("default", "a")?.addresses.map(\.description) == ["10.0.0.2"])
  }

  @Test("the same object twice in one file is refused with both lines")
  func duplicateInFile() throws {
    try directory.write("a.yaml", pod("a") + "---\n" + pod("a", ip: "10.0.0.2"))
    let update = try source.load()
    #expect(summary(update) == ["+Pod default/a"])
    #expect(
      update.problems.map(\.description) == [
        "\(directory.path)/a.yaml:3:1: Pod default/a: stands in this file twice, first in line 1; remove one of them"
      ])
    #expect(source.state.pod("default", "a")?.addresses.map(\.description) == ["10.0.0.1"])
  }

  @Test("an object that moves to another file is neither deleted nor told again")
  func move() throws {
    try directory.write("a.yaml", pod("a"))
    _ = try source.load()
    try directory.remove("a.yaml")
    try directory.write("z.yaml", pod("a"))
    #expect(source.refresh().isEmpty)
    #expect(source.state.pods.count == 1)
  }

  @Test("kinds that are not used are told once for the directory")
  func notices() throws {
    try directory.write("a.yaml", "\n{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n")
    try directory.write("b.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n")
    let update = try source.load()
    #expect(
      update.notices.map(\.description) == [
        "\(directory.path)/a.yaml:2:1: ConfigMap (v1) is not a kind that Kalsae uses; it is ignored"
      ])
    try directory.write("c.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n")
    #expect(source.refresh().isEmpty)
  }

  @Test("a file that is too large or cannot be read keeps its last good objects")
  func unreadable() throws {
    let source = ManifestDirectory(directory.path, fileSizeLimit: 1 << 20)
    try directory.write("a.yaml", pod("a"))
    _ = try source.load()
    try directory.write("a.yaml", pod("b") + "#" + String(repeating: "x", count: 1 << 20))
    let large = source.refresh()
    #expect(large.changes == [] && large.problems.count == 1)
    #expect(large.problems[0].description.contains("is larger than 1 MiB; split it into several files"))
    try directory.write("a.yaml", pod("a"))
    #expect(source.refresh().resolved == large.problems)
    // A link that leads nowhere hides the file's contents; it does not take them away.
    try directory.link("a.yaml", to: "nowhere")
    let dangling = source.refresh()
    #expect(dangling.changes == [] && dangling.problems.count == 1, "\(dangling)")
    try directory.remove("a.yaml")
    #expect(summary(source.refresh()) == ["-Pod default/a"])
  }

  @Test("what is no regular file is passed over without waiting for it")
  func fifo() throws {
    try #require(unsafe mkfifo(directory.path(of: "a.yaml"), 0o600) == 0)
    #expect(try source.load().isEmpty)
  }

  @Test("a directory that vanishes keeps its last good objects; when it is back, it counts again")
  func vanishing() throws {
    try directory.write("a.yaml", pod("a"))
    _ = try source.load()
    try FileManager.default.removeItem(atPath: directory.path)
    let gone = source.refresh()
    #expect(gone.changes == [] && gone.problems.count == 1 && source.state.pods.count == 1)
    #expect(gone.problems[0].description.contains("No such file or directory"))
    try FileManager.default.createDirectory(atPath: directory.path, withIntermediateDirectories: false)
    try directory.write("b.yaml", pod("b"))
    let back = source.refresh()
    #expect(summary(back) == ["+Pod default/b", "-Pod default/a"] && back.resolved == gone.problems)
  }

  @Test("one look is enough for commands that ask once")
  func once() throws {
    try directory.write("a.yaml", pod("a") + "---\n" + pod("b", ip: "x"))
    let (state, problems, notices) = try loadState(directory: directory.path)
    #expect(state.pods.count == 1 && problems.count == 1 && notices == [])
  }
}
