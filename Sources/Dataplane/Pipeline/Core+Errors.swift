import Addresses

/// An ICMP error in both families' numbers.
struct ErrorMessage {
  var type4: ICMPv4Header.MessageType
  var code4: UInt8
  var type6: ICMPv6Header.MessageType
  var code6: UInt8
  /// The MTU of "too big".
  var mtu: UInt32 = 0

  static var timeExceeded: ErrorMessage {
    ErrorMessage(type4: .timeExceeded, code4: 0, type6: .timeExceeded, code6: 0)
  }
  static var noRoute: ErrorMessage {
    ErrorMessage(
      type4: .destinationUnreachable, code4: ICMPv4Header.Unreachable.net, type6: .destinationUnreachable,
      code6: ICMPv6Header.Unreachable.noRoute)
  }
  static var hostUnreachable: ErrorMessage {
    ErrorMessage(
      type4: .destinationUnreachable, code4: ICMPv4Header.Unreachable.host, type6: .destinationUnreachable,
      code6: ICMPv6Header.Unreachable.address)
  }
  static var portUnreachable: ErrorMessage {
    ErrorMessage(
      type4: .destinationUnreachable, code4: ICMPv4Header.Unreachable.port, type6: .destinationUnreachable,
      code6: ICMPv6Header.Unreachable.port)
  }
  static func tooBig(_ mtu: UInt32) -> ErrorMessage {
    ErrorMessage(
      type4: .destinationUnreachable, code4: ICMPv4Header.Unreachable.fragmentationNeeded, type6: .packetTooBig,
      code6: 0, mtu: mtu)
  }
}

extension Core {
  /// Drops a packet and tells its sender why, where the reason is one that senders are told.
  @inline(never)
  mutating func reject(_ index: Int, _ reason: DropReason, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    drop(index, reason, batch)
    switch reason {
    case .noRoute: sendError(.noRoute, about: index, &batch, tables)
    case .hostUnreachable, .neighbourUnreachable: sendError(.hostUnreachable, about: index, &batch, tables)
    default: break
    }
  }

  /// Drops a first packet and tells its sender that nobody listens: by a TCP reset, or an ICMP port unreachable (KP-30).
  @inline(never)
  mutating func refuse(_ index: Int, _ reason: DropReason, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    drop(index, reason, batch)
    if contexts[index].transportProtocol == IPProtocol.tcp.rawValue {
      sendReset(index, &batch, tables)
    } else {
      sendError(.portUnreachable, about: index, &batch, tables)
    }
  }

  /// Turns a TCP segment into the reset that answers it (RFC 9293, section 3.10.7.1). Never answers a reset.
  private mutating func sendReset(_ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let context = contexts[index]
    guard context.flags.isDisjoint(with: [.laterFragment, .linkGroup]), context.tcpFlags & 0x04 == 0 else { return }
    guard errorBudget.take() else { return drop(index, .icmpRateLimited, batch) }
    var frame = batch[index]
    let octets = frame.octets
    let transport = Int(context.transport)
    guard let tcp = TCPHeader(octets.dropping(transport)) else { return }
    // What the segment occupies of the sequence space.
    let payload = Int(context.length) - transport - tcp.headerLength
    let occupied = max(0, payload) + (tcp.flags.contains(.syn) ? 1 : 0) + (tcp.flags.contains(.fin) ? 1 : 0)
    let isAcknowledging = tcp.flags.contains(.ack)
    let sequence = isAcknowledging ? tcp.acknowledgmentNumber : 0
    let acknowledgment = isAcknowledging ? 0 : tcp.sequenceNumber &+ UInt32(truncatingIfNeeded: occupied)
    let ports = (tcp.sourcePort, tcp.destinationPort)
    let network = context.isIPv6 ? IPv6Header.length : IPv4Header.length
    frame.flags.subtract([.checksumPartial, .truncated])
    frame.segmentation = .none
    let destination: IPAddress
    var sum: InternetChecksum
    if let header = IPv6Header(octets) {
      let (source, target) = (header.source, header.destination)
      frame.setLength(network + TCPHeader.length)
      IPv6Header.write(
        to: frame.octets, payloadLength: TCPHeader.length, nextHeader: .tcp, source: target, destination: source)
      destination = .v6(source)
      sum = IPv6Header(frame.octets)?.pseudoHeader(.tcp, length: TCPHeader.length) ?? InternetChecksum()
    } else if let header = IPv4Header(octets) {
      let (source, target) = (header.source, header.destination)
      frame.setLength(network + TCPHeader.length)
      IPv4Header.write(
        to: frame.octets, totalLength: network + TCPHeader.length, dontFragment: true, protocol: .tcp, source: target,
        destination: source)
      destination = .v4(source)
      sum = IPv4Header(frame.octets)?.pseudoHeader(length: TCPHeader.length) ?? InternetChecksum()
    } else {
      return
    }
    let reset = frame.octets.dropping(network)
    TCPHeader.write(
      to: reset, sourcePort: ports.1, destinationPort: ports.0, sequenceNumber: sequence,
      acknowledgmentNumber: acknowledgment, flags: isAcknowledging ? .rst : [.rst, .ack], window: 0)
    sum.add(reset)
    reset[u16Native: 16] = sum.complement
    batch[index] = frame
    record(.resetSent)
    originate(index, to: destination, isError: true, &batch, tables)
  }

