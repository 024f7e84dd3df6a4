import Addresses
import Dataplane
import Model

/// Compiles network policies. Pods that no policy can tell apart share an identity, and pods of this node that the same
/// policies select share a group of rules; so a policy costs per identity, not per pod.
struct PolicyCompiler {
  private let node: String
  /// Whether the policies of all nodes' pods are compiled, for those who explain, or the own node's alone.
  private let explains: Bool

  // Identities.
  private var identities: [IdentityKey: IdentityIndex] = [:]
  private var identityUsers: [IdentityIndex: Int] = [:]
  private var identityKeys: [IdentityIndex: IdentityKey] = [:]
  private var identitiesOfNamespace: [String: Set<IdentityIndex>] = [:]
  private var freeIdentities: [IdentityIndex] = []
  private var nextIdentity: IdentityIndex = 1

  // Pods.
  private var pods: [ObjectKey: PodEntry] = [:]
  private var podsOfNamespace: [String: Set<ObjectKey>] = [:]
  /// The pods that say an address is theirs: several, while one takes the place of another.
  private var owners: [IPAddress: [ObjectKey]] = [:]

  // Nodes: NP-7 wants to know whose address is whose.
  private var nodeNumbers: [String: UInt32] = [:]
  /// The addresses that a node, or a pod in the node's own network (NP-8), says are the node's.
  private var nodeAddresses: [ObjectKey: (node: UInt32, addresses: [IPAddress])] = [:]
  private var nodesOfAddress: [IPAddress: [ObjectKey]] = [:]

  // Groups.
  private var groups: [GroupKey: PolicyGroupIndex] = [:]
  private var groupRecords: [PolicyGroupIndex: Group] = [:]
  private var groupsOfPolicy: [ObjectKey: Set<PolicyGroupIndex>] = [:]
  private var freeGroups: [PolicyGroupIndex] = []
  private var nextGroup: PolicyGroupIndex = 1

  /// The groups whose rules name a block.
  private var blockUsers: [IPPrefix: Int] = [:]

  private var policiesOfNamespace: [String: Set<ObjectKey>] = [:]

  // What is noted for the next commit.
  private var dirtyPods: Set<ObjectKey> = []
  private var dirtyNodes: Set<ObjectKey> = []
  private var dirtyGroups: Set<PolicyGroupIndex> = []
  private var newIdentities: Set<IdentityIndex> = []
  private var goneIdentities: Set<IdentityIndex> = []
  /// Groups that may have no pods any more.
  private var leftGroups: Set<PolicyGroupIndex> = []

  init(node: String, explains: Bool) {
    self.node = node
    self.explains = explains
  }

  /// What policies can see of a pod.
  private struct IdentityKey: Hashable {
    var namespace: String
    var labels: [String: String]
    var namespaceLabels: [String: String]
    /// NP-5: a named port is looked up on each destination pod.
    var ports: Set<NamedPort>
  }

  private struct NamedPort: Hashable {
    var name: String
    var transport: TransportProtocol
    var number: UInt16
  }

  private struct PodEntry {
    var isLocal: Bool
    var identity: IdentityIndex
    var egress: PolicyGroupIndex
    var ingress: PolicyGroupIndex
    var node: UInt32
    var addresses: [IPAddress]
  }

  private struct GroupKey: Hashable {
    var direction: NetworkPolicy.Direction
    var policies: Set<ObjectKey>
    /// The pods' named ports: incoming rules may name them.
    var ports: Set<NamedPort>
  }

  private struct Group {
    var key: GroupKey
    var pods: Set<ObjectKey>
    var blocks: Set<IPPrefix>
  }

  // MARK: Changes

  mutating func note(pod: ObjectKey) { dirtyPods.insert(pod) }

  mutating func note(node: ObjectKey) { dirtyNodes.insert(node) }

  mutating func note(namespace: String) { dirtyPods.formUnion(podsOfNamespace[namespace] ?? []) }

  mutating func note(policy: ObjectKey, isPresent: Bool) {
    if isPresent {
      policiesOfNamespace[policy.namespace, default: []].insert(policy)
    } else {
      policiesOfNamespace[policy.namespace]?.remove(policy)
    }
    // Whom it selects may have changed, and what it says.
    dirtyPods.formUnion(podsOfNamespace[policy.namespace] ?? [])
    dirtyGroups.formUnion(groupsOfPolicy[policy] ?? [])
  }

