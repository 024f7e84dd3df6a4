import Addresses
import Model

/// The few values that objects are made from.
extension RandomCluster {
  static let clusterIPs = (1...8).flatMap { ["10.96.0.\($0)", "fd00:96::\($0)"] }
  /// One is the node's own, two are a load balancer's as well.
  static let externalIPs = ["192.0.2.50", "10.0.0.1", "203.0.113.1", "fd00:ee::1", "fd00::1"]
  static let balancers = ["203.0.113.1", "203.0.113.2", "fd00:cb::1"]
  static let loopback = ["127.0.0.1", "127.0.0.2", "::1"]
  static let outside = ["198.51.100.7", "198.51.100.200", "10.9.9.9", "10.96.0.77", "fd00:99::1", "2001:db8::7"]
  static let servicePorts: [UInt16] = [53, 80, 443]
  static let nodePorts: [UInt16] = [30000, 30001, 30002, 30003, 80]
  static let podPorts: [UInt16] = [53, 80, 8080, 8081]
  static let portNames = ["http", "dns", "sig"]

  mutating func make(_ key: ObjectKey) -> Resource {
    switch key.kind {
    case .namespace: Namespace(metadata: ObjectMetadata(name: key.name, labels: labels())).resource
    case .node: node(key).resource
    case .nodeConfiguration: configuration(key).resource
    case .pod: pod(key).resource
    case .service: service(key).resource
    case .endpointSlice: slice(key).resource
    case .networkPolicy: policy(key).resource
    case .ipReservation: IPReservation(metadata: ObjectMetadata(name: key.name), reservedCIDRs: []).resource
    case .ipPool: IPPool(metadata: ObjectMetadata(name: key.name), cidr: IPPrefix("10.244.0.0/16")!).resource
    }
  }

  private mutating func labels() -> [String: String] {
    var labels: [String: String] = [:]
    if random.chance(70) { labels["app"] = random.pick(["web", "api", "db"]) }
    if random.chance(40) { labels["tier"] = random.pick(["front", "back"]) }
    return labels
  }

  private static func number(_ key: ObjectKey) -> Int { Int(key.name.filter(\.isNumber)) ?? 0 }

  // MARK: Nodes

  private mutating func node(_ key: ObjectKey) -> Node {
    let number = Self.number(key)
    var labels: [String: String] = [:]
    if random.chance(75) { labels["topology.kubernetes.io/zone"] = random.pick(["z1", "z2"]) }
    var addresses = [NodeAddress(.internalIP, IPAddress("10.0.0.\(number)")!)]
    if random.chance(70) { addresses.append(NodeAddress(.internalIP, IPAddress("fd00::\(number)")!)) }
    if random.chance(40) { addresses.append(NodeAddress(.externalIP, IPAddress("192.0.2.\(number)")!)) }
    return Node(
      metadata: ObjectMetadata(name: key.name, labels: labels),
      podCIDRs: [IPPrefix("10.244.\(number).0/24")!, IPPrefix("fd00:10:244:\(number)::/64")!], addresses: addresses)
  }

  private mutating func configuration(_ key: ObjectKey) -> NodeConfiguration {
    var spec = NodeConfiguration.Spec()
    func blocks(_ texts: [String]) -> [IPPrefix] { texts.map { IPPrefix($0)! } }
    if random.chance(60) {
      let choices = [[], ["10.244.0.0/16"], ["10.244.0.0/16", "fd00:10:244::/48"], ["fd00:10:244::/48"]]
      spec.clusterCIDRs = blocks(random.pick(choices))
    }
    if random.chance(60) { spec.serviceCIDRs = blocks(random.some(["10.96.0.0/24", "fd00:96::/112"])) }
    if random.chance(20) { spec.masqueradeAll = Bool.random(using: &random) }
    if random.chance(50) { spec.localhostNodePorts = Bool.random(using: &random) }
    if random.chance(20) { spec.loadBalancing = random.pick(LoadBalancing.allCases) }
    if random.chance(50) {
      let all = ["10.0.0.0/24", "192.0.2.0/24", "fd00::/64", "127.0.0.0/8", "172.16.0.0/12"]
      let some = blocks(random.some(all, percent: 30))
      spec.nodePortAddresses = random.pick([.all, .primary, some.isEmpty ? .all : .blocks(some), .blocks(blocks(all))])
    }
    return NodeConfiguration(metadata: ObjectMetadata(name: key.name), spec: spec)
  }