  @inline(never)
  mutating func timeExceeded(_ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables) {
    drop(index, .hopLimit, batch)
    sendError(.timeExceeded, about: index, &batch, tables)
  }

  /// A packet that the hop cannot carry: cut into fragments where that is allowed, else reported (NODE-6).
  @inline(never)
  mutating func tooBig(
    _ index: Int, _ hop: HopIndex, mtu: UInt32, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    if !contexts[index].flags.contains(.dontFragment) {
      return fragment(index, hop, mtu: mtu, &batch, tables)
    }
    drop(index, .tooBig, batch)
    sendError(.tooBig(mtu), about: index, &batch, tables)
  }

  /// Turns the frame of a dropped packet, whose network-layer header is its start, into an error message to the packet's
  /// sender (RFC 792, RFC 1812, RFC 4443; TUN-7): not about errors, later fragments, or what was sent to groups; at most
  /// 576 octets for IPv4 and 1280 for IPv6; rate limited.
  mutating func sendError(
    _ message: ErrorMessage, about index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    let context = contexts[index]
    guard context.flags.isDisjoint(with: [.icmpError, .laterFragment, .linkGroup, .originated]) else { return }
    var frame = batch[index]
    frame.becomeOwn()
    let destination: IPAddress
    let length: Int
    if context.isIPv6 {
      guard let source = tables.settings.icmpSource6, let header = IPv6Header(frame.octets),
        header.source.isValidSource, !header.source.isLinkLocal
      else { return }
      guard errorBudget.take() else { return drop(index, .icmpRateLimited, batch) }
      destination = .v6(header.source)
      frame.setLength(min(Int(frame.length), 1280 - 48))
      guard frame.headroom >= 48 + HopRecord.templateSize else { return }
      frame.push(48)
      length = Int(frame.length)
      let octets = frame.octets
      IPv6Header.write(
        to: octets, payloadLength: length - 40, nextHeader: .icmpv6, source: source,
        destination: IPv6Header(octets.dropping(48))?.source ?? .any)
      let icmp = octets.dropping(40)
      ICMPv6Header.write(to: icmp, type: message.type6, code: message.code6, rest: message.mtu)
      if let header = IPv6Header(octets) {
        ICMPv6Header(icmp)?.updateChecksum(header.pseudoHeader(.icmpv6, length: length - 40))
      }
      record(.errorSent(type: message.type6.rawValue, code: message.code6))
    } else {
      guard let source = tables.settings.icmpSource4, let header = IPv4Header(frame.octets),
        header.source.isValidSource
      else { return }
      guard errorBudget.take() else { return drop(index, .icmpRateLimited, batch) }
      destination = .v4(header.source)
      frame.setLength(min(Int(frame.length), 576 - 28))
      guard frame.headroom >= 28 + HopRecord.templateSize else { return }
      frame.push(28)
      length = Int(frame.length)
      let octets = frame.octets
      // Precedence "internetwork control" (RFC 1812, section 4.3.2.5).
      IPv4Header.write(
        to: octets, typeOfService: 0xc0, totalLength: length, protocol: .icmp, source: source,
        destination: IPv4Header(octets.dropping(28))?.source ?? .any)
      let icmp = octets.dropping(20)
      ICMPv4Header.write(to: icmp, type: message.type4, code: message.code4, rest: message.mtu)
      ICMPv4Header(icmp)?.updateChecksum()
      record(.errorSent(type: message.type4.rawValue, code: message.code4))
    }
    batch[index] = frame
    originate(index, to: destination, isError: true, &batch, tables)
  }

  /// Sends a packet that was made here, whose network-layer header is the frame's start.
  mutating func originate(
    _ index: Int, to destination: IPAddress, isError: Bool, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    let frame = batch[index]
    let isIPv6 = destination.family == .ipv6
    var context = PacketContext()
    context.length = frame.length
    context.transport = UInt16(isIPv6 ? IPv6Header.length : IPv4Header.length)
    context.transportProtocol = frame.octets[isIPv6 ? 6 : 9]
    context.timeToLive = 64
    context.trafficClass = isIPv6 ? 0 : frame.octets[1]
    context.flags = isIPv6 ? [.ipv6, .originated, .dontFragment] : [.originated]
    if isError { context.flags.insert(.icmpError) }
    context.hash = mix(destination.word, 0)
    contexts[index] = context
    let route = tables.routes.lookup(destination)
    let action = tables.routes.records[Int(route)].action
    guard route != 0, action == RouteAction.forward.rawValue || action == RouteAction.local.rawValue else {
      return drop(index, .noRoute, batch)
    }
    let hop = tables.routes.hop(of: route, hash: context.hash)
    guard hop != 0 else { return drop(index, .noRoute, batch) }
    emit(index, HopTable.index(hop, isIPv6: isIPv6), &batch, tables)
  }
}

extension Frame {
  /// An answer was written over the packet: what the port said of it, that its checksum is unfinished or that it is a
  /// super-frame, is not true of the answer.
  mutating func becomeOwn() {
    flags.subtract([.checksumPartial, .checksumVerified, .truncated])
    segmentation = .none
    segmentSize = 0
  }
}
