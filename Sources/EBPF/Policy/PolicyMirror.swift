import Addresses
import CEBPF
import Dataplane

/// Where the policy table lies in the maps. Takes changes of the table and says what is to be written: work is in
/// proportion to what changed. Knows nothing of the kernel.
///
/// For each set of rules and each peer that it concerns (an identity, a block) the maps hold what the one permits the
/// other, ready made. A set, an identity or a block that changes gets a new number, with all that belongs to it, before
/// anything leads there; so whoever decides meanwhile sees the old or the new.
struct PolicyMirror {
  /// How much room the maps have.
  struct Capacity: Equatable {
    var addresses = 1 << 12
    var pods = 1 << 12
    var blocks = 1 << 10
    var rules = 1 << 14
    var ranges = 1 << 12

    init() {}

    /// Room for twice as much.
    var doubled: Capacity {
      var more = self
      more.addresses *= 2
      more.pods *= 2
      more.blocks *= 2
      more.rules *= 2
      more.ranges *= 2
      return more
    }
  }

  /// A group of rules as one direction of some pods needs it.
  struct SetKey: Hashable {
    var group: PolicyGroupIndex
    var isEgress: Bool
    /// Whose names ports have, where rules name some; 0 where that is the peer's business, or nobody's.
    var receiver: UInt32
  }

  struct RuleSet {
    var key: SetKey
    var rules: [PeerIndex: PolicyPorts]
    var users = 0
    var entries: Set<RuleKey> = []
  }

  struct Identity {
    var index: IdentityIndex
    var contents: PolicyChanges.Identity
    var users = 0
  }

  struct Block {
    var prefix: IPPrefix
    var peers: [PeerIndex]
  }

  private struct InstalledPod: Equatable {
    var place: UInt32
    var identity: UInt32
    var egress: UInt32
    var ingress: UInt32
    var node: UInt32
    var interface: UInt32
  }

  struct RangeList {
    var place: UInt32
    var users: Int
  }

  // The table.
  private var identityContents: [IdentityIndex: PolicyChanges.Identity] = [:]
  private var groupRules: [PolicyGroupIndex: [PeerIndex: PolicyPorts]] = [:]
  private var podStates: [IPAddress: PolicyChanges.Pod] = [:]
  private var owners: [IPAddress: PolicyChanges.Owner] = [:]
  private var podsOfIdentity: [IdentityIndex: Set<IPAddress>] = [:]
  private var podsOfGroup: [PolicyGroupIndex: Set<IPAddress>] = [:]
  private var interfaces: [PortIndex: Int32] = [:]

  // What of it lies in the maps, by place.
  var sets: [UInt32: RuleSet] = [:]
  var identities: [UInt32: Identity] = [:]
  var blocks: [UInt32: Block] = [:]
  private var pods: [IPAddress: InstalledPod] = [:]
  private var addressWords: [IPAddress: UInt64] = [:]
  var permits: [RuleKey: UInt64] = [:]
  var rangeLists: [[PolicyPorts.Range]: RangeList] = [:]
  var listOfPlace: [UInt32: [PolicyPorts.Range]] = [:]
  var currentSet: [SetKey: UInt32] = [:]
  var currentIdentity: [IdentityIndex: UInt32] = [:]
  private var currentBlock: [IPPrefix: UInt32] = [:]
  var setsOfGroup: [PolicyGroupIndex: Set<SetKey>] = [:]
  var pairSets: Set<UInt32> = []
  var setsOfPeer: [PeerIndex: Set<UInt32>] = [:]
  var subjectsOfPeer: [PeerIndex: Set<Subject>] = [:]
  var entriesOf: [Subject: Set<RuleKey>] = [:]

  enum Subject: Hashable {
    case identity(UInt32)
    case block(UInt32)
  }

  struct RuleKey: Hashable {
    var set: UInt32
    var identity: UInt32
    var block: UInt32
    var record: kalsae_policy_rule_key {
      kalsae_policy_rule_key(set: set, identity: identity, block: block, zero: 0)
    }
  }

  var setPlaces: Places
  var identityPlaces: Places
  var blockPlaces: Places
  private var podPlaces: Places
  var runs: Runs
  private var capacity: Capacity
  /// Rules that nothing leads to any more; programs may still look at them.
  var left: [RuleKey] = []

  // Of the change that is being applied.
  var newSets: Set<UInt32> = []
  var newIdentities: [UInt32] = []
  var newBlocks: [UInt32] = []
  var oldBlocks: [UInt32] = []
  var touchedSets: Set<UInt32> = []
  var touchedIdentities: Set<UInt32> = []

