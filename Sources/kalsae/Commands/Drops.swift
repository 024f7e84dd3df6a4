import Agent
import ArgumentParser
import EBPF
import Glibc
import Replay

extension Kalsae {
  /// `kalsae drops`
  struct DropsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "drops",
      abstract: "Show what a running agent dropped, why, and the last packets of it.",
      discussion: """
        Where no agent runs, what the kernel dropped by network policy (kalsae ebpf load); each packet is told once.

        EXAMPLES
          kalsae drops
          kalsae drops --watch
          kalsae drops -o json | jq '.drops.counts'

        EXIT STATUS
          0 done; 1 a failure; 64 usage; 69 no agent answers; 77 not root.
        """)

    @Flag(name: .shortAndLong, help: "Go on and print packets as they are dropped, until Ctrl-C.")
    var watch = false

    @Option(name: .long, help: ArgumentHelp("The number of packets to show.", valueName: "n"))
    var limit = 20

    @OptionGroup var agent: AgentOptions

    func validate() throws {
      guard limit >= 0 else { throw ValidationError("--limit \(limit) is negative") }
    }

    func run() throws {
      if watch { return try follow() }
      if let drops = try kernelDrops() {
        return try Standard.output(
          agent.output == .json
            ? EBPFCommand.json(["drops": drops]) : DropsCommand.text(drops, "The first since somebody last asked:"))
      }
      try agent.show(AgentRequest(.drops, limit: limit)) {
        $0.drops.map { DropsCommand.text($0, "The last of them:") } ?? ""
      }
    }

    private static func text(_ drops: DropsView, _ title: String) -> String {
      if drops.counts.isEmpty { return "nothing was dropped\n" }
      var table = TextTable([">PACKETS", "PORT", "REASON", "MEANING"])
      for count in drops.counts.sorted(by: { $0.packets > $1.packets }) {
        table.add(["\(count.packets)", count.port, count.reason, count.explanation])
      }
      let samples = drops.samples.map(line).joined()
      return table.text + (samples.isEmpty ? "" : "\n\(title)\n" + samples)
    }

    /// What the kernel dropped on a node without an agent; nil: an agent is to be asked.
    private func kernelDrops() throws -> DropsView? {
      guard geteuid() == 0, agent.socket == nil,
        (try? AgentClient.find(socketPath: nil, node: agent.node).ask(AgentRequest(.status))) == nil
      else { return nil }
      let nodes = PinFolder.nodes().filter { agent.node == nil || $0 == agent.node }
      guard nodes.count == 1 else { return nil }
      return try reportingAgent { try KernelDrops.take(node: nodes[0], limit: limit) }
    }

    /// Samples are kept of the first drops of a kind and then of fewer and fewer, so the counts are told as well.
    private func follow() throws {
      var seen: UInt64?
      var before: [String: UInt64] = [:]
      while true {
        let (reply, _) = try reportingAgent {
          try AgentClient.find(socketPath: agent.socket, node: agent.node).ask(AgentRequest(.drops))
        }
        let drops = reply.drops ?? DropsView(counts: [], samples: [])
        var text = ""
        let isFirst = seen == nil
        var latest = seen ?? 0
        for sample in drops.samples where sample.time > (seen ?? 0) {
          latest = max(latest, sample.time)
          if isFirst { continue }
          text += agent.output == .json ? DropsCommand.json(sample) : DropsCommand.line(sample)
        }
        for count in drops.counts {
          let key = "\(count.port) \(count.reason)"
          let more = count.packets - min(count.packets, before[key] ?? 0)
          if !isFirst, more > 8, agent.output != .json {
            text += "  + \(more) packets: \(count.port): \(count.reason): \(count.explanation)\n"
          }
          before[key] = count.packets
        }
        seen = latest
        try Standard.output(text)
        usleep(500_000)
      }
    }

    private static func line(_ sample: DropsView.Sample) -> String {
      "\(clock(sample.time))  \(sample.port)  \(sample.reason)  \(sample.packet)\n"
    }

    private static func json(_ sample: DropsView.Sample) -> String {
      func quoted(_ text: String) -> String {
        "\"" + text.map { $0 == "\"" || $0 == "\\" ? "\\\($0)" : "\($0)" }.joined() + "\""
      }
      return "{\"time\":\(sample.time),\"port\":\(quoted(sample.port)),\"reason\":\(quoted(sample.reason)),"
        + "\"length\":\(sample.length),\"packet\":\(quoted(sample.packet))}\n"
    }

    /// Local time, as tcpdump shows it.
    private static func clock(_ nanoseconds: UInt64) -> String {
      var seconds = time_t(nanoseconds / 1_000_000_000)
      var parts = unsafe tm()
      unsafe localtime_r(&seconds, &parts)
      func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
      let fraction = "\(nanoseconds % 1_000_000_000 / 1000)"
      return unsafe "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))."
        + String(repeating: "0", count: 6 - fraction.count) + fraction
    }
  }
}
