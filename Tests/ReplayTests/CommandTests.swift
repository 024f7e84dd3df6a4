import Foundation
import Replay
import Testing

/// The program itself: what it prints, where, and how it ends. See `kalsae --help` for the exit states.
@Suite("Commands")
struct CommandTests {
  struct Result {
    var status: Int32
    var output: String
    var error: String
  }

  private let program = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
    .appending(path: "kalsae")

  private func kalsae(_ arguments: [String], input: String = "") throws -> Result {
    let process = Process()
    process.executableURL = program
    process.arguments = arguments
    let output = Pipe()
    let error = Pipe()
    let standardInput = Pipe()
    process.standardOutput = output
    process.standardError = error
    process.standardInput = standardInput
    try process.run()
    try standardInput.fileHandleForWriting.write(contentsOf: Data(input.utf8))
    try standardInput.fileHandleForWriting.close()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    let complaints = String(decoding: error.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return Result(status: process.terminationStatus, output: text, error: complaints)
  }

  private func withFolder<R>(_ body: (URL) throws -> R) throws -> R {
    let folder = FileManager.default.temporaryDirectory.appending(path: "kalsae-command-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    return try body(folder)
  }

  private let direct = GoldenCase.folder.appending(path: "direct")
  private var state: [String] { ["--state", direct.appending(path: "state").path, "--node", "node-a"] }
  private var captures: [String] {
    ["default/a", "underlay"].map { name in
      "\(name)=" + direct.appending(path: "ports/\(name == "underlay" ? name : "default_a").pcap").path
    }
  }

  @Test("Version, help and completions")
  func basics() throws {
    let version = try kalsae(["--version"])
    #expect(version.status == 0)
    #expect(version.output.split(separator: ".").count == 3)
    let help = try kalsae(["help", "replay"])
    #expect(help.status == 0)
    #expect(help.output.contains("--expect <dir>"))
    #expect(help.output.contains("EXIT STATUS"))
    for shell in ["bash", "zsh", "fish"] {
      let script = try kalsae(["--generate-completion-script", shell])
      #expect(script.status == 0)
      #expect(script.output.contains("replay"))
    }
  }

  @Test("The manual page has every option of every command")
  func manual() throws {
    let page = GoldenCase.folder.deletingLastPathComponent().deletingLastPathComponent().appending(
      path: "docs/kalsae.1")
    let manual = try String(contentsOf: page, encoding: .utf8)
    func subcommands(_ help: String) -> [String] {
      guard help.contains("SUBCOMMANDS:") else { return [] }
      return (help.split(separator: "SUBCOMMANDS:").last?.split(separator: "\n") ?? []).filter {
        $0.hasPrefix("  ") && !$0.hasPrefix("   ") && !$0.contains("kalsae help")
      }.compactMap { $0.split(separator: " ").first.map(String.init) }
    }
    let commands = subcommands(try kalsae(["--help"]).output)
    #expect(commands.count >= 6)
    for command in commands {
      #expect(manual.contains(".Cm \(command)\n"), "\(command)")
      let help = try kalsae(["help", command]).output
      let more = try subcommands(help).filter { $0 != "help" }.map {
        ("\(command) \($0)", try kalsae(["help", command, $0]).output)
      }
      for (name, help) in [(command, help)] + more {
        for match in help.matches(of: /(?m)^ {2}(?:-[a-z], )?--([a-z-]+)/) {
          let option = match.1
          #expect(manual.contains("Fl -\(option)"), "\(name) --\(option)")
        }
      }
    }
  }

  @Test("What goes wrong is one line with the file or field, and its own exit status")
  func failures() throws {
    try withFolder { folder in
      let garbage = folder.appending(path: "garbage.pcap").path
      try Data("no capture at all, certainly not".utf8).write(to: URL(filePath: garbage))
      let broken = folder.appending(path: "broken")
      try FileManager.default.createDirectory(at: broken, withIntermediateDirectories: true)
      try Data("apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nspec: {podCIDRs: [10.0.0]}\n".utf8).write(
        to: broken.appending(path: "node.yaml"))
      let cases: [([String], Int32, String)] = [
        (["replay"], 64, "name a capture"),
        (["replay", "--node", "n", garbage], 64, "--node needs --state"),
        (["replay", "/nowhere/x.pcap"], 66, "/nowhere/x.pcap: cannot open the capture"),
        (["replay", garbage], 65, garbage),
        (["replay", folder.path], 66, folder.path),
        (["replay"] + state + ["nopod=\(garbage)"], 64, "no port nopod on this node"),
        (["replay"] + ["--state", "/nowhere", "--node", "node-a", garbage], 66, "/nowhere"),
        (["replay"] + ["--state", broken.path, "--node", "node-a", garbage], 65, "node.yaml:4:"),
        (["replay"] + state + captures + ["--expect", "/nowhere"], 66, "/nowhere"),
        (["replay"] + state + captures + ["--out", "/proc/nowhere"], 74, "/proc/nowhere"),
        (["replay"] + state + captures + ["--mac", "default/q=02:00:00:00:00:01"], 64, "no port default/q"),
        (["trace"] + state + ["--from", "default/a"], 64, "--to is missing"),
        (["trace"] + state + ["--batch", "/nowhere"], 66, "/nowhere"),
        (["trace"] + state + ["--from", "default/a", "--to", "x", "--protocol", "TCP"], 65, "to: x is neither"),
        (
          ["trace", "--state", broken.path, "--node", "node-a", "--from", "192.0.2.1", "--to", "192.0.2.2"]
            + ["--protocol", "ICMP"], 65, "node.yaml:4:"
        ),
      ]
      for (arguments, status, message) in cases {
        let result = try kalsae(arguments)
        #expect(result.status == status, "\(arguments): \(result.error)")
        #expect(result.error.contains(message), "\(arguments): \(result.error)")
        #expect(result.output.isEmpty, "\(arguments)")
        if status != 64 { #expect(result.error.split(separator: "\n").count == 1, "\(result.error)") }
      }
    }
  }

  @Test("The same captures give the same files to the octet, which are then what is expected")
  func deterministic() throws {
    try withFolder { folder in
      let one = folder.appending(path: "one").path
      let two = folder.appending(path: "two").path
      for directory in [one, two] {
        let result = try kalsae(["replay"] + state + captures + ["--out", directory])
        #expect(result.status == 0)
        #expect(result.output.contains("default/a"))
      }
      let names = try FileManager.default.contentsOfDirectory(atPath: one).sorted()
      #expect(names == ["counters.json", "default_a.pcap", "default_a2.pcap", "host.pcap", "underlay.pcap"])
      for name in names {
        #expect(FileManager.default.contentsEqual(atPath: "\(one)/\(name)", andPath: "\(two)/\(name)"), "\(name)")
      }
      let same = try kalsae(["replay", "--quiet"] + state + captures + ["--expect", one])
      #expect(same.status == 0 && same.output.isEmpty && same.error.isEmpty)
      let other = try kalsae(["replay", "--quiet"] + state + [captures[0]] + ["--expect", one])
      #expect(other.status == 1)
      #expect(other.error.contains("default/a: packet 1 is missing; 0 came"))
    }
  }

  @Test("KP-23 NP-4 trace names every mistake in the manifests, a line for each, and answers with the rest")
  func mistakes() throws {
    let services = GoldenCase.folder.appending(path: "services/state")
    try withFolder { folder in
      let directory = folder.appending(path: "state")
      try FileManager.default.copyItem(at: services, to: directory)
      for (name, manifest) in [
        (
          "x1.yaml",
          """
          {apiVersion: v1, kind: Service, metadata: {name: zz, namespace: default},
           spec: {clusterIP: 10.96.0.200, ports: [{port: 80, protocol: QUIC}]}}
          """
        ),
        (
          "x2.yaml",
          """
          {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: default},
           spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/16, except: [10.1.0.0/24]}}]}]}}
          """
        ),
      ] { try Data(manifest.utf8).write(to: directory.appending(path: name)) }
      let probe = ["--node", "node-a", "--from", "default/a", "--to", "10.96.0.1", "--protocol", "TCP", "--port", "80"]
      let result = try kalsae(["trace", "--output", "json", "--state", directory.path] + probe)
      #expect(result.status == 65)
      let lines = result.error.split(separator: "\n")
      #expect(lines.count == 2)
      #expect(
        result.error.contains("x1.yaml:2:") && result.error.contains("Service default/zz: spec.ports[0].protocol"))
      #expect(
        result.error.contains("x2.yaml:2:")
          && result.error.contains("NetworkPolicy default/p: spec.ingress[0].from[0].ipBlock.except[0]"))
      // The answer is that of the state without them.
      let right = try kalsae(["trace", "--output", "json", "--state", services.path] + probe)
      #expect(right.status == 0 && right.output == result.output && right.output.contains("translate"))
    }
  }

  @Test("Several captures are merged by time, and their result is an object of JSON")
  func json() throws {
    let result = try kalsae(["replay", "--output", "json"] + state + captures)
    #expect(result.status == 0)
    let report = try JSONDecoder().decode(ReplayReport.self, from: Data(result.output.utf8))
    #expect(report.received.packets == 16)
    #expect(report.verdicts.forwarded == 8)
    #expect(report.verdicts.delivered == 8)
    #expect(report.flows.created == 16)
    #expect(report.flows.top.allSatisfy { $0.reply.packets == 0 || $0.state == "established" })
  }

  @Test("A capture that is cut short is replayed as far as it goes, with a warning")
  func cutShort() throws {
    try withFolder { folder in
      let octets = try Data(contentsOf: direct.appending(path: "ports/default_a.pcap"))
      let cut = folder.appending(path: "cut.pcap")
      try octets.dropLast(10).write(to: cut)
      let result = try kalsae(["replay"] + state + ["default/a=\(cut.path)"])
      #expect(result.status == 0)
      #expect(result.error.contains("warning: \(cut.path): cannot read the capture beyond octet"))
      #expect(result.output.contains("7 packets"))
    }
  }

  @Test("A replay that is interrupted leaves no file behind")
  func interrupted() throws {
    try withFolder { folder in
      // What is written after the end of the other side is an error, not a signal.
      _ = signal(SIGPIPE, SIG_IGN)
      // A pipe that nobody writes to any more: the replay waits for the rest of it.
      let pipe = folder.appending(path: "pipe").path
      let made = unsafe mkfifo(pipe, 0o600)
      #expect(made == 0)
      let out = folder.appending(path: "out").path
      let process = Process()
      process.executableURL = program
      process.arguments = ["replay"] + state + ["default/a=\(pipe)", "--out", out]
      process.standardError = FileHandle.nullDevice
      try process.run()
      let writer = try FileHandle(forWritingTo: URL(filePath: pipe))
      let capture = try Data(contentsOf: direct.appending(path: "ports/default_a.pcap"))
      // Far more packets than fit the pipe and the buffers on the way, so that some were sent by then.
      try writer.write(contentsOf: capture)
      for _ in 0..<2000 { try writer.write(contentsOf: capture.dropFirst(24)) }
      process.interrupt()
      for _ in 0..<4000 where process.isRunning { try? writer.write(contentsOf: capture.dropFirst(24)) }
      try writer.close()
      process.waitUntilExit()
      #expect(process.terminationStatus == 130)
      #expect(try FileManager.default.contentsOfDirectory(atPath: out).isEmpty)
    }
  }

  @Test("A batch is answered line by line, bad lines too")
  func batch() throws {
    let lines = """
      {"from":"default/a","to":"default/b","protocol":"TCP","port":80}
      nonsense

      {"from":"default/a","to":"default/x","protocol":"TCP","port":80}
      {"from":"default/a","to":"169.254.1.1","protocol":"ICMP"}
      """
    let result = try kalsae(["trace"] + state + ["--batch", "-"], input: lines)
    #expect(result.status == 1)
    let answers = result.output.split(separator: "\n")
    #expect(answers.count == 4)
    #expect(answers.first?.contains(#""verdict":"forward""#) == true)
    #expect(answers.dropFirst().first == #"{"error":"not valid JSON"}"#)
    #expect(answers.dropFirst(2).first?.contains("no Pod default/x") == true)
    #expect(answers.last?.contains(#""verdict":"answer""#) == true)
    #expect(result.error.contains("2 of 4 lines could not be answered"))
  }
}
