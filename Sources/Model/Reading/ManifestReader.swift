/// One object of a manifest: read, or refused.
public struct ManifestObject: Sendable {
  /// Which object it is; nil where not even that can be told.
  public var key: ObjectKey?
  public var position: Position
  /// The object; nil where `errors` say why not.
  public var resource: Resource?
  /// Everything that is wrong with it.
  public var errors: [ManifestError]
}

/// What a manifest holds.
public struct ManifestContents: Sendable {
  public var objects: [ManifestObject] = []
  /// Kinds that are not used here, each once.
  public var notices: [ManifestNotice] = []

  public init() {}
}

/// Reads objects, and lists of objects, out of the documents of one file.
public struct ManifestReader {
  private let file: String
  private var seenKinds: Set<String> = []
  public private(set) var contents = ManifestContents()

  /// Lists nest no deeper than this.
  private static let depthLimit = 4

  public init(file: String) { self.file = file }

  /// Reads one document. An empty one holds no object.
  public mutating func read(_ document: Document) { read(document, depth: 0, inherited: nil) }

  /// `inherited`: kind and version that the items of a typed list need not repeat.
  private mutating func read(_ document: Document, depth: Int, inherited: (kind: String, version: String)?) {
    if document.isNull { return }
    let findings = Findings(file: file)
    let root = Field(root: document, findings: findings)
    guard let mapping = root.mapping() else {
      return refuse(root, nil)
    }
    let version = root["apiVersion"].string() ?? inherited?.version
    let kindName = root["kind"].string() ?? inherited?.kind
    if version == nil { root["apiVersion"].required() }
    if kindName == nil { root["kind"].required() }
    guard let version, let kindName else { return refuse(root, nil) }

    if let item = Self.listedKind(kindName), mapping["items"] != nil || kindName == "List" {
      return readList(root, item: item, version: version, depth: depth)
    }
    guard let kind = Kind(rawValue: kindName), kind.type.apiVersions.contains(version) else {
      return readUnknown(root, version: version, kind: kindName)
    }
    read(root, kind: kind)
  }

  private mutating func read(_ root: Field, kind: Kind) {
    let type = kind.type
    let metadata = root["metadata"].required()
    root.findings.object = Self.label(kind.rawValue, metadata)
    let nameField = metadata["name"]
    if metadata.exists { nameField.required() }
    guard let name = nameField.name(type.nameRule) else { return refuse(root, nil) }
    var namespace = ""
    if type.isNamespaced {
      let field = metadata["namespace"]
      if field.optionalString() != nil {
        guard let valid = field.name(.label) else { return refuse(root, nil) }
        namespace = valid
      } else {
        namespace = "default"
      }
    }
    let key = ObjectKey(kind, namespace: namespace, name: name)
    root.findings.object = key.description
    let object = type.init(metadata: ObjectMetadata(key: key, reading: metadata), reading: root)
    guard let object, root.findings.errors.isEmpty else { return refuse(root, key) }
    contents.objects.append(
      ManifestObject(key: key, position: root.position, resource: object.resource, errors: []))
  }

  private mutating func refuse(_ root: Field, _ key: ObjectKey?) {
    contents.objects.append(
      ManifestObject(key: key, position: root.position, resource: nil, errors: root.findings.errors))
  }

  private mutating func readList(_ root: Field, item: String, version: String, depth: Int) {
    guard depth < Self.depthLimit else {
      root.fail("lists are nested more than \(Self.depthLimit) deep; move the items to the outermost list")
      return refuse(root, nil)
    }
    let items = root["items"].elements()
    // The items of a typed list (PodList) leave out what the list has said already.
    let inherited = item.isEmpty ? nil : (kind: item, version: version)
    for element in items {
      if let document = element.document {
        read(document, depth: depth + 1, inherited: inherited)
      } else {
        element.fail("is null; remove it")
      }
    }
    if !root.findings.errors.isEmpty { refuse(root, nil) }
  }

  /// The kind of the items of a list kind: empty for `List`; nil where the kind is no list.
  private static func listedKind(_ name: String) -> String? {
    if name == "List" { return "" }
    guard name.hasSuffix("List"), Kind(rawValue: name) == nil else { return nil }
    return String(name.dropLast(4))
  }

  private mutating func readUnknown(_ root: Field, version: String, kind: String) {
    root.findings.object = Self.label(kind, root["metadata"])
    // Our own group is ours alone: what it does not have is a mistake.
    if version.hasPrefix("kalsae.io/") {
      let own = Kind.allCases.filter { $0.type.apiVersions[0].hasPrefix("kalsae.io/") }
      if let match = own.first(where: { $0.rawValue == kind }) {
        root["apiVersion"].fail("unknown version \(quoted(version)); write \(match.type.apiVersions[0])")
      } else {
        let known = own.map(\.rawValue)
        root["kind"].fail("unknown kind \(quoted(kind)) in \(version); \(suggestion(for: kind, in: known))")
      }
      return refuse(root, nil)
    }
    guard seenKinds.insert("\(version) \(kind)").inserted else { return }
    var message = "\(kind) (\(version)) is not a kind that Kalsae uses; it is ignored"
    if let match = Kind(rawValue: kind) {
      message += "; \(kind) is read as \(match.type.apiVersions.joined(separator: " or "))"
    } else if let match = nearest(to: kind, in: Kind.allCases.map(\.rawValue)) {
      message += "; did you mean \(match)?"
    }
    contents.notices.append(
      ManifestNotice(
        subject: "\(version) \(kind)", file: file, line: Int(root.position.line), column: Int(root.position.column),
        message: message))
  }

  /// `Kind namespace/name`, as far as the names are there.
  private static func label(_ kind: String, _ metadata: Field) -> String {
    let mapping = metadata.document?.mapping
    guard let name = mapping?["name"]?.string else { return kind }
    guard let namespace = mapping?["namespace"]?.string else { return "\(kind) \(name)" }
    return "\(kind) \(namespace)/\(name)"
  }
}

extension ManifestContents {
  /// The same contents some lines further down in their file.
  public func moved(by lines: Int) -> ManifestContents {
    guard lines != 0 else { return self }
    var result = self
    for index in result.objects.indices {
      result.objects[index].position.line += Int32(clamping: lines)
      for error in result.objects[index].errors.indices { result.objects[index].errors[error].line += lines }
    }
    for index in result.notices.indices { result.notices[index].line += lines }
    return result
  }
}
