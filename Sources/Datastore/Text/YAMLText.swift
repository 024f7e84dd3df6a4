import Model
import Yams

/// Reads YAML texts of one or more documents.
enum YAMLText {
  /// Values nest no deeper than this, so that no text can exhaust the stack.
  static let depthLimit = 100

  /// The documents of a text in their order. Throws at the first place where the text is no YAML.
  ///
  /// `firstLine`: the line of the file in which the text begins.
  static func documents(_ text: String, file: String, firstLine: Int = 1) throws(ManifestError) -> [Document] {
    do {
      try refuseAliasKeys(text, file: file, firstLine: firstLine)
      // The basic resolver tries no patterns on scalars, which would take more than half of the time.
      let parser = try Parser(yaml: text, resolver: .basic, encoding: .utf8)
      var converter = Converter(text: text, file: file, lineOffset: firstLine - 1)
      var documents: [Document] = []
      while let root = try parser.nextRoot() { documents.append(try converter.document(root, depth: 0)) }
      return documents
    } catch let error as ManifestError {
      throw error
    } catch let error as YamlError {
      var error = manifestError(error, text: text, file: file)
      if error.line > 0 { error.line += firstLine - 1 }
      throw error
    } catch {
      throw ManifestError(file: file, message: "is not valid YAML: \(error)")
    }
  }

  /// An alias that stands for a key is hashed with all that it stands for before anything here sees it: a few lines of
  /// nested aliases would take for ever. No manifest needs one.
  private static func refuseAliasKeys(_ text: String, file: String, firstLine: Int) throws(ManifestError) {
    let bytes = text.utf8
    guard bytes.contains(UInt8(ascii: "&")), bytes.contains(UInt8(ascii: "*")) else { return }
    for (index, line) in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated() {
      var rest = line
      while let star = rest.firstIndex(of: UInt8(ascii: "*")) {
        let before = line[..<star].last { $0 != UInt8(ascii: " ") }
        let name = bytes[bytes.index(after: star)..<line.endIndex].prefix(while: isWord)
        let after = bytes[name.endIndex..<line.endIndex].first { $0 != UInt8(ascii: " ") }
        if !name.isEmpty, before == UInt8(ascii: "?") || after == UInt8(ascii: ":") {
          throw ManifestError(
            file: file, line: firstLine + index, column: line.distance(from: line.startIndex, to: star) + 1,
            message: "an alias (*name) cannot be a key; write the key out")
        }
        rest = bytes[bytes.index(after: star)..<line.endIndex]
      }
    }
  }

  private static func isWord(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"):
      true
    default: false
    }
  }

  private static func manifestError(_ error: YamlError, text: String, file: String) -> ManifestError {
    switch error {
    case .scanner(let context, let problem, let mark, _), .parser(let context, let problem, let mark, _),
      .composer(let context, let problem, let mark, _):
      var message = "is not valid YAML: \(problem)"
      if let context { message += " \(context.text) that begins in line \(context.mark.line)" }
      let lines = text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
      let lastLine = lines.count - (lines.last!.isEmpty ? 1 : 0)
      guard mark.line <= lastLine else {
        return ManifestError(file: file, line: lastLine, message: message + "; it seems to be cut off")
      }
      let indentation = lines[mark.line - 1].prefix { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }
      if indentation.contains(UInt8(ascii: "\t")) { message += "; indent with blanks instead of tabs" }
      return ManifestError(file: file, line: mark.line, column: mark.column, message: message)
    case .duplicatedKeysInMapping(let keys, let context):
      let list = keys.map { "\"\($0)\"" }.joined(separator: ", ")
      return ManifestError(
        file: file, line: context.mark.line, column: context.mark.column,
        message: "the key \(list) stands in this mapping twice; remove one of them")
    case .reader(let problem, let offset, _, _):
      let before = text.prefix(offset ?? 0)
      let line = before.count { $0.isNewline } + 1
      let column = (before.lastIndex { $0.isNewline }.map { before[$0...].count - 1 } ?? before.count) + 1
      return ManifestError(
        file: file, line: offset == nil ? 0 : line, column: column, message: "is not valid YAML: \(problem)")
    default:
      return ManifestError(file: file, message: "is not valid YAML: \(error)")
    }
  }
}

/// Turns Yams' tree into the neutral one, within bounds.
private struct Converter {
  private let file: String
  private let lineOffset: Int
  /// Aliases can stand for the same values again and again: the values of a file are bounded by its size.
  private var budget: Int

  init(text: String, file: String, lineOffset: Int) {
    self.file = file
    self.lineOffset = lineOffset
    budget = text.utf8.count * 10 + 1000
  }

  private func position(of mark: Mark?) -> Position {
    Position(line: (mark?.line ?? 1) + lineOffset, column: mark?.column ?? 1)
  }

  mutating func document(_ node: Yams.Node, depth: Int) throws(ManifestError) -> Document {
    let position = position(of: node.mark)
    func fail(_ message: String) -> ManifestError {
      ManifestError(file: file, line: Int(position.line), column: Int(position.column), message: message)
    }
    budget -= 1
    guard budget > 0 else { throw fail("its aliases expand to too many values; write them out or use fewer") }
    guard depth < YAMLText.depthLimit else { throw fail("is nested more than \(YAMLText.depthLimit) deep; flatten it") }

    switch node {
    case .scalar(let scalar):
      return Document(value(of: scalar), at: position)
    case .sequence(let sequence):
      var elements: [Document] = []
      elements.reserveCapacity(sequence.count)
      for element in sequence { elements.append(try document(element, depth: depth + 1)) }
      return Document(.sequence(elements), at: position)
    case .mapping(let mapping):
      return Document(.mapping(try self.mapping(mapping, depth: depth)), at: position)
    case .alias:
      throw fail("holds an alias that cannot be followed; write the value out")
    }
  }

  private func value(of scalar: Yams.Node.Scalar) -> Document.Value {
    scalar.style == .plain && scalar.tag.rawValue != Tag.Name.str.rawValue
      ? Document.Value(plainScalar: scalar.string) : .string(scalar.string)
  }

  private mutating func mapping(_ mapping: Yams.Node.Mapping, depth: Int) throws(ManifestError) -> Document.Mapping {
    var result = Document.Mapping()
    result.entries.reserveCapacity(mapping.count)
    var merged: [Document.Mapping] = []
    for (key, value) in mapping {
      let position = position(of: key.mark)
      guard case .scalar(let name) = key else {
        throw ManifestError(
          file: file, line: Int(position.line), column: Int(position.column),
          message: "a list or a mapping cannot be a key; write a string")
      }
      let document = try document(value, depth: depth + 1)
      if name.string == "<<", name.style == .plain {
        merged += try sources(of: document)
      } else {
        result.entries.append(.init(key: name.string, keyPosition: position, value: document))
      }
    }
    // A mapping's own keys win over merged ones, and earlier merged mappings over later ones.
    for source in merged {
      for entry in source.entries where result[entry.key] == nil { result.entries.append(entry) }
    }
    return result
  }

  /// The mappings that a merge key (`<<`) brings in.
  private func sources(of document: Document) throws(ManifestError) -> [Document.Mapping] {
    if let mapping = document.mapping { return [mapping] }
    let mappings = (document.sequence ?? []).compactMap(\.mapping)
    guard !mappings.isEmpty, mappings.count == document.sequence?.count else {
      throw ManifestError(
        file: file, line: Int(document.position.line), column: Int(document.position.column),
        message: "the merge key << needs a mapping or a list of mappings")
    }
    return mappings
  }
}
