import Addresses

/// A node that tunnel packets are accepted from (NODE-4).
public struct Peer: Sendable, Hashable {
  public var name: String
  /// The encapsulations that are used with it.
  public var encapsulations: Set<Encapsulation>

  public init(name: String, encapsulations: Set<Encapsulation>) {
    self.name = name
    self.encapsulations = encapsulations
  }
}

/// What the node's configuration says to the packet path.
public struct Settings: Sendable, Equatable {
  /// The UDP port that VXLAN comes in by.
  public var vxlanPort = VXLANHeader.port
  /// The virtual network whose packets are accepted.
  public var vxlanVNI: UInt32 = 4096
  public var genevePort = GeneveHeader.port
  public var geneveVNI: UInt32 = 4096
  /// The key that GRE packets must carry; nil: none.
  public var greKey: UInt32?
  /// The Ethernet address inside VXLAN and Geneve packets to this node (NODE-5).
  public var vtepMAC = MACAddress.zero
  /// Who error messages come from.
  public var icmpSource4: IPv4Address?
  public var icmpSource6: IPv6Address?
  /// Error messages a second that a worker may send (TUN-7).
  public var icmpErrorRate = 1000
  /// Error messages that may go out at once.
  public var icmpErrorBurst = 50
  /// Seconds that a smaller path MTU, once learned, is kept (RFC 1191, section 6.3).
  public var pathMTULifetime: UInt32 = 600
  /// Seconds that the rest of a fragmented datagram is waited for.
  public var fragmentLifetime: UInt32 = 30
  /// Whether decapsulation gives the inner packet the outer DSCP (uniform) or leaves it alone (pipe; RFC 2983, TUN-6).
  public var uniformDSCP = false
  /// Whether decapsulation gives the inner packet the outer time to live, where that is smaller (TUN-6).
  public var uniformTTL = false
  public var timeouts = Timeouts()
  /// The blocks of all pods (KP-34).
  public var clusterCIDRs: [IPPrefix] = []
  /// Whether all traffic to cluster IPs is masqueraded (KP-34).
  public var masqueradeAll = false
  /// The blocks of all pools, and of those whose pods are masqueraded on their way out of all pools (NODE-8).
  public var poolBlocks: [IPPrefix] = []
  public var natOutgoingBlocks: [IPPrefix] = []
  /// Whether TCP connections are taken up whose beginning was not seen (KP-39).
  public var tcpBeLiberal = true
  /// What masqueraded connections come from (KP-36).
  public var nodeAddress4: IPv4Address?
  public var nodeAddress6: IPv6Address?
  /// The source ports of masqueraded connections: none that the host itself gives out (Linux: 32768 to 60999), and not
  /// the last one, which Linux's routing rules cannot name.
  public var masqueradePorts: ClosedRange<UInt16> = 61000...65534

  /// What masqueraded connections of a family come from; nil: the node has no address of it.
  @inline(__always)
  func nodeAddress(isIPv6: Bool) -> IPAddress? {
    isIPv6 ? nodeAddress6.map { .v6($0) } : nodeAddress4.map { .v4($0) }
  }

  @inline(__always)
  func hasNodeAddress(isIPv6: Bool) -> Bool { isIPv6 ? nodeAddress6 != nil : nodeAddress4 != nil }

  /// Seconds that a flow may be silent.
  public struct Timeouts: Sendable, Equatable {
    public var tcpEstablished: UInt32 = 86400
    /// TCP and SCTP that are being opened or closed.
    public var tcpTransient: UInt32 = 240
    public var udp: UInt32 = 120
    public var sctp: UInt32 = 210
    public var icmp: UInt32 = 60
    public var other: UInt32 = 600
    public init() {}
  }

  public init() {}
}

/// All that packets are decided by. The control side changes it at a batch boundary (see `Gate`); workers only read.
public struct Tables: ~Copyable {
  var ports = PortTable()
  var hops = HopTable()
  var routes = RouteTable()
  /// Pods' addresses: whose port may send from them (NODE-4).
  var podAddresses = AddressTable()
  /// The node's own addresses on the underlay: tunnels end here.
  var localAddresses = AddressTable()
  /// All addresses of the node, on whatever device: who has one of them as its source is the node itself (KP-33).
  var ownAddresses = AddressTable()
  /// The gateway addresses that the data plane itself answers for: 169.254.1.1 and the link-local one (NODE-1).
  var gatewayAddresses = AddressTable()
  var services = ServiceTable()
  var policies = PolicyTable()
  /// The addresses that NodePorts are served on (KP-23).
  var nodePortAddresses = AddressTable()
  /// Tunnel peers: address to place in `peers`.
  var peerAddresses = AddressTable()
  /// Bit n set: encapsulation n is accepted from the peer.
  var peerEncapsulations = Memory<UInt32>(count: 1024)
  /// The same two for the fast path.
  var peers4 = PeerTable()
  var peers: [Peer?] = []
  private var freePeers: [Int] = []
  public var settings: Settings {
    // Lent, and not copied: it is some 240 octets, of which a packet's way asks for a few at a time.
    @inline(__always) _read { yield current }
    _modify {
      let before = current
      defer { if current != before { revision &+= 1 } }
      yield &current
    }
  }
  private var current = Settings()

