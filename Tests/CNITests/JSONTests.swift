import CNI
import Testing

@Suite("JSON of the plugin protocol")
struct JSONTests {
  @Test("what is read is written as it was: order, digits, unknown members")
  func roundTrip() throws {
    for text in [
      #"{"b":1,"a":[true,false,null,-0.50,1e9],"":{"x":{}}}"#, #""a\"\\\n\t\u0001é😀""#, "[]", "{}", "-0",
      "123456789012345678901",
    ] {
      #expect(try JSON(parsing: text).serialized == text)
      #expect(try JSON(parsing: JSON(parsing: text).pretty) == JSON(parsing: text))
    }
    #expect(try JSON(parsing: #" "\u00e9\ud83d\ude00\/" "#) == .string("é😀/"))
  }

  @Test(
    "what is no JSON is refused with its place",
    arguments: [
      ("", "line 1, column 1"), ("{", "line 1, column 2"), ("{\n \"a\" 1}", "line 2, column 6"), ("[1,]", "column 4"),
      ("01", "column 1"), ("1.", "column 3"), ("\"\u{1}\"", "control"), (#""\ud800""#, "surrogate"),
      (#""\x""#, "escape"),
      ("{} {}", "more after"), ("nul", "column 1"), ("\"abc", "does not end"), ("{\"a\":1 \"b\":2}", "','"),
      (String(repeating: "[", count: 100), "nested"),
    ])
  func refused(text: String, says: String) {
    let error = #expect(throws: JSONError.self) { try JSON(parsing: text) }
    #expect(error?.description.contains(says) == true, "\(String(describing: error))")
    #expect(throws: JSONError.self) { try JSON(parsing: [0x22, 0xff, 0x22]) }
  }

  @Test("members are found, replaced and removed")
  func members() throws {
    var json = try JSON(parsing: #"{"a":1,"b":{"c":"d"}}"#)
    #expect(json["b"]?["c"]?.text == "d")
    json["a"] = .bool(true)
    json["b"] = nil
    json["z"] = .number(7)
    #expect(json.serialized == #"{"a":true,"z":7}"#)
    #expect(try JSON(parsing: "[1e3, 1.0, 1.5]").elements?.map(\.integer) == [1000, 1, nil])
  }
}
