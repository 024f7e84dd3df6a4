import Addresses

/// Everything block mode knows, read in one go.
public struct IPAMSnapshot: Sendable {
  public var configuration: IPAMConfiguration
  /// In the order of their addresses.
  public var blocks: [Block]
  public var affinities: [Affinity]
  /// The addresses that handles say they have.
  public var handles: [Attachment: [IPAddress]]
  /// When it was read, seconds since 1970.
  public var time: Int64

  var clock: CoolDown { CoolDown(now: time, seconds: configuration.coolDownSeconds) }
}

extension BlockManager {
  public func snapshot() throws(IPAMError) -> IPAMSnapshot {
    try read { objects in
      IPAMSnapshot(
        configuration: try objects.configuration().value,
        blocks: try objects.blocks().map(\.value).sorted {
          ($0.cidr.address, $0.cidr.length) < ($1.cidr.address, $1.cidr.length)
        },
        affinities: try objects.affinities().map(\.value),
        handles: Dictionary(
          uniqueKeysWithValues: try objects.handles().map { ($0.value.attachment, $0.value.addresses) }),
        time: time())
    }
  }

  /// Changes the settings that all nodes share.
  public func configure(_ change: (inout IPAMConfiguration) -> Void) throws(IPAMError) {
    try update { objects in
      var configuration = try objects.configuration()
      change(&configuration.value)
      try objects.put(configuration)
    }
  }
}

extension IPAMSnapshot {
  /// What block mode's own books say against each other (IPAM-6). Empty when all is well.
  ///
  /// Blocks that are half claimed or half given up are no contradiction: the next claim goes on with them.
  public var contradictions: [String] { contradictions(besides: []) }

  /// Handles none of whose addresses is given to them, in order.
  var leakedHandles: [Attachment] {
    handles.filter { attachment, addresses in
      !addresses.contains { owner(of: $0)?.attachment == attachment }
    }.keys.sorted()
  }

  /// Those who have addresses and no handle, in order.
  var missingHandles: [Attachment] {
    Set(blocks.flatMap { $0.allocations.values.map(\.attachment) }).filter { handles[$0] == nil }.sorted()
  }

  /// `known`: whose handles are told of elsewhere.
  func contradictions(besides known: Set<Attachment>) -> [String] {
    var found: [String] = []
    for (block, next) in zip(blocks, blocks.dropFirst()) where block.cidr.overlaps(next.cidr) {
      found.append("the blocks \(block.cidr) and \(next.cidr) overlap")
    }
    var owners: [IPAddress: Allocation] = [:]
    for block in blocks {
      for (ordinal, allocation) in block.allocations.sorted(by: { $0.key < $1.key }) {
        let address = block.cidr.address(at: ordinal)
        if let other = owners.updateValue(allocation, forKey: address) {
          found.append("\(address) is given twice: to \(other.attachment) and \(allocation.attachment)")
        }
        if ordinal >= block.size { found.append("\(address) lies outside of its block \(block.cidr)") }
        if !known.contains(allocation.attachment), handles[allocation.attachment]?.contains(address) != true {
          found.append("\(address) is given to \(allocation.attachment), whose handle does not say so")
        }
      }
    }
    for (attachment, addresses) in handles.sorted(by: { $0.key < $1.key }) where !known.contains(attachment) {
      for address in addresses where owners[address]?.attachment != attachment {
        found.append("the handle of \(attachment) has \(address), which is not given to it")
      }
    }
    let confirmed = Dictionary(
      grouping: affinities.filter { $0.state == .confirmed }, by: \.cidr)
    for (cidr, holders) in confirmed {
      if holders.count > 1 { found.append("\(cidr) is confirmed for \(holders.map(\.node).joined(separator: ", "))") }
      for holder in holders where blocks.first(where: { $0.cidr == cidr })?.node != holder.node {
        found.append("\(cidr) is confirmed for \(holder.node), which does not have it")
      }
    }
    for block in blocks {
      if let node = block.node, !affinities.contains(where: { $0.node == node && $0.cidr == block.cidr }) {
        found.append("\(block.cidr) is \(node)'s, but has no affinity")
      }
    }
    return found
  }
}
