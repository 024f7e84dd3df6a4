public import Addresses
import CNetlink
import Glibc

/// An entry of the kernel's neighbour table: ARP for IPv4, NDP for IPv6.
public struct KernelNeighbour: Sendable, Hashable {
  /// Where the entry stands in its life (`ndm_state` of rtnetlink(7)).
  public enum State: UInt16, Sendable {
    case none = 0
    case incomplete = 0x01
    case reachable = 0x02
    case stale = 0x04
    case delay = 0x08
    case probe = 0x10
    case failed = 0x20
    case noARP = 0x40
    case permanent = 0x80
  }

  public var interface: Int32
  public var address: IPAddress
  /// nil as long as nobody has answered.
  public var mac: MACAddress?
  public var state: State
  /// The node answers on behalf of this address (`ip neigh add proxy`).
  public var isProxy: Bool

  public init(interface: Int32, address: IPAddress, mac: MACAddress?, state: State) {
    self.interface = interface
    self.address = address
    self.mac = mac
    self.state = state
    isProxy = false
  }

  /// Whether a packet can be sent to `mac`. A stale entry still counts: the kernel itself uses it while it asks anew.
  public var isUsable: Bool {
    guard mac != nil, !isProxy else { return false }
    return switch state {
    case .reachable, .stale, .delay, .probe, .permanent, .noARP: true
    case .none, .incomplete, .failed: false
    }
  }

  /// Decodes what follows the netlink header of RTM_NEWNEIGH and RTM_DELNEIGH.
  init?(_ body: NetlinkReader) {
    guard body.count >= 12, body.u8(0) == UInt8(AF_INET) || body.u8(0) == UInt8(AF_INET6) else { return nil }
    let attributes = body.attributes(from: 12)
    guard let address = attributes[NDA_DST].flatMap({ IPAddress(octets: $0.octets) }) else { return nil }
    self.address = address
    interface = body.i32(4)
    state = State(rawValue: body.u16(8)) ?? .none
    isProxy = body.u8(10) & 0x08 != 0
    if let lladdr = attributes[NDA_LLADDR], lladdr.count == 6 {
      mac = MACAddress(rawValue: lladdr.octets.reduce(0) { $0 << 8 | UInt64($1) })
    }
  }
}

extension Netlink {
  /// The neighbour table of one device, or of all.
  public func neighbours(of interface: Int32? = nil) throws(NodeError) -> [KernelNeighbour] {
    var message = NetlinkMessage(RTM_GETNEIGH, flags: NLM_F_DUMP)
    message.putNeighbourHeader()
    if let interface { message.attribute(NDA_IFINDEX, UInt32(bitPattern: interface)) }
    return try request(message, interface.map(label) ?? "network namespace", "list the neighbours")
      .compactMap { KernelNeighbour($0.body) }
  }

  /// Makes the kernel ask for `address` on `interface`, as if it had a packet to send there. The answer comes as an
  /// event of a `NetlinkMonitor`: `reachable` with the address, or `failed`.
  ///
  /// `keepAlive`: the kernel goes on asking by itself and renews the entry before it ages (Linux 5.16 and later; on
  /// older kernels it asks once). `forget` ends that.
  public func resolve(_ address: IPAddress, interface: Int32, keepAlive: Bool = false) throws(NodeError) {
    func ask(managed: Bool) throws(NodeError) {
      var message = NetlinkMessage(RTM_NEWNEIGH, flags: NLM_F_CREATE)
      let use: UInt8 = 0x01
      message.putNeighbourHeader(address.family, interface, flags: managed ? 0 : use)
      message.attribute(NDA_DST, address.octets)
      if managed { message.attribute(NDA_FLAGS_EXT, UInt32(1)) }
      try request(message, label(interface), "resolve \(address)")
    }
    if keepAlive {
      do throws(NodeError) { return try ask(managed: true) } catch {
        guard error.code == EINVAL || error.code == ENOTSUP else { throw error }
      }
    }
    try ask(managed: false)
  }

  /// Enters a neighbour for good, in the place of what was learned.
  public func setNeighbour(_ address: IPAddress, mac: MACAddress, interface: Int32) throws(NodeError) {
    var message = NetlinkMessage(RTM_NEWNEIGH, flags: NLM_F_CREATE | NLM_F_REPLACE)
    message.putNeighbourHeader(address.family, interface, state: .permanent)
    message.attribute(NDA_DST, address.octets)
    message.attribute(NDA_LLADDR, mac.octets)
    try request(message, label(interface), "enter the neighbour \(address)")
  }

  /// Removes a neighbour, learned or entered. ENOENT where there is none.
  public func forget(_ address: IPAddress, interface: Int32) throws(NodeError) {
    var message = NetlinkMessage(RTM_DELNEIGH)
    message.putNeighbourHeader(address.family, interface)
    message.attribute(NDA_DST, address.octets)
    try request(message, label(interface), "remove the neighbour \(address)")
  }
}

extension NetlinkMessage {
  /// `struct ndmsg`
  fileprivate mutating func putNeighbourHeader(
    _ family: IPFamily? = nil, _ interface: Int32 = 0, state: KernelNeighbour.State = .none, flags: UInt8 = 0
  ) {
    put([family?.number ?? 0, 0, 0, 0])
    put(interface)
    put(state.rawValue)
    put([flags, 0])
  }
}
