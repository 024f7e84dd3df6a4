import Addresses
import Model

/// The policies that select each pod, by name, for explanations. Found out once for a pod.
final class PolicyNames {
  private let byNamespace: [String: [NetworkPolicy]]
  private let podsByAddress: [IPAddress: Pod]
  private var known: [ObjectKey: [NetworkPolicy.Direction: [String]]] = [:]

  init(_ state: State) {
    byNamespace = Dictionary(grouping: state.networkPolicies.values, by: \.namespace)
    var pods: [IPAddress: Pod] = [:]
    for pod in state.pods.values.sorted(by: { $1.key < $0.key }) where pod.hasOwnNetwork {
      for address in pod.addresses { pods[address] = pod }
    }
    podsByAddress = pods
  }

  /// The pod that has an address.
  func pod(at address: IPAddress) -> Pod? { podsByAddress[address] }

  /// `namespace/name` of the policies that isolate a pod in a direction, sorted.
  func names(selecting pod: Pod?, _ direction: NetworkPolicy.Direction) -> [String] {
    guard let pod, pod.hasOwnNetwork else { return [] }
    if let names = known[pod.key] { return names[direction] ?? [] }
    let policies = (byNamespace[pod.namespace] ?? []).filter { $0.podSelector.matches(pod.metadata.labels) }
    var names: [NetworkPolicy.Direction: [String]] = [:]
    for direction in NetworkPolicy.Direction.allCases {
      names[direction] = policies.filter { $0.policyTypes.contains(direction) }.map { "\($0.namespace)/\($0.name)" }
        .sorted()
    }
    known[pod.key] = names
    return names[direction] ?? []
  }
}
