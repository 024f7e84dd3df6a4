import Addresses
import Foundation
import IPAM
import Model
import Testing

/// Address management by many processes, as the program itself runs them.
@Suite("Addresses and processes", .serialized)
struct ProcessTests {
  /// The program that was built with the tests.
  private static let program = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
    .appending(path: "kalsae").path

  private func run(_ arguments: [String]) throws -> (status: Int32, output: String, errors: String) {
    let process = Process()
    process.executableURL = URL(filePath: Self.program)
    process.arguments = arguments
    let (output, errors) = (Pipe(), Pipe())
    process.standardOutput = output
    process.standardError = errors
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    let more = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return (process.terminationStatus, text, more)
  }

  private struct Audit: Decodable {
    var operations: Int
    var kills: Int
    var fairness: Double
    var duplicates: [String]
    var lost: [String]
    var leaked: [String]
    var contradictions: [String]
  }

  @Test(
    "IPAM-6: many processes, killed at random moments or not: no address twice, none lost, none leaked",
    .timeLimit(.minutes(5)), arguments: [0, 20])
  func race(kills: Int) throws {
    let folder = try TemporaryFolder("race")
    let result = try run([
      "bench", "ipam", "--processes", "16", "--operations", "20", "--kills", "\(kills)", "--folder", folder.path,
      "--output", "json",
    ])
    let audit = try JSONDecoder().decode(Audit.self, from: Data(result.output.utf8))
    #expect(result.status == 0, "\(result.errors)")
    #expect(audit.operations >= 16 * 20 && (audit.kills > 0) == (kills > 0))
    #expect(audit.duplicates == [] && audit.lost == [] && audit.leaked == [] && audit.contradictions == [])
  }

  @Test("IPAM-5: show, check, release, configure and limits, by the program")
  func commands() throws {
    let folder = try TemporaryFolder("commands")
    let store = "\(folder.path)/ipam.db"
    let state = "\(folder.path)/state"
    try FileManager.default.createDirectory(atPath: state, withIntermediateDirectories: true)
    func write(_ name: String, _ text: String) throws {
      try Data(text.utf8).write(to: URL(filePath: "\(state)/\(name).yaml"))
    }
    try write(
      "pool", "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.0.0.0/24}\n")
    let source = ["--store", store, "--state", state]
    let none = try ipam(["show"] + source)
    #expect(none.status == 66 && none.errors.contains("the agent makes it with the first container"))
    // The settings come before the first address.
    let early = ["--store", "\(folder.path)/early/ipam.db", "--state", state]
    #expect(try ipam(["configure", "--max-blocks-per-host", "3"] + early).status == 0)
    #expect(try ipam(["show", "--show-configuration"] + early).output.contains("| MaxBlocksPerHost   |     3 |"))
    #expect(try ipam(["configure", "--max-blocks-per-host", "-1"] + early).status == 64)

    let bench = Bench(try SQLiteStore(path: store), [pool("10.0.0.0/24")])
    let kept = try bench.add("kept")[0]
    let leaked = try bench.add("leaked")[0]
    try write(
      "pod",
      """
      apiVersion: v1
      kind: Pod
      metadata: {name: kept, namespace: default}
      spec: {nodeName: a, containers: [{name: c}]}
      status: {phase: Running, podIPs: [{ip: \(kept)}]}
      """)

    let show = try ipam(["show", "--show-blocks"] + source)
    #expect(
      show.status == 0 && show.output.contains("|       256 | 2 (1%)     | 254 (99%) |"))
    #expect(try ipam(["show", "-o", "yaml"] + source).output.contains("grouping: IP Pool"))
    let json = try JSONDecoder().decode(
      [Utilization].self, from: Data(ipam(["show", "-o", "json"] + source).output.utf8))
    #expect(json.count == 1 && json[0].inUse == 2 && json[0].blocks?.count == 1)
    #expect(try ipam(["show", "--ip", "\(kept)"] + source).output.contains("  pod: kept\n"))
    #expect(try ipam(["show", "--ip", "10.0.0.0/8"] + source).status == 64)

    let check = try ipam(["check", "--show-problem-ips"] + source)
    #expect(check.status == 1 && check.output.contains("  \(leaked) leaked; attrs Main:net|leaked|eth0 "))
    let report = "\(folder.path)/report.json"
    let written = try ipam(["check", "-o", report] + source)
    #expect(written.status == 1 && written.output.hasSuffix("Check complete; found 1 problems.\n"))
    #expect(try ipam(["check", "-o", "json"] + source).output == String(contentsOfFile: report, encoding: .utf8))
    #expect(try ipam(["check", "-o", "jsn"] + source).status == 64)
    #expect(
      try ipam(["release", "--from-report", report] + source).output == """
        Releasing 1 old IPs...
        Released 1 IPs successfully
        Report didn't contain any handles to clean up.

        """)
    #expect(
      try ipam(["release", "--from-report", report] + source).output == """
        Releasing 1 old IPs...
        Released 0 IPs successfully
        1 addresses marked as leaked in the report had already been cleaned up.
        Report didn't contain any handles to clean up.

        """)
    #expect(try ipam(["check"] + source).status == 0)
    #expect(try ipam(["release", "--ip", "\(kept)"] + source).output == "Successfully released IP address \(kept)\n")
    let again = try ipam(["release", "--ip", "\(kept)"] + source)
    #expect(again.status == 1 && again.errors == "kalsae: IP address \(kept) is not assigned\n")
    #expect(try ipam(["release"] + source).status == 64)

    let configured = try ipam(["configure", "--strictaffinity", "true", "--ip-cooldown-seconds", "7"] + source)
    #expect(
      configured.output == "Successfully set StrictAffinity to: true\nSuccessfully set IPCooldownSeconds to: 7\n")
    #expect(try ipam(["show", "--show-blocks", "--show-borrowed"] + source).status == 64)
    #expect(try ipam(["show", "--show-configuration"] + source).output.contains("| StrictAffinity     | true  |"))
    #expect(
      try ipam(["limits", "m5.large"]).output.contains("| m5.large      |          3 |                10 |       29 |"))
    #expect(try ipam(["limits", "none"]).status == 66)
  }

  private func ipam(_ arguments: [String]) throws -> (status: Int32, output: String, errors: String) {
    try run(["ipam"] + arguments)
  }
}