  /// Changes with every change of what flows are decided by; a flow of an older epoch looks whether it is concerned.
  private(set) var epoch: UInt32 = 1
  /// Changes with every change of what becomes of packets: of the epoch, and of what is looked at with each packet.
  private(set) var revision: UInt64 = 0

  public init() {}

  /// Has every flow look, at its next packet, whether what it was decided from still holds.
  mutating func advanceEpoch() {
    epoch &+= epoch == .max ? 2 : 1
    revision &+= 1
  }
}

extension Tables {
  public mutating func addPort(_ description: PortDescription) -> PortIndex { ports.insert(description) }

  public mutating func updatePort(_ index: PortIndex, _ description: PortDescription) {
    ports.update(index, description)
    // Its flows may have come by rules that no longer hold.
    advanceEpoch()
  }

  public mutating func removePort(_ index: PortIndex) {
    ports.remove(index)
    revision &+= 1
  }

  public func port(_ index: PortIndex) -> PortDescription? { ports.description(index) }

  public mutating func addHop(_ hop: Hop) -> HopIndex { hops.insert(hop) }

  /// Changes a hop in place: flows that use it follow with their next packet.
  public mutating func updateHop(_ index: HopIndex, _ hop: Hop) {
    hops.update(index, hop)
    revision &+= 1
  }

  public mutating func failHop(_ index: HopIndex) {
    hops.fail(index)
    revision &+= 1
  }

  public mutating func removeHop(_ index: HopIndex) {
    hops.remove(index)
    revision &+= 1
  }

  public func hop(_ index: HopIndex) -> Hop? { hops.hop(index) }

  public mutating func setRoute(_ route: Route) {
    routes.insert(route)
    advanceEpoch()
  }

  public mutating func removeRoute(_ prefix: IPPrefix) {
    routes.remove(prefix)
    advanceEpoch()
  }

  public var routeCount: Int { routes.count }

  public mutating func setPodAddress(_ address: IPAddress, port: PortIndex) {
    policies.unseen?.pods.insert(address)
    podAddresses.insert(address, value: UInt32(port.rawValue))
    advanceEpoch()
  }

  public mutating func removePodAddress(_ address: IPAddress) {
    policies.unseen?.pods.insert(address)
    podAddresses.remove(address)
    advanceEpoch()
  }

  public mutating func addLocalAddress(_ address: IPAddress) {
    policies.unseen?.owners.insert(address)
    localAddresses.insert(address, value: 0)
    revision &+= 1
  }

  public mutating func removeLocalAddress(_ address: IPAddress) {
    policies.unseen?.owners.insert(address)
    localAddresses.remove(address)
    revision &+= 1
  }

  /// Says that the node has an address, on the underlay or on another device.
  public mutating func addOwnAddress(_ address: IPAddress) {
    policies.unseen?.owners.insert(address)
    ownAddresses.insert(address, value: 0)
    policies.noteNodes()
    advanceEpoch()
  }

  public mutating func removeOwnAddress(_ address: IPAddress) {
    policies.unseen?.owners.insert(address)
    ownAddresses.remove(address)
    policies.noteNodes()
    advanceEpoch()
  }

  /// Whether the node has an address.
  @inline(__always)
  func isOwn(_ address: IPAddress) -> Bool {
    if localAddresses.find(address) != nil { return true }
    return ownAddresses.find(address) != nil
  }

  public mutating func addGatewayAddress(_ address: IPAddress) {
    policies.unseen?.owners.insert(address)
    gatewayAddresses.insert(address, value: 0)
  }

