import Agent
import ArgumentParser
import Glibc
import Lab

extension Kalsae {
  /// `kalsae demo`
  struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "demo",
      abstract: "Show two nodes that carry real traffic between pods.",
      discussion: """
        Makes two nodes in network namespaces with a wire between them, two pods on each (one on a veth pair, one on a \
        TAP device), and runs an agent on each node. For each mode it changes the IPPool's manifest, pings, sends the \
        largest ping there is, asks by ARP for the gateway, transfers data by TCP and compares hashes, and lets a \
        packet be too big for the tunnel. What passed the wire is kept as a pcap file for each mode. Then it shows \
        services and policy, and containers that containerd starts with kalsae-cni.

        Everything is taken away again at the end, after a failure, and at Ctrl-C. Needs root.

        EXAMPLES
          kalsae demo
          kalsae demo --modes vxlan,gre --size 50
          kalsae demo --ebpf
          kalsae demo --keep

        EXIT STATUS
          0 all is well; 1 something failed; 64 usage; 77 not root; 130 ended by Ctrl-C.
        """)

    @Option(
      name: .long,
      help: ArgumentHelp("Which modes, separated by commas: \(DemoMode.names).", valueName: "modes"))
    var modes = DemoMode.allCases.map(\.rawValue).joined(separator: ",")

    @Option(name: .long, help: ArgumentHelp("Megabytes of each TCP transfer.", valueName: "MB"))
    var size = 200

    @Option(
      name: .long, help: ArgumentHelp("Where the captures of the wire are kept.", valueName: "dir"),
      completion: .directory)
    var captures = "/tmp/kalsae-demo"

    @Flag(name: .long, help: "Leave everything standing until Ctrl-C, with commands to look around.")
    var keep = false

    @Flag(inversion: .prefixedNo, help: "Whether to show services and policy as well.")
    var services = true

    @Flag(inversion: .prefixedNo, help: "Whether to start containers as well, by containerd where it is installed.")
    var containers = true

    @Flag(
      name: .long, help: "Have the kernels carry established flows and translate at sockets, with all hooks of ebpf on."
    )
    var ebpf = false

    private var chosen: [DemoMode] {
      modes.split(separator: ",").compactMap { DemoMode(rawValue: String($0).trimmed) }
    }

    func validate() throws {
      for name in modes.split(separator: ",") where DemoMode(rawValue: String(name).trimmed) == nil {
        throw ValidationError("--modes: '\(name)' is no mode; modes are \(DemoMode.names)")
      }
      guard !chosen.isEmpty else { throw ValidationError("--modes names no mode; modes are \(DemoMode.names)") }
      try requireNumber("--size", size, in: 1...2000)
    }

    func run() throws {
      if let reason = Lab.unavailableReason {
        throw Failure(geteuid() == 0 ? .difference : .permission, "demo: \(reason)")
      }
      Interruption.onSignal { _ in Standard.error("\ninterrupted: taking everything away…\n") }
      let report = DemoReport()
      do {
        let lab = try Lab(name: "demo")
        defer { lab.cleanUp() }
        let demo = try DemoRun(lab: lab, size: size, captures: captures, ebpf: ebpf, report: report)
        try demo.run(chosen)
        var clusters = [demo.cluster]
        let second = services ? try Lab(name: "services") : nil
        defer { second?.cleanUp() }
        if let second {
          let shown = try DemoServices(lab: second, program: demo.program, ebpf: ebpf, report: report)
          clusters.append(shown.cluster)
          do { try shown.run() } catch { report.fail("services", "\(error)") }
        }
        let third = containers ? try Lab(name: "containers") : nil
        defer { third?.cleanUp() }
        if let third {
          let shown = try DemoContainers(lab: third, program: demo.program, ebpf: ebpf, report: report)
          clusters.append(shown.cluster)
          do { try shown.run() } catch { report.fail("containers", "\(error)") }
        }
        report.finish(clusters)
        if keep { try demo.stand() }
      } catch let error as LabError {
        throw Failure(.difference, "demo: \(error)")
      }
      guard report.failures.isEmpty else { throw ExitCode(1) }
    }
  }
}

extension String {
  /// Without spaces at its ends.
  var trimmed: String {
    var text = self[...]
    while text.first?.isWhitespace == true { text.removeFirst() }
    while text.last?.isWhitespace == true { text.removeLast() }
    return String(text)
  }
}
