extension Selector {
  /// Reads a selector. An empty text selects all, as in Calico.
  ///
  /// `||` binds weaker than `&&`, and `&&` weaker than `!`.
  public init(parsing text: String) throws(SelectorError) {
    var parser = SelectorParser(text)
    self = try parser.parse()
  }
}

/// A recursive-descent parser over the characters of a selector.
private struct SelectorParser {
  private let text: [Unicode.Scalar]
  private var position = 0
  private var depth = 0

  /// Parentheses nest no deeper than this, so that a hostile text cannot exhaust the stack.
  private static let depthLimit = 64

  init(_ text: String) { self.text = Array(text.unicodeScalars) }

  mutating func parse() throws(SelectorError) -> Selector {
    skipBlanks()
    if atEnd { return .all }
    let selector = try disjunction()
    if !atEnd { throw error("expected &&, || or the end of the selector") }
    return selector
  }

  private mutating func disjunction() throws(SelectorError) -> Selector {
    var operands = [try conjunction()]
    while take("||") { operands.append(try conjunction()) }
    return operands.count == 1 ? operands[0] : .or(operands)
  }

  private mutating func conjunction() throws(SelectorError) -> Selector {
    var operands = [try operation()]
    while take("&&") { operands.append(try operation()) }
    return operands.count == 1 ? operands[0] : .and(operands)
  }

  private mutating func operation() throws(SelectorError) -> Selector {
    depth += 1
    defer { depth -= 1 }
    guard depth <= Self.depthLimit else { throw error("is nested more than \(Self.depthLimit) deep; simplify it") }
    if take("!") { return .not(try operation()) }
    if take("(") {
      let selector = try disjunction()
      try expect(")")
      return selector
    }
    let start = position
    let name = try label()
    if peek == "(" {
      switch name {
      case "all":
        try expect("(")
        try expect(")")
        return .all
      case "has":
        try expect("(")
        let key = try label()
        try expect(")")
        return .has(key)
      default:
        position = start
        throw error("unknown function \(name)(); known are all() and has(label)")
      }
    }
    return try comparison(name)
  }

  private mutating func comparison(_ key: String) throws(SelectorError) -> Selector {
    if take("==") { return .equal(key, try literal()) }
    if take("!=") { return .notEqual(key, try literal()) }
    let start = position
    switch word() {
    case "in": return .in(key, try set())
    case "not":
      let second = position
      if word() == "in" { return .notIn(key, try set()) }
      position = second
      throw error("expected 'in' after 'not'")
    case "contains": return .contains(key, try literal())
    case "starts":
      try expectWith()
      return .startsWith(key, try literal())
    case "ends":
      try expectWith()
      return .endsWith(key, try literal())
    default:
      position = start
      throw error(
        "expected ==, !=, in, not in, contains, starts with or ends with after the label \(key);"
          + " to ask whether it is there write has(\(key))")
    }
  }

  private mutating func expectWith() throws(SelectorError) {
    let start = position
    guard word() != "with" else { return }
    position = start
    throw error("expected 'with'")
  }

  private mutating func set() throws(SelectorError) -> [String] {
    try expect("{")
    var values: [String] = []
    if take("}") { return values }
    repeat { values.append(try literal()) } while take(",")
    try expect("}")
    return values
  }

  private mutating func literal() throws(SelectorError) -> String {
    guard let quote = peek, quote == "'" || quote == "\"" else {
      throw error("expected a string in quotation marks")
    }
    guard let end = text[(position + 1)...].firstIndex(of: quote) else {
      throw error("the string has no closing \(quote)")
    }
    var value = String.UnicodeScalarView()
    value.append(contentsOf: text[(position + 1)..<end])
    position = end + 1
    skipBlanks()
    return String(value)
  }

  private mutating func label() throws(SelectorError) -> String {
    let start = position
    while let scalar = peek, Self.isLabel(scalar) { position += 1 }
    guard position > start else {
      throw error("expected a label, has(label), all(), ! or a selector in parentheses")
    }
    let name = String(String.UnicodeScalarView(text[start..<position]))
    skipBlanks()
    return name
  }

  private static func isLabel(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar {
    case "a"..."z", "A"..."Z", "0"..."9", ".", "_", "-", "/": true
    default: false
    }
  }

  /// A lower-case word and the blanks after it; empty where there is none.
  private mutating func word() -> String {
    let start = position
    while let scalar = peek, ("a"..."z").contains(scalar) { position += 1 }
    let word = String(String.UnicodeScalarView(text[start..<position]))
    skipBlanks()
    return word
  }

  // MARK: Characters

  private var atEnd: Bool { position == text.count }

  private var peek: Unicode.Scalar? { atEnd ? nil : text[position] }

  private mutating func skipBlanks() {
    while let scalar = peek, scalar == " " || scalar == "\t" || scalar == "\n" || scalar == "\r" { position += 1 }
  }

  /// Steps over a symbol and the blanks after it, if it stands here.
  private mutating func take(_ symbol: String) -> Bool {
    let scalars = symbol.unicodeScalars
    guard text[position...].starts(with: scalars) else { return false }
    // `!` is not the beginning of `!=`.
    if symbol == "!", position + 1 < text.count, text[position + 1] == "=" { return false }
    position += scalars.count
    skipBlanks()
    return true
  }

  private mutating func expect(_ symbol: String) throws(SelectorError) {
    if !take(symbol) { throw error("expected \(symbol)") }
  }

  private func error(_ message: String) -> SelectorError {
    let found = atEnd ? " at the end of the text" : ""
    return SelectorError(column: position + 1, message: message + found)
  }
}
