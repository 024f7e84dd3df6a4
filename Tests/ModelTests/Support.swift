import Testing

@testable import Datastore
@testable import Model

/// The objects and errors of a literal manifest.
struct Read {
  let contents: ManifestContents

  init(_ text: String, file: String = "test.yaml") throws {
    contents = try ManifestText.contents(Array(text.utf8), file: file)
  }

  var resources: [Resource] { contents.objects.compactMap(\.resource) }
  var errors: [String] { contents.objects.flatMap(\.errors).map(\.description) }

  /// The only object, of a type.
  func only<T: KubernetesObject>(_ type: T.Type) throws -> T {
    #expect(errors == [])
    try #require(resources.count == 1)
    return try #require(resources[0].object as? T)
  }
}

/// A manifest with the header of a kind and the rest of its text.
func nodeConfiguration(_ spec: String) -> String {
  """
  apiVersion: kalsae.io/v1alpha1
  kind: NodeConfiguration
  metadata: {name: default}
  spec:
  \(spec.split(separator: "\n").map { "  " + $0 }.joined(separator: "\n"))
  """
}

func ipPool(_ spec: String) -> String {
  """
  apiVersion: projectcalico.org/v3
  kind: IPPool
  metadata: {name: pool}
  spec: {\(spec)}
  """
}
