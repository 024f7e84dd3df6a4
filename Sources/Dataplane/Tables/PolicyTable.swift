import Addresses

/// Network policy: who may talk to whom.
///
/// Rules name peers: what a selector selects, blocks of addresses. For each set of pods that no rule can tell apart (an
/// identity) the table lists the peers that they are; for each block in use the peers that its addresses are; for each
/// group of rules the peers that it lets through, with the ports. Whether a group allows an address is whether the list of
/// the one and that of the other meet: the cost grows with the shorter of the two, that is with the rules for one pod, not
/// with the number of policies or pods; and a pod that comes or goes touches no rule. 8 octets a peer of a group, 4 a peer
/// of an identity or block, 32 a pod's address.
struct PolicyTable: ~Copyable {
  struct PodRecord: BitwiseCopyable {
    var identity: IdentityIndex
    var egress: PolicyGroupIndex
    var ingress: PolicyGroupIndex
    var node: UInt32
    /// Counts changes of what is allowed to the pod.
    var generation: UInt32
  }

  /// A list of peers, in order.
  struct PeerList: BitwiseCopyable {
    var place: UInt32
    var count: UInt32
  }

  struct IdentityRecord: BitwiseCopyable {
    var peers: PeerList
    /// The named ports: protocol and port in one word, then the name.
    var ports: PeerList
  }

  struct GroupRecord: BitwiseCopyable {
    /// The ports that everybody may use; 0: none.
    var any: UInt32
    /// The pods, each followed by the number of its ports.
    var pods: PeerList
    /// The blocks, likewise.
    var blocks: PeerList
  }

  /// Allowed ports: first the ranges, as last and first word with protocol and port each, then the names.
  struct PortsRecord: BitwiseCopyable {
    var place: UInt32
    var ranges: UInt32
    var names: UInt32
    var users: UInt32
    var isAny: Bool
  }

  private(set) var pods = AddressTable()
  private(set) var records = Memory<PodRecord>(count: 1024)
  private var recordCount = 1
  private var free: [UInt32] = []

  /// The nodes by their addresses (NP-7).
  private(set) var nodes = AddressTable()
  /// Advances when an address becomes a node's or ceases to be: any pod may be concerned.
  private var nodeGeneration: UInt32 = 0

  private(set) var identities = Memory<IdentityRecord>(count: 256)
  private(set) var groups = Memory<GroupRecord>(count: 256)
  private(set) var ports = Memory<PortsRecord>(count: 256)
  private(set) var lists = WordHeap()
  private var portsNumbers: [PolicyPorts: UInt32] = [:]
  private var portsContents: [UInt32: PolicyPorts] = [:]
  private var freePorts: [UInt32] = []

  /// The blocks in use, by longest prefix, and the peers that addresses are whose longest block it is.
  private(set) var blocks = AddressTable()
  private(set) var blockPeers = Memory<PeerList>(count: 64)
  private var blockLengths4 = PrefixLengths()
  private var blockLengths6 = PrefixLengths()
  private var blockCounts = [Int](repeating: 0, count: 2 * 129)
  private var blockNumbers: [IPPrefix: UInt32] = [:]
  private var freeBlocks: [UInt32] = []

  /// What somebody who follows the table has not seen yet; nil: nobody does.
  var unseen: UnseenPolicies?

  /// The memory of what packets are decided by.
  var octets: Int { use.reduce(0) { $0 + $1.octets } }

  /// How full the tables are.
  var use: [TableUse] {
    [
      TableUse(
        .policyPods, pods.count, of: pods.capacity, octets: pods.octets + records.octets + nodes.octets, grows: true),
      TableUse(
        .policyBlocks, blockNumbers.count, of: blocks.capacity, octets: blocks.octets + blockPeers.octets, grows: true),
      TableUse(.policyPorts, portsNumbers.count, of: ports.count, octets: ports.octets, grows: true),
      TableUse(
        .policyLists, lists.used, of: lists.capacity, octets: lists.octets + identities.octets + groups.octets,
        grows: true),
    ]
  }

  // MARK: Look-up

  /// The place of the pod that has an address; 0: none has.
  @inline(__always)
  func pod(_ address: IPAddress) -> UInt32 { pods.find(address) ?? 0 }

  /// Changes with everything that a pod's policies are decided from.
  @inline(__always)
  func generation(of pod: UInt32) -> UInt32 { records[Int(pod)].generation &+ nodeGeneration }