  init(capacity: Capacity) {
    self.capacity = capacity
    // Numbers without a map of their own.
    setPlaces = Places(capacity: 1 << 30)
    identityPlaces = Places(capacity: 1 << 30)
    blockPlaces = Places(capacity: 1 << 30)
    podPlaces = Places(capacity: capacity.pods)
    runs = Runs(capacity: capacity.ranges)
  }

  /// Makes use of more room, where the maps have it.
  mutating func widen(to capacity: Capacity) {
    self.capacity = capacity
    podPlaces.capacity = capacity.pods
    runs.capacity = capacity.ranges
  }

  /// Whether something was given up that programs may still look at.
  var isWaiting: Bool { !left.isEmpty || podPlaces.isWaiting || runs.isWaiting }

  /// Has what was given up be used again, and says which rules are to be removed. Only when all programs that were running
  /// then have ended.
  mutating func release() -> [kalsae_policy_rule_key] {
    setPlaces.release()
    identityPlaces.release()
    blockPlaces.release()
    podPlaces.release()
    runs.release()
    defer { left.removeAll() }
    return left.map(\.record)
  }

  var ruleCount: Int { permits.count }
  var podCount: Int { pods.count }

  /// What is to be written for a change. `devices`: the pods' ports that have a device; nil: as before.
  mutating func apply(
    _ changes: PolicyChanges, devices: [PortIndex: Int32]? = nil
  ) throws(MapsAreFull) -> PolicyWrites {
    var writes = PolicyWrites()
    var touched = take(changes)
    if let devices, devices != interfaces {
      for (address, pod) in podStates {
        guard let port = pod.port, devices[port] != interfaces[port] else { continue }
        touched.insert(address)
      }
      interfaces = devices
    }
    defer {
      newSets = []
      newIdentities = []
      newBlocks = []
      oldBlocks = []
      touchedSets = []
      touchedIdentities = []
    }
    for (prefix, peers) in changes.blocks { try replace(prefix, peers, &writes) }
    // All that is needed anew, before anything is given up.
    var leads: [(address: IPAddress, pod: InstalledPod)] = []
    for address in touched.sorted() {
      guard let state = podStates[address] else { continue }
      leads.append((address, try place(state, pods[address], &writes)))
    }
    try writeRules(&writes)
    for (address, pod) in leads {
      use(pod, by: 1)
      if let old = pods.updateValue(pod, forKey: address) { giveUp(old, for: pod) }
    }
    for address in touched where podStates[address] == nil {
      if let old = pods.removeValue(forKey: address) { giveUp(old, for: nil) }
    }
    for address in touched.union(changes.owners.keys) { lead(address, &writes) }
    forgetUnused()
    guard permits.count + left.count <= capacity.rules, addressWords.count <= capacity.addresses,
      blocks.count <= capacity.blocks
    else { throw MapsAreFull() }
    return writes
  }

  /// Notes what the table holds now. Returns the pods that this concerns.
  private mutating func take(_ changes: PolicyChanges) -> Set<IPAddress> {
    var touched = Set(changes.pods.keys)
    for (index, contents) in changes.identities where identityContents[index] != contents {
      identityContents[index] = contents
      currentIdentity[index] = nil
      // Names of ports are in the sets of those who have them.
      for address in podsOfIdentity[index] ?? [] { touched.insert(address) }
    }
    for (index, rules) in changes.groups where groupRules[index] != rules {
      groupRules[index] = rules
      for key in setsOfGroup.removeValue(forKey: index) ?? [] { currentSet[key] = nil }
      for address in podsOfGroup[index] ?? [] { touched.insert(address) }
    }
    for (address, pod) in changes.pods {
      if let old = podStates[address]?.policy {
        podsOfIdentity[old.identity]?.remove(address)
        podsOfGroup[old.egress]?.remove(address)
        podsOfGroup[old.ingress]?.remove(address)
      }
      podStates[address] = pod
      guard let policy = pod?.policy else { continue }
      podsOfIdentity[policy.identity, default: []].insert(address)
      podsOfGroup[policy.egress, default: []].insert(address)
      podsOfGroup[policy.ingress, default: []].insert(address)
    }
    for (address, owner) in changes.owners { owners[address] = owner.isNobody ? nil : owner }
    return touched
  }

  // MARK: Pods

  private mutating func place(
    _ state: PolicyChanges.Pod, _ old: InstalledPod?, _ writes: inout PolicyWrites
  ) throws(MapsAreFull) -> InstalledPod {
    let interface = state.port.flatMap { interfaces[$0] } ?? 0
    let identity = try identity(state.policy.identity)
    // Rules are enforced where the pod is.
    let isHere = interface != 0
    var pod = InstalledPod(
      place: old?.place ?? 0, identity: identity,
      egress: isHere ? try ruleSet(state.policy.egress, isEgress: true, of: identity) : 0,
      ingress: isHere ? try ruleSet(state.policy.ingress, isEgress: false, of: identity) : 0,
      node: state.policy.node, interface: UInt32(interface))
    if pod == old { return pod }
    pod.place = try podPlaces.take()
    writes.pods.set(
      pod.place,
      kalsae_policy_pod(
        identity: pod.identity, egress: pod.egress, ingress: pod.ingress, node: pod.node, interface: pod.interface,
        zero: 0))
    return pod
  }

