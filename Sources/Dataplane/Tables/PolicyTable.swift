import Addresses

/// The number of a set of pods that policies cannot tell apart: same namespace, labels and named ports. 0: no pod.
public typealias IdentityIndex = UInt32
/// The number of a set of rules that pods share. 0: not isolated.
public typealias PolicyGroupIndex = UInt32

/// What policies say of one pod.
public struct PodPolicy: Sendable, Hashable {
  public var identity: IdentityIndex
  /// The rules for what the pod sends; 0: it is not isolated in this direction (NP-1).
  public var egress: PolicyGroupIndex
  /// The rules for what is sent to the pod.
  public var ingress: PolicyGroupIndex
  /// The number of the node that the pod runs on; 0: not known.
  public var node: UInt32

  public init(
    identity: IdentityIndex, egress: PolicyGroupIndex = 0, ingress: PolicyGroupIndex = 0, node: UInt32 = 0
  ) {
    self.node = node
    self.identity = identity
    self.egress = egress
    self.ingress = ingress
  }
}

/// One thing that a group of rules allows.
public struct PolicyEntry: Sendable, Hashable {
  public enum Peer: Sendable, Hashable {
    case any
    case identity(IdentityIndex)
    /// Addresses whose longest block in use is this one.
    case block(IPPrefix)
    /// Pods of an identity whose addresses' longest block in use is this one.
    case member(IdentityIndex, IPPrefix)
  }

  public var peer: Peer
  /// The IP protocol number; 0: every protocol and port.
  public var transport: UInt8
  /// The first port of an aligned range of 2^(16 - length) ports.
  public var port: UInt16
  /// The leading bits of the port that count: 16 for one port, 0 for the whole protocol.
  public var length: UInt8

  public init(_ peer: Peer, transport: UInt8 = 0, port: UInt16 = 0, length: UInt8 = 0) {
    self.peer = peer
    self.transport = transport
    self.port = port
    self.length = length
  }

  /// The fewest aligned ranges that make up a range of ports.
  public static func cover(_ ports: ClosedRange<UInt16>) -> [(port: UInt16, length: UInt8)] {
    var result: [(UInt16, UInt8)] = []
    var first = Int(ports.lowerBound)
    let end = Int(ports.upperBound) + 1
    while first < end {
      var size = first == 0 ? 65536 : first & -first
      while first + size > end { size >>= 1 }
      result.append((UInt16(first), UInt8(16 - size.trailingZeroBitCount)))
      first += size
    }
    return result
  }
}

/// Network policy: who may talk to whom, in a number of hash probes that depends on the lengths of port ranges in use, not
/// on the number of policies, rules or pods. 32 octets an entry, 32 a pod.
struct PolicyTable: ~Copyable {
  struct PodRecord: BitwiseCopyable {
    var identity: IdentityIndex
    var egress: PolicyGroupIndex
    var ingress: PolicyGroupIndex
    var node: UInt32
    /// Counts changes of what is allowed to the pod.
    var generation: UInt32
  }

  private(set) var pods = AddressTable()
  private(set) var records = Memory<PodRecord>(count: 1024)
  private var recordCount = 1
  private var free: [UInt32] = []

  /// The nodes by their addresses (NP-7).
  private(set) var nodes = AddressTable()

  private(set) var entries = AddressTable()
  /// Bit n set: some entry has port length n.
  private var lengths: UInt32 = 1
  private var lengthCounts = [Int](repeating: 0, count: 17)
  /// The entries for pods of an identity in a block.
  private var memberCount = 0

  /// The blocks in use, by longest prefix.
  private(set) var blocks = AddressTable()
  private var blockLengths4 = PrefixLengths()
  private var blockLengths6 = PrefixLengths()
  private var blockNumbers: [IPPrefix: UInt32] = [:]
  private var freeBlocks: [UInt32] = []

  /// Who is in each group's entries, so that they can be changed one by one.
  private(set) var installed: [PolicyGroupIndex: Set<PolicyEntry>] = [:]

  private static var blockFlag: UInt32 { 1 << 31 }

  // MARK: Look-up

  /// The place of the pod that has an address; 0: none has.
  @inline(__always)
  func pod(_ address: IPAddress) -> UInt32 { pods.find(address) ?? 0 }

  /// Whether an address is one of the node that a pod runs on.
  func isNode(_ address: IPAddress, of pod: UInt32) -> Bool {
    let node = records[Int(pod)].node
    return node != 0 && nodes.find(address) == node
  }

  /// Whether the rules of a group allow a peer, seen from the group's pods, on a port of the destination. (NP-3, NP-5)
  func allows(
    _ group: PolicyGroupIndex, peer: IPAddress, pod: UInt32, transport: UInt8, port: UInt16
  ) -> Bool {
    if allows(group, 0, transport, port) { return true }
    if pod != 0, allows(group, records[Int(pod)].identity, transport, port) { return true }
    let block = block(of: peer)
    guard block != 0 else { return false }
    if allows(group, block | PolicyTable.blockFlag, transport, port) { return true }
    return memberCount > 0 && pod != 0
      && allows(group, records[Int(pod)].identity, in: block, transport, port)
  }

