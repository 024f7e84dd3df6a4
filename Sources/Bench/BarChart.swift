/// A chart of horizontal bars as an SVG document: for README and `bench/`.
public struct BarChart: Sendable {
  public struct Row: Sendable {
    public var label: String
    /// Rows of one series have one colour.
    public var series: String
    /// Where the bar ends.
    public var value: Double
    /// Where the thin line behind it ends; the value itself where there is none.
    public var high: Double
    /// A mark to compare with.
    public var mark: Double?

    public init(_ label: String, series: String, value: Double, high: Double? = nil, mark: Double? = nil) {
      self.label = label
      self.series = series
      self.value = value
      self.high = high ?? value
      self.mark = mark
    }
  }

  public var title: String
  public var subtitle: String
  public var unit: String
  public var rows: [Row]

  public init(title: String, subtitle: String, unit: String, rows: [Row]) {
    self.title = title
    self.subtitle = subtitle
    self.unit = unit
    self.rows = rows
  }

  private static let colours = ["#2f6f9f", "#e08a3c", "#4d9a61", "#a35b8f", "#8a8f98", "#b5473c"]
  private static let rowHeight = 24.0
  private static let labelWidth = 220.0
  private static let plotWidth = 520.0

  /// The document.
  public var svg: String {
    let top = 84.0
    let bottom = top + Double(rows.count) * BarChart.rowHeight
    let width = BarChart.labelWidth + BarChart.plotWidth + 80
    let step = tick
    let end = max(step, (((rows.map(\.value).max() ?? 0) / step).rounded(.up)) * step)
    func x(_ value: Double) -> Double { BarChart.labelWidth + min(max(value / end, 0), 1) * BarChart.plotWidth }
    var text = """
      <svg xmlns="http://www.w3.org/2000/svg" width="\(width)" height="\(bottom + 40)" \
      viewBox="0 0 \(width) \(bottom + 40)" font-family="system-ui, sans-serif" font-size="12" fill="#222">
      <rect width="100%" height="100%" fill="#fff"/>
      <text x="16" y="26" font-size="16" font-weight="600">\(escaped(title))</text>
      <text x="16" y="46" fill="#666">\(escaped(subtitle))</text>

      """
    let series = rows.reduce(into: [String]()) { if !$0.contains($1.series) { $0.append($1.series) } }
    var left = 16.0
    if series.count > 1 {
      for (number, name) in series.enumerated() {
        text += "<rect x=\"\(left)\" y=\"56\" width=\"10\" height=\"10\" fill=\"\(colour(number))\"/>"
        text += "<text x=\"\(left + 15)\" y=\"65\">\(escaped(name))</text>\n"
        left += 30 + Double(name.count) * 7
      }
    }
    for number in 0...Int((end / step).rounded()) {
      let place = short(x(Double(number) * step))
      text += "<line x1=\"\(place)\" x2=\"\(place)\" y1=\"\(top - 4)\" y2=\"\(bottom)\" stroke=\"#e4e4e4\"/>"
      text += "<text x=\"\(place)\" y=\"\(bottom + 16)\" text-anchor=\"middle\" fill=\"#666\">"
      text += "\(short(Double(number) * step))</text>\n"
    }
    for (number, row) in rows.enumerated() {
      let y = top + Double(number) * BarChart.rowHeight
      let middle = y + BarChart.rowHeight / 2
      text +=
        "<text x=\"\(BarChart.labelWidth - 8)\" y=\"\(middle + 4)\" text-anchor=\"end\">\(escaped(row.label))</text>"
      text +=
        "<rect x=\"\(BarChart.labelWidth)\" y=\"\(y + 5)\" width=\"\(short(x(row.value) - BarChart.labelWidth))\" "
      text += "height=\"14\" fill=\"\(colour(series.firstIndex(of: row.series) ?? 0))\"/>"
      if row.high > row.value {
        text += "<line x1=\"\(short(x(row.value)))\" x2=\"\(short(x(row.high)))\" y1=\"\(middle)\" y2=\"\(middle)\" "
        text += "stroke=\"#555\"/>"
      }
      if let mark = row.mark {
        text += "<line x1=\"\(short(x(mark)))\" x2=\"\(short(x(mark)))\" y1=\"\(y + 2)\" y2=\"\(y + 22)\" "
        text += "stroke=\"#c0392b\" stroke-width=\"2\"/>"
      }
      text += "<text x=\"\(short(x(max(row.value, row.high)) + 6))\" y=\"\(middle + 4)\">\(short(row.value))</text>\n"
    }
    text += "<text x=\"\(BarChart.labelWidth + BarChart.plotWidth)\" y=\"\(bottom + 32)\" text-anchor=\"end\" "
    text += "fill=\"#666\">\(escaped(unit))</text>\n</svg>\n"
    return text
  }

  /// The distance between grid lines: 1, 2 or 5 times a power of ten, so that there are at most ten.
  private var tick: Double {
    let largest = max(rows.map(\.value).max() ?? 0, 1e-9)
    var step = 1e-9
    while true {
      for factor in [1.0, 2, 5] where largest / (step * factor) <= 10 { return step * factor }
      step *= 10
    }
  }

  private func colour(_ number: Int) -> String { BarChart.colours[number % BarChart.colours.count] }

  private func short(_ value: Double) -> String {
    let rounded = (value * 10).rounded() / 10
    return rounded == rounded.rounded() ? "\(Int(rounded))" : "\(rounded)"
  }

  private func escaped(_ text: String) -> String {
    text.reduce(into: "") { result, character in
      switch character {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      default: result.append(character)
      }
    }
  }
}
