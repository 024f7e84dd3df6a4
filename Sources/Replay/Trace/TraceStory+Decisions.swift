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
    let target = destination == to.address ? to.pod : policyNames.pod(at: destination)
    return ProbeAnswer.Policy(
      egress: egress ? .allow : .deny, ingress: ingress ? .allow : .deny,
      egressPolicies: policyNames.names(selecting: from.pod, .egress),
      ingressPolicies: policyNames.names(selecting: target, .ingress))
  }
}
