import Dataplane
import Foundation
import Replay
import Testing

/// The cases of Tests/Golden: what goes in was made by tools/make-golden, which has also judged what comes out.
struct GoldenCase: CustomTestStringConvertible, Sendable {
  static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appending(
    path: "Golden")
  let url: URL
  var testDescription: String { url.lastPathComponent }

  static let all: [GoldenCase] = {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
    return names.sorted().map { GoldenCase(url: folder.appending(path: $0)) }.filter {
      FileManager.default.fileExists(atPath: $0.url.appending(path: "expected").path)
    }
  }()

  /// The command line that the case stands for, as far as it has an effect in the process.
  func request() throws -> ReplayRequest {
    let state = url.appending(path: "state").path
    let hasState = FileManager.default.fileExists(atPath: state)
    let captures = try FileManager.default.contentsOfDirectory(atPath: url.appending(path: "ports").path).sorted()
    var request = ReplayRequest(
      inputs: captures.filter { $0.hasSuffix(".pcap") }.map {
        ReplayRequest.Input(port: String($0.dropLast(5)), path: url.appending(path: "ports/\($0)").path)
      }, stateDirectory: hasState ? state : nil, node: hasState ? "node-a" : nil)
    request.expectedDirectory = url.appending(path: "expected").path
    return request
  }
}

@Suite("Golden replays")
struct GoldenTests {
  @Test("There are golden cases")
  func present() { #expect(GoldenCase.all.count >= 30) }

  @Test(
    "NODE-1 NODE-2 NODE-4 NODE-5 NODE-6 TUN-1 to TUN-10: what comes out is what was judged right",
    arguments: GoldenCase.all)
  func replay(_ golden: GoldenCase) throws {
    let report = try ReplayRun(golden.request()).run()
    #expect(report.differences == [])
    #expect(report.warnings == [])
    #expect(report.received.packets > 0)
  }

  @Test("A difference is found and told: packet, octet, field")
  func difference() throws {
    let source = GoldenCase.folder.appending(path: "direct")
    let folder = FileManager.default.temporaryDirectory.appending(path: "kalsae-golden-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    try FileManager.default.copyItem(at: source.appending(path: "expected"), to: folder)
    // The time to live of the second packet.
    let capture = folder.appending(path: "underlay.pcap")
    var octets = [UInt8](try Data(contentsOf: capture))
    let first = Int(octets[32]) | Int(octets[33]) << 8
    octets[24 + 16 + first + 16 + 14 + 8] ^= 0xff
    try Data(octets).write(to: capture)
    try Data(#"{"ports": {"default/a": {"drops": {"hairpin": 3}}}}"#.utf8).write(
      to: folder.appending(path: "counters.json"))
    var request = try GoldenCase(url: source).request()
    request.expectedDirectory = folder.path
    let differences = try #require(try ReplayRun(request).run().differences)
    #expect(differences.count == 2)
    #expect(differences.first?.contains("underlay: packet 2 differs at octet 22 (IPv4 time to live)") == true)
    #expect(differences.last == "counters: ports.default/a.drops.hairpin is 0, expected 3")
  }

  @Test("One packet too few and one too many are told")
  func count() throws {
    let source = GoldenCase.folder.appending(path: "direct")
    let folder = FileManager.default.temporaryDirectory.appending(path: "kalsae-golden-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let octets = [UInt8](try Data(contentsOf: source.appending(path: "expected/underlay.pcap")))
    let first = 24 + 16 + (Int(octets[32]) | Int(octets[33]) << 8)
    try Data(octets[..<first]).write(to: folder.appending(path: "underlay.pcap"))
    try Data(octets + octets[24..<first]).write(to: folder.appending(path: "default_a.pcap"))
    var request = try GoldenCase(url: source).request()
    request.expectedDirectory = folder.path
    let differences = try #require(try ReplayRun(request).run().differences)
    #expect(differences.contains { $0.hasPrefix("underlay: packet 2 is one more than expected") })
    #expect(differences.contains { $0.hasPrefix("default/a: packet 1 differs") })
  }

  @Test("Every reason to drop a packet that a replay can come to is in some golden case")
  func reasons() throws {
    var seen: Set<String> = []
    for golden in GoldenCase.all {
      let data = try Data(contentsOf: golden.url.appending(path: "expected/counters.json"))
      let counters = try JSONDecoder().decode(ReplayCounters.self, from: data)
      for port in counters.ports.values { seen.formUnion(port.drops.keys) }
    }
    // What a replay has none of: neighbours to ask for, devices that fail, super-frames, a route that is refused, a limit of
    // bandwidth; and what takes thousands of flows.
    let impossible: Set<DropReason> = [
      .truncatedFrame, .captureTruncated, .noRoute, .hostUnreachable, .neighbourPending, .neighbourUnreachable,
      .noHostPort, .noFreePort, .flowTableFull, .reassemblyFull, .portDown, .transmitFull, .cannotSegment, .noHeadroom,
      .bandwidth,
    ]
    let missing = DropReason.allCases.filter { !impossible.contains($0) && !seen.contains($0.name) }
    #expect(missing.map(\.name) == [])
  }
}
