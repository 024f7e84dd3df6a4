import Addresses

/// What tells the fragments of one datagram from those of another: RFC 791, section 3.2; RFC 8200, section 4.5.
struct ReassemblyKey: Hashable, BitwiseCopyable {
  var source: IPv6Address
  var destination: IPv6Address
  var identification: UInt32
  /// The protocol of an IPv4 packet; 0 for IPv6, whose first fragment alone counts.
  var `protocol`: UInt8
  var isIPv4: Bool
}

/// A fragment as the reassembler sees it.
struct FragmentPiece: BitwiseCopyable {
  var key: ReassemblyKey
  /// Link-layer header, IP header and (IPv6) the extension headers before the fragment header, from the packet's start.
  var headerLength: Int
  /// Where the fragment's own octets start, from the packet's start.
  var payload: Int
  /// How many these are.
  var length: Int
  /// Where they belong in the datagram.
  var offset: Int
  var more: Bool
  var ecn: ECN
  /// Where the field is that named the fragment header, from the packet's start, and what is to stand there. IPv6 only.
  var nextHeaderOffset = 0
  var nextHeader = IPProtocol.noNextHeader

  var end: Int { offset + length }

  /// Reads the fragment whose IP header is at `network`.
  static func read(_ octets: Octets, network: Int) -> Result<FragmentPiece, Reassembler.Refusal> {
    guard network >= 0, network <= octets.count else { return .failure(.malformed) }
    let packet = octets.dropping(network)
    var piece: FragmentPiece
    let firstIsTiny: Bool
    if let header = IPv4Header(packet) {
      guard header.hasValidLength else { return .failure(.malformed) }
      guard header.isFragment else { return .failure(.notAFragment) }
      let key = ReassemblyKey(
        source: IPv6Address(high: 0, low: UInt64(header.source.rawValue)),
        destination: IPv6Address(high: 0, low: UInt64(header.destination.rawValue)),
        identification: UInt32(header.identification), protocol: header.protocol.rawValue, isIPv4: true)
      piece = FragmentPiece(
        key: key, headerLength: network + header.headerLength, payload: network + header.headerLength,
        length: header.totalLength - header.headerLength, offset: header.fragmentOffset, more: header.moreFragments,
        ecn: header.ecn)
      firstIsTiny = header.protocol == .tcp && piece.length < TCPHeader.length
    } else if let header = IPv6Header(packet) {
      guard header.hasValidLength else { return .failure(.malformed) }
      let upper = header.upperLayer
      guard upper.fragmentHeaderOffset != 0 else { return .failure(.notAFragment) }
      guard upper.outcome != .misplaced, upper.isFragment else {
        return .failure(upper.isFragment ? .malformed : .notAFragment)
      }
      let fragment = upper.fragmentHeaderOffset
      let key = ReassemblyKey(
        source: header.source, destination: header.destination, identification: packet[u32: fragment + 4],
        protocol: 0, isIPv4: false)
      piece = FragmentPiece(
        key: key, headerLength: network + fragment, payload: network + fragment + 8,
        length: 40 + header.payloadLength - fragment - 8, offset: upper.fragmentOffset, more: upper.moreFragments,
        ecn: header.ecn, nextHeaderOffset: network + upper.fragmentNextHeaderOffset,
        nextHeader: IPProtocol(rawValue: packet[fragment]))
      // The first fragment holds all headers up to the transport's (RFC 8200, section 4.5; RFC 7112).
      let rest = 40 + header.payloadLength - upper.offset
      firstIsTiny =
        upper.outcome != .found || upper.protocol == .tcp && rest < TCPHeader.length
        || upper.protocol == .udp && rest < UDPHeader.length
    } else {
      return .failure(.malformed)
    }
    guard piece.length > 0, !piece.more || piece.length % 8 == 0 else { return .failure(.malformed) }
    // Only the first fragment shows its transport to whoever filters (RFC 1858).
    guard piece.offset != 0 || !firstIsTiny else { return .failure(.tinyFragment) }
    guard piece.end <= 65535 else { return .failure(.tooLong) }
    return .success(piece)
  }
}

/// A datagram of which fragments have come.
struct ReassemblyContext: BitwiseCopyable {
  enum State: UInt8 {
    case free
    case collecting
    /// The datagram was refused: its other fragments are refused as well until the time is up (RFC 5722).
    case refused
    /// Handed out; free at the next call.
    case delivered
  }

  var state = State.free
  var key = ReassemblyKey(source: .any, destination: .any, identification: 0, protocol: 0, isIPv4: true)
  var deadline: UInt64 = 0
  /// The octets of the datagram's payload, once the last fragment has come.
  var total: Int?
  /// The octets that have come.
  var received = 0
  var ranges = 0
  /// The headers of the first fragment, once it has come.
  var headerLength: Int?
  var network = 0
  var nextHeaderOffset = 0
  var nextHeader = IPProtocol.noNextHeader
  /// Bit n is set when a fragment came with ECN n.
  var ecn: UInt8 = 0
  /// The frame of the first fragment, for what a port knows of it.
  var timestamp: UInt64 = 0
  var port = PortIndex.none
  var vlanTPID: UInt16 = 0
  var vlanTCI: UInt16 = 0
  var flags: FrameFlags = []
  var slot: UInt32 = 0

  var isComplete: Bool { headerLength != nil && total == received }
}
