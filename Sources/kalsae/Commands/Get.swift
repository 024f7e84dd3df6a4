import Agent
import ArgumentParser
import Replay

/// Which agent is asked, and how its answer is shown.
struct AgentOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp("The agent's socket. (default: that of the only agent in /run/kalsae)", valueName: "path"),
    completion: .file())
  var socket: String?

  @Option(name: .long, help: ArgumentHelp("The agent's node, instead of its socket.", valueName: "name"))
  var node: String?

  enum Format: String, ExpressibleByArgument, CaseIterable {
    case text, wide, json
  }

  @Option(name: .shortAndLong, help: "The form of the output.")
  var output = Format.text

  /// Asks the agent. `text` shows the answer to people.
  func show(_ request: AgentRequest, _ text: (AgentReply) -> String) throws {
    let (reply, raw) = try reportingAgent {
      try AgentClient.find(socketPath: socket, node: node).ask(request)
    }
    try Standard.output(output == .json ? raw + "\n" : text(reply))
  }
}

extension Kalsae {
  /// `kalsae get`
  struct GetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "get",
      abstract: "Show what a running agent has.",
      discussion: """
        EXAMPLES
          kalsae get status
          kalsae get ports -o wide
          kalsae get routes -o json | jq '.routes[].prefix'

        EXIT STATUS
          0 done; 1 a failure; 64 usage; 69 no agent answers; 77 not root.
        """)

    enum Topic: String, ExpressibleByArgument, CaseIterable {
      case status, ports, pods, routes, hops, peers, neighbours
    }

    @Argument(help: "What to show.")
    var topic: Topic

    @OptionGroup var agent: AgentOptions

    func run() throws {
      guard let asked = AgentRequest.Topic(rawValue: topic.rawValue) else { return }
      let isWide = agent.output == .wide
      try agent.show(AgentRequest(asked)) { reply in
        switch topic {
        case .status: reply.status.map(GetCommand.text) ?? ""
        case .ports: GetCommand.table(reply.ports ?? [], isWide)
        case .pods: GetCommand.table(reply.pods ?? [], isWide)
        case .routes: GetCommand.table(reply.routes ?? [])
        case .hops: GetCommand.table(reply.hops ?? [], isWide)
        case .peers: GetCommand.table(reply.peers ?? [])
        case .neighbours: GetCommand.table(reply.neighbours ?? [])
        }
      }
    }

    private static func text(_ status: StatusView) -> String {
      var lines: [(String, String)] = [
        ("Node", status.node), ("Agent", "process \(status.processID), up \(age(status.uptime))"),
        ("State", status.stateDirectory),
        (
          "Underlay",
          "\(status.underlay ?? "none") \(status.addresses.joined(separator: ", "))"
            + (status.underlayMTU.map { ", MTU \($0)" } ?? "")
        ),
        (
          "Overlay",
          (status.encapsulations.isEmpty ? "direct" : status.encapsulations.joined(separator: ", "))
            + ", pod MTU \(status.podMTU)"
        ),
        ("Nodes", "\(status.nodes)"), ("Pods", "\(status.attachedPods) of \(status.pods) attached"),
        ("Routes", "\(status.routes)"),
        (
          "Flows",
          "\(status.flows) (\(status.flowStatistics.created) created, \(status.flowStatistics.expired) expired, "
            + "\(status.flowStatistics.evicted) evicted, \(status.flowStatistics.refused) refused)"
        ),
        ("Kernel", status.carriedPackets.map { "carries flows: \($0) packets" } ?? "carries no flows"),
        ("Drops", "\(status.drops)"),
      ]
      for (subject, text) in status.troubles.sorted(by: { $0.key < $1.key }) {
        lines.append(("Problem", "\(subject): \(text)"))
      }
      for problem in status.manifestProblems { lines.append(("Manifest", problem)) }
      let width = lines.map(\.0.count).max() ?? 0
      return lines.map { $0.0 + String(repeating: " ", count: width - $0.0.count) + "  " + $0.1 + "\n" }.joined()
    }

    private static func table(_ ports: [PortView], _ isWide: Bool) -> String {
      var table = TextTable(
        ["PORT", "ROLE", "KIND", "STATE", "POD", ">MTU", ">RX", ">TX", ">DROPS", ">RINGFULL", ">ERRORS"]
          + (isWide ? [">RXOCTETS", ">TXOCTETS", "MAC", "PEER"] : []))
      for port in ports {
        let few = [
          port.name, port.role, port.kind, port.state, port.pod ?? "-", "\(port.mtu)", short(port.receivedPackets),
          short(port.sentPackets), short(port.drops), short(port.kernelDrops),
          short(port.receiveErrors + port.sendErrors),
        ]
        let more = [short(port.receivedOctets), short(port.sentOctets), port.mac, port.peerMAC ?? "-"]
        table.add(isWide ? few + more : few)
      }
      return table.text
    }

    private static func table(_ pods: [PodView], _ isWide: Bool) -> String {
      var table = TextTable(
        ["NAMESPACE", "NAME", "ADDRESSES", "TYPE", "INTERFACE", ">MTU", "ATTACHED"] + (isWide ? ["MAC", "NETNS"] : []))
      for pod in pods {
        let few = [
          pod.namespace, pod.name, pod.addresses.joined(separator: ","), pod.type, pod.interface, "\(pod.mtu)",
          pod.isAttached ? "yes" : "no",
        ]
        table.add(isWide ? few + [pod.mac, pod.networkNamespace ?? "-"] : few)
      }
      return table.text
    }

    private static func table(_ routes: [RouteView]) -> String {
      var table = TextTable(["PREFIX", "ACTION", "VIA"])
      for route in routes {
        table.add([route.prefix, route.action, route.via.isEmpty ? "-" : route.via.joined(separator: "; ")])
      }
      return table.text
    }

    private static func table(_ hops: [HopView], _ isWide: Bool) -> String {
      var table = TextTable(
        [">HOP", "PORT", "TO", "ENCAPSULATION", "NEIGHBOUR", "STATE", ">MTU", ">ROUTES"]
          + (isWide ? ["LOCAL", "REMOTE", "MAC"] : []))
      for hop in hops {
        let few = [
          "\(hop.index)", hop.port, hop.target ?? "-", hop.encapsulation, hop.neighbour ?? "-", hop.state,
          "\(hop.mtu)", "\(hop.routes)",
        ]
        table.add(isWide ? few + [hop.local ?? "-", hop.remote ?? "-", hop.mac ?? "-"] : few)
      }
      return table.text
    }

    private static func table(_ peers: [PeerView]) -> String {
      var table = TextTable(["NODE", "ADDRESS", "ENCAPSULATIONS"])
      for peer in peers {
        table.add([
          peer.name, peer.address, peer.encapsulations.isEmpty ? "-" : peer.encapsulations.joined(separator: ","),
        ])
      }
      return table.text
    }

    private static func table(_ neighbours: [NeighbourView]) -> String {
      var table = TextTable(["ADDRESS", "STATE", "MAC", "NODE"])
      for entry in neighbours { table.add([entry.address, entry.state, entry.mac ?? "-", entry.node ?? "-"]) }
      return table.text
    }
  }
}
