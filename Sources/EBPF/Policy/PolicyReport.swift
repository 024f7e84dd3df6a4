import CEBPF
import Dataplane

/// What the programs for policy have done on a node.
public struct PolicyReport: Sendable, Codable {
  /// Entries of the maps.
  public var rules = 0
  public var connections = 0
  public var devices = 0
  public var counters: [EBPFReport.Counter] = []

  /// In the order of `kalsae_policy_counter`; drops as the data plane calls them.
  static let counterNames: [(name: String, meaning: String)] =
    [
      ("known", "packets of connections that are known"),
      ("allowed", "first packets that no policy forbids"),
      ("passed", "address resolution, which policy does not concern"),
    ]
    + dropReasons.map { ($0.name, $0.explanation) }

  /// The names of the counters of dropped packets.
  public static var dropNames: Set<String> { Set(dropReasons.map(\.name)) }

  /// The reasons of those of them that are drops.
  static let dropReasons: [DropReason] = [
    .policyEgress, .policyIngress, .sourceAddress, .invalidSource, .truncatedFrame, .unknownVLAN, .unknownEtherType,
    .badIPv4Header, .badIPv6Header, .badExtensionHeader, .badTransport, .fragmentNoFirst,
    .sourceRoute, .multicast, .invalidDestination, .tunnelFromPod, .tcpNoSYN,
  ]

  static func read(_ folder: PinFolder) -> PolicyReport? {
    var report: PolicyReport?
    for place in folder.policies {
      guard let counts = PinFolder.get("\(place)/policy_counts") else { continue }
      var sum = report ?? PolicyReport()
      sum.devices = PolicyEnforcer.devices(of: folder)
      if let pinned = PinFolder.get("\(place)/policy_rules"),
        let map: BPFMap<kalsae_policy_rule_key, UInt64> = try? BPFMap("policy_rules", pinned)
      {
        sum.rules += map.keyCount(kalsae_policy_rule_key())
      }
      if let pinned = PinFolder.get("\(place)/policy_conns"),
        let map: BPFMap<kalsae_policy_connection_key, kalsae_policy_connection> = try? BPFMap("policy_conns", pinned)
      {
        sum.connections += map.keyCount(kalsae_policy_connection_key())
      }
      sum.counters = EBPFReport.Counter.sum(counterNames, of: counts, and: sum.counters)
      report = sum
    }
    return report
  }
}
