import Addresses

/// The settings that hold on one node: the node's own ``NodeConfiguration`` over the one named `default` over the
/// defaults named here. The properties have the names of the fields of `spec`.
public struct NodeSettings: Sendable, Equatable {
  // MARK: Services

  /// The blocks of all pods of the cluster: what lies outside of them is no local pod (KP-34). Default none.
  public var clusterCIDRs: [IPPrefix]
  /// The blocks of cluster IPs: an address in them that no Service has is dropped (KP-37). Default none.
  public var serviceCIDRs: [IPPrefix]
  /// Whether all traffic to cluster IPs is masqueraded (KP-34). Default false.
  public var masqueradeAll: Bool
  /// Whether NodePorts are served on 127.0.0.1 (KP-24). Default false.
  public var localhostNodePorts: Bool
  /// Where NodePorts are served (KP-23). Default all local addresses.
  public var nodePortAddresses: NodePortAddresses
  /// How endpoints are chosen where a service's annotation does not say (KP-15). Default random.
  public var loadBalancing: LoadBalancing
  /// The number of clients whose endpoint is remembered for `sessionAffinity` (KP-50), 1024 to 16,777,216. Default
  /// 65,536.
  public var affinityTableSize: Int
  /// Whether TCP segments outside of the window, and of connections whose beginning was not seen, are let through
  /// (KP-39). Default true.
  public var tcpBeLiberal: Bool
  /// Where `/healthz` and `/livez` are served (KP-53). Default 0.0.0.0:10256.
  public var healthzBindAddress: BindAddress
  /// Where `/metrics` is served (KP-54). Default 127.0.0.1:10249.
  public var metricsBindAddress: BindAddress

  static let healthzPort: UInt16 = 10256
  static let metricsPort: UInt16 = 10249

  // MARK: Underlay

  /// The interface that leads to other nodes; nil (default) = the one that holds the node's address.
  public var underlayInterface: String?
  /// The MTU of the underlay in bytes, 576 to 65535; nil (default) = that of the underlay interface, followed live
  /// (NODE-6).
  public var mtu: Int?
  /// Neighbours of the underlay with a fixed MAC address. Default none.
  public var neighbors: [StaticNeighbor]

  // MARK: Tunnels

  /// The family of the outer header; nil (default) = IPv4 where both nodes have an IPv4 address, else IPv6.
  public var tunnelIPFamily: IPFamily?
  /// The UDP port of VXLAN (RFC 7348, NODE-5). Default 4789.
  public var vxlanPort: UInt16
  /// The VXLAN network identifier, 24 bits (NODE-5). Default 4096.
  public var vxlanVNI: UInt32
  /// The UDP port of Geneve (RFC 8926). Default 6081.
  public var genevePort: UInt16
  /// The Geneve virtual network identifier, 24 bits. Default 4096.
  public var geneveVNI: UInt32
  /// The key of GRE packets (RFC 2890, TUN-2); nil (default) = none.
  public var greKey: UInt32?
  /// Whether GRE packets carry a checksum (RFC 2784, TUN-2). Default false.
  public var greChecksum: Bool
  /// Whether GRE packets carry sequence numbers (RFC 2890, TUN-2). Default false.
  public var greSequence: Bool
  /// Whether VXLAN and Geneve packets carry a UDP checksum; nil = as ``udpTunnelChecksum(over:)`` says.
  public var udpTunnelChecksum: Bool?
  /// Whether TCP super-frames in tunnels are handed to the kernel whole, to be cut by the device or at the last moment;
  /// where false, or where the kernel cannot, they are cut before. For devices whose tunnel offloads are broken.
  /// Default true.
  public var tunnelOffload: Bool
  /// What tunnels do with the DSCP (RFC 2983, TUN-6). Default uniform: the underlay serves a packet as its sender
  /// asked.
  public var dscpMode: HeaderFieldMode
  /// The DSCP of outer headers where `dscpMode` is pipe, 0 to 63. Default 0.
  public var dscp: UInt8
  /// What tunnels do with the TTL or hop limit (TUN-6). Default pipe: a tunnel is one hop.
  public var ttlMode: HeaderFieldMode
  /// The TTL or hop limit of outer headers where `ttlMode` is pipe, 1 to 255. Default 64.
  public var ttl: UInt8

