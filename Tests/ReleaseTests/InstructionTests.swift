import Foundation
import Testing

private let valgrind = ["/usr/bin/valgrind", "/usr/local/bin/valgrind"].first {
  FileManager.default.isExecutableFile(atPath: $0)
}

/// Instructions are counted, not time: they are the same on a busy machine.
@Suite(
  "Instructions, optimised", .serialized,
  .enabled(if: !_isDebugAssertConfiguration(), "counts what the optimiser leaves: only in a release build"),
  .enabled(if: valgrind != nil, "needs valgrind: tools/bootstrap --test"))
struct InstructionTests {
  /// A packet of a known flow, or the first of a new one. The bounds are what it costs today and a little more, not what
  /// is wanted.
  @Test(
    "A packet costs no more instructions than this",
    arguments: [
      ("service+policy+vxlan", 155), ("forward", 122), ("forward6", 165), ("receive6", 165), ("vxlan-decap", 160),
      ("arp-reply", 270), ("new-flow-service", 2000), ("new-flow", 2500),
    ])
  func pipeline(_ name: String, _ bound: Int) throws {
    let program = try stripped()
    defer { try? FileManager.default.removeItem(at: program) }
    // What a longer run costs more is the packets' alone: 16 batches of 256 in each window.
    let short = try instructions(program, name, windows: 2)
    let long = try instructions(program, name, windows: 12)
    let each = Double(long - short) / Double(10 * 16 * 256)
    #expect(each > 50, "\(each): nothing was counted")
    #expect(each <= Double(bound), "\(each) instructions a packet")
  }

  /// The program without debugging information, which old valgrinds cannot read.
  private func stripped() throws -> URL {
    let built = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
      .appending(path: "kalsae")
    let copy = FileManager.default.temporaryDirectory.appending(path: "kalsae-\(UUID().uuidString)")
    _ = try run("/usr/bin/env", ["strip", "--strip-debug", "-o", copy.path, built.path])
    return copy
  }

  private func instructions(_ program: URL, _ name: String, windows: Int) throws -> Int {
    let output = try run(
      try #require(valgrind),
      [
        "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=$s9Dataplane4LaneC4poll*", program.path,
        "bench", "pipeline", "--case", name, "--flows", "256", "--windows", String(windows), "--milliseconds", "0",
      ])
    let line = try #require(output.split(separator: "\n").last { $0.contains("I   refs:") }, "\(output)")
    return try #require(Int(line.split(separator: ":")[1].filter(\.isNumber)))
  }

  /// What a program wrote, on either stream.
  private func run(_ path: String, _ arguments: [String]) throws -> String {
    let process = Process()
    process.executableURL = URL(filePath: path)
    process.arguments = arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    try #require(process.terminationStatus == 0, "\(output)")
    return output
  }
}
