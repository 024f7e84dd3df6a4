import Addresses
import Model

/// How a node gets blocks, and gives them up: by steps of which each is one write, so that whoever stops half way
/// leaves nothing that the next call does not finish.
struct BlockClaims {
  private let manager: BlockManager
  private let node: String
  private let reservations: [IPPrefix]

  init(_ manager: BlockManager, node: String, reservations: [IPPrefix] = []) {
    self.manager = manager
    self.node = node
    self.reservations = reservations
  }

  /// Gets a block of the pools: a new one, else an empty one of another node. False where there is none.
  mutating func claimAny(in pools: [IPPool]) throws(IPAMError) -> Bool {
    try settle()
    guard try mayClaim(pools) else { return false }
    for pool in pools {
      // Each round that fails lost its block to another node, which has it now: there are others.
      for _ in 0..<32 {
        guard let cidr = try findFree(pool) else { break }
        if try claim(cidr) { return true }
      }
    }
    for pool in pools {
      for _ in 0..<32 {
        guard let (cidr, owner) = try findEmpty(pool) else { break }
        if try giveUp(cidr, of: owner), try claim(cidr) { return true }
      }
    }
    return false
  }

  private func mayClaim(_ pools: [IPPool]) throws(IPAMError) -> Bool {
    try manager.read { objects in
      let configuration = try objects.configuration().value
      guard configuration.autoAllocateBlocks else { return false }
      guard configuration.maxBlocksPerHost > 0, let family = pools.first?.cidr.family else { return true }
      let own = try objects.affinities(of: node).count { $0.value.cidr.family == family }
      return own < configuration.maxBlocksPerHost
    }
  }

  // MARK: Claiming

  /// Gets this block for the node, or finds that it has it. False where another node has it, or a part of it.
  @discardableResult
  func claim(_ cidr: IPPrefix) throws(IPAMError) -> Bool {
    // First say that the node wants it…
    let mayGoOn = try manager.update { objects in
      guard try isFree(cidr, objects) else { return false }
      var affinity =
        try objects.affinity(node, cidr)
        ?? Objects.Versioned(value: Affinity(node: node, cidr: cidr, state: .pending), revision: nil)
      guard affinity.value.state != .confirmed else { return true }
      affinity.value.state = .pending
      try objects.put(affinity)
      return true
    }
    // …then make it and say that it is the node's. Of several nodes one comes first.
    guard mayGoOn else { return false }
    return try confirm(cidr)
  }

  private func confirm(_ cidr: IPPrefix) throws(IPAMError) -> Bool {
    try manager.update { objects in
      guard var affinity = try objects.affinity(node, cidr) else { return false }
      guard affinity.value.state != .pendingDeletion else { return false }
      guard try isFree(cidr, objects) else {
        try objects.delete(affinity)
        return false
      }
      if try objects.block(cidr) == nil {
        try objects.put(Objects.Versioned(value: Block(cidr: cidr, node: node, time: manager.time()), revision: nil))
      }
      if affinity.value.state == .pending {
        affinity.value.state = .confirmed
        try objects.put(affinity)
      }
      return true
    }
  }

  /// Whether the node may have the block: nobody else has it or a block that overlaps it.
  private func isFree(_ cidr: IPPrefix, _ objects: Objects) throws -> Bool {
    for other in try objects.blockCIDRs() where other.overlaps(cidr) {
      guard other == cidr, try objects.block(cidr)?.value.node == node else { return false }
    }
    return true
  }