  /// Whether an address is one of the node that a pod runs on.
  @inline(__always)
  func isNode(_ address: IPAddress, of pod: UInt32) -> Bool {
    let node = records[Int(pod)].node
    guard node != 0 else { return false }
    return nodes.find(address) == node
  }

  /// Whether the rules of a group let a connection with a peer be (NP-3). `pod`: the peer's place, where it is a pod;
  /// `receiver`: that of the pod, if any, which the connection goes to and whose named ports count (NP-5).
  func allows(
    _ group: PolicyGroupIndex, peer: IPAddress, pod: UInt32, receiver: UInt32, transport: UInt8, port: UInt16
  ) -> Bool {
    let rules = groups[Int(group)]
    let key = PolicyTable.word(transport, port)
    if rules.any != 0, permits(rules.any, key, receiver) { return true }
    if rules.pods.count > 0, pod != 0 {
      let peers = identities[Int(records[Int(pod)].identity)].peers
      if meets(rules.pods, peers, key, receiver) { return true }
    }
    if rules.blocks.count > 0 {
      let block = block(of: peer)
      if block != 0, meets(rules.blocks, blockPeers[Int(block)], key, receiver) { return true }
    }
    return false
  }

  @inline(__always)
  private static func word(_ transport: UInt8, _ port: UInt16) -> UInt32 { UInt32(transport) << 16 | UInt32(port) }

  /// Whether a peer is in both lists whose ports permit `key`.
  private func meets(_ rules: PeerList, _ peers: PeerList, _ key: UInt32, _ receiver: UInt32) -> Bool {
    let lists = lists.view
    var (rule, peer) = (0, 0)
    while rule < Int(rules.count), peer < Int(peers.count) {
      let wanted = lists[Int(rules.place) + 2 * rule]
      let found = lists[Int(peers.place) + peer]
      if wanted == found {
        if permits(lists[Int(rules.place) + 2 * rule + 1], key, receiver) { return true }
        rule += 1
        peer += 1
      } else if wanted < found {
        rule = advance(lists, rules, from: rule, stride: 2, to: found)
      } else {
        peer = advance(lists, peers, from: peer, stride: 1, to: wanted)
      }
    }
    return false
  }

  /// The first position behind `start` whose peer is not less than `wanted`: by steps that double, then halve, so that a
  /// short list against a long one costs a multiple of the short one's length.
  @inline(__always)
  private func advance(
    _ lists: MemoryView<UInt32>, _ list: PeerList, from start: Int, stride: Int, to wanted: UInt32
  ) -> Int {
    var low = start
    var step = 1
    while low + step < Int(list.count), lists[Int(list.place) + (low + step) * stride] < wanted {
      low += step
      step *= 2
    }
    // Less at `low`; not less, or the end, at `high`.
    var high = min(low + step, Int(list.count))
    while high - low > 1 {
      let middle = (low + high) / 2
      if lists[Int(list.place) + middle * stride] < wanted { low = middle } else { high = middle }
    }
    return high
  }

  private func permits(_ number: UInt32, _ key: UInt32, _ receiver: UInt32) -> Bool {
    let record = ports[Int(number)]
    if record.isAny { return true }
    let lists = lists.view
    // The first range that does not end before the port.
    var (low, high) = (0, Int(record.ranges))
    while low < high {
      let middle = (low + high) / 2
      if lists[Int(record.place) + 2 * middle] < key { low = middle + 1 } else { high = middle }
    }
    if low < Int(record.ranges), lists[Int(record.place) + 2 * low + 1] <= key { return true }
    guard record.names > 0, receiver != 0 else { return false }
    let own = identities[Int(records[Int(receiver)].identity)].ports
    for port in 0..<Int(own.count) where lists[Int(own.place) + 2 * port] == key {
      let name = lists[Int(own.place) + 2 * port + 1]
      for place in 0..<Int(record.names) where lists[Int(record.place) + 2 * Int(record.ranges) + place] == name {
        return true
      }
    }
    return false
  }

  /// The number of the longest block in use that holds an address; 0: none does.
  private func block(of address: IPAddress) -> UInt32 {
    switch address {
    case .v4(let a):
      var lengths = blockLengths4
      while let length = lengths.popLongest() {
        let masked = a.rawValue & IPv4Prefix.mask(length)
        if let number = blocks.find(0, UInt64(masked), tag: 0x400 | UInt32(length)) { return number }
      }
    case .v6(let a):
      var lengths = blockLengths6
      while let length = lengths.popLongest() {
        let masked = a.masked(length)
        if let number = blocks.find(masked.high, masked.low, tag: 0x600 | UInt32(length)) { return number }
      }
    }
    return 0
  }

