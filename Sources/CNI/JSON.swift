/// A JSON text as a value (RFC 8259): small, without Foundation, because the plugin is started for every pod and must be
/// there in a millisecond. Members of objects keep their order, numbers keep their digits, so that what a runtime sent is
/// handed on as it was.
public enum JSON: Sendable, Equatable {
  case null
  case bool(Bool)
  /// The number as it is written.
  case number(String)
  case string(String)
  case array([JSON])
  case object([Member])

  public struct Member: Sendable, Equatable {
    public var name: String
    public var value: JSON

    public init(_ name: String, _ value: JSON) {
      self.name = name
      self.value = value
    }
  }

  /// An object of these members; those that are nil are left out.
  public init(_ members: KeyValuePairs<String, JSON?>) {
    self = .object(members.compactMap { name, value in value.map { Member(name, $0) } })
  }

  public static func number(_ value: Int) -> JSON { .number(String(value)) }

  /// The member of that name; nil where this is no object or has none. Setting nil removes it.
  public subscript(name: String) -> JSON? {
    get {
      guard case .object(let members) = self else { return nil }
      return members.last { $0.name == name }?.value
    }
    set {
      guard case .object(var members) = self else { return }
      let place = members.firstIndex { $0.name == name }
      members.removeAll { $0.name == name }
      if let newValue { members.insert(Member(name, newValue), at: place ?? members.count) }
      self = .object(members)
    }
  }

  public var text: String? { if case .string(let text) = self { text } else { nil } }
  public var flag: Bool? { if case .bool(let flag) = self { flag } else { nil } }
  public var elements: [JSON]? { if case .array(let elements) = self { elements } else { nil } }
  public var members: [Member]? { if case .object(let members) = self { members } else { nil } }

  /// The number where it is a whole one.
  public var integer: Int? {
    guard case .number(let digits) = self else { return nil }
    if let value = Int(digits) { return value }
    // 1e9 and 1.0 are whole numbers too.
    guard let value = Double(digits), value.rounded() == value, value.magnitude < 9e15 else { return nil }
    return Int(value)
  }

  /// `an object`, for messages.
  public var kind: String {
    switch self {
    case .null: "null"
    case .bool: "a boolean"
    case .number: "a number"
    case .string: "a string"
    case .array: "a list"
    case .object: "an object"
    }
  }
}

extension JSON {
  /// The text without spaces and line breaks.
  public var serialized: String {
    var octets: [UInt8] = []
    write(to: &octets, indent: nil)
    return String(decoding: octets, as: UTF8.self)
  }

  /// The text in lines, for people.
  public var pretty: String {
    var octets: [UInt8] = []
    write(to: &octets, indent: 0)
    return String(decoding: octets, as: UTF8.self)
  }

  private func write(to out: inout [UInt8], indent: Int?) {
    switch self {
    case .null: out += "null".utf8
    case .bool(let value): out += (value ? "true" : "false").utf8
    case .number(let digits): out += digits.utf8
    case .string(let text): JSON.write(text, to: &out)
    case .array(let elements):
      JSON.writeList(elements, "[", "]", to: &out, indent) { $0.write(to: &$1, indent: $2) }
    case .object(let members):
      JSON.writeList(members, "{", "}", to: &out, indent) { member, out, indent in
        JSON.write(member.name, to: &out)
        out += (indent == nil ? ":" : ": ").utf8
        member.value.write(to: &out, indent: indent)
      }
    }
  }

  private static func writeList<Element>(
    _ list: [Element], _ open: String, _ close: String, to out: inout [UInt8], _ indent: Int?,
    _ body: (Element, inout [UInt8], Int?) -> Void
  ) {
    out += open.utf8
    let inner = indent.map { $0 + 2 }
    for (position, element) in list.enumerated() {
      if position > 0 { out.append(UInt8(ascii: ",")) }
      if let inner { out += ("\n" + String(repeating: " ", count: inner)).utf8 }
      body(element, &out, inner)
    }
    if let indent, !list.isEmpty { out += ("\n" + String(repeating: " ", count: indent)).utf8 }
    out += close.utf8
  }

  private static func write(_ text: String, to out: inout [UInt8]) {
    out.append(UInt8(ascii: "\""))
    for octet in text.utf8 {
      switch octet {
      case UInt8(ascii: "\""): out += "\\\"".utf8
      case UInt8(ascii: "\\"): out += "\\\\".utf8
      case UInt8(ascii: "\n"): out += "\\n".utf8
      case UInt8(ascii: "\t"): out += "\\t".utf8
      case UInt8(ascii: "\r"): out += "\\r".utf8
      case 0..<0x20:
        let digits = String(octet, radix: 16)
        out += ("\\u" + String(repeating: "0", count: 4 - digits.utf8.count) + digits).utf8
      default: out.append(octet)
      }
    }
    out.append(UInt8(ascii: "\""))
  }
}
