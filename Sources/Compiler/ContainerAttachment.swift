public import Addresses
public import Model

/// A container's interface that the CNI plugin attached to this node: what a pod's object does not say, or not yet.
public struct ContainerAttachment: Sendable, Equatable {
  /// The pod that the interface makes. A pod's further interfaces are pods of their own here.
  public var pod: ObjectKey
  /// The pod whose labels count.
  public var labelsOf: ObjectKey
  public var attachment: Pod.Attachment
  public var addresses: [IPAddress]
  public var mappings: [ContainerPortMapping] = []

  public init(pod: ObjectKey, labelsOf: ObjectKey? = nil, attachment: Pod.Attachment, addresses: [IPAddress]) {
    self.pod = pod
    self.labelsOf = labelsOf ?? pod
    self.attachment = attachment
    self.addresses = addresses
  }
}

/// What the machine knows and lays over the objects: containers that are attached over pods, and blocks of addresses
/// over nodes. The tables are compiled from the objects as they are then.
struct Overlay {
  var containers: [ObjectKey: ContainerAttachment] = [:]
  /// The further interfaces whose labels are another pod's.
  private var dependents: [ObjectKey: Set<ObjectKey>] = [:]
  /// The pods' own objects, of those that something is laid over.
  private var pods: [ObjectKey: Pod] = [:]
  /// All nodes' own objects.
  private var nodes: [ObjectKey: Node] = [:]
  private var blocks: [ObjectKey: [IPPrefix]] = [:]

  /// Whether something may be laid over the object: where not, it counts as it is.
  func concerns(_ change: Change) -> Bool {
    switch change {
    case .upsert(.pod): !containers.isEmpty
    case .upsert(.node): true
    case .upsert: false
    case .delete(let key): key.kind == .node || key.kind == .pod && !containers.isEmpty
    }
  }

  /// What a change of an object changes.
  mutating func changes(for change: Change, _ state: State) -> [Change] {
    switch change.key.kind {
    case .pod:
      let key = change.key
      let pod: Pod? = if case .upsert(.pod(let pod)) = change { pod } else { nil }
      var result = [change]
      if containers[key] != nil {
        pods[key] = pod
        result = [self.change(key, labels: pod?.metadata.labels ?? [:])]
      }
      for dependent in (dependents[key] ?? []).sorted() {
        result.append(self.change(dependent, labels: pod?.metadata.labels ?? [:]))
      }
      return result
    case .node:
      if case .upsert(.node(let node)) = change { nodes[change.key] = node } else { nodes[change.key] = nil }
      return [self.change(node: change.key)]
    default: return [change]
    }
  }

  /// Lays a container over its pod, or takes it away.
  mutating func set(_ container: ContainerAttachment?, for key: ObjectKey, _ state: State) -> Change {
    if let old = containers[key] {
      dependents[old.labelsOf]?.remove(key)
      if dependents[old.labelsOf]?.isEmpty == true { dependents[old.labelsOf] = nil }
    } else {
      pods[key] = state.pods[key]
    }
    containers[key] = container
    guard let container else {
      guard let pod = pods.removeValue(forKey: key) else { return .delete(key) }
      return .upsert(.pod(pod))
    }
    guard container.labelsOf != key else { return change(key, labels: pods[key]?.metadata.labels ?? [:]) }
    dependents[container.labelsOf, default: []].insert(key)
    return change(key, labels: state.pods[container.labelsOf]?.metadata.labels ?? [:])
  }

  private func change(_ key: ObjectKey, labels: [String: String]) -> Change {
    guard let container = containers[key] else { return .delete(key) }
    var pod = pods[key] ?? Pod(metadata: ObjectMetadata(name: key.name, namespace: key.namespace))
    pod.metadata.labels = labels
    pod.hostNetwork = false
    pod.addresses = container.addresses
    pod.attachment = container.attachment
    // An interface that is there has to work until it is taken away, whatever became of the pod's containers.
    pod.phase = .running
    pod.nodeName = owner
    return .upsert(.pod(pod))
  }

  /// The node that containers are attached to.
  let owner: String

  init(owner: String) { self.owner = owner }

  /// Gives a node blocks besides those of its object.
  mutating func set(_ prefixes: [IPPrefix], ofNode key: ObjectKey) -> Change? {
    guard blocks[key] ?? [] != prefixes else { return nil }
    blocks[key] = prefixes.isEmpty ? nil : prefixes
    return nodes[key] == nil ? nil : change(node: key)
  }

  private func change(node key: ObjectKey) -> Change {
    guard var node = nodes[key] else { return .delete(key) }
    for block in blocks[key] ?? [] where !node.podCIDRs.contains(where: { $0.contains(block) }) {
      node.podCIDRs.append(block)
    }
    return .upsert(.node(node))
  }
}

extension NodeCompiler {
  /// Tells of a container's interface that is attached to this node; nil: no longer.
  public func setContainer(_ container: ContainerAttachment?, for pod: ObjectKey) {
    let old = overlay.containers[pod]
    guard old != container else { return }
    let services = container?.services(node: node.name) ?? []
    let kept = Set(services.map(\.key))
    for change in old?.services(node: node.name) ?? [] where !kept.contains(change.key) {
      applyAsIs(.delete(change.key))
    }
    applyAsIs(overlay.set(container, for: pod, state))
    for change in services { applyAsIs(change) }
  }

  /// The container's interface that makes a pod.
  public func container(_ pod: ObjectKey) -> ContainerAttachment? { overlay.containers[pod] }

  /// Gives a node blocks of pods' addresses besides those of its object: those that its address management holds.
  public func setBlocks(_ blocks: [IPPrefix], ofNode name: String) {
    if let change = overlay.set(blocks, ofNode: ObjectKey(.node, name: name)) { applyAsIs(change) }
  }
}
