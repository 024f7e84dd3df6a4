/// A place in a text file. Both numbers count from 1.
public struct Position: Hashable, Sendable, Comparable {
  public var line: Int32
  public var column: Int32

  public init(line: Int, column: Int) {
    self.line = Int32(clamping: line)
    self.column = Int32(clamping: column)
  }

  public static func < (a: Position, b: Position) -> Bool { (a.line, a.column) < (b.line, b.column) }
}

/// A value of a YAML or JSON text, with the place where it stands.
///
/// The tree is neutral: it knows neither the syntax that it was written in nor the kind of object that it describes.
public struct Document: Sendable {
  public enum Value: Sendable {
    case null
    case bool(Bool)
    case int(Int64)
    case double(Double)
    case string(String)
    case sequence([Document])
    case mapping(Mapping)
  }

  public var value: Value
  public var position: Position

  public init(_ value: Value, at position: Position) {
    self.value = value
    self.position = position
  }

  /// A mapping in the order in which it was written.
  public struct Mapping: Sendable {
    public struct Entry: Sendable {
      public var key: String
      public var keyPosition: Position
      public var value: Document

      public init(key: String, keyPosition: Position, value: Document) {
        self.key = key
        self.keyPosition = keyPosition
        self.value = value
      }
    }

    public var entries: [Entry]

    public init(_ entries: [Entry] = []) { self.entries = entries }

    /// The value of the first entry with this key. Objects have few keys: a scan is faster than a hash.
    public subscript(key: String) -> Document? {
      for entry in entries where entry.key == key { return entry.value }
      return nil
    }
  }
}

extension Document {
  public var isNull: Bool { if case .null = value { true } else { false } }

  public var mapping: Mapping? { if case .mapping(let mapping) = value { mapping } else { nil } }

  public var sequence: [Document]? { if case .sequence(let sequence) = value { sequence } else { nil } }

  public var string: String? { if case .string(let string) = value { string } else { nil } }

  /// What the value is, in words for an error message.
  public var summary: String {
    switch value {
    case .null: "nothing (null)"
    case .bool(let value): "the boolean \(value)"
    case .int(let value): "the number \(value)"
    case .double(let value): "the number \(value)"
    case .string(let value): "the string \(quoted(value))"
    case .sequence: "a list"
    case .mapping: "a mapping"
    }
  }
}

/// A text in quotation marks for an error message: on one line and not too long.
func quoted(_ text: some StringProtocol) -> String {
  var result = "\""
  var count = 0
  for scalar in text.unicodeScalars {
    count += 1
    if count > 80 {
      result += "…"
      break
    }
    switch scalar {
    case "\"", "\\":
      result.unicodeScalars.append("\\")
      result.unicodeScalars.append(scalar)
    case "\n": result += "\\n"
    case "\t": result += "\\t"
    case _ where scalar.value < 0x20 || (0x7f..<0xa0).contains(scalar.value):
      result += "\\u{\(String(scalar.value, radix: 16))}"
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result + "\""
}