  // MARK: Commit

  mutating func commit(to tables: inout Tables, _ state: State) {
    for key in dirtyNodes {
      setNodeAddresses(key, node: key.name, state.nodes[key].map(NodeCompiler.addresses) ?? [], &tables)
    }
    dirtyNodes.removeAll(keepingCapacity: true)
    guard !dirtyPods.isEmpty || !dirtyGroups.isEmpty else { return }
    var changes: [(ObjectKey, PodEntry)] = []
    for key in dirtyPods.sorted(by: { ($0.namespace, $0.name) < ($1.namespace, $1.name) }) {
      if let entry = classify(key, state, &tables) { changes.append((key, entry)) }
    }
    dirtyPods.removeAll(keepingCapacity: true)
    // Rules before those who are subject to them: a pod is never without the rules that isolate it.
    noteGroupsThatSee(newIdentities, state)
    let seen = dirtyGroups
    dirtyGroups.removeAll(keepingCapacity: true)
    newIdentities.removeAll(keepingCapacity: true)
    for group in seen.sorted() { write(group, &tables, state) }
    for (key, entry) in changes { install(key, entry, &tables) }
    for group in leftGroups where groupRecords[group]?.pods.isEmpty == true { dissolve(group, &tables, state) }
    leftGroups.removeAll(keepingCapacity: true)
    // Numbers of identities that nobody has any more are free once no rule names them.
    if !goneIdentities.isEmpty {
      noteGroupsThatSee(goneIdentities, state)
      for identity in goneIdentities where identityUsers[identity] == nil { forget(identity) }
      goneIdentities.removeAll()
      for group in dirtyGroups.sorted() { write(group, &tables, state) }
      dirtyGroups.removeAll(keepingCapacity: true)
    }
  }

  /// Finds out a pod's identity and groups; nil where nothing changes.
  private mutating func classify(_ key: ObjectKey, _ state: State, _ tables: inout Tables) -> PodEntry? {
    let old = pods[key]
    let inHost = state.pods[key].flatMap { $0.hostNetwork ? $0 : nil }
    setNodeAddresses(key, node: inHost?.nodeName, inHost?.addresses ?? [], &tables)
    guard let pod = state.pods[key], pod.hasOwnNetwork else {
      if let old { remove(key, old, &tables) }
      return nil
    }
    podsOfNamespace[key.namespace, default: []].insert(key)
    let ports = namedPorts(pod)
    let identity = identity(
      IdentityKey(
        namespace: pod.namespace, labels: pod.metadata.labels, namespaceLabels: namespaceLabels(pod.namespace, state),
        ports: ports))
    var entry = PodEntry(
      isLocal: pod.nodeName == node, identity: identity, egress: 0, ingress: 0, node: number(ofNode: pod.nodeName),
      addresses: pod.addresses)
    // Only the node that a pod runs on enforces its policies.
    if entry.isLocal || explains {
      let selecting = (policiesOfNamespace[pod.namespace] ?? []).filter {
        state.networkPolicies[$0]?.podSelector.matches(pod.metadata.labels) == true
      }
      for direction in NetworkPolicy.Direction.allCases {
        let policies = selecting.filter { state.networkPolicies[$0]?.policyTypes.contains(direction) == true }
        guard !policies.isEmpty else { continue }
        let group = group(
          GroupKey(direction: direction, policies: policies, ports: direction == .ingress ? ports : []))
        if direction == .ingress { entry.ingress = group } else { entry.egress = group }
      }
    }
    return entry
  }

  /// Of several ports of a name and protocol the first counts.
  private func namedPorts(_ pod: Pod) -> Set<NamedPort> {
    var ports: Set<NamedPort> = []
    for port in pod.ports {
      guard let name = port.name, !ports.contains(where: { $0.name == name && $0.transport == port.protocol }) else {
        continue
      }
      ports.insert(NamedPort(name: name, transport: port.protocol, number: port.number))
    }
    return ports
  }

