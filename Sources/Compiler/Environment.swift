public import Addresses
public import Dataplane
public import Model

/// The port that leads to the other nodes, as it is on this machine.
public struct Underlay: Sendable, Equatable {
  public var port: PortIndex
  public var mac: MACAddress
  /// The largest packet of the link.
  public var mtu: Int
  /// The interface's own addresses with their subnets.
  public var addresses: [InterfaceAddress]
  /// The routers that lead beyond the link.
  public var gateways: [IPAddress]

  public init(
    port: PortIndex, mac: MACAddress, mtu: Int, addresses: [InterfaceAddress] = [], gateways: [IPAddress] = []
  ) {
    self.port = port
    self.mac = mac
    self.mtu = mtu
    self.addresses = addresses
    self.gateways = gateways
  }
}

/// The node's own door into the data plane.
public struct HostPort: Sendable, Equatable {
  public var port: PortIndex
  /// The data plane's side.
  public var mac: MACAddress
  /// The host's side.
  public var hostMAC: MACAddress
  public var mtu: Int

  public init(port: PortIndex, mac: MACAddress, hostMAC: MACAddress, mtu: Int) {
    self.port = port
    self.mac = mac
    self.hostMAC = hostMAC
    self.mtu = mtu
  }
}

/// What is known of a neighbour on the underlay.
public enum Neighbour: Sendable, Equatable {
  case reachable(MACAddress)
  case failed
}

/// A port that must exist for a pod of this node.
public struct PodAttachment: Sendable, Equatable {
  public var pod: ObjectKey
  /// The interface on the host's side.
  public var interface: String
  public var type: Pod.Attachment.InterfaceType
  /// Where a TAP device is made.
  public var networkNamespace: String?
  /// The interface's name inside of the pod.
  public var containerInterface: String
  public var addresses: [IPAddress]
  /// The pod's own Ethernet address.
  public var mac: MACAddress
  public var mtu: Int
  /// Whether the pod may send from its own addresses only.
  public var checksSource: Bool
  public var masquerades = false
  /// Towards the pod, and from it.
  public var ingress: RateLimit?
  public var egress: RateLimit?
}

extension PodAttachment {
  /// The Ethernet address of the host's side of every pod port, and of the gateways.
  public static let hostMAC = MACAddress("ee:ee:ee:ee:ee:ee")!
  /// The IPv4 gateway of every pod (NODE-1).
  public static let gateway4 = IPv4Address(169, 254, 1, 1)
  /// The IPv6 gateway: the link-local address that belongs to `hostMAC` (RFC 4291, appendix A).
  public static let gateway6 = IPv6Address("fe80::ecee:eeff:feee:eeee")!

  /// What the port is to the data plane.
  public func portDescription(capabilities: PortCapabilities) -> PortDescription {
    var description = PortDescription(
      name: interface, role: .pod, mac: PodAttachment.hostMAC, peerMAC: checksSource ? mac : nil, mtu: mtu,
      capabilities: capabilities, checksSource: checksSource)
    description.masquerades = masquerades
    description.sendLimit = ingress
    description.receiveLimit = egress
    return description
  }

  /// The name of a pod's interface on the host where no annotation names it: as long as Linux allows, and the same
  /// whenever it is asked for (NODE-1).
  public static func interfaceName(pod: ObjectKey, interface: String = "eth0") -> String {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in "\(pod.namespace).\(pod.name).\(interface)".utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
    let digits = String(hash, radix: 16)
    return "kal" + (String(repeating: "0", count: 16 - digits.count) + digits).prefix(11)
  }
}

extension RateLimit {
  init(_ rate: Pod.Attachment.Rate) { self.init(bitsPerSecond: rate.bitsPerSecond, burstBits: rate.burstBits) }
}
