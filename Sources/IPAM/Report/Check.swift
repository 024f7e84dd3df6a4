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

  /// A handle of calicoctl's report.
  public struct Handle: Sendable, Codable, Equatable {
    public var id: String

    private enum CodingKeys: String, CodingKey { case id = "ID" }
  }

  /// A block and the node that has it.
  public struct BlockEntry: Sendable, Codable, Equatable {
    public var cidr: String
    public var node: String?
  }

  public var version: String
  /// By address.
  public var allocations: [String: [Entry]] = [:]
  /// Handles that have no address; nil where there are none.
  public var leakedHandles: [Handle]?
  /// In use, in a pool, and not given to anybody.
  public var notAllocated: [String: [String]] = [:]
  /// In use, and in no pool.
  public var notInPool: [String: [String]] = [:]
  /// Used by more than one.
  public var multipleOwners: [String: [String]] = [:]
  /// Handles that addresses name and that are not there.
  public var missingHandles: [String] = []
  /// Where the books contradict themselves otherwise.
  public var contradictions: [String] = []
  /// Handles with addresses.
  public var goodHandles = 0
  public var blocks: [BlockEntry] = []
  public var pools: [String] = []
  /// Who uses which address.
  public var inUse: [String: [String]] = [:]

  public var leaked: [Entry] { sorted.filter { !$0.inUse } }

  public var problems: Int {
    leaked.count + notAllocated.count + notInPool.count + multipleOwners.count + (leakedHandles?.count ?? 0)
      + missingHandles.count + contradictions.count
  }

  /// `inUse`: who uses which address, in words such as `Workload(default/web)`.
  public init(_ snapshot: IPAMSnapshot, catalog: PoolCatalog, inUse: [IPAddress: [String]], version: String) {
    self.version = version
    let (leaked, missing) = (snapshot.leakedHandles, snapshot.missingHandles)
    leakedHandles = leaked.isEmpty ? nil : leaked.map { Handle(id: $0.handle) }
    missingHandles = missing.map(\.handle)
    goodHandles = snapshot.handles.count - leaked.count
    contradictions = snapshot.contradictions(besides: Set(leaked + missing))
    blocks = snapshot.blocks.map { BlockEntry(cidr: "\($0.cidr)", node: $0.node) }
    pools = catalog.pools.filter { !$0.disabled }.map { "\($0.cidr)" }
    self.inUse = Dictionary(uniqueKeysWithValues: inUse.map { ("\($0.key)", $0.value) })
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

  var sorted: [Entry] { allocations.values.joined().sorted { IPAddress($0.ip)! < IPAddress($1.ip)! } }
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

  /// Deletes a handle that has no address; false where there is no such handle, or it has addresses by now.
  public func release(handle id: String) throws(IPAMError) -> Bool {
    let leaked = try snapshot().leakedHandles.first { $0.handle == id }
    guard let leaked else { return false }
    return try update { objects in
      guard let handle = try objects.handle(leaked) else { return false }
      for (address, cidr) in zip(handle.value.addresses, handle.value.blocks) {
        let block = try objects.block(cidr)?.value
        guard block?.allocations[cidr.ordinal(of: address)]?.attachment != leaked else { return false }
      }
      try objects.delete(handle)
      return true
    }
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
