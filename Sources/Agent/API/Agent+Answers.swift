import Addresses
import CLinux
import Compiler
import Dataplane
import Glibc
import Model
import Ports

/// What the local API tells.
extension Agent {
  private static let entryLimit = 100_000

  func answer(_ request: AgentRequest) -> AgentReply {
    let limit = max(0, min(request.limit ?? Agent.entryLimit, Agent.entryLimit))
    var reply = AgentReply()
    switch request.topic {
    case .status: reply.status = status()
    case .handover:
      let (view, descriptors) = handOver()
      reply.handover = view
      passDescriptors(descriptors)
    case .ports: reply.ports = Array(portViews().prefix(limit))
    case .pods: reply.pods = Array(podViews().prefix(limit))
    case .routes: reply.routes = routeViews(limit)
    case .hops: reply.hops = Array(hopViews().prefix(limit))
    case .peers:
      reply.peers = compiler.peers.prefix(limit).map {
        PeerView(
          name: $0.peer.name, address: "\($0.address)", encapsulations: $0.peer.encapsulations.map(\.label).sorted())
      }
    case .neighbours:
      reply.neighbours = compiler.neighboursInUse.sorted().prefix(limit).map(neighbourView)
    case .flows:
      do throws(AgentError) { reply.flows = try flowViews(request, limit) } catch {
        reply.error = error.description
      }
    case .drops: reply.drops = dropsView(limit)
    }
    return reply
  }

  private func status() -> StatusView {
    let portCount = self.portCount
    let (flows, statistics, drops, routes) = dataPath.change { tables in
      let routes = tables.routeCount
      return workers.lane.withPipeline { pipeline in
        (
          pipeline.flowCount, pipeline.flowStatistics,
          pipeline.dropCounts(ports: portCount).reduce(0) { $0 + $1.packets }, routes
        )
      }
    }
    return StatusView(
      node: configuration.node, stateDirectory: configuration.stateDirectory, processID: getpid(),
      uptime: Int((kalsae_realtime() &- startTime) / 1_000_000_000), underlay: underlay?.port.name,
      addresses: compiler.nodeAddresses.sorted().map(\.description), underlayMTU: compiler.underlay?.mtu,
      podMTU: compiler.podMTU, encapsulations: compiler.encapsulations.map(\.label),
      nodes: compiler.state.nodes.count, pods: compiler.attachments.count, attachedPods: pods.count, routes: routes,
      flows: flows,
      flowStatistics: FlowStatisticsView(
        created: statistics.created, expired: statistics.expired, evicted: statistics.evicted,
        refused: statistics.refused),
      drops: drops, carriedPackets: carriedPackets, troubles: troubles,
      manifestProblems: source.problems.map(\.description))
  }

  // MARK: Ports and pods

  /// All ports that are open, by index.
  private var openPorts: [(index: PortIndex, port: any Port, pod: ObjectKey?)] {
    var list: [(index: PortIndex, port: any Port, pod: ObjectKey?)] = []
    if let host { list.append((host.index, host.port, nil)) }
    if let underlay { list.append((underlay.index, underlay.ports[0], nil)) }
    list += pods.map { ($0.value.index, $0.value.port, $0.key) }
    return list.sorted { $0.index.rawValue < $1.index.rawValue }
  }

  /// What people call the ports: pods by their names, for the devices of several may be called `eth0`.
  private var portNames: [PortIndex: String] {
    Dictionary(
      uniqueKeysWithValues: openPorts.map { ($0.index, $0.pod.map { "\($0.namespace)/\($0.name)" } ?? $0.port.name) })
  }

  /// The open ports as people call them.
  var openPortNames: [(index: PortIndex, name: String)] {
    portNames.map { (index: $0.key, name: $0.value) }.sorted { $0.index.rawValue < $1.index.rawValue }
  }

  /// One more than the highest index of a port that is open or was.
  private var portCount: Int { max(64, (openPorts.last.map { Int($0.index.rawValue) } ?? 0) + 1) }