  // MARK: What was given

  /// The blocks in use.
  var blockPrefixes: some Collection<IPPrefix> { blockNumbers.keys }

  /// The peers that a block is; nil: it is not in use.
  func peers(of block: IPPrefix) -> [PeerIndex]? {
    blockNumbers[block].map { words(blockPeers[Int($0)], stride: 1) }
  }

  /// The rules of a group.
  func rules(of group: PolicyGroupIndex) -> [PeerIndex: PolicyPorts] {
    let record = groups[Int(group)]
    var rules: [PeerIndex: PolicyPorts] = [:]
    if record.any != 0 { rules[.anyPeer] = portsContents[record.any] }
    for list in [record.pods, record.blocks] {
      let words = words(list, stride: 2)
      for rule in stride(from: 0, to: words.count, by: 2) { rules[words[rule]] = portsContents[words[rule + 1]] }
    }
    return rules
  }

  // MARK: Pods

  mutating func setPod(_ address: IPAddress, _ policy: PodPolicy) {
    unseen?.pods.insert(address)
    let index: UInt32
    if let known = pods.find(address) {
      index = known
    } else {
      index = free.popLast() ?? UInt32(recordCount)
      if Int(index) == recordCount { recordCount += 1 }
      if Int(index) >= records.count { records.grow(to: records.count * 2) }
      pods.insert(address, value: index)
    }
    reserve(identity: policy.identity)
    reserve(group: max(policy.egress, policy.ingress))
    records[Int(index)] = PodRecord(
      identity: policy.identity, egress: policy.egress, ingress: policy.ingress, node: policy.node,
      generation: records[Int(index)].generation &+ 1)
  }

  mutating func removePod(_ address: IPAddress) {
    guard let index = pods.find(address) else { return }
    unseen?.pods.insert(address)
    pods.remove(address)
    records[Int(index)].generation &+= 1
    records[Int(index)].egress = 0
    records[Int(index)].ingress = 0
    records[Int(index)].identity = 0
    records[Int(index)].node = 0
    free.append(index)
  }

  /// Says which node an address belongs to; 0: none.
  mutating func setNode(_ address: IPAddress, _ node: UInt32) {
    if (nodes.find(address) ?? 0) == node { return }
    unseen?.owners.insert(address)
    if node == 0 { nodes.remove(address) } else { nodes.insert(address, value: node) }
    noteNodes()
  }

  /// Has all flows of pods be decided anew, because an address may be or have been their node's.
  mutating func noteNodes() { nodeGeneration &+= 1 }

  /// Has flows of the pod that has an address be decided anew.
  mutating func touch(_ address: IPAddress) {
    guard let index = pods.find(address) else { return }
    records[Int(index)].generation &+= 1
  }

  private mutating func reserve(identity: IdentityIndex) {
    if Int(identity) >= identities.count { identities.grow(to: max(identities.count * 2, Int(identity) + 1)) }
  }

  private mutating func reserve(group: PolicyGroupIndex) {
    if Int(group) >= groups.count { groups.grow(to: max(groups.count * 2, Int(group) + 1)) }
  }

  /// Says which peers the pods of an identity are, and what ports of theirs have names.
  mutating func setIdentity(_ identity: IdentityIndex, peers: some Sequence<PeerIndex>, ports: [NamedPolicyPort]) {
    unseen?.identities.insert(identity)
    reserve(identity: identity)
    let old = identities[Int(identity)]
    lists.free(old.peers.place, Int(old.peers.count))
    lists.free(old.ports.place, Int(old.ports.count) * 2)
    let sorted = peers.sorted()
    identities[Int(identity)] = IdentityRecord(
      peers: PeerList(place: lists.allocate(sorted), count: UInt32(sorted.count)),
      ports: PeerList(
        place: lists.allocate(ports.flatMap { [PolicyTable.word($0.transport, $0.port), $0.name] }),
        count: UInt32(ports.count)))
  }

  // MARK: Rules

