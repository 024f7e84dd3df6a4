import Addresses
import Model

/// What `kalsae ipam check` finds: the books against what is in use, and against themselves (IPAM-5, IPAM-6). The form is
/// that of calicoctl's report, so that its tools read it.
public struct CheckReport: Sendable, Codable, Equatable {
  public struct Entry: Sendable, Codable, Equatable {
    public var ip: String
    public var handle: String
    /// Which allocation of the address it is: what was given anew since the report is not released by it.
    public var sequenceNumber: UInt64
    public var pod: String?
    public var namespace: String?
    public var node: String
    public var inUse: Bool
    public var borrowed: Bool?
    /// Who uses the address.
    public var owners: [String]
  }

  public var version: String
  /// By address.
  public var allocations: [String: [Entry]] = [:]
  /// In use, in a pool, and not given to anybody.
  public var notAllocated: [String: [String]] = [:]
  /// In use, and in no pool.
  public var notInPool: [String: [String]] = [:]
  /// Used by more than one.
  public var multipleOwners: [String: [String]] = [:]
  /// Where the books contradict themselves.
  public var contradictions: [String] = []
  public var blocks = 0
  public var pools: [String] = []

  public var leaked: [Entry] {
    allocations.values.joined().filter { !$0.inUse }.sorted { IPAddress($0.ip)! < IPAddress($1.ip)! }
  }

  /// Handles without addresses, and addresses without handles, are among the contradictions.
  public var problems: Int {
    leaked.count + notAllocated.count + notInPool.count + multipleOwners.count + contradictions.count
  }

  /// `inUse`: who uses which address, in words such as `Workload(default/web)`.
  public init(_ snapshot: IPAMSnapshot, catalog: PoolCatalog, inUse: [IPAddress: [String]], version: String) {
    self.version = version
    contradictions = snapshot.contradictions
    blocks = snapshot.blocks.count
    pools = catalog.pools.filter { !$0.disabled }.map { "\($0.cidr)" }
    var given: Set<IPAddress> = []
    for block in snapshot.blocks {
      for (ordinal, allocation) in block.allocations {
        let address = block.cidr.address(at: ordinal)
        given.insert(address)
        allocations["\(address)", default: []].append(
          Entry(
            ip: "\(address)", handle: allocation.handle, sequenceNumber: allocation.sequence,
            pod: allocation.pod?.name, namespace: allocation.pod?.namespace, node: allocation.node,
            inUse: inUse[address] != nil, borrowed: block.node == allocation.node ? nil : true,
            owners: inUse[address] ?? []))
      }
    }
    for (address, owners) in inUse {
      if owners.count > 1 { multipleOwners["\(address)"] = owners }
      guard !given.contains(address) else { continue }
      if catalog.pool(of: address) != nil {
        notAllocated["\(address)"] = owners
      } else {
        notInPool["\(address)"] = owners
      }
    }
  }

  /// The findings in calicoctl's words. `showAll`: every address; `showProblems`: those with which something is wrong.
  public func text(showAll: Bool, showProblems: Bool) -> String {
    let showProblems = showProblems || showAll
    var lines = ["Checking IPAM for inconsistencies...", ""]
    lines += ["Loading all IPAM blocks...", "Found \(blocks) IPAM blocks."]
    lines += ["IPAM blocks record \(allocations.values.reduce(0) { $0 + $1.count }) allocations.", ""]
    lines += ["Loading all IPAM pools..."] + pools.map { "  \($0)" } + ["Found \(pools.count) active IP pools.", ""]
    lines.append("Scanning for IPs that are allocated but not actually in use...")
    if showAll {
      for entry in sorted where entry.inUse {
        lines.append("  \(entry.ip) in use by \(entry.owners.joined(separator: ", ")).")
      }
    }
    let leaked = leaked
    if showProblems { for entry in leaked { lines.append("  \(entry.ip) leaked; attrs \(attributes(entry))") } }
    lines.append("Found \(leaked.count) IPs that are allocated in IPAM but not actually in use.")
    lines.append("Scanning for IPs that are in use by a workload or node but not allocated in IPAM...")
    if showProblems {
      for (ip, owners) in multipleOwners.sorted(by: { $0.key < $1.key }) {
        lines.append("  \(ip) has multiple owners: \(owners.joined(separator: ", ")).")
      }
      for (ip, owners) in notInPool.sorted(by: { $0.key < $1.key }) {
        lines.append("  \(ip) in use by \(owners.joined(separator: ", ")) is not in any active IP pool.")
      }
      for (ip, owners) in notAllocated.sorted(by: { $0.key < $1.key }) {
        lines.append(
          "  \(ip) in use by \(owners.joined(separator: ", ")) and in active IPAM pool but has no IPAM allocation.")
      }
    }
    lines.append("Found \(notInPool.count) in-use IPs that are not in active IP pools.")
    lines.append(
      "Found \(notAllocated.count) in-use IPs that are in active IP pools but have no corresponding IPAM allocation.")
    lines += ["", "Scanning for blocks, affinities and handles that contradict each other..."]
    if showProblems { lines += contradictions.map { "  \($0)." } }
    lines.append("Found \(contradictions.count) contradictions.")
    lines.append("Check complete; found \(problems) problems.")
    return lines.joined(separator: "\n") + "\n"
  }

  private var sorted: [Entry] { allocations.values.joined().sorted { IPAddress($0.ip)! < IPAddress($1.ip)! } }

  private func attributes(_ entry: Entry) -> String {
    let owner = entry.pod.map { "pod \(entry.namespace ?? "")/\($0)" } ?? "handle \(entry.handle)"
    return "\(owner) on node \(entry.node)"
  }
}

extension BlockManager {
  /// Takes an address back, whoever has it. False where nobody does.
  ///
  /// `only`: only if it is still this allocation of the address, as a report has it.
  public func release(_ address: IPAddress, only entry: CheckReport.Entry? = nil) throws(IPAMError) -> Bool {
    let attachment: Attachment? = try update { objects in
      guard let cidr = try objects.blockCIDRs().first(where: { $0.contains(address) }),
        var block = try objects.block(cidr),
        let allocation = block.value.allocations[cidr.ordinal(of: address)],
        entry == nil || allocation.sequence == entry?.sequenceNumber && allocation.handle == entry?.handle
      else { return nil }
      let clock = try coolDown(objects)
      _ = block.value.giveBack(address, handle: allocation.handle, clock: clock)
      if block.value.node == nil, block.value.isEmpty { try objects.delete(block) } else { try objects.put(block) }
      if var handle = try objects.handle(allocation.attachment),
        let index = handle.value.addresses.firstIndex(of: address)
      {
        handle.value.addresses.remove(at: index)
        handle.value.blocks.remove(at: index)
        if handle.value.addresses.isEmpty { try objects.delete(handle) } else { try objects.put(handle) }
      }
      return allocation.attachment
    }
    return attachment != nil
  }

  /// Gives up all blocks of a node that is gone: empty ones at once, others when their last
  /// address is released.
  public func releaseNode(_ node: String) throws(IPAMError) {
    let cidrs = try read { objects in try objects.affinities(of: node).map(\.value.cidr) }
    let claims = BlockClaims(self, node: node)
    for cidr in cidrs where try !claims.giveUp(cidr, of: node) {
      try update { objects in
        guard var block = try objects.block(cidr), block.value.node == node else { return }
        block.value.node = nil
        if block.value.isEmpty { try objects.delete(block) } else { try objects.put(block) }
        if let affinity = try objects.affinity(node, cidr) { try objects.delete(affinity) }
      }
    }
  }
}
