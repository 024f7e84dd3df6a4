public import Addresses
import CNetlink
import Glibc

/// A network device as the kernel describes it.
public struct KernelLink: Sendable, Hashable {
  public var index: Int32
  public var name: String
  /// nil where the device has no Ethernet address.
  public var mac: MACAddress?
  public var mtu: Int
  /// `veth`, `vxlan`, `tun`, …; nil for hardware and loopback.
  public var kind: String?
  /// Set up by the administrator.
  public var isUp: Bool
  /// Up, and something at the other end too.
  public var isRunning: Bool
  public var isLoopback: Bool
  /// The device that this one is paired with or stands on, by its index in the namespace `peerNamespaceID`.
  public var peerIndex: Int32?
  /// The kernel's number for the peer's namespace; nil where it is the same.
  public var peerNamespaceID: Int32?
  /// The bridge or bond that the device is a port of.
  public var masterIndex: Int32?
  /// Frames that the kernel dropped instead of sending: for a TAP device those that nobody read in time.
  public var transmitDrops: UInt64
  public var receiveDrops: UInt64
  /// What somebody wrote down about the device (`ip link set … alias`).
  public var alias: String?

  /// Decodes what follows the netlink header of RTM_NEWLINK and RTM_DELLINK.
  init?(_ body: NetlinkReader) {
    guard body.count >= 16 else { return nil }
    let attributes = body.attributes(from: 16)
    guard let name = attributes[IFLA_IFNAME]?.text else { return nil }
    self.name = name
    index = body.i32(4)
    let flags = body.u32(8)
    isUp = flags & 0x1 != 0
    isLoopback = flags & 0x8 != 0
    isRunning = flags & 0x40 != 0 && isUp
    mtu = Int(attributes[IFLA_MTU]?.u32() ?? 0)
    if let address = attributes[IFLA_ADDRESS], address.count == 6 {
      mac = MACAddress(rawValue: address.octets.reduce(0) { $0 << 8 | UInt64($1) })
    }
    kind = attributes[IFLA_LINKINFO]?.attributes()[IFLA_INFO_KIND]?.text
    peerIndex = attributes[IFLA_LINK]?.i32()
    peerNamespaceID = attributes[IFLA_LINK_NETNSID]?.i32()
    masterIndex = attributes[IFLA_MASTER]?.i32()
    alias = attributes[IFLA_IFALIAS]?.text
    // struct rtnl_link_stats64: packets, octets, errors, drops; each for receiving and sending.
    let statistics = attributes[IFLA_STATS64]
    receiveDrops = statistics?.u64(48) ?? 0
    transmitDrops = statistics?.u64(56) ?? 0
  }
}

extension Netlink {
  /// All devices of the namespace.
  public func links() throws(NodeError) -> [KernelLink] {
    var message = NetlinkMessage(RTM_GETLINK, flags: NLM_F_DUMP)
    message.putLinkHeader()
    return try request(message, "network namespace", "list the devices").compactMap { KernelLink($0.body) }
  }

  /// The device of that name.
  public func link(named name: String) throws(NodeError) -> KernelLink {
    var message = NetlinkMessage(RTM_GETLINK)
    message.putLinkHeader()
    message.attribute(IFLA_IFNAME, name)
    return try one(message, name)
  }

  /// The device of that index.
  public func link(index: Int32) throws(NodeError) -> KernelLink {
    var message = NetlinkMessage(RTM_GETLINK)
    message.putLinkHeader(index: index)
    return try one(message, "interface \(index)")
  }

  private func one(_ message: NetlinkMessage, _ subject: String) throws(NodeError) -> KernelLink {
    let answers = try request(message, subject, "find the device")
    guard let link = answers.lazy.compactMap({ KernelLink($0.body) }).first else {
      throw NodeError(subject: subject, operation: "find the device", code: ENODEV)
    }
    return link
  }

  /// Sets a device up or down.
  public func setUp(_ isUp: Bool, interface index: Int32) throws(NodeError) {
    var message = NetlinkMessage(RTM_NEWLINK)
    message.putLinkHeader(index: index, flags: isUp ? 1 : 0, change: 1)
    try request(message, label(index), isUp ? "set the device up" : "set the device down")
  }

  /// Sets the octets of the largest network-layer packet.
  public func setMTU(_ mtu: Int, interface index: Int32) throws(NodeError) {
    var message = NetlinkMessage(RTM_NEWLINK)
    message.putLinkHeader(index: index)
    message.attribute(IFLA_MTU, UInt32(clamping: mtu))
    try request(message, label(index), "set the MTU to \(mtu)")
  }

  /// Writes down something about a device, at most 255 octets (`ip link set … alias`).
  public func setAlias(_ alias: String, interface index: Int32) throws(NodeError) {
    var message = NetlinkMessage(RTM_NEWLINK)
    message.putLinkHeader(index: index)
    message.attribute(IFLA_IFALIAS, alias)
    try request(message, label(index), "write the alias")
  }

