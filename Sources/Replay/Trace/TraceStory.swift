import Addresses
import Dataplane
import Model

/// Turns what the pipeline recorded into steps with names and reasons, and a verdict.
struct TraceStory {
  let node: VirtualNode
  let from: ProbeEndpoint
  let to: ProbeEndpoint
  let policyNames: PolicyNames
  private var steps: [ProbeAnswer.Step] = []
  private var reason: DropReason?
  private var wasReported = false
  private var wasAnswered = false
  private var routeAction: RouteAction?
  private var out: ProbeAnswer.Out?
  private var service = ServiceDecision(verdict: .none)
  var policy: ProbeAnswer.Policy?

  init(node: VirtualNode, from: ProbeEndpoint, to: ProbeEndpoint, policyNames: PolicyNames) {
    self.node = node
    self.from = from
    self.to = to
    self.policyNames = policyNames
  }

  mutating func note(_ stage: String, _ detail: String) { steps.append(.init(stage: stage, detail: detail)) }

  mutating func tell(_ events: [TraceEvent], _ sent: [(port: PortIndex, frame: [UInt8])]) -> ProbeAnswer {
    for event in events { tell(event) }
    for (port, frame) in sent {
      note("transmit", "leaves by \(name(port)), \(frame.count) octets: \(text(frame))")
    }
    let verdict: ProbeAnswer.Verdict
    if reason == .leftToHost {
      verdict = .deliver
      self.reason = nil
      out = .init(port: "host", tunnel: nil, nextHop: nil)
    } else if let reason {
      verdict = wasReported && !sent.isEmpty ? .reject : .drop
      if verdict == .drop { out = nil }
      if reason == .tooBig, !sent.isEmpty, !wasReported { self.reason = nil }
    } else if wasAnswered {
      verdict = .answer
    } else if let port = sent.first?.port {
      verdict = isDelivery(port) ? .deliver : .forward
    } else {
      verdict = .drop
      reason = .neighbourPending
    }
    return ProbeAnswer(
      verdict: verdict, reason: reason?.name, out: out, steps: steps, service: ProbeAnswer.Service(service),
      policy: policy ?? policyAnswer(egress: true, ingress: true, destination: to.address))
  }

  /// Whether what leaves by a port has arrived: at a pod, or at the host that has the address.
  private func isDelivery(_ port: PortIndex) -> Bool {
    switch node.port(port)?.role {
    case .pod: true
    case .host: routeAction == .local
    default: false
    }
  }

  private mutating func tell(_ event: TraceEvent) {
    switch event {
    case .received(let port, let length): note("receive", "\(length) octets come in by \(name(port))")
    case .decapsulated(let encapsulation, let peer):
      note("decapsulate", "\(encapsulation.displayName) from node \(peer) is unwrapped: its address is a known peer's")
    case .flowFound: note("flow", "a flow is known and decides")
    case .flowMissing: note("flow", "no flow is known: the packet is classified")
    case .flowStale: note("flow", "what the flow was decided from has changed: the packet is classified again")
    case .sourceAccepted: note("source", sourceText)
    case .serviceDecided(let decision):
      service = decision
      noteService(decision)
    case .policyDecided(let egress, let ingress, let destination):
      notePolicy(egress: egress, ingress: ingress, destination: destination)
    case .translated(let address, let port, let masquerade):
      note(
        "translate",
        "to \(ServicePort.Endpoint(address, port))\(masquerade.map { ", from \($0), an address of this node" } ?? "")")
    case .resetSent:
      wasReported = true
      note("error", "the sender is told: TCP reset")
    case .routed(let prefix, let action):
      routeAction = action
      note("route", "\(prefix): \(routeText(prefix, action))")
    case .hopChosen(let hop): note("hop", hopText(hop))
    case .timeToLive(let value): note("ttl", "\(to.address.family == .ipv4 ? "TTL" : "hop limit") becomes \(value)")
    case .encapsulated(let encapsulation, let remote):
      note(
        "encapsulate", "\(encapsulation.displayName) to \(remote)\(node.nodeName(remote).map { ", node \($0)" } ?? "")")
    case .answered(let text):
      wasAnswered = true
      note("answer", text)
    case .errorSent(let type, let code):
      wasReported = true
      let transport: IPProtocol = to.address.family == .ipv4 ? .icmp : .icmpv6
      note("error", "the sender is told: \(transport.displayName) \(icmpName(transport, type, code))")
    case .queued(let neighbour):
      note("neighbour", "waits for the Ethernet address of \(neighbour?.description ?? "the pod")")
    case .sent(let port, let hop): out = out ?? way(port, hop)
    case .dropped(let why):
      if reason == nil { reason = why }
      note(why == .leftToHost ? "host" : "drop", "\(why.name): \(why.explanation)")
    }
  }

  private var sourceText: String {
    if let pod = from.pod {
      return pod.nodeName == node.name
        ? "\(from.address) is an address of \(pod.namespace)/\(pod.name): it may send from it"
        : "\(from.address) is no pod of this node: it may come from outside"
    }
    return "\(from.address) may come in here"
  }

  private func routeText(_ prefix: IPPrefix, _ action: RouteAction) -> String {
    let what: String
    if prefix.length == 0 {
      what = "the default route"
    } else if prefix == IPPrefix(host: to.address), let pod = to.pod {
      what = "the address of \(pod.namespace)/\(pod.name)" + (pod.nodeName.map { " on node \($0)" } ?? "")
    } else if let owner = node.state.nodes.values.filter({ $0.podCIDRs.contains(prefix) }).map(\.name).min() {
      what = "the block of node \(owner)"
    } else if let owner = node.nodeName(prefix.address) {
      what = "an address of node \(owner)"
    } else {
      what = "a route"
    }
    switch action {
    case .forward: return what
    case .local: return "\(what), for the host itself"
    case .blackhole: return "\(what), and no pod has the address: blackhole"
    case .unreachable: return "\(what), unreachable"
    }
  }

  private func hopText(_ index: HopIndex) -> String {
    guard let hop = node.dataPath.change({ $0.hop(index) }) else { return "none" }
    var text = "by \(name(hop.port))"
    if let tunnel = hop.tunnel {
      text += ", in \(tunnel.encapsulation.displayName) from \(tunnel.local) to \(tunnel.remote)"
      switch tunnel.encapsulation {
      case .vxlan, .geneve: text += ", VNI \(tunnel.identifier)"
      case .gre where tunnel.options.contains(.greKey): text += ", key \(tunnel.identifier)"
      default: break
      }
      if let neighbour = hop.neighbour, neighbour != tunnel.remote { text += " by way of \(neighbour)" }
    } else if let neighbour = hop.neighbour {
      text += " to \(neighbour)"
    }
    return text + "; takes packets up to \(hop.mtu) octets"
  }

  private func name(_ index: PortIndex) -> String {
    guard let port = node.port(index) else { return "?" }
    return port.interface.map { "\(port.name) (\($0))" } ?? port.name
  }

  private func text(_ frame: [UInt8]) -> String {
    var frame = frame
    return withOctets(&frame) { PacketText($0).line }
  }

  /// The way of what was sent by a hop.
  private func way(_ port: PortIndex, _ index: HopIndex) -> ProbeAnswer.Out {
    let hop = node.dataPath.change { $0.hop(index) }
    return ProbeAnswer.Out(
      port: node.port(port)?.name ?? "?", tunnel: hop?.tunnel?.encapsulation.displayName,
      nextHop: (hop?.tunnel?.remote ?? hop?.neighbour)?.description)
  }
}
