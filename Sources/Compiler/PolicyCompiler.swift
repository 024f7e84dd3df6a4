import Addresses
import Dataplane
import Model

/// Compiles network policies. Pods of this node that the same policies select share a group of rules; who the peers of
/// rules are is kept apart from the rules (`PolicyPeers`), so that a pod that comes or goes touches none.
struct PolicyCompiler {
  private let node: String
  /// Whether the policies of all nodes' pods are compiled, for those who explain, or the own node's alone.
  private let explains: Bool

  private var peers = PolicyPeers()

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

  // Policies, and the groups of rules that are made of them.
  private var policiesOfNamespace: [String: Set<ObjectKey>] = [:]
  /// Those that some group is made of.
  private var compiled: [ObjectKey: CompiledPolicy] = [:]
  private var groups = Numbering<GroupKey>()
  private var podsOfGroup: [PolicyGroupIndex: Set<ObjectKey>] = [:]
  private var groupsOfPolicy: [ObjectKey: Set<PolicyGroupIndex>] = [:]

  // What is noted for the next commit.
  private var dirtyPods: Set<ObjectKey> = []
  private var dirtyNodes: Set<ObjectKey> = []
  private var dirtyPolicies: Set<ObjectKey> = []
  private var dirtyGroups: Set<PolicyGroupIndex> = []
  /// Groups that may have no pods any more.
  private var leftGroups: Set<PolicyGroupIndex> = []

  init(node: String, explains: Bool) {
    self.node = node
    self.explains = explains
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
  }

