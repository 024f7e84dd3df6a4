import Addresses

/// A service (v1).
public struct Service: KubernetesObject {
  public static let kind = Kind.service
  public static let apiVersions = ["v1"]
  public static let isNamespaced = true
  public static var nameRule: NameRule { .label }

  public var metadata: ObjectMetadata
  public var type: ServiceType
  /// The cluster IPs, at most one of each family (KP-6). Empty for headless services, and where none is allocated yet.
  public var clusterIPs: [IPAddress]
  /// Whether `clusterIP` is "None": clients find the pods by name, the data plane has nothing to do (KP-1).
  public var isHeadless: Bool
  /// The families of the cluster IPs in their order (`spec.ipFamilies`, else from the cluster IPs).
  public var ipFamilies: [IPFamily]
  public var ipFamilyPolicy: IPFamilyPolicy
  public var ports: [ServicePort]
  /// The labels of the pods behind the service; empty where somebody else writes the endpoint slices.
  public var selector: [String: String]
  /// Addresses that lead to this node by other means (KP-21).
  public var externalIPs: [IPAddress]
  /// `status.loadBalancer.ingress` (KP-22)
  public var loadBalancerIngress: [LoadBalancerIngress]
  /// Who may use the load balancer's addresses; empty = everyone (KP-38). From the field, else from the annotation
  /// ``sourceRangesAnnotation``.
  public var loadBalancerSourceRanges: [IPPrefix]
  /// Which endpoints the cluster IP leads to. Default Cluster.
  public var internalTrafficPolicy: TrafficPolicy
  /// Which endpoints the addresses outside of the cluster lead to. Default Cluster.
  public var externalTrafficPolicy: TrafficPolicy
  /// How long a client keeps its endpoint, in seconds, 1 to 86400; nil = `sessionAffinity` is None (KP-50).
  public var affinitySeconds: UInt32?
  /// The TCP port of the health-check server (KP-52); nil for none.
  public var healthCheckNodePort: UInt16?
  public var publishNotReadyAddresses: Bool
  /// What the endpoint slices' hints are made from; the data plane looks at the hints alone (KP-14).
  public var trafficDistribution: TrafficDistribution?
  /// How endpoints are chosen (``loadBalancingAnnotation``); nil = as the node's configuration says (KP-15).
  public var loadBalancing: LoadBalancing?

  public var resource: Resource { .service(self) }

  public init(
    metadata: ObjectMetadata, type: ServiceType = .clusterIP, clusterIPs: [IPAddress] = [], isHeadless: Bool = false,
    ports: [ServicePort] = []
  ) {
    self.metadata = metadata
    self.type = type
    self.clusterIPs = clusterIPs
    self.isHeadless = isHeadless
    self.ports = ports
    ipFamilies = clusterIPs.map(\.family)
    ipFamilyPolicy = clusterIPs.count > 1 ? .requireDualStack : .singleStack
    selector = [:]
    externalIPs = []
    loadBalancerIngress = []
    loadBalancerSourceRanges = []
    internalTrafficPolicy = .cluster
    externalTrafficPolicy = .cluster
    publishNotReadyAddresses = false
  }

