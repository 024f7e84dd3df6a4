import Addresses

extension Service {
  public init?(metadata: ObjectMetadata, reading root: Field) {
    let spec = root["spec"].required()
    let type = spec["type"].choice(ServiceType.self) ?? .clusterIP
    let (clusterIPs, isHeadless) = Self.clusterIPs(spec, type: type)
    self.init(metadata: metadata, type: type, clusterIPs: clusterIPs, isHeadless: isHeadless)
    readFamilies(spec)
    readPorts(spec["ports"])
    readSelector(spec["selector"])
    externalIPs = spec["externalIPs"].list { $0.ordinaryAddress() }
    readLoadBalancer(root)
    readTrafficPolicies(spec)
    readAffinity(spec)
    if type == .externalName { Self.readExternalName(spec["externalName"]) }
    publishNotReadyAddresses = spec["publishNotReadyAddresses"].bool() ?? false
    trafficDistribution = spec["trafficDistribution"].choice(TrafficDistribution.self)
    loadBalancing = root["metadata"]["annotations"][Self.loadBalancingAnnotation].choice(LoadBalancing.self)
  }

  // MARK: Addresses

  private static func clusterIPs(_ spec: Field, type: ServiceType) -> (addresses: [IPAddress], isHeadless: Bool) {
    let single = spec["clusterIP"]
    let many = spec["clusterIPs"]
    var fields = many.elements()
    if single.optionalString() != nil {
      if fields.isEmpty {
        fields = [single]
      } else if let first = fields[0].document?.string, first != single.document?.string {
        single.fail("differs from spec.clusterIPs[0], which is \(quoted(first)); make them equal")
      }
    }
    if type == .externalName {
      if let first = fields.first { first.fail("may not be set for a service of type ExternalName; remove it") }
      return ([], false)
    }
    if let none = fields.first(where: { $0.document?.string == "None" }) {
      if fields.count > 1 { none.fail("\"None\" stands for the whole list; remove the other addresses or \"None\"") }
      if type != .clusterIP {
        none.fail("may not be \"None\" for a service of type \(type.rawValue); remove it, or set type to ClusterIP")
      }
      return ([], true)
    }
    let addresses = fields.compactMap { field -> IPAddress? in
      if !field.exists { field.fail("is null; remove it or give it a value") }
      return field.ordinaryAddress()
    }
    many.refuseRepeatedFamily(addresses.map(\.family), "address")
    return (addresses, false)
  }

  private mutating func readFamilies(_ spec: Field) {
    let field = spec["ipFamilies"]
    let policy = spec["ipFamilyPolicy"].choice(IPFamilyPolicy.self)
    let families = field.list { $0.choice(IPFamily.self) }
    field.refuseRepeatedFamily(families, "entry")
    if !families.isEmpty {
      for (index, address) in clusterIPs.enumerated() {
        if index >= families.count {
          field.fail("has no entry for spec.clusterIPs[\(index)], which is \(address); add \(address.family.rawValue)")
        } else if families[index] != address.family {
          field.fail(
            "entry \(index) is \(families[index].rawValue), but spec.clusterIPs[\(index)] is \(address);"
              + " put them in the same order")
        }
      }
      ipFamilies = families
    }
    ipFamilyPolicy = policy ?? (ipFamilies.count > 1 ? .requireDualStack : .singleStack)
    if ipFamilyPolicy == .singleStack, ipFamilies.count > 1 {
      spec["ipFamilyPolicy"].fail(
        "is SingleStack, but there are two families; set it to PreferDualStack or RequireDualStack")
    }
    if type == .externalName {
      for name in ["ipFamilies", "ipFamilyPolicy"] where spec[name].exists {
        spec[name].fail("may not be set for a service of type ExternalName; remove it")
      }
    }
  }

  private static func readExternalName(_ field: Field) {
    // A name may end with the dot of the root.
    _ = field.required().parsed(NameRule.subdomain.name) { text in
      NameRule.subdomain.allows(text.hasSuffix(".") ? String(text.dropLast()) : text) ? text : nil
    }
  }

  private mutating func readSelector(_ field: Field) {
    for (key, value) in field.entries() {
      if !NameRule.qualifiedName.allows(key) {
        value.fail("\(quoted(key)) is not a valid label key: \(NameRule.qualifiedName.requirement)")
      }
      _ = value.name(.labelValue)
    }
    selector = field.strings()
  }

