import CEBPF
import Dataplane

/// What sets of rules permit peers.
extension PolicyMirror {
  /// Writes what new sets permit all peers, and all sets new peers.
  mutating func writeRules(_ writes: inout PolicyWrites) throws(MapsAreFull) {
    for set in newSets {
      try permit(RuleKey(set: set, identity: 0, block: 0), &writes)
      guard let rules = sets[set]?.rules else { continue }
      var subjects: Set<Subject> = []
      for peer in rules.keys { subjects.formUnion(subjectsOfPeer[peer] ?? []) }
      for subject in subjects { try permit(set, subject, &writes) }
    }
    for subject in newIdentities.map(Subject.identity) + newBlocks.map(Subject.block) {
      var concerned: Set<UInt32> = []
      for peer in peers(of: subject) { concerned.formUnion(setsOfPeer[peer] ?? []) }
      if case .identity = subject { concerned.formUnion(pairSets) }
      for set in concerned where !newSets.contains(set) { try permit(set, subject, &writes) }
    }
  }

  private func peers(of subject: Subject) -> [PeerIndex] {
    switch subject {
    case .identity(let place):
      guard let contents = identities[place]?.contents else { return [] }
      return contents.peers + (contents.ports.isEmpty ? [] : [.anyPeer])
    case .block(let place): return blocks[place]?.peers ?? []
    }
  }

  private mutating func permit(_ set: UInt32, _ subject: Subject, _ writes: inout PolicyWrites) throws(MapsAreFull) {
    let asksForPairs = set & KALSAE_POLICY_PAIRS != 0
    switch subject {
    case .identity(let identity):
      try permit(RuleKey(set: set, identity: identity, block: 0), &writes)
      guard asksForPairs, identities[identity]?.contents.ports.isEmpty == false else { return }
      for block in blocks.keys { try permit(RuleKey(set: set, identity: identity, block: block), &writes) }
    case .block(let block):
      try permit(RuleKey(set: set, identity: 0, block: block), &writes)
      guard asksForPairs else { return }
      for (identity, record) in identities where !record.contents.ports.isEmpty {
        try permit(RuleKey(set: set, identity: identity, block: block), &writes)
      }
    }
  }

  private mutating func permit(_ key: RuleKey, _ writes: inout PolicyWrites) throws(MapsAreFull) {
    guard permits[key] == nil, let allowed = allowed(key) else { return }
    let word = try word(allowed, &writes)
    permits[key] = word
    sets[key.set]?.entries.insert(key)
    if key.identity != 0 { entriesOf[.identity(key.identity), default: []].insert(key) }
    if key.block != 0 { entriesOf[.block(key.block), default: []].insert(key) }
    writes.rules.set(key.record, word)
  }

  /// What a set permits a peer, beyond what other keys do; nil: nothing.
  private func allowed(_ key: RuleKey) -> PolicyPorts? {
    guard let set = sets[key.set] else { return nil }
    let identity = identities[key.identity]?.contents
    var peers: [PeerIndex] = []
    if key.block != 0 { peers = blocks[key.block]?.peers ?? [] } else if let identity { peers = identity.peers }
    if key.identity == 0, key.block == 0 { peers = [.anyPeer] }
    let own = identities[set.key.receiver]?.contents.ports ?? []
    var result = PolicyPorts()
    for peer in peers {
      guard let ports = set.rules[peer] else { continue }
      // Of a block and an identity only what the one alone does not say.
      if key.identity == 0 || key.block == 0 { result.formUnion(CollectionOfOne(ports.withoutNames)) }
      result.formUnion(named(ports, set.key.isEgress ? identity?.ports ?? [] : own))
    }
    if key.identity != 0, key.block == 0, set.key.isEgress, let ports = set.rules[.anyPeer] {
      result.formUnion(named(ports, identity?.ports ?? []))
    }
    return result.isAny || !result.ranges.isEmpty ? result : nil
  }

  /// What somebody who calls ports so has of the names that are allowed.
  private func named(_ allowed: PolicyPorts, _ ports: [NamedPolicyPort]) -> [PolicyPorts] {
    if allowed.names.isEmpty { return [] }
    return ports.filter { allowed.names.contains($0.name) }.map { .ports($0.transport, $0.port...$0.port) }
  }

