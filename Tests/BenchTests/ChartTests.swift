import Testing

@testable import Bench

@Suite("Charts")
struct ChartTests {
  @Test("A chart is an SVG document with a bar and a label for each row")
  func chart() {
    let chart = BarChart(
      title: "a < b & c", subtitle: "s", unit: "ns",
      rows: [.init("one", series: "x", value: 3), .init("two", series: "y", value: 7.25, high: 9)])
    let text = chart.svg
    #expect(text.hasPrefix("<svg xmlns=\"http://www.w3.org/2000/svg\""))
    #expect(text.hasSuffix("</svg>\n"))
    #expect(text.contains("a &lt; b &amp; c"))
    // Two bars, two legends, the background.
    #expect(text.split(separator: "<rect").count - 1 == 5)
    #expect(text.contains(">one</text>") && text.contains(">7.3</text>"))
  }
}