  /// A part of the pool that is no block yet. Nodes begin to look at different places.
  private func findFree(_ pool: IPPool) throws(IPAMError) -> IPPrefix? {
    let taken = try manager.read { objects in try objects.blockCIDRs() }.filter(pool.cidr.overlaps)
    let bits = UInt128(pool.blockSize - pool.cidr.length)
    let count: UInt128 = 1 << bits
    let size: UInt128 = 1 << UInt128(pool.cidr.family.width - pool.blockSize)
    // Blocks of another size, from before the pool was changed, take several places, or a part of one.
    var occupied: Set<UInt128> = []
    for block in taken {
      let from = max(block.first, pool.cidr.first)
      let to = min(block.last, pool.cidr.last)
      for index in (from - pool.cidr.first) / size...(to - pool.cidr.first) / size { occupied.insert(index) }
    }
    let start = UInt128(stableHash(node)) % count
    for step in 0...UInt128(occupied.count) where step < count {
      let index = (start + step) % count
      let cidr = IPPrefix(
        IPAddress(number: pool.cidr.first + index * size, pool.cidr.family), length: pool.blockSize)!
      // All of the block may be reserved.
      if !occupied.contains(index), !reservations.contains(where: { $0.contains(cidr) }) { return cidr }
      if reservations.contains(where: { $0.contains(cidr) }) { return try findUnreserved(pool, occupied, start) }
    }
    return nil
  }

  /// The slow way, where reservations cover whole blocks; looks at a bounded number of places.
  private func findUnreserved(_ pool: IPPool, _ occupied: Set<UInt128>, _ start: UInt128) throws(IPAMError)
    -> IPPrefix?
  {
    let count: UInt128 = 1 << UInt128(pool.blockSize - pool.cidr.length)
    let size: UInt128 = 1 << UInt128(pool.cidr.family.width - pool.blockSize)
    for step in 0..<min(count, 1 << 20) {
      let index = (start + step) % count
      guard !occupied.contains(index) else { continue }
      let cidr = IPPrefix(
        IPAddress(number: pool.cidr.first + index * size, pool.cidr.family), length: pool.blockSize)!
      if !reservations.contains(where: { $0.contains(cidr) }) { return cidr }
    }
    return nil
  }

  // MARK: Giving up

  /// A block of another node in which no address is in use or cools down.
  private func findEmpty(_ pool: IPPool) throws(IPAMError) -> (IPPrefix, String)? {
    try manager.read { objects in
      let clock = try manager.coolDown(objects)
      for cidr in try objects.blockCIDRs() where pool.cidr.contains(cidr) {
        guard let block = try objects.block(cidr)?.value, let owner = block.node, owner != node, block.isEmpty,
          !block.cooling.values.contains(where: clock.isActive)
        else { continue }
        return (cidr, owner)
      }
      return nil
    }
  }

  /// Takes an empty block from its node. False where it is not empty any more.
  func giveUp(_ cidr: IPPrefix, of owner: String) throws(IPAMError) -> Bool {
    // First keep the owner from taking addresses…
    try manager.update { objects in
      guard var affinity = try objects.affinity(owner, cidr), affinity.value.state != .pendingDeletion else { return }
      affinity.value.state = .pendingDeletion
      try objects.put(affinity)
    }
    // …then take the block away, unless one was taken in between.
    return try finishGivingUp(cidr, of: owner)
  }

  private func finishGivingUp(_ cidr: IPPrefix, of owner: String) throws(IPAMError) -> Bool {
    try manager.update { objects in
      let block = try objects.block(cidr)
      var affinity = try objects.affinity(owner, cidr)
      if let block, block.value.node == owner {
        guard block.value.isEmpty else {
          affinity?.value.state = .confirmed
          if let affinity { try objects.put(affinity) }
          return false
        }
        guard affinity == nil || affinity!.value.state == .pendingDeletion else { return false }
        try objects.delete(block)
      }
      if let affinity, affinity.value.state == .pendingDeletion { try objects.delete(affinity) }
      return true
    }
  }

  /// Finishes what the node, or one that gave its block up, began and did not end.
  func settle() throws(IPAMError) {
    let open = try manager.read { objects in
      try objects.affinities().map(\.value).filter {
        $0.state == .pendingDeletion || $0.state == .pending && $0.node == node
      }
    }
    for affinity in open {
      switch affinity.state {
      case .pending: _ = try confirm(affinity.cidr)
      case .pendingDeletion: _ = try finishGivingUp(affinity.cidr, of: affinity.node)
      case .confirmed: break
      }
    }
  }
}
