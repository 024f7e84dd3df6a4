public import Addresses
public import Model

/// What network policies say about a new connection.
public struct PolicyDecision: Equatable, Sendable {
  public enum Verdict: String, Sendable, CaseIterable {
    case allow
    case deny
  }

  public var egress: Verdict
  public var ingress: Verdict
  /// `namespace/name` of the policies that isolate the source for egress, sorted.
  public var egressPolicies: [String]
  /// `namespace/name` of the policies that isolate the destination for ingress, sorted.
  public var ingressPolicies: [String]

  /// NP-6
  public var isAllowed: Bool { egress == .allow && ingress == .allow }
}

/// What the rules NP-1 to NP-10 say about connections between addresses, straight from their text: every question is
/// answered by looking at every object.
public struct ReferencePolicy: Sendable {
  let state: State

  public init(state: State) { self.state = state }

  /// What the policies say about the first packet of a connection.
  ///
  /// Addresses are those that policy sees: the source before source translation, the destination after service
  /// translation (NP-10). `protocol`: the number in the IP header; `port`: the destination's, of no meaning where the
  /// protocol has none.
  public func decide(
    source: IPAddress, destination: IPAddress, protocol transport: UInt8, port: UInt16
  ) -> PolicyDecision {
    let sender = pod(at: source)
    let receiver = pod(at: destination)
    var decision = PolicyDecision(egress: .allow, ingress: .allow, egressPolicies: [], ingressPolicies: [])
    let isWithin = isOwnNode(destination, of: sender) || isOwnNode(source, of: receiver) || source == destination

    if let sender {
      let policies = policies(isolating: sender, .egress)
      decision.egressPolicies = policies.map { "\($0.namespace)/\($0.name)" }
      let isAllowed = policies.contains { policy in
        policy.egress.contains { rule in
          matchesPeer(rule, policy, destination) && matchesPort(rule, transport, port, receiver)
        }
      }
      // NP-1: only an isolated pod is restricted. NP-7: never within a node or pod.
      if !policies.isEmpty, !isAllowed, !isWithin { decision.egress = .deny }
    }
    if let receiver {
      let policies = policies(isolating: receiver, .ingress)
      decision.ingressPolicies = policies.map { "\($0.namespace)/\($0.name)" }
      let isAllowed = policies.contains { policy in
        policy.ingress.contains { rule in
          matchesPeer(rule, policy, source) && matchesPort(rule, transport, port, receiver)
        }
      }
      if !policies.isEmpty, !isAllowed, !isWithin { decision.ingress = .deny }
    }
    return decision
  }

  // MARK: Pods

  /// The pod that has an address of its own. Those on the host's network have the node's (NP-8); the addresses of those
  /// that have ended are nobody's.
  func pod(at address: IPAddress) -> Pod? {
    state.pods.values
      .filter { pod in
        !pod.hostNetwork && pod.phase != .succeeded && pod.phase != .failed && pod.addresses.contains(address)
      }
      .min { ($0.namespace, $0.name) < ($1.namespace, $1.name) }
  }

  /// NP-7: whether an address is that of the node that a pod runs on.
  private func isOwnNode(_ address: IPAddress, of pod: Pod?) -> Bool {
    guard let name = pod?.nodeName else { return false }
    if let node = state.node(name), addresses(of: node).contains(address) { return true }
    // NP-8
    return state.pods.values.contains { $0.hostNetwork && $0.nodeName == name && $0.addresses.contains(address) }
  }

  // MARK: Rules

  /// NP-1
  private func policies(isolating pod: Pod, _ direction: NetworkPolicy.Direction) -> [NetworkPolicy] {
    state.networkPolicies.values
      .filter { policy in
        policy.namespace == pod.namespace && policy.policyTypes.contains(direction)
          && matches(policy.podSelector, pod.metadata.labels)
      }
      .sorted { ($0.namespace, $0.name) < ($1.namespace, $1.name) }
  }

  /// NP-3, NP-4
  private func matchesPeer(_ rule: NetworkPolicy.Rule, _ policy: NetworkPolicy, _ address: IPAddress) -> Bool {
    if rule.peers.isEmpty { return true }
    return rule.peers.contains { peer in
      switch peer {
      case .block(let block):
        return block.cidr.contains(address) && !block.except.contains { $0.contains(address) }
      case .pods(let namespaces, let pods):
        guard let pod = pod(at: address) else { return false }
        if let namespaces {
          if !matches(namespaces, state.labels(ofNamespace: pod.namespace)) { return false }
        } else if pod.namespace != policy.namespace {
          return false
        }
        return pods.map { matches($0, pod.metadata.labels) } ?? true
      }
    }
  }

  /// NP-3, NP-5, NP-8. `receiver`: the destination, where it is a pod.
  private func matchesPort(
    _ rule: NetworkPolicy.Rule, _ transport: UInt8, _ port: UInt16, _ receiver: Pod?
  ) -> Bool {
    if rule.ports.isEmpty { return true }
    return rule.ports.contains { item in
      let number: UInt8 =
        switch item.protocol {
        case .tcp: 6
        case .udp: 17
        case .sctp: 132
        }
      if number != transport { return false }
      switch item.destination {
      case .any: return true
      case .range(let range): return range.lowerBound <= port && port <= range.upperBound
      case .named(let name):
        return receiver?.ports.first { $0.name == name && $0.protocol == item.protocol }?.number == port
      }
    }
  }

  /// A label selector, as the API describes it.
  private func matches(_ selector: LabelSelector, _ labels: [String: String]) -> Bool {
    for (key, value) in selector.matchLabels {
      if labels[key] != value { return false }
    }
    for requirement in selector.matchExpressions {
      let value = labels[requirement.key]
      switch requirement.operator {
      case .exists: if value == nil { return false }
      case .doesNotExist: if value != nil { return false }
      case .in:
        guard let value, requirement.values.contains(value) else { return false }
      case .notIn:
        if let value, requirement.values.contains(value) { return false }
      }
    }
    return true
  }
}
