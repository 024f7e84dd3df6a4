public import Addresses

/// What has changed in the policy table, for another data path that decides the same: as it is now, not how it came about.
public struct PolicyChanges: Sendable {
  /// Pods that no rule can tell apart.
  public struct Identity: Sendable, Hashable {
    /// What selectors of rules they are.
    public var peers: [PeerIndex] = []
    public var ports: [NamedPolicyPort] = []
    public init() {}
  }

  public struct Pod: Sendable, Hashable {
    public var policy: PodPolicy
    /// Where the pod is; nil: on another node, which enforces what holds for it.
    public var port: PortIndex?
  }

  /// Whose an address is (NP-7).
  public struct Owner: Sendable, Hashable {
    /// The number of the node that has it; 0: none.
    public var node: UInt32 = 0
    /// Whether this node has it.
    public var isOwn = false
    /// Whether pods have it as their gateway.
    public var isGateway = false
    public var isNobody: Bool { node == 0 && !isOwn && !isGateway }
  }

  public var identities: [IdentityIndex: Identity] = [:]
  public var groups: [PolicyGroupIndex: [PeerIndex: PolicyPorts]] = [:]
  /// Blocks and what peers they are; nil: not in use any more.
  public var blocks: [IPPrefix: [PeerIndex]?] = [:]
  /// Pods by address; nil: gone.
  public var pods: [IPAddress: Pod?] = [:]
  public var owners: [IPAddress: Owner] = [:]

  public init() {}

  public var isEmpty: Bool {
    identities.isEmpty && groups.isEmpty && blocks.isEmpty && pods.isEmpty && owners.isEmpty
  }
}

/// What somebody who follows the policy table has not seen yet.
struct UnseenPolicies {
  var identities: Set<IdentityIndex> = []
  var groups: Set<PolicyGroupIndex> = []
  var blocks: Set<IPPrefix> = []
  var pods: Set<IPAddress> = []
  var owners: Set<IPAddress> = []
}

extension Tables {
  /// Begins to note changes of the policy table, as if all that is there had just come.
  public mutating func followPolicies() {
    var unseen = UnseenPolicies()
    unseen.identities = Set(1..<IdentityIndex(policies.identities.count))
    unseen.groups = Set(1..<PolicyGroupIndex(policies.groups.count))
    unseen.blocks = Set(policies.blockPrefixes)
    unseen.pods = Set(policies.pods.addresses).union(podAddresses.addresses)
    unseen.owners = Set(policies.nodes.addresses).union(localAddresses.addresses).union(ownAddresses.addresses)
      .union(gatewayAddresses.addresses)
    policies.unseen = unseen
  }

  public mutating func unfollowPolicies() { policies.unseen = nil }

  /// What changed since the last call; nothing where nobody follows.
  public mutating func takePolicyChanges() -> PolicyChanges {
    var changes = PolicyChanges()
    guard let unseen = policies.unseen else { return changes }
    policies.unseen = UnseenPolicies()
    for identity in unseen.identities { changes.identities[identity] = policies.contents(ofIdentity: identity) }
    for group in unseen.groups { changes.groups[group] = policies.rules(of: group) }
    for block in unseen.blocks { changes.blocks[block] = .some(policies.peers(of: block)) }
    for address in unseen.pods {
      let port = podAddresses.find(address).map { PortIndex(UInt16($0)) }
      let policy = policies.policy(of: address)
      changes.pods[address] = .some(
        port == nil && policy == nil
          ? nil : PolicyChanges.Pod(policy: policy ?? PodPolicy(identity: 0), port: port))
    }
    for address in unseen.owners {
      changes.owners[address] = PolicyChanges.Owner(
        node: policies.nodes.find(address) ?? 0, isOwn: isOwn(address),
        isGateway: gatewayAddresses.find(address) != nil)
    }
    return changes
  }
}

extension PolicyTable {
  func policy(of address: IPAddress) -> PodPolicy? {
    guard let place = pods.find(address) else { return nil }
    let record = records[Int(place)]
    return PodPolicy(identity: record.identity, egress: record.egress, ingress: record.ingress, node: record.node)
  }

  func contents(ofIdentity identity: IdentityIndex) -> PolicyChanges.Identity {
    let record = identities[Int(identity)]
    var contents = PolicyChanges.Identity()
    contents.peers = words(record.peers, stride: 1)
    let ports = words(record.ports, stride: 2)
    contents.ports = stride(from: 0, to: ports.count, by: 2).map {
      NamedPolicyPort(
        transport: UInt8(truncatingIfNeeded: ports[$0] >> 16), port: UInt16(truncatingIfNeeded: ports[$0]),
        name: ports[$0 + 1])
    }
    return contents
  }

  func words(_ list: PeerList, stride: Int) -> [UInt32] {
    (0..<Int(list.count) * stride).map { lists[Int(list.place) + $0] }
  }
}
