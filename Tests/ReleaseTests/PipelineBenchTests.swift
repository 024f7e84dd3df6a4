import Bench
import Testing

@Suite(
  "Benchmarks of the pipeline", .serialized,
  .enabled(if: !_isDebugAssertConfiguration(), "compiles a thousand nodes and services a case: only in a release build")
)
struct PipelineBenchTests {
  @Test("Every case runs, and what comes out passes its check", arguments: PipelineCase.all.map(\.name))
  func runs(_ name: String) throws {
    let bench = try #require(PipelineCase.all.first { $0.name == name })
    let result = try PipelineBench.run(bench, flows: 700, size: 64, windows: 2, milliseconds: 0)
    #expect(result.case == name)
    #expect(result.nsMin > 0 && result.nsMin <= result.nsMedian && result.nsMedian <= result.nsMax)
    #expect(result.mpps > 0)
  }

  @Test(
    "Several workers share the flows and the tables, and what comes out of each passes the check",
    arguments: ["vxlan-decap", "service-reply", "new-flow"])
  func shared(_ name: String) throws {
    let bench = try #require(PipelineCase.all.first { $0.name == name })
    let result = try PipelineBench.run(bench, flows: 700, size: 64, workers: 3, windows: 2, milliseconds: 0)
    #expect(result.workers == 3)
    #expect(result.mpps > 0)
  }

  /// A check that lets wrong packets pass is worth nothing: every bit of the output counts, but for what a sender may
  /// choose.
  @Test(
    "The check of a case finds every wrong bit",
    arguments: [
      "forward", "forward6", "receive", "receive6", "ipip-encap", "vxlan-encap", "gre-encap", "geneve-encap",
      "vxlan-decap",
      "service+vxlan",
    ])
  func checks(_ name: String) throws {
    let bench = try #require(PipelineCase.all.first { $0.name == name })
    let rig = try PipelineRig(bench, flows: 4, size: 64)
    let (input, output) = try #require(rig.sample())
    try #require(PipelineCheck.problem(bench, input, output) == nil)
    var missed: Set<Int> = []
    for position in output.indices {
      for bit in 0..<8 {
        var wrong = output
        wrong[position] ^= 1 << UInt8(bit)
        if PipelineCheck.problem(bench, input, wrong) == nil { missed.insert(position) }
      }
    }
    // The source port of VXLAN and Geneve spreads flows.
    #expect(missed.isSubset(of: name.contains("encap") || name.contains("+") ? [34, 35] : []))
  }
}