  /// Sets the device's own Ethernet address.
  public func setMAC(_ mac: MACAddress, interface index: Int32) throws(NodeError) {
    var message = NetlinkMessage(RTM_NEWLINK)
    message.putLinkHeader(index: index)
    message.attribute(IFLA_ADDRESS, mac.octets)
    try request(message, label(index), "set the address to \(mac)")
  }

  /// Keeps the kernel from giving the device a link-local IPv6 address, and so from speaking IPv6 there by itself: for
  /// devices that belong to the data plane. Before the device is set up.
  public func disableIPv6Addresses(interface index: Int32) throws(NodeError) {
    var message = NetlinkMessage(RTM_NEWLINK)
    message.putLinkHeader(index: index)
    message.nested(IFLA_AF_SPEC) {
      $0.nested(Int(AF_INET6)) { $0.attribute(IFLA_INET6_ADDR_GEN_MODE, UInt8(1)) }
    }
    try request(message, label(index), "switch off IPv6 address generation")
  }

  /// One end of a veth pair.
  public struct VethEnd: Sendable {
    public var name: String
    public var mac: MACAddress?
    /// Where the device goes; nil for the namespace of the `Netlink`.
    public var namespace: NetworkNamespace?
    /// Octets; nil for that of the pair.
    public var mtu: Int?
    /// What is written down about the device.
    public var alias: String?

    public init(
      _ name: String, mac: MACAddress? = nil, namespace: NetworkNamespace? = nil, mtu: Int? = nil, alias: String? = nil
    ) {
      self.name = name
      self.mac = mac
      self.namespace = namespace
      self.mtu = mtu
      self.alias = alias
    }
  }

  /// Makes a pair of virtual Ethernet devices, both down.
  public func addVeth(_ a: VethEnd, _ b: VethEnd, mtu: Int? = nil) throws(NodeError) {
    let first = try NamespaceFile(a.namespace)
    let second = try NamespaceFile(b.namespace)
    func describe(_ end: VethEnd, _ file: borrowing NamespaceFile, _ message: inout NetlinkMessage) {
      message.attribute(IFLA_IFNAME, end.name)
      if let mac = end.mac { message.attribute(IFLA_ADDRESS, mac.octets) }
      if let mtu = end.mtu ?? mtu { message.attribute(IFLA_MTU, UInt32(clamping: mtu)) }
      if let alias = end.alias { message.attribute(IFLA_IFALIAS, alias) }
      if let descriptor = file.descriptor { message.attribute(IFLA_NET_NS_FD, UInt32(bitPattern: descriptor)) }
    }
    var message = NetlinkMessage(RTM_NEWLINK, flags: NLM_F_CREATE | NLM_F_EXCL)
    message.putLinkHeader()
    describe(a, first, &message)
    message.nested(IFLA_LINKINFO) { message in
      message.attribute(IFLA_INFO_KIND, "veth")
      message.nested(IFLA_INFO_DATA) { message in
        message.nested(Int(VETH_INFO_PEER)) { message in
          message.putLinkHeader()
          describe(b, second, &message)
        }
      }
    }
    try request(message, "\(a.name) and \(b.name)", "make a veth pair")
  }

  /// Makes a device that drops everything sent by it: a place for addresses. It is down.
  public func addDummy(_ name: String) throws(NodeError) {
    var message = NetlinkMessage(RTM_NEWLINK, flags: NLM_F_CREATE | NLM_F_EXCL)
    message.putLinkHeader()
    message.attribute(IFLA_IFNAME, name)
    message.nested(IFLA_LINKINFO) { $0.attribute(IFLA_INFO_KIND, "dummy") }
    try request(message, name, "make a dummy device")
  }

  /// Removes a device, and with it its peer where it is one of a pair.
  public func deleteLink(_ index: Int32) throws(NodeError) {
    var message = NetlinkMessage(RTM_DELLINK)
    message.putLinkHeader(index: index)
    try request(message, label(index), "remove the device")
  }

  /// `eth0`, or `interface 7` where there is none of that index.
  func label(_ index: Int32) -> String { (try? link(index: index))?.name ?? "interface \(index)" }
}

/// A namespace that is open for as long as a request needs it.
private struct NamespaceFile: ~Copyable {
  let descriptor: Int32?

  init(_ namespace: NetworkNamespace?) throws(NodeError) {
    guard let namespace else {
      descriptor = nil
      return
    }
    let file = unsafe open(namespace.path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else {
      throw NodeError(subject: namespace.path, operation: "open the network namespace", code: errno)
    }
    descriptor = file
  }

  deinit { if let descriptor { close(descriptor) } }
}

extension MACAddress {
  /// The six octets in the order of the wire.
  var octets: [UInt8] { (0..<6).map { UInt8(truncatingIfNeeded: rawValue >> (40 - 8 * UInt64($0))) } }
}

extension NetlinkMessage {
  /// `struct ifinfomsg`
  mutating func putLinkHeader(index: Int32 = 0, flags: UInt32 = 0, change: UInt32 = 0) {
    put(UInt32(0))
    put(index)
    put(flags)
    put(change)
  }
}
