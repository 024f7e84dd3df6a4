import Model

/// Reads JSON texts (RFC 8259) with the line and column of each value: one value, or several after one another.
///
/// The parser is our own because the tree needs positions, and because libyaml refuses JSON's surrogate pairs.
struct JSONText {
  private let bytes: [UInt8]
  private let file: String
  private var offset = 0
  private var line = 1
  /// Where the current line begins.
  private var lineStart = 0

  private init(bytes: [UInt8], file: String) {
    self.bytes = bytes
    self.file = file
  }

  /// The values of a text in their order. Throws at the first place where the text is no JSON. `bytes` are valid UTF-8.
  static func documents(_ bytes: [UInt8], file: String) throws(ManifestError) -> [Document] {
    var parser = JSONText(bytes: bytes, file: file)
    var documents: [Document] = []
    parser.skipBlanks()
    while parser.offset < bytes.count {
      documents.append(try parser.value(depth: 0))
      parser.skipBlanks()
    }
    return documents
  }

  private mutating func value(depth: Int) throws(ManifestError) -> Document {
    guard depth < YAMLText.depthLimit else {
      throw error("is nested more than \(YAMLText.depthLimit) deep; flatten it")
    }
    let position = Position(line: line, column: offset - lineStart + 1)
    guard let first = peek else { throw error("expected a value") }
    switch first {
    case UInt8(ascii: "{"): return Document(.mapping(try object(depth: depth)), at: position)
    case UInt8(ascii: "["): return Document(.sequence(try array(depth: depth)), at: position)
    case UInt8(ascii: "\""): return Document(.string(try string()), at: position)
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return Document(try number(), at: position)
    case UInt8(ascii: "t"): return Document(try literal("true", .bool(true)), at: position)
    case UInt8(ascii: "f"): return Document(try literal("false", .bool(false)), at: position)
    case UInt8(ascii: "n"): return Document(try literal("null", .null), at: position)
    default: throw error("expected a value")
    }
  }

  private mutating func object(depth: Int) throws(ManifestError) -> Document.Mapping {
    advance()
    var mapping = Document.Mapping()
    var keys: Set<String> = []
    skipBlanks()
    if take(UInt8(ascii: "}")) { return mapping }
    repeat {
      skipBlanks()
      let position = Position(line: line, column: offset - lineStart + 1)
      guard peek == UInt8(ascii: "\"") else { throw error("expected a key in quotation marks") }
      let start = self
      let key = try string()
      guard keys.insert(key).inserted else {
        throw start.error("the key \"\(key)\" stands in this object twice; remove one of them")
      }
      skipBlanks()
      guard take(UInt8(ascii: ":")) else { throw error("expected ':' after the key \"\(key)\"") }
      skipBlanks()
      mapping.entries.append(.init(key: key, keyPosition: position, value: try value(depth: depth + 1)))
      skipBlanks()
    } while take(UInt8(ascii: ","))
    guard take(UInt8(ascii: "}")) else { throw error("expected ',' or '}'") }
    return mapping
  }

  private mutating func array(depth: Int) throws(ManifestError) -> [Document] {
    advance()
    var elements: [Document] = []
    skipBlanks()
    if take(UInt8(ascii: "]")) { return elements }
    repeat {
      skipBlanks()
      elements.append(try value(depth: depth + 1))
      skipBlanks()
    } while take(UInt8(ascii: ","))
    guard take(UInt8(ascii: "]")) else { throw error("expected ',' or ']'") }
    return elements
  }

  private mutating func string() throws(ManifestError) -> String {
    let start = self
    advance()
    let first = offset
    // Most strings have no escapes: one copy then does.
    while let byte = peek, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\"), byte >= 0x20 { advance() }
    var text = Array(bytes[first..<offset])
    while let byte = peek {
      advance()
      switch byte {
      case UInt8(ascii: "\""): return String(decoding: text, as: UTF8.self)
      case UInt8(ascii: "\\"): try escape(into: &text)
      case 0..<0x20: throw start.error("the string is not closed on its line, or holds a control character")
      default: text.append(byte)
      }
    }
    throw start.error("the string has no closing quotation mark")
  }

  private mutating func escape(into text: inout [UInt8]) throws(ManifestError) {
    let start = self
    guard let byte = peek else { throw error("expected an escape sequence") }
    advance()
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(byte)
    case UInt8(ascii: "b"): text.append(0x08)
    case UInt8(ascii: "f"): text.append(0x0c)
    case UInt8(ascii: "n"): text.append(0x0a)
    case UInt8(ascii: "r"): text.append(0x0d)
    case UInt8(ascii: "t"): text.append(0x09)
    case UInt8(ascii: "u"):
      var code = UInt32(try hexadecimal())
      if (0xd800..<0xdc00).contains(code), peek == UInt8(ascii: "\\") {
        advance()
        guard take(UInt8(ascii: "u")) else { throw error("expected the second half of a surrogate pair") }
        let low = UInt32(try hexadecimal())
        guard (0xdc00..<0xe000).contains(low) else { throw start.error("the surrogate pair is not complete") }
        code = 0x10000 + (code - 0xd800) << 10 + (low - 0xdc00)
      }
      guard let scalar = Unicode.Scalar(code) else { throw start.error("the surrogate pair is not complete") }
      text.append(contentsOf: UTF8.encode(scalar)!)
    default: throw start.error("unknown escape sequence")
    }
  }

  private mutating func hexadecimal() throws(ManifestError) -> UInt16 {
    var value: UInt16 = 0
    for _ in 0..<4 {
      guard let byte = peek, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
        throw error("expected four hexadecimal digits after \\u")
      }
      value = value << 4 | UInt16(digit)
      advance()
    }
    return value
  }

  private mutating func number() throws(ManifestError) -> Document.Value {
    let start = self
    let first = offset
    var isWhole = true
    loop: while let byte = peek {
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "+"): break
      case UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E"): isWhole = false
      default: break loop
      }
      advance()
    }
    let text = String(decoding: bytes[first..<offset], as: UTF8.self)
    let digits = text.hasPrefix("-") ? text.dropFirst() : text[...]
    let hasLeadingZero = isWhole && digits.utf8.count > 1 && digits.hasPrefix("0")
    if isWhole, !hasLeadingZero, let value = Int64(text) { return .int(value) }
    guard !hasLeadingZero, let value = Double(text) else { throw start.error("\(text) is not a number") }
    return .double(value)
  }

  private mutating func literal(_ word: String, _ value: Document.Value) throws(ManifestError) -> Document.Value {
    guard bytes[offset...].starts(with: word.utf8) else { throw error("expected a value") }
    offset += word.utf8.count
    return value
  }

  // MARK: Bytes

  private var peek: UInt8? { offset < bytes.count ? bytes[offset] : nil }

  private mutating func advance() {
    if bytes[offset] == UInt8(ascii: "\n") {
      line += 1
      lineStart = offset + 1
    }
    offset += 1
  }

  private mutating func take(_ byte: UInt8) -> Bool {
    guard peek == byte else { return false }
    advance()
    return true
  }

  private mutating func skipBlanks() {
    while let byte = peek, byte == 0x20 || byte == 0x09 || byte == 0x0a || byte == 0x0d { advance() }
  }

  private func error(_ message: String) -> ManifestError {
    let what = offset < bytes.count ? "is not valid JSON: " : "is not valid JSON, it ends too early: "
    return ManifestError(file: file, line: line, column: offset - lineStart + 1, message: what + message)
  }
}
