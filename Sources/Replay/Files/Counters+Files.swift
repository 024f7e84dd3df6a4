import FoundationEssentials

/// The numbers of `counters.json`: an object, or a number at its end.
private enum CounterTree: Decodable {
  case number(Int64)
  case object([String: CounterTree])

  init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let number = try? container.decode(Int64.self) {
      self = .number(number)
    } else {
      self = .object(try container.decode([String: CounterTree].self))
    }
  }

  /// The first difference from `other`, which has what came out; what is not in this tree is not looked at, except that
  /// drops not named are expected to be none.
  func difference(from other: CounterTree?, path: String) -> String? {
    switch (self, other) {
    case (.number(let wanted), .number(let got)):
      return wanted == got ? nil : "\(path) is \(got), expected \(wanted)"
    case (.number(let wanted), nil):
      return wanted == 0 ? nil : "\(path) is 0, expected \(wanted)"
    case (.object(let wanted), _):
      var others: [String: CounterTree] = [:]
      if case .object(let object)? = other { others = object }
      let isComplete = path.hasSuffix(".drops")
      let keys = isComplete ? Set(wanted.keys).union(others.keys) : Set(wanted.keys)
      for key in keys.sorted() {
        let place = path.isEmpty ? key : "\(path).\(key)"
        if let difference = (wanted[key] ?? .number(0)).difference(from: others[key], path: place) { return difference }
      }
      return nil
    case (.number, .object): return "\(path) is an object, expected a number"
    }
  }
}

/// JSON with sorted keys, in lines, so that two files can be compared by people too.
func prettyJSON(_ value: some Encodable) -> String {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
  guard let data = try? encoder.encode(value) else { return "{}" }
  return String(decoding: data, as: UTF8.self)
}

extension ReplayReport {
  /// The report as one JSON object.
  public var json: String { prettyJSON(self) }
}

func writeCounters(_ counters: ReplayCounters, to path: String) throws(ReplayError) {
  do {
    try Data((prettyJSON(counters) + "\n").utf8).write(to: URL(filePath: path), options: .atomic)
  } catch {
    throw ReplayError(.io, "\(path): cannot write the counters: \(error.localizedDescription)")
  }
}

/// The first difference of counters from those in a file; none where there is no such file.
func compareCounters(_ counters: ReplayCounters, with path: String) throws(ReplayError) -> [String] {
  guard fileExists(path) else { return [] }
  do {
    let wanted = try JSONDecoder().decode(CounterTree.self, from: Data(contentsOf: URL(filePath: path)))
    let got = try JSONDecoder().decode(CounterTree.self, from: Data(prettyJSON(counters).utf8))
    return wanted.difference(from: got, path: "").map { ["counters: \($0)"] } ?? []
  } catch {
    throw ReplayError(.data, "\(path): not a JSON object of numbers: \(error.localizedDescription)")
  }
}
