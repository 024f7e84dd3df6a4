import Addresses
import CEBPF
import Dataplane
import Reference
import Testing

@testable import EBPF

/// What the kernel would hold of the policy table after the writes, and what a program would decide by it.
private struct PolicyImage {
  private struct Rule: Hashable {
    var set: UInt32
    var identity: UInt32
    var block: UInt32

    init(_ key: kalsae_policy_rule_key) { (set, identity, block) = (key.set, key.identity, key.block) }
    init(_ set: UInt32, _ identity: UInt32, _ block: UInt32) {
      (self.set, self.identity, self.block) = (set, identity, block)
    }
  }

  private var ranges: [UInt32: UInt64] = [:]
  private var rules: [Rule: UInt64] = [:]
  private var pods: [UInt32: kalsae_policy_pod] = [:]
  private var blocks: [IPPrefix: UInt32] = [:]
  private var addresses: [IPAddress: UInt64] = [:]

  var ruleCount: Int { rules.count }
  var addressCount: Int { addresses.count }
  var blockCount: Int { blocks.count }

  /// Applies the writes in the order in which they reach the kernel; after each step `look` sees what a program would.
  mutating func take(_ writes: PolicyWrites, _ look: (borrowing PolicyImage) -> Void = { _ in }) {
    for (key, value) in zip(writes.ranges.keys, writes.ranges.values) { set { $0.ranges[key] = value } }
    for (key, value) in zip(writes.rules.keys, writes.rules.values) { set { $0.rules[Rule(key)] = value } }
    for (key, value) in zip(writes.pods.keys, writes.pods.values) { set { $0.pods[key] = value } }
    for (key, value) in zip(writes.blocks.keys, writes.blocks.values) {
      set { $0.blocks[PolicyImage.prefix(key)] = value }
    }
    for (key, value) in zip(writes.addresses.keys, writes.addresses.values) {
      set { $0.addresses[key.address] = value }
    }
    for key in writes.removedAddresses { set { $0.addresses[key.address] = nil } }
    for key in writes.removedBlocks { set { $0.blocks[PolicyImage.prefix(key)] = nil } }

    func set(_ change: (inout PolicyImage) -> Void) {
      change(&self)
      look(self)
    }
  }

  mutating func remove(_ keys: [kalsae_policy_rule_key]) {
    for key in keys { rules[Rule(key)] = nil }
  }

  private static func prefix(_ key: kalsae_policy_block_key) -> IPPrefix {
    IPPrefix("\(key.address.address)/\(Int(key.length) - 32 - (key.family == 4 ? 96 : 0))")!
  }

  private func pod(_ address: IPAddress) -> kalsae_policy_pod? {
    pods[UInt32(truncatingIfNeeded: addresses[address] ?? 0)]
  }

  /// What the source's rules say of a connection, and what the destination's.
  func decide(_ source: IPAddress, _ destination: IPAddress, port: UInt16) -> [Bool] {
    let (sender, receiver) = (pod(source), pod(destination))
    return [
      allows(sender?.egress ?? 0, destination, receiver, port), allows(receiver?.ingress ?? 0, source, sender, port),
    ]
  }

  private func allows(_ set: UInt32, _ peer: IPAddress, _ pod: kalsae_policy_pod?, _ port: UInt16) -> Bool {
    if set == 0 { return true }
    let identity = pod?.identity ?? 0
    let block = blocks.filter { $0.key.contains(peer) }.max { $0.key.length < $1.key.length }?.value ?? 0
    return [Rule(set, identity, 0), Rule(set, 0, block), Rule(set, identity, block), Rule(set, 0, 0)]
      .contains { permits(rules[$0] ?? 0, 6 << 16 | UInt64(port)) }
  }

  private func permits(_ word: UInt64, _ wanted: UInt64) -> Bool {
    switch UInt32(word >> UInt64(KALSAE_PERMIT_SHIFT)) {
    case UInt32(KALSAE_PERMIT_ANY): true
    case UInt32(KALSAE_PERMIT_RANGE): word & 0xffffff <= wanted && wanted <= word >> 24 & 0xffffff
    case UInt32(KALSAE_PERMIT_LIST):
      (0..<UInt32(word >> 32 & 0xffffff)).contains {
        let range = ranges[UInt32(truncatingIfNeeded: word) + $0] ?? 0
        return range & 0xffff_ffff <= wanted && wanted <= range >> 32
      }
    default: false
    }
  }
}

@Suite("Policy tables in maps") struct PolicyMirrorTests {
  private let pods = (5...8).map { IPAddress("10.7.0.\($0)")! }
  private let blocks = ["10.7.0.0/24", "10.7.0.8/30", "192.0.2.0/24", "0.0.0.0/0"].map { IPPrefix($0)! }
  private var ends: [IPAddress] { pods + [IPAddress("192.0.2.9")!] }

  private func ports(_ random: inout SeededGenerator) -> PolicyPorts {
    let first = UInt16(80 + random.next() % 4)
    switch random.next() % 4 {
    case 0: return .any
    case 1: return .named(PortNameIndex(random.next() % 2 + 1))
    default:
      var ports = PolicyPorts.ports(6, first...first)
      if random.next() % 2 == 0 { ports.formUnion([.ports(6, 83...84), .ports(17)]) }
      return ports
    }
  }