  /// The services with this label, whatever its value, are another proxy's (KP-1).
  public static let proxyNameLabel = "service.kubernetes.io/service-proxy-name"
  /// The blocks of `loadBalancerSourceRanges`, separated by commas, as they were written before the field came.
  public static let sourceRangesAnnotation = "service.beta.kubernetes.io/load-balancer-source-ranges"
  /// `random` or `maglev`
  public static let loadBalancingAnnotation = "kalsae.io/load-balancing"
  /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` where it is not given (KP-50).
  public static let defaultAffinitySeconds: UInt32 = 10800

  /// The cluster IP of a family (KP-6).
  public func clusterIP(_ family: IPFamily) -> IPAddress? { clusterIPs.first { $0.family == family } }

  /// What one of the service's ports is called wherever it is shown: `namespace/name:port`, with the port's name, or its
  /// number where it has none.
  public func title(of port: ServicePort) -> String {
    "\(namespace)/\(name):\(port.name.isEmpty ? String(port.port) : port.name)"
  }

  /// Whether another proxy looks after the service (KP-1).
  public var isForAnotherProxy: Bool { metadata.labels[Self.proxyNameLabel] != nil }

  /// Whether the data plane has frontends to serve for it (KP-1, KP-2).
  public var isServed: Bool { type != .externalName && !isHeadless && !clusterIPs.isEmpty && !isForAnotherProxy }

  /// Whether a health-check server runs for it (KP-52).
  public var needsHealthCheck: Bool {
    type == .loadBalancer && externalTrafficPolicy == .local && healthCheckNodePort != nil
  }

  /// The load balancer's addresses that the node serves itself (KP-22).
  public var loadBalancerVIPs: [IPAddress] { loadBalancerIngress.compactMap { $0.ipMode == .vip ? $0.address : nil } }
}

public enum ServiceType: String, Sendable, Hashable, CaseIterable {
  case clusterIP = "ClusterIP"
  case nodePort = "NodePort"
  case loadBalancer = "LoadBalancer"
  case externalName = "ExternalName"
}

public enum IPFamilyPolicy: String, Sendable, Hashable, CaseIterable {
  case singleStack = "SingleStack"
  case preferDualStack = "PreferDualStack"
  case requireDualStack = "RequireDualStack"
}

/// Which endpoints may be chosen: all, or those of the own node alone.
public enum TrafficPolicy: String, Sendable, Hashable, CaseIterable {
  case cluster = "Cluster"
  case local = "Local"
}

public enum TrafficDistribution: String, Sendable, Hashable, CaseIterable {
  case preferClose = "PreferClose"
  case preferSameZone = "PreferSameZone"
  case preferSameNode = "PreferSameNode"
}

/// How a new connection's endpoint is chosen (KP-15).
public enum LoadBalancing: String, Sendable, Hashable, CaseIterable {
  /// Uniformly at random.
  case random
  /// By a hash of the connection, such that few connections move when endpoints come and go (Maglev, NSDI 2016).
  case maglev
}

/// One of `spec.ports`.
public struct ServicePort: Sendable, Hashable {
  /// Empty where the service's only port has no name.
  public var name: String
  public var `protocol`: TransportProtocol
  public var port: UInt16
  /// The port of the pods; nil = `port`. The data plane takes it from the endpoint slices.
  public var targetPort: PortReference?
  /// The port of the nodes; nil for none.
  public var nodePort: UInt16?
  public var appProtocol: String?

  public init(
    name: String = "", protocol: TransportProtocol = .tcp, port: UInt16, targetPort: PortReference? = nil,
    nodePort: UInt16? = nil, appProtocol: String? = nil
  ) {
    self.name = name
    self.protocol = `protocol`
    self.port = port
    self.targetPort = targetPort
    self.nodePort = nodePort
    self.appProtocol = appProtocol
  }
}

/// A port by its number, or by the name that it has in a pod.
public enum PortReference: Sendable, Hashable {
  case number(UInt16)
  case name(String)
}

/// One of `status.loadBalancer.ingress`.
public struct LoadBalancerIngress: Sendable, Hashable {
  public enum IPMode: String, Sendable, CaseIterable {
    /// Packets arrive with the load balancer's address as their destination: the node serves it.
    case vip = "VIP"
    /// Packets arrive at a node's or a pod's own address.
    case proxy = "Proxy"
  }

  public var address: IPAddress?
  public var hostname: String?
  public var ipMode: IPMode

  public init(_ address: IPAddress? = nil, hostname: String? = nil, ipMode: IPMode = .vip) {
    self.address = address
    self.hostname = hostname
    self.ipMode = ipMode
  }
}
