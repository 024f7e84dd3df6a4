import Addresses

/// A pod (v1), as far as its network goes.
public struct Pod: KubernetesObject {
  public static let kind = Kind.pod
  public static let apiVersions = ["v1"]
  public static let isNamespaced = true

  public var metadata: ObjectMetadata
  /// The node that the pod runs on; nil while it waits for one.
  public var nodeName: String?
  /// Whether the pod shares its node's addresses (`spec.hostNetwork`).
  public var hostNetwork: Bool
  /// The ports of the containers, and of the init containers that keep running (`restartPolicy: Always`).
  public var ports: [ContainerPort]
  /// The pod's addresses, at most one of each family (`status.podIPs`, else `status.podIP`).
  public var addresses: [IPAddress]
  public var phase: Phase
  /// How the pod is attached to its node, from the annotations.
  public var attachment: Attachment

  public var resource: Resource { .pod(self) }

  public init(
    metadata: ObjectMetadata, nodeName: String? = nil, hostNetwork: Bool = false, ports: [ContainerPort] = [],
    addresses: [IPAddress] = [], phase: Phase = .pending, attachment: Attachment = Attachment()
  ) {
    self.metadata = metadata
    self.nodeName = nodeName
    self.hostNetwork = hostNetwork
    self.ports = ports
    self.addresses = addresses
    self.phase = phase
    self.attachment = attachment
  }

  public enum Phase: String, Sendable, CaseIterable {
    case pending = "Pending"
    case running = "Running"
    case succeeded = "Succeeded"
    case failed = "Failed"
    case unknown = "Unknown"
  }

  /// How the pod's port is made (`kalsae.io/*` annotations).
  public struct Attachment: Sendable, Equatable {
    public enum InterfaceType: String, Sendable, CaseIterable {
      case veth
      case tap
    }

    /// `kalsae.io/interface`: the name of the host's end; nil = derived from the pod's name.
    public var interface: String?
    /// `kalsae.io/mac`: the pod's own MAC address; nil = derived from its first address.
    public var macAddress: MACAddress?
    /// `kalsae.io/interface-type`
    public var type: InterfaceType
    /// `kalsae.io/netns`: the network namespace in which a TAP device is made: a name under /run/netns or an absolute
    /// path.
    public var networkNamespace: String?
    /// The interface's name inside of the pod; no annotation says it, but the container runtime.
    public var containerInterface: String
    /// Whether what it sends out of all pools is masqueraded whatever the pool says; the runtime says it too.
    public var masquerades = false
    /// What may pass to the pod, and from it; nil: no limit.
    public var ingress: Rate?
    public var egress: Rate?

    /// A token bucket: bits a second, and bits that may come at once.
    public struct Rate: Sendable, Hashable {
      public var bitsPerSecond: Int
      public var burstBits: Int

      public init(bitsPerSecond: Int, burstBits: Int) {
        self.bitsPerSecond = bitsPerSecond
        self.burstBits = burstBits
      }
    }

    public init(
      interface: String? = nil, macAddress: MACAddress? = nil, type: InterfaceType = .veth,
      networkNamespace: String? = nil, containerInterface: String = "eth0"
    ) {
      self.interface = interface
      self.macAddress = macAddress
      self.type = type
      self.networkNamespace = networkNamespace
      self.containerInterface = containerInterface
    }
  }

  /// The pod's address of a family.
  public func address(_ family: IPFamily) -> IPAddress? { addresses.first { $0.family == family } }

  /// Whether the pod has a network of its own now: addresses outlive the pods that have ended.
  public var hasOwnNetwork: Bool { !hostNetwork && !addresses.isEmpty && phase != .succeeded && phase != .failed }

  /// The pod's MAC address: the annotation's, else derived from the first address; nil where there is none yet.
  public var macAddress: MACAddress? { attachment.macAddress ?? addresses.first.map { MACAddress(pod: $0) } }

  /// The number of a named port (NP-5).
  public func port(named name: String, protocol: TransportProtocol) -> UInt16? {
    ports.first { $0.name == name && $0.protocol == `protocol` }?.number
  }
}

