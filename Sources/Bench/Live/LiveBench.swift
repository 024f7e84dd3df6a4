import Lab

/// One figure of one subject: the median of the rounds, and the least and the most.
public struct LiveResult: Sendable, Codable {
  public var subject: String
  public var measure: LiveMeasure
  public var unit: String
  public var median: Double
  public var min: Double
  public var max: Double
  public var rounds: Int
  /// To what the reference reached: the median of the ratios inside each round.
  public var ratio: Double?
}

/// What was measured on.
public struct LiveMachine: Sendable, Codable {
  public var processor = Processors.model
  public var processors = Processors.count
  public var kernel = Processors.kernel

  public init() {}
}

/// Measures pods' traffic through the daemon, and through what a user would have instead, in one run.
public struct LiveBench {
  public var rounds = 3
  /// The length of one measurement.
  public var seconds = 1.0
  public var subjects: [String]
  public var measures = LiveMeasure.allCases
  /// Told what happens next.
  public var progress: (String) -> Void = { _ in }

  /// The subject that others are compared with.
  public let reference: String
  private let catalogue: [(name: String, kind: LiveKind)]

  /// The names that `subjects` may hold, in the order of the results.
  public var subjectNames: [String] { catalogue.map(\.name) }

  /// What carries pods' packets from node to node.
  public static var live: LiveBench { LiveBench(LiveKind.all, reference: "kernel-vxlan", LiveKind.usual) }

  /// The kinds of ports by themselves, with a thread that forwards between two of them.
  public static var ports: LiveBench {
    LiveBench(LiveKind.ports, reference: "kernel-route", LiveKind.ports.map(\.name))
  }

  private init(_ catalogue: [(name: String, kind: LiveKind)], reference: String, _ subjects: [String]) {
    self.catalogue = catalogue
    self.reference = reference
    self.subjects = subjects
  }

  /// - Parameter program: the path of `kalsae`.
  public func run(program: String) throws -> [LiveResult] {
    var made: [LiveSubject] = []
    defer { for subject in made { subject.tearDown() } }
    for (name, kind) in catalogue where subjects.contains(name) {
      progress("setting up \(name)…")
      let subject = try kind.make(name, program: program)
      made.append(subject)
      try subject.warmUp()
      subject.rest()
    }
    // By subject and measure, a value for each round.
    var values: [String: [LiveMeasure: [Double]]] = [:]
    for round in 0..<rounds {
      // Every subject once a round, so that what else happens on the machine meets all of them.
      for subject in made {
        progress("round \(round + 1) of \(rounds): \(subject.name)…")
        for (measure, value) in try measure(subject) {
          values[subject.name, default: [:]][measure, default: []].append(value)
        }
      }
    }
    let reference = values[reference]
    return made.flatMap { subject in
      measures.compactMap { measure -> LiveResult? in
        guard let list = values[subject.name]?[measure], !list.isEmpty else { return nil }
        let base = reference?[measure] ?? []
        let ratios = base.count == list.count ? zip(list, base).filter { $1 > 0 }.map { $0 / $1 } : []
        return LiveResult(
          subject: subject.name, measure: measure, unit: measure.unit, median: median(list), min: list.min() ?? 0,
          max: list.max() ?? 0, rounds: list.count, ratio: ratios.isEmpty ? nil : median(ratios))
      }
    }
  }

  private func measure(_ subject: LiveSubject) throws -> [LiveMeasure: Double] {
    var found: [LiveMeasure: Double] = [:]
    subject.resume()
    defer { subject.rest() }
    try subject.warmUp()
    if measures.contains(.tcp1) { found[.tcp1] = try subject.tcp(streams: 1, back: false, seconds: seconds) }
    if measures.contains(.tcp1Back) { found[.tcp1Back] = try subject.tcp(streams: 1, back: true, seconds: seconds) }
    if measures.contains(.tcp4) { found[.tcp4] = try subject.tcp(streams: 4, back: false, seconds: seconds) }
    if !Set(measures).isDisjoint(with: [.packets, .packetsLossless, .packetCost]) {
      let (rate, cost) = try subject.packets(seconds: seconds)
      found[.packets] = rate / 1000
      found[.packetCost] = cost
      if measures.contains(.packetsLossless) {
        found[.packetsLossless] = try subject.packetsLossless(seconds: seconds / 3, ceiling: rate) / 1000
      }
    }
    if !Set(measures).isDisjoint(with: [.latency50, .latency99]) {
      let times = try subject.roundTrips(count: 20_000, seconds: seconds)
      found[.latency50] = Double(times[times.count / 2]) / 1000
      found[.latency99] = Double(times[times.count * 99 / 100]) / 1000
    }
    if measures.contains(.idle), let share = subject.idle(seconds: seconds) { found[.idle] = share * 100 }
    return found
  }

  private func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    let middle = sorted.count / 2
    return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  }
}

extension LiveMeasure {
  public var unit: String {
    switch self {
    case .tcp1, .tcp1Back, .tcp4: "Gbit/s"
    case .packets, .packetsLossless: "kpps"
    case .latency50, .latency99: "us"
    case .idle: "%"
    case .packetCost: "ns"
    }
  }

  /// The column's title.
  public var title: String {
    switch self {
    case .tcp1: "TCP 1 OUT"
    case .tcp1Back: "TCP 1 BACK"
    case .tcp4: "TCP 4"
    case .packets: "KPPS"
    case .packetsLossless: "KPPS 1% LOSS"
    case .latency50: "P50 US"
    case .latency99: "P99 US"
    case .idle: "IDLE %"
    case .packetCost: "NS/PACKET"
    }
  }
}
