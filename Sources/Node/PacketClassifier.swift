public import Addresses
public import CLinux

/// Which packets that arrive by a device belong to the data plane, and not to the host's own stack (NODE-3). From the
/// one predicate come two classic BPF programs: the filter of the packet socket, which takes what is ours, and the one
/// at the device's ingress, which keeps it from the host.
///
/// Fragments: a later fragment carries no ports, so of a fragmented UDP datagram to one of our ports only the first
/// fragment is ours alone; `takesShared` is for the others. The host then cannot put the datagram together, forgets the rest after its time-out and, without
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
  /// IP protocols of tunnels: 4 (IPIP), 41 (IPv6 in IP), 47 (GRE).
  public var protocols: [UInt8]
  /// Packets to these are ours whatever they carry: pods and services.
  public var destinations: [IPPrefix]
  /// Whether also what both the host and the data plane want to see is taken: ICMP and ICMPv6 errors to local
  /// addresses, which tell of the tunnels' paths (TUN-7), and later fragments of UDP datagrams, which do not tell whose
  /// they are. For the packet socket alone: the host must get them too.
  public var takesShared = false

  /// A classifier for a device that is shared with the host, as the underlay's is.
  public init(
    localAddresses: [IPAddress] = [], udpPorts: [UInt16] = [], protocols: [UInt8] = [],
    destinations: [IPPrefix] = []
  ) {
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
  private static let ethernet = 14

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
    p.place(v4)
    matchIPv4(&p, hit, miss)
    p.place(v6)
    p.load(.u32, .length)
    p.jump(miss, ifLess: 54)
    matchIPv6(&p, hit, miss)
    p.place(miss)
    p.end(with: others)
    p.place(hit)
    p.end(with: ours)
    let result = p.resolved()
    guard result.count <= PacketClassifier.largestProgram else {
      throw NodeError(
        subject: "packet classifier", operation: "make a filter of \(destinations.count) destinations",
        detail: "it has \(result.count) instructions",
        remedy: "the kernel takes \(PacketClassifier.largestProgram): join neighbouring prefixes")
    }
    return result
  }

  /// Leads to `hit` or `miss`.
  private func matchIPv4(_ p: inout FilterProgram, _ hit: FilterProgram.Label, _ miss: FilterProgram.Label) {
    let ip = PacketClassifier.ethernet
    let local = p.label()
    for case .v4(let prefix) in destinations {
      p.load(.u32, .absolute(ip + 16))
      p.and(IPv4Prefix.mask(prefix.length))
      p.jump(hit, ifEqual: prefix.address.rawValue)
    }
    p.load(.u32, .absolute(ip + 16))
    for case .v4(let address) in localAddresses { p.jump(local, ifEqual: address.rawValue) }
    p.jump(miss)
    p.place(local)
    p.load(.u8, .absolute(ip + 9))
    for number in protocols { p.jump(hit, ifEqual: UInt32(number)) }
    let noError = p.label()
    if takesShared {
      p.jump(noError, unlessEqual: 1)
      p.load(.u16, .absolute(ip + 6))
      p.jump(miss, ifAny: 0x1fff)
      p.loadIPv4HeaderLength(at: ip)
      p.load(.u8, .indexed(ip))
      for type: UInt32 in [3, 11, 12] { p.jump(hit, ifEqual: type) }
      p.jump(miss)
    }
    p.place(noError)
    p.jump(miss, unlessEqual: 17)
    p.load(.u16, .absolute(ip + 6))
    p.jump(takesShared ? hit : miss, ifAny: 0x1fff)
    p.loadIPv4HeaderLength(at: ip)
    matchPort(&p, ip, hit, miss)
  }

  /// The UDP header is at `base` plus X.
  private func matchPort(
    _ p: inout FilterProgram, _ base: Int, _ hit: FilterProgram.Label, _ miss: FilterProgram.Label
  ) {
    p.load(.u16, .indexed(base + 2))
    for port in udpPorts { p.jump(hit, ifEqual: UInt32(port)) }
    p.jump(miss)
  }

  private func matchIPv6(_ p: inout FilterProgram, _ hit: FilterProgram.Label, _ miss: FilterProgram.Label) {
    let ip = PacketClassifier.ethernet
    func words(_ address: IPv6Address) -> [UInt32] {
      [address.high >> 32, address.high, address.low >> 32, address.low].map { UInt32(truncatingIfNeeded: $0) }
    }
    /// Goes to `label` where the first `length` bits of the destination are those of `address`.
    func match(_ address: IPv6Address, _ length: Int, _ label: FilterProgram.Label) {
      let differs = p.label()
      for (index, word) in words(address).enumerated() where length > 32 * index {
        p.load(.u32, .absolute(ip + 24 + 4 * index))
        p.and(IPv4Prefix.mask(min(length - 32 * index, 32)))
        p.jump(differs, unlessEqual: word)
      }
      p.jump(label)
      p.place(differs)
    }
    for case .v6(let prefix) in destinations { match(prefix.address, prefix.length, hit) }
    let local = p.label()
    for case .v6(let address) in localAddresses { match(address, 128, local) }
    p.jump(miss)
    p.place(local)

    // A is the next header, X the length of the headers before it. Destination options come before the inner packet of
    // RFC 2473 tunnels (the encapsulation limit), a fragment header anywhere; in this order, each at most once.
    let (noOptions, noFragment, first) = (p.label(), p.label(), p.label())
    p.setX(40)
    p.load(.u8, .absolute(ip + 6))
    p.jump(noOptions, unlessEqual: 60)
    p.load(.u8, .absolute(ip + 41))
    p.add(1)
    p.multiply(8)
    p.add(40)
    p.moveToX()
    p.load(.u8, .absolute(ip + 40))
    p.place(noOptions)
    p.jump(noFragment, unlessEqual: 44)
    p.load(.u8, .indexed(ip))
    p.store(0)
    for number in protocols { p.jump(hit, ifEqual: UInt32(number)) }
    p.load(.u16, .indexed(ip + 2))
    p.and(0xfff8)
    p.jump(first, ifEqual: 0)
    if takesShared {
      p.recall(0)
      p.jump(hit, ifEqual: 17)
    }
    p.jump(miss)
    p.place(first)
    p.recall(0)
    p.jump(miss, unlessEqual: 17)
    matchPort(&p, ip + 8, hit, miss)
    p.place(noFragment)
    for number in protocols { p.jump(hit, ifEqual: UInt32(number)) }
    let noError = p.label()
    if takesShared {
      p.jump(noError, unlessEqual: 58)
      // The types below 128 are errors (RFC 4443, section 2.1).
      p.load(.u8, .indexed(ip))
      p.jump(hit, ifLess: 128)
      p.jump(miss)
    }
    p.place(noError)
    p.jump(miss, unlessEqual: 17)
    matchPort(&p, ip, hit, miss)
  }
}
