/// Metrics in the making, in Prometheus' text format (exposition format 0.0.4).
struct MetricsText {
  private(set) var text = ""

  enum Kind: String {
    case counter, gauge, histogram
  }

  /// Begins a metric: its samples follow.
  mutating func begin(_ name: String, _ kind: Kind, _ help: String) {
    text += "# HELP \(name) \(MetricsText.escaped(help, quotes: false))\n# TYPE \(name) \(kind.rawValue)\n"
  }

  mutating func sample(_ name: String, _ labels: KeyValuePairs<String, String>, _ value: some Numeric) {
    text += name
    if !labels.isEmpty {
      text +=
        "{" + labels.map { "\($0.key)=\"\(MetricsText.escaped($0.value, quotes: true))\"" }.joined(separator: ",") + "}"
    }
    text += " \(value)\n"
  }

  /// A metric of one sample.
  mutating func single(_ name: String, _ kind: Kind, _ help: String, _ value: some Numeric) {
    begin(name, kind, help)
    sample(name, [:], value)
  }

  mutating func histogram(_ name: String, _ help: String, _ histogram: Histogram) {
    begin(name, .histogram, help)
    var sum: UInt64 = 0
    for (bound, count) in zip(histogram.bounds, histogram.counts) {
      sum += count
      sample("\(name)_bucket", ["le": MetricsText.bound(bound)], sum)
    }
    sample("\(name)_bucket", ["le": "+Inf"], histogram.count)
    sample("\(name)_sum", [:], histogram.sum)
    sample("\(name)_count", [:], histogram.count)
  }

  /// Whole numbers without a point, as Go writes them.
  private static func bound(_ value: Double) -> String { value == value.rounded() ? "\(Int(value))" : "\(value)" }

  private static func escaped(_ text: String, quotes: Bool) -> String {
    var result = ""
    for character in text {
      switch character {
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\"" where quotes: result += "\\\""
      default: result.append(character)
      }
    }
    return result
  }
}

/// How often values fell up to each bound.
struct Histogram: Sendable {
  let bounds: [Double]
  private(set) var counts: [UInt64]
  private(set) var count: UInt64 = 0
  private(set) var sum: Double = 0

  init(bounds: [Double]) {
    self.bounds = bounds
    counts = [UInt64](repeating: 0, count: bounds.count)
  }

  mutating func observe(_ value: Double) {
    count += 1
    sum += value
    if let place = bounds.firstIndex(where: { value <= $0 }) { counts[place] += 1 }
  }

  /// kube-proxy's bounds for a synchronisation: a millisecond, and double that 14 times; in seconds.
  static var synchronisation: Histogram { Histogram(bounds: (0..<15).map { 0.001 * Double(1 << $0) }) }

  /// kube-proxy's bounds for the time from an endpoint's change to its programming; in seconds.
  static var programming: Histogram {
    let seconds = Array(1...60) + stride(from: 65, through: 120, by: 5) + stride(from: 150, through: 300, by: 30)
    return Histogram(bounds: [0.25, 0.5] + seconds.map(Double.init))
  }
}
