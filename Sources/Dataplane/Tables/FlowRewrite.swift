import Addresses

/// Values are as they lie in the packet.
struct FlowRewrite4: FlowRewrite {
  /// Source and destination.
  private var both: UInt64
  var ports: UInt32
  /// For the IPv4 header and pseudo headers.
  var addresses: ChecksumDelta
  /// For the transport header: addresses and ports.
  var transport: ChecksumDelta

  static var none: FlowRewrite4 {
    FlowRewrite4(both: 0, ports: 0, addresses: ChecksumDelta(), transport: ChecksumDelta())
  }

  private init(both: UInt64, ports: UInt32, addresses: ChecksumDelta, transport: ChecksumDelta) {
    self.both = both
    self.ports = ports
    self.addresses = addresses
    self.transport = transport
  }

  @inline(__always)
  init(_ key: FlowKey4, to other: FlowKey4) {
    func words(_ word: UInt64) -> UInt64 { (word & 0xffff_ffff) &+ (word >> 32) }
    both = other.addresses
    ports = other.tail.ports
    let sum = words(~key.addresses) &+ words(other.addresses)
    addresses = ChecksumDelta(sum: sum)
    transport = ChecksumDelta(sum: sum &+ UInt64(~key.tail.ports) &+ UInt64(ports))
  }

  @inline(__always)
  init(undoing rewrite: FlowRewrite4, to key: FlowKey4) {
    self.init(
      both: key.addresses, ports: key.tail.ports, addresses: -rewrite.addresses, transport: -rewrite.transport)
  }

  var source: UInt32 { UInt32(truncatingIfNeeded: both) }
  var destination: UInt32 { UInt32(truncatingIfNeeded: both >> 32) }

  var destinationAddress: IPAddress { .v4(IPv4Address(rawValue: destination.byteSwapped)) }

  static var headerLength: Int { IPv4Header.length }

  @inline(__always)
  static func timeToLive(_ word: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: word >> 32) }
  @inline(__always)
  static func transport(_ word: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: word >> 40) }
  @inline(__always)
  static func dontFragment(_ word: UInt64) -> Bool { word & 0x0040_0000 != 0 }

  @inline(__always)
  func apply(to octets: Octets, _ context: PacketContext, isPartial: Bool) {
    octets[u64Native: 12] = both
    octets.applyChecksum(addresses, at: 10)
    rewriteTransport(octets, context, ports: ports, addresses: addresses, all: transport, isPartial: isPartial)
  }

  func applyToQuoted(_ octets: Octets, transport offset: Int, _ carried: UInt8, isPartial: Bool) {
    octets[u64Native: 12] = both
    octets.applyChecksum(addresses, at: 10)
    rewriteQuoted(octets, offset, carried, ports: ports, addresses: addresses, all: transport, isPartial: isPartial)
  }
}

/// Values are as they lie in the packet.
struct FlowRewrite6: FlowRewrite {
  var source: (UInt64, UInt64)
  var destination: (UInt64, UInt64)
  var ports: UInt32
  var addresses: ChecksumDelta
  var transport: ChecksumDelta

  static var none: FlowRewrite6 {
    FlowRewrite6(source: (0, 0), destination: (0, 0), ports: 0, addresses: ChecksumDelta(), transport: ChecksumDelta())
  }

  private init(
    source: (UInt64, UInt64), destination: (UInt64, UInt64), ports: UInt32, addresses: ChecksumDelta,
    transport: ChecksumDelta
  ) {
    self.source = source
    self.destination = destination
    self.ports = ports
    self.addresses = addresses
    self.transport = transport
  }

  init(undoing rewrite: FlowRewrite6, to key: FlowKey6) {
    self.init(
      source: (key.source0, key.source1), destination: (key.destination0, key.destination1), ports: key.tail.ports,
      addresses: -rewrite.addresses, transport: -rewrite.transport)
  }

  init(_ key: FlowKey6, to other: FlowKey6) {
    source = (other.source0, other.source1)
    destination = (other.destination0, other.destination1)
    ports = other.tail.ports
    addresses =
      ChecksumDelta(replacing: key.source, with: other.source)
      + ChecksumDelta(replacing: key.destination, with: other.destination)
    transport = addresses + ChecksumDelta(replacing: key.tail.ports, with: ports)
  }

  var destinationAddress: IPAddress {
    .v6(IPv6Address(high: destination.0.byteSwapped, low: destination.1.byteSwapped))
  }

  static var headerLength: Int { IPv6Header.length }

