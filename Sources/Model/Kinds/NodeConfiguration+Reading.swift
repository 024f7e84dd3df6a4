import Addresses

extension NodeConfiguration {
  public init?(metadata: ObjectMetadata, reading root: Field) {
    root.refuseUnknown(["apiVersion", "kind", "metadata", "spec", "status"])
    self.init(metadata: metadata, spec: Spec(reading: root["spec"]))
  }
}

extension NodeConfiguration.Spec {
  /// The names of all fields: any other is refused.
  static let fields = [
    "clusterCIDRs", "serviceCIDRs", "masqueradeAll", "localhostNodePorts", "nodePortAddresses", "loadBalancing",
    "affinityTableSize", "tcpBeLiberal", "healthzBindAddress", "metricsBindAddress", "underlayInterface", "mtu",
    "neighbors", "tunnelIPFamily", "vxlanPort", "vxlanVNI", "genevePort", "geneveVNI", "greKey", "greChecksum",
    "greSequence", "udpTunnelChecksum", "tunnelOffload", "dscpMode", "dscp", "ttlMode", "ttl", "sourceCheck",
    "icmpErrorRate",
    "icmpErrorBurst", "pathMTUTimeout", "fragmentTimeout", "ports", "xdpFrames", "workers", "busyPoll", "flowTableSize",
    "flowTimeouts",
    "ebpf", "ebpfHooks", "loadBalancerMode",
  ]

  init(reading spec: Field) {
    spec.refuseUnknown(Self.fields)
    clusterCIDRs = spec["clusterCIDRs"].blocks()
    serviceCIDRs = spec["serviceCIDRs"].blocks()
    masqueradeAll = spec["masqueradeAll"].bool()
    localhostNodePorts = spec["localhostNodePorts"].bool()
    nodePortAddresses = NodePortAddresses(reading: spec["nodePortAddresses"])
    loadBalancing = spec["loadBalancing"].choice(LoadBalancing.self)
    affinityTableSize = spec["affinityTableSize"].int(in: 1024...(1 << 24))
    tcpBeLiberal = spec["tcpBeLiberal"].bool()
    healthzBindAddress = BindAddress(reading: spec["healthzBindAddress"], defaultPort: NodeSettings.healthzPort)
    metricsBindAddress = BindAddress(reading: spec["metricsBindAddress"], defaultPort: NodeSettings.metricsPort)

    underlayInterface = spec["underlayInterface"].name(.interface)
    mtu = spec["mtu"].int(in: 576...65535)
    neighbors = Self.neighbors(spec["neighbors"])

    tunnelIPFamily = spec["tunnelIPFamily"].choice(IPFamily.self)
    vxlanPort = spec["vxlanPort"].int(in: 1...65535).map(UInt16.init)
    vxlanVNI = spec["vxlanVNI"].int(in: 0...0xff_ffff).map(UInt32.init)
    genevePort = spec["genevePort"].int(in: 1...65535).map(UInt16.init)
    geneveVNI = spec["geneveVNI"].int(in: 0...0xff_ffff).map(UInt32.init)
    greKey = spec["greKey"].int(in: 0...Int(UInt32.max)).map(UInt32.init)
    greChecksum = spec["greChecksum"].bool()
    greSequence = spec["greSequence"].bool()
    udpTunnelChecksum = spec["udpTunnelChecksum"].bool()
    tunnelOffload = spec["tunnelOffload"].bool()
    dscpMode = spec["dscpMode"].choice(HeaderFieldMode.self)
    dscp = spec["dscp"].int(in: 0...63).map(UInt8.init)
    ttlMode = spec["ttlMode"].choice(HeaderFieldMode.self)
    ttl = spec["ttl"].int(in: 1...255).map(UInt8.init)

    sourceCheck = spec["sourceCheck"].bool()
    icmpErrorRate = spec["icmpErrorRate"].int(in: 0...1_000_000)
    icmpErrorBurst = spec["icmpErrorBurst"].int(in: 1...1_000_000)
    // RFC 1191, section 6.3 and RFC 8201, section 4: not before 5 minutes may a larger MTU be tried.
    pathMTUTimeout = spec["pathMTUTimeout"].duration(in: .seconds(300)...limit)
    fragmentTimeout = spec["fragmentTimeout"].duration(in: .seconds(1)...(.seconds(120)))

    ports = spec["ports"].choice(PortTechnique.self)
    xdpFrames = spec["xdpFrames"].int(in: 8192...(1 << 17))
    workers = spec["workers"].int(in: 1...64)
    busyPoll = spec["busyPoll"].bool()
    flowTableSize = spec["flowTableSize"].int(in: 1024...(1 << 26))
    flowTimeouts = NodeConfiguration.FlowTimeouts(reading: spec["flowTimeouts"])

    ebpf = spec["ebpf"].choice(EBPFMode.self)
    loadBalancerMode = spec["loadBalancerMode"].choice(LoadBalancerMode.self)
    if spec["ebpfHooks"].exists { ebpfHooks = Set(spec["ebpfHooks"].list { $0.choice(EBPFHook.self) }) }

    if let vxlanPort, vxlanPort == genevePort {
      spec["genevePort"].fail("is the same as vxlanPort (\(vxlanPort)); two tunnel protocols cannot share a port")
    }
  }

