import ArgumentParser
import CLinux
import Model
import Replay

extension Kalsae {
  /// `kalsae trace`
  struct TraceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "trace",
      abstract: "Tell what would happen to a packet on a node, and why.",
      discussion: """
        The first packet of a flow is made up and sent through the real pipeline, with the tables that the state makes. It \
        comes in where it would: by a pod's interface, from the host, or from the underlay; from a pod of another node as \
        that node would send it, in its tunnel.

        The verdict is one of: forward (leaves to another node or to the outside), deliver (reaches a pod of this node or \
        the host), answer (answered here), reject (dropped, and its sender told), drop.

        With --batch, each line of FILE is a JSON object with from, to, protocol, port, sourcePort (and size), and each \
        line of the result is a JSON object with verdict, reason, out, steps, service, policy; for a line that makes no \
        sense, with error. The same question has the same answer, alone and in a batch.

        What is wrong in the manifests is named on standard error, one by one, and does not count; all else does, as with \
        a running agent.

        EXAMPLES
          kalsae trace --state manifests --node node-a --from default/web --to 10.1.1.7 --protocol TCP --port 80
          kalsae trace --state manifests --node node-a --from 192.0.2.1 --to default/web --protocol tcp --port http
          kalsae trace --state manifests --node node-a --batch probes.jsonl | jq -r .verdict

        EXIT STATUS
          0 answered, whatever the verdict; 1 a line of the batch made no sense; 64 usage; 65 a probe or manifest makes \
        no sense, which is named, and the rest answered; 66 no such file, node or pod; 74 cannot read or write.
        """)

    @OptionGroup var source: StateOptions

    @Option(name: .long, help: ArgumentHelp("Where the packet comes from.", valueName: "address|namespace/pod"))
    var from: String?

    @Option(name: .long, help: ArgumentHelp("Where the packet goes.", valueName: "address|namespace/pod"))
    var to: String?

    @Option(
      name: .customLong("protocol"), help: ArgumentHelp("TCP, UDP, SCTP or ICMP.", valueName: "protocol"),
      completion: .list(["TCP", "UDP", "SCTP", "ICMP"]))
    var transport: String?

    @Option(name: .long, help: ArgumentHelp("The destination port, or its name in the pod.", valueName: "n|name"))
    var port: String?

    @Option(name: .long, help: ArgumentHelp("The source port (default: 40000).", valueName: "n"))
    var sourcePort: UInt16?

    @Option(
      name: .long,
      help: ArgumentHelp("The octets of the IP packet, which then must not be cut (DF).", valueName: "octets"))
    var size: Int?

    @Option(
      name: .long, help: ArgumentHelp("Read probes from a file, or from standard input (-).", valueName: "file|-"),
      completion: .file())
    var batch: String?

    @Option(name: .long, help: "How the result is written; a batch is always answered in JSON.")
    var output = OutputFormat.text

    func validate() throws {
      guard source.state != nil, source.node != nil else {
        throw ValidationError("--state DIR and --node NAME are needed")
      }
      if batch != nil {
        guard from == nil, to == nil, transport == nil, port == nil, sourcePort == nil, size == nil else {
          throw ValidationError("--batch takes its probes from the file: leave out --from, --to, --protocol and --port")
        }
      } else {
        for (value, name) in [(from, "--from"), (to, "--to"), (transport, "--protocol")] where value == nil {
          throw ValidationError("\(name) is missing; or give --batch FILE")
        }
      }
    }

    func run() throws {
      // Each node that packets come from has tables of its own, nearly empty ones.
      kalsae_small_pages_only()
      let (state, problems) = try reporting { () throws(ReplayError) in try loadUsableState(source.state ?? "") }
      guard let last = problems.last else { return try answer(state) }
      // As the agent does it: what is wrong is named, a line for each, and the rest counts.
      for problem in problems.dropLast() { Standard.error("kalsae: \(problem)\n") }
      do {
        try answer(state)
      } catch  where error.status != .missing {
        Standard.error("kalsae: \(error.message)\n")
      } catch {
        // What is missing is likely what is wrong.
      }
      throw Failure(.data, "\(last)")
    }

    private func answer(_ state: State) throws(Failure) {
      let tracer = try reporting { () throws(ReplayError) in try Tracer(node: source.node ?? "", in: state) }
      guard batch == nil else { return try answerBatch(batch ?? "", tracer) }
      let probe = Probe(
        from: from ?? "", to: to ?? "", protocol: transport ?? "", port: port, sourcePort: sourcePort, size: size)
      let answer = try reporting { () throws(ReplayError) in try tracer.answer(probe) }
      try Standard.output(output == .json ? answer.json(pretty: true) + "\n" : answer.text)
    }

    private func answerBatch(_ path: String, _ tracer: Tracer) throws(Failure) {
      let lines = try LineReader(path)
      var pending = ""
      var failures = 0
      var count = 0
      var progress = ProgressLine()
      while let line = try lines.next() {
        if line.allSatisfy({ $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\r") || $0 == UInt8(ascii: "\t") }) {
          continue
        }
        count += 1
        do throws(ReplayError) {
          pending += try tracer.answer(Probe(json: line)).json(pretty: false) + "\n"
        } catch {
          failures += 1
          pending += ProbeFailure(error: error.message).json + "\n"
        }
        // In pieces, unless somebody waits for each answer.
        if pending.utf8.count > 1 << 16 || lines.isInteractive {
          try Standard.output(pending)
          pending = ""
        }
        if !Standard.outputIsTerminal { progress.show { _ in "\(grouped(count)) probes" } }
      }
      progress.clear()
      try Standard.output(pending)
      if failures > 0 { throw Failure(.difference, "\(path): \(failures) of \(count) lines could not be answered") }
    }
  }
}