  // MARK: Pods

  private mutating func pod(_ key: ObjectKey) -> Pod {
    let number = Self.number(key)
    let node = random.chance(10) ? nil : "n\(random.pick([1, 1, 1, 2, 2, 3]))"
    var pod = Pod(
      metadata: ObjectMetadata(name: key.name, namespace: key.namespace, labels: labels()), nodeName: node,
      phase: random.pick([.running, .running, .running, .running, .running, .pending, .succeeded, .failed]))
    pod.hostNetwork = random.chance(12)
    if let node {
      if pod.hostNetwork {
        pod.addresses = state.node(node).map(addresses(of:)) ?? []
        // At most one of each family.
        pod.addresses = IPFamily.allCases.compactMap { family in pod.addresses.first { $0.family == family } }
      } else if random.chance(92) {
        let block = node.dropFirst()
        let both = Self.addresses(["10.244.\(block).\(number + 2)", "fd00:10:244:\(block)::\(number + 2)"])
        pod.addresses = random.pick([both, both, both, [both[0]], [both[0]], [both[1]]])
      }
    }
    for name in Self.portNames where random.chance(50) {
      let transport = name == "http" ? .tcp : random.pick(TransportProtocol.allCases)
      pod.ports.append(ContainerPort(name: name, number: random.pick(Self.podPorts), protocol: transport))
    }
    return pod
  }

  // MARK: Services

  private mutating func service(_ key: ObjectKey) -> Service {
    let types: [ServiceType] = [
      .clusterIP, .clusterIP, .nodePort, .nodePort, .loadBalancer, .loadBalancer, .externalName,
    ]
    let type = random.pick(types)
    var service = Service(metadata: ObjectMetadata(name: key.name, namespace: key.namespace), type: type)
    if random.chance(6) { service.metadata.labels[Service.proxyNameLabel] = "other" }
    if random.chance(8) { service.metadata.labels["service.kubernetes.io/headless"] = "" }
    if random.chance(40) { service.trafficDistribution = random.pick(TrafficDistribution.allCases) }
    if random.chance(25) { service.loadBalancing = random.pick(LoadBalancing.allCases) }
    if type == .externalName { return service }
    if type == .clusterIP, random.chance(8) {
      service.isHeadless = true
    } else if random.chance(93) {
      let index = Int.random(in: 0..<8, using: &random)
      let pair = Array(Self.addresses(Self.clusterIPs)[(2 * index)...(2 * index + 1)])
      service.clusterIPs = random.pick([pair, pair.reversed(), [pair[0]], [pair[0]], [pair[1]]])
      service.ipFamilies = service.clusterIPs.map(\.family)
      service.ipFamilyPolicy = pair.count > 1 ? .requireDualStack : .singleStack
    }
    service.ports = ports(type)
    if random.chance(35) { service.externalIPs = random.some(Self.addresses(Self.externalIPs), percent: 35) }
    if type == .loadBalancer { balance(&service) }
    service.internalTrafficPolicy = random.chance(30) ? .local : .cluster
    if type != .clusterIP || !service.externalIPs.isEmpty {
      service.externalTrafficPolicy = random.chance(45) ? .local : .cluster
    }
    if service.type == .loadBalancer, service.externalTrafficPolicy == .local, random.chance(70) {
      service.healthCheckNodePort = UInt16.random(in: 31000...31005, using: &random)
    }
    if random.chance(30) { service.affinitySeconds = random.pick([1, 10800, 86400]) }
    return service
  }

  private mutating func ports(_ type: ServiceType) -> [ServicePort] {
    var ports: [ServicePort] = []
    var used: Set<String> = []
    let names = random.some(Self.portNames, percent: 60)
    for name in names.isEmpty ? ["http"] : names {
      let isOnly = names.count < 2
      let ownName = isOnly && random.chance(50) ? "" : name
      var port = ServicePort(
        name: ownName, protocol: transport(of: ownName), port: random.pick(Self.servicePorts))
      guard used.insert("\(port.protocol) \(port.port)").inserted else { continue }
      if type != .clusterIP, random.chance(85) {
        let number = random.pick(Self.nodePorts)
        if used.insert("node \(port.protocol) \(number)").inserted { port.nodePort = number }
      }
      ports.append(port)
    }
    return ports
  }

