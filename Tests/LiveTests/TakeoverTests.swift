import Lab
import Testing

/// The short form of `bench/cni takeover`.
@Suite("Takeover", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct TakeoverTests {
  @Test(
    "An agent that is exchanged, or ends and starts again, loses nothing of a transfer: its flows go on, and what waited is sent on",
    arguments: ["takeover", "restart"], ["veth", "tap"])
  func transfer(how: String, interface: String) throws {
    let lab = try Lab(name: "cnitake")
    defer { lab.cleanUp() }
    let folder = try builtProgram("kalsae").split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" }
    let result = try lab.runUnchecked(
      [
        "python3", "\(projectFolder)/bench/cni", "takeover", "--build", folder, "--seconds", "3", "--how", how,
        "--interface", interface,
      ], timeout: .seconds(60))
    let text = result.standardOutput
    #expect(result.status == .exited(0), "\(text)\(result.standardError)")
    #expect(text.contains("audit: clean"))
    #expect(text.ranges(of: " flows go on, 0 could not").count == 2, "\(text)")
    if how == "restart" { #expect(text.ranges(of: "packets that waited are sent on").count == 2, "\(text)") }
  }
}
