/// Where the headers of a frame lie that change from segment to segment, as offsets from the start of the packet.
///
/// A plain frame has a network and a transport header. In front of them tunnels may have pushed an outer IP header and,
/// behind that, UDP (for VXLAN and Geneve) or GRE; what else lies between (Ethernet, VXLAN, Geneve) is the same in every
/// segment.
@frozen
public struct HeaderLayout: BitwiseCopyable, Hashable, Sendable {
  /// The outer IP header; nil without tunnel.
  public var outerNetwork: Int? { outer == HeaderLayout.absent ? nil : Int(outer) }
  /// The outer UDP header.
  public var outerUDP: Int? { udp == HeaderLayout.absent ? nil : Int(udp) }
  /// The GRE header.
  public var gre: Int? { greHeader == HeaderLayout.absent ? nil : Int(greHeader) }
  /// The IP header of the packet that is cut.
  public private(set) var network: Int
  /// Its TCP or UDP header.
  public private(set) var transport: Int
  /// Where its payload starts: the end of all headers.
  public private(set) var payload: Int

  // Int32 keeps the value in half the room of optionals.
  var outer: Int32
  var udp: Int32
  var greHeader: Int32

  static var absent: Int32 { -1 }

  /// The layout of a frame without tunnel.
  public init(network: Int, transport: Int, payload: Int) {
    self.network = network
    self.transport = transport
    self.payload = payload
    outer = HeaderLayout.absent
    udp = HeaderLayout.absent
    greHeader = HeaderLayout.absent
  }

  /// The layout of an Ethernet frame that carries TCP or UDP over IP, not fragmented; nil for any other.
  public init?(ethernet octets: Octets) {
    guard let ethernet = EthernetHeader(octets) else { return nil }
    self.init(octets, network: ethernet.headerLength)
  }

  /// The layout of a packet whose IP header is at `network`; nil where it carries neither TCP nor UDP, or is a fragment.
  public init?(_ octets: Octets, network: Int) {
    guard network >= 0, network < octets.count else { return nil }
    let transport: Int
    let carried: IPProtocol
    if let header = IPv4Header(octets.dropping(network)) {
      guard !header.isFragment else { return nil }
      transport = network + header.headerLength
      carried = header.protocol
    } else if let header = IPv6Header(octets.dropping(network)) {
      let upper = header.upperLayer
      guard upper.outcome == .found, !upper.isFragment else { return nil }
      transport = network + upper.offset
      carried = upper.protocol
    } else {
      return nil
    }
    switch carried {
    case .tcp:
      guard let tcp = TCPHeader(octets.dropping(transport)) else { return nil }
      self.init(network: network, transport: transport, payload: transport + tcp.headerLength)
    case .udp:
      guard octets.count - transport >= UDPHeader.length else { return nil }
      self.init(network: network, transport: transport, payload: transport + UDPHeader.length)
    default:
      return nil
    }
  }

  /// The packet's start moved: `count` octets were pushed before it, or pulled off where negative.
  public mutating func shift(by count: Int) {
    network += count
    transport += count
    payload += count
    if outer != HeaderLayout.absent { outer += Int32(truncatingIfNeeded: count) }
    if udp != HeaderLayout.absent { udp += Int32(truncatingIfNeeded: count) }
    if greHeader != HeaderLayout.absent { greHeader += Int32(truncatingIfNeeded: count) }
  }

  /// A tunnel's headers were put before the packet: its start moved by `count` octets (negative where a link-layer header
  /// was pulled off first and that was longer), and the outer headers are at the offsets given.
  public mutating func encapsulate(shift count: Int, outerNetwork: Int, outerUDP: Int? = nil, gre: Int? = nil) {
    shift(by: count)
    outer = Int32(truncatingIfNeeded: outerNetwork)
    udp = outerUDP.map { Int32(truncatingIfNeeded: $0) } ?? HeaderLayout.absent
    greHeader = gre.map { Int32(truncatingIfNeeded: $0) } ?? HeaderLayout.absent
  }
}
