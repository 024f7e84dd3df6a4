import Replay
import Testing

@Suite("Text for people")
struct TextTests {
  @Test("Nanoseconds since 1970 are written as the calendar has them, leap days included")
  func time() {
    #expect(utcTime(0) == "1970-01-01 00:00:00.000000000")
    #expect(utcTime(1_709_208_000_000_000_001) == "2024-02-29 12:00:00.000000001")
    #expect(utcTime(1_700_000_000_999_999_999) == "2023-11-14 22:13:20.999999999")
  }

  @Test("Columns are as wide as their widest cell, numbers to the right")
  func table() {
    var table = TextTable(["NAME", ">COUNT"])
    table.add(["underlay", grouped(1_234_567)])
    table.add(["host", grouped(0)])
    #expect(table.text == "NAME          COUNT\nunderlay  1,234,567\nhost              0\n")
  }
}
