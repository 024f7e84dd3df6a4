/// Why a packet was not sent on. Each has a counter per port, and a sample is kept.
public enum DropReason: UInt8, CaseIterable, Sendable {
  // What cannot be read.
  case truncatedFrame
  case badEthernet
  case badARP
  case badIPv4Header
  case badIPv4Checksum
  case badIPv6Header
  case badExtensionHeader
  case badTransport
  case captureTruncated

  // What is not for this node.
  case notOurMAC
  case unknownVLAN
  case unknownEtherType
  case multicast

  // What may not pass.
  case sourceAddress
  case sourceMAC
  case invalidSource
  case invalidDestination
  case sourceRoute
  case tunnelFromPod
  case transit
  case leftToHost

  // Tunnels.
  case unknownPeer
  case tunnelNotEnabled
  case badTunnelHeader
  case badTunnelChecksum
  case unknownVNI
  case unknownOption
  case ecnCongestion
  case tunnelLoop
  case innerProtocol

  // Routes and neighbours.
  case noRoute
  case blackhole
  case hostUnreachable
  case hopLimit
  case tooBig
  case neighbourPending
  case neighbourUnreachable
  case hairpin
  case noHostPort

  // Services.
  case noEndpoint
  case noLocalEndpoint
  case noServicePort
  case noService
  case sourceRange
  case noFreePort
  case unknownMasquerade
  case flowTableFull
  case tcpNoSYN

  // Policy.
  case policyEgress
  case policyIngress

  // Fragments.
  case fragmentOverlap
  case fragmentInvalid
  case fragmentNoFirst
  case reassemblyTimeout
  case reassemblyFull

  // Address resolution and control messages that end here.
  case arpIgnored
  case ndpIgnored
  case icmpIgnored
  case icmpRateLimited

  // The way out.
  case portDown
  case transmitFull
  case cannotSegment
  case noHeadroom
  case bandwidth
}

extension DropReason {
  /// The name that programs read: the same in every version.
  public var name: String { "\(self)" }

  /// The reason in words, for people.
  public var explanation: String {
    switch self {
    case .truncatedFrame: "shorter than its link-layer header"
    case .badEthernet: "an Ethernet header that makes no sense"
    case .badARP: "an ARP packet that makes no sense"
    case .badIPv4Header: "an IPv4 header whose version or lengths are wrong"
    case .badIPv4Checksum: "a wrong IPv4 header checksum"
    case .badIPv6Header: "an IPv6 header whose version or lengths are wrong"
    case .badExtensionHeader: "IPv6 extension headers that do not end or make no sense"
    case .badTransport: "shorter than its transport header"
    case .captureTruncated: "the capture holds only a part of the packet"
    case .notOurMAC: "sent to the Ethernet address of another station"
    case .unknownVLAN: "a VLAN that the port does not belong to"
    case .unknownEtherType: "neither IP nor ARP"
    case .multicast: "multicast or broadcast, which is not routed"
    case .sourceAddress: "a source address that the pod does not have"
    case .sourceMAC: "a source Ethernet address that the pod does not have"
    case .invalidSource: "a source address that no packet may carry"
    case .invalidDestination: "a destination address that is not routed"
    case .sourceRoute: "an IPv4 source route"
    case .tunnelFromPod: "a tunnel packet out of a pod"
    case .transit: "from the underlay and not for this node"
    case .leftToHost: "for the host itself, whose kernel has its own copy"
    case .unknownPeer: "a tunnel packet from an address that is no node's"
    case .tunnelNotEnabled: "a tunnel protocol that is not used with this peer"
    case .badTunnelHeader: "a tunnel header that makes no sense"
    case .badTunnelChecksum: "a wrong checksum in a tunnel header"
    case .unknownVNI: "a virtual network or key that is not ours"
    case .unknownOption: "a critical tunnel option that is not known"
    case .ecnCongestion: "congestion marked outside on a packet that cannot carry the mark"
    case .tunnelLoop: "a packet that would go round in the tunnel"
    case .innerProtocol: "something other than IP inside a tunnel"
    case .noRoute: "no route to the destination"
    case .blackhole: "an address of this node's block that no pod has"
    case .hostUnreachable: "a route that says unreachable"
    case .hopLimit: "the TTL or hop limit ran out"
    case .tooBig: "bigger than the way out can carry; the sender was told"
    case .neighbourPending: "too many packets wait for a neighbour's Ethernet address"
    case .neighbourUnreachable: "the neighbour did not answer"
    case .hairpin: "would go back to where it came from"
    case .noHostPort: "for the host itself, which has no port here"
    case .noEndpoint: "a service without an endpoint that could answer"
    case .noLocalEndpoint: "a service without an endpoint on this node, where only those count"
    case .noServicePort: "a port that the service does not have"
    case .noService: "a cluster IP that no service has"
    case .sourceRange: "a client outside of the load balancer's source ranges"
    case .noFreePort: "no port left to masquerade with"
    case .unknownMasquerade: "an answer to a masqueraded connection that is not known any more"
    case .flowTableFull: "no room to remember a translation"
    case .tcpNoSYN: "a TCP segment of a connection whose beginning was not seen"
    case .policyEgress: "no policy lets the source send this"
    case .policyIngress: "no policy lets the destination receive this"
    case .fragmentOverlap: "a fragment that overlaps another"
    case .fragmentInvalid: "a fragment with an impossible offset or length"
    case .fragmentNoFirst: "a fragment whose first one did not come"
    case .reassemblyTimeout: "fragments whose rest did not come in time"
    case .reassemblyFull: "too many packets in reassembly"
    case .arpIgnored: "an ARP packet that wants no answer from here"
    case .ndpIgnored: "a neighbour discovery message that wants no answer from here"
    case .icmpIgnored: "a control message that wants nothing from here"
    case .icmpRateLimited: "an error message held back by the rate limit"
    case .portDown: "the port out is down"
    case .transmitFull: "the port out could not take it"
    case .cannotSegment: "a super-frame that cannot be cut"
    case .noHeadroom: "no room for the headers"
    case .bandwidth: "more than the pod's bandwidth lets pass"
    }
  }
}