  // MARK: Packets

  /// Whether a pod may send from its own addresses and MAC only (NODE-4). Default true.
  public var sourceCheck: Bool
  /// The most ICMP errors that are sent in a second; 0 = none (TUN-7; RFC 1812, section 4.3.2.8). Default 1000.
  public var icmpErrorRate: Int
  /// The most ICMP errors that are sent at once. Default 50.
  public var icmpErrorBurst: Int
  /// How long a reduced path MTU is kept (RFC 8201, section 4). Default 10 minutes.
  public var pathMTUTimeout: Duration
  /// How long the fragments of one packet are waited for (TUN-8). Default 30 seconds.
  public var fragmentTimeout: Duration

  // MARK: Resources

  /// How packets get to the data plane and back. `af_xdp` carries more small packets, and less TCP: a pod whose device has it
  /// sends no super-frames. Where the kernel or the device cannot, `af_packet` stands in, and the log says why. Default
  /// af_packet.
  public var ports: PortTechnique
  /// The frames for which AF_XDP has memory, 8192 to 131,072, of 2 KiB each with an MTU of up to 1,688, else of 4 KiB. The
  /// underlay takes 4096, a pod 2048, or 128 for each of its queues, and up to a quarter more while it is busy. Default
  /// 32,768.
  public var xdpFrames: Int
  /// The number of threads that move packets, 1 to 64, as the agent starts; at most one for each processor. Each receives by
  /// some of the pods' ports, with `af_xdp` by a queue of each, and a share of what other nodes send, and sends by all.
  /// Default 1.
  public var workers: Int
  /// Whether packet threads poll without sleeping: lower latency for a whole core each. Default false.
  public var busyPoll: Bool
  /// The number of flows that are remembered, 1024 to 67,108,864. Default 262,144.
  public var flowTableSize: Int
  public var flowTimeouts: FlowTimeouts

  // MARK: The kernel

  /// Whether programs in the kernel carry established flows, and translate connections to services at the socket.
  /// Default auto: where the kernel can.
  public var ebpf: EBPFMode
  /// The hooks that are used where `ebpf` is not off. Default `overlay` alone where `ebpf` is not said: it decides nothing,
  /// and what it carries is what user space would send. Else all but `xdp_lb`, which wants a device that is a wire's: what a
  /// virtual device brings may have checksums that are not finished.
  public var ebpfHooks: Set<EBPFHook>
  /// How `tc_lb` and `xdp_lb` send what comes from outside over IPv4 to NodePorts, external and load balancers' addresses.
  /// With `dsr` an endpoint gets the client's packet whole in an IPIP packet of the node's (RFC 2003): it must take those,
  /// have the service's address and listen on the service's port; a service whose target port is another is translated.
  /// Default snat.
  public var loadBalancerMode: LoadBalancerMode

  /// How long a flow is kept after its last packet.
  public struct FlowTimeouts: Sendable, Equatable {
    /// TCP connections that are open (RFC 5382, REQ-5: 2 h 4 min or more). Default 24 hours.
    public var tcpEstablished = Duration.seconds(86400)
    /// TCP connections that are being opened or closed (RFC 5382, REQ-5: 4 minutes or more). Default 4 minutes.
    public var tcpTransient = Duration.seconds(240)
    /// UDP (RFC 4787, REQ-5: 2 minutes or more). Default 2 minutes.
    public var udp = Duration.seconds(120)
    /// SCTP: seven times the default heartbeat interval (RFC 9260, section 16). Default 3 minutes 30 seconds.
    public var sctp = Duration.seconds(210)
    /// ICMP queries (RFC 5508, REQ-2: 60 seconds or more). Default 60 seconds.
    public var icmp = Duration.seconds(60)
    /// All other protocols. Default 10 minutes.
    public var other = Duration.seconds(600)

    public init() {}
  }

