extension Core {
  /// Reads from the transport header what tells flows apart; false when the packet was dropped.
  @inline(__always)
  mutating func readTransport(
    _ index: Int, _ tail: inout FlowKeyTail, _ batch: borrowing FrameBatch
  ) -> Bool {
    let frame = batch[index]
    let octets = frame.octets
    let offset = Int(contexts[index].transport)
    switch tail.transport {
    case IPProtocol.tcp.rawValue:
      guard offset &+ TCPHeader.length <= octets.count else { break }
      tail.ports = octets[u32Native: offset]
      contexts[index].tcpFlags = octets[offset &+ 13]
      return true
    case IPProtocol.udp.rawValue:
      guard offset &+ UDPHeader.length <= octets.count else { break }
      tail.ports = octets[u32Native: offset]
      return true
    case IPProtocol.sctp.rawValue:
      guard offset &+ 12 <= octets.count else { break }
      tail.ports = octets[u32Native: offset]
      return true
    case IPProtocol.icmp.rawValue where !contexts[index].isIPv6:
      guard offset &+ ICMPv4Header.length <= octets.count else { break }
      return readICMP(index, octets[offset], identifier: octets[u16Native: offset &+ 4], &tail)
    case IPProtocol.icmpv6.rawValue where contexts[index].isIPv6:
      guard offset &+ ICMPv6Header.length <= octets.count else { break }
      return readICMP6(index, octets[offset], identifier: octets[u16Native: offset &+ 4], &tail)
    default: return true
    }
    drop(index, .badTransport, batch)
    return false
  }

  /// Whether the partial checksum, if there is one, lies where the transport has its own, or deeper in the payload. Who
  /// writes the port's metadata may be a guest: finishing the checksum must not change what was looked at (TUN-9).
  @inline(__always)
  func isPartialChecksumPlausible(_ frame: Frame, _ context: PacketContext) -> Bool {
    guard frame.flags.contains(.checksumPartial) else { return true }
    let transport = frame.start &+ UInt32(context.transport)
    guard frame.checksumStart == transport else { return frame.checksumStart >= transport &+ 8 }
    switch context.transportProtocol {
    case IPProtocol.tcp.rawValue: return frame.checksumOffset == 16
    case IPProtocol.udp.rawValue: return frame.checksumOffset == 6
    case IPProtocol.sctp.rawValue: return frame.checksumOffset == 8
    case IPProtocol.icmpv6.rawValue: return frame.checksumOffset == 2
    default: return true
    }
  }

  private mutating func readICMP(_ index: Int, _ type: UInt8, identifier: UInt16, _ tail: inout FlowKeyTail) -> Bool {
    let message = ICMPv4Header.MessageType(rawValue: type)
    if message.isError {
      contexts[index].flags.insert(.icmpError)
      return true
    }
    tail.ports = UInt32(identifier) << 16 | UInt32(identifier)
    if message == .echoReply || message == .timestampReply { tail.flags |= FlowKeyTail.icmpReply }
    return true
  }

  private mutating func readICMP6(_ index: Int, _ type: UInt8, identifier: UInt16, _ tail: inout FlowKeyTail) -> Bool {
    let message = ICMPv6Header.MessageType(rawValue: type)
    if message.isError {
      contexts[index].flags.insert(.icmpError)
      return true
    }
    tail.ports = UInt32(identifier) << 16 | UInt32(identifier)
    if message == .echoReply { tail.flags |= FlowKeyTail.icmpReply }
    return true
  }
}