  /// One thing changes. What the rules of a group are asked about may be anybody's.
  private func change(_ tables: inout Tables, _ random: inout SeededGenerator) {
    switch random.next() % 6 {
    case 0:
      let ports = [NamedPolicyPort(transport: 6, port: UInt16(80 + random.next() % 4), name: 1)]
      tables.setPolicyIdentity(
        IdentityIndex(random.next() % 3 + 1), peers: Set([PeerIndex(random.next() % 4 + 1), 1]),
        ports: random.next() % 2 == 0 ? ports : [])
    case 1, 2:
      var rules: [PeerIndex: PolicyPorts] = [:]
      for _ in 0..<random.next() % 3 + 1 {
        let peer = PeerIndex(random.next() % 5)
        rules[random.next() % 3 == 0 ? .block(peer) : peer] = ports(&random)
      }
      tables.setPolicyGroup(PolicyGroupIndex(random.next() % 3 + 1), rules, pods: [])
    case 3:
      tables.setPolicyBlock(blocks[Int(random.next() % 4)], peers: [.block(UInt32(random.next() % 3 + 1))])
    case 4: tables.removePolicyBlock(blocks[Int(random.next() % 4)])
    default:
      tables.setPodPolicy(
        pods[Int(random.next() % 4)],
        PodPolicy(
          identity: IdentityIndex(random.next() % 4), egress: PolicyGroupIndex(random.next() % 4),
          ingress: PolicyGroupIndex(random.next() % 4)))
    }
  }

  @Test("NP-9 after every single write of a change, each side of a connection is decided by the old or the new")
  func steps() throws {
    var random = SeededGenerator(seed: 11)
    var tables = Tables()
    tables.followPolicies()
    let port = tables.addPort(
      PortDescription(name: "pod", role: .pod, mac: MACAddress("02:00:00:00:00:01")!, mtu: 1500))
    for pod in pods.dropLast() { tables.setPodAddress(pod, port: port) }
    var mirror = PolicyMirror(capacity: PolicyMirror.Capacity())
    var image = PolicyImage()
    image.take(try mirror.apply(tables.takePolicyChanges(), devices: [port: 7]))
    let probes = ends.flatMap { source in
      ends.flatMap { destination in (80...84).map { (source, destination, UInt16($0)) } }
    }
    func decide(_ image: borrowing PolicyImage) -> [[Bool]] {
      var verdicts: [[Bool]] = []
      for (source, destination, port) in probes { verdicts.append(image.decide(source, destination, port: port)) }
      return verdicts
    }
    var changed = 0
    for _ in 0..<300 {
      change(&tables, &random)
      image.remove(mirror.release())
      let before = decide(image)
      var steps: [[[Bool]]] = []
      image.take(try mirror.apply(tables.takePolicyChanges())) { steps.append(decide($0)) }
      let after = decide(image)
      if before != after { changed += 1 }
      for step in steps {
        let isOldOrNew = step.indices.allSatisfy { probe in
          (0..<2).allSatisfy { side in
            step[probe][side] == before[probe][side] || step[probe][side] == after[probe][side]
          }
        }
        #expect(isOldOrNew)
      }
    }
    #expect(changed > 50)
    // Nothing is left when everybody has gone.
    for pod in pods {
      tables.removePodPolicy(pod)
      tables.removePodAddress(pod)
    }
    for block in blocks { tables.removePolicyBlock(block) }
    image.take(try mirror.apply(tables.takePolicyChanges()))
    image.remove(mirror.release())
    #expect(mirror.ruleCount == 0 && mirror.podCount == 0)
    #expect(image.ruleCount == 0 && image.addressCount == 0 && image.blockCount == 0)
  }

  @Test("A pod that comes writes itself, whatever the number of rules")
  func proportion() throws {
    var tables = Tables()
    tables.followPolicies()
    let port = tables.addPort(
      PortDescription(name: "pod", role: .pod, mac: MACAddress("02:00:00:00:00:01")!, mtu: 1500))
    tables.setPolicyIdentity(1, peers: [1], ports: [])
    for group in 1...PolicyGroupIndex(100) { tables.setPolicyGroup(group, [1: .ports(6, 80...80)], pods: []) }
    for number in 0..<100 {
      let address = IPAddress("10.7.1.\(number)")!
      tables.setPodAddress(address, port: port)
      tables.setPodPolicy(address, PodPolicy(identity: 1, egress: UInt32(number + 1)))
    }
    var mirror = PolicyMirror(capacity: PolicyMirror.Capacity())
    _ = try mirror.apply(tables.takePolicyChanges(), devices: [port: 7])
    #expect(mirror.ruleCount == 100)
    let address = IPAddress("10.7.2.1")!
    tables.setPodAddress(address, port: port)
    tables.setPodPolicy(address, PodPolicy(identity: 1, egress: 5))
    let writes = try mirror.apply(tables.takePolicyChanges())
    #expect(writes.rules.keys.isEmpty && writes.blocks.keys.isEmpty && writes.ranges.keys.isEmpty)
    #expect(writes.pods.keys.count == 1 && writes.addresses.keys.count == 1)
  }
}