  // MARK: Ports

  private mutating func readPorts(_ field: Field) {
    let elements = field.elements()
    if elements.isEmpty, !isHeadless, type != .externalName {
      field.fail("must not be empty; give the service at least one port, or set clusterIP to \"None\"")
    }
    var names: [String: Int] = [:]
    var numbers: [String: Int] = [:]
    var nodePorts: [String: Int] = [:]
    for (index, element) in elements.enumerated() {
      guard let port = servicePort(element, isOnly: elements.count == 1) else { continue }
      if !port.name.isEmpty, let first = names.updateValue(index, forKey: port.name) {
        element["name"].fail("\(quoted(port.name)) is the name of spec.ports[\(first)] already; choose another")
      }
      let number = "\(port.protocol.rawValue) \(port.port)"
      if let first = numbers.updateValue(index, forKey: number) {
        element["port"].fail("\(number) is in spec.ports[\(first)] already; choose another port, or remove one of them")
      }
      if let nodePort = port.nodePort {
        let number = "\(port.protocol.rawValue) \(nodePort)"
        if let first = nodePorts.updateValue(index, forKey: number) {
          element["nodePort"].fail("\(number) is the node port of spec.ports[\(first)] already; choose another")
        }
      }
      ports.append(port)
    }
  }

  private func servicePort(_ field: Field, isOnly: Bool) -> ServicePort? {
    guard field.exists else {
      field.fail("is null; remove it or give it a value")
      return nil
    }
    let nameField = field["name"]
    if nameField.optionalString() == nil, !isOnly {
      nameField.fail("is missing; a service with several ports needs a name for each")
    }
    let name = nameField.optionalString().flatMap { _ in nameField.name(.label) } ?? ""
    let transport = field["protocol"].choice(TransportProtocol.self)
    let targetPort = field["targetPort"].portReference(allowingZero: true)
    let nodePort = field["nodePort"].int(in: 0...65535) ?? 0
    if nodePort != 0, type == .clusterIP || type == .externalName {
      field["nodePort"].fail("may not be used with type \(type.rawValue); remove it, or set type to NodePort")
    }
    let appProtocol = field["appProtocol"].name(.qualifiedName)
    guard let port = field["port"].required().int(in: 1...65535) else { return nil }
    if type == .loadBalancer, port == 10250 {
      field["port"].fail("10250 is the kubelet's and may not be exposed by a load balancer; choose another port")
    }
    if field["protocol"].exists, transport == nil { return nil }
    return ServicePort(
      name: name, protocol: transport ?? .tcp, port: UInt16(port), targetPort: targetPort,
      nodePort: nodePort == 0 ? nil : UInt16(nodePort), appProtocol: appProtocol)
  }

  // MARK: Load balancers

  private mutating func readLoadBalancer(_ root: Field) {
    let field = root["spec"]["loadBalancerSourceRanges"]
    let annotation = root["metadata"]["annotations"][Self.sourceRangesAnnotation]
    let texts: [(Field, String)]
    if field.elements().isEmpty {
      let text = annotation.string() ?? ""
      let parts = text.split(separator: ",", omittingEmptySubsequences: false)
      texts = text.trimmed().isEmpty ? [] : parts.map { (annotation, String($0)) }
    } else {
      texts = field.list { element in element.string().map { (element, $0) } }
    }
    if let first = texts.first, type != .loadBalancer {
      (field.exists ? field : first.0).fail("may only be used with type LoadBalancer; remove it, or set the type")
    }
    for (field, text) in texts {
      guard let prefix = IPPrefix(parsing: text.trimmed()) else {
        field.fail("expected a block in CIDR notation such as 10.0.0.0/8 or fd00::/64, found \(quoted(text))")
        continue
      }
      loadBalancerSourceRanges.append(prefix)
    }

    let ingress = root["status"]["loadBalancer"]["ingress"]
    loadBalancerIngress = ingress.list { LoadBalancerIngress(reading: $0) }
    if !loadBalancerIngress.isEmpty, type != .loadBalancer {
      ingress.fail("may only be used with type LoadBalancer; remove it, or set spec.type")
    }
  }

  // MARK: Policies