  private func allows(
    _ group: PolicyGroupIndex, _ peer: UInt32, in block: UInt32 = 0, _ transport: UInt8, _ port: UInt16
  ) -> Bool {
    let high = UInt64(group) << 32 | UInt64(peer)
    let scope = UInt64(block) << 8
    if entries.find(high, scope, tag: 0) != nil { return true }
    var remaining = lengths
    while remaining != 0 {
      let length = UInt32(remaining.trailingZeroBitCount)
      remaining &= remaining - 1
      let masked = length == 0 ? 0 : port & ~UInt16(truncatingIfNeeded: UInt32(0xffff) >> length)
      if entries.find(high, scope | (UInt64(length) + 1), tag: UInt32(transport) << 16 | UInt32(masked)) != nil {
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

  // MARK: Changes

  mutating func setPod(_ address: IPAddress, _ policy: PodPolicy) {
    let index: UInt32
    if let known = pods.find(address) {
      index = known
    } else {
      index = free.popLast() ?? UInt32(recordCount)
      if Int(index) == recordCount { recordCount += 1 }
      if Int(index) >= records.count { records.grow(to: records.count * 2) }
      pods.insert(address, value: index)
    }
    records[Int(index)] = PodRecord(
      identity: policy.identity, egress: policy.egress, ingress: policy.ingress, node: policy.node,
      generation: records[Int(index)].generation &+ 1)
  }

  mutating func removePod(_ address: IPAddress) {
    guard let index = pods.find(address) else { return }
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
    if node == 0 { nodes.remove(address) } else { nodes.insert(address, value: node) }
  }

  /// Has flows of the pod that has an address be decided anew.
  mutating func touch(_ address: IPAddress) {
    guard let index = pods.find(address) else { return }
    records[Int(index)].generation &+= 1
  }

  /// Makes the rules of a group these; empty takes the group out. Blocks of the entries must be in use.
  mutating func setGroup(_ group: PolicyGroupIndex, _ wanted: Set<PolicyEntry>) {
    let old = installed[group] ?? []
    for entry in old.subtracting(wanted) { change(group, entry, isPresent: false) }
    for entry in wanted.subtracting(old) { change(group, entry, isPresent: true) }
    installed[group] = wanted.isEmpty ? nil : wanted
  }

  private mutating func change(_ group: PolicyGroupIndex, _ entry: PolicyEntry, isPresent: Bool) {
    let peer: UInt32
    var scope: UInt64 = 0
    switch entry.peer {
    case .any: peer = 0
    case .identity(let identity): peer = identity
    case .block(let prefix): peer = number(of: prefix) | PolicyTable.blockFlag
    case .member(let identity, let prefix):
      peer = identity
      scope = UInt64(number(of: prefix)) << 8
      memberCount += isPresent ? 1 : -1
    }
    let high = UInt64(group) << 32 | UInt64(peer)
    let low = entry.transport == 0 ? scope : scope | (UInt64(entry.length) + 1)
    let tag = entry.transport == 0 ? 0 : UInt32(entry.transport) << 16 | UInt32(entry.port)
    let length = Int(entry.length)
    if isPresent {
      entries.insert(high, low, tag: tag, value: 1)
      if entry.transport != 0 { lengthCounts[length] += 1 }
    } else {
      entries.remove(high, low, tag: tag)
      if entry.transport != 0 { lengthCounts[length] -= 1 }
    }
    if lengthCounts[length] > 0 || length == 0 {
      lengths |= 1 << UInt32(length)
    } else {
      lengths &= ~(1 << UInt32(length))
    }
  }

  private func number(of block: IPPrefix) -> UInt32 {
    guard let number = blockNumbers[block] else { preconditionFailure("\(block) is not in use") }
    return number
  }

  /// Takes a block into use, so that addresses in it are told apart from others.
  mutating func useBlock(_ prefix: IPPrefix) {
    guard blockNumbers[prefix] == nil else { return }
    let number = freeBlocks.popLast() ?? UInt32(blockNumbers.count + 1)
    blockNumbers[prefix] = number
    switch prefix {
    case .v4(let p):
      blocks.insert(0, UInt64(p.address.rawValue), tag: 0x400 | UInt32(p.length), value: number)
      blockLengths4.set(p.length, true)
    case .v6(let p):
      blocks.insert(p.address.high, p.address.low, tag: 0x600 | UInt32(p.length), value: number)
      blockLengths6.set(p.length, true)
    }
  }

  /// Takes a block out of use, which no group's entries may name any more.
  mutating func giveUpBlock(_ prefix: IPPrefix) {
    guard let number = blockNumbers.removeValue(forKey: prefix) else { return }
    freeBlocks.append(number)
    let isLast = !blockNumbers.keys.contains { $0.family == prefix.family && $0.length == prefix.length }
    switch prefix {
    case .v4(let p):
      blocks.remove(0, UInt64(p.address.rawValue), tag: 0x400 | UInt32(p.length))
      if isLast { blockLengths4.set(p.length, false) }
    case .v6(let p):
      blocks.remove(p.address.high, p.address.low, tag: 0x600 | UInt32(p.length))
      if isLast { blockLengths6.set(p.length, false) }
    }
  }
}