  /// Mostly the one that the name is known for, so that services and slices agree.
  private mutating func transport(of name: String) -> TransportProtocol {
    if random.chance(15) { return random.pick(TransportProtocol.allCases) }
    return switch name {
    case "dns": .udp
    case "sig": .sctp
    default: .tcp
    }
  }

  private mutating func balance(_ service: inout Service) {
    for address in random.some(Self.addresses(Self.balancers), percent: 60) {
      service.loadBalancerIngress.append(LoadBalancerIngress(address, ipMode: random.chance(80) ? .vip : .proxy))
    }
    if random.chance(20) { service.loadBalancerIngress.append(LoadBalancerIngress(hostname: "lb.example.com")) }
    if random.chance(50) {
      let ranges = [
        "198.51.100.0/24", "198.51.100.7/32", "10.0.0.0/8", "203.0.113.1/32", "10.244.1.0/24", "0.0.0.0/0", "fd00::/16",
        "2001:db8::/32", "fd00:cb::/64",
      ]
      service.loadBalancerSourceRanges = random.some(ranges, percent: 25).map { IPPrefix($0)! }
    }
  }

  private mutating func slice(_ key: ObjectKey) -> EndpointSlice {
    let service = String(key.name.prefix { $0 != "-" })
    let type = random.chance(4) ? .fqdn : random.pick([.ipv4, .ipv4, .ipv6] as [EndpointSlice.AddressType])
    var slice = EndpointSlice(
      metadata: ObjectMetadata(name: key.name, namespace: key.namespace), addressType: type)
    if random.chance(95) { slice.metadata.labels[EndpointSlice.serviceNameLabel] = service }
    if random.chance(4) { slice.metadata.labels[EndpointSlice.headlessLabel] = "" }
    for name in [""] + Self.portNames where random.chance(90) {
      let numbers: [UInt16?] = Self.podPorts + Self.podPorts + Self.podPorts + [nil, 0]
      slice.ports.append(EndpointSlice.Port(name: name, protocol: transport(of: name), port: random.pick(numbers)))
    }
    if type != .fqdn { fill(&slice) }
    return slice
  }

  private mutating func fill(_ slice: inout EndpointSlice) {
    let family = slice.addressType.family!
    let pods = state.pods.values.sorted { $0.key < $1.key }.flatMap { pod in
      pod.addresses.map { (address: $0, node: pod.nodeName) }
    }
    let made = Self.addresses(["10.244.1.200", "10.244.2.200", "fd00:10:244:1::200", "fd00:10:244:2::200"])
    let pool = pods.filter { $0.address.family == family } + made.filter { $0.family == family }.map { ($0, "n1") }
    let hasNodeHints = random.chance(30)
    let hasZoneHints = random.chance(40)
    // Mostly all alike, so that the rarer cases come up at all.
    let mood = Int.random(in: 0..<6, using: &random)
    for _ in 0..<random.pick([0, 1, 1, 2, 2, 3, 4]) {
      let (address, node) = random.pick(pool)
      var endpoint = EndpointSlice.Endpoint([address], nodeName: node)
      if random.chance(20) { endpoint.nodeName = "n\(random.pick([1, 2, 3]))" }
      if random.chance(10) { endpoint.addresses.append(random.pick(pool).address) }
      if mood == 0 || mood < 3 && random.chance(50) {
        endpoint.isReady = false
        endpoint.isServing = random.chance(60)
        endpoint.isTerminating = random.chance(60)
      } else if random.chance(6) {
        // A terminating pod that is to be served in any case (publishNotReadyAddresses).
        endpoint.isTerminating = true
      }
      if random.chance(5) { endpoint.nodeName = nil }
      if hasNodeHints, random.chance(88) { endpoint.nodeHints = [random.pick(["n1", "n2", "n3"])] }
      if hasZoneHints, random.chance(88) { endpoint.zoneHints = [random.pick(["z1", "z2"])] }
      if hasZoneHints, random.chance(10) { endpoint.zoneHints = ["z1", "z2"] }
      slice.endpoints.append(endpoint)
    }
  }

