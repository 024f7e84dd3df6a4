import Model
import Testing

@testable import Datastore

@Suite struct YAMLTextTests {
  private func error(_ text: String, file: String = "f.yaml") -> ManifestError? {
    do {
      _ = try ManifestText.contents(Array(text.utf8), file: file)
      return nil
    } catch {
      return error
    }
  }

  @Test("values have their types and places")
  func values() throws {
    let document = try #require(
      try YAMLText.documents(
        """
        a: 1
        b: [true, no, ~, "1", 1.5, 0x10]
        c:
          d: |
            text
          e: 10:20:30:40:50:59
        f: 012
        g: !!str 5
        """, file: "f.yaml"
      ).first?.mapping)
    #expect(document.entries.map(\.key) == ["a", "b", "c", "f", "g"])
    #expect(document["a"]?.summary == "the number 1")
    #expect(document["a"]?.position == Position(line: 1, column: 4))
    #expect(
      document["b"]?.sequence?.map(\.summary) == [
        "the boolean true", "the boolean false", "nothing (null)", "the string \"1\"", "the number 1.5",
        "the number 16",
      ])
    #expect(document["b"]?.sequence?[3].position == Position(line: 2, column: 18))
    #expect(document["c"]?.mapping?["d"]?.string == "text\n")
    #expect(document["c"]?.mapping?["e"]?.string == "10:20:30:40:50:59")
    #expect(document["c"]?.mapping?["e"]?.position == Position(line: 6, column: 6))
    #expect(document["f"]?.string == "012")
    #expect(document["g"]?.string == "5")
  }

  @Test("documents after one another are read, with lines of the whole file")
  func several() throws {
    let documents = try YAMLText.documents("a: 1\n---\nb: 2\n...\n---\nc: 3\n", file: "f.yaml")
    #expect(documents.map { $0.mapping?.entries[0].key } == ["a", "b", "c"])
    #expect(documents.map(\.position.line) == [1, 3, 6])
  }

  @Test("a text is cut into documents only where YAML allows it")
  func sections() throws {
    func read(_ text: String) throws -> [String] {
      try ManifestText.contents(Array(text.utf8), file: "f.yaml").objects.map { "\($0.key!) \($0.position.line)" }
    }
    #expect(
      try read(pod("a") + "---\r\n" + pod("b") + "--- " + pod("c") + "---") == [
        "Pod default/a 1", "Pod default/b 3", "Pod default/c 4",
      ])
    #expect(
      try read("# comment\n---\n" + pod("a") + "...\n---\n" + pod("b")) == ["Pod default/a 3", "Pod default/b 6"])
    #expect(try read("%YAML 1.1\n---\n" + pod("a") + "---\n" + pod("b")) == ["Pod default/a 3", "Pod default/b 5"])
    let block = """
      apiVersion: v1
      kind: Pod
      metadata:
        name: a
        annotations:
          text: |
            ---
            --- is no marker when it is indented
      ---x: nor is this
      """
    #expect(try read(block) == ["Pod default/a 1"])
    #expect(YAMLSection.sections(of: []).map(\.range) == [0..<0])
  }

  @Test("documents that stayed the same are not read again, and their places move with them")
  func cache() throws {
    var cache = DocumentCache()
    func read(_ text: String) throws -> [String] {
      let contents = try ManifestText.contents(Array(text.utf8), file: "f.yaml", cache: &cache)
      return contents.objects.map { "\($0.key!) \($0.position.line)" }
        + contents.objects.flatMap(\.errors).map(\.description)
        + contents.notices.map(\.description)
    }
    let bad = "---\n" + pod("bad", ip: "x")
    let unknown = "---\n{apiVersion: v1, kind: Secret}\n"
    let first = try read(pod("a") + bad + unknown)
    let second = try read("# one\n# two\n" + pod("a") + bad + unknown)
    #expect(first.prefix(2) == ["Pod default/a 1", "Pod default/bad 3"])
    #expect(second.prefix(2) == ["Pod default/a 3", "Pod default/bad 5"])
    #expect(first[2].hasPrefix("f.yaml:3:") && second[2].hasPrefix("f.yaml:5:"), "\(second[2])")
    #expect(first[3].hasPrefix("f.yaml:5:1: Secret") && second[3].hasPrefix("f.yaml:7:1: Secret"), "\(second[3])")
    // A text that is refused leaves the cache as it was.
    #expect(throws: ManifestError.self) { try read("{") }
    #expect(try read("# one\n# two\n" + pod("a") + bad + unknown) == second)
  }

  @Test("anchors, aliases and merge keys stand for their values")
  func anchors() throws {
    let document = try #require(
      try YAMLText.documents(
        """
        base: &base {x: 1, y: 2}
        copy: *base
        merged: {<<: *base, y: 3}
        both: {<<: [{x: 5}, *base]}
        """, file: "f.yaml"
      ).first?.mapping)
    #expect(document["copy"]?.mapping?["x"]?.summary == "the number 1")
    #expect(document["merged"]?.mapping?["x"]?.summary == "the number 1")
    #expect(document["merged"]?.mapping?["y"]?.summary == "the number 3")
    #expect(document["both"]?.mapping?["x"]?.summary == "the number 5")
    #expect(document["both"]?.mapping?["y"]?.summary == "the number 2")
  }

  @Test("aliases that expand without end are refused at once")
  func bombs() {
    var bomb = "a0: &a0 [x]\n"
    for level in 1..<60 {
      bomb += "a\(level): &a\(level) [*a\(level - 1), *a\(level - 1), *a\(level - 1)]\n"
    }
    #expect(error(bomb)?.message.contains("aliases expand to too many values") == true)
    #expect(error(bomb + "? *a59\n: 1\n")?.message.contains("cannot be a key") == true)
    #expect(error(bomb + "*a59 : 1\n")?.message.contains("cannot be a key") == true)
    #expect(error(bomb + "b: {? *a59 : 1}\n")?.message.contains("cannot be a key") == true)
  }

  @Test("nesting without end is refused", arguments: ["[", "{a: ", "- "])
  func nesting(unit: String) {
    for depth in [101, 2000, 100_000] {
      #expect(error("a:\n  " + String(repeating: unit, count: depth))?.file == "f.yaml")
    }
    let closed = String(repeating: "[", count: 150) + String(repeating: "]", count: 150)
    #expect(error(closed)?.message.contains("nested more than 100 deep") == true)
  }

  @Test(
    "text that is no YAML is refused with line, column and remedy",
    arguments: [
      ("a: {b: 1", 1, "it seems to be cut off"), ("a:\n  - b\n  c: d\n", 3, "is not valid YAML"),
      ("a:\n\tb: 1\n", 2, "indent with blanks instead of tabs"), ("a: \"b\n", 1, "cut off"),
      ("a: \"b\n", 1, "is not valid YAML"),
      ("a: 1\na: 2\n", 1, "the key \"a\" stands in this mapping twice"), ("a: *b\n", 1, "undefined alias"),
      ("a: 1\n  b: 2\n", 2, "is not valid YAML"), ("ok: 1\n---\na: [1, 2\n", 3, "cut off"),
      ("? [a, b]\n: 1\n", 1, "cannot be a key"), ("a: {<<: 1}\n", 1, "merge key"), ("a: %b\n", 1, "is not valid YAML"),
      ("a: b\u{1}\n", 1, "control characters"),
    ])
  func malformed(text: String, line: Int, message: String) {
    let error = error(text)
    #expect(error?.message.contains(message) == true, "\(error.map(String.init(describing:)) ?? "no error")")
    #expect(error?.line == line, "\(error.map(String.init(describing:)) ?? "no error")")
  }

  @Test("text that is not UTF-8 is refused with its line")
  func encoding() throws {
    func message(_ bytes: [UInt8]) -> String? {
      do {
        _ = try ManifestText.contents(bytes, file: "f.yaml")
        return nil
      } catch { return error.description }
    }
    #expect(message(Array("a: 1\nb: ".utf8) + [0xc3, 0x28]) == "f.yaml:2: is not UTF-8 text; save it as UTF-8")
    #expect(message([0xff, 0xfe, 0x61, 0x00]) == "f.yaml: is UTF-16; save it as UTF-8")
    #expect(message([0xef, 0xbb, 0xbf] + Array(pod("a").utf8)) == nil)
    #expect(message([UInt8](repeating: 0, count: 64)) != nil)
  }
}