  /// The place of a pod's identity; 0: it has none.
  private mutating func identity(_ index: IdentityIndex) throws(MapsAreFull) -> UInt32 {
    if index == 0 { return 0 }
    if let known = currentIdentity[index] { return known }
    let place = try identityPlaces.take()
    let contents = identityContents[index] ?? PolicyChanges.Identity()
    identities[place] = Identity(index: index, contents: contents)
    currentIdentity[index] = place
    for peer in contents.peers { subjectsOfPeer[peer, default: []].insert(.identity(place)) }
    // Rules for everybody may ask for names.
    if !contents.ports.isEmpty { subjectsOfPeer[.anyPeer, default: []].insert(.identity(place)) }
    newIdentities.append(place)
    touchedIdentities.insert(place)
    return place
  }

  /// The number of the set of rules that a group is for pods of an identity; 0: none.
  private mutating func ruleSet(
    _ group: PolicyGroupIndex, isEgress: Bool, of identity: UInt32
  ) throws(MapsAreFull) -> UInt32 {
    if group == 0 { return 0 }
    let rules = groupRules[group] ?? [:]
    let hasNames = rules.values.contains { !$0.names.isEmpty }
    let key = SetKey(group: group, isEgress: isEgress, receiver: hasNames && !isEgress ? identity : 0)
    if let known = currentSet[key] { return known }
    var place = try setPlaces.take()
    // NP-5: who is in the block decides, and what it calls its ports.
    if isEgress, rules.contains(where: { $0.key.isBlock && !$0.value.names.isEmpty }) { place |= KALSAE_POLICY_PAIRS }
    if place & KALSAE_POLICY_PAIRS != 0 { pairSets.insert(place) }
    sets[place] = RuleSet(key: key, rules: rules)
    currentSet[key] = place
    setsOfGroup[group, default: []].insert(key)
    for peer in rules.keys { setsOfPeer[peer, default: []].insert(place) }
    newSets.insert(place)
    touchedSets.insert(place)
    return place
  }

  private mutating func use(_ pod: InstalledPod, by change: Int) {
    identities[pod.identity]?.users += change
    sets[pod.egress]?.users += change
    sets[pod.ingress]?.users += change
  }

  private mutating func giveUp(_ pod: InstalledPod, for other: InstalledPod?) {
    use(pod, by: -1)
    touchedSets.formUnion([pod.egress, pod.ingress])
    touchedIdentities.insert(pod.identity)
    if pod.place != other?.place { podPlaces.give(back: pod.place) }
  }

  /// Leads an address to what it is now.
  private mutating func lead(_ address: IPAddress, _ writes: inout PolicyWrites) {
    var word = UInt64(pods[address]?.place ?? 0)
    if let owner = owners[address] {
      word |= UInt64(owner.node & KALSAE_POLICY_NODES) << UInt64(KALSAE_POLICY_NODE_SHIFT)
      if owner.isGateway { word |= 1 << 62 }
      if owner.isOwn { word |= 1 << 63 }
    }
    if addressWords[address] ?? 0 == word { return }
    if word == 0 {
      addressWords[address] = nil
      writes.removedAddresses.append(kalsae_address(address))
    } else {
      addressWords[address] = word
      writes.addresses.set(kalsae_address(address), word)
    }
  }

  // MARK: Blocks

  private mutating func replace(
    _ prefix: IPPrefix, _ peers: [PeerIndex]?, _ writes: inout PolicyWrites
  ) throws(MapsAreFull) {
    let old = currentBlock[prefix]
    if let old, blocks[old]?.peers == peers { return }
    if let old { oldBlocks.append(old) }
    guard let peers else {
      if old != nil { writes.removedBlocks.append(kalsae_policy_block_key(prefix)) }
      currentBlock[prefix] = nil
      return
    }
    let place = try blockPlaces.take()
    blocks[place] = Block(prefix: prefix, peers: peers)
    currentBlock[prefix] = place
    for peer in peers { subjectsOfPeer[peer, default: []].insert(.block(place)) }
    newBlocks.append(place)
    writes.blocks.set(kalsae_policy_block_key(prefix), place)
  }
}

extension kalsae_policy_block_key {
  init(_ prefix: IPPrefix) {
    self.init(
      length: 32 + UInt32(prefix.length) + (prefix.family == .ipv4 ? 96 : 0), family: prefix.family == .ipv4 ? 4 : 6,
      address: kalsae_address(prefix.address))
  }
}
