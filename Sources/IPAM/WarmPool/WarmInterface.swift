import Addresses

/// What the pool knows of one of the machine's interfaces.
struct WarmInterface: Codable, Sendable, Equatable {
  var id: String
  var isPrimary: Bool
  /// In the order in which they were got.
  var addresses: [WarmAddress]
}

/// An address of a warm pool: somebody's, or cooling down, or free.
struct WarmAddress: Codable, Sendable, Equatable {
  var address: IPAddress
  var attachment: Attachment?
  var pod: PodName?
  /// When it changed hands last, seconds since 1970; 0 = nobody had it yet.
  var since: Int64
  /// The provider does not have it any more, though somebody uses it.
  var isLost: Bool?

  func isFree(_ clock: CoolDown) -> Bool { attachment == nil && isLost != true && !clock.isActive(since: since) }
}

/// What a warm pool has, for `kalsae ipam show` and for metrics.
public struct WarmPoolStatus: Sendable, Equatable, Codable {
  public var interfaces = 0
  public var total = 0
  public var assigned = 0
  public var cooling = 0
  public var free = 0
  /// Assigned addresses that the provider does not have any more.
  public var lost: [IPAddress] = []
}
