import Addresses
import Compiler
import Model
import Ports
import Reference

@testable import Dataplane

/// A node whose tables come from resources, with a memory port for the underlay, the host and each of its pods. Single
/// packets are put in by where they come from, and what was decided about them is returned.
final class ClusterBench {
  var tables = Tables()
  var pipeline: Pipeline
  let compiler: NodeCompiler
  private var ports = PortSet()
  private var memory: [PortIndex: MemoryPort] = [:]
  private var pods: [ObjectKey: PortIndex] = [:]
  private let underlay: PortIndex
  private let host: PortIndex
  private var now: UInt64 = 1_000_000_000_000

  private static let underlayMAC = MACAddress("02:00:00:00:00:01")!
  private static let hostMAC = MACAddress("02:00:00:00:00:ff")!

  init(_ node: String = "n1", explains: Bool = false, isListed: Bool = true, _ changes: [Change] = []) {
    compiler = NodeCompiler(node: node, derivesNeighbours: true, explains: explains)
    compiler.servicesAreListed = isListed
    pipeline = Pipeline(flowLimit: 64, affinityLimit: 64)
    pipeline.isTracing = true
    underlay = tables.addPort(
      PortDescription(name: "underlay", role: .underlay, mac: ClusterBench.underlayMAC, mtu: 1500))
    host = tables.addPort(
      PortDescription(name: "host", role: .host, mac: PodAttachment.hostMAC, mtu: 1500, checksSource: false))
    add("underlay", underlay)
    add("host", host)
    compiler.setUnderlay(Underlay(port: underlay, mac: ClusterBench.underlayMAC, mtu: 1500))
    compiler.setHostPort(
      HostPort(port: host, mac: PodAttachment.hostMAC, hostMAC: ClusterBench.hostMAC, mtu: 1500))
    apply(changes)
  }

  private func add(_ name: String, _ index: PortIndex) {
    let port = MemoryPort(name: name, capabilities: [], slots: 2)
    memory[index] = port
    ports[index] = port
  }

  /// Takes in changes, makes and removes pods' ports, and brings the tables up to date.
  func apply(_ changes: [Change]) {
    compiler.apply(changes)
    commit()
    for (key, index) in pods where compiler.attachments[key] == nil {
      compiler.setPort(nil, for: key)
      pods[key] = nil
      commit()
      tables.removePort(index)
      ports[index] = nil
      memory[index] = nil
    }
    for (key, attachment) in compiler.attachments {
      let description = attachment.portDescription(capabilities: [])
      if let index = pods[key] {
        if tables.port(index) != description { tables.updatePort(index, description) }
        continue
      }
      let index = tables.addPort(description)
      add(attachment.interface, index)
      pods[key] = index
      compiler.setPort(index, for: key)
    }
    commit()
  }

  func commit() { compiler.commit(to: &tables) }

  // MARK: Packets

  struct Outcome {
    var trace: [TraceEvent]
    /// Where the packet went, if it went anywhere.
    var destination: SocketAddress?
    var source: SocketAddress?
    var frames: Int

    /// What services say; none where they were not asked.
    var service: Dataplane.ServiceDecision {
      for case .serviceDecided(let decision) in trace { return decision }
      return Dataplane.ServiceDecision(verdict: .none)
    }
    /// What policies say of both ends; nil where they were not asked.
    var policy: (egress: Bool, ingress: Bool)? {
      for case .policyDecided(let egress, let ingress, _) in trace { return (egress, ingress) }
      return nil
    }
    var drop: DropReason? {
      for case .dropped(let reason) in trace { return reason }
      return nil
    }
    /// The endpoint that was chosen; its port is known where the packet was translated.
    var endpoint: IPAddress? {
      for case .policyDecided(_, _, let destination) in trace { return destination }
      return nil
    }
    var text: String {
      "\(service.name ?? "-") \(service.verdict) \(service.endpoints.sorted()) \(drop.map { "\($0)" } ?? "")"
    }
  }

  /// Sends the first packet of a connection, or with `knowsFlows` one that may belong to an established one. `from` tells
  /// which port it comes in by.
  func send(
    _ from: Origin, to destination: IPAddress, _ transport: UInt8, port: UInt16, client: UInt16 = 40000,
    knowsFlows: Bool = false
  ) -> Outcome {
    let source = from.address
    let index: PortIndex
    let mac: MACAddress
    var sender = MACAddress("02:00:00:00:00:99")!
    switch from {
    case .localPod:
      let key = pods.keys.first { compiler.attachments[$0]?.addresses.contains(source) == true }!
      index = pods[key]!
      mac = PodAttachment.hostMAC
      sender = compiler.attachments[key]!.mac
    case .node:
      index = host
      mac = PodAttachment.hostMAC
    case .elsewhere:
      index = underlay
      mac = ClusterBench.underlayMAC
    }
    if !knowsFlows { pipeline.forgetFlows() }
    pipeline.clearTrace()
    // Refusals are limited in number a second.
    now += 1_000_000_000
    let memoryPort = memory[index]!
    memoryPort.enqueue(frame(mac, sender, source, destination, transport, client, port))
    var batch = FrameBatch()
    _ = memoryPort.receive(into: &batch)
    pipeline.process(&batch, from: index, at: now, tables, ports)
    memoryPort.release(&batch)
    var frames: [[UInt8]] = []
    for port in memory.values { frames += port.takeOutbox().map(\.octets) }
    return outcome(frames, pipeline.trace, isIPv6: destination.family == .ipv6)
  }