/// A transport protocol as Kubernetes names it.
public enum TransportProtocol: String, Sendable, Hashable, CaseIterable {
  case tcp = "TCP"
  case udp = "UDP"
  case sctp = "SCTP"

  /// The protocol's number in an IP header (IANA).
  public var number: UInt8 {
    switch self {
    case .tcp: 6
    case .udp: 17
    case .sctp: 132
    }
  }
}

/// One of `spec.containers[].ports`.
public struct ContainerPort: Sendable, Hashable {
  public var name: String?
  public var number: UInt16
  public var `protocol`: TransportProtocol
  /// The port of the node that leads here; nil for none.
  public var hostPort: UInt16?

  public init(name: String? = nil, number: UInt16, protocol: TransportProtocol = .tcp, hostPort: UInt16? = nil) {
    self.name = name
    self.number = number
    self.protocol = `protocol`
    self.hostPort = hostPort
  }
}

extension Pod {
  public init?(metadata: ObjectMetadata, reading root: Field) {
    let spec = root["spec"]
    var ports = spec["containers"].elements().flatMap { ContainerPort.list(in: $0) }
    for container in spec["initContainers"].elements() where container["restartPolicy"].string() == "Always" {
      ports += ContainerPort.list(in: container)
    }

    let status = root["status"]
    var addresses = status["podIPs"].elements().compactMap { $0["ip"].required().address() }
    if let single = status["podIP"].optionalAddress() {
      if addresses.isEmpty {
        addresses = [single]
      } else if addresses[0] != single {
        status["podIP"].fail("\(single) differs from status.podIPs[0].ip, which is \(addresses[0]); make them equal")
      }
    }
    status["podIPs"].refuseRepeatedFamily(addresses.map(\.family), "address")

    self.init(
      metadata: metadata,
      nodeName: spec["nodeName"].optionalString(),
      hostNetwork: spec["hostNetwork"].bool() ?? false,
      ports: ports,
      addresses: addresses,
      phase: status["phase"].choice(Phase.self) ?? (addresses.isEmpty ? .pending : .running),
      attachment: Attachment(reading: root["metadata"]["annotations"]))
  }
}

extension ContainerPort {
  static func list(in container: Field) -> [ContainerPort] {
    container["ports"].elements().compactMap { field in
      let name = field["name"].name(.portName)
      let transport = field["protocol"].choice(TransportProtocol.self) ?? .tcp
      let hostPort = field["hostPort"].int(in: 0...65535) ?? 0
      guard let number = field["containerPort"].required().int(in: 1...65535) else { return nil }
      return ContainerPort(
        name: name, number: UInt16(number), protocol: transport, hostPort: hostPort == 0 ? nil : UInt16(hostPort))
    }
  }
}

extension Pod.Attachment {
  init(reading annotations: Field) {
    self.init(
      interface: annotations["kalsae.io/interface"].name(.interface),
      macAddress: annotations["kalsae.io/mac"].macAddress(),
      type: annotations["kalsae.io/interface-type"].choice(InterfaceType.self) ?? .veth,
      networkNamespace: annotations["kalsae.io/netns"].parsed(
        "the name of a network namespace or an absolute path", { Self.isNamespaceName($0) ? $0 : nil }))
    if type == .tap && networkNamespace == nil && !annotations["kalsae.io/netns"].exists {
      annotations["kalsae.io/netns"].fail(
        "is missing; kalsae.io/interface-type \"tap\" needs the network namespace in which to make the device")
    }
  }

  private static func isNamespaceName(_ text: String) -> Bool {
    guard !text.isEmpty, !text.utf8.contains(0), text.utf8.count < 4096 else { return false }
    return text.hasPrefix("/") || !text.contains("/") && text != "." && text != ".." && text.utf8.count <= 255
  }
}

extension Field {
  /// A string; an empty one counts as absent.
  func optionalString() -> String? { string().flatMap { $0.isEmpty ? nil : $0 } }

  /// An address; an empty string counts as absent, as in the status of a pod that has none yet.
  func optionalAddress() -> IPAddress? { document?.string == "" ? nil : address() }
}