  // MARK: Policies

  private mutating func policy(_ key: ObjectKey) -> NetworkPolicy {
    var policy = NetworkPolicy(
      metadata: ObjectMetadata(name: key.name, namespace: key.namespace), podSelector: selector())
    policy.policyTypes = random.pick([[.ingress], [.egress], [.ingress, .egress]])
    for _ in 0..<random.pick([0, 1, 1, 2]) { policy.ingress.append(rule()) }
    for _ in 0..<random.pick([0, 1, 1, 2]) { policy.egress.append(rule()) }
    return policy
  }

  private mutating func rule() -> NetworkPolicy.Rule {
    var rule = NetworkPolicy.Rule()
    for _ in 0..<random.pick([0, 1, 1, 2, 3]) { rule.peers.append(peer()) }
    for _ in 0..<random.pick([0, 0, 1, 1, 2]) { rule.ports.append(port()) }
    return rule
  }

  private mutating func peer() -> NetworkPolicy.Peer {
    switch Int.random(in: 0..<4, using: &random) {
    case 0: return .pods(namespaces: nil, pods: selector())
    case 1: return .pods(namespaces: namespaceSelector(), pods: nil)
    case 2: return .pods(namespaces: namespaceSelector(), pods: selector())
    default:
      let (cidr, except) = random.pick([
        ("0.0.0.0/0", ["10.0.0.0/8", "198.51.100.128/25"]), ("10.244.0.0/16", ["10.244.1.0/24", "10.244.2.4/31"]),
        ("10.0.0.0/24", ["10.0.0.2/32"]), ("198.51.100.0/24", ["198.51.100.7/32"]), ("10.244.1.0/28", []),
        ("::/0", ["fd00::/8"]), ("fd00:10:244::/48", ["fd00:10:244:2::/64"]), ("2001:db8::/32", []),
      ])
      return .block(.init(IPPrefix(cidr)!, except: random.some(except, percent: 70).map { IPPrefix($0)! }))
    }
  }

  private mutating func port() -> NetworkPolicy.Port {
    let transport = random.pick([.tcp, .tcp, .tcp, .udp, .sctp] as [TransportProtocol])
    switch Int.random(in: 0..<5, using: &random) {
    case 0: return .init(transport, .any)
    case 1: return .init(transport, .named(random.pick(Self.portNames)))
    case 2:
      let bounds = [random.pick([1, 53, 79, 80] as [UInt16]), random.pick([80, 8080, 8081, 65535])]
      return .init(transport, .range(bounds[0]...bounds[1]))
    default:
      let number = random.pick(Self.podPorts)
      return .init(transport, .range(number...number))
    }
  }

  private mutating func selector() -> LabelSelector {
    switch Int.random(in: 0..<6, using: &random) {
    case 0, 1: return LabelSelector()
    case 2, 3: return LabelSelector(matchLabels: ["app": random.pick(["web", "api", "db"])])
    case 4: return LabelSelector(matchLabels: ["app": "web", "tier": random.pick(["front", "back"])])
    default:
      let key = random.pick(["app", "tier"])
      let values = random.some(["web", "api", "front"])
      let requirement =
        switch random.pick(LabelSelector.Requirement.Operator.allCases) {
        case .in: LabelSelector.Requirement(key: key, operator: .in, values: values.isEmpty ? ["db"] : values)
        case .notIn: LabelSelector.Requirement(key: key, operator: .notIn, values: values.isEmpty ? ["db"] : values)
        case .exists: LabelSelector.Requirement(key: key, operator: .exists)
        case .doesNotExist: LabelSelector.Requirement(key: key, operator: .doesNotExist)
        }
      return LabelSelector(matchExpressions: [requirement])
    }
  }

  private mutating func namespaceSelector() -> LabelSelector {
    guard random.chance(35) else { return selector() }
    return LabelSelector(matchLabels: ["kubernetes.io/metadata.name": random.pick(Self.namespaces)])
  }
}