  /// Whether an address is a pod's that has a port here.
  func isLocalPod(_ address: IPAddress) -> Bool {
    pods.keys.contains { compiler.attachments[$0]?.addresses.contains(address) == true }
  }

  private func outcome(_ frames: [[UInt8]], _ trace: [TraceEvent], isIPv6: Bool) -> Outcome {
    var outcome = Outcome(trace: trace, frames: frames.count)
    guard outcome.drop == nil, let frame = frames.first,
      trace.contains(where: { if case .sent = $0 { true } else { false } })
    else { return outcome }
    // Without a tunnel the headers are where they always are.
    let network = Array(frame[14...])
    let transport = isIPv6 ? 40 : 20
    guard network.count >= transport + 4, network[0] >> 4 == (isIPv6 ? 6 : 4) else { return outcome }
    func address(_ octets: ArraySlice<UInt8>) -> IPAddress {
      let words = octets.reduce(into: [UInt8]()) { $0.append($1) }
      func number(_ part: ArraySlice<UInt8>) -> UInt64 { part.reduce(0) { $0 << 8 | UInt64($1) } }
      return isIPv6
        ? .v6(IPv6Address(high: number(words[..<8]), low: number(words[8...])))
        : .v4(IPv4Address(rawValue: UInt32(number(words[...]))))
    }
    func port(_ offset: Int) -> UInt16 { UInt16(network[offset]) << 8 | UInt16(network[offset + 1]) }
    let addresses = isIPv6 ? (network[8..<24], network[24..<40]) : (network[12..<16], network[16..<20])
    outcome.source = SocketAddress(address(addresses.0), port: port(transport))
    outcome.destination = SocketAddress(address(addresses.1), port: port(transport + 2))
    return outcome
  }

  private func frame(
    _ to: MACAddress, _ from: MACAddress, _ source: IPAddress, _ destination: IPAddress, _ transport: UInt8,
    _ client: UInt16, _ port: UInt16
  ) -> [UInt8] {
    let isIPv6 = source.family == .ipv6
    let network = isIPv6 ? 40 : 20
    let length =
      switch transport {
      case 6: 20
      case 132: 16
      default: 8
      }
    var octets = [UInt8](repeating: 0, count: 14 + network + length)
    withOctets(&octets) { all in
      EthernetHeader.write(to: all, destination: to, source: from, etherType: isIPv6 ? .ipv6 : .ipv4)
      let packet = all.dropping(14)
      switch (source, destination) {
      case (.v4(let source), .v4(let destination)):
        IPv4Header.write(
          to: packet, totalLength: network + length, protocol: IPProtocol(rawValue: transport), source: source,
          destination: destination)
        IPv4Header(packet)?.updateChecksum()
      case (.v6(let source), .v6(let destination)):
        IPv6Header.write(
          to: packet, payloadLength: length, nextHeader: IPProtocol(rawValue: transport), source: source,
          destination: destination)
      default: preconditionFailure("\(source) to \(destination)")
      }
      let segment = packet.dropping(network)
      if transport == 1 || transport == 58 {
        segment[0] = transport == 1 ? 8 : 128
        return
      }
      segment[u16: 0] = client
      segment[u16: 2] = port
      if transport == 6 {
        segment[12] = 0x50
        segment[13] = 2
      } else if transport == 17 {
        segment[u16: 4] = 8
      }
    }
    return octets
  }
}

extension ClusterBench {
  /// What the tables hold, in numbers: what came and went must have left nothing.
  var contents: [String: Int] {
    [
      "frontends": tables.services.frontends.count, "known addresses": tables.services.knownAddresses.count,
      "services": (0..<tables.services.services.count).count { tables.services.services[$0].inUse },
      "backends": (0..<tables.services.backends.count).count { tables.services.backends[$0].inUse },
      "pods": tables.policies.pods.count, "words of peers and ports": tables.policies.lists.used,
      "sets of ports": (0..<tables.policies.ports.count).count { tables.policies.ports[$0].users > 0 },
      "blocks": tables.policies.blocks.count, "routes": tables.routeCount,
    ]
  }
}
