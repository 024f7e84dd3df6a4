import Addresses
import Model

/// How full a pool or a block is (IPAM-5).
public struct Utilization: Sendable, Equatable, Codable {
  public enum Grouping: String, Sendable, Codable {
    case pool = "IP Pool"
    case block = "Block"
  }

  public var grouping: Grouping
  public var cidr: IPPrefix
  /// The name of the pool; nil for blocks.
  public var name: String?
  /// The node that has the block.
  public var node: String?
  /// All addresses. A number that is too large for 64 bits stands as the nearest one that is not.
  public var total: Double
  /// Given, or cooling down.
  public var inUse: Int
  /// Reserved, and not in use.
  public var reserved: Double
  /// The part of `inUse` that cools down.
  public var cooling: Int
  public var blocks: [Utilization]?

  public var free: Double { total - Double(inUse) - reserved }
}

extension IPAMSnapshot {
  /// The pools in the order of their addresses, with their blocks. Blocks of no pool come last, under no pool.
  public func utilization(_ catalog: PoolCatalog) -> (pools: [Utilization], orphans: [Utilization]) {
    let pools = catalog.pools.sorted { $0.cidr.address < $1.cidr.address }.map { pool in
      let inside = blocks.filter { pool.cidr.contains($0.cidr) }.map { utilization($0, catalog.reservations) }
      return Utilization(
        grouping: .pool, cidr: pool.cidr, name: pool.name, total: Double(pool.cidr.size),
        inUse: inside.reduce(0) { $0 + $1.inUse },
        reserved: reserved(in: pool.cidr, catalog.reservations)
          - Double(reservedInUse(pool.cidr, catalog.reservations)),
        cooling: inside.reduce(0) { $0 + $1.cooling }, blocks: inside)
    }
    let orphans = blocks.filter { block in !catalog.pools.contains { $0.cidr.contains(block.cidr) } }
    return (pools, orphans.map { utilization($0, catalog.reservations) })
  }

  private func utilization(_ block: Block, _ reservations: [IPPrefix]) -> Utilization {
    let cooling = block.cooling.values.count(where: clock.isActive)
    return Utilization(
      grouping: .block, cidr: block.cidr, node: block.node, total: Double(block.size),
      inUse: block.allocations.count + cooling,
      reserved: reserved(in: block.cidr, reservations) - Double(reservedInUse(block.cidr, reservations)),
      cooling: cooling)
  }

  /// Reservations may overlap: what lies in another one is not counted again.
  private func reserved(in cidr: IPPrefix, _ reservations: [IPPrefix]) -> Double {
    let relevant = Set(reservations.filter(cidr.overlaps).map { cidr.contains($0) ? $0 : cidr })
    return relevant.filter { one in !relevant.contains { $0 != one && $0.contains(one) } }
      .reduce(0) { $0 + Double($1.size) }
  }

  private func reservedInUse(_ cidr: IPPrefix, _ reservations: [IPPrefix]) -> Int {
    let relevant = reservations.filter(cidr.overlaps)
    guard !relevant.isEmpty else { return 0 }
    return blocks.filter { cidr.contains($0.cidr) }.reduce(0) { sum, block in
      let used = Array(block.allocations.keys) + block.cooling.filter { clock.isActive(since: $0.value) }.map(\.key)
      return sum + used.count { ordinal in relevant.contains { $0.contains(block.cidr.address(at: ordinal)) } }
    }
  }

  /// An address that a node uses out of another node's block.
  public struct Borrowed: Sendable, Equatable, Codable {
    public var address: IPAddress
    public var borrowingNode: String
    public var block: IPPrefix
    /// Empty where no node has the block.
    public var blockOwner: String
    public var type: String
    public var allocatedTo: String
  }

  public var borrowed: [Borrowed] {
    blocks.flatMap { block in
      block.allocations.sorted { $0.key < $1.key }.filter { $0.value.node != block.node }.map { ordinal, allocation in
        Borrowed(
          address: block.cidr.address(at: ordinal), borrowingNode: allocation.node, block: block.cidr,
          blockOwner: block.node ?? "", type: allocation.pod == nil ? "" : "pod",
          allocatedTo: allocation.pod?.description ?? "")
      }
    }
  }

  /// Who has an address.
  public func owner(of address: IPAddress) -> Allocation? {
    blocks.first { $0.cidr.contains(address) }.flatMap { $0.allocations[$0.cidr.ordinal(of: address)] }
  }

  /// The blocks of each node, and the addresses that it borrows: where packets to them go (NODE-7).
  public func routes(toNode node: String) -> [IPPrefix] {
    blocks.filter { $0.node == node }.map(\.cidr)
      + borrowed.filter { $0.borrowingNode == node }.map { IPPrefix(host: $0.address) }
  }
}