  private func namespaceLabels(_ name: String, _ state: State) -> [String: String] {
    state.namespaces[ObjectKey(.namespace, name: name)]?.metadata.labels ?? ["kubernetes.io/metadata.name": name]
  }

  private mutating func install(_ key: ObjectKey, _ entry: PodEntry, _ tables: inout Tables) {
    let old = pods[key]
    pods[key] = entry
    for group in [entry.egress, entry.ingress] where group != 0 { groupRecords[group]?.pods.insert(key) }
    if let old {
      for group in [old.egress, old.ingress] where group != 0 && group != entry.egress && group != entry.ingress {
        leave(group, key)
      }
      release(old.identity)
      for address in old.addresses where !entry.addresses.contains(address) { disown(address, key, &tables) }
      if old.identity == entry.identity, old.egress == entry.egress, old.ingress == entry.ingress,
        old.addresses == entry.addresses, old.node == entry.node
      {
        return
      }
    }
    for address in entry.addresses {
      if owners[address]?.contains(key) != true { owners[address, default: []].append(key) }
      settle(address, &tables)
    }
  }

  private mutating func remove(_ key: ObjectKey, _ old: PodEntry, _ tables: inout Tables) {
    pods[key] = nil
    for group in [old.egress, old.ingress] where group != 0 { leave(group, key) }
    for address in old.addresses { disown(address, key, &tables) }
    release(old.identity)
    podsOfNamespace[key.namespace]?.remove(key)
    if podsOfNamespace[key.namespace]?.isEmpty == true { podsOfNamespace[key.namespace] = nil }
  }

  private mutating func leave(_ group: PolicyGroupIndex, _ key: ObjectKey) {
    groupRecords[group]?.pods.remove(key)
    leftGroups.insert(group)
  }

  private mutating func disown(_ address: IPAddress, _ key: ObjectKey, _ tables: inout Tables) {
    owners[address]?.removeAll { $0 == key }
    if owners[address]?.isEmpty == true { owners[address] = nil }
    settle(address, &tables)
  }

  /// Has an address follow the policy of the pod that it belongs to: one of this node before others.
  private func settle(_ address: IPAddress, _ tables: inout Tables) {
    func rank(_ key: ObjectKey) -> (Int, String, String) {
      (pods[key]?.isLocal == true ? 0 : 1, key.namespace, key.name)
    }
    guard let owner = owners[address]?.min(by: { rank($0) < rank($1) }), let entry = pods[owner] else {
      return tables.removePodPolicy(address)
    }
    tables.setPodPolicy(
      address,
      PodPolicy(identity: entry.identity, egress: entry.egress, ingress: entry.ingress, node: entry.node))
  }

  // MARK: Nodes

  private mutating func number(ofNode name: String?) -> UInt32 {
    guard let name else { return 0 }
    if let known = nodeNumbers[name] { return known }
    let number = UInt32(nodeNumbers.count + 1)
    nodeNumbers[name] = number
    return number
  }

  private mutating func setNodeAddresses(
    _ key: ObjectKey, node: String?, _ addresses: [IPAddress], _ tables: inout Tables
  ) {
    let old = nodeAddresses[key]
    let number = addresses.isEmpty ? 0 : number(ofNode: node)
    if old?.node ?? 0 == number, old?.addresses ?? [] == addresses { return }
    nodeAddresses[key] = number == 0 ? nil : (number, addresses)
    for address in old?.addresses ?? [] { nodesOfAddress[address]?.removeAll { $0 == key } }
    if number != 0 { for address in addresses { nodesOfAddress[address, default: []].append(key) } }
    for address in Set((old?.addresses ?? []) + addresses) {
      let owner = nodesOfAddress[address]?.min()
      if owner == nil { nodesOfAddress[address] = nil }
      tables.setPolicyNode(address, node: owner.flatMap { nodeAddresses[$0]?.node } ?? 0)
    }
  }

  // MARK: Identities

  /// The number of an identity, with one more user.
  private mutating func identity(_ key: IdentityKey) -> IdentityIndex {
    if let known = identities[key] {
      identityUsers[known, default: 0] += 1
      goneIdentities.remove(known)
      return known
    }
    let index = freeIdentities.popLast() ?? nextIdentity
    if index == nextIdentity { nextIdentity += 1 }
    identities[key] = index
    identityKeys[index] = key
    identityUsers[index] = 1
    identitiesOfNamespace[key.namespace, default: []].insert(index)
    newIdentities.insert(index)
    return index
  }

