import Foundation
import Testing

/// What allocation-probe counted on one way through the pipeline.
private struct Counts {
  var batchSize: Int
  var packets: Int
  var sent: Int
  var batches: Int
  var allocations: Int
  var frees: Int
  var objects: Int
  var retains: Int
  var releases: Int
}

@Suite(
  "Allocations and reference counting, optimised",
  .enabled(if: !_isDebugAssertConfiguration(), "counts what the optimiser leaves: only in a release build"))
struct AllocationTests {
  @Test("The hot loop allocates nothing and counts no references for each packet: forwarding, VXLAN in and out")
  func hotLoop() throws {
    let lines = try probe(packets: 1_000_000)
    let control = try #require(lines["control"]?.first)
    // If these were not seen, nothing would be.
    #expect(control.objects >= control.packets)
    #expect(control.allocations >= control.packets)
    #expect(control.frees >= control.packets - 2)
    #expect(control.retains >= control.packets)
    #expect(control.releases >= control.packets)
    for name in ["forward", "encapsulate", "decapsulate"] {
      let ways = try #require(lines[name])
      #expect(ways.map(\.batchSize) == [32, 256])
      for counts in ways {
        #expect(counts.sent >= 1_000_000)
        #expect(counts.allocations == 0, "\(name), batches of \(counts.batchSize)")
        #expect(counts.frees == 0, "\(name), batches of \(counts.batchSize)")
        #expect(counts.objects == 0, "\(name), batches of \(counts.batchSize)")
        // Each batch holds on to its ports; that does not grow with the number of packets in it.
        #expect(counts.retains <= 8 * counts.batches, "\(name), batches of \(counts.batchSize)")
        #expect(counts.releases <= 8 * counts.batches, "\(name), batches of \(counts.batchSize)")
      }
      #expect(
        ways[0].retains * ways[1].batches == ways[1].retains * ways[0].batches, "\(name): the same for each batch")
    }
  }

  private func probe(packets: Int) throws -> [String: [Counts]] {
    let process = Process()
    process.executableURL = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
      .appending(path: "allocation-probe")
    let state = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .appending(path: "Golden/vxlan-over-ipv4/state")
    process.arguments = [state.path, String(packets)]
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    try #require(process.terminationStatus == 0)
    var result: [String: [Counts]] = [:]
    for line in output.split(separator: "\n") {
      let words = line.split(separator: " ")
      let numbers = words.dropFirst().compactMap { Int($0) }
      try #require(numbers.count == 9)
      result[String(words[0]), default: []].append(
        Counts(
          batchSize: numbers[0], packets: numbers[1], sent: numbers[2], batches: numbers[3], allocations: numbers[4],
          frees: numbers[5], objects: numbers[6], retains: numbers[7], releases: numbers[8]))
    }
    return result
  }
}
