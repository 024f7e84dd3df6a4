import Addresses
import Dataplane
import Model

/// Services and policies in the story of a packet.
extension TraceStory {
  mutating func noteService(_ decision: ServiceDecision) {
    let name = decision.name.map { "service \($0)" }
    switch decision.verdict {
    case .none: break
    case .translate:
      let list = decision.endpoints.map(\.description).joined(separator: ", ")
      note(
        "service",
        "\(name ?? "a service"): goes to one of \(list)\(decision.masquerade ? ", from an address of this node" : "")")
    case .reject: note("service", "\(name ?? "a cluster IP without such a port"): nobody could answer")
    case .drop: note("service", "\(name ?? "a cluster IP that no service has"): not from here")
    }
  }

  mutating func notePolicy(egress: Bool, ingress: Bool, destination: IPAddress) {
    let answer = policyAnswer(egress: egress, ingress: ingress, destination: destination)
    policy = answer
    for (direction, verdict, policies) in [
      ("egress", answer.egress, answer.egressPolicies), ("ingress", answer.ingress, answer.ingressPolicies),
    ] where !policies.isEmpty {
      note("policy", "\(direction) \(verdict.rawValue) by \(policies.joined(separator: ", "))")
    }
  }

  /// The verdicts with the names of the policies that select the pods at both ends.
  func policyAnswer(egress: Bool, ingress: Bool, destination: IPAddress) -> ProbeAnswer.Policy {
    let target =
      destination == to.address
      ? to.pod : node.state.pods.values.first { $0.hasOwnNetwork && $0.addresses.contains(destination) }
    return ProbeAnswer.Policy(
      egress: egress ? .allow : .deny, ingress: ingress ? .allow : .deny,
      egressPolicies: names(selecting: from.pod, .egress), ingressPolicies: names(selecting: target, .ingress))
  }

  private func names(selecting pod: Pod?, _ direction: NetworkPolicy.Direction) -> [String] {
    guard let pod, pod.hasOwnNetwork else { return [] }
    return node.state.networkPolicies.values.filter {
      $0.namespace == pod.namespace && $0.policyTypes.contains(direction) && $0.podSelector.matches(pod.metadata.labels)
    }.map { "\($0.namespace)/\($0.name)" }.sorted()
  }
}
