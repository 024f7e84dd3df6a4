public import Addresses
public import CLinux

/// Which packets that arrive by a device belong to the data plane, and not to the host's own stack (NODE-3). From the
/// one predicate come two classic BPF programs: the filter of the packet socket, which takes what is ours, and the one
/// at the device's ingress, which keeps it from the host.
///
/// Fragments: a later fragment carries no ports, so of a fragmented UDP datagram to one of our ports only the first
/// fragment is ours alone, and likewise for other protocols with ports; `takesShared` is for the others. The host then cannot put the datagram together, forgets the rest after its time-out and, without
/// the first fragment, answers nothing (RFC 792, RFC 4443 section 3.3). Protocols and destinations are known from every
/// fragment.
///
/// VLANs: the programs see frames without their outermost tag. A frame with a VLAN id belongs to another network than
/// the device's own and is not ours; id 0, a bare priority, makes no difference.
public struct PacketClassifier: Sendable, Hashable {
  /// The largest number of instructions that the kernel takes (BPF_MAXINSNS).
  public static let largestProgram = 4096

  /// Everything, whatever it is: for devices that belong to the data plane alone, as those of pods do.
  public static let everything: PacketClassifier = {
    var classifier = PacketClassifier()
    classifier.takesAll = true
    return classifier
  }()

  private var takesAll = false
  /// The addresses that tunnels end at. UDP ports and protocols count for packets to these alone.
  public var localAddresses: [IPAddress]
  /// UDP ports of tunnels: 4789 for VXLAN, 6081 for Geneve.
  public var udpPorts: [UInt16]
  /// Ports of the host's addresses that are the data plane's: NodePorts, services at the host's own addresses, and what
  /// masqueraded connections come from.
  public var doors: [Door]
  /// IP protocols of tunnels: 4 (IPIP), 41 (IPv6 in IP), 47 (GRE).
  public var protocols: [UInt8]
  /// Packets to these are ours whatever they carry: pods and services.
  public var destinations: [IPPrefix]
  /// Whether also what both the host and the data plane want to see is taken: ICMP and ICMPv6 errors to local
  /// addresses, which tell of the tunnels' paths (TUN-7) and of translated packets, and later fragments, which do not
  /// tell whose they are. For the packet socket alone: the host must get them too.
  public var takesShared = false
  /// Whether answers to ICMP queries are shared as well: the query may have been a pod's (NODE-8). The host says nothing
  /// to an answer that it has not asked for.
  public var takesQueryReplies = false

  /// Ports of a transport protocol at some of the host's addresses.
  public struct Door: Sendable, Hashable {
    public var addresses: [IPAddress]
    /// 6 for TCP, 17 for UDP, 132 for SCTP.
    public var transport: UInt8
    public var ports: [ClosedRange<UInt16>]

    public init(_ addresses: [IPAddress], transport: UInt8, ports: [ClosedRange<UInt16>]) {
      self.addresses = addresses
      self.transport = transport
      self.ports = ports
    }
  }

  /// A classifier for a device that is shared with the host, as the underlay's is.
  public init(
    localAddresses: [IPAddress] = [], udpPorts: [UInt16] = [], protocols: [UInt8] = [],
    destinations: [IPPrefix] = [], doors: [Door] = []
  ) {
    self.doors = doors
    self.localAddresses = localAddresses
    self.udpPorts = udpPorts
    self.protocols = protocols
    self.destinations = destinations
  }

  /// For SO_ATTACH_FILTER: everything of what is ours, nothing else.
  public func socketFilter() throws(NodeError) -> [sock_filter] { try program(ours: .max, others: 0) }

  /// For a `bpf` filter in direct action at a device's ingress: what is ours is dropped (TC_ACT_SHOT), of everything
  /// else other filters decide (TC_ACT_UNSPEC).
  public func ingressFilter() throws(NodeError) -> [sock_filter] { try program(ours: 2, others: .max) }

  private static let vlanTag = 44
  static let ethernet = 14

  private func program(ours: UInt32, others: UInt32) throws(NodeError) -> [sock_filter] {
    var p = FilterProgram()
    if takesAll {
      p.end(with: ours)
      return p.resolved()
    }
    let (hit, miss) = (p.label(), p.label())
    let (v4, v6) = (p.label(), p.label())
    p.load(.u32, .ancillary(PacketClassifier.vlanTag))
    p.and(0x0fff)
    p.jump(miss, unlessEqual: 0)
    // Too short for the headers that are read below: the program would end with 0, which must not mean anything.
    p.load(.u32, .length)
    p.jump(miss, ifLess: 34)
    p.load(.u16, .absolute(12))
    p.jump(v4, ifEqual: 0x0800)
    p.jump(v6, ifEqual: 0x86dd)
    p.jump(miss)
    var tables: [PortTable] = []
    p.place(v4)
    matchIPv4(&p, &tables, hit, miss)
    p.place(v6)
    p.load(.u32, .length)
    p.jump(miss, ifLess: 54)
    matchIPv6(&p, &tables, hit, miss)
    for table in tables { matchPorts(&p, table, hit, miss) }
    p.place(miss)
    p.end(with: others)
    p.place(hit)
    p.end(with: ours)
    let result = p.resolved()
    guard result.count <= PacketClassifier.largestProgram else {
      throw NodeError(
        subject: "packet classifier",
        operation: "make a filter of \(destinations.count) destinations and \(doors.count) groups of ports",
        detail: "it has \(result.count) instructions",
        remedy: "the kernel takes \(PacketClassifier.largestProgram): join neighbouring prefixes and ports")
    }
    return result
  }
}
