import Lab
import Testing

/// The short form of `bench/cni faults`.
@Suite("CNI faults", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(4)))
struct PluginFaultTests {
  @Test(
    "IPAM-6 CNI-4: plugin and agent are killed at random; no address is given twice or lost, and nothing is left",
    arguments: [[], ["--ipam", #"{"type": "kalsae"}"#]])
  func faults(ipam: [String]) throws {
    let lab = try Lab(name: "cnikill")
    defer { lab.cleanUp() }
    let folder = try builtProgram("kalsae").split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" }
    let command = [
      "python3", "\(projectFolder)/bench/cni", "faults", "--build", folder, "--cycles", "60", "--callers", "4",
    ]
    let result = try lab.runUnchecked(command + ipam, timeout: .seconds(150))
    #expect(result.status == .exited(0), "\(result.standardOutput)\(result.standardError)")
    #expect(result.standardOutput.contains("audit: clean"))
  }
}
