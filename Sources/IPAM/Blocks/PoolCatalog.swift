import Addresses
import Model

/// The pools that block mode takes blocks from, as the desired state has them now.
public struct PoolCatalog: Sendable, Equatable {
  /// In the order in which they are used.
  public var pools: [IPPool]
  /// What is never given unless it is asked for.
  public var reservations: [IPPrefix]
  /// Labels by node, which pools select nodes by.
  public var nodeLabels: [String: [String: String]]

  public init(pools: [IPPool], reservations: [IPPrefix] = [], nodeLabels: [String: [String: String]] = [:]) {
    self.pools = pools
    self.reservations = reservations
    self.nodeLabels = nodeLabels
  }

  public init(_ state: State) {
    self.init(
      pools: state.ipPools.values.sorted { $0.name < $1.name },
      reservations: state.ipReservations.values.sorted { $0.name < $1.name }.flatMap(\.reservedCIDRs),
      nodeLabels: Dictionary(uniqueKeysWithValues: state.nodes.values.map { ($0.name, $0.metadata.labels) }))
  }

  /// The pools that the node may take addresses of a family from. `chosen`: names or CIDRs that the request names.
  func usable(_ family: IPFamily, node: String, chosen: [String]) throws(IPAMError) -> [IPPool] {
    var candidates = pools.filter { $0.cidr.family == family }
    if !chosen.isEmpty {
      for name in chosen where pool(named: name) == nil {
        throw IPAMError(
          .refused,
          "there is no IPPool \(quoted(name)); the pools are \(names(pools)). Name one of them by name or CIDR")
      }
      candidates = candidates.filter { pool in chosen.contains { pool.name == $0 || "\(pool.cidr)" == $0 } }
    }
    // What a request names it gets: the pool's node selector is for what is given without asking.
    let labels = nodeLabels[node] ?? [:]
    let usable = candidates.filter { !$0.disabled && (!chosen.isEmpty || $0.nodeSelector.matches(labels)) }
    guard !usable.isEmpty else {
      let reason =
        candidates.isEmpty
        ? "no IPPool of \(family.rawValue) \(chosen.isEmpty ? "exists" : "is among those asked for")"
        : "each \(family.rawValue) pool of \(names(candidates)) is disabled or does not select the node"
      throw IPAMError(
        .exhausted,
        "no \(family.rawValue) address for node \(node): \(reason). Add an IPPool, or correct its "
          + "disabled or nodeSelector")
    }
    return usable
  }

  func pool(named name: String) -> IPPool? { pools.first { $0.name == name || "\($0.cidr)" == name } }

  func pool(of address: IPAddress) -> IPPool? { pools.first { $0.cidr.contains(address) } }

  private func names(_ pools: [IPPool]) -> String {
    pools.isEmpty ? "none" : pools.map(\.name).sorted().joined(separator: ", ")
  }
}

func quoted(_ text: String) -> String { "\"\(text)\"" }
