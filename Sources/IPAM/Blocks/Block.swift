import Addresses

/// A block of addresses of a pool, and who has which (IPAM-2).
public struct Block: Codable, Sendable, Equatable {
  public let cidr: IPPrefix
  /// The node that takes addresses from the block first; nil where its node is gone while addresses are in use.
  public var node: String?
  /// What is given, by place in the block.
  public internal(set) var allocations: [Int: Allocation] = [:]
  /// When addresses were taken back (seconds since 1970) that are not given again before their cool-down is over.
  public internal(set) var cooling: [Int: Int64] = [:]
  /// The place to look at first: after the last address given, so that an address comes again as late as possible.
  private(set) var next = 0
  /// Rises with each address given: tells two allocations of one address apart.
  private(set) var sequence: UInt64

  /// `time`: seconds since 1970. The numbers of a block that is made anew begin after those of the one before it.
  init(cidr: IPPrefix, node: String?, time: Int64) {
    self.cidr = cidr
    self.node = node
    sequence = UInt64(max(0, time)) << 20
  }

  /// How many addresses the block has.
  public var size: Int { Int(clamping: cidr.size) }

  /// Whether nobody has an address of the block.
  public var isEmpty: Bool { allocations.isEmpty }

  /// The places that cool down at `now`.
  func isCooling(_ ordinal: Int, _ clock: CoolDown) -> Bool {
    cooling[ordinal].map { clock.isActive(since: $0) } ?? false
  }

  /// Takes the next free address; nil where none is.
  mutating func take(_ allocation: Allocation, clock: CoolDown, reserved: [IPPrefix]) -> IPAddress? {
    let reserved = reserved.filter(cidr.overlaps)
    for step in 0..<size {
      let ordinal = (next + step) % size
      guard allocations[ordinal] == nil, !isCooling(ordinal, clock) else { continue }
      let address = cidr.address(at: ordinal)
      guard !reserved.contains(where: { $0.contains(address) }) else { continue }
      give(ordinal, allocation)
      next = (ordinal + 1) % size
      return address
    }
    return nil
  }

  /// Takes this very address, cooling down or not; false where somebody has it.
  mutating func take(_ address: IPAddress, _ allocation: Allocation) -> Bool {
    let ordinal = cidr.ordinal(of: address)
    guard allocations[ordinal] == nil else { return false }
    give(ordinal, allocation)
    return true
  }

  private mutating func give(_ ordinal: Int, _ allocation: Allocation) {
    sequence += 1
    var allocation = allocation
    allocation.sequence = sequence
    allocations[ordinal] = allocation
    cooling[ordinal] = nil
  }

  /// Gives an address back if the handle has it.
  mutating func giveBack(_ address: IPAddress, handle: String, clock: CoolDown) -> Bool {
    let ordinal = cidr.ordinal(of: address)
    guard allocations[ordinal]?.handle == handle else { return false }
    allocations[ordinal] = nil
    cooling = cooling.filter { clock.isActive(since: $0.value) }
    if clock.seconds > 0 { cooling[ordinal] = clock.now }
    return true
  }
}

/// Who has an address.
public struct Allocation: Codable, Sendable, Hashable {
  /// Which allocation of the block it is.
  public internal(set) var sequence: UInt64 = 0
  /// The node that uses the address; another one than the block's where it is borrowed.
  public var node: String
  public var attachment: Attachment
  public var pod: PodName?
  /// Seconds since 1970.
  public var time: Int64

  /// The key of the handle that the address is given back by.
  public var handle: String { attachment.handle }
}

/// The time for which an address is not given again after it was taken back.
struct CoolDown {
  /// Seconds since 1970.
  var now: Int64
  var seconds: Int64

  /// Whether an address that was taken back then still cools down. A time that lies ahead by more than the cool-down
  /// comes from a clock that was wrong, and counts as over.
  func isActive(since release: Int64) -> Bool { release > now - seconds && release <= now + seconds }
}

/// That a node has a block, or is about to have it, or to lose it (IPAM-2).
///
/// Each step is a write of its own: a node that stops half way finds the affinity and goes on, or back.
public struct Affinity: Codable, Sendable, Equatable {
  public enum State: String, Codable, Sendable {
    /// The block is not made yet.
    case pending
    /// The node takes addresses from the block.
    case confirmed
    /// The block is about to be given up: no addresses are taken from it.
    case pendingDeletion
  }

  public var node: String
  public var cidr: IPPrefix
  public var state: State

  public init(node: String, cidr: IPPrefix, state: State) {
    self.node = node
    self.cidr = cidr
    self.state = state
  }

  static func key(_ node: String, _ cidr: IPPrefix) -> String { "\(node)|\(cidr)" }
}

/// What an attachment has, in whichever blocks.
struct Handle: Codable, Sendable, Equatable {
  var attachment: Attachment
  var addresses: [IPAddress]
  /// The blocks of the addresses, in the same order.
  var blocks: [IPPrefix]
}

extension Attachment {
  /// The key of the attachment's handle. None of the parts can hold a `|`: names of networks and interfaces and
  /// container ids have no such character (CNI specification, section 2).
  var handle: String { "\(network)|\(containerID)|\(interface)" }
}

/// The settings that all nodes of a store share. The names are calicoctl's.
public struct IPAMConfiguration: Codable, Sendable, Equatable {
  /// Whether addresses are taken from the node's own blocks only: nothing is borrowed. Default false.
  public var strictAffinity = false
  /// Whether nodes take blocks by themselves. Default true.
  public var autoAllocateBlocks = true
  /// The most blocks of a family that a node may have; 0 (default) = any number.
  public var maxBlocksPerHost = 0
  /// How long an address is not given again after it was taken back, in seconds. Default 30.
  public var coolDownSeconds: Int64 = 30

  public init() {}
}
