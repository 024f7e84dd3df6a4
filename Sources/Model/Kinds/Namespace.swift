/// A namespace (v1). Its labels are what namespace selectors look at.
public struct Namespace: KubernetesObject {
  public static let kind = Kind.namespace
  public static let apiVersions = ["v1"]
  public static var nameRule: NameRule { .label }

  public var metadata: ObjectMetadata
  public var resource: Resource { .namespace(self) }

  public init(metadata: ObjectMetadata) {
    self.metadata = metadata
    // The API server keeps this label on every namespace; policies select by it.
    self.metadata.labels["kubernetes.io/metadata.name"] = metadata.name
  }

  public init?(metadata: ObjectMetadata, reading root: Field) { self.init(metadata: metadata) }
}