  private func portViews() -> [PortView] {
    openPorts.compactMap { index, port, pod in
      dataPath.change { tables -> PortView? in
        guard let description = tables.port(index) else { return nil }
        let statistics = dataPath.statistics(of: index)
        let drops = workers.lane.withPipeline { pipeline in
          var sum: UInt64 = 0
          for reason in DropReason.allCases { sum += pipeline.dropCount(reason, at: index) }
          return sum
        }
        return PortView(
          index: Int(index.rawValue), name: description.name, role: "\(description.role)", kind: port.kindName,
          state: state(of: port),
          pod: pod.map { "\($0.namespace)/\($0.name)" }, mac: "\(description.mac)",
          peerMAC: description.peerMAC?.description, mtu: description.mtu, receivedPackets: statistics.receivedFrames,
          receivedOctets: statistics.receivedOctets, sentPackets: statistics.sentFrames,
          sentOctets: statistics.sentOctets, kernelDrops: statistics.kernelDrops,
          receiveErrors: statistics.receiveErrors, sendErrors: statistics.sendErrors, drops: drops)
      }
    }
  }

  private func state(of port: any Port) -> String {
    if let packet = port as? AFPacketPort { return "\(packet.state)" }
    if let tap = port as? TAPPort { return "\(tap.state)" }
    if let xdp = port as? XDPPort { return "\(xdp.state)" }
    return port.isExhausted ? "removed" : "up"
  }

  private func podViews() -> [PodView] {
    compiler.attachments.values.sorted { $0.pod < $1.pod }.map { attachment in
      PodView(
        namespace: attachment.pod.namespace, name: attachment.pod.name,
        addresses: attachment.addresses.map(\.description), mac: "\(attachment.mac)", type: attachment.type.rawValue,
        interface: attachment.type == .tap ? "eth0" : attachment.interface,
        networkNamespace: attachment.networkNamespace, mtu: attachment.mtu, isAttached: pods[attachment.pod] != nil)
    }
  }

  // MARK: Routes, hops, neighbours

  private func hopViews() -> [HopView] {
    let names = portNames
    return compiler.hops.map { entry in
      let hop = entry.hop
      let tunnel = hop.tunnel
      let isFailed = hop.neighbour.map { compiler.neighbour($0) == .failed } ?? false
      return HopView(
        index: Int(entry.index), port: names[hop.port] ?? "port \(hop.port.rawValue)",
        target: entry.target.map { $0.namespace.isEmpty ? $0.name : "\($0.namespace)/\($0.name)" },
        neighbour: hop.neighbour?.description,
        state: isFailed ? "failed" : hop.destination == nil ? "pending" : "resolved",
        mac: hop.destination?.description, mtu: hop.mtu, encapsulation: (tunnel?.encapsulation ?? .none).label,
        local: tunnel?.local.description, remote: tunnel?.remote.description, routes: entry.routes)
    }
  }

  private func routeViews(_ limit: Int) -> [RouteView] {
    let words = hopWords()
    return compiler.routes.prefix(limit).map { route in
      RouteView(
        prefix: "\(route.prefix)", action: "\(route.action)", hops: route.hops.map(Int.init),
        via: route.hops.map { words[$0] ?? "hop \($0)" })
    }
  }

  /// The hops in words: `pod default/a`, `vxlan to node-b (10.0.0.2)`, `host`.
  private func hopWords() -> [HopIndex: String] {
    var words: [HopIndex: String] = [:]
    for view in hopViews() {
      let index = HopIndex(view.index)
      if let remote = view.remote {
        words[index] = "\(view.encapsulation) to \(view.target ?? "?") (\(remote))"
      } else if let neighbour = view.neighbour {
        words[index] = "\(view.port) to \(view.target.map { "\($0) (\(neighbour))" } ?? neighbour)"
      } else if let pod = view.target {
        words[index] = "pod \(pod)"
      } else {
        words[index] = "host (\(view.port))"
      }
    }
    return words
  }

  private func neighbourView(_ address: IPAddress) -> NeighbourView {
    var view = NeighbourView(address: "\(address)", state: "pending", mac: nil, node: compiler.nodeName(at: address))
    switch compiler.neighbour(address) {
    case .reachable(let mac):
      view.state = "reachable"
      view.mac = mac.description
    case .failed: view.state = "failed"
    case nil: break
    }
    return view
  }

  // MARK: Flows and drops