@Suite struct JSONTextTests {
  private func read(_ text: String) throws(ManifestError) -> [Document] {
    try JSONText.documents(Array(text.utf8), file: "f.json")
  }

  @Test("values have their types and places")
  func values() throws {
    let documents = try read("{\n\t\"a\": [1, -2.5e1, true, false, null,\n \"x\"], \"b\": {}\n}\n[]")
    #expect(documents.count == 2)
    let mapping = try #require(documents[0].mapping)
    let elements = try #require(mapping["a"]?.sequence)
    #expect(
      elements.map(\.summary) == [
        "the number 1", "the number -25.0", "the boolean true", "the boolean false", "nothing (null)",
        "the string \"x\"",
      ])
    #expect(elements[5].position == Position(line: 3, column: 2))
    #expect(mapping.entries[1].keyPosition == Position(line: 3, column: 8))
    #expect(mapping["b"]?.mapping?.entries.isEmpty == true)
    #expect(documents[1].position == Position(line: 5, column: 1))
  }

  @Test(
    "strings have RFC 8259's escapes, surrogate pairs among them",
    arguments: [
      (#""""#, ""), (#""a\"\\\/\b\f\n\r\tz""#, "a\"\\/\u{8}\u{c}\n\r\tz"), (#""\u00e9\uD83D\uDE00é😀""#, "é😀é😀"),
      (#""\u0000""#, "\0"),
    ])
  func strings(text: String, expected: String) throws {
    #expect(try read(text).first?.string == expected)
  }

  @Test(
    "text that is no JSON is refused with line and column",
    arguments: [
      ("{", 1, 2), ("[1,", 1, 4), ("[1,]", 1, 4), ("{\"a\":1,}", 1, 8), ("{a: 1}", 1, 2), ("[1 2]", 1, 4),
      ("\n\"abc", 2, 1), ("\"a\nb\"", 1, 1), ("\"\\x\"", 1, 3), ("\"\\u12g4\"", 1, 6), ("\"\\ud800\"", 1, 3),
      ("\"\\ud800\\u0041\"", 1, 3), ("\"\\udc00\"", 1, 3), ("01", 1, 1), ("-", 1, 1), ("1.2.3", 1, 1), ("tru", 1, 1),
      ("nul", 1, 1), ("{\"a\" 1}", 1, 6), ("{\"a\":1,\n\"a\":2}", 2, 1), ("'a'", 1, 1), ("[--1]", 1, 2), ("+1", 1, 1),
    ])
  func malformed(text: String, line: Int, column: Int) {
    let error = #expect(throws: ManifestError.self) { try read(text) }
    #expect(error?.line == line && error?.column == column, "\(error.map(String.init(describing:)) ?? "")")
    #expect(error?.message.hasPrefix("is not valid JSON") == true)
  }

  @Test("nesting without end is refused")
  func nesting() {
    #expect(throws: ManifestError.self) { try read(String(repeating: "[", count: 1_000_000)) }
    #expect(throws: ManifestError.self) { try read(String(repeating: "{\"a\":", count: 1_000_000)) }
  }

  @Test("no prefix of a manifest and no flipped byte brings the parsers down")
  func mutations() {
    let text =
      Array(
        #"{"apiVersion":"v1","kind":"PodList","items":[{"metadata":{"name":"a","labels":{"x":"\u00e9"}},"#.utf8)
      + Array(#""spec":{"containers":[{"ports":[{"containerPort":80}]}]},"status":{"podIP":"10.0.0.1"}}]}"#.utf8)
    for name in ["f.json", "f.yaml"] {
      #expect((try? ManifestText.contents(text, file: name))?.objects.count == 1)
      for end in text.indices { _ = try? ManifestText.contents(Array(text[..<end]), file: name) }
      for index in text.indices {
        for byte: UInt8 in [0, 0x09, 0x0a, 0x22, 0x26, 0x2a, 0x3a, 0x5b, 0x7b, 0x80, 0xff] {
          var mutated = text
          mutated[index] = byte
          _ = try? ManifestText.contents(mutated, file: name)
        }
      }
    }
  }
}
