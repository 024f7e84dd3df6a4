// The registry of kinds. A new kind is a file of its own in Kinds/ and one line in each switch here.

/// The kinds of object that Kalsae reads, in the order in which they are applied: what others refer to comes first.
public enum Kind: String, Sendable, Hashable, CaseIterable {
  case namespace = "Namespace"
  case node = "Node"
  case ipPool = "IPPool"
  case ipReservation = "IPReservation"
  case nodeConfiguration = "NodeConfiguration"
  case networkPolicy = "NetworkPolicy"
  case pod = "Pod"
  case service = "Service"
  case endpointSlice = "EndpointSlice"

  /// The type that objects of this kind are read into.
  public var type: any KubernetesObject.Type {
    switch self {
    case .namespace: Namespace.self
    case .node: Node.self
    case .ipPool: IPPool.self
    case .ipReservation: IPReservation.self
    case .nodeConfiguration: NodeConfiguration.self
    case .networkPolicy: NetworkPolicy.self
    case .pod: Pod.self
    case .service: Service.self
    case .endpointSlice: EndpointSlice.self
    }
  }
}

/// An object of any kind.
public enum Resource: Sendable, Equatable {
  case namespace(Namespace)
  case node(Node)
  case ipPool(IPPool)
  case ipReservation(IPReservation)
  case nodeConfiguration(NodeConfiguration)
  case networkPolicy(NetworkPolicy)
  case pod(Pod)
  case service(Service)
  case endpointSlice(EndpointSlice)

  public var object: any KubernetesObject {
    switch self {
    case .namespace(let object): object
    case .node(let object): object
    case .ipPool(let object): object
    case .ipReservation(let object): object
    case .nodeConfiguration(let object): object
    case .networkPolicy(let object): object
    case .pod(let object): object
    case .service(let object): object
    case .endpointSlice(let object): object
    }
  }
}

extension Resource {
  /// What tells the object from all others; does not box the object, as `object.key` would.
  public var key: ObjectKey {
    switch self {
    case .namespace(let object): object.key
    case .node(let object): object.key
    case .ipPool(let object): object.key
    case .ipReservation(let object): object.key
    case .nodeConfiguration(let object): object.key
    case .networkPolicy(let object): object.key
    case .pod(let object): object.key
    case .service(let object): object.key
    case .endpointSlice(let object): object.key
    }
  }
}

/// The desired state: all objects, by kind and key.
public struct State: Sendable, Equatable {
  public private(set) var namespaces: [ObjectKey: Namespace] = [:]
  public private(set) var nodes: [ObjectKey: Node] = [:]
  public private(set) var ipPools: [ObjectKey: IPPool] = [:]
  public private(set) var ipReservations: [ObjectKey: IPReservation] = [:]
  public private(set) var nodeConfigurations: [ObjectKey: NodeConfiguration] = [:]
  public private(set) var networkPolicies: [ObjectKey: NetworkPolicy] = [:]
  public private(set) var pods: [ObjectKey: Pod] = [:]
  public private(set) var services: [ObjectKey: Service] = [:]
  public private(set) var endpointSlices: [ObjectKey: EndpointSlice] = [:]

  public init() {}

  public mutating func apply(_ change: Change) {
    switch change {
    case .upsert(let resource): store(resource)
    case .delete(let key): remove(key)
    }
  }

  private mutating func store(_ resource: Resource) {
    switch resource {
    case .namespace(let object): namespaces[object.key] = object
    case .node(let object): nodes[object.key] = object
    case .ipPool(let object): ipPools[object.key] = object
    case .ipReservation(let object): ipReservations[object.key] = object
    case .nodeConfiguration(let object): nodeConfigurations[object.key] = object
    case .networkPolicy(let object): networkPolicies[object.key] = object
    case .pod(let object): pods[object.key] = object
    case .service(let object): services[object.key] = object
    case .endpointSlice(let object): endpointSlices[object.key] = object
    }
  }

  private mutating func remove(_ key: ObjectKey) {
    switch key.kind {
    case .namespace: namespaces[key] = nil
    case .node: nodes[key] = nil
    case .ipPool: ipPools[key] = nil
    case .ipReservation: ipReservations[key] = nil
    case .nodeConfiguration: nodeConfigurations[key] = nil
    case .networkPolicy: networkPolicies[key] = nil
    case .pod: pods[key] = nil
    case .service: services[key] = nil
    case .endpointSlice: endpointSlices[key] = nil
    }
  }

  public subscript(key: ObjectKey) -> Resource? {
    switch key.kind {
    case .namespace: namespaces[key]?.resource
    case .node: nodes[key]?.resource
    case .ipPool: ipPools[key]?.resource
    case .ipReservation: ipReservations[key]?.resource
    case .nodeConfiguration: nodeConfigurations[key]?.resource
    case .networkPolicy: networkPolicies[key]?.resource
    case .pod: pods[key]?.resource
    case .service: services[key]?.resource
    case .endpointSlice: endpointSlices[key]?.resource
    }
  }
}
