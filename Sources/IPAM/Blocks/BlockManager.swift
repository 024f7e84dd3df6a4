import Addresses
import CLinux
import Model

/// Addresses from blocks that nodes take from pools (IPAM-2).
///
/// An address comes from the node's own blocks; where they are full, from a new block; where the pool has none left,
/// from an empty block of another node, which changes hands; and else it is borrowed from another node's block, unless
/// affinity is strict.
public final class BlockManager: AddressManager {
  let store: any ObjectStore
  let catalog: @Sendable () -> PoolCatalog
  /// Seconds since 1970.
  let time: @Sendable () -> Int64

  /// `catalog` is asked with each call, and may come from any thread.
  public init(
    store: any ObjectStore, catalog: @escaping @Sendable () -> PoolCatalog,
    time: @escaping @Sendable () -> Int64 = { Int64(kalsae_realtime() / 1_000_000_000) }
  ) {
    self.store = store
    self.catalog = catalog
    self.time = time
  }

  // MARK: AddressManager

  public func assign(_ request: AssignRequest) throws(IPAMError) -> Assignment {
    let assigner = try Assigner(self, request)
    return try assigner.run()
  }

  public func release(_ attachment: Attachment) throws(IPAMError) {
    try update { objects in
      guard let handle = try objects.handle(attachment) else { return }
      try self.giveBack(handle, objects)
    }
  }

  public func collect(keeping valid: Set<Attachment>, network: String) throws(IPAMError) -> [Attachment] {
    let known = try read { objects in try objects.handles(ofNetwork: network).map(\.value.attachment) }
    // One at a time: others get a turn in between.
    let stale = known.filter { !valid.contains($0) }
    for attachment in stale { try release(attachment) }
    return stale
  }

  public func check(_ attachment: Attachment, has addresses: [IPAddress]) throws(IPAMError) {
    let (handle, owners) = try read { objects in
      let handle = try objects.handle(attachment)?.value
      let owners = try (handle.map { zip($0.addresses, $0.blocks).map { $0 } } ?? []).map { address, cidr in
        let block = try objects.block(cidr)?.value
        return block?.allocations[cidr.ordinal(of: address)]?.handle
      }
      return (handle, owners)
    }
    let known = Set(handle?.addresses ?? [])
    for address in addresses where !known.contains(address) {
      throw IPAMError(
        .mismatch, "\(address) is not assigned to \(attachment); delete the container and make it again")
    }
    for address in known.sorted() where !addresses.contains(address) {
      throw IPAMError(
        .mismatch,
        "\(attachment) has \(address) too, which is not in its result; delete the container and make it again")
    }
    if let lost = zip(handle?.addresses ?? [], owners).first(where: { $1 != attachment.handle }) {
      throw IPAMError(
        .mismatch, "\(lost.0) of \(attachment) is not marked as given in its block; run `kalsae ipam check`")
    }
  }

  public func ready() throws(IPAMError) {
    _ = try read { try $0.configuration() }
    guard catalog().pools.contains(where: { !$0.disabled }) else {
      throw IPAMError(.exhausted, "there is no IPPool that is not disabled; add one to the manifests")
    }
  }

  // MARK: Shared

  func coolDown(_ objects: Objects) throws -> CoolDown {
    CoolDown(now: time(), seconds: try objects.configuration().value.coolDownSeconds)
  }

  /// Takes back what a handle has, and the handle.
  func giveBack(_ handle: Objects.Versioned<Handle>, _ objects: Objects) throws {
    let clock = try coolDown(objects)
    for (cidr, addresses) in Dictionary(grouping: zip(handle.value.addresses, handle.value.blocks), by: { $0.1 }) {
      guard var block = try objects.block(cidr) else { continue }
      var changed = false
      for (address, _) in addresses {
        if block.value.giveBack(address, handle: handle.value.attachment.handle, clock: clock) { changed = true }
      }
      guard changed else { continue }
      // Nobody would ever give up a block whose node is gone.
      if block.value.node == nil, block.value.isEmpty {
        try objects.delete(block)
      } else {
        try objects.put(block)
      }
    }
    try objects.delete(handle)
  }

  func update<R>(_ body: (Objects) throws -> R) throws(IPAMError) -> R { try store.updateObjects(body) }

  func read<R>(_ body: (Objects) throws -> R) throws(IPAMError) -> R { try store.readObjects(body) }
}
