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

extension Core {
  /// Notes how a frame seems to have come from the underlay, as the next ones will. False where it seems to have come as
  /// the last one did: if it was not read then, it is not plain.
  mutating func learns(from frame: Frame, _ tables: borrowing Tables) -> Bool {
    let octets = frame.octets
    let network = EthernetHeader.length
    guard octets.count >= network + IPv4Header.length + UDPHeader.length,
      octets[u16: 12] == EtherType.ipv4.rawValue, octets[network] == 0x45
    else { return false }
    var encapsulation = Encapsulation.none
    switch octets[network + 9] {
    case IPProtocol.tcp.rawValue: break
    case IPProtocol.udp.rawValue:
      let port = octets[u16: network + IPv4Header.length + 2]
      if port == tables.settings.vxlanPort {
        encapsulation = .vxlan
      } else if port == tables.settings.genevePort {
        encapsulation = .geneve
      }
    case IPProtocol.ipv4.rawValue: encapsulation = .ipip
    case IPProtocol.gre.rawValue: encapsulation = .gre
    default: return false
    }
    var local = lastLocal
    if encapsulation != .none {
      local = UInt64(octets[u32Native: network + 16])
      guard local == lastLocal || TunnelPeers.isLocal(local, tables) else { return false }
    }
    guard encapsulation != lastEncapsulation || local != lastLocal else { return false }
    lastEncapsulation = encapsulation
    lastLocal = local
    return true
  }
}
