/// Something wrong in a manifest, named by file, place, object and field.
public struct ManifestError: Error, Hashable, Sendable {
  /// The path of the file as it was given, or `-` for standard input.
  public var file: String
  /// Where in the file, counted from 1; 0 where the file as a whole is meant.
  public var line: Int
  public var column: Int
  /// `Kind namespace/name`, as far as it is known.
  public var object: String?
  /// The path of the field, as in `spec.clusterCIDRs[1]`.
  public var field: String?
  /// What is wrong and what to do about it.
  public var message: String

  public init(
    file: String, line: Int = 0, column: Int = 0, object: String? = nil, field: String? = nil, message: String
  ) {
    self.file = file
    self.line = line
    self.column = column
    self.object = object
    self.field = field
    self.message = message
  }
}

extension ManifestError: CustomStringConvertible {
  /// `FILE:LINE:COLUMN: Kind namespace/name: field: message`, without the parts that are not known.
  public var description: String {
    var text = file
    if line > 0 { text += column > 0 ? ":\(line):\(column)" : ":\(line)" }
    if let object { text += ": \(object)" }
    if let field, !field.isEmpty { text += ": \(field)" }
    return text + ": \(message)"
  }
}

/// Something in a manifest that is not wrong but that its author should know, such as a kind that is not used here.
public struct ManifestNotice: Hashable, Sendable, CustomStringConvertible {
  /// What the notice is about, such as `v1 ConfigMap`: enough to be told once.
  public var subject: String
  public var file: String
  public var line: Int
  public var column: Int
  public var message: String

  public init(subject: String, file: String, line: Int, column: Int, message: String) {
    self.subject = subject
    self.file = file
    self.line = line
    self.column = column
    self.message = message
  }

  /// `FILE:LINE:COLUMN: message`
  public var description: String { "\(file):\(line):\(column): \(message)" }
}