  /// The word that says which ports are allowed.
  private mutating func word(_ ports: PolicyPorts, _ writes: inout PolicyWrites) throws(MapsAreFull) -> UInt64 {
    func word(_ transport: UInt8, _ port: UInt16) -> UInt64 { UInt64(transport) << 16 | UInt64(port) }
    if ports.isAny { return UInt64(KALSAE_PERMIT_ANY) << UInt64(KALSAE_PERMIT_SHIFT) }
    if ports.ranges.count == 1 {
      let range = ports.ranges[0]
      return UInt64(KALSAE_PERMIT_RANGE) << UInt64(KALSAE_PERMIT_SHIFT) | word(range.transport, range.last) << 24
        | word(range.transport, range.first)
    }
    let place: UInt32
    if let known = rangeLists[ports.ranges] {
      place = known.place
    } else {
      place = try runs.take(ports.ranges.count)
      for (offset, range) in ports.ranges.enumerated() {
        writes.ranges.set(
          place + UInt32(offset), word(range.transport, range.last) << 32 | word(range.transport, range.first))
      }
      rangeLists[ports.ranges] = RangeList(place: place, users: 0)
      listOfPlace[place] = ports.ranges
    }
    rangeLists[ports.ranges]?.users += 1
    return UInt64(KALSAE_PERMIT_LIST) << UInt64(KALSAE_PERMIT_SHIFT) | UInt64(ports.ranges.count) << 32 | UInt64(place)
  }

  // MARK: What nobody uses any more

  mutating func forgetUnused() {
    for place in touchedSets {
      guard let set = sets[place], set.users == 0 else { continue }
      for entry in set.entries { forget(entry) }
      for peer in set.rules.keys { setsOfPeer[peer]?.remove(place) }
      if currentSet[set.key] == place {
        currentSet[set.key] = nil
        setsOfGroup[set.key.group]?.remove(set.key)
      }
      sets[place] = nil
      pairSets.remove(place)
      setPlaces.give(back: place & ~KALSAE_POLICY_PAIRS)
    }
    for place in touchedIdentities {
      guard let identity = identities[place], identity.users == 0 else { continue }
      forget(.identity(place), identity.contents.peers + [.anyPeer])
      if currentIdentity[identity.index] == place { currentIdentity[identity.index] = nil }
      identities[place] = nil
      identityPlaces.give(back: place)
    }
    for place in oldBlocks {
      guard let block = blocks.removeValue(forKey: place) else { continue }
      forget(.block(place), block.peers)
      blockPlaces.give(back: place)
    }
  }

  private mutating func forget(_ subject: Subject, _ peers: [PeerIndex]) {
    for peer in peers { subjectsOfPeer[peer]?.remove(subject) }
    for key in entriesOf.removeValue(forKey: subject) ?? [] { forget(key) }
  }

  private mutating func forget(_ key: RuleKey) {
    guard let word = permits.removeValue(forKey: key) else { return }
    left.append(key)
    sets[key.set]?.entries.remove(key)
    if key.identity != 0 { entriesOf[.identity(key.identity)]?.remove(key) }
    if key.block != 0 { entriesOf[.block(key.block)]?.remove(key) }
    guard word >> UInt64(KALSAE_PERMIT_SHIFT) == UInt64(KALSAE_PERMIT_LIST) else { return }
    let place = UInt32(truncatingIfNeeded: word)
    guard let ranges = listOfPlace[place] else { return }
    rangeLists[ranges]?.users -= 1
    guard rangeLists[ranges]?.users == 0 else { return }
    rangeLists[ranges] = nil
    listOfPlace[place] = nil
    runs.give(back: place, ranges.count)
  }
}

extension PolicyPorts {
  /// What is allowed whoever the destination is.
  fileprivate var withoutNames: PolicyPorts {
    if isAny || names.isEmpty { return self }
    var ports = PolicyPorts()
    ports.formUnion(ranges.map { .ports($0.transport, $0.first...$0.last) })
    return ports
  }
}
