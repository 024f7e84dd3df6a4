import Addresses
import CEBPF
import Dataplane

/// A device whose packets to services are looked at.
public struct BalancedPort: Sendable, Hashable {
  public var interface: Int32
  /// Its own Ethernet address, and the one that must send to it (NODE-4).
  public var mac: MACAddress
  public var peer: MACAddress?
  /// The pod's port; nil: the underlay.
  public var pod: PortIndex?
  /// Whether it is one end of a pair of which the other is in another network namespace.
  public var isPair: Bool

  public init(interface: Int32, mac: MACAddress, peer: MACAddress? = nil, pod: PortIndex?, isPair: Bool) {
    self.interface = interface
    self.mac = mac
    self.peer = peer
    self.pod = pod
    self.isPair = isPair
  }

  /// What `lb_ports` says of it; nil: its packets are left alone.
  func record(_ surroundings: Surroundings) -> kalsae_lb_port? {
    var record = kalsae_lb_port()
    record.mac = mac.octets
    if let peer {
      record.peer = peer.octets
      record.flags |= UInt32(KALSAE_LB_CHECKS_PEER)
    }
    guard let pod else { return record }
    guard let known = surroundings.pods[pod] else { return nil }
    record.flags |= UInt32(KALSAE_LB_POD)
    record.zone = UInt32(interface)
    for address in known.addresses {
      if address.family == .ipv4 {
        record.address4 = kalsae_address(address)
      } else {
        record.address6 = kalsae_address(address)
      }
    }
    if known.hasEgressPolicy { record.flags |= UInt32(KALSAE_LB_EGRESS_POLICY) }
    if known.masquerades { record.flags |= UInt32(KALSAE_LB_MASQUERADES) }
    return record
  }
}

extension MACAddress {
  typealias Octets = (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8)
  /// As on the wire.
  var octets: Octets {
    func octet(_ shift: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: rawValue >> shift) }
    return (octet(40), octet(32), octet(24), octet(16), octet(8), octet(0))
  }
}

extension kalsae_lb_config {
  init(_ settings: Settings) {
    self.init()
    node4 = settings.nodeAddress4.map { kalsae_address(.v4($0)) } ?? .zero
    node6 = settings.nodeAddress6.map { kalsae_address(.v6($0)) } ?? .zero
    first_port = settings.masqueradePorts.lowerBound
    port_count = UInt16(settings.masqueradePorts.count)
    vxlan_port = settings.vxlanPort.bigEndian
    geneve_port = settings.genevePort.bigEndian
    if settings.masqueradeAll { flags |= UInt32(KALSAE_LB_MASQUERADE_ALL) }
    if settings.tcpBeLiberal { flags |= UInt32(KALSAE_LB_LIBERAL) }
    if settings.clusterCIDRs.contains(where: { $0.family == .ipv4 }) { flags |= UInt32(KALSAE_LB_BLOCKS4) }
    if settings.clusterCIDRs.contains(where: { $0.family == .ipv6 }) { flags |= UInt32(KALSAE_LB_BLOCKS6) }
    tcp_established = settings.timeouts.tcpEstablished
    tcp_transient = settings.timeouts.tcpTransient
    udp = settings.timeouts.udp
    error4 = settings.icmpSource4.map { kalsae_address(.v4($0)) } ?? .zero
    error6 = settings.icmpSource6.map { kalsae_address(.v6($0)) } ?? .zero
    error_rate = UInt32(clamping: settings.icmpErrorRate)
    error_burst = UInt32(clamping: settings.icmpErrorBurst)
  }
}

extension kalsae_place_key {
  init(_ prefix: IPPrefix) {
    self.init(
      length: UInt32(prefix.length) + (prefix.family == .ipv4 ? 96 : 0), address: kalsae_address(prefix.address))
  }
}

extension kalsae_place {
  /// `ports`: the devices by the pod's port; the underlay's is under nil.
  init(_ place: Surroundings.Place, _ ports: [PortIndex?: BalancedPort], underlay: PortIndex?) {
    self.init()
    mtu = UInt16(clamping: place.mtu)
    if place.isPod { flags |= UInt8(KALSAE_PLACE_POD) }
    if place.hasIngressPolicy { flags |= UInt8(KALSAE_PLACE_INGRESS_POLICY) }
    if place.isCluster { flags |= UInt8(KALSAE_PLACE_CLUSTER) }
    if place.isPool { flags |= UInt8(KALSAE_PLACE_POOL) }
    let port = place.port.flatMap { ports[$0 == underlay ? nil : $0] }
    if let port, port.pod != nil { zone = UInt32(port.interface) }
    switch place.way {
    case .own: kind = UInt8(KALSAE_PLACE_LEFT)
    case .machine: kind = UInt8(KALSAE_PLACE_KERNEL)
    case .frame(let destination, let source):
      guard let port else { return }
      kind = UInt8(port.isPair ? KALSAE_PLACE_PEER : KALSAE_PLACE_FRAME)
      interface = UInt32(port.interface)
      self.destination = destination.octets
      self.source = source.octets
    }
  }
}

/// Entries of a map that are replaced one by one, so that only what differs is written.
struct Replica<Key: BitwiseCopyable, Value: BitwiseCopyable, ID: Hashable, Content: Hashable> {
  let map: BPFMap<Key, Value>
  private var contents: [ID: Content] = [:]

  init(_ map: BPFMap<Key, Value>) { self.map = map }

  var count: Int { contents.count }

  /// Has the map hold what `wanted` says; what it held that this does not know stays until `wanted` says otherwise.
  mutating func set(
    _ wanted: [ID: Content], key: (ID) -> Key, value: (ID, Content) -> Value
  ) throws(EBPFError) {
    var keys: [Key] = []
    var values: [Value] = []
    for (id, content) in wanted where contents[id] != content {
      keys.append(key(id))
      values.append(value(id, content))
    }
    try map.write(keys, values)
    try map.remove(contents.keys.filter { wanted[$0] == nil }.map(key))
    contents = wanted
  }
}
