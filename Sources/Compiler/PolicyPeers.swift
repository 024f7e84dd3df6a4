import Addresses
import Dataplane
import Model

/// Who is which of the peers that rules name: selectors are matched with identities, once for each pair that may match at
/// all, and blocks with each other.
struct PolicyPeers {
  /// What rules can see of a pod.
  struct Identity: Hashable {
    var namespace: String
    var labels: [String: String]
    var namespaceLabels: [String: String]
    /// NP-5: a named port is looked up on each destination pod.
    var ports: Set<NamedPort>
  }

  struct NamedPort: Hashable {
    var name: PortName
    var number: UInt16
  }

  struct PortName: Hashable {
    var name: String
    var transport: TransportProtocol
  }

  /// Pods that a rule names (NP-4).
  private struct Selector: Hashable {
    /// Where only the policy's own namespace is meant.
    var namespace: String?
    var namespaces: LabelSelector?
    var pods: LabelSelector?

    func matches(_ identity: Identity) -> Bool {
      let isInNamespace =
        namespace.map { $0 == identity.namespace } ?? namespaces?.matches(identity.namespaceLabels) ?? true
      return isInNamespace && (pods?.matches(identity.labels) ?? true)
    }

    /// Something that all of its pods have: what it is found by.
    var mark: Mark {
      if let namespace { return .namespace(namespace) }
      if let label = namespaces?.matchLabels.min(by: { $0.key < $1.key }) {
        return .namespaceLabel(label.key, label.value)
      }
      if let label = pods?.matchLabels.min(by: { $0.key < $1.key }) { return .label(label.key, label.value) }
      return .none
    }
  }

  private enum Mark: Hashable {
    case namespace(String)
    case namespaceLabel(String, String)
    case label(String, String)
    case none
  }

  private var identities = Numbering<Identity>()
  private var selectors = Numbering<Selector>()
  private var blocks = Numbering<NetworkPolicy.IPBlock>()
  private var names = Numbering<PortName>()

  private var selectorsOfMark: [Mark: Set<PeerIndex>] = [:]
  private var identitiesOfNamespace: [String: Set<IdentityIndex>] = [:]
  private var peers: [IdentityIndex: Set<PeerIndex>] = [:]
  private var ports: [IdentityIndex: [NamedPolicyPort]] = [:]
  /// The blocks and exceptions in use, with the number of blocks that name them.
  private var prefixes: [IPPrefix: Int] = [:]

  // What is noted for the next commit.
  private var newIdentities: Set<IdentityIndex> = []
  private var goneIdentities: Set<IdentityIndex> = []
  private var newSelectors: Set<PeerIndex> = []
  private var goneSelectors: Set<PeerIndex> = []
  private var newBlocks: Set<UInt32> = []
  private var goneBlocks: Set<UInt32> = []
  private var goneNames: Set<PortNameIndex> = []

  // MARK: Users

  mutating func take(_ identity: Identity) -> IdentityIndex {
    let (number, isNew) = identities.take(identity)
    guard isNew else { return number }
    newIdentities.insert(number)
    identitiesOfNamespace[identity.namespace, default: []].insert(number)
    ports[number] = identity.ports.map {
      NamedPolicyPort(transport: $0.name.transport.number, port: $0.number, name: names.take($0.name).number)
    }
    return number
  }

  mutating func release(identity: IdentityIndex) {
    if identities.release(identity) { goneIdentities.insert(identity) }
  }

  mutating func take(_ name: PortName) -> PortNameIndex { names.take(name).number }

  mutating func release(name: PortNameIndex) { if names.release(name) { goneNames.insert(name) } }

  /// `namespace`: that of the policy.
  mutating func take(_ peer: NetworkPolicy.Peer, namespace: String) -> PeerIndex {
    switch peer {
    case .pods(let namespaces, let pods):
      let selector = Selector(namespace: namespaces == nil ? namespace : nil, namespaces: namespaces, pods: pods)
      let (number, isNew) = selectors.take(selector)
      if isNew {
        newSelectors.insert(number)
        selectorsOfMark[selector.mark, default: []].insert(number)
      }
      return number
    case .block(let block):
      let (number, isNew) = blocks.take(block)
      if isNew { newBlocks.insert(number) }
      return .block(number)
    }
  }

  mutating func release(peer: PeerIndex) {
    if peer == .anyPeer { return }
    if peer.isBlock {
      let number = peer & ~PeerIndex.block(0)
      if blocks.release(number) { goneBlocks.insert(number) }
    } else if selectors.release(peer) {
      goneSelectors.insert(peer)
    }
  }

  // MARK: Commit

