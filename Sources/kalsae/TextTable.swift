/// Rows of text in aligned columns, two spaces apart.
struct TextTable {
  private let header: [String]
  private var rows: [[String]] = []
  /// The columns that hold numbers, which end where their header ends.
  private let numeric: Set<Int>

  /// A name that begins with `>` makes a column of numbers.
  init(_ header: [String]) {
    self.header = header.map { $0.hasPrefix(">") ? String($0.dropFirst()) : $0 }
    numeric = Set(header.indices.filter { header[$0].hasPrefix(">") })
  }

  mutating func add(_ row: [String]) { rows.append(row) }

  var text: String {
    let all = [header] + rows
    let widths = header.indices.map { column in all.map { $0.count > column ? $0[column].count : 0 }.max() ?? 0 }
    return all.map { row in
      var line = ""
      for (column, cell) in row.enumerated() {
        let space = String(repeating: " ", count: max(0, widths[column] - cell.count))
        let isLast = column == row.count - 1
        line += numeric.contains(column) ? space + cell : isLast ? cell : cell + space
        if !isLast { line += "  " }
      }
      return line + "\n"
    }.joined()
  }
}

/// `1.5M`: a number that people can read.
func short(_ number: UInt64) -> String {
  let units = ["", "k", "M", "G", "T", "P", "E"]
  var value = Double(number)
  var unit = 0
  while value >= 9_999.5, unit < units.count - 1 {
    value /= 1000
    unit += 1
  }
  return unit == 0 ? "\(number)" : "\(Int(value.rounded()))\(units[unit])"
}

/// `2d3h`, `4m10s`: a time that people can read.
func age(_ seconds: Int) -> String {
  switch seconds {
  case ..<120: "\(seconds)s"
  case ..<7200: "\(seconds / 60)m\(seconds % 60)s"
  case ..<172_800: "\(seconds / 3600)h\(seconds % 3600 / 60)m"
  default: "\(seconds / 86400)d\(seconds % 86400 / 3600)h"
  }
}
