import Glibc
import Lab
import Testing

/// What is left of a lab when the process that has it comes to an end, one way or another: nothing.
@Suite("End of a lab", .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct LabEndTests {
  private func start(_ lab: Lab, _ mode: String...) throws -> Child {
    let child = try lab.spawn([try builtProgram("lab-probe")] + mode)
    _ = try waitFor("the probe's namespaces") { child.standardOutput.hasSuffix("\n") ? true : nil }
    return child
  }

  private func expectNothingLeft(of child: Child, in lab: Lab) throws {
    #expect(try namespaces(ofProcess: child.pid, in: lab) == [])
    // The probe's programs are all descendants in its namespaces; a namespace without a name is held by nothing else.
    let files = try lab.run(["sh", "-c", "ls -d /tmp/kl\(child.pid)-* /run/kalsae-lab/\(child.pid) 2>/dev/null; true"])
    #expect(files.standardOutput == "")
  }

  @Test(
    "signals: all is gone, and the exit status is 128 and the signal's number", arguments: [SIGINT, SIGTERM, SIGHUP])
  func signals(number: Int32) throws {
    let lab = try Lab(name: "signals")
    defer { lab.cleanUp() }
    // A program that ignores SIGTERM costs its patience: once is enough.
    let child = try number == SIGINT ? start(lab, "stand", "stubborn") : start(lab, "stand")
    let names = child.standardOutput.split(whereSeparator: \.isWhitespace).map(String.init)
    #expect(try namespaces(ofProcess: child.pid, in: lab).sorted() == names.sorted())
    let inside = try lab.run(["ip", "netns", "pids", names[1]]).standardOutput.split(separator: "\n")
    #expect(inside.count >= 2)
    child.signal(number)
    #expect(try child.wait(timeout: .seconds(20)).status == .exited(128 + number))
    try expectNothingLeft(of: child, in: lab)
    // They have ended already, but those without a parent wait for the machine's first process to collect them.
    try waitUntil("the programs to be gone") { inside.allSatisfy { kill(Int32($0) ?? 0, 0) == -1 } }
  }

  @Test("a thrown error, and an exit without clean-up", arguments: [("throw", 3), ("exit", 4)])
  func ends(mode: String, status: Int) throws {
    let lab = try Lab(name: mode)
    defer { lab.cleanUp() }
    let child = try lab.spawn([try builtProgram("lab-probe"), mode])
    #expect(try child.wait(timeout: .seconds(20)).status == .exited(Int32(status)))
    #expect(child.standardOutput.contains("kl\(child.pid)-probe-a"))
    try expectNothingLeft(of: child, in: lab)
  }

  @Test("what a killed process leaves, the next one takes away")
  func killed() throws {
    let lab = try Lab(name: "killed")
    defer { lab.cleanUp() }
    let child = try start(lab, "stand")
    let names = child.standardOutput.split(whereSeparator: \.isWhitespace).map(String.init)
    let inside = try lab.run(["ip", "netns", "pids", names[1]]).standardOutput.split(separator: "\n")
    // While its process lives nobody touches it.
    #expect(!Lab.collectLeftovers().contains(names[0]))
    child.signal(SIGKILL)
    #expect(try child.wait(timeout: .seconds(20)).status == .signalled(SIGKILL))
    // Another lab that begins now may be the one to do it.
    Lab.collectLeftovers()
    try waitUntil("the namespaces to go") { try namespaces(ofProcess: child.pid, in: lab).isEmpty }
    try waitUntil("the programs to be gone") { inside.allSatisfy { kill(Int32($0) ?? 0, 0) == -1 } }
    try expectNothingLeft(of: child, in: lab)
  }
}
