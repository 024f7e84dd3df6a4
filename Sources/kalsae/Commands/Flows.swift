import Agent
import ArgumentParser
import Replay

extension Kalsae {
  /// `kalsae flows`
  struct FlowsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "flows",
      abstract: "Show the flows of a running agent.",
      discussion: """
        EXAMPLES
          kalsae flows
          kalsae flows --address 10.244.1.0/24 --protocol tcp --port 80
          kalsae flows -o json | jq '.flows | length'

        A flow to a service shows the service, the endpoint that its packets go to, and what the endpoint sees them come
        from where that is not the source. Filters find a flow by these ends as well.

        EXIT STATUS
          0 done; 1 a failure; 64 usage; 69 no agent answers; 77 not root.
        """)

    @Option(name: .long, help: ArgumentHelp("An address or prefix that one of the ends has.", valueName: "address"))
    var address: String?

    @Option(name: .long, help: ArgumentHelp("tcp, udp, sctp, icmp, icmpv6 or a number.", valueName: "protocol"))
    var `protocol`: String?

    @Option(name: .long, help: ArgumentHelp("A port that one of the ends has.", valueName: "port"))
    var port: UInt16?

    @Option(name: .long, help: ArgumentHelp("The most flows to show.", valueName: "n"))
    var limit = 1000

    @OptionGroup var agent: AgentOptions

    func validate() throws {
      guard limit > 0 else { throw ValidationError("--limit \(limit): at least one flow must be wanted") }
    }

    func run() throws {
      var request = AgentRequest(.flows, limit: limit)
      request.address = address
      request.transport = self.protocol
      request.port = port
      let isWide = agent.output == .wide
      try agent.show(request) { reply in
        var table = TextTable(
          [
            "PROTOCOL", "SOURCE", "DESTINATION", "SERVICE", "ENDPOINT", "SEEN AS", "STATE", ">PACKETS", ">REPLIES",
            ">IDLE", "VIA",
          ] + (isWide ? ["REPLYVIA", ">OCTETS", ">REPLYOCTETS", ">AGE"] : []))
        for flow in reply.flows ?? [] {
          let source = FlowsCommand.end(flow.source, flow.sourcePort)
          let destination = FlowsCommand.end(flow.destination, flow.destinationPort)
          let endpoint = FlowsCommand.end(flow.replySource, flow.replySourcePort)
          let client = FlowsCommand.end(flow.replyDestination, flow.replyDestinationPort)
          let few = [
            flow.transport, source, destination, flow.service ?? "-", endpoint == destination ? "-" : endpoint,
            client == source ? "-" : client, flow.state, short(flow.packets),
            short(flow.replyPackets), age(Int(flow.idle)), flow.via.isEmpty ? "-" : flow.via,
          ]
          let more = [
            flow.replyVia.isEmpty ? "-" : flow.replyVia, short(flow.octets), short(flow.replyOctets),
            age(Int(flow.age)),
          ]
          table.add(isWide ? few + more : few)
        }
        return table.text
      }
    }

    private static func end(_ address: String, _ port: UInt16) -> String {
      address.contains(":") ? "[\(address)]:\(port)" : "\(address):\(port)"
    }
  }
}