  private mutating func release(_ identity: IdentityIndex) {
    guard let users = identityUsers[identity] else { return }
    identityUsers[identity] = users > 1 ? users - 1 : nil
    if users == 1 { goneIdentities.insert(identity) }
  }

  private mutating func forget(_ identity: IdentityIndex) {
    guard let key = identityKeys.removeValue(forKey: identity) else { return }
    identities[key] = nil
    identitiesOfNamespace[key.namespace]?.remove(identity)
    freeIdentities.append(identity)
  }

  private mutating func noteGroupsThatSee(_ changed: Set<IdentityIndex>, _ state: State) {
    guard !changed.isEmpty else { return }
    for (index, group) in groupRecords where !dirtyGroups.contains(index) {
      let sees = group.key.policies.contains { policy in
        guard let policy = state.networkPolicies[policy] else { return false }
        return rules(policy, group.key.direction).contains { rule in
          rule.peers.contains { peer in changed.contains { matches(peer, $0, policy.namespace) } }
            || (rule.ports.contains { if case .named = $0.destination { true } else { false } }
              && (rule.peers.isEmpty || rule.peers.contains { if case .block = $0 { true } else { false } }))
        }
      }
      if sees { dirtyGroups.insert(index) }
    }
  }

  private func matches(_ peer: NetworkPolicy.Peer, _ identity: IdentityIndex, _ namespace: String) -> Bool {
    guard case .pods(let namespaces, let pods) = peer, let key = identityKeys[identity] else { return false }
    // NP-4
    let isInNamespace = namespaces.map { $0.matches(key.namespaceLabels) } ?? (key.namespace == namespace)
    return isInNamespace && (pods?.matches(key.labels) ?? true)
  }

  // MARK: Groups

  private mutating func group(_ key: GroupKey) -> PolicyGroupIndex {
    if let known = groups[key] { return known }
    let index = freeGroups.popLast() ?? nextGroup
    if index == nextGroup { nextGroup += 1 }
    groups[key] = index
    groupRecords[index] = Group(key: key, pods: [], blocks: [])
    for policy in key.policies { groupsOfPolicy[policy, default: []].insert(index) }
    dirtyGroups.insert(index)
    return index
  }

  private mutating func dissolve(_ index: PolicyGroupIndex, _ tables: inout Tables, _ state: State) {
    guard let group = groupRecords[index] else { return }
    setBlocks(index, [], &tables, state)
    groupRecords[index] = nil
    groups[group.key] = nil
    for policy in group.key.policies {
      groupsOfPolicy[policy]?.remove(index)
      if groupsOfPolicy[policy]?.isEmpty == true { groupsOfPolicy[policy] = nil }
    }
    tables.setPolicyGroup(index, [], pods: [])
    freeGroups.append(index)
  }

  private func rules(_ policy: NetworkPolicy, _ direction: NetworkPolicy.Direction) -> [NetworkPolicy.Rule] {
    direction == .ingress ? policy.ingress : policy.egress
  }

  /// Writes what a group allows.
  private mutating func write(_ index: PolicyGroupIndex, _ tables: inout Tables, _ state: State) {
    guard let group = groupRecords[index] else { return }
    var blocks: Set<IPPrefix> = []
    for policy in group.key.policies.compactMap({ state.networkPolicies[$0] }) {
      for rule in rules(policy, group.key.direction) {
        for case .block(let block) in rule.peers { blocks.formUnion([block.cidr] + block.except) }
      }
    }
    setBlocks(index, blocks, &tables, state)
    tables.setPolicyGroup(index, entries(group.key, state), pods: group.pods.flatMap { pods[$0]?.addresses ?? [] })
  }

