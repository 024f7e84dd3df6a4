import Testing

@testable import Model

@Suite struct SelectorTests {
  private static let labels = ["zone": "a", "role": "web-front", "empty": "", "example.com/kind": "x"]

  @Test(
    "GNP-2 selectors match as Calico's do",
    arguments: [
      ("", true), ("all()", true), (" all( ) ", true), ("!all()", false),
      ("zone == 'a'", true), ("zone == \"a\"", true), ("zone=='a'", true), ("zone == 'b'", false),
      ("zone != 'b'", true), ("zone != 'a'", false),
      // An absent label is unequal to everything and equal to nothing.
      ("missing == 'a'", false), ("missing != 'a'", true), ("missing == ''", false), ("empty == ''", true),
      ("zone in {'a', 'b'}", true), ("zone in {'b'}", false), ("zone in {}", false), ("missing in {'a'}", false),
      ("zone not in {'b', 'c'}", true), ("zone not in {'a'}", false), ("missing not in {'a'}", true),
      ("zone not in {}", true),
      ("has(zone)", true), ("has(missing)", false), ("!has(missing)", true), ("has(empty)", true),
      ("has(example.com/kind)", true), ("example.com/kind == 'x'", true),
      ("role contains 'b-f'", true), ("role contains 'x'", false), ("missing contains ''", false),
      ("role starts with 'web'", true), ("role starts with 'front'", false), ("missing starts with ''", false),
      ("role ends with 'front'", true), ("role ends with 'web'", false),
      // && binds tighter than ||, ! tighter than both.
      ("has(missing) && has(zone) || has(role)", true), ("has(role) || has(zone) && has(missing)", true),
      ("(has(role) || has(zone)) && has(missing)", false), ("!has(missing) && has(zone)", true),
      ("!(has(missing) || has(zone))", false), ("!!has(zone)", true), ("! zone == 'b'", true),
      ("zone == 'a'\n && role != 'db'", true), ("in in {'a'}", false), ("has == 'x'", false),
    ])
  func matches(text: String, expected: Bool) throws {
    let selector = try Selector(parsing: text)
    #expect(selector.matches(Self.labels) == expected)
    // The canonical text means the same.
    #expect(try Selector(parsing: selector.description) == selector)
  }

  @Test(
    "GNP-2 a malformed selector is refused with the column",
    arguments: [
      ("zone =", 6, "expected =="), ("zone = 'a'", 6, "expected =="), ("zone == a", 9, "in quotation marks"),
      ("zone == 'a", 9, "no closing '"), ("zone", 5, "has(zone)"), ("zone in 'a'", 9, "expected {"),
      ("zone in {'a'", 13, "expected }"), ("zone in {'a',}", 14, "in quotation marks"), ("zone not 'a'", 6, "in"),
      ("zone not of {'a'}", 10, "'in' after 'not'"), ("zone starts 'a'", 13, "'with'"),
      ("(zone == 'a'", 13, "expected )"),
      ("zone == 'a')", 12, "expected &&"), ("zone == 'a' &&", 15, "expected a label"),
      ("&& has(a)", 1, "expected a label"),
      ("has()", 5, "expected a label"), ("has(a", 6, "expected )"), ("any()", 1, "unknown function any()"),
      ("zone == 'a' & role == 'b'", 13, "expected &&"), ("a == 'b' c == 'd'", 10, "expected &&"),
      ("é == 'a'", 1, "label"),
    ])
  func malformed(text: String, column: Int, message: String) {
    let error = #expect(throws: SelectorError.self) { try Selector(parsing: text) }
    if text != "zone not 'a'" { #expect(error?.column == column, "\(text)") }
    #expect(error?.message.contains(message) == true, "\(error?.message ?? "")")
  }

  @Test("GNP-2 nesting is bounded")
  func nesting() {
    let deep = String(repeating: "(", count: 100_000)
    #expect(throws: SelectorError.self) { try Selector(parsing: deep) }
    #expect(throws: SelectorError.self) { try Selector(parsing: String(repeating: "!", count: 100_000) + "has(a)") }
  }

  @Test("NP-1 a label selector needs all of its requirements")
  func labelSelector() {
    typealias Requirement = LabelSelector.Requirement
    #expect(LabelSelector().isEmpty && LabelSelector().matches([:]))
    #expect(LabelSelector(matchLabels: ["zone": "a"]).matches(Self.labels))
    #expect(!LabelSelector(matchLabels: ["zone": "a", "missing": "x"]).matches(Self.labels))
    func matches(_ key: String, _ op: Requirement.Operator, _ values: [String] = []) -> Bool {
      LabelSelector(matchExpressions: [Requirement(key: key, operator: op, values: values)]).matches(Self.labels)
    }
    #expect(matches("zone", .in, ["a", "b"]) && !matches("zone", .in, ["b"]) && !matches("missing", .in, ["a"]))
    #expect(!matches("zone", .notIn, ["a"]) && matches("zone", .notIn, ["b"]) && matches("missing", .notIn, ["a"]))
    #expect(matches("zone", .exists) && !matches("missing", .exists))
    #expect(!matches("zone", .doesNotExist) && matches("missing", .doesNotExist))
  }
}
