import Addresses
import IPAM

/// What became of the addresses of a bench: from what the processes wrote down, held against the store's books.
public struct AddressAudit: Sendable, Codable {
  public var processes: Int
  public var operations: Int
  public var kills: Int
  public var seconds: Double
  public var operationsPerSecond: Double
  /// Microseconds an operation.
  public var p50: Int
  public var p99: Int
  public var most: Int
  /// The operations of the process that got the fewest, and of the one that got the most, when the first was done.
  public var fewest: Int
  public var largest: Int
  /// (Σx)² / (n·Σx²) of these: 1 = all got the same.
  public var fairness: Double
  /// Addresses that two had at the same time.
  public var duplicates: [String]
  /// Addresses that somebody has and the store does not know of.
  public var lost: [String]
  /// Addresses that are given and nobody has.
  public var leaked: [String]
  public var contradictions: [String]
  public var borrowed: Int

  public var isClean: Bool { duplicates.isEmpty && lost.isEmpty && leaked.isEmpty && contradictions.isEmpty }

  public init(_ plan: AddressBenchPlan, kills: Int, seconds: Double) throws(IPAMError) {
    let histories = (0..<plan.processes).map { AddressHistory(contentsOf: plan.log($0)) }
    processes = plan.processes
    operations = histories.reduce(0) { $0 + $1.operations }
    self.kills = kills
    self.seconds = seconds
    operationsPerSecond = seconds > 0 ? Double(operations) / seconds : 0
    let durations = histories.flatMap(\.durations).sorted()
    func quantile(_ share: Double) -> Int {
      durations.isEmpty ? 0 : durations[min(durations.count - 1, Int(Double(durations.count) * share))]
    }
    (p50, p99, most) = (quantile(0.5), quantile(0.99), durations.last ?? 0)

    let end = histories.compactMap(\.ends.last).min() ?? 0
    let shares = histories.map { $0.ends.count { $0 <= end } }
    (fewest, largest) = (shares.min() ?? 0, shares.max() ?? 0)
    let sum = Double(shares.reduce(0, +))
    fairness = sum > 0 ? sum * sum / (Double(shares.count) * shares.reduce(0) { $0 + Double($1 * $1) }) : 0

    duplicates = Self.overlaps(histories.flatMap(\.periods))
    let manager = try plan.manager()
    // What a process that was killed last had half done: the collector's work.
    for index in histories.indices {
      _ = try manager.collect(keeping: Set(histories[index].held.keys), network: "worker-\(index)")
    }
    let snapshot = try manager.snapshot()
    contradictions = snapshot.contradictions
    borrowed = snapshot.borrowed.count
    let held = histories.reduce(into: [:]) { $0.merge($1.held) { a, _ in a } }
    lost = held.filter { snapshot.handles[$0.key] != [$0.value] }.map { "\($0.value) of \($0.key)" }.sorted()
    leaked = snapshot.handles.filter { held[$0.key] == nil }.map { "\($0.value) of \($0.key)" }.sorted()
  }

  private static func overlaps(_ periods: [AddressHistory.Period]) -> [String] {
    Dictionary(grouping: periods, by: \.address).compactMap { address, periods in
      let sorted = periods.sorted { $0.from < $1.from }
      let isShared = zip(sorted, sorted.dropFirst()).contains { ($0.to ?? .max) > $1.from }
      return isShared ? "\(address)" : nil
    }.sorted()
  }
}
