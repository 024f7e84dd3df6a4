import CNI
import Lab
import Testing

/// `kalsae cni`, as its help says it.
@Suite("Installing the plugin", .enabled(if: Lab.isAvailable, "needs root and network namespaces"))
struct InstallTests {
  private let lab: Lab
  private let folder: String

  init() throws {
    lab = try Lab(name: "install")
    folder = try lab.directory()
  }

  private func run(_ arguments: [String]) throws -> ProcessResult {
    let places = ["--bin-dir", "\(folder)/bin", "--conf-dir", "\(folder)/net.d"]
    return try lab.runUnchecked([built("kalsae"), "cni"] + arguments + places)
  }

  @Test(
    "CNI-12 CNI-10: install puts plugin and a whole list in place, which the plugin takes; uninstall takes both away")
  func install() throws {
    defer { lab.cleanUp() }
    #expect(
      try run(["install", "--node", "node-a"]).standardOutput
        == "\(folder)/bin/kalsae-cni\n\(folder)/net.d/10-kalsae.conflist\n")
    #expect(Folders.names(in: "\(folder)/bin") == ["kalsae-cni"])
    #expect(Folders.names(in: "\(folder)/net.d") == ["10-kalsae.conflist"])
    func list() throws -> JSON {
      try JSON(parsing: lab.run(["cat", "\(folder)/net.d/10-kalsae.conflist"]).standardOutput)
    }
    let plugin = try #require(try list()["plugins"]?.elements?.first)
    #expect(plugin["agentSocket"]?.text == "/run/kalsae/node-a.cni")
    #expect(plugin["dataDirectory"]?.text == "/var/lib/kalsae/node-a")
    #expect(try list()["cniVersions"]?.elements?.contains(.string("1.1.0")) == true)
    func asked() throws -> Set<String> {
      Set(
        ["mac", "ips", "portMappings", "bandwidth", "ipRanges"].filter { plugin in
          (try? list()["plugins"]?.elements?.first?["capabilities"]?[plugin]) == .bool(true)
        })
    }
    #expect(try asked() == ["mac", "ips", "portMappings", "bandwidth"])
    // Again, with another address management, over the old one.
    let ipam = #"{"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]]}"#
    #expect(try run(["install", "--node", "node-a", "--ipam", ipam]).status == .exited(0))
    #expect(try asked().contains("ipRanges"))
    #expect(Folders.names(in: "\(folder)/net.d") == ["10-kalsae.conflist"])
    // A list that comes first by name would be taken in its place.
    try lab.run(["touch", "\(folder)/net.d/05-other.conflist"])
    #expect(try run(["install", "--node", "node-a"]).standardError.contains("05-other.conflist comes first by name"))
    #expect(try run(["uninstall"]).status == .exited(0))
    #expect(Folders.names(in: "\(folder)/bin") == [] && Folders.names(in: "\(folder)/net.d") == ["05-other.conflist"])
    #expect(try run(["uninstall"]).status == .exited(0))
  }

  @Test("CNI-12: what makes no sense is refused before anything is written; somebody else's list is left alone")
  func refusals() throws {
    defer { lab.cleanUp() }
    for (arguments, status, says) in [
      (["--ipam", "{"], 65, "--ipam: no JSON"), (["--ipam", #"{"type": "../sh"}"#], 65, "ipam.type"),
      (["--plugin", "\(folder)/none"], 66, "cannot open \(folder)/none"), (["--name", "a/b"], 64, "--name 'a/b'"),
      (["--interface", "macvlan"], 64, "--interface"), (["--socket", "relative"], 65, "agentSocket"),
    ] {
      let result = try run(["install"] + arguments)
      #expect(result.status == .exited(Int32(status)), "\(arguments): \(result.standardError)")
      #expect(result.standardError.contains(says), "\(arguments): \(result.standardError)")
    }
    #expect(Folders.names(in: folder) == [])
    try lab.run([
      "sh", "-c",
      "mkdir \(folder)/net.d && echo '{\"plugins\": [{\"type\": \"bridge\"}]}' > \(folder)/net.d/10-kalsae.conflist",
    ])
    let kept = try run(["uninstall"])
    #expect(kept.status == .exited(65) && kept.standardError.contains("remove it by hand"))
    #expect(Folders.names(in: "\(folder)/net.d") == ["10-kalsae.conflist"])
  }
}