  private func flowViews(_ request: AgentRequest, _ limit: Int) throws(AgentError) -> [FlowView] {
    var prefix: IPPrefix?
    if let text = request.address {
      prefix = IPPrefix(text) ?? IPAddress(text).map(IPPrefix.init(host:))
      guard prefix != nil else { throw AgentError(.failed, "\(text) is neither an address nor a prefix") }
    }
    var transport: IPProtocol?
    if let text = request.transport {
      transport = IPProtocol(named: text)
      guard transport != nil else {
        throw AgentError(.failed, "\(text) is no protocol: write tcp, udp, sctp, icmp, icmpv6 or a number")
      }
    }
    // With a filter all flows are looked at, and then cut.
    let isFiltered = prefix != nil || transport != nil || request.port != nil
    func isWanted(_ flow: FlowDescription) -> Bool {
      let addresses = [flow.source, flow.destination, flow.answer.source, flow.answer.destination]
      let ports = [flow.sourcePort, flow.destinationPort, flow.answer.sourcePort, flow.answer.destinationPort]
      return prefix.map { addresses.contains(where: $0.contains) } ?? true
        && transport.map { $0 == flow.transport } ?? true && request.port.map(ports.contains) ?? true
    }
    let chosen = dataPath.change { tables in
      let all = workers.lane.withPipeline {
        $0.syncOffload()
        return $0.flows(limit: isFiltered ? .max : limit)
      }
      return all.filter(isWanted).prefix(limit).map { (flow: $0, service: tables.serviceName(of: $0)) }
    }
    let words = hopWords()
    func via(_ hop: HopIndex) -> String { hop == 0 ? "" : words[hop & ~1] ?? "hop \(hop)" }
    return chosen.map { flow, service in
      FlowView(
        transport: flow.transport.label, source: "\(flow.source)", sourcePort: flow.sourcePort,
        destination: "\(flow.destination)", destinationPort: flow.destinationPort, service: service,
        replySource: "\(flow.answer.source)", replySourcePort: flow.answer.sourcePort,
        replyDestination: "\(flow.answer.destination)", replyDestinationPort: flow.answer.destinationPort,
        state: "\(flow.state)", age: flow.age, idle: flow.idle, packets: flow.forward.packets,
        octets: flow.forward.octets,
        replyPackets: flow.reply.packets, replyOctets: flow.reply.octets, via: via(flow.forward.hop),
        replyVia: via(flow.reply.hop))
    }
  }

  private func dropsView(_ limit: Int) -> DropsView {
    let count = portCount
    let (counts, samples) = dataPath.change { _ in
      workers.lane.withPipeline { ($0.dropCounts(ports: count), $0.dropSamples) }
    }
    let names = portNames
    func name(_ port: PortIndex) -> String { names[port] ?? "port \(port.rawValue)" }
    // The pipeline counts time since the machine's start.
    let offset = kalsae_realtime() &- kalsae_monotonic()
    return DropsView(
      counts: counts.map {
        DropsView.Count(
          port: name($0.port), reason: "\($0.reason)", explanation: $0.reason.explanation, packets: $0.packets)
      },
      samples: samples.suffix(limit).map {
        DropsView.Sample(
          time: $0.timestamp &+ offset, port: name($0.port), reason: "\($0.reason)", length: $0.length,
          packet: PacketText.line($0))
      })
  }
}

extension Encapsulation {
  /// As manifests and people write it.
  var label: String {
    switch self {
    case .none: "direct"
    case .ipip: "ipip"
    case .gre: "gre"
    case .vxlan: "vxlan"
    case .geneve: "geneve"
    }
  }
}

extension IPProtocol {
  var label: String {
    switch self {
    case .tcp: "tcp"
    case .udp: "udp"
    case .sctp: "sctp"
    case .icmp: "icmp"
    case .icmpv6: "icmpv6"
    case .ipv4: "ipip"
    case .ipv6: "ipv6"
    case .gre: "gre"
    default: "\(rawValue)"
    }
  }

  init?(named text: String) {
    let names: [IPProtocol] = [.tcp, .udp, .sctp, .icmp, .icmpv6, .ipv4, .ipv6, .gre]
    if let known = names.first(where: { $0.label == text.lowercased() }) {
      self = known
    } else if let number = UInt8(text) {
      self = IPProtocol(rawValue: number)
    } else {
      return nil
    }
  }
}
