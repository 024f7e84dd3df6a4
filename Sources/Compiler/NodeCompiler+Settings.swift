import Addresses
import Dataplane
import Model

extension NodeCompiler {
  /// What the packet path has to know of the configuration.
  func packetSettings() -> Settings {
    var packet = Settings()
    packet.vxlanPort = settings.vxlanPort
    packet.vxlanVNI = settings.vxlanVNI
    packet.genevePort = settings.genevePort
    packet.geneveVNI = settings.geneveVNI
    packet.greKey = settings.greKey
    packet.vtepMAC = ownNode?.tunnelMAC ?? MACAddress(derivedFrom: node.name)
    packet.icmpSource4 = ownAddress(.ipv4)?.v4 ?? PodAttachment.gateway4
    packet.icmpSource6 = ownAddress(.ipv6)?.v6
    packet.clusterCIDRs = settings.clusterCIDRs
    packet.masqueradeAll = settings.masqueradeAll
    let pools = state.ipPools.values.sorted { $0.name < $1.name }
    // Where there are no pools, pods' addresses are those of the cluster.
    packet.poolBlocks = pools.isEmpty ? settings.clusterCIDRs : pools.map(\.cidr)
    packet.natOutgoingBlocks = pools.filter(\.natOutgoing).map(\.cidr)
    packet.tcpBeLiberal = settings.tcpBeLiberal
    packet.nodeAddress4 = ownAddress(.ipv4)?.v4
    packet.nodeAddress6 = ownAddress(.ipv6)?.v6
    packet.icmpErrorRate = settings.icmpErrorRate
    packet.icmpErrorBurst = settings.icmpErrorBurst
    packet.pathMTULifetime = seconds(settings.pathMTUTimeout)
    packet.fragmentLifetime = seconds(settings.fragmentTimeout)
    packet.uniformDSCP = settings.dscpMode == .uniform
    packet.uniformTTL = settings.ttlMode == .uniform
    packet.timeouts.tcpEstablished = seconds(settings.flowTimeouts.tcpEstablished)
    packet.timeouts.tcpTransient = seconds(settings.flowTimeouts.tcpTransient)
    packet.timeouts.udp = seconds(settings.flowTimeouts.udp)
    packet.timeouts.sctp = seconds(settings.flowTimeouts.sctp)
    packet.timeouts.icmp = seconds(settings.flowTimeouts.icmp)
    packet.timeouts.other = seconds(settings.flowTimeouts.other)
    return packet
  }

  /// Whole seconds, at least one.
  private func seconds(_ duration: Duration) -> UInt32 { UInt32(clamping: max(duration.components.seconds, 1)) }

  /// The addresses that NodePorts are served on (KP-23): a family that the configuration does not speak of has all.
  func nodePortAddresses(of local: Set<IPAddress>) -> Set<IPAddress> {
    // KP-24
    let candidates = settings.localhostNodePorts ? local.union([NodeCompiler.localhost]) : local
    switch settings.nodePortAddresses {
    case .all: return candidates
    case .primary: return Set(IPFamily.allCases.compactMap { ownAddress($0) })
    case .blocks(let blocks):
      return candidates.filter { address in
        let own = blocks.filter { $0.family == address.family }
        return own.isEmpty || own.contains { $0.contains(address) }
      }
    }
  }

  static var localhost: IPAddress { .v4(IPv4Address(127, 0, 0, 1)) }

  /// Fills in what the configuration says about tunnels.
  func configure(_ tunnel: inout Tunnel, peer: Node) {
    if settings.dscpMode == .pipe {
      tunnel.options.insert(.pipeDSCP)
      tunnel.dscp = settings.dscp
    }
    if settings.ttlMode == .uniform { tunnel.options.insert(.uniformTTL) }
    tunnel.timeToLive = settings.ttl
    switch tunnel.encapsulation {
    case .none, .ipip: break
    case .gre:
      if let key = settings.greKey {
        tunnel.identifier = key
        tunnel.options.insert(.greKey)
      }
      if settings.greChecksum { tunnel.options.insert(.greChecksum) }
      if settings.greSequence { tunnel.options.insert(.greSequence) }
    case .vxlan, .geneve:
      let isVXLAN = tunnel.encapsulation == .vxlan
      tunnel.port = isVXLAN ? settings.vxlanPort : settings.genevePort
      tunnel.identifier = isVXLAN ? settings.vxlanVNI : settings.geneveVNI
      if settings.udpTunnelChecksum(over: tunnel.local.family) { tunnel.options.insert(.udpChecksum) }
      tunnel.innerSource = ownNode?.tunnelMAC ?? MACAddress(derivedFrom: node.name)
      tunnel.innerDestination = peer.tunnelMAC
    }
  }

  /// The largest packet of the underlay: the configured one, where it is smaller than the link's.
  func linkMTU(_ underlay: Underlay) -> Int { min(settings.mtu ?? underlay.mtu, underlay.mtu) }

  /// The MTU of pods: what every tunnel in use leaves of the underlay's (NODE-6).
  public var podMTU: Int {
    guard let underlay else { return settings.mtu ?? 1500 }
    let overheads = IPFamily.allCases.filter { ownAddress($0) != nil }.flatMap { family -> [Int] in
      if let wanted = settings.tunnelIPFamily, wanted != family { return [] }
      // Where a family is only the second choice, no tunnel uses it.
      if settings.tunnelIPFamily == nil, family == .ipv6, ownAddress(.ipv4) != nil, allNodesHave(.ipv4) { return [] }
      return encapsulations.map { encapsulation in
        let any: IPAddress = family == .ipv4 ? .v4(.any) : .v6(.any)
        var tunnel = Tunnel(encapsulation, local: any, remote: any)
        configure(&tunnel, peer: Node(metadata: ObjectMetadata(name: "any")))
        return tunnel.overhead
      }
    }
    return linkMTU(underlay) - (overheads.max() ?? 0)
  }

  private func allNodesHave(_ family: IPFamily) -> Bool { state.nodes.values.allSatisfy { $0.address(family) != nil } }
}

extension Encapsulation {
  init(_ tunnel: IPPool.Tunnel) {
    switch tunnel {
    case .ipip: self = .ipip
    case .vxlan: self = .vxlan
    case .gre: self = .gre
    case .geneve: self = .geneve
    }
  }
}