  /// Writes who is which of the peers that are new, before rules name them.
  mutating func publish(to tables: inout Tables) {
    var touched = newIdentities
    for number in newSelectors {
      guard let selector = selectors.keys[number] else { continue }
      for identity in candidates(selector) where !newIdentities.contains(identity) {
        guard let key = identities.keys[identity], selector.matches(key) else { continue }
        peers[identity, default: []].insert(number)
        touched.insert(identity)
      }
    }
    for identity in newIdentities { peers[identity] = identities.keys[identity].map(peers(of:)) }
    for identity in touched.sorted() { write(identity, &tables) }
    newSelectors.removeAll()
    newIdentities.removeAll()
    if newBlocks.isEmpty { return }
    var changed: Set<IPPrefix> = []
    let added = newBlocks.compactMap { blocks.keys[$0] }
    for block in added {
      for prefix in Set([block.cidr] + block.except) { prefixes[prefix, default: 0] += 1 }
    }
    for prefix in prefixes.keys where added.contains(where: { $0.cidr.contains(prefix) }) { changed.insert(prefix) }
    newBlocks.removeAll()
    write(changed, &tables)
  }

  /// Takes out what nobody uses any more, after the last rule that named it.
  mutating func retire(from tables: inout Tables) {
    retireSelectors(&tables)
    for identity in goneIdentities where !identities.isUsed(identity) {
      guard let key = identities.keys[identity] else { continue }
      tables.setPolicyIdentity(identity, peers: [], ports: [])
      for port in ports.removeValue(forKey: identity) ?? [] { release(name: port.name) }
      peers[identity] = nil
      identitiesOfNamespace[key.namespace]?.remove(identity)
      if identitiesOfNamespace[key.namespace]?.isEmpty == true { identitiesOfNamespace[key.namespace] = nil }
      identities.forget(identity)
    }
    goneIdentities.removeAll()
    retireBlocks(&tables)
    for name in goneNames { names.forget(name) }
    goneNames.removeAll()
  }

  private mutating func retireSelectors(_ tables: inout Tables) {
    var touched: Set<IdentityIndex> = []
    for number in goneSelectors where !selectors.isUsed(number) {
      guard let selector = selectors.keys[number] else { continue }
      for identity in candidates(selector) where peers[identity]?.remove(number) != nil { touched.insert(identity) }
      selectorsOfMark[selector.mark]?.remove(number)
      if selectorsOfMark[selector.mark]?.isEmpty == true { selectorsOfMark[selector.mark] = nil }
      selectors.forget(number)
    }
    goneSelectors.removeAll()
    for identity in touched.sorted() { write(identity, &tables) }
  }

  private mutating func retireBlocks(_ tables: inout Tables) {
    if goneBlocks.isEmpty { return }
    var removed: [NetworkPolicy.IPBlock] = []
    for number in goneBlocks where !blocks.isUsed(number) {
      if let block = blocks.keys[number] { removed.append(block) }
      blocks.forget(number)
    }
    goneBlocks.removeAll()
    for block in removed {
      for prefix in Set([block.cidr] + block.except) {
        prefixes[prefix, default: 1] -= 1
        guard prefixes[prefix] == 0 else { continue }
        prefixes[prefix] = nil
        tables.removePolicyBlock(prefix)
      }
    }
    write(Set(prefixes.keys.filter { prefix in removed.contains { $0.cidr.contains(prefix) } }), &tables)
  }

  /// The identities that a selector may match.
  private func candidates(_ selector: Selector) -> [IdentityIndex] {
    if let namespace = selector.namespace { return Array(identitiesOfNamespace[namespace] ?? []) }
    return identitiesOfNamespace.values.flatMap { $0 }
  }

  /// The selectors that match an identity: only those are looked at that share a mark with it.
  private func peers(of identity: Identity) -> Set<PeerIndex> {
    var marks: [Mark] = [.namespace(identity.namespace), .none]
    marks += identity.namespaceLabels.map { .namespaceLabel($0.key, $0.value) }
    marks += identity.labels.map { .label($0.key, $0.value) }
    var found: Set<PeerIndex> = []
    for mark in marks {
      for number in selectorsOfMark[mark] ?? [] where selectors.keys[number]?.matches(identity) == true {
        found.insert(number)
      }
    }
    return found
  }

  private func write(_ identity: IdentityIndex, _ tables: inout Tables) {
    tables.setPolicyIdentity(identity, peers: peers[identity] ?? [], ports: ports[identity] ?? [])
  }

  /// Writes which blocks hold the addresses of these prefixes: a block holds those of its exceptions no more than those
  /// beside it (NP-4).
  private func write(_ changed: Set<IPPrefix>, _ tables: inout Tables) {
    for prefix in changed.sorted(by: { ($0.address, $0.length) < ($1.address, $1.length) }) {
      let holders = blocks.keys.filter { _, block in
        block.cidr.contains(prefix) && !block.except.contains { $0.contains(prefix) }
      }
      tables.setPolicyBlock(prefix, peers: holders.keys.map { PeerIndex.block($0) })
    }
  }
}
