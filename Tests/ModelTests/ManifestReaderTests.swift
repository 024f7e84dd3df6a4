import Testing

@testable import Model

@Suite struct ManifestReaderTests {
  private static let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}}"

  @Test("List kinds hold objects; the items of a typed list need not repeat what they are")
  func lists() throws {
    let list = try Read(
      """
      apiVersion: v1
      kind: List
      items:
      - \(Self.pod)
      - {apiVersion: v1, kind: Node, metadata: {name: n}}
      - {apiVersion: v1, kind: PodList, items: [{metadata: {name: b}}, {metadata: {name: c, namespace: dev}}]}
      """)
    #expect(list.errors == [])
    #expect(
      list.contents.objects.map { $0.key?.description } == ["Pod default/a", "Node n", "Pod default/b", "Pod dev/c"])
    let pools = try Read(
      """
      apiVersion: projectcalico.org/v3
      kind: IPPoolList
      items: [{metadata: {name: p}, spec: {cidr: 10.0.0.0/8}}]
      """)
    #expect(pools.resources.count == 1)
    #expect(try Read("{apiVersion: v1, kind: PodList, items: []}").contents.objects.isEmpty)
    #expect(try Read("{apiVersion: v1, kind: List}").contents.objects.isEmpty)
  }

  @Test("a broken item of a list does not touch the others")
  func brokenItem() throws {
    let read = try Read(
      """
      apiVersion: v1
      kind: PodList
      items:
      - {metadata: {name: a}}
      - {metadata: {name: b}, status: {podIP: nonsense}}
      - {metadata: {name: c}}
      """)
    #expect(read.resources.map { $0.object.name } == ["a", "c"])
    #expect(read.errors.count == 1 && read.errors[0].hasPrefix("test.yaml:5:41: Pod default/b: status.podIP: "))
    #expect(try Read("{apiVersion: v1, kind: List, items: [~]}").errors.count == 1)
    #expect(try Read("{apiVersion: v1, kind: List, items: 3}").errors[0].contains("items: expected a list"))
  }

  @Test("lists in lists are bounded")
  func deepLists() throws {
    var text = Self.pod
    for _ in 0..<20 { text = "{apiVersion: v1, kind: List, items: [\(text)]}" }
    let read = try Read(text)
    #expect(read.resources.isEmpty && read.errors.count == 1 && read.errors[0].contains("nested more than"))
  }

  @Test("kinds that are not used are told once, with file and line")
  func unknownKinds() throws {
    let read = try Read(
      """
      {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
      ---
      {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}
      ---
      {apiVersion: v2, kind: Pod, metadata: {name: c}}
      ---
      {apiVersion: v1, kind: Pods, metadata: {name: c}}
      """)
    #expect(read.errors == [] && read.resources.isEmpty)
    #expect(
      read.contents.notices.map(\.description) == [
        "test.yaml:1:1: ConfigMap (v1) is not a kind that Kalsae uses; it is ignored",
        "test.yaml:5:1: Pod (v2) is not a kind that Kalsae uses; it is ignored; Pod is read as v1",
        "test.yaml:7:1: Pods (v1) is not a kind that Kalsae uses; it is ignored; did you mean Pod?",
      ])
  }

  @Test("in our own group an unknown kind or version is a mistake")
  func ownGroup() throws {
    let kind = try Read("{apiVersion: kalsae.io/v1alpha1, kind: NodeConfig, metadata: {name: default}}")
    #expect(kind.errors.count == 1 && kind.errors[0].contains("unknown kind \"NodeConfig\""), "\(kind.errors)")
    let version = try Read("{apiVersion: kalsae.io/v1, kind: NodeConfiguration, metadata: {name: default}}")
    #expect(
      version.errors == [
        "test.yaml:1:14: NodeConfiguration default: apiVersion: unknown version \"kalsae.io/v1\"; write"
          + " kalsae.io/v1alpha1"
      ])
  }

  @Test(
    "what is no object is refused",
    arguments: [
      ("kind: Pod\nmetadata: {name: a}", "apiVersion: is missing"), ("apiVersion: v1", "kind: is missing"),
      ("- a\n- b", "expected a mapping (key: value), found a list"), ("just text", "found the string \"just text\""),
      ("apiVersion: v1\nkind: Pod", "metadata: is missing"),
      ("apiVersion: 1\nkind: Pod", "apiVersion: expected a string"),
      ("{apiVersion: v1, kind: Pod, metadata: [a]}", "metadata: expected a mapping"),
    ])
  func noObject(text: String, message: String) throws {
    let read = try Read(text)
    #expect(read.resources.isEmpty && read.contents.objects.count == 1)
    #expect(read.errors.contains { $0.contains(message) }, "\(read.errors)")
  }

  @Test("empty documents hold nothing", arguments: ["", "\n", "---\n", "---\n---\n", "# nothing\n", "--- ~\n"])
  func empty(text: String) throws {
    #expect(try Read(text).contents.objects.isEmpty)
  }
}

@Suite struct StateTests {
  @Test("changes are applied in the order of need, deletes last")
  func order() {
    let pod = Pod(metadata: ObjectMetadata(name: "p", namespace: "dev")).resource
    let namespace = Namespace(metadata: ObjectMetadata(name: "dev")).resource
    let node = Node(metadata: ObjectMetadata(name: "n")).resource
    let configuration = NodeConfiguration(metadata: ObjectMetadata(name: "default")).resource
    let old = ObjectKey(.namespace, name: "old")
    let oldPod = ObjectKey(.pod, namespace: "old", name: "p")
    let changes = Change.ordered([
      .delete(old), .upsert(pod), .delete(oldPod), .upsert(configuration), .upsert(node), .upsert(namespace),
    ])
    #expect(
      changes == [
        .upsert(namespace), .upsert(node), .upsert(configuration), .upsert(pod), .delete(oldPod), .delete(old),
      ])
  }

  @Test("a state holds what was put into it, for every kind")
  func everyKind() throws {
    let objects: [Resource] = [
      Namespace(metadata: ObjectMetadata(name: "dev")).resource, Node(metadata: ObjectMetadata(name: "n")).resource,
      try Read(ipPool("cidr: 10.0.0.0/8")).only(IPPool.self).resource,
      NodeConfiguration(metadata: ObjectMetadata(name: "default")).resource,
      NetworkPolicy(metadata: ObjectMetadata(name: "p", namespace: "dev")).resource,
      Pod(metadata: ObjectMetadata(name: "p", namespace: "dev")).resource,
      Service(metadata: ObjectMetadata(name: "s", namespace: "dev")).resource,
      EndpointSlice(metadata: ObjectMetadata(name: "e", namespace: "dev")).resource,
      IPReservation(metadata: ObjectMetadata(name: "r"), reservedCIDRs: []).resource,
    ]
    #expect(Set(objects.map { $0.object.key.kind }) == Set(Kind.allCases))
    var state = State()
    for object in objects { state.apply(.upsert(object)) }
    for object in objects { #expect(state[object.object.key] == object) }
    #expect(state.node("n") != nil && state.pod("dev", "p") != nil && state.namespace("dev") != nil)
    #expect(state.service("dev", "s") != nil && state.networkPolicy("dev", "p") != nil)
    for object in objects { state.apply(.delete(object.object.key)) }
    #expect(state == State())
  }
}