  /// The settings that `node` and `default` give together; each may be absent.
  public init(default common: NodeConfiguration.Spec? = nil, node: NodeConfiguration.Spec? = nil) {
    func given<T>(_ field: (NodeConfiguration.Spec) -> T?) -> T? { node.flatMap(field) ?? common.flatMap(field) }
    clusterCIDRs = given(\.clusterCIDRs) ?? []
    serviceCIDRs = given(\.serviceCIDRs) ?? []
    masqueradeAll = given(\.masqueradeAll) ?? false
    localhostNodePorts = given(\.localhostNodePorts) ?? false
    nodePortAddresses = given(\.nodePortAddresses) ?? .all
    loadBalancing = given(\.loadBalancing) ?? .random
    affinityTableSize = given(\.affinityTableSize) ?? 1 << 16
    tcpBeLiberal = given(\.tcpBeLiberal) ?? true
    healthzBindAddress =
      given(\.healthzBindAddress) ?? .at(SocketAddress(.v4(IPv4Address(0, 0, 0, 0)), port: Self.healthzPort))
    metricsBindAddress =
      given(\.metricsBindAddress) ?? .at(SocketAddress(.v4(IPv4Address(127, 0, 0, 1)), port: Self.metricsPort))
    underlayInterface = given(\.underlayInterface)
    mtu = given(\.mtu)
    neighbors = given(\.neighbors) ?? []
    tunnelIPFamily = given(\.tunnelIPFamily)
    vxlanPort = given(\.vxlanPort) ?? 4789
    vxlanVNI = given(\.vxlanVNI) ?? 4096
    genevePort = given(\.genevePort) ?? 6081
    geneveVNI = given(\.geneveVNI) ?? 4096
    greKey = given(\.greKey)
    greChecksum = given(\.greChecksum) ?? false
    greSequence = given(\.greSequence) ?? false
    udpTunnelChecksum = given(\.udpTunnelChecksum)
    tunnelOffload = given(\.tunnelOffload) ?? true
    dscpMode = given(\.dscpMode) ?? .uniform
    dscp = given(\.dscp) ?? 0
    ttlMode = given(\.ttlMode) ?? .pipe
    ttl = given(\.ttl) ?? 64
    sourceCheck = given(\.sourceCheck) ?? true
    icmpErrorRate = given(\.icmpErrorRate) ?? 1000
    icmpErrorBurst = given(\.icmpErrorBurst) ?? 50
    pathMTUTimeout = given(\.pathMTUTimeout) ?? .seconds(600)
    fragmentTimeout = given(\.fragmentTimeout) ?? .seconds(30)
    ports = given(\.ports) ?? .afPacket
    xdpFrames = given(\.xdpFrames) ?? 1 << 15
    workers = given(\.workers) ?? 1
    busyPoll = given(\.busyPoll) ?? false
    flowTableSize = given(\.flowTableSize) ?? 1 << 18
    ebpf = given(\.ebpf) ?? .auto
    ebpfHooks =
      given(\.ebpfHooks) ?? (given(\.ebpf) == nil ? [.overlay] : Set(EBPFHook.allCases).subtracting([.xdpLB]))
    loadBalancerMode = given(\.loadBalancerMode) ?? .snat
    flowTimeouts = FlowTimeouts()
    flowTimeouts.tcpEstablished = given(\.flowTimeouts.tcpEstablished) ?? flowTimeouts.tcpEstablished
    flowTimeouts.tcpTransient = given(\.flowTimeouts.tcpTransient) ?? flowTimeouts.tcpTransient
    flowTimeouts.udp = given(\.flowTimeouts.udp) ?? flowTimeouts.udp
    flowTimeouts.sctp = given(\.flowTimeouts.sctp) ?? flowTimeouts.sctp
    flowTimeouts.icmp = given(\.flowTimeouts.icmp) ?? flowTimeouts.icmp
    flowTimeouts.other = given(\.flowTimeouts.other) ?? flowTimeouts.other
  }

  /// Whether tunnel packets over this family carry a UDP checksum, where the setting does not say.
  ///
  /// Over IPv4 the default is no (RFC 7348, section 5: SHOULD be zero; the inner packet has its own). Over IPv6 it is
  /// yes: RFC 6935 and 6936 permit zero only where both ends agree, and Linux drops such packets unless told otherwise.
  public func udpTunnelChecksum(over family: IPFamily) -> Bool { udpTunnelChecksum ?? (family == .ipv6) }
}