  /// Notes which blocks the rules of a group name. Blocks tell addresses apart: one that comes or goes cuts up those of
  /// other groups in another way, and these are written again while the block is there.
  private mutating func setBlocks(
    _ index: PolicyGroupIndex, _ wanted: Set<IPPrefix>, _ tables: inout Tables, _ state: State
  ) {
    guard let old = groupRecords[index]?.blocks, old != wanted else { return }
    groupRecords[index]?.blocks = wanted
    var changed: Set<IPPrefix> = []
    for block in wanted.subtracting(old) {
      blockUsers[block, default: 0] += 1
      if blockUsers[block] == 1 {
        tables.usePolicyBlock(block)
        changed.insert(block)
      }
    }
    var gone: Set<IPPrefix> = []
    for block in old.subtracting(wanted) {
      blockUsers[block, default: 1] -= 1
      if blockUsers[block] == 0 {
        blockUsers[block] = nil
        gone.insert(block)
      }
    }
    changed.formUnion(gone)
    guard !changed.isEmpty else { return }
    for (other, record) in groupRecords
    where other == index || record.blocks.contains(where: { mine in changed.contains { mine.contains($0) } }) {
      tables.setPolicyGroup(other, entries(record.key, state), pods: [])
    }
    for block in gone { tables.giveUpPolicyBlock(block) }
  }

  private func entries(_ group: GroupKey, _ state: State) -> Set<PolicyEntry> {
    var entries: Set<PolicyEntry> = []
    for policy in group.policies.compactMap({ state.networkPolicies[$0] }) {
      for rule in rules(policy, group.direction) { add(rule, policy.namespace, group, to: &entries) }
    }
    return entries
  }

  /// Adds what a rule allows (NP-3 to NP-5).
  private func add(
    _ rule: NetworkPolicy.Rule, _ namespace: String, _ group: GroupKey, to entries: inout Set<PolicyEntry>
  ) {
    var peers: [(peer: PolicyEntry.Peer, identity: IdentityIndex?)] = []
    if rule.peers.isEmpty { peers.append((.any, nil)) }
    for peer in rule.peers {
      switch peer {
      case .block(let block):
        for prefix in blockUsers.keys
        where block.cidr.contains(prefix) && !block.except.contains(where: { $0.contains(prefix) }) {
          peers.append((.block(prefix), nil))
        }
      case .pods(let namespaces, _):
        let candidates =
          namespaces == nil ? identitiesOfNamespace[namespace] ?? [] : Set(identityKeys.keys)
        for identity in candidates where matches(peer, identity, namespace) {
          peers.append((.identity(identity), identity))
        }
      }
    }
    if rule.ports.isEmpty {
      for (peer, _) in peers { entries.insert(PolicyEntry(peer)) }
      return
    }
    for port in rule.ports {
      let transport = port.protocol.number
      switch port.destination {
      case .any:
        for (peer, _) in peers { entries.insert(PolicyEntry(peer, transport: transport)) }
      case .range(let range):
        for (first, length) in PolicyEntry.cover(range) {
          for (peer, _) in peers {
            entries.insert(PolicyEntry(peer, transport: transport, port: first, length: length))
          }
        }
      case .named(let name):
        addNamed(name, port.protocol, peers, group, to: &entries)
      }
    }
  }

  /// A named port is what the destination calls so: for incoming rules the group's own pods, for outgoing ones each peer.
  private func addNamed(
    _ name: String, _ transport: TransportProtocol, _ peers: [(peer: PolicyEntry.Peer, identity: IdentityIndex?)],
    _ group: GroupKey, to entries: inout Set<PolicyEntry>
  ) {
    func numbers(_ ports: Set<NamedPort>) -> [UInt16] {
      ports.filter { $0.name == name && $0.transport == transport }.map(\.number)
    }
    if group.direction == .ingress {
      for number in numbers(group.ports) {
        for (peer, _) in peers {
          entries.insert(PolicyEntry(peer, transport: transport.number, port: number, length: 16))
        }
      }
      return
    }
    // Only pods have names for ports: of peers that are no pods, those pods count that are there.
    for (peer, identity) in peers {
      for candidate in identity.map({ [$0] }) ?? Array(identityKeys.keys) {
        for number in numbers(identityKeys[candidate]?.ports ?? []) {
          let member: PolicyEntry.Peer =
            if case .block(let block) = peer { .member(candidate, block) } else { .identity(candidate) }
          entries.insert(PolicyEntry(member, transport: transport.number, port: number, length: 16))
        }
      }
    }
  }
}
