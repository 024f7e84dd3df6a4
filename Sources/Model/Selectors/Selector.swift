/// A selector in Calico's language (GNP-2), such as `zone == 'a' && !has(spot)`.
///
/// A label that is absent is unequal to every value and in no set; it contains, starts with and ends with nothing.
public indirect enum Selector: Sendable, Hashable {
  case all
  case has(String)
  case equal(String, String)
  case notEqual(String, String)
  case `in`(String, [String])
  case notIn(String, [String])
  case contains(String, String)
  case startsWith(String, String)
  case endsWith(String, String)
  case not(Selector)
  case and([Selector])
  case or([Selector])

  public func matches(_ labels: [String: String]) -> Bool {
    switch self {
    case .all: true
    case .has(let key): labels[key] != nil
    case .equal(let key, let value): labels[key] == value
    case .notEqual(let key, let value): labels[key] != value
    case .in(let key, let values): labels[key].map(values.contains) ?? false
    case .notIn(let key, let values): !(labels[key].map(values.contains) ?? false)
    case .contains(let key, let text): labels[key]?.contains(text) ?? false
    case .startsWith(let key, let text): labels[key]?.hasPrefix(text) ?? false
    case .endsWith(let key, let text): labels[key]?.hasSuffix(text) ?? false
    case .not(let operand): !operand.matches(labels)
    case .and(let operands): operands.allSatisfy { $0.matches(labels) }
    case .or(let operands): operands.contains { $0.matches(labels) }
    }
  }
}

/// What is wrong with the text of a selector, and where.
public struct SelectorError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The character of the text at which it stops making sense, from 1.
  public var column: Int
  public var message: String

  public var description: String { "column \(column): \(message)" }
}

extension Selector: CustomStringConvertible {
  /// The selector's canonical text.
  public var description: String { text(inside: 0) }

  /// `level`: 0 alone or under `||`, 1 under `&&`, 2 under `!`.
  private func text(inside level: Int) -> String {
    func set(_ values: [String]) -> String { "{\(values.map(Self.literal).joined(separator: ", "))}" }
    func join(_ operands: [Selector], _ symbol: String, own: Int) -> String {
      let text = operands.map { $0.text(inside: own + 1) }.joined(separator: " \(symbol) ")
      return level > own ? "(\(text))" : text
    }
    return switch self {
    case .all: "all()"
    case .has(let key): "has(\(key))"
    case .equal(let key, let value): "\(key) == \(Self.literal(value))"
    case .notEqual(let key, let value): "\(key) != \(Self.literal(value))"
    case .in(let key, let values): "\(key) in \(set(values))"
    case .notIn(let key, let values): "\(key) not in \(set(values))"
    case .contains(let key, let text): "\(key) contains \(Self.literal(text))"
    case .startsWith(let key, let text): "\(key) starts with \(Self.literal(text))"
    case .endsWith(let key, let text): "\(key) ends with \(Self.literal(text))"
    case .not(let operand): "!\(operand.text(inside: 2))"
    case .and(let operands): join(operands, "&&", own: 1)
    case .or(let operands): join(operands, "||", own: 0)
    }
  }

  /// A string has no escapes: it is written in the quotes that it does not hold.
  private static func literal(_ text: String) -> String { text.contains("'") ? "\"\(text)\"" : "'\(text)'" }
}

extension Field {
  /// A selector in Calico's language.
  public func selector() -> Selector? {
    guard let text = string() else { return nil }
    do {
      return try Selector(parsing: text)
    } catch {
      fail("selector \(quoted(text)): \(error)")
      return nil
    }
  }
}
