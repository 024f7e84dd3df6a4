import Addresses

/// The fast path's reader of tunnel packets: which tunnel a frame from the underlay came in, where the inner packet is, and
/// which peer sent it. All that its loop needs, in values of its own (`MemoryView`).
struct TunnelReader {
  private let vxlan: TunnelGuard
  private let geneve: TunnelGuard
  private let peers: AddressTableView
  private let encapsulations: MemoryView<UInt32>
  private let vxlanPort: UInt16
  private let genevePort: UInt16
  let readsGRE: Bool
  private let uniformDSCP: Bool
  private let uniformTTL: Bool
  /// The address of the node that a tunnel packet was last sent to, as it lies in the packet; `noLocal`: none yet.
  private(set) var lastLocal: UInt64
  static var noLocal: UInt64 { .max }
  /// What the last packet came in.
  var last: Encapsulation.RawValue

  init(_ tables: borrowing Tables, _ core: borrowing Core) {
    vxlan = core.vxlan
    geneve = core.geneve
    peers = tables.peerAddresses.view
    encapsulations = tables.peerEncapsulations.view
    vxlanPort = tables.settings.vxlanPort.bigEndian
    genevePort = tables.settings.genevePort.bigEndian
    readsGRE = tables.settings.greKey == nil
    uniformDSCP = tables.settings.uniformDSCP
    uniformTTL = tables.settings.uniformTTL
    lastLocal = core.lastLocal
    last = core.lastEncapsulation.rawValue
  }

  /// Whether an address, as it lies in a packet, is the node's.
  static func isLocal(_ address: UInt64, _ tables: borrowing Tables) -> Bool {
    guard address != noLocal else { return false }
    return tables.localAddresses.find(IPv4Address(rawValue: UInt32(truncatingIfNeeded: address).byteSwapped)) != nil
  }

  /// The address that a tunnel packet was last sent to; nil: none yet.
  var local: UInt32? { lastLocal == TunnelReader.noLocal ? nil : UInt32(truncatingIfNeeded: lastLocal) }

  /// Whether the time to live is each packet's own.
  var carriesNothingOver: Bool { !uniformTTL }

  /// The peer with an address, as it lies in the packet; nil where there is none that sends in this way (NODE-4).
  @inline(__always)
  func peer(_ source: UInt32, _ encapsulation: Encapsulation) -> UInt16? {
    guard let peer = peers.find(IPv4Address(rawValue: source.byteSwapped)),
      encapsulations[Int(peer)] & 1 << UInt32(encapsulation.rawValue) != 0
    else { return nil }
    return UInt16(truncatingIfNeeded: peer)
  }

  /// The beginning of the mark of a packet, whose frame begins as `LinkGuard` admits it; nil where it is not plain, or not
  /// from a peer (NODE-4), or where its outer header means something to the inner packet.
  @inline(__always)
  mutating func read(_ octets: Octets, _ tables: borrowing Tables) -> PlainMark? {
    let network = EthernetHeader.length
    guard octets.count >= network + PlainIPv4.length + UDPHeader.length else { return nil }
    switch octets[network + 9] {
    case IPProtocol.tcp.rawValue: return PlainMark(offset: network)
    case IPProtocol.udp.rawValue:
      if vxlan.admits(octets) { return inner(octets, .vxlan, TunnelGuard.length, tables) }
      if geneve.admits(octets) { return inner(octets, .geneve, TunnelGuard.length, tables) }
      let port = octets[u16Native: network + PlainIPv4.length + 2]
      return port == vxlanPort || port == genevePort ? nil : PlainMark(offset: network)
    case IPProtocol.ipv4.rawValue: return inner(octets, .ipip, network + PlainIPv4.length, tables)
    case IPProtocol.gre.rawValue:
      // No options: no key is wanted then.
      guard readsGRE, octets[u32: network + PlainIPv4.length] == UInt32(EtherType.ipv4.rawValue) else { return nil }
      return inner(octets, .gre, network + PlainIPv4.length + 4, tables)
    default: return nil
    }
  }

  /// The same where the inner IPv4 header is `offset` octets from the frame's start.
  @inline(__always)
  private mutating func inner(
    _ octets: Octets, _ encapsulation: Encapsulation, _ offset: Int, _ tables: borrowing Tables
  ) -> PlainMark? {
    guard octets.count >= offset + PlainIPv4.length,
      let outer = PlainIPv4(octets.dropping(EthernetHeader.length), isChecked: true)
    else { return nil }
    let packet = octets.dropping(offset)
    let room = outer.totalLength &+ EthernetHeader.length &- offset
    // The inner packet must end where the outer one does, or before.
    guard Int(packet[u16: 2]) <= room,
      // TUN-5, TUN-6: nothing to carry over.
      outer.trafficClass == packet[1] || outer.trafficClass & 3 == 0 && !uniformDSCP,
      !uniformTTL || packet[8] <= outer.timeToLive
    else { return nil }
    if encapsulation == .vxlan || encapsulation == .geneve {
      // A length that covers the headers and does not exceed the packet.
      let length = Int(octets[u16: EthernetHeader.length + PlainIPv4.length + 4])
      guard length >= UDPHeader.length, length <= outer.totalLength &- PlainIPv4.length else { return nil }
    }
    let destination = UInt64(littleEndian: outer.addresses) >> 32
    if destination != lastLocal {
      guard TunnelReader.isLocal(destination, tables) else { return nil }
      lastLocal = destination
    }
    let source = UInt32(truncatingIfNeeded: UInt64(littleEndian: outer.addresses))
    guard let peer = peer(source, encapsulation) else { return nil }
    return PlainMark(offset: offset, tunnel: encapsulation.rawValue).from(peer: peer)
  }
}
