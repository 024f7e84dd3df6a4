import Addresses
import Compiler
import Dataplane
import Model

/// Answers what would happen to a packet: sends it, made up, through the pipeline of a node in memory and explains what
/// was decided. A packet from a pod of another node is first sent through that node, so that it arrives as it would.
public final class Tracer {
  let node: VirtualNode
  private let probed: ProbedNode
  private let state: State
  private let endpoints: ProbeEndpoints
  private let podsByNode: [String: [Pod]]
  private let policyNames: PolicyNames
  private var peers: [String: ProbedNode] = [:]
  /// The most nodes that are kept ready: each holds some hundred kilobytes.
  private static let peerLimit = 512

  /// Where no source port is given.
  private static let sourcePort: UInt16 = 40_000

  public init(node name: String, in state: State) throws(ReplayError) {
    self.state = state
    probed = try ProbedNode(name, in: state)
    node = probed.node
    endpoints = ProbeEndpoints(state)
    policyNames = PolicyNames(state)
    podsByNode = Dictionary(grouping: state.pods.values) { $0.nodeName ?? "" }
  }

  public func answer(_ probe: Probe) throws(ReplayError) -> ProbeAnswer {
    let (from, to) = try endpoints.resolve(probe)
    let transport = try endpoints.protocolNumber(probe.protocol, family: from.address.family)
    let packet = ProbePacket(
      source: from.address, destination: to.address, transport: transport,
      sourcePort: probe.sourcePort ?? Tracer.sourcePort,
      destinationPort: try endpoints.port(probe, transport, on: to.pod), size: probe.size)
    if let size = probe.size, !(packet.leastSize...65_535).contains(size) {
      throw ReplayError(.data, "size: \(size) is not from \(packet.leastSize) to 65535")
    }
    var story = TraceStory(node: node, from: from, to: to, policyNames: policyNames)
    let (frame, port) = try arrival(packet, from, &story)
    let (sent, events) = probed.send(frame, by: port.index)
    return story.tell(events, sent)
  }

  /// Where the packet comes in, and the frame as it is there.
  private func arrival(
    _ packet: ProbePacket, _ from: ProbeEndpoint, _ story: inout TraceStory
  ) throws(ReplayError) -> ([UInt8], NodePort) {
    let underlay = node.ports[0]
    let host = node.ports[1]
    if let pod = from.pod {
      if pod.nodeName == node.name, let port = node.ports.first(where: { $0.pod == pod.key }) {
        story.note("origin", "\(from.description) is a pod of this node; its interface is \(port.interface ?? "?")")
        return (packet.frame(destination: port.mac, source: port.peerMAC ?? .zero), port)
      }
      if let name = pod.nodeName, let peer = try peer(name) {
        story.note("origin", "\(from.description) is a pod of node \(name)")
        let frame = packet.frame(destination: PodAttachment.hostMAC, source: pod.macAddress ?? .zero)
        if let port = peer.node.ports.first(where: { $0.pod == pod.key }) {
          let (sent, _) = peer.send(frame, by: port.index)
          // The peer knows this node by an address made from its name, as this node has it.
          if let out = sent.first(where: { $0.port == peer.node.ports[0].index && isForUs($0.frame) }) {
            return (out.frame, underlay)
          }
        }
        story.note("origin", "\(name) would not send this packet here; it is looked at as if it came unwrapped")
        return (direct(packet, from: name), underlay)
      }
    }
    if from.address.isLoopback {
      story.note("origin", "\(from.address) is the node itself")
      return (packet.frame(destination: host.mac, source: host.peerMAC ?? .zero), host)
    }
    if let own = state.node(node.name),
      own.addresses.contains(where: { $0.address == from.address }) || own.address(from.address.family) == from.address
    {
      story.note("origin", "\(from.address) is an address of this node")
      return (packet.frame(destination: host.mac, source: host.peerMAC ?? .zero), host)
    }
    if let name = node.nodeName(from.address) {
      story.note("origin", "\(from.address) is node \(name)")
      return (direct(packet, from: name), underlay)
    }
    story.note("origin", "\(from.address) is neither a pod nor a node; it comes in by the underlay")
    return (direct(packet, from: from.address.description), underlay)
  }

  private func direct(_ packet: ProbePacket, from name: String) -> [UInt8] {
    packet.frame(destination: node.ports[0].mac, source: MACAddress(derivedFrom: name))
  }

  private func isForUs(_ frame: [UInt8]) -> Bool {
    var frame = frame
    let underlay = node.ports[0].mac
    return withOctets(&frame) { EthernetHeader($0)?.destination == underlay }
  }

  /// The node that a packet comes from, with what matters of the state: itself, this node, and the pods of both.
  private func peer(_ name: String) throws(ReplayError) -> ProbedNode? {
    if let known = peers[name] { return known }
    guard let object = state.node(name), let own = state.node(node.name) else { return nil }
    var part = State()
    for resource in [object.resource, own.resource] { part.apply(.upsert(resource)) }
    for pool in state.ipPools.values { part.apply(.upsert(pool.resource)) }
    for configuration in state.nodeConfigurations.values { part.apply(.upsert(configuration.resource)) }
    for pod in (podsByNode[name] ?? []) + (podsByNode[node.name] ?? []) { part.apply(.upsert(pod.resource)) }
    let peer = try ProbedNode(name, in: part)
    if peers.count >= Tracer.peerLimit { peers.removeAll() }
    peers[name] = peer
    return peer
  }
}
