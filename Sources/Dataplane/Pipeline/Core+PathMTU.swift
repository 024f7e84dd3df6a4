import Addresses

/// ICMP errors that come back about our own tunnel packets (TUN-7; RFC 2003, section 5.1): the path is remembered to be
/// narrower, and the sender of the inner packet is told.
extension Core {
  /// What an ICMP error is to the tunnels.
  enum TunnelReport {
    /// It is about none of our tunnel packets.
    case none
    case done
    /// The sender of the inner packet, which is all that is left in the frame, is to be told.
    case tell(ErrorMessage)
  }

  /// Takes an ICMP error into account.
  mutating func learnFromError4(
    _ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> TunnelReport {
    let frame = batch[index]
    let transport = Int(contexts[index].transport)
    guard let icmp = ICMPv4Header(frame.octets.dropping(transport)), icmp.type.isError else { return .none }
    guard icmp.isChecksumValid else {
      drop(index, .badTransport, batch)
      return .done
    }
    guard let quoted = IPv4Header(icmp.payload), !quoted.isLaterFragment,
      let hop = tunnelHop(
        local: .v4(quoted.source), remote: .v4(quoted.destination), quoted.protocol,
        quoted.octets.dropping(quoted.headerLength), tables)
    else { return .none }
    guard Core.concernsTunnel(icmp.type, icmp.code) else {
      drop(index, .icmpIgnored, batch)
      return .done
    }
    let isTooBig =
      icmp.type == .destinationUnreachable && icmp.code == ICMPv4Header.Unreachable.fragmentationNeeded
    // Routers older than RFC 1191 do not say how much; 576 is what every link carries in practice.
    let linkMTU = isTooBig ? (icmp.nextHopMTU == 0 ? 576 : Int(icmp.nextHopMTU)) : nil
    let inner = transport + ICMPv4Header.length + quoted.headerLength
    return relay(index, hop, linkMTU: linkMTU, innerOffset: inner, isIPv6: quoted.protocol == .ipv6, &batch, tables)
  }

  /// Takes an ICMPv6 error into account.
  mutating func learnFromError6(
    _ index: Int, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> TunnelReport {
    let frame = batch[index]
    let transport = Int(contexts[index].transport)
    guard let header = IPv6Header(frame.octets), let icmp = ICMPv6Header(frame.octets.dropping(transport)),
      icmp.type.isError
    else { return .none }
    guard icmp.isChecksumValid(header.pseudoHeader(.icmpv6, length: icmp.octets.count)) else {
      drop(index, .badTransport, batch)
      return .done
    }
    guard let quoted = IPv6Header(icmp.payload),
      let hop = tunnelHop(
        local: .v6(quoted.source), remote: .v6(quoted.destination), quoted.nextHeader,
        quoted.octets.dropping(IPv6Header.length), tables)
    else { return .none }
    guard Core.concernsTunnel(icmp.type, icmp.code) else {
      drop(index, .icmpIgnored, batch)
      return .done
    }
    let linkMTU = icmp.type == .packetTooBig ? Int(clamping: icmp.mtu) : nil
    let inner = transport + ICMPv6Header.length + IPv6Header.length
    return relay(index, hop, linkMTU: linkMTU, innerOffset: inner, isIPv6: quoted.nextHeader == .ipv6, &batch, tables)
  }

  /// Whether an error says that tunnel packets do not arrive, and so is to be relayed (RFC 2003, section 5): not source
  /// quench, redirect or parameter problem, which are about the outer header alone, nor source routes that failed or
  /// fragments that did not come.
  private static func concernsTunnel(_ type: ICMPv4Header.MessageType, _ code: UInt8) -> Bool {
    switch type {
    case .destinationUnreachable: code != 5
    case .timeExceeded: code == 0
    default: false
    }
  }

  /// The same for ICMPv6 (RFC 2473, section 8).
  private static func concernsTunnel(_ type: ICMPv6Header.MessageType, _ code: UInt8) -> Bool {
    switch type {
    case .destinationUnreachable, .packetTooBig: true
    case .timeExceeded: code == 0
    default: false
    }
  }

  /// The hop whose packets look like the quoted one. Errors are few and rate limited by those who send them, so a walk
  /// over the hops is cheap enough.
  private func tunnelHop(
    local: IPAddress, remote: IPAddress, _ transport: IPProtocol, _ payload: Octets, _ tables: borrowing Tables
  ) -> HopIndex? {
    guard tables.localAddresses.find(local) != nil else { return nil }
    var port: UInt16 = 0
    let wanted: [Encapsulation]
    switch transport {
    case .ipv4, .ipv6: wanted = [.ipip]
    case .gre: wanted = [.gre]
    case .udp:
      guard payload.count >= 4 else { return nil }
      wanted = [.vxlan, .geneve]
      port = payload[u16: 2]
    default: return nil
    }
    for (number, hop) in tables.hops.hops.enumerated() {
      guard let tunnel = hop?.tunnel, tunnel.remote == remote, wanted.contains(tunnel.encapsulation),
        tunnel.port == port
      else { continue }
      return HopIndex(number * 2)
    }
    return nil
  }

  private mutating func relay(
    _ index: Int, _ hop: HopIndex, linkMTU: Int?, innerOffset: Int, isIPv6: Bool, _ batch: inout FrameBatch,
    _ tables: borrowing Tables
  ) -> TunnelReport {
    guard let tunnel = tables.hop(hop)?.tunnel else { return .none }
    var message = ErrorMessage.hostUnreachable
    if let linkMTU {
      // What no honest link would say is not believed: it would stop the tunnel (RFC 1191, section 6).
      let mtu = UInt32(max(linkMTU, tunnel.local.family == .ipv4 ? 552 : 1280) - tunnel.overhead)
      for record in Int(hop)...Int(hop) + 1 where mtu < tables.hops.records[record].mtu {
        hopStates[record].learnedMTU = mtu
        hasLearnedMTU = true
        offload?.invalidate()
        hopStates[record].learnedUntil = second &+ tables.settings.pathMTULifetime
        hopStates[record].learnedSerial = tables.hops.records[record].serial
      }
      requests.add(.pathMTU(hop, Int(mtu)))
      message = .tooBig(mtu)
    }
    // The quoted packet goes on, as far as it goes, to say what the error is about.
    let frame = batch[index]
    let network = tunnel.local.family == .ipv4 ? IPv4Header.length : IPv6Header.length
    let start = innerOffset + tunnel.overhead - network
    let innerIsIPv6: Bool
    switch tunnel.encapsulation {
    case .ipip: innerIsIPv6 = isIPv6
    default:
      guard start <= frame.octets.count, start >= 2 else {
        drop(index, .icmpIgnored, batch)
        return .done
      }
      innerIsIPv6 = start < frame.octets.count && frame.octets[start] >> 4 == 6
    }
    drop(index, .icmpIgnored, batch)
    guard start + (innerIsIPv6 ? IPv6Header.length : IPv4Header.length) + 8 <= frame.octets.count else { return .done }
    batch[index].pull(start)
    let inner = batch[index].octets
    contexts[index] = PacketContext()
    contexts[index].length = UInt32(truncatingIfNeeded: inner.count)
    let upper: IPProtocol
    let type: UInt8
    if innerIsIPv6 {
      guard let header = IPv6Header(inner) else { return .done }
      contexts[index].flags.insert(.ipv6)
      upper = header.nextHeader
      type = inner[IPv6Header.length]
      if upper == .icmpv6, ICMPv6Header.MessageType(rawValue: type).isError { return .done }
    } else {
      guard let header = IPv4Header(inner), !header.isLaterFragment, header.headerLength < inner.count else {
        return .done
      }
      upper = header.protocol
      type = inner[header.headerLength]
      if upper == .icmp, ICMPv4Header.MessageType(rawValue: type).isError { return .done }
    }
    return .tell(message)
  }
}