  @inline(__always)
  static func timeToLive(_ word: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: word >> 56) }
  @inline(__always)
  static func transport(_ word: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: word >> 48) }
  @inline(__always)
  static func dontFragment(_ word: UInt64) -> Bool { true }

  @inline(__always)
  func apply(to octets: Octets, _ context: PacketContext, isPartial: Bool) {
    octets[u64Native: 8] = source.0
    octets[u64Native: 16] = source.1
    octets[u64Native: 24] = destination.0
    octets[u64Native: 32] = destination.1
    rewriteTransport(octets, context, ports: ports, addresses: addresses, all: transport, isPartial: isPartial)
  }

  func applyToQuoted(_ octets: Octets, transport offset: Int, _ carried: UInt8, isPartial: Bool) {
    octets[u64Native: 8] = source.0
    octets[u64Native: 16] = source.1
    octets[u64Native: 24] = destination.0
    octets[u64Native: 32] = destination.1
    rewriteQuoted(octets, offset, carried, ports: ports, addresses: addresses, all: transport, isPartial: isPartial)
  }
}

/// Writes new ports and mends the transport checksum (RFC 1624). Of a partial checksum only the pseudo header is summed
/// yet; SCTP's covers no addresses but has to be computed anew for the ports.
@inline(__always)
private func rewriteTransport(
  _ octets: Octets, _ context: PacketContext, ports: UInt32, addresses: ChecksumDelta, all: ChecksumDelta,
  isPartial: Bool
) {
  if context.flags.contains(.laterFragment) { return }
  let offset = Int(context.transport)
  switch context.transportProtocol {
  case IPProtocol.tcp.rawValue:
    octets[u32Native: offset] = ports
    if isPartial {
      octets.applyPartialChecksum(addresses, at: offset &+ 16)
    } else {
      octets.applyChecksum(all, at: offset &+ 16)
    }
  case IPProtocol.udp.rawValue:
    octets[u32Native: offset] = ports
    if isPartial {
      octets.applyPartialChecksum(addresses, at: offset &+ 6)
    } else {
      octets.applyUDPChecksum(all, at: offset &+ 6)
    }
  case IPProtocol.sctp.rawValue:
    if octets[u32Native: offset] == ports { return }
    // The CRC covers the whole datagram, so that of a fragment it cannot be mended.
    if isPartial || context.flags.contains(.fragment) {
      octets[u32Native: offset] = ports
    } else {
      rewriteSCTP(octets.dropping(offset), ports)
    }
  case IPProtocol.icmp.rawValue where !context.isIPv6:
    let old = octets[u16Native: offset &+ 4]
    let identifier = UInt16(truncatingIfNeeded: ports)
    octets[u16Native: offset &+ 4] = identifier
    octets.applyChecksum(ChecksumDelta(replacing: old, with: identifier), at: offset &+ 2)
  case IPProtocol.icmpv6.rawValue where context.isIPv6:
    let old = octets[u16Native: offset &+ 4]
    let identifier = UInt16(truncatingIfNeeded: ports)
    octets[u16Native: offset &+ 4] = identifier
    octets.applyChecksum(addresses + ChecksumDelta(replacing: old, with: identifier), at: offset &+ 2)
  default: break
  }
}

/// Writes new ports into an SCTP packet. A checksum that was wrong stays wrong, by as much, so that the receiver sees it;
/// none at all (RFC 9653) stays none.
@inline(never)
private func rewriteSCTP(_ octets: Octets, _ ports: UInt32) {
  guard let header = SCTPHeader(octets) else { return }
  let received = header.checksum
  let difference = received ^ header.computedChecksum
  octets[u32Native: 0] = ports
  if received != 0 || difference == 0 { header.checksum = header.computedChecksum ^ difference }
}

/// The same for a packet of which perhaps only the first octets are there: what is not there is left out. SCTP's checksum
/// covers what is not there and stays.
private func rewriteQuoted(
  _ octets: Octets, _ offset: Int, _ carried: UInt8, ports: UInt32, addresses: ChecksumDelta, all: ChecksumDelta,
  isPartial: Bool
) {
  guard offset + 8 <= octets.count else { return }
  switch carried {
  case IPProtocol.tcp.rawValue:
    octets[u32Native: offset] = ports
    guard offset + 18 <= octets.count else { return }
    if isPartial {
      octets.applyPartialChecksum(addresses, at: offset + 16)
    } else {
      octets.applyChecksum(all, at: offset + 16)
    }
  case IPProtocol.udp.rawValue:
    octets[u32Native: offset] = ports
    if isPartial {
      octets.applyPartialChecksum(addresses, at: offset + 6)
    } else {
      octets.applyUDPChecksum(all, at: offset + 6)
    }
  case IPProtocol.sctp.rawValue: octets[u32Native: offset] = ports
  case IPProtocol.icmp.rawValue, IPProtocol.icmpv6.rawValue:
    let delta = ChecksumDelta(
      replacing: octets[u16Native: offset + 4], with: UInt16(truncatingIfNeeded: ports))
    octets[u16Native: offset + 4] = UInt16(truncatingIfNeeded: ports)
    octets.applyChecksum(carried == IPProtocol.icmpv6.rawValue ? addresses + delta : delta, at: offset + 2)
  default: break
  }
}
