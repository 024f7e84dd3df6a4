import Glibc
import Lab
import Testing

/// The demo as its users see it.
@Suite("Demo", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct DemoTests {
  @Test("it shows its modes, keeps the captures, says that all is well, and leaves nothing")
  func modes() throws {
    let lab = try Lab(name: "demo")
    defer { lab.cleanUp() }
    let folder = "\(try lab.directory())/captures"
    let child = try lab.spawn([
      try builtProgram("kalsae"), "demo", "--modes", "vxlan,direct", "--size", "5", "--captures", folder,
      "--no-services",
    ])
    let result = try child.wait(timeout: .seconds(100))
    #expect(result.status == .exited(0), "\(result.standardOutput)")
    #expect(result.standardOutput.contains("All is well"))
    for mode in ["vxlan", "direct"] { #expect(unsafe access("\(folder)/\(mode).pcap", R_OK) == 0) }
    #expect(try namespaces(ofProcess: child.pid, in: lab).isEmpty)
  }

  @Test("it shows services and policy with real servers and clients, and what the agents say of it")
  func services() throws {
    let lab = try Lab(name: "demo")
    defer { lab.cleanUp() }
    let child = try lab.spawn([
      try builtProgram("kalsae"), "demo", "--modes", "direct", "--size", "1", "--captures",
      "\(try lab.directory())/captures",
    ])
    let result = try child.wait(timeout: .seconds(100))
    #expect(result.status == .exited(0), "\(result.standardOutput)\(result.standardError)")
    for row in ["ClusterIP", "NodePort", "load balancer", "policy Local", "b2 removed", "default-deny", "deny lifted"] {
      #expect(result.standardOutput.contains("\n\(row) "), "\(result.standardOutput)")
    }
    #expect(result.standardOutput.contains("policyIngress"))
    #expect(try namespaces(ofProcess: child.pid, in: lab).isEmpty)
  }

  @Test("with --ebpf the kernels carry the flows, the table says how many packets, and nothing is left")
  func kernel() throws {
    let lab = try Lab(name: "demok")
    defer { lab.cleanUp() }
    let child = try lab.spawn([
      try builtProgram("kalsae"), "demo", "--ebpf", "--modes", "vxlan", "--size", "20", "--no-containers",
      "--captures", "\(try lab.directory())/captures",
    ])
    let result = try child.wait(timeout: .seconds(100))
    #expect(result.status == .exited(0), "\(result.standardOutput)\(result.standardError)")
    #expect(result.standardOutput.contains("IN KERNEL") && result.standardOutput.contains("The kernel carried"))
    for node in ["node-a", "node-b"] {
      #expect(
        try lab.run([try builtProgram("kalsae"), "ebpf", "unload", "--node", node]).standardOutput
          == "nothing was loaded\n")
    }
  }

  @Test("interrupted half way it exits with 130 and leaves nothing", arguments: [SIGINT, SIGTERM])
  func interrupted(signal: Int32) throws {
    let lab = try Lab(name: "stop")
    defer { lab.cleanUp() }
    let folder = "\(try lab.directory())/captures"
    let child = try lab.spawn([
      try builtProgram("kalsae"), "demo", "--modes", "ipip", "--size", "500", "--captures", folder,
    ])
    try waitUntil("the transfer to begin", timeout: .seconds(60)) { child.standardError.contains("TCP, 500 MB") }
    child.signal(signal)
    #expect(try child.wait(timeout: .seconds(30)).status == .exited(128 + signal))
    #expect(try namespaces(ofProcess: child.pid, in: lab).isEmpty)
    let processes = try lab.run(["ps", "-eo", "args"]).standardOutput
    #expect(!processes.contains("/kl\(child.pid)-demo"))
  }

  @Test("what it cannot show is refused with the choices")
  func refusals() throws {
    let lab = try Lab(name: "refuse")
    defer { lab.cleanUp() }
    let program = try builtProgram("kalsae")
    let mode = try lab.runUnchecked([program, "demo", "--modes", "vxlan,wifi"])
    #expect(mode.status == .exited(64))
    #expect(mode.standardError.contains("'wifi'") && mode.standardError.contains("geneve"))
    #expect(try lab.runUnchecked([program, "demo", "--size", "0"]).status == .exited(64))
  }
}
