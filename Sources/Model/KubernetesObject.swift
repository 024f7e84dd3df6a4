/// An object of one kind, read and validated.
public protocol KubernetesObject: Sendable, Equatable {
  static var kind: Kind { get }
  /// The `apiVersion`s under which the kind is read; the first is its own.
  static var apiVersions: [String] { get }
  /// Whether objects of the kind live in a namespace.
  static var isNamespaced: Bool { get }
  /// The rule for `metadata.name`.
  static var nameRule: NameRule { get }

  var metadata: ObjectMetadata { get }
  /// The object as one of all kinds.
  var resource: Resource { get }

  /// Reads the object below `root`. Reports to the findings whatever the API server (or Calico) would refuse; the
  /// result counts only where nothing was reported.
  init?(metadata: ObjectMetadata, reading root: Field)
}

extension KubernetesObject {
  public static var isNamespaced: Bool { false }
  public static var nameRule: NameRule { .subdomain }

  public var name: String { metadata.name }
  public var namespace: String { metadata.namespace }
  public var key: ObjectKey { ObjectKey(Self.kind, namespace: metadata.namespace, name: metadata.name) }
}

/// What all objects have (`metadata`).
public struct ObjectMetadata: Sendable, Equatable {
  public var name: String
  /// Empty for objects that live in no namespace.
  public var namespace: String
  public var labels: [String: String]
  public var annotations: [String: String]
  /// Whether `deletionTimestamp` is set: the object is on its way out.
  public var isBeingDeleted: Bool

  public init(
    name: String, namespace: String = "", labels: [String: String] = [:], annotations: [String: String] = [:],
    isBeingDeleted: Bool = false
  ) {
    self.name = name
    self.namespace = namespace
    self.labels = labels
    self.annotations = annotations
    self.isBeingDeleted = isBeingDeleted
  }

  /// Reads all but name and namespace, which the key has already.
  init(key: ObjectKey, reading field: Field) {
    let labels = field["labels"]
    let annotations = field["annotations"]
    for (name, field) in labels.entries() {
      if !NameRule.qualifiedName.allows(name) {
        field.fail("\(quoted(name)) is not a valid label key: \(NameRule.qualifiedName.requirement)")
      }
      if field.exists { _ = field.name(.labelValue) }
    }
    for (name, field) in annotations.entries() where !NameRule.qualifiedName.allows(name) {
      field.fail("\(quoted(name)) is not a valid annotation key: \(NameRule.qualifiedName.requirement)")
    }
    self.init(
      name: key.name, namespace: key.namespace, labels: labels.strings(), annotations: annotations.strings(),
      isBeingDeleted: field["deletionTimestamp"].exists)
  }
}

/// What tells one object from all others.
public struct ObjectKey: Hashable, Sendable {
  public var kind: Kind
  /// Empty for kinds that live in no namespace.
  public var namespace: String
  public var name: String

  public init(_ kind: Kind, namespace: String = "", name: String) {
    self.kind = kind
    self.namespace = namespace
    self.name = name
  }
}

extension ObjectKey: CustomStringConvertible {
  /// `Pod default/web`, `Node n1`
  public var description: String {
    namespace.isEmpty ? "\(kind.rawValue) \(name)" : "\(kind.rawValue) \(namespace)/\(name)"
  }
}

extension ObjectKey: Comparable {
  /// By kind in the order of application, then by namespace and name.
  public static func < (a: ObjectKey, b: ObjectKey) -> Bool {
    (a.kind, a.namespace, a.name) < (b.kind, b.namespace, b.name)
  }
}

extension Kind: Comparable {
  private static let order = [Kind: Int](uniqueKeysWithValues: zip(allCases, 0...))

  /// In the order of application.
  public static func < (a: Kind, b: Kind) -> Bool { order[a]! < order[b]! }
}

/// One step from a state to the next.
public enum Change: Sendable, Equatable {
  /// An object that is new or differs from the one of the same key before.
  case upsert(Resource)
  case delete(ObjectKey)

  public var key: ObjectKey {
    switch self {
    case .upsert(let resource): resource.key
    case .delete(let key): key
    }
  }
}

extension Change {
  /// Upserts in the order of application, then deletes in the opposite order.
  public static func ordered(_ changes: [Change]) -> [Change] {
    var upserts: [(ObjectKey, Change)] = []
    var deletes: [ObjectKey] = []
    for change in changes {
      switch change {
      case .upsert: upserts.append((change.key, change))
      case .delete(let key): deletes.append(key)
      }
    }
    return upserts.sorted { $0.0 < $1.0 }.map(\.1) + deletes.sorted { $1 < $0 }.map(Change.delete)
  }
}

extension State {
  public func namespace(_ name: String) -> Namespace? { namespaces[ObjectKey(.namespace, name: name)] }

  public func node(_ name: String) -> Node? { nodes[ObjectKey(.node, name: name)] }

  public func pod(_ namespace: String, _ name: String) -> Pod? {
    pods[ObjectKey(.pod, namespace: namespace, name: name)]
  }

  public func service(_ namespace: String, _ name: String) -> Service? {
    services[ObjectKey(.service, namespace: namespace, name: name)]
  }

  public func networkPolicy(_ namespace: String, _ name: String) -> NetworkPolicy? {
    networkPolicies[ObjectKey(.networkPolicy, namespace: namespace, name: name)]
  }

  /// The labels that namespace selectors look at. A namespace without an object of its own has its name alone, as every
  /// namespace has (NP-4).
  public func labels(ofNamespace name: String) -> [String: String] {
    namespace(name)?.metadata.labels ?? Namespace(metadata: ObjectMetadata(name: name)).metadata.labels
  }

  /// The settings of a node: its own configuration over the one named `default` over the built-in defaults.
  public func settings(ofNode name: String) -> NodeSettings {
    NodeSettings(
      default: nodeConfigurations[ObjectKey(.nodeConfiguration, name: NodeConfiguration.defaultName)]?.spec,
      node: nodeConfigurations[ObjectKey(.nodeConfiguration, name: name)]?.spec)
  }
}
