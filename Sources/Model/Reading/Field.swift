import Addresses

/// The way from the root of an object to one of its fields.
indirect enum FieldPath: CustomStringConvertible {
  case root
  case key(FieldPath, String)
  case index(FieldPath, Int)

  /// `spec.clusterCIDRs[1]`, `metadata.annotations["kalsae.io/mac"]`
  var description: String {
    switch self {
    case .root: ""
    case .key(.root, let key): key
    case .key(let parent, let key) where key.contains(".") || key.contains("/"): "\(parent)[\(quoted(key))]"
    case .key(let parent, let key): "\(parent).\(key)"
    case .index(let parent, let index): "\(parent)[\(index)]"
    }
  }
}

/// What was found wrong in one object: all of it, so that one look at the report is enough to mend it.
public final class Findings {
  let file: String
  var object: String?
  public private(set) var errors: [ManifestError] = []
  private var isFull = false

  /// No object reports more than this many errors.
  static let limit = 20

  public init(file: String, object: String? = nil) {
    self.file = file
    self.object = object
  }

  func report(_ message: String, path: FieldPath, at position: Position) {
    guard !isFull else { return }
    let error = ManifestError(
      file: file, line: Int(position.line), column: Int(position.column), object: object,
      field: path.description, message: message)
    // A field that is read twice is wrong only once.
    guard !errors.contains(error) else { return }
    if errors.count == Findings.limit {
      isFull = true
      errors.append(
        ManifestError(
          file: file, line: error.line, column: error.column, object: object,
          message: "more errors follow in this object"))
    } else {
      errors.append(error)
    }
  }
}

/// A field of an object: there or not. Reading it gives a typed value, or nil; what is there but wrong is reported to
/// the object's findings, absence is not (see ``required()``). A field that is `null` counts as absent, as in
/// Kubernetes.
public struct Field {
  /// The value; nil where the field is absent.
  public let document: Document?
  let path: FieldPath
  /// The field's own place; that of the nearest parent where it is absent.
  public let position: Position
  public let findings: Findings

  /// The root of an object.
  public init(root document: Document, findings: Findings) {
    self.init(document: document, path: .root, position: document.position, findings: findings)
  }

  init(document: Document?, path: FieldPath, position: Position, findings: Findings) {
    self.document = document?.isNull == true ? nil : document
    self.path = path
    self.position = document?.position ?? position
    self.findings = findings
  }

  public var exists: Bool { document != nil }

  /// The field of this mapping with that name. Reports a value that is no mapping.
  public subscript(key: String) -> Field {
    Field(document: mapping()?[key], path: .key(path, key), position: position, findings: findings)
  }

  /// Reports an error at this field.
  public func fail(_ message: String) { findings.report(message, path: path, at: position) }

  /// Reports the absence of the field.
  @discardableResult
  public func required() -> Field {
    if !exists { fail("is missing; this field is required") }
    return self
  }

  private func mismatch(_ expected: String, hint: String = "") {
    guard let document else { return }
    fail("expected \(expected), found \(document.summary)\(hint)")
  }
}

// MARK: - Containers

extension Field {
  func mapping() -> Document.Mapping? {
    guard let document else { return nil }
    if case .mapping(let mapping) = document.value { return mapping }
    mismatch("a mapping (key: value)")
    return nil
  }

  /// The elements of a list; none where the field is absent.
  public func elements() -> [Field] {
    guard let document else { return [] }
    guard case .sequence(let sequence) = document.value else {
      mismatch("a list", hint: "; write it as [..] or as lines that start with '- '")
      return []
    }
    return sequence.enumerated().map { index, element in
      Field(document: element, path: .index(path, index), position: position, findings: findings)
    }
  }

  /// The elements of a list, read one by one; those that cannot be read are reported and left out.
  public func list<T>(_ read: (Field) -> T?) -> [T] {
    elements().compactMap { element in
      if !element.exists { element.fail("is null; remove it or give it a value") }
      return read(element)
    }
  }

  /// The entries of a mapping in their order; none where the field is absent.
  public func entries() -> [(key: String, field: Field)] {
    (mapping()?.entries ?? []).map { entry in
      (
        entry.key,
        Field(document: entry.value, path: .key(path, entry.key), position: entry.keyPosition, findings: findings)
      )
    }
  }

  /// A mapping of strings to strings; empty where the field is absent.
  public func strings() -> [String: String] {
    guard let mapping = mapping() else { return [:] }
    var result = [String: String](minimumCapacity: mapping.entries.count)
    for (key, field) in entries() { result[key] = field.string() ?? "" }
    return result
  }