  private static func neighbors(_ field: Field) -> [StaticNeighbor]? {
    guard field.exists else { return nil }
    var seen: Set<IPAddress> = []
    return field.list { element in
      element.refuseUnknown(["address", "mac"])
      let address = element["address"].required().address()
      let mac = element["mac"].required().macAddress()
      guard let address, let mac else { return nil }
      guard seen.insert(address).inserted else {
        element["address"].fail("\(address) stands in this list twice; remove one of the entries")
        return nil
      }
      return StaticNeighbor(address: address, macAddress: mac)
    }
  }
}

/// The longest time that a setting may name.
private let limit = Duration.seconds(365 * 86400)

extension NodeConfiguration.FlowTimeouts {
  init(reading field: Field) {
    field.refuseUnknown(["tcpEstablished", "tcpTransient", "udp", "sctp", "icmp", "other"])
    tcpEstablished = field["tcpEstablished"].duration(in: .seconds(1)...limit)
    tcpTransient = field["tcpTransient"].duration(in: .seconds(1)...limit)
    udp = field["udp"].duration(in: .seconds(1)...limit)
    sctp = field["sctp"].duration(in: .seconds(1)...limit)
    icmp = field["icmp"].duration(in: .seconds(1)...limit)
    other = field["other"].duration(in: .seconds(1)...limit)
  }
}

extension NodePortAddresses {
  /// Reads `primary`, `[primary]` or a list of blocks. An empty list is the same as none: all local addresses.
  init?(reading field: Field) {
    guard let document = field.document else { return nil }
    if document.string == "primary" {
      self = .primary
      return
    }
    let elements = field.elements()
    if let primary = elements.first(where: { $0.document?.string == "primary" }) {
      guard elements.count == 1 else {
        primary.fail("\"primary\" stands for the whole list; remove the other elements or \"primary\"")
        return nil
      }
      self = .primary
      return
    }
    let blocks = field.list { $0.prefix(strict: true) }
    self = blocks.isEmpty ? .all : .blocks(blocks)
  }
}

extension BindAddress {
  /// Reads an address with or without a port. An empty string means that the server is not started.
  init?(reading field: Field, defaultPort: UInt16) {
    let expected = "an address with or without a port such as 0.0.0.0:\(defaultPort), or \"\" for no server"
    let read = field.parsed(expected) { text -> BindAddress? in
      if text.isEmpty { return .disabled }
      if let address = IPAddress(text) { return .at(SocketAddress(address, port: defaultPort)) }
      return SocketAddress(text).flatMap { $0.port == 0 ? nil : .at($0) }
    }
    guard let read else { return nil }
    self = read
  }
}

extension Field {
  /// A list of blocks without host bits, without duplicates; nil where the field is absent.
  fileprivate func blocks() -> [IPPrefix]? {
    guard exists else { return nil }
    var seen: Set<IPPrefix> = []
    return list { element in
      guard let prefix = element.prefix(strict: true) else { return nil }
      guard seen.insert(prefix).inserted else {
        element.fail("\(prefix) stands in this list twice; remove one of them")
        return nil
      }
      return prefix
    }
  }
}
