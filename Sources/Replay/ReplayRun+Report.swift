import Addresses
import Dataplane
import Ports

extension ReplayRun {
  /// What the replay came to, with the counters written and compared as asked for.
  func report() throws(ReplayError) -> ReplayReport {
    var received = ReplayReport.Traffic()
    var sent = ReplayReport.Traffic()
    var verdicts = ReplayReport.Verdicts(forwarded: 0, delivered: 0, dropped: 0, waiting: 0)
    let counts = node.lane.withPipeline { $0.dropCounts(ports: node.ports.count) }
    let samples = node.lane.withPipeline { $0.dropSamples }
    var list: [ReplayReport.Port] = []
    var warnings: [String] = []
    for (described, port) in zip(node.ports, ports) {
      let statistics = port.statistics
      let drops = counts.filter { $0.port == described.index }
      list.append(
        ReplayReport.Port(
          name: described.name, interface: described.interface, mac: described.mac.description,
          peerMAC: described.peerMAC?.description, file: port.source?.path,
          isMACLearned: learned.contains(described.name),
          received: .init(packets: statistics.receivedFrames, octets: statistics.receivedOctets),
          sent: .init(packets: statistics.sentFrames, octets: statistics.sentOctets),
          unreadable: statistics.receiveErrors,
          drops: Dictionary(uniqueKeysWithValues: drops.map { ($0.reason.name, $0.packets) })))
      received.packets += statistics.receivedFrames
      received.octets += statistics.receivedOctets
      sent.packets += statistics.sentFrames
      sent.octets += statistics.sentOctets
      switch described.role {
      case .underlay, .wire: verdicts.forwarded += statistics.sentFrames
      case .host, .pod: verdicts.delivered += statistics.sentFrames
      }
      verdicts.dropped += drops.reduce(0) { $0 + $1.packets }
      if let failure = port.source?.failure { warnings.append(failure.description) }
    }
    let dropList = counts.sorted {
      ($1.packets, $0.port.rawValue, $0.reason.rawValue) < ($0.packets, $1.port.rawValue, $1.reason.rawValue)
    }
    .map { count in
      ReplayReport.Drop(
        reason: count.reason.name, port: node.port(count.port)?.name ?? "?", packets: count.packets,
        explanation: count.reason.explanation,
        example: samples.first { $0.reason == count.reason && $0.port == count.port }.map(describe))
    }
    var report = ReplayReport(
      node: request.node, received: received, sent: sent, verdicts: verdicts, ports: list, drops: dropList,
      flows: flows(), time: time, warnings: warnings)
    if let directory = request.outputDirectory {
      try writeCounters(report.counters, to: "\(directory)/counters.json")
    }
    if let directory = request.expectedDirectory {
      var differences = comparisons.compactMap(\.difference)
      differences += try compareCounters(report.counters, with: "\(directory)/counters.json")
      report.differences = differences
    }
    return report
  }

  private var time: ReplayReport.Time {
    guard firstTime != .max else { return .init(first: 0, last: 0, seconds: 0) }
    return .init(first: firstTime, last: lastTime, seconds: Double(lastTime - firstTime) / 1e9)
  }

  private func describe(_ sample: DropSample) -> String {
    var octets = sample.octets
    return withOctets(&octets) { octets in
      // Link-layer problems show the frame, all others the packet.
      switch sample.reason {
      case .truncatedFrame, .badEthernet, .notOurMAC, .unknownVLAN, .unknownEtherType, .sourceMAC, .badARP, .arpIgnored:
        PacketText(octets).line
      default: PacketText(network: octets).line
      }
    }
  }

  private func flows() -> ReplayReport.Flows {
    var top: [FlowDescription] = []
    let shown = request.flowsShown
    func octets(_ flow: FlowDescription) -> UInt64 { flow.forward.octets &+ flow.reply.octets }
    let (count, statistics) = node.lane.withPipeline { pipeline in
      pipeline.forEachFlow { flow in
        guard shown > 0, top.count < shown || octets(flow) > octets(top[top.count - 1]) else { return }
        let place = top.firstIndex { octets($0) < octets(flow) } ?? top.count
        top.insert(flow, at: place)
        if top.count > shown { top.removeLast() }
      }
      return (pipeline.flowCount, pipeline.flowStatistics)
    }
    return ReplayReport.Flows(
      present: count, created: statistics.created, expired: statistics.expired, evicted: statistics.evicted,
      refused: statistics.refused, replaced: statistics.replaced, top: top.map(describe))
  }

  private func describe(_ flow: FlowDescription) -> ReplayReport.Flow {
    func end(_ address: IPAddress, _ port: UInt16) -> String {
      guard [.tcp, .udp, .sctp].contains(flow.transport) else { return address.description }
      return address.family == .ipv4 ? "\(address):\(port)" : "[\(address)]:\(port)"
    }
    return ReplayReport.Flow(
      transport: flow.transport.displayName, source: end(flow.source, flow.sourcePort),
      destination: end(flow.destination, flow.destinationPort),
      service: node.dataPath.change { $0.serviceName(of: flow) },
      endpoint: end(flow.answer.source, flow.answer.sourcePort),
      seenAs: end(flow.answer.destination, flow.answer.destinationPort), state: "\(flow.state)",
      forward: .init(packets: flow.forward.packets, octets: flow.forward.octets),
      reply: .init(packets: flow.reply.packets, octets: flow.reply.octets), to: node.describe(flow.forward.hop))
  }
}

extension IPProtocol {
  /// As people write it; a number where it has no usual name.
  public var displayName: String {
    switch self {
    case .tcp: "TCP"
    case .udp: "UDP"
    case .sctp: "SCTP"
    case .icmp: "ICMP"
    case .icmpv6: "ICMPv6"
    default: "protocol \(rawValue)"
    }
  }
}