  private mutating func readTrafficPolicies(_ spec: Field) {
    let external = spec["externalTrafficPolicy"]
    if external.optionalString() != nil {
      externalTrafficPolicy = external.choice(TrafficPolicy.self) ?? .cluster
      // Services with external IPs are reached from outside, whatever their type.
      if type == .externalName || type == .clusterIP && externalIPs.isEmpty {
        external.fail("may only be set where the service is reached from outside; remove it, or set type to NodePort")
      }
    }
    let internalPolicy = spec["internalTrafficPolicy"]
    internalTrafficPolicy = internalPolicy.choice(TrafficPolicy.self) ?? .cluster

    let health = spec["healthCheckNodePort"]
    if let port = health.int(in: 0...65535), port != 0 {
      if type == .loadBalancer, externalTrafficPolicy == .local {
        healthCheckNodePort = UInt16(port)
      } else {
        health.fail("may only be set with type LoadBalancer and externalTrafficPolicy Local; remove it")
      }
      if let index = ports.firstIndex(where: { $0.protocol == .tcp && $0.nodePort.map(Int.init) == port }) {
        health.fail("\(port) is the node port of spec.ports[\(index)] already; choose another")
      }
    }
  }

  private enum Affinity: String, CaseIterable {
    case none = "None"
    case clientIP = "ClientIP"
  }

  private mutating func readAffinity(_ spec: Field) {
    let config = spec["sessionAffinityConfig"]
    let timeout = config["clientIP"]["timeoutSeconds"].int(in: 1...86400)
    switch spec["sessionAffinity"].choice(Affinity.self) ?? .none {
    case .clientIP: affinitySeconds = timeout.map(UInt32.init) ?? Self.defaultAffinitySeconds
    case .none:
      if config.exists {
        config.fail("may not be set where sessionAffinity is None; remove it, or set sessionAffinity to ClientIP")
      }
    }
  }
}

extension LoadBalancerIngress {
  init?(reading field: Field) {
    let address = field["ip"].optionalAddress()
    let hostname = field["hostname"].optionalString()
    if hostname != nil { _ = field["hostname"].name(.subdomain) }
    if !field["ip"].exists, hostname == nil { field.fail("has neither ip nor hostname; give one of them") }
    if field["ipMode"].exists, !field["ip"].exists {
      field["ipMode"].fail("may not be set without ip; remove it, or set ip")
    }
    let mode = field["ipMode"].choice(IPMode.self) ?? .vip
    if address == nil, hostname == nil { return nil }
    self.init(address, hostname: hostname, ipMode: mode)
  }
}

extension Field {
  /// An address of one ordinary host: what is unspecified, loopback, link-local or multicast is refused.
  func ordinaryAddress() -> IPAddress? {
    guard let address = address() else { return nil }
    if let special = address.specialUse {
      fail("\(address) is a \(special) address; choose the address of a host")
      return nil
    }
    return address
  }

  /// The number of a port, or its name. 0 counts as absent where `allowingZero`, as Go's zero value does.
  func portReference(allowingZero: Bool = false) -> PortReference? {
    guard let document else { return nil }
    if case .string(let text) = document.value {
      if let number = Int(text) {
        fail("expected a port's number or name, found the string \(quoted(text)); write \(number) without the quotes")
        return nil
      }
      return name(.portName).map { .name($0) }
    }
    guard let number = int(in: (allowingZero ? 0 : 1)...65535), number != 0 else { return nil }
    return .number(UInt16(number))
  }
}

extension IPAddress {
  /// What the address is for if not for a host.
  fileprivate var specialUse: String? {
    let (isAny, isLoopback, isLinkLocal, isMulticast) =
      switch self {
      case .v4(let a): (a == .any, a.isLoopback, a.isLinkLocal, a.isMulticast)
      case .v6(let a): (a == .any, a.isLoopback, a.isLinkLocal, a.isMulticast)
      }
    if isAny { return "wildcard" }
    if isLoopback { return "loopback" }
    if isLinkLocal { return "link-local" }
    return isMulticast ? "multicast" : nil
  }
}

extension String {
  /// Without blanks at both ends.
  func trimmed() -> Substring {
    let blanks: Set<Character> = [" ", "\t", "\n", "\r"]
    guard let first = firstIndex(where: { !blanks.contains($0) }), let last = lastIndex(where: { !blanks.contains($0) })
    else { return "" }
    return self[first...last]
  }
}
