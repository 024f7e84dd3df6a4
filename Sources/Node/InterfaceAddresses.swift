public import Addresses
import CNetlink
import Glibc

/// An address of a network device.
public struct KernelAddress: Sendable, Hashable {
  public var interface: Int32
  public var address: IPAddress
  public var prefixLength: Int
  /// IPv6: still being checked for duplicates, or found to be one. Not usable.
  public var isTentative: Bool
  /// 0 everywhere, 253 on the link, 254 on the host (`rt_scope` of rtnetlink(7)).
  public var scope: UInt8

  public init(interface: Int32, address: IPAddress, prefixLength: Int) {
    self.interface = interface
    self.address = address
    self.prefixLength = prefixLength
    isTentative = false
    scope = 0
  }

  /// The network that the address is in.
  public var prefix: IPPrefix { IPPrefix(address, length: prefixLength)! }

  /// Decodes what follows the netlink header of RTM_NEWADDR and RTM_DELADDR.
  init?(_ body: NetlinkReader) {
    guard body.count >= 8 else { return nil }
    let attributes = body.attributes(from: 8)
    // On a point-to-point device IFA_ADDRESS is the peer's, IFA_LOCAL one's own.
    guard let octets = (attributes[IFA_LOCAL] ?? attributes[IFA_ADDRESS])?.octets,
      let address = IPAddress(octets: octets), IPPrefix(address, length: Int(body.u8(1))) != nil
    else { return nil }
    self.address = address
    prefixLength = Int(body.u8(1))
    interface = body.i32(4)
    scope = body.u8(3)
    let flags = attributes[IFA_FLAGS]?.u32() ?? UInt32(body.u8(2))
    isTentative = flags & 0x48 != 0
  }
}

extension Netlink {
  /// All addresses of the namespace.
  public func addresses() throws(NodeError) -> [KernelAddress] {
    var message = NetlinkMessage(RTM_GETADDR, flags: NLM_F_DUMP)
    message.putAddressHeader(family: 0)
    return try request(message, "network namespace", "list the addresses").compactMap { KernelAddress($0.body) }
  }

  /// The addresses of one device.
  public func addresses(of interface: Int32) throws(NodeError) -> [KernelAddress] {
    try addresses().filter { $0.interface == interface }
  }

  /// Gives a device an address, which may be there already. An IPv6 address is usable at once: duplicates are not
  /// looked for.
  public func addAddress(_ address: KernelAddress) throws(NodeError) {
    var message = NetlinkMessage(RTM_NEWADDR, flags: NLM_F_CREATE | NLM_F_REPLACE)
    message.putAddress(address)
    try request(message, label(address.interface), "add the address \(address.address)/\(address.prefixLength)")
  }

  /// Takes an address from its device.
  public func deleteAddress(_ address: KernelAddress) throws(NodeError) {
    var message = NetlinkMessage(RTM_DELADDR)
    message.putAddress(address)
    try request(message, label(address.interface), "remove the address \(address.address)/\(address.prefixLength)")
  }
}

extension IPAddress {
  /// An address of 4 or 16 octets in the order of the wire.
  init?(octets: [UInt8]) {
    func number(_ range: Range<Int>) -> UInt64 { octets[range].reduce(0) { $0 << 8 | UInt64($1) } }
    switch octets.count {
    case 4: self = .v4(IPv4Address(rawValue: UInt32(number(0..<4))))
    case 16: self = .v6(IPv6Address(high: number(0..<8), low: number(8..<16)))
    default: return nil
    }
  }

  /// The octets in the order of the wire.
  var octets: [UInt8] {
    switch self {
    case .v4(let a): (0..<4).map { UInt8(truncatingIfNeeded: a.rawValue >> (24 - 8 * UInt32($0))) }
    case .v6(let a):
      [a.high, a.low].flatMap { part in (0..<8).map { UInt8(truncatingIfNeeded: part >> (56 - 8 * UInt64($0))) } }
    }
  }
}

extension IPFamily {
  /// AF_INET or AF_INET6.
  var number: UInt8 { self == .ipv4 ? UInt8(AF_INET) : UInt8(AF_INET6) }
}

extension NetlinkMessage {
  /// `struct ifaddrmsg`
  mutating func putAddressHeader(
    family: UInt8, length: Int = 0, flags: UInt8 = 0, scope: UInt8 = 0, interface: Int32 = 0
  ) {
    put([family, UInt8(length), flags, scope])
    put(interface)
  }

  mutating func putAddress(_ address: KernelAddress) {
    let noDuplicateDetection: UInt8 = address.address.family == .ipv6 ? 0x02 : 0
    putAddressHeader(
      family: address.address.family.number, length: address.prefixLength, flags: noDuplicateDetection,
      scope: address.scope, interface: address.interface)
    attribute(IFA_LOCAL, address.address.octets)
    attribute(IFA_ADDRESS, address.address.octets)
  }
}
