import Addresses
import Glibc
import Lab
import Testing

/// What was loaded leaves nothing behind, as bpftool sees it: no program, no map, no link, nothing at a device, no file.
@Suite(
  "Unloading eBPF", .serialized,
  .enabled(if: Lab.isAvailable && Lab.controlGroupRoot != nil, "needs root and cgroup2"), .timeLimit(.minutes(5)))
struct EBPFUnloadTests {
  private let test: TestCluster
  private let group: String

  init() throws {
    test = try TestCluster("unload", [.init("ua", pods: [.veth, .tap]), .init("ub", pods: [.veth])])
    group = try test.lab.controlGroup()
    try test.cluster.write(
      Cluster.ServicePlan("web", [IPAddress("10.96.0.10")!, IPAddress("fd00:96::10")!], [test.a.pods[0]]))
    try test.cluster.configureNodes(
      "ebpf: required",
      "ebpfHooks: [connect4, connect6, sendmsg4, sendmsg6, recvmsg4, recvmsg6, getpeername4, getpeername6, post_bind4, "
        + "post_bind6, tc_lb, xdp_lb, overlay, policy]", "serviceCIDRs: [10.96.0.0/16, \"fd00:96::/112\"]")
  }

  /// Everything in the kernel that has to do with what is pinned for a node, as `kind number`: what is pinned, the programs
  /// of links, whatever uses a pinned map, and their maps.
  private static let inventory = """
    import json, os, subprocess, sys
    def tool(*words):
        done = subprocess.run(["bpftool", "-j", *words], capture_output=True, text=True)
        return json.loads(done.stdout or "[]")
    progs = {p["id"]: set(p.get("map_ids", [])) for p in tool("prog", "show")}
    found = set()
    for root in ("/sys/fs/bpf", "/run/kalsae/bpf"):
        for folder, _, files in os.walk(f"{root}/kalsae/{sys.argv[1]}"):
            for name in files:
                path = f"{folder}/{name}"
                for kind in ("link", "prog", "map"):
                    about = tool(kind, "show", "pinned", path)
                    if "id" not in about: continue
                    found.add((kind, about["id"]))
                    if kind == "link": found.add(("prog", about["prog_id"]))
                    break
    pinned = {number for kind, number in found if kind == "map"}
    # Filters of sockets are pinned nowhere.
    found |= {("prog", number) for number, maps in progs.items() if maps & pinned}
    for kind, number in list(found):
        if kind == "prog": found |= {("map", n) for n in progs.get(number, ())}
    print(*sorted(f"{kind} {number}" for kind, number in found), sep="\\n")
    """

  /// Those of them that are there.
  private static let living = """
    import json, subprocess, sys
    for kind in ("prog", "map", "link"):
        done = subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, text=True)
        for about in json.loads(done.stdout or "[]"):
            if f"{kind} {about['id']}" in sys.argv: print(kind, about["id"])
    """

  private func python(_ script: String, _ arguments: [String]) throws -> Set<String> {
    let text = try test.lab.run(["/usr/bin/python3", "-c", script] + arguments, timeout: .seconds(60)).standardOutput
    return Set(text.split(separator: "\n").map(String.init))
  }

  /// The names of programs among them.
  private static let names = """
    import json, subprocess, sys
    done = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, text=True)
    for about in json.loads(done.stdout or "[]"):
        if f"prog {about['id']}" in sys.argv: print(about.get("name", ""))
    """

  /// What the node's devices have of programs. (The guard, which an agent that was killed leaves, is none of them.)
  private func devices() throws -> [Substring] {
    try test.lab.run(["nsenter", "--net=\(test.a.namespace.path)", "bpftool", "net"]).standardOutput
      .split(separator: "\n").filter { $0.contains(#/ id [1-9]/#) }
  }

  private func kalsae(_ arguments: String...) throws -> String {
    try test.lab.runUnchecked(
      ["nsenter", "--net=\(test.a.namespace.path)", try builtProgram("kalsae")] + arguments
    ).standardOutput
  }

  private func start() throws -> Child {
    let agent = try test.lab.spawn(
      [
        "nsenter", "--net=\(test.a.namespace.path)", try builtProgram("kalsae"), "run", "--state", test.cluster.state,
        "--node", test.a.name, "--socket", test.cluster.socket(of: test.a), "--data", test.cluster.data(of: test.a),
        "--cgroup", group,
      ], log: test.cluster.log(of: test.a))
    try test.cluster.waitUntilReady(test.a, agent)
    return agent
  }

  private func end(_ agent: Child, _ signal: Int32) throws {
    agent.signal(signal)
    _ = try agent.wait(timeout: .seconds(10))
  }

  /// What is loaded for the node, which must be all of it.
  private func loaded(withAgent: Bool) throws -> Set<String> {
    let numbers = try python(EBPFUnloadTests.inventory, [test.a.name])
    for kind in ["prog", "map", "link"] { #expect(numbers.contains { $0.hasPrefix(kind) }, "\(kind): \(numbers)") }
    #expect(try python(EBPFUnloadTests.living, numbers.sorted()) == numbers)
    let names = try python(EBPFUnloadTests.names, numbers.sorted())
    let wanted = ["connect4", "post_bind6", "tc_lb", "xdp_lb"] + (withAgent ? ["overlay_carry"] : ["policy_from_pod"])
    #expect(names.isSuperset(of: wanted), "\(names)")
    #expect(try !devices().isEmpty)
    return numbers
  }

  private func expectNothing(of numbers: Set<String>, devices before: [Substring], _ text: String) throws {
    try waitUntil("the kernel to give everything back: \(text)") {
      try python(EBPFUnloadTests.living, numbers.sorted()).isEmpty
    }
    #expect(try devices() == before, "\(text)")
    for mount in ["/sys/fs/bpf", "/run/kalsae/bpf"] {
      #expect(unsafe access("\(mount)/kalsae/\(test.a.name)", F_OK) != 0, "\(text)")
    }
    #expect(try kalsae("ebpf", "unload", "--node", test.a.name) == "nothing was loaded\n")
  }

  @Test(
    "kalsae ebpf unload after load, SIGTERM, and kalsae ebpf unload after SIGKILL leave nothing that bpftool could see")
  func nothing() throws {
    defer {
      _ = try? kalsae("ebpf", "unload", "--node", test.a.name)
      test.lab.cleanUp()
    }
    let before = try devices()
    _ = try kalsae("ebpf", "load", "--state", test.cluster.state, "--node", test.a.name, "--cgroup", group)
    let alone = try loaded(withAgent: false)
    #expect(try kalsae("ebpf", "unload", "--node", test.a.name) == "unloaded: node \(test.a.name)\n")
    try expectNothing(of: alone, devices: before, "unload")

    let agent = try start()
    let running = try loaded(withAgent: true)
    try end(agent, SIGTERM)
    try expectNothing(of: running, devices: before, "SIGTERM")

    try end(try start(), SIGKILL)
    // Its sockets' filters are gone with it.
    let left = try loaded(withAgent: true)
    #expect(try kalsae("ebpf", "unload", "--node", test.a.name) == "unloaded: node \(test.a.name)\n")
    try expectNothing(of: left, devices: before, "unload after SIGKILL")
  }
}
