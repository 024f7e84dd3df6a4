import Model

/// Reads the text of one manifest.
enum ManifestText {
  /// The objects of a text. Throws where it is not text, or neither YAML nor JSON; what is wrong with an object is told
  /// with the object.
  static func contents(_ bytes: [UInt8], file: String) throws(ManifestError) -> ManifestContents {
    var bytes = bytes
    if bytes.starts(with: [0xef, 0xbb, 0xbf]) { bytes.removeFirst(3) }
    if bytes.starts(with: [0xff, 0xfe]) || bytes.starts(with: [0xfe, 0xff]) {
      throw ManifestError(file: file, message: "is UTF-16; save it as UTF-8")
    }
    guard let text = String(validating: bytes, as: UTF8.self) else { throw notText(bytes, file: file) }
    let documents =
      file.hasSuffix(".json")
      ? try JSONText.documents(bytes, file: file) : try YAMLText.documents(text, file: file)
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
