/// A table with borders, as calicoctl prints them: headings in the middle, numbers to the right, text to the left.
struct BorderedTable {
  private let headings: [String]
  private var rows: [[String]] = []

  init(_ headings: [String]) { self.headings = headings }

  mutating func add(_ cells: [String]) { rows.append(cells) }

  var text: String {
    let widths = headings.indices.map { column in ([headings] + rows).map { $0[column].count }.max() ?? 0 }
    let border = "+" + widths.map { String(repeating: "-", count: $0 + 2) + "+" }.joined() + "\n"
    func line(_ cells: [String], _ place: (String, Int) -> String) -> String {
      "|" + zip(cells, widths).map { " \(place($0, $1)) |" }.joined() + "\n"
    }
    func space(_ count: Int) -> String { String(repeating: " ", count: count) }
    var text = border
    text += line(headings) { cell, width in
      let gap = width - cell.count
      return space(gap / 2) + cell + space(gap - gap / 2)
    }
    text += border
    for row in rows {
      text += line(row) { cell, width in
        let gap = space(width - cell.count)
        return Double(cell) != nil ? gap + cell : cell + gap
      }
    }
    return text + border
  }
}

/// A number with five significant digits, as C's `%.5g`: `65536`, `1.2089e+24`.
func fiveDigits(_ number: Double) -> String {
  if number < 99_999.5 {
    // Counts are whole.
    return "\(Int(number))"
  }
  var exponent = 0
  var mantissa = number
  while mantissa >= 9.99995 {
    mantissa /= 10
    exponent += 1
  }
  let scaled = Int((mantissa * 10_000).rounded(.toNearestOrEven))
  var fraction = String(scaled % 10_000)
  fraction = String(repeating: "0", count: 4 - fraction.count) + fraction
  while fraction.last == "0" { fraction.removeLast() }
  return "\(scaled / 10_000)" + (fraction.isEmpty ? "" : ".\(fraction)") + "e+" + (exponent < 10 ? "0" : "")
    + "\(exponent)"
}
