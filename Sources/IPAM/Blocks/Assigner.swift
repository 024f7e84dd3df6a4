import Addresses
import Model

/// One request for addresses of blocks.
///
/// All addresses and the handle are one write. Where it finds no room, it is broken off without having written
/// anything, a block is got in writes of their own, and it begins anew.
struct Assigner {
  private let manager: BlockManager
  private let request: AssignRequest
  private let catalog: PoolCatalog
  /// The pools to take from, by family.
  private var pools: [IPFamily: [IPPool]] = [:]

  init(_ manager: BlockManager, _ request: AssignRequest) throws(IPAMError) {
    self.manager = manager
    self.request = request
    catalog = manager.catalog()
    for address in request.requested {
      guard let pool = catalog.pool(of: address) else {
        throw IPAMError(.refused, "\(address) is in no IPPool; ask for an address of a pool, or add one")
      }
      guard !pool.disabled else {
        throw IPAMError(.refused, "\(address) is in the IPPool \(pool.name), which is disabled; enable it")
      }
    }
    guard Set(request.requested).count == request.requested.count else {
      throw IPAMError(.refused, "an address is asked for twice; name each once")
    }
    guard request.requested.isEmpty else { return }
    guard !request.families.isEmpty else { throw IPAMError(.configuration, "no address family is asked for") }
    for family in request.families {
      pools[family] = try catalog.usable(family, node: request.node, chosen: request.pools)
    }
  }

  /// What an attempt came to.
  private enum Outcome {
    case done(Assignment)
    /// The node's blocks have no address of the family.
    case full(IPFamily)
    /// The block of a requested address does not exist.
    case missing(IPPrefix)
  }

  func run() throws(IPAMError) -> Assignment {
    var claims = BlockClaims(manager, node: request.node, reservations: catalog.reservations)
    var mayBorrow: Set<IPFamily> = []
    // A block that was just got may be full before it is used: others of the node take from it too.
    for _ in 0..<64 {
      switch try manager.update({ try attempt($0, mayBorrow) }) {
      case .done(let assignment): return assignment
      case .missing(let cidr): try claims.claim(cidr)
      case .full(let family):
        guard !mayBorrow.contains(family) else { throw try exhausted(family) }
        if try !claims.claimAny(in: pools[family] ?? []) { mayBorrow.insert(family) }
      }
    }
    throw IPAMError(.busy, "the blocks of node \(request.node) are full as soon as they are got; try again")
  }

  private func attempt(_ objects: Objects, _ mayBorrow: Set<IPFamily>) throws -> Outcome {
    if let handle = try objects.handle(request.attachment)?.value {
      // The caller did not hear the answer to this request before.
      guard isAnswered(by: handle.addresses) else {
        throw IPAMError(
          .refused,
          "\(request.attachment) has \(handle.addresses.map(\.description).joined(separator: ", ")) already; "
            + "delete it before it is added again")
      }
      return .done(result(handle.addresses))
    }
    let configuration = try objects.configuration().value
    var work = Work(manager: manager, request: request, objects: objects, clock: try manager.coolDown(objects))
    for address in request.requested {
      let pool = catalog.pool(of: address)!
      switch try work.take(address, strict: configuration.strictAffinity) {
      case .taken: break
      case .noBlock: return .missing(IPPrefix(address, length: pool.blockSize)!)
      }
    }
    for family in pools.keys.sorted(by: { $0 == .ipv4 && $1 == .ipv6 }) {
      if try work.takeOwn(pools[family]!, catalog.reservations) { continue }
      guard mayBorrow.contains(family), !configuration.strictAffinity,
        try work.borrow(pools[family]!, catalog.reservations)
      else { return .full(family) }
    }
    try work.write()
    return .done(result(work.addresses))
  }

  private func isAnswered(by addresses: [IPAddress]) -> Bool {
    request.requested.isEmpty
      ? addresses.count == request.families.count && Set(addresses.map(\.family)) == request.families
      : Set(addresses) == Set(request.requested)
  }

  private func result(_ addresses: [IPAddress]) -> Assignment {
    Assignment(
      addresses: addresses.sorted().map {
        AssignedAddress(address: $0, prefixLength: $0.family.width, pool: catalog.pool(of: $0)?.name)
      })
  }

