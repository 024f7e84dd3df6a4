/// How many addresses a warm pool keeps at hand (IPAM-3). The names of the settings are the AWS VPC CNI's.
public struct WarmPoolTargets: Sendable, Hashable, Codable {
  /// `WARM_IP_TARGET`: free addresses to keep; nil = count interfaces instead.
  public var warmIPTarget: Int?
  /// `MINIMUM_IP_TARGET`: addresses to have at least, free or not; nil = none.
  public var minimumIPTarget: Int?
  /// `WARM_ENI_TARGET`: whole interfaces of free addresses to keep, where `warmIPTarget` and `minimumIPTarget` do not
  /// say. Default 1.
  public var warmENITarget = 1
  /// How long an address is not given again after it was taken back, in seconds. Default 30.
  public var coolDownSeconds: Int64 = 30

  public init() {}

  /// What a pool of this many addresses lacks to meet the targets (above 0), or has too many (below 0).
  ///
  /// An address that cools down counts as being at hand: pods that come and go do not make the pool grow. Where
  /// interfaces are counted, one is given up only when the pool would still be warm with one more gone.
  func shortfall(total: Int, assigned: Int, limits: InterfaceLimits) -> Int {
    if warmIPTarget != nil || minimumIPTarget != nil {
      return max(assigned + (warmIPTarget ?? 0), minimumIPTarget ?? 0) - total
    }
    let perInterface = limits.podAddressesPerInterface
    let (atHand, wanted) = (total - assigned, warmENITarget * perInterface)
    return atHand < wanted || atHand >= wanted + perInterface ? wanted - atHand : 0
  }

  var countsInterfaces: Bool { warmIPTarget == nil && minimumIPTarget == nil }
}
