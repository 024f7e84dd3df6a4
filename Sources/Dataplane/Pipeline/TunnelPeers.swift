import Addresses

/// The node's own end of tunnels.
enum TunnelPeers {
  /// In the place of the node's own address: nothing came in a tunnel yet.
  static var noLocal: UInt64 { .max }

  /// Whether an address, as it lies in a packet, is the node's.
  static func isLocal(_ address: UInt64, _ tables: borrowing Tables) -> Bool {
    guard address != noLocal else { return false }
    return tables.localAddresses.find(IPv4Address(rawValue: UInt32(truncatingIfNeeded: address).byteSwapped)) != nil
  }
}

/// How a packet came from the underlay.
struct Arrival: Equatable {
  var encapsulation = Encapsulation.none
  /// Whether the packet was IPv6: that in the tunnel, where it came in one.
  var isIPv6 = false
  /// The address of the node that a tunnel packet was last sent to, as it lies in the packet.
  var local = TunnelPeers.noLocal
}

extension Arrival {
  /// How a frame seems to have come; nil where it is not plain, or in a tunnel over IPv6, which is unwrapped the general
  /// way.
  fileprivate init?(_ octets: Octets, after last: Arrival, _ settings: Settings) {
    self = last
    let network = EthernetHeader.length
    guard octets.count >= network + IPv4Header.length + UDPHeader.length else { return nil }
    encapsulation = .none
    switch octets[u16: 12] {
    case EtherType.ipv6.rawValue:
      isIPv6 = true
      switch octets[network + 6] {
      case IPProtocol.tcp.rawValue: return
      case IPProtocol.udp.rawValue:
        guard octets.count >= network + IPv6Header.length + UDPHeader.length,
          Arrival.tunnel(octets[u16: network + IPv6Header.length + 2], settings) == .none
        else { return nil }
        return
      default: return nil
      }
    case EtherType.ipv4.rawValue where octets[network] == 0x45: isIPv6 = false
    default: return nil
    }
    let transport = network + IPv4Header.length
    switch octets[network + 9] {
    case IPProtocol.tcp.rawValue: return
    case IPProtocol.udp.rawValue:
      encapsulation = Arrival.tunnel(octets[u16: transport + 2], settings)
      if encapsulation == .none { return }
      // The inner Ethernet header's type, where there are no options.
      let type = TunnelGuard.length - 2
      isIPv6 = octets.count >= type + 2 && octets[u16: type] == EtherType.ipv6.rawValue
    case IPProtocol.ipv4.rawValue: encapsulation = .ipip
    case IPProtocol.ipv6.rawValue:
      encapsulation = .ipip
      isIPv6 = true
    case IPProtocol.gre.rawValue:
      encapsulation = .gre
      isIPv6 = octets[u16: transport + 2] == EtherType.ipv6.rawValue
    default: return nil
    }
    local = UInt64(octets[u32Native: network + 16])
  }

  /// The tunnel that is sent to a UDP port.
  private static func tunnel(_ port: UInt16, _ settings: Settings) -> Encapsulation {
    port == settings.vxlanPort ? .vxlan : port == settings.genevePort ? .geneve : .none
  }
}

extension Core {
  /// Notes how a frame seems to have come from the underlay, as the next ones will. False where it seems to have come as
  /// the last one did: if it was not read then, it is not plain.
  mutating func learns(from frame: Frame, _ tables: borrowing Tables) -> Bool {
    guard let seen = Arrival(frame.octets, after: arrival, tables.settings), seen != arrival,
      seen.local == arrival.local || TunnelPeers.isLocal(seen.local, tables)
    else { return false }
    arrival = seen
    return true
  }
}