  /// Reports every key of this mapping that is not among `known`, with a suggestion where one is close. Only our own
  /// kinds do this: others grow fields that are none of our business.
  public func refuseUnknown(_ known: [String]) {
    for (key, field) in entries() where !known.contains(key) {
      field.fail("unknown field; \(suggestion(for: key, in: known))")
    }
  }
}

// MARK: - Scalars

extension Field {
  public func string() -> String? {
    guard let document else { return nil }
    switch document.value {
    case .string(let value): return value
    case .bool, .int, .double: mismatch("a string", hint: "; put it in quotation marks")
    default: mismatch("a string")
    }
    return nil
  }

  /// A whole number in a range.
  public func int(in range: ClosedRange<Int>) -> Int? {
    guard let document else { return nil }
    let expected = "a whole number from \(range.lowerBound) to \(range.upperBound)"
    switch document.value {
    case .int(let value) where range.contains(Int(value)): return Int(value)
    // JSON writers may spell a whole number 1.0 or 1e3.
    case .double(let value) where Double(range.lowerBound) <= value && value <= Double(range.upperBound):
      if value == value.rounded() { return Int(value) }
      mismatch(expected)
    case .string(let text) where Int(text) != nil: mismatch(expected, hint: "; remove the quotation marks")
    default: mismatch(expected)
    }
    return nil
  }

  public func bool() -> Bool? {
    guard let document else { return nil }
    if case .bool(let value) = document.value { return value }
    mismatch("true or false")
    return nil
  }

  /// One of a fixed set of strings.
  public func choice<E>(_ type: E.Type) -> E? where E: RawRepresentable<String> & CaseIterable {
    guard let text = string() else { return nil }
    if let value = E(rawValue: text) { return value }
    fail("expected one of \(E.allCases.map(\.rawValue).joined(separator: ", ")), found \(quoted(text))")
    return nil
  }

  /// A string that `parse` understands; `expected` says in words what that is, with an example.
  public func parsed<T>(_ expected: String, _ parse: (String) -> T?) -> T? {
    guard let text = string() else { return nil }
    if let value = parse(text) { return value }
    fail("expected \(expected), found \(quoted(text))")
    return nil
  }

  public func address() -> IPAddress? {
    parsed("an IPv4 or IPv6 address such as 10.0.0.1 or fd00::1") { IPAddress($0) }
  }

  /// A block in CIDR notation. Bits after the prefix are cleared, or refused where `strict`.
  public func prefix(strict: Bool = false) -> IPPrefix? {
    guard
      let text = string(),
      let prefix = parsed("a block in CIDR notation such as 10.244.0.0/16 or fd00:10::/64", { IPPrefix($0) })
    else { return nil }
    if strict, let slash = text.firstIndex(of: "/"), IPAddress(parsing: text[..<slash]) != prefix.address {
      fail("\(quoted(text)) has bits set after the prefix; write \(prefix)")
      return nil
    }
    return prefix
  }

  /// The address of one station: neither a group nor all zeros.
  public func macAddress() -> MACAddress? {
    parsed("a unicast MAC address such as 02:00:00:00:00:01") { text in
      guard let mac = MACAddress(text), !mac.isGroup, mac != .zero else { return nil }
      return mac
    }
  }

  /// A time: a number of seconds, or a text in Go's notation such as "30s" or "1h30m".
  public func duration(in range: ClosedRange<Duration>) -> Duration? {
    guard let document else { return nil }
    let value: Duration?
    switch document.value {
    case .int(let seconds) where seconds.magnitude < 1 << 40: value = .seconds(seconds)
    case .double(let seconds) where seconds.magnitude < 0x1p40: value = .seconds(seconds)
    case .string(let text): value = Duration(goNotation: text)
    default: value = nil
    }
    guard let value, range.contains(value) else {
      mismatch(
        "a time from \(range.lowerBound.goNotation) to \(range.upperBound.goNotation),"
          + " in seconds or like \"30s\" or \"24h\"")
      return nil
    }
    return value
  }

  /// A string that keeps one of Kubernetes' rules for names.
  public func name(_ rule: NameRule) -> String? {
    guard let text = string() else { return nil }
    guard rule.allows(text) else {
      fail("\(quoted(text)) is not a valid \(rule.name): \(rule.requirement)")
      return nil
    }
    return text
  }
}
