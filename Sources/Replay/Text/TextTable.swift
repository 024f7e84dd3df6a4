/// Rows of text in aligned columns, as `ip` and `kubectl` print them.
public struct TextTable {
  public enum Alignment: Sendable {
    case left
    case right
  }

  private let alignments: [Alignment]
  private var rows: [[String]] = []

  /// A table with these columns: a heading, and `>` before it where the column is aligned to the right.
  public init(_ headings: [String]) {
    alignments = headings.map { $0.hasPrefix(">") ? .right : .left }
    rows = [headings.map { $0.hasPrefix(">") ? String($0.dropFirst()) : $0 }]
  }

  public var isEmpty: Bool { rows.count == 1 }

  /// Adds a row; what is missing at its end is left blank.
  public mutating func add(_ cells: [String]) {
    rows.append(cells + Array(repeating: "", count: max(0, alignments.count - cells.count)))
  }

  /// The rows, each ended by a line feed, two spaces between columns.
  public var text: String {
    let widths = alignments.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
    return rows.map { row in
      var line = ""
      for (column, cell) in row.prefix(widths.count).enumerated() {
        let gap = String(repeating: " ", count: widths[column] - cell.count)
        line += (column == 0 ? "" : "  ") + (alignments[column] == .right ? gap + cell : cell + gap)
      }
      while line.last == " " { line.removeLast() }
      return line + "\n"
    }.joined()
  }
}

/// `1,234,567`
public func grouped(_ number: some BinaryInteger) -> String {
  let digits = Array(String(number.magnitude))
  var text = number < 0 ? "-" : ""
  for (place, digit) in digits.enumerated() {
    if place > 0, (digits.count - place) % 3 == 0 { text += "," }
    text.append(digit)
  }
  return text
}

/// `2026-01-02 03:04:05.000000006`, in UTC, of nanoseconds since 1970.
public func utcTime(_ nanoseconds: UInt64) -> String {
  let seconds = Int(nanoseconds / 1_000_000_000)
  func padded(_ number: Int, _ width: Int) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
  }
  // The proleptic Gregorian calendar by eras of 400 years that begin in March.
  let days = seconds / 86_400 + 719_468
  let era = days / 146_097
  let dayOfEra = days % 146_097
  let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
  let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
  let shifted = (5 * dayOfYear + 2) / 153
  let day = dayOfYear - (153 * shifted + 2) / 5 + 1
  let month = shifted < 10 ? shifted + 3 : shifted - 9
  let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
  let clock = seconds % 86_400
  return "\(padded(year, 4))-\(padded(month, 2))-\(padded(day, 2)) "
    + "\(padded(clock / 3600, 2)):\(padded(clock / 60 % 60, 2)):\(padded(clock % 60, 2))"
    + ".\(padded(Int(nanoseconds % 1_000_000_000), 9))"
}
