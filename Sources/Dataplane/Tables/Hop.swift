import Addresses

/// A next hop as the control side describes it.
public struct Hop: Sendable, Hashable {
  /// The port that packets leave by.
  public var port: PortIndex
  /// The Ethernet address of the port itself.
  public var source: MACAddress
  /// The Ethernet address of the pod or of the neighbour on the underlay; nil while it is not known.
  public var destination: MACAddress?
  /// Who `destination` belongs to: the node or gateway on the underlay; nil for pods.
  public var neighbour: IPAddress?
  /// The largest network-layer packet that the link carries, outer headers included.
  public var linkMTU: Int
  /// How packets are wrapped; nil where they are not.
  public var tunnel: Tunnel?

  public init(
    port: PortIndex, source: MACAddress, destination: MACAddress?, neighbour: IPAddress? = nil, linkMTU: Int,
    tunnel: Tunnel? = nil
  ) {
    self.port = port
    self.source = source
    self.destination = destination
    self.neighbour = neighbour
    self.linkMTU = linkMTU
    self.tunnel = tunnel
  }

  /// The largest inner packet (NODE-6).
  public var mtu: Int { linkMTU - (tunnel?.overhead ?? 0) }
}

/// One side of a tunnel to another node.
public struct Tunnel: Sendable, Hashable {
  public var encapsulation: Encapsulation
  public var local: IPAddress
  /// Of the same family as `local`.
  public var remote: IPAddress
  /// The outer time to live or hop limit, where it is not the inner one's.
  public var timeToLive: UInt8 = 64
  /// The outer DSCP, where it is not the inner one's.
  public var dscp: UInt8 = 0
  /// The UDP destination port of VXLAN and Geneve.
  public var port: UInt16 = 0
  /// The VNI of VXLAN and Geneve (24 bits), or the key of GRE.
  public var identifier: UInt32 = 0
  public var options: HopOptions = []
  /// The Ethernet addresses inside VXLAN and Geneve.
  public var innerSource: MACAddress = .zero
  public var innerDestination: MACAddress = .zero

  public init(_ encapsulation: Encapsulation, local: IPAddress, remote: IPAddress) {
    precondition(local.family == remote.family)
    self.encapsulation = encapsulation
    self.local = local
    self.remote = remote
    switch encapsulation {
    case .vxlan: port = VXLANHeader.port
    case .geneve: port = GeneveHeader.port
    case .none, .ipip, .gre: break
    }
  }

  /// The octets that the tunnel adds to a packet, from the outer network-layer header on (NODE-6).
  public var overhead: Int {
    let network = local.family == .ipv4 ? IPv4Header.length : IPv6Header.length
    switch encapsulation {
    case .none: return 0
    case .ipip: return network
    case .gre: return network + greFields.headerLength
    case .vxlan, .geneve: return network + 8 + 8 + EthernetHeader.length
    }
  }

  var greFields: GREHeader.Fields {
    var fields: GREHeader.Fields = []
    if options.contains(.greChecksum) { fields.insert(.checksum) }
    if options.contains(.greKey) { fields.insert(.key) }
    if options.contains(.greSequence) { fields.insert(.sequenceNumber) }
    return fields
  }
}