  /// What a policy allows, and the numbers that it uses for that.
  private struct CompiledPolicy {
    var rules: [NetworkPolicy.Direction: [(peer: PeerIndex, ports: PolicyPorts)]] = [:]
    var peers: [PeerIndex] = []
    var names: [PortNameIndex] = []
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
      if policiesOfNamespace[policy.namespace]?.isEmpty == true { policiesOfNamespace[policy.namespace] = nil }
    }
    // Whom it selects may have changed, and what it says.
    for pod in podsOfNamespace[policy.namespace] ?? [] where explains || pods[pod]?.isLocal == true {
      dirtyPods.insert(pod)
    }
    dirtyPolicies.insert(policy)
  }

  // MARK: Commit

  mutating func commit(to tables: inout Tables, _ state: State) {
    for key in dirtyNodes {
      setNodeAddresses(key, node: key.name, state.nodes[key].map(NodeCompiler.addresses) ?? [], &tables)
    }
    dirtyNodes.removeAll(keepingCapacity: true)
    guard !dirtyPods.isEmpty || !dirtyPolicies.isEmpty else { return }
    for policy in dirtyPolicies.sorted() where groupsOfPolicy[policy] != nil {
      compile(policy, state)
      dirtyGroups.formUnion(groupsOfPolicy[policy] ?? [])
    }
    dirtyPolicies.removeAll()
    var changes: [(ObjectKey, PodEntry)] = []
    for key in dirtyPods.sorted(by: { ($0.namespace, $0.name) < ($1.namespace, $1.name) }) {
      if let entry = classify(key, state, &tables) { changes.append((key, entry)) }
    }
    dirtyPods.removeAll()
    // Rules before those who are subject to them: a pod is never without the rules that isolate it.
    peers.publish(to: &tables)
    for group in dirtyGroups.sorted() { write(group, &tables) }
    dirtyGroups.removeAll()
    for (key, entry) in changes { install(key, entry, &tables) }
    for group in leftGroups where podsOfGroup[group]?.isEmpty == true { dissolve(group, &tables) }
    leftGroups.removeAll()
    peers.retire(from: &tables)
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
    let identity = peers.take(
      PolicyPeers.Identity(
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
        let group = group(GroupKey(direction: direction, policies: policies), state)
        if direction == .ingress { entry.ingress = group } else { entry.egress = group }
      }
    }
    return entry
  }

  /// Of several ports of a name and protocol the first counts.
  private func namedPorts(_ pod: Pod) -> Set<PolicyPeers.NamedPort> {
    var ports: [PolicyPeers.PortName: UInt16] = [:]
    for port in pod.ports {
      guard let name = port.name.map({ PolicyPeers.PortName(name: $0, transport: port.protocol) }), ports[name] == nil
      else { continue }
      ports[name] = port.number
    }
    return Set(ports.map { PolicyPeers.NamedPort(name: $0.key, number: $0.value) })
  }

  private func namespaceLabels(_ name: String, _ state: State) -> [String: String] {
    state.namespaces[ObjectKey(.namespace, name: name)]?.metadata.labels ?? ["kubernetes.io/metadata.name": name]
  }

  private mutating func install(_ key: ObjectKey, _ entry: PodEntry, _ tables: inout Tables) {
    let old = pods[key]
    pods[key] = entry
    for group in [entry.egress, entry.ingress] where group != 0 { podsOfGroup[group]?.insert(key) }
    if let old {
      for group in [old.egress, old.ingress] where group != 0 && group != entry.egress && group != entry.ingress {
        leave(group, key)
      }
      peers.release(identity: old.identity)
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
    peers.release(identity: old.identity)
    podsOfNamespace[key.namespace]?.remove(key)
    if podsOfNamespace[key.namespace]?.isEmpty == true { podsOfNamespace[key.namespace] = nil }
  }

  private mutating func leave(_ group: PolicyGroupIndex, _ key: ObjectKey) {
    podsOfGroup[group]?.remove(key)
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

  // MARK: Groups

  private mutating func group(_ key: GroupKey, _ state: State) -> PolicyGroupIndex {
    if let known = groups[key] { return known }
    let index = groups.take(key).number
    podsOfGroup[index] = []
    for policy in key.policies {
      groupsOfPolicy[policy, default: []].insert(index)
      if compiled[policy] == nil { compile(policy, state) }
    }
    dirtyGroups.insert(index)
    return index
  }

  private mutating func dissolve(_ index: PolicyGroupIndex, _ tables: inout Tables) {
    guard let key = groups.keys[index] else { return }
    podsOfGroup[index] = nil
    for policy in key.policies {
      groupsOfPolicy[policy]?.remove(index)
      guard groupsOfPolicy[policy]?.isEmpty == true else { continue }
      groupsOfPolicy[policy] = nil
      if let old = compiled.removeValue(forKey: policy) { giveUp(old) }
    }
    tables.setPolicyGroup(index, [:], pods: [])
    _ = groups.release(index)
    groups.forget(index)
  }

  /// Writes what a group allows: policies add up (NP-1).
  private func write(_ index: PolicyGroupIndex, _ tables: inout Tables) {
    guard let key = groups.keys[index] else { return }
    var parts: [PeerIndex: [PolicyPorts]] = [:]
    for policy in key.policies {
      for (peer, ports) in compiled[policy]?.rules[key.direction] ?? [] { parts[peer, default: []].append(ports) }
    }
    let rules = parts.mapValues { parts in
      var ports = PolicyPorts()
      ports.formUnion(parts)
      return ports
    }
    tables.setPolicyGroup(index, rules, pods: (podsOfGroup[index] ?? []).flatMap { pods[$0]?.addresses ?? [] })
  }

  // MARK: Policies

  /// Finds out what a policy allows, and gives up what it used before.
  private mutating func compile(_ key: ObjectKey, _ state: State) {
    let old = compiled[key]
    var new = CompiledPolicy()
    if let policy = state.networkPolicies[key] {
      for (direction, rules) in [(NetworkPolicy.Direction.ingress, policy.ingress), (.egress, policy.egress)] {
        for rule in rules { add(rule, direction, policy.namespace, to: &new) }
      }
    }
    compiled[key] = new
    if let old { giveUp(old) }
  }

  /// Adds what a rule allows (NP-3 to NP-5).
  private mutating func add(
    _ rule: NetworkPolicy.Rule, _ direction: NetworkPolicy.Direction, _ namespace: String,
    to policy: inout CompiledPolicy
  ) {
    var allowed = rule.ports.isEmpty ? PolicyPorts.any : PolicyPorts()
    var parts: [PolicyPorts] = []
    for port in rule.ports {
      switch port.destination {
      case .any: parts.append(.ports(port.protocol.number))
      case .range(let range): parts.append(.ports(port.protocol.number, range))
      case .named(let name):
        let number = peers.take(PolicyPeers.PortName(name: name, transport: port.protocol))
        policy.names.append(number)
        parts.append(.named(number))
      }
    }
    allowed.formUnion(parts)
    if rule.peers.isEmpty { policy.rules[direction, default: []].append((.anyPeer, allowed)) }
    for peer in rule.peers {
      let number = peers.take(peer, namespace: namespace)
      policy.peers.append(number)
      policy.rules[direction, default: []].append((number, allowed))
    }
  }

  private mutating func giveUp(_ policy: CompiledPolicy) {
    for peer in policy.peers { peers.release(peer: peer) }
    for name in policy.names { peers.release(name: name) }
  }
}
