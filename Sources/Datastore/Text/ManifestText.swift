import Model

/// Reads the text of one manifest.
enum ManifestText {
  /// The objects of a text. Throws where it is not text, or neither YAML nor JSON; what is wrong with an object is told
  /// with the object.
  static func contents(_ bytes: [UInt8], file: String) throws(ManifestError) -> ManifestContents {
    var cache = DocumentCache()
    return try contents(bytes, file: file, cache: &cache)
  }

  /// The same, but documents that stand in the cache from the last time are not parsed again: where one of ten thousand
  /// objects of a file changes, one is read. `cache` holds the documents of this text afterwards, unless it throws.
  static func contents(
    _ bytes: [UInt8], file: String, cache: inout DocumentCache
  ) throws(ManifestError) -> ManifestContents {
    var bytes = bytes
    if bytes.starts(with: [0xef, 0xbb, 0xbf]) { bytes.removeFirst(3) }
    if bytes.starts(with: [0xff, 0xfe]) || bytes.starts(with: [0xfe, 0xff]) {
      throw ManifestError(file: file, message: "is UTF-16; save it as UTF-8")
    }
    if file.hasSuffix(".json") {
      guard String(validating: bytes, as: UTF8.self) != nil else { throw notText(bytes, file: file) }
      return read(try JSONText.documents(bytes, file: file), file: file)
    }

    var contents = ManifestContents()
    var current = DocumentCache()
    for section in YAMLSection.sections(of: bytes) {
      let key = DocumentCache.key(bytes[section.range])
      let new: ManifestContents
      if let known = cache.contents(key, line: section.line) {
        new = known
      } else {
        guard let text = String(validating: bytes[section.range], as: UTF8.self) else {
          throw notText(bytes, file: file)
        }
        new = read(try YAMLText.documents(text, file: file, firstLine: section.line), file: file)
      }
      current.store(new, key, line: section.line)
      contents.objects += new.objects
      contents.notices += new.notices
    }
    cache = current
    var subjects: Set<String> = []
    contents.notices.removeAll { !subjects.insert($0.subject).inserted }
    return contents
  }

  private static func read(_ documents: [Document], file: String) -> ManifestContents {
    var reader = ManifestReader(file: file)
    for document in documents { reader.read(document) }
    return reader.contents
  }

  private static func notText(_ bytes: [UInt8], file: String) -> ManifestError {
    for (index, line) in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated()
    where String(validating: line, as: UTF8.self) == nil {
      return ManifestError(file: file, line: index + 1, message: "is not UTF-8 text; save it as UTF-8")
    }
    return ManifestError(file: file, message: "is not UTF-8 text; save it as UTF-8")
  }
}

/// A part of a YAML text that can be read by itself: one document.
struct YAMLSection {
  var range: Range<Int>
  /// The line of the text in which the section begins, from 1.
  var line: Int

  /// Cuts a text before each line that begins with `---`: nothing else can such a line be (YAML 1.2, section 9.1.2).
  /// A text with directives stays whole, because they belong to the document after them.
  static func sections(of bytes: [UInt8]) -> [YAMLSection] {
    var sections: [YAMLSection] = []
    var start = (offset: 0, line: 1)
    var offset = 0
    var line = 1
    while offset < bytes.count {
      if bytes[offset] == UInt8(ascii: "%") { return [YAMLSection(range: 0..<bytes.count, line: 1)] }
      if offset > start.offset, isMarker(bytes, at: offset) {
        sections.append(YAMLSection(range: start.offset..<offset, line: start.line))
        start = (offset, line)
      }
      guard let end = bytes[offset...].firstIndex(of: UInt8(ascii: "\n")) else { break }
      offset = end + 1
      line += 1
    }
    sections.append(YAMLSection(range: start.offset..<bytes.count, line: start.line))
    return sections
  }

  private static func isMarker(_ bytes: [UInt8], at offset: Int) -> Bool {
    let dash = UInt8(ascii: "-")
    guard offset + 3 <= bytes.count, bytes[offset] == dash, bytes[offset + 1] == dash, bytes[offset + 2] == dash else {
      return false
    }
    return offset + 3 == bytes.count || [0x20, 0x09, 0x0d, 0x0a].contains(bytes[offset + 3])
  }
}

/// The documents of a file as they were read last, by their contents.
struct DocumentCache {
  private var entries: [Int: (contents: ManifestContents, line: Int)] = [:]

  static func key(_ bytes: ArraySlice<UInt8>) -> Int {
    var hasher = Hasher()
    unsafe bytes.withUnsafeBytes { unsafe hasher.combine(bytes: $0) }
    return hasher.finalize()
  }

  /// What the document holds, as if it stood at this line.
  func contents(_ key: Int, line: Int) -> ManifestContents? {
    guard let entry = entries[key] else { return nil }
    return entry.contents.moved(by: line - entry.line)
  }

  mutating func store(_ contents: ManifestContents, _ key: Int, line: Int) { entries[key] = (contents, line) }
}