extension HopRecord {
  /// The record of `hop` for inner packets of one family. Everything that does not depend on the packet is in the
  /// template: addresses, ports, identifiers, and the sum of the outer IPv4 header.
  init(_ hop: Hop, inner: IPFamily) {
    port = hop.port
    encapsulation = (hop.tunnel?.encapsulation ?? .none).rawValue
    neighbour = (hop.destination == nil ? NeighbourState.pending : .resolved).rawValue
    outerIPv6 = hop.tunnel?.local.family == .ipv6
    inUse = true
    length = 0
    outerOffset = UInt16(EthernetHeader.length)
    overhead = UInt16(hop.tunnel?.overhead ?? 0)
    mtu = UInt32(max(0, min(hop.mtu, 65535)))
    options = hop.tunnel?.options ?? []
    headerSum = 0
    serial = 0
    identifier = hop.tunnel?.identifier ?? 0
    template = Template()
    let isPiped = options.contains(.pipeDSCP)
    trafficClassMask = isPiped ? 3 : 0xff
    plainSum = 0
    plainStart = 0x4500_0000 | UInt32(isPiped ? (hop.tunnel?.dscp ?? 0) << 2 : 0) << 16 | UInt32(overhead)
    plain = HopRecord.plain(hop).rawValue
    plainMTU = plain == PlainHop.no.rawValue ? 0 : UInt16(clamping: mtu)

    var octets = [UInt8](repeating: 0, count: HopRecord.templateSize)
    let innerType: EtherType = inner == .ipv4 ? .ipv4 : .ipv6
    let length = EthernetHeader.length + Int(overhead)
    let isOuterIPv6 = outerIPv6
    var sum = InternetChecksum()
    withOctets(&octets) { all in
      let header = all.dropping(HopRecord.templateSize - length)
      let outerType = hop.tunnel.map { $0.local.family == .ipv4 ? .ipv4 : .ipv6 } ?? innerType
      EthernetHeader.write(
        to: header, destination: hop.destination ?? .zero, source: hop.source, etherType: outerType)
      guard let tunnel = hop.tunnel else { return }
      let network = header.dropping(EthernetHeader.length)
      let transport = network.dropping(isOuterIPv6 ? IPv6Header.length : IPv4Header.length)
      let transportProtocol: IPProtocol
      switch tunnel.encapsulation {
      case .none: return
      case .ipip: transportProtocol = inner == .ipv4 ? .ipv4 : .ipv6
      case .gre:
        transportProtocol = .gre
        GREHeader.write(
          to: transport, protocolType: innerType, checksum: tunnel.options.contains(.greChecksum),
          key: tunnel.options.contains(.greKey) ? tunnel.identifier : nil,
          sequenceNumber: tunnel.options.contains(.greSequence) ? 0 : nil)
      case .vxlan, .geneve:
        transportProtocol = .udp
        UDPHeader.write(to: transport, sourcePort: 0, destinationPort: tunnel.port, length: 8)
        let shim = transport.dropping(UDPHeader.length)
        if tunnel.encapsulation == .vxlan {
          VXLANHeader.write(to: shim, identifier: tunnel.identifier)
        } else {
          GeneveHeader.write(to: shim, protocolType: .ethernet, identifier: tunnel.identifier)
        }
        EthernetHeader.write(
          to: shim.dropping(8), destination: tunnel.innerDestination, source: tunnel.innerSource, etherType: innerType)
      }
      switch (tunnel.local, tunnel.remote) {
      case (.v4(let local), .v4(let remote)):
        IPv4Header.write(
          to: network, totalLength: 20, timeToLive: tunnel.timeToLive, protocol: transportProtocol, source: local,
          destination: remote)
        network[u16: 2] = 0
        network[u16: 10] = 0
        if tunnel.options.contains(.pipeDSCP) { network[1] = tunnel.dscp << 2 }
        if tunnel.options.contains(.uniformTTL) { network[8] = 0 }
        sum.addHeader(network, 20)
      case (.v6(let local), .v6(let remote)):
        IPv6Header.write(
          to: network, trafficClass: tunnel.options.contains(.pipeDSCP) ? tunnel.dscp << 2 : 0, payloadLength: 0,
          nextHeader: transportProtocol,
          hopLimit: tunnel.options.contains(.uniformTTL) ? 0 : tunnel.timeToLive, source: local, destination: remote)
      default: break
      }
    }
    self.length = UInt16(length)
    headerSum = sum.folded
    sum.add(overhead)
    plainSum = sum.folded.bigEndian
    withOctets(&octets) { all in
      template.words = (
        all[u64Native: 0], all[u64Native: 8], all[u64Native: 16], all[u64Native: 24], all[u64Native: 32],
        all[u64Native: 40], all[u64Native: 48], all[u64Native: 56], all[u64Native: 64], all[u64Native: 72],
        all[u64Native: 80]
      )
    }
  }
}

extension HopRecord {
  /// Whether the fast path may send to a hop, and how.
  private static func plain(_ hop: Hop) -> PlainHop {
    guard hop.destination != nil else { return .no }
    guard let tunnel = hop.tunnel else { return .link }
    guard hop.linkMTU <= 65535, tunnel.local.family == .ipv4, tunnel.options.subtracting(.pipeDSCP).isEmpty else {
      return .no
    }
    switch tunnel.encapsulation {
    case .none: return .no
    case .ipip: return .ipip
    case .gre: return .gre
    case .vxlan, .geneve: return .udp
    }
  }
}

/// The next hops. A hop has two records, for IPv4 and IPv6 inside; its index is that of the first, always even.
struct HopTable: ~Copyable {
  private(set) var records = Memory<HopRecord>(count: 256)
  private var free: [HopIndex] = []
  private var serial: UInt32 = 0
  /// Whether there is or was a hop with a tunnel.
  private(set) var hasTunnels = false
  /// What the control side said, at index / 2.
  private(set) var hops: [Hop?] = [nil]

  /// The hops that are in use.
  var count: Int { hops.count - 1 - free.count }

  /// The record of a hop for inner packets of a family.
  @inline(__always)
  static func index(_ hop: HopIndex, isIPv6: Bool) -> HopIndex { hop | (isIPv6 ? 1 : 0) }

  mutating func insert(_ hop: Hop) -> HopIndex {
    let index = free.popLast() ?? HopIndex(hops.count * 2)
    if Int(index) / 2 == hops.count { hops.append(nil) }
    if Int(index) + 1 >= records.count { records.grow(to: records.count * 2) }
    serial &+= 1
    set(index, hop, serial)
    return index
  }

  mutating func update(_ index: HopIndex, _ hop: Hop) {
    precondition(hops[Int(index) / 2] != nil, "no such hop")
    set(index, hop, records[Int(index)].serial)
  }

  /// Says that a neighbour did not answer: packets to the hop are refused until it is updated.
  mutating func fail(_ index: HopIndex) {
    for record in Int(index)...Int(index) + 1 {
      records[record].neighbour = NeighbourState.failed.rawValue
      records[record].plain = PlainHop.no.rawValue
      records[record].plainMTU = 0
    }
  }

  mutating func remove(_ index: HopIndex) {
    guard hops[Int(index) / 2] != nil else { return }
    hops[Int(index) / 2] = nil
    for record in Int(index)...Int(index) + 1 { records[record].inUse = false }
    free.append(index)
  }

  /// What the control side said of a hop or of one of its records.
  func hop(_ index: HopIndex) -> Hop? { Int(index) / 2 < hops.count ? hops[Int(index) / 2] : nil }

  private mutating func set(_ index: HopIndex, _ hop: Hop, _ serial: UInt32) {
    hops[Int(index) / 2] = hop
    if hop.tunnel != nil { hasTunnels = true }
    records[Int(index)] = HopRecord(hop, inner: .ipv4)
    records[Int(index) + 1] = HopRecord(hop, inner: .ipv6)
    for record in Int(index)...Int(index) + 1 { records[record].serial = serial }
  }
}
