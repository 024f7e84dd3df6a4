import Addresses

/// A node of the cluster (v1).
public struct Node: KubernetesObject {
  public static let kind = Kind.node
  public static let apiVersions = ["v1"]

  public var metadata: ObjectMetadata
  /// The blocks that the node's pods take their addresses from (`spec.podCIDRs`), at most one of each family.
  public var podCIDRs: [IPPrefix]
  /// The IP addresses of `status.addresses` in their order; host names are left out.
  public var addresses: [NodeAddress]
  /// The underlay's IPv4 address with the length of its subnet, from `projectcalico.org/IPv4Address` (`10.0.0.1/24`).
  public var underlayIPv4: InterfaceAddress?
  /// The same for IPv6, from `projectcalico.org/IPv6Address`.
  public var underlayIPv6: InterfaceAddress?
  /// The MAC address of the node's VXLAN and Geneve end point, from `kalsae.io/vtep-mac`; nil where it is derived from
  /// the node's name (NODE-5).
  public var vtepMAC: MACAddress?

  public var resource: Resource { .node(self) }

  public init(
    metadata: ObjectMetadata, podCIDRs: [IPPrefix] = [], addresses: [NodeAddress] = [],
    underlayIPv4: InterfaceAddress? = nil, underlayIPv6: InterfaceAddress? = nil, vtepMAC: MACAddress? = nil
  ) {
    self.metadata = metadata
    self.podCIDRs = podCIDRs
    self.addresses = addresses
    self.underlayIPv4 = underlayIPv4
    self.underlayIPv6 = underlayIPv6
    self.vtepMAC = vtepMAC
  }

  /// The address by which other nodes reach this one: the annotation's, else the internal, else the external one.
  public func address(_ family: IPFamily) -> IPAddress? {
    if let annotated = family == .ipv4 ? underlayIPv4 : underlayIPv6 { return annotated.address }
    let own = addresses.filter { $0.address.family == family }
    return (own.first { $0.type == .internalIP } ?? own.first { $0.type == .externalIP })?.address
  }

  /// The subnet of the underlay, where the annotation tells it (CrossSubnet compares it).
  public func subnet(_ family: IPFamily) -> IPPrefix? {
    (family == .ipv4 ? underlayIPv4 : underlayIPv6)?.prefix
  }

  /// The zone of the node, from `topology.kubernetes.io/zone` (KP-13).
  public var zone: String? { metadata.labels["topology.kubernetes.io/zone"] }

  /// The MAC address of the node's tunnel end point (NODE-5).
  public var tunnelMAC: MACAddress { vtepMAC ?? MACAddress(derivedFrom: name) }
}

/// One of a node's `status.addresses` that is an IP address.
public struct NodeAddress: Sendable, Equatable {
  public enum AddressType: String, Sendable, CaseIterable {
    case internalIP = "InternalIP"
    case externalIP = "ExternalIP"
    case hostname = "Hostname"
    case internalDNS = "InternalDNS"
    case externalDNS = "ExternalDNS"
  }

  public var type: AddressType
  public var address: IPAddress

  public init(_ type: AddressType, _ address: IPAddress) {
    self.type = type
    self.address = address
  }
}

/// An address of an interface together with the length of its subnet.
public struct InterfaceAddress: Sendable, Hashable, CustomStringConvertible {
  public var address: IPAddress
  /// The subnet that the address lies in.
  public var prefix: IPPrefix

  public init(_ address: IPAddress, prefix: IPPrefix) {
    self.address = address
    self.prefix = prefix
  }

  /// Reads `10.0.0.1/24`; an address alone stands for itself with the full length.
  public init?(_ text: String) {
    if let slash = text.firstIndex(of: "/") {
      guard let address = IPAddress(parsing: text[..<slash]), let prefix = IPPrefix(text) else { return nil }
      self.init(address, prefix: prefix)
    } else {
      guard let address = IPAddress(text) else { return nil }
      self.init(address, prefix: IPPrefix(host: address))
    }
  }

  public var description: String { "\(address)/\(prefix.length)" }
}

extension Node {
  public init?(metadata: ObjectMetadata, reading root: Field) {
    let spec = root["spec"]
    var podCIDRs = spec["podCIDRs"].list { $0.prefix() }
    if let single = spec["podCIDR"].prefix() {
      if podCIDRs.isEmpty {
        podCIDRs = [single]
      } else if podCIDRs[0] != single {
        spec["podCIDR"].fail("\(single) differs from spec.podCIDRs[0], which is \(podCIDRs[0]); make them equal")
      }
    }
    spec["podCIDRs"].refuseRepeatedFamily(podCIDRs.map(\.family), "block")

    var addresses: [NodeAddress] = []
    for element in root["status"]["addresses"].elements() {
      guard let type = element["type"].required().choice(NodeAddress.AddressType.self) else { continue }
      let field = element["address"].required()
      switch type {
      case .internalIP, .externalIP: if let address = field.address() { addresses.append(NodeAddress(type, address)) }
      case .hostname, .internalDNS, .externalDNS: _ = field.string()
      }
    }

    let annotations = root["metadata"]["annotations"]
    func underlay(_ family: IPFamily) -> InterfaceAddress? {
      let example = family == .ipv4 ? "10.0.0.1/24" : "fd00::1/64"
      return annotations["projectcalico.org/\(family.rawValue)Address"].parsed(
        "an \(family.rawValue) address with the length of its subnet such as \(example)"
      ) { text in InterfaceAddress(text).flatMap { $0.address.family == family ? $0 : nil } }
    }
    self.init(
      metadata: metadata, podCIDRs: podCIDRs, addresses: addresses, underlayIPv4: underlay(.ipv4),
      underlayIPv6: underlay(.ipv6), vtepMAC: annotations["kalsae.io/vtep-mac"].macAddress())
  }
}

extension Field {
  /// Reports a list that holds more than one item of a family, as the API server does for dual-stack fields.
  func refuseRepeatedFamily(_ families: [IPFamily], _ item: String) {
    for family in IPFamily.allCases where families.filter({ $0 == family }).count > 1 {
      fail("holds more than one \(family.rawValue) \(item); at most one of each family is allowed")
    }
  }
}