  /// Accepts tunnel packets from `address`.
  public mutating func setPeer(_ peer: Peer, at address: IPAddress) {
    let index: Int
    if let known = peerAddresses.find(address) {
      index = Int(known)
    } else {
      index = freePeers.popLast() ?? peers.count
      if index == peers.count { peers.append(nil) }
      if index >= peerEncapsulations.count { peerEncapsulations.grow(to: peerEncapsulations.count * 2) }
      peerAddresses.insert(address, value: UInt32(index))
    }
    revision &+= 1
    peers[index] = peer
    peerEncapsulations[index] = peer.encapsulations.reduce(0) { $0 | 1 << UInt32($1.rawValue) }
    if case .v4(let address) = address {
      peers4.set(address, peer: UInt16(truncatingIfNeeded: index), encapsulations: peerEncapsulations[index])
    }
  }

  public mutating func removePeer(at address: IPAddress) {
    guard let index = peerAddresses.find(address) else { return }
    revision &+= 1
    peerAddresses.remove(address)
    peers[Int(index)] = nil
    freePeers.append(Int(index))
    peerEncapsulations[Int(index)] = 0
    if case .v4(let address) = address { peers4.remove(address) }
  }
}

extension Tables {
  /// Adds a port of a service and returns its place.
  public mutating func addService(_ port: ServicePort) -> ServiceIndex {
    advanceEpoch()
    return services.addService(port)
  }

  /// Changes the endpoints and options of a service port. UDP flows of endpoints that go are decided anew (KP-51).
  public mutating func updateService(_ index: ServiceIndex, _ port: ServicePort) {
    services.updateService(index, port)
    advanceEpoch()
  }

  public mutating func removeService(_ index: ServiceIndex) {
    services.removeService(index)
    advanceEpoch()
  }

  /// Leads a frontend to a service port; one that is there already is changed.
  public mutating func setFrontend(_ frontend: Frontend, _ policy: FrontendPolicy, service: ServiceIndex) {
    services.setFrontend(frontend, policy, service: service)
    advanceEpoch()
  }

  public mutating func removeFrontend(_ frontend: Frontend) {
    services.removeFrontend(frontend)
    advanceEpoch()
  }

  /// The frontend of packets to an address and port; NodePorts match last (KP-25).
  @inline(__always)
  func frontend(_ address: IPAddress, isIPv6: Bool, transport: UInt8, port: UInt16) -> UInt32? {
    if let found = services.frontend(address, isIPv6: isIPv6, transport: transport, port: port) { return found }
    guard nodePortAddresses.find(address) != nil else { return nil }
    return services.frontend(nil, isIPv6: isIPv6, transport: transport, port: port)
  }

  /// Drops packets to addresses in these blocks that no service has (KP-37).
  public mutating func setServiceBlocks(_ blocks: [IPPrefix]) { services.serviceBlocks = blocks }

  public mutating func addNodePortAddress(_ address: IPAddress) {
    nodePortAddresses.insert(address, value: 0)
    services.unseen?.nodePortAddresses = true
  }

  public mutating func removeNodePortAddress(_ address: IPAddress) {
    nodePortAddresses.remove(address)
    services.unseen?.nodePortAddresses = true
  }
}

extension Tables {
  /// Says what policy holds for the pod that has an address, wherever it runs. Its flows are decided anew.
  public mutating func setPodPolicy(_ address: IPAddress, _ policy: PodPolicy) {
    policies.setPod(address, policy)
    advanceEpoch()
  }

  /// Says which node has an address: pods and their own nodes are never kept apart (NP-7). 0: none has it.
  public mutating func setPolicyNode(_ address: IPAddress, node: UInt32) {
    policies.setNode(address, node)
    advanceEpoch()
  }

  public mutating func removePodPolicy(_ address: IPAddress) {
    policies.removePod(address)
    advanceEpoch()
  }

  /// Says which peers the pods of an identity are, and what ports of theirs have names.
  public mutating func setPolicyIdentity(
    _ identity: IdentityIndex, peers: some Sequence<PeerIndex>, ports: [NamedPolicyPort]
  ) {
    policies.setIdentity(identity, peers: peers, ports: ports)
  }

  /// Makes the rules of a group these (without any it allows nothing), and has the flows of the pods that have them, by
  /// address, be decided anew.
  public mutating func setPolicyGroup(
    _ group: PolicyGroupIndex, _ rules: [PeerIndex: PolicyPorts], pods: [IPAddress]
  ) {
    policies.setGroup(group, rules)
    for address in pods { policies.touch(address) }
    advanceEpoch()
  }

  /// Takes a block that rules name into use: addresses whose longest block in use it is are these peers.
  public mutating func setPolicyBlock(_ prefix: IPPrefix, peers: some Sequence<PeerIndex>) {
    policies.setBlock(prefix, peers: peers)
  }

  /// Takes a block out of use that no group names any more.
  public mutating func removePolicyBlock(_ prefix: IPPrefix) { policies.removeBlock(prefix) }
}
