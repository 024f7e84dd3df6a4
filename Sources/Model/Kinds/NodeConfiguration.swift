import Addresses

/// The settings of a node's data plane (kalsae.io/v1alpha1).
///
/// The object named `default` is for all nodes; one that has a node's name is for that node, and overrides the default
/// field by field. Every field is optional; ``NodeSettings`` says what holds where none is given.
public struct NodeConfiguration: KubernetesObject {
  public static let kind = Kind.nodeConfiguration
  public static let apiVersions = ["kalsae.io/v1alpha1"]
  /// The name of the object that is for all nodes.
  public static let defaultName = "default"

  public var metadata: ObjectMetadata
  public var spec: Spec

  public var resource: Resource { .nodeConfiguration(self) }

  public init(metadata: ObjectMetadata, spec: Spec = Spec()) {
    self.metadata = metadata
    self.spec = spec
  }

  /// The fields as they were written: nil = not given. Meanings, units and defaults are those of ``NodeSettings``.
  public struct Spec: Sendable, Equatable {
    public var clusterCIDRs: [IPPrefix]?
    public var serviceCIDRs: [IPPrefix]?
    public var masqueradeAll: Bool?
    public var localhostNodePorts: Bool?
    public var nodePortAddresses: NodePortAddresses?
    public var loadBalancing: LoadBalancing?
    public var affinityTableSize: Int?
    public var tcpBeLiberal: Bool?
    public var healthzBindAddress: BindAddress?
    public var metricsBindAddress: BindAddress?

    public var underlayInterface: String?
    public var mtu: Int?
    public var neighbors: [StaticNeighbor]?

    public var tunnelIPFamily: IPFamily?
    public var vxlanPort: UInt16?
    public var vxlanVNI: UInt32?
    public var genevePort: UInt16?
    public var geneveVNI: UInt32?
    public var greKey: UInt32?
    public var greChecksum: Bool?
    public var greSequence: Bool?
    public var udpTunnelChecksum: Bool?
    public var tunnelOffload: Bool?
    public var dscpMode: HeaderFieldMode?
    public var dscp: UInt8?
    public var ttlMode: HeaderFieldMode?
    public var ttl: UInt8?

    public var sourceCheck: Bool?
    public var icmpErrorRate: Int?
    public var icmpErrorBurst: Int?
    public var pathMTUTimeout: Duration?
    public var fragmentTimeout: Duration?

    public var ports: PortTechnique?
    public var xdpFrames: Int?
    public var workers: Int?
    public var busyPoll: Bool?
    public var flowTableSize: Int?
    public var flowTimeouts = FlowTimeouts()

    public var ebpf: EBPFMode?
    public var ebpfHooks: Set<EBPFHook>?
    public var loadBalancerMode: LoadBalancerMode?

    public init() {}
  }

  /// How long a flow is kept after its last packet: nil = not given.
  public struct FlowTimeouts: Sendable, Equatable {
    public var tcpEstablished: Duration?
    public var tcpTransient: Duration?
    public var udp: Duration?
    public var sctp: Duration?
    public var icmp: Duration?
    public var other: Duration?

    public init() {}
  }
}

/// The local addresses on which NodePorts are served (KP-23).
public enum NodePortAddresses: Sendable, Equatable {
  /// All local addresses.
  case all
  /// The node's own address of each family.
  case primary
  /// The local addresses that lie in one of these blocks; a family without a block has all of its local addresses.
  case blocks([IPPrefix])
}

/// A neighbour of the underlay whose MAC address is not asked for.
public struct StaticNeighbor: Sendable, Hashable {
  public var address: IPAddress
  public var macAddress: MACAddress

  public init(address: IPAddress, macAddress: MACAddress) {
    self.address = address
    self.macAddress = macAddress
  }
}

/// What a tunnel does with a field of the IP header that inner and outer packet both have (RFC 2983, TUN-6).
public enum HeaderFieldMode: String, Sendable, Hashable, CaseIterable {
  /// One value end to end: copied out on encapsulation, and back in on decapsulation.
  case uniform
  /// The inner packet keeps its own; the outer one has the configured value.
  case pipe
}

/// How packets get from veth pairs and the underlay's device to the data plane and back.
public enum PortTechnique: String, Sendable, Hashable, CaseIterable {
  /// Packet sockets: super-frames pass whole.
  case afPacket = "af_packet"
  /// AF_XDP sockets: single frames, for small packets.
  case afXDP = "af_xdp"
}

/// Whether programs in the kernel translate connections to services at the socket, and carry established flows.
public enum EBPFMode: String, Sendable, Hashable, CaseIterable {
  /// Where the kernel can; what it cannot is left to user space.
  case auto
  case off
  /// The agent does not start where the kernel cannot.
  case required
}

/// How the kernel's programs send what comes from outside to endpoints.
public enum LoadBalancerMode: String, Sendable, Hashable, CaseIterable {
  /// Translated, and so answered by way of this node.
  case snat
  /// Whole, in IPIP, and so answered by the endpoint itself.
  case dsr
}

/// A place in the kernel where programs can be attached.
public enum EBPFHook: String, Sendable, Hashable, CaseIterable {
  case connect4, connect6, sendmsg4, sendmsg6, recvmsg4, recvmsg6, getpeername4, getpeername6
  case postBind4 = "post_bind4"
  case postBind6 = "post_bind6"
  /// At pods' devices and the underlay: established flows are carried in the kernel.
  case overlay
  /// At the same devices: packets to services are translated and sent on while no data plane runs.
  case tcLB = "tc_lb"
  /// The same in front of the underlay's device.
  case xdpLB = "xdp_lb"
  /// At pods' devices, where no agent runs and the kernel routes: network policy. An agent decides it in user space.
  case policy
}
