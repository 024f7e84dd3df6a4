import ArgumentParser
import CLinux
import Replay

extension Kalsae {
  /// `kalsae replay`
  struct ReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "replay",
      abstract: "Run captures through the packet path of a node.",
      discussion: """
        The captures (pcap or pcapng, plain) go through the same pipeline that moves live packets. Time is the captures' \
        own, so the same input gives the same output, to the octet. Several captures are merged by time stamp.

        With --state and --node the ports are those of the node: `underlay`, `host`, and `namespace/pod` (or \
        `namespace_pod`, or the name of the interface) for each pod on it. A capture without NAME= comes in by the \
        underlay. Without a state, each capture is a wire of its own that leads to a port named `out`: useful to see \
        flows and drops of any capture.

        EXAMPLES
          kalsae replay capture.pcap
          kalsae replay --state manifests --node node-a --out result eth0.pcap default/web=web.pcap
          kalsae replay --state manifests --node node-a --expect golden underlay=in.pcap

        EXIT STATUS
          0 done (and as expected); 1 different from what was expected; 64 usage; 65 not a capture or a bad manifest; \
        66 no such file, node or directory; 74 cannot read or write.
        """)

    @OptionGroup var source: StateOptions

    @Option(
      name: .long,
      help: ArgumentHelp("A capture and the port it comes in by; may be given again.", valueName: "name=file"),
      completion: .file(extensions: ["pcap", "pcapng"]))
    var port: [String] = []

    @Argument(
      help: ArgumentHelp("Captures, each with NAME= before it or not.", valueName: "[name=]file"),
      completion: .file(extensions: ["pcap", "pcapng"]))
    var captures: [String] = []

    @Option(
      name: [.customShort("o"), .long],
      help: ArgumentHelp("Write everything that is sent to one capture.", valueName: "file"), completion: .file())
    var outputFile: String?

    @Option(
      name: .long,
      help: ArgumentHelp("Write one capture for each port, and counters.json.", valueName: "dir"),
      completion: .directory)
    var out: String?

    @Option(
      name: .long,
      help: ArgumentHelp(
        "Compare with the captures and counters.json of a directory; exit 1 at a difference.", valueName: "dir"),
      completion: .directory)
    var expect: String?

    @Option(
      name: .long,
      help: ArgumentHelp(
        "The Ethernet address of a port: the underlay's own, or that of a pod. Else it is taken from the capture.",
        valueName: "name=mac"))
    var mac: [PortMAC] = []

    @Option(name: .long, help: "The most flows of each family that are kept at a time (default: as configured).")
    var flowLimit: Int?

    @Option(name: .long, help: "How many flows are listed, those with the most octets first.")
    var flows = 10

    @Option(name: .long, help: "How the result is written.")
    var output = OutputFormat.text

    @Flag(name: .long, help: "Print no result: the exit status alone.")
    var quiet = false

    func validate() throws {
      if let flowLimit, !(16...(1 << 26)).contains(flowLimit) {
        throw ValidationError("--flow-limit must be from 16 to \(1 << 26)")
      }
      if flows < 0 { throw ValidationError("--flows must not be negative") }
      if port.isEmpty, captures.isEmpty { throw ValidationError("name a capture to replay") }
      for text in port where !text.contains("=") {
        throw ValidationError("--port \(text): write NAME=FILE")
      }
    }

    func run() throws {
      var request = ReplayRequest(
        inputs: (port + captures).map { ReplayRequest.Input($0) }, stateDirectory: source.state, node: source.node)
      for pair in mac { request.macs[pair.port] = pair.mac }
      request.outputFile = outputFile
      request.outputDirectory = out
      request.expectedDirectory = expect
      request.flowLimit = flowLimit
      request.flowsShown = flows
      var line = ProgressLine()
      let report = try reporting { () throws(ReplayError) in
        try self.replay(request, &line)
      }
      line.clear()
      for warning in report.warnings { Standard.error("kalsae: warning: \(warning)\n") }
      if !quiet { try Standard.output(output == .json ? report.json + "\n" : report.text) }
      guard let differences = report.differences, !differences.isEmpty else { return }
      for difference in differences { Standard.error(difference + "\n") }
      throw Failure(.difference, "the result differs from \(expect ?? "") at \(differences.count) place(s)")
    }

    private func replay(_ request: ReplayRequest, _ line: inout ProgressLine) throws(ReplayError) -> ReplayReport {
      kalsae_note_interruption()
      let replay = try ReplayRun(request)
      return try replay.run { progress throws(ReplayError) in
        if kalsae_interruption() != 0 { throw ReplayError(.interrupted, "interrupted; no file was written") }
        line.show { seconds in
          let rate = Double(progress.packets) / max(seconds, 0.001) / 1e6
          let share = progress.size > 0 ? "\(progress.position * 100 / progress.size) %, " : ""
          return "\(share)\(grouped(progress.packets)) packets, \(Int(rate * 100) / 100).\(Int(rate * 100) % 100) M/s"
        }
      }
    }
  }
}
