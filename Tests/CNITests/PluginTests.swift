import CNI
import Glibc
import Lab
import Testing

/// The path of a program of this package, built beside the tests.
func built(_ name: String) -> String {
  var buffer = [UInt8](repeating: 0, count: 4096)
  let count = unsafe buffer.withUnsafeMutableBytes {
    unsafe readlink("/proc/self/exe", $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
  }
  let own = String(decoding: buffer[..<max(0, count)], as: UTF8.self)
  return own.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" } + "/\(name)"
}

/// The program itself, where no agent runs.
@Suite("kalsae-cni", .enabled(if: Lab.isAvailable, "needs root and network namespaces"), .timeLimit(.minutes(10)))
struct PluginTests {
  private func run(_ lab: Lab, _ variables: [String], _ input: String) throws -> ProcessResult {
    try lab.runUnchecked(["env", "-i"] + variables + [built("kalsae-cni")], input: input)
  }

  private func configuration(_ lab: Lab, _ more: String = "") throws -> String {
    let folder = try lab.directory()
    return """
      {"cniVersion": "1.1.0", "name": "n", "type": "kalsae-cni", "agentSocket": "\(folder)/none.cni", "dataDirectory": "\(folder)/state"\(more)}
      """
  }

  private let add = [
    "CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=/run/netns/none", "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
  ]

  @Test("CNI-2: without a command an about text on standard error, and exit 0; VERSION needs no agent")
  func about() throws {
    let lab = try Lab(name: "plugin")
    defer { lab.cleanUp() }
    let about = try run(lab, [], "")
    #expect(about.status == .exited(0))
    #expect(about.standardOutput.isEmpty)
    #expect(about.standardError.contains("kalsae-cni"))
    #expect(about.standardError.contains("1.1.0"))
    let version = try run(lab, ["CNI_COMMAND=VERSION"], #"{"cniVersion": "1.0.0"}"#)
    #expect(version.status == .exited(0))
    #expect(try JSON(parsing: version.standardOutput) == CNIVersion.report(asked: "1.0.0"))
    #expect(try run(lab, ["CNI_COMMAND=VERSION"], "").status == .exited(0))
  }

  @Test("CNI-9: errors are JSON on standard output with the asked version, and the exit status says so")
  func errors() throws {
    let lab = try Lab(name: "plugin")
    defer { lab.cleanUp() }
    func code(_ variables: [String], _ input: String) throws -> Int? {
      let result = try run(lab, variables, input)
      #expect(result.status == .exited(1))
      let json = try JSON(parsing: result.standardOutput)
      #expect(json["details"]?.text?.isEmpty == false)
      return json["code"]?.integer
    }
    #expect(try code(["CNI_COMMAND=FLY"], try configuration(lab)) == 4)
    #expect(try code(add, "{") == 6)
    #expect(try code(add, #"{"cniVersion": "0.1.0", "name": "n"}"#) == 1)
    #expect(try code(add, try configuration(lab)) == 11)
    #expect(try code(["CNI_COMMAND=CHECK"] + add.dropFirst(), try configuration(lab)) == 11)
    #expect(try code(["CNI_COMMAND=STATUS"], try configuration(lab)) == 50)
    #expect(try code(["CNI_COMMAND=GC"], try configuration(lab)) == 11)
    // Standard input that cannot be read: a folder.
    let folder = try lab.directory()
    let closed = try lab.runUnchecked(
      ["sh", "-c", "CNI_COMMAND=ADD exec \(built("kalsae-cni")) < \(folder)"])
    #expect(try JSON(parsing: closed.standardOutput)["code"]?.integer == 5)
  }

  @Test("CNI-4: with the agent away DEL succeeds and is recorded, once for each interface")
  func spool() throws {
    let lab = try Lab(name: "plugin")
    defer { lab.cleanUp() }
    let delete = ["CNI_COMMAND=DEL"] + add.dropFirst().filter { !$0.hasPrefix("CNI_NETNS") }
    for _ in 0..<2 {
      let result = try run(lab, delete, try configuration(lab))
      #expect(result.status == .exited(0), "\(result.standardOutput)")
      #expect(result.standardOutput.isEmpty)
    }
    let long = ["CNI_COMMAND=DEL", "CNI_CONTAINERID=" + String(repeating: "c", count: 255), "CNI_IFNAME=net1"]
    #expect(try run(lab, long, try configuration(lab)).status == .exited(0))
    let spool = DeleteSpool(dataDirectory: "\(try lab.directory())/state")
    let entries = spool.entries()
    #expect(entries.map { $0.request?.interface } == ["eth0", "net1"])
    #expect(entries[0].request?.containerID == "c1")
    #expect(entries[0].request?.command == .delete)
    for entry in entries { spool.remove(entry) }
    #expect(spool.entries().isEmpty)
    // What a plugin had begun when it was killed goes, what one is writing stays. No process has the first number.
    for writer in [4_194_305, Int(getpid())] {
      try lab.run(["touch", "\(spool.folder)/.c1@eth0.json.\(writer)"])
    }
    spool.sweep()
    #expect(try lab.run(["ls", "-A", spool.folder]).standardOutput == ".c1@eth0.json.\(getpid())\n")
    // Where it cannot be recorded the runtime is told to ask again.
    let nowhere = #"{"cniVersion": "1.1.0", "name": "n", "agentSocket": "/none.cni", "dataDirectory": "/proc/none"}"#
    let refused = try run(lab, delete, nowhere)
    #expect(refused.status == .exited(1))
    #expect(try JSON(parsing: refused.standardOutput)["details"]?.text?.contains("dataDirectory") == true)
  }
}
