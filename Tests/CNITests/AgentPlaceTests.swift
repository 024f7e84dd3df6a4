import CNI
import Lab
import Testing

/// Which agent the plugin asks, and where it records what that has to do later.
@Suite("The agent's place", .enabled(if: Lab.isAvailable, "needs root and network namespaces"))
struct AgentPlaceTests {
  @Test("CNI-4: the only agent of the machine is found while it runs and while it does not; of several none is taken")
  func find() throws {
    let lab = try Lab(name: "place")
    defer { lab.cleanUp() }
    let folder = try lab.directory()
    let (run, data) = ("\(folder)/run", "\(folder)/lib")
    func place(_ more: String = "") throws -> AgentPlace {
      let text = "{\"cniVersion\": \"1.1.0\", \"name\": \"n\"\(more)}"
      return AgentPlace(
        try NetworkConfiguration(try JSON(parsing: text)), socketFolder: run, dataFolder: data)
    }
    // No agent ever ran.
    #expect(try place().socket == nil && place().dataDirectory == nil)
    try lab.run(["mkdir", "-p", run, "\(data)/node-a"])
    // The store of addresses is no agent's folder.
    try lab.run(["touch", "\(data)/ipam.db", "\(data)/ipam.db-wal", "\(data)/ipam.db-shm"])
    let away = try place()
    #expect(away.socket == nil && away.dataDirectory == "\(data)/node-a")
    try lab.run(["touch", "\(run)/node-a.cni", "\(run)/node-a.sock"])
    #expect(try place().socket == "\(run)/node-a.cni" && place().dataDirectory == "\(data)/node-a")
    // What the configuration says goes first.
    let told = try place(#", "agentSocket": "/s/x.cni""#)
    #expect(told.socket == "/s/x.cni" && told.dataDirectory == "\(data)/x")
    #expect(try place(#", "dataDirectory": "/d""#).dataDirectory == "/d")
    try lab.run(["mkdir", "\(data)/node-b"])
    try lab.run(["touch", "\(run)/node-b.cni"])
    let several = try place()
    #expect(several.found == 2 && several.socket == nil && several.dataDirectory == nil)
  }
}