  private func exhausted(_ family: IPFamily) throws(IPAMError) -> IPAMError {
    let names = (pools[family] ?? []).map { "\($0.name) (\($0.cidr))" }.joined(separator: ", ")
    let (configuration, cooling, owned) = try manager.read { objects in
      let clock = try manager.coolDown(objects)
      let blocks = try objects.blocks().map(\.value).filter { block in
        (pools[family] ?? []).contains { $0.cidr.contains(block.cidr) }
      }
      return (
        try objects.configuration().value,
        blocks.reduce(0) { $0 + $1.cooling.values.count { clock.isActive(since: $0) } },
        blocks.count { $0.node == request.node }
      )
    }
    var message = "no free \(family.rawValue) address for node \(request.node) in \(names)"
    if configuration.strictAffinity { message += "; nothing is borrowed, because strictAffinity is set" }
    if !configuration.autoAllocateBlocks {
      message += "; no block is taken, because autoAllocateBlocks is off"
    } else if configuration.maxBlocksPerHost > 0, owned >= configuration.maxBlocksPerHost {
      message += "; the node has \(owned) blocks, and maxBlocksPerHost allows no more"
    }
    if cooling > 0 { message += "; \(cooling) cool down for up to \(configuration.coolDownSeconds) s" }
    return IPAMError(
      .exhausted, message + ". Add an IPPool, or look for leaked addresses with `kalsae ipam check`")
  }
}

/// The blocks that one attempt changes, before they are written.
private struct Work {
  let manager: BlockManager
  let request: AssignRequest
  let objects: Objects
  let clock: CoolDown
  private var changed: [IPPrefix: Objects.Versioned<Block>] = [:]
  private(set) var addresses: [IPAddress] = []
  private var cidrs: [IPPrefix] = []

  init(manager: BlockManager, request: AssignRequest, objects: Objects, clock: CoolDown) {
    self.manager = manager
    self.request = request
    self.objects = objects
    self.clock = clock
  }

  private var allocation: Allocation {
    Allocation(
      node: request.node, attachment: request.attachment, pod: request.pod, time: clock.now)
  }

  private func block(_ cidr: IPPrefix) throws -> Objects.Versioned<Block>? {
    try changed[cidr] ?? objects.block(cidr)
  }

  private mutating func note(_ address: IPAddress, _ block: Objects.Versioned<Block>) {
    addresses.append(address)
    cidrs.append(block.value.cidr)
    changed[block.value.cidr] = block
  }

  enum Taking { case taken, noBlock }

  /// Takes a requested address.
  mutating func take(_ address: IPAddress, strict: Bool) throws -> Taking {
    guard let cidr = try objects.blockCIDRs().first(where: { $0.contains(address) }), var block = try block(cidr)
    else { return .noBlock }
    if let owner = block.value.allocations[cidr.ordinal(of: address)] {
      throw IPAMError(
        .refused,
        "\(address) is in use by \(owner.pod?.description ?? owner.attachment.description) on node "
          + "\(owner.node); ask for another address, or release it")
    }
    if strict, block.value.node != request.node {
      throw IPAMError(
        .refused,
        "\(address) is in the block \(cidr) of node \(block.value.node ?? "nobody"), and strictAffinity is "
          + "set; run the pod there, or ask for another address")
    }
    _ = block.value.take(address, allocation)
    note(address, block)
    return .taken
  }

  /// Takes an address of the node's own blocks.
  mutating func takeOwn(_ pools: [IPPool], _ reserved: [IPPrefix]) throws -> Bool {
    let own = try objects.affinities(of: request.node).map(\.value).filter { $0.state == .confirmed }
    for pool in pools {
      for affinity in own where pool.cidr.contains(affinity.cidr) {
        guard let block = try block(affinity.cidr), block.value.node == request.node else { continue }
        if take(from: block, reserved) { return true }
      }
    }
    return false
  }

  /// Takes an address of another node's block. Where to look first differs from node to node.
  mutating func borrow(_ pools: [IPPool], _ reserved: [IPPrefix]) throws -> Bool {
    let all = try objects.blockCIDRs()
    for pool in pools {
      let cidrs = all.filter(pool.cidr.contains)
      guard !cidrs.isEmpty else { continue }
      let start = Int(stableHash(request.node) % UInt64(cidrs.count))
      for step in cidrs.indices {
        guard let block = try block(cidrs[(start + step) % cidrs.count]) else { continue }
        if take(from: block, reserved) { return true }
      }
    }
    return false
  }

  private mutating func take(from block: Objects.Versioned<Block>, _ reserved: [IPPrefix]) -> Bool {
    var block = block
    guard let address = block.value.take(allocation, clock: clock, reserved: reserved) else { return false }
    note(address, block)
    return true
  }

  func write() throws {
    for block in changed.values { try objects.put(block) }
    try objects.put(
      Objects.Versioned(
        value: Handle(attachment: request.attachment, addresses: addresses, blocks: cidrs), revision: nil))
  }
}