  /// Makes the rules of a group these; without any the group allows nothing.
  mutating func setGroup(_ group: PolicyGroupIndex, _ rules: [PeerIndex: PolicyPorts]) {
    unseen?.groups.insert(group)
    reserve(group: group)
    let old = groups[Int(group)]
    var record = GroupRecord(any: 0, pods: PeerList(place: 0, count: 0), blocks: PeerList(place: 0, count: 0))
    var (podWords, blockWords): ([UInt32], [UInt32]) = ([], [])
    for (peer, allowed) in rules.sorted(by: { $0.key < $1.key }) {
      let number = use(allowed)
      if peer == .anyPeer {
        record.any = number
      } else if peer.isBlock {
        blockWords += [peer, number]
      } else {
        podWords += [peer, number]
      }
    }
    record.pods = PeerList(place: lists.allocate(podWords), count: UInt32(podWords.count / 2))
    record.blocks = PeerList(place: lists.allocate(blockWords), count: UInt32(blockWords.count / 2))
    groups[Int(group)] = record
    if old.any != 0 { giveUp(old.any) }
    for list in [old.pods, old.blocks] {
      for peer in 0..<Int(list.count) { giveUp(lists[Int(list.place) + 2 * peer + 1]) }
      lists.free(list.place, Int(list.count) * 2)
    }
  }

  /// The number of a set of ports, with one more user.
  private mutating func use(_ allowed: PolicyPorts) -> UInt32 {
    if let known = portsNumbers[allowed] {
      ports[Int(known)].users += 1
      return known
    }
    let number = freePorts.popLast() ?? UInt32(portsNumbers.count + 1)
    if Int(number) >= ports.count { ports.grow(to: ports.count * 2) }
    portsNumbers[allowed] = number
    portsContents[number] = allowed
    var words: [UInt32] = []
    for range in allowed.ranges {
      words += [PolicyTable.word(range.transport, range.last), PolicyTable.word(range.transport, range.first)]
    }
    ports[Int(number)] = PortsRecord(
      place: lists.allocate(words + allowed.names), ranges: UInt32(allowed.ranges.count),
      names: UInt32(allowed.names.count), users: 1, isAny: allowed.isAny)
    return number
  }

  private mutating func giveUp(_ number: UInt32) {
    ports[Int(number)].users -= 1
    let record = ports[Int(number)]
    guard record.users == 0, let allowed = portsContents.removeValue(forKey: number) else { return }
    lists.free(record.place, 2 * Int(record.ranges) + Int(record.names))
    portsNumbers[allowed] = nil
    freePorts.append(number)
  }

  // MARK: Blocks

  /// Takes a block into use: addresses whose longest block in use it is are these peers.
  mutating func setBlock(_ prefix: IPPrefix, peers: some Sequence<PeerIndex>) {
    unseen?.blocks.insert(prefix)
    let number: UInt32
    if let known = blockNumbers[prefix] {
      number = known
      lists.free(blockPeers[Int(number)].place, Int(blockPeers[Int(number)].count))
    } else {
      number = freeBlocks.popLast() ?? UInt32(blockNumbers.count + 1)
      blockNumbers[prefix] = number
      if Int(number) >= blockPeers.count { blockPeers.grow(to: blockPeers.count * 2) }
      switch prefix {
      case .v4(let p): blocks.insert(0, UInt64(p.address.rawValue), tag: 0x400 | UInt32(p.length), value: number)
      case .v6(let p): blocks.insert(p.address.high, p.address.low, tag: 0x600 | UInt32(p.length), value: number)
      }
      count(prefix, 1)
    }
    let sorted = peers.sorted()
    blockPeers[Int(number)] = PeerList(place: lists.allocate(sorted), count: UInt32(sorted.count))
  }

  /// Takes a block out of use.
  mutating func removeBlock(_ prefix: IPPrefix) {
    guard let number = blockNumbers.removeValue(forKey: prefix) else { return }
    unseen?.blocks.insert(prefix)
    lists.free(blockPeers[Int(number)].place, Int(blockPeers[Int(number)].count))
    freeBlocks.append(number)
    switch prefix {
    case .v4(let p): blocks.remove(0, UInt64(p.address.rawValue), tag: 0x400 | UInt32(p.length))
    case .v6(let p): blocks.remove(p.address.high, p.address.low, tag: 0x600 | UInt32(p.length))
    }
    count(prefix, -1)
  }

  /// Keeps the lengths of the blocks in use.
  private mutating func count(_ prefix: IPPrefix, _ change: Int) {
    let place = (prefix.family == .ipv4 ? 0 : 129) + prefix.length
    blockCounts[place] += change
    switch prefix.family {
    case .ipv4: blockLengths4.set(prefix.length, blockCounts[place] > 0)
    case .ipv6: blockLengths6.set(prefix.length, blockCounts[place] > 0)
    }
  }
}
