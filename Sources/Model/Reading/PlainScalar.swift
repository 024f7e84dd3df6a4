extension Document.Value {
  /// The value of an unquoted YAML scalar.
  ///
  /// Follows the core schema of YAML 1.2 (section 10.3.2), and takes `yes`, `no`, `on` and `off` for booleans as
  /// Kubernetes' own reader does. Numbers with leading zeros, with underscores and in base 60 stay strings: YAML 1.1
  /// and 1.2 disagree about them, and a MAC address like 10:20:30:40:50:59 is not a number.
  public init(plainScalar text: String) {
    guard let first = text.utf8.first else {
      self = .null
      return
    }
    switch first {
    case UInt8(ascii: "~"), UInt8(ascii: "n"), UInt8(ascii: "N"), UInt8(ascii: "t"), UInt8(ascii: "T"),
      UInt8(ascii: "f"), UInt8(ascii: "F"), UInt8(ascii: "y"), UInt8(ascii: "Y"), UInt8(ascii: "o"), UInt8(ascii: "O"):
      self = Self.word(text)
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "+"), UInt8(ascii: "."):
      self = Self.number(text)
    default:
      self = .string(text)
    }
  }

  private static func word(_ text: String) -> Document.Value {
    switch text {
    case "~", "null", "Null", "NULL": .null
    case "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON": .bool(true)
    case "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF": .bool(false)
    default: .string(text)
    }
  }

  private static func number(_ text: String) -> Document.Value {
    var digits = text.utf8[...]
    let sign = digits.first
    if sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") { digits = digits.dropFirst() }
    switch Substring(digits) {
    case ".inf", ".Inf", ".INF": return .double(sign == UInt8(ascii: "-") ? -.infinity : .infinity)
    case ".nan", ".NaN", ".NAN": return .double(.nan)
    default: break
    }
    if digits.starts(with: "0x".utf8) {
      return Int64(Substring(digits.dropFirst(2)), radix: 16).map { .int($0) } ?? .string(text)
    }
    if digits.starts(with: "0o".utf8) {
      return Int64(Substring(digits.dropFirst(2)), radix: 8).map { .int($0) } ?? .string(text)
    }
    var hasDigit = false
    var isWhole = true
    for byte in digits {
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): hasDigit = true
      case UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E"), UInt8(ascii: "+"), UInt8(ascii: "-"):
        isWhole = false
      default: return .string(text)
      }
    }
    guard hasDigit else { return .string(text) }
    if isWhole {
      if digits.first == UInt8(ascii: "0"), digits.count > 1 { return .string(text) }
      if let value = Int64(text) { return .int(value) }
    }
    return Double(text).map { .double($0) } ?? .string(text)
  }
}
