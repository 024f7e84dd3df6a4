import Lab
import Testing

/// `kalsae bench live` as its users start it.
@Suite("Live benchmark", .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct LiveBenchTests {
  @Test("daemons of subjects that are not measured stand still, and go on when it is their turn")
  func rest() throws {
    let lab = try Lab(name: "bench")
    defer { lab.cleanUp() }
    let bench = try lab.spawn(
      [try builtProgram("kalsae")]
        + "bench live --subjects kernel-vxlan,kalsae-vxlan,kalsae-vxlan-poll".split(
          separator: " "
        ).map(String.init) + ["--measures", "latency50", "--rounds", "1", "--seconds", "0.2", "--output", "json"])
    // The agents, four of them, by their states.
    func states() throws -> [Substring] {
      try lab.run(["sh", "-c", "ps -o state=,args= --ppid \(bench.pid); true"]).standardOutput.split(separator: "\n")
        .filter { $0.contains(" run ") && $0.contains("kalsae") }.map { $0.prefix(1) }
    }
    try waitUntil("four agents to stand still", timeout: .seconds(60), every: .milliseconds(10)) {
      let states = try states()
      return states.count == 4 && states.allSatisfy { $0 == "T" }
    }
    let result = try bench.wait(timeout: .seconds(60))
    #expect(result.status == .exited(0), "\(result.standardError)")
    for subject in ["kernel-vxlan", "kalsae-vxlan", "kalsae-vxlan-poll"] {
      #expect(result.standardOutput.contains("\"\(subject)\""))
    }
  }
}
