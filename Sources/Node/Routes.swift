public import Addresses
import CNetlink
import Glibc

/// A route of one of the kernel's tables.
public struct KernelRoute: Sendable, Hashable {
  /// What happens to packets that the route matches (`rtm_type` of rtnetlink(7)).
  public enum Kind: UInt8, Sendable {
    case unspecified = 0
    case unicast, local, broadcast, anycast, multicast, blackhole, unreachable, prohibit, `throw`, nat
  }

  /// One of the ways that a route leads.
  public struct NextHop: Sendable, Hashable {
    /// The router; nil for a network that is on the link. Of the other family too (RFC 5549).
    public var gateway: IPAddress?
    /// 0 where the route names none.
    public var interface: Int32
    /// 1 to 256.
    public var weight: Int
    /// The gateway is on the link although no address says so.
    public var isOnLink: Bool

    public init(gateway: IPAddress? = nil, interface: Int32 = 0, weight: Int = 1, isOnLink: Bool = false) {
      self.gateway = gateway
      self.interface = interface
      self.weight = weight
      self.isOnLink = isOnLink
    }
  }

  public static let mainTable: UInt32 = 254
  public static let localTable: UInt32 = 255

  /// The default route is 0.0.0.0/0 or ::/0.
  public var destination: IPPrefix
  public var nextHops: [NextHop]
  public var kind: Kind
  public var table: UInt32
  /// Who made the route: 2 kernel, 3 boot, 4 administrator, 12 BIRD, 186 BGP (`rtm_protocol`).
  public var origin: UInt8
  /// Lower is better.
  public var metric: UInt32
  /// The source address that the kernel would use.
  public var preferredSource: IPAddress?
  /// 0 everywhere, 253 on the link, 254 on the host.
  public var scope: UInt8
  /// The route's own MTU; nil for that of the device.
  public var mtu: Int?

  public init(
    _ destination: IPPrefix, nextHops: [NextHop] = [], kind: Kind = .unicast, table: UInt32 = mainTable,
    origin: UInt8 = 4, metric: UInt32 = 0, preferredSource: IPAddress? = nil, scope: UInt8? = nil, mtu: Int? = nil
  ) {
    self.destination = destination
    self.nextHops = nextHops
    self.kind = kind
    self.table = table
    self.origin = origin
    self.metric = metric
    self.preferredSource = preferredSource
    // A network without a gateway is on the link; IPv6 has no scopes.
    let onLink = destination.family == .ipv4 && kind == .unicast && nextHops.allSatisfy { $0.gateway == nil }
    self.scope = scope ?? (onLink ? 253 : 0)
    self.mtu = mtu
  }

  /// Decodes what follows the netlink header of RTM_NEWROUTE and RTM_DELROUTE.
  init?(_ body: NetlinkReader) {
    guard body.count >= 12 else { return nil }
    let family: IPFamily
    switch body.u8(0) {
    case UInt8(AF_INET): family = .ipv4
    case UInt8(AF_INET6): family = .ipv6
    default: return nil
    }
    // The kernel's cached clones (RTM_F_CLONED) are no routes.
    guard body.u32(8) & 0x200 == 0 else { return nil }
    let attributes = body.attributes(from: 12)
    let any: IPAddress = family == .ipv4 ? .v4(.any) : .v6(.any)
    let address = attributes[Int(RTA_DST.rawValue)].flatMap { IPAddress(octets: $0.octets) } ?? any
    guard let destination = IPPrefix(address, length: Int(body.u8(1))) else { return nil }
    self.destination = destination
    table = attributes[Int(RTA_TABLE.rawValue)]?.u32() ?? UInt32(body.u8(4))
    origin = body.u8(5)
    scope = body.u8(6)
    kind = Kind(rawValue: body.u8(7)) ?? .unspecified
    metric = attributes[Int(RTA_PRIORITY.rawValue)]?.u32() ?? 0
    preferredSource = attributes[Int(RTA_PREFSRC.rawValue)].flatMap { IPAddress(octets: $0.octets) }
    let metrics = attributes[Int(RTA_METRICS.rawValue)]?.attributes()
    mtu = metrics?[Int(RTAX_MTU)].map { Int($0.u32()) }
    nextHops = []
    let single = attributes[Int(RTA_OIF.rawValue)]
    if single != nil || attributes[Int(RTA_GATEWAY.rawValue)] != nil || attributes[Int(RTA_VIA.rawValue)] != nil {
      nextHops = [
        NextHop(
          gateway: KernelRoute.gateway(attributes), interface: single?.i32() ?? 0, weight: 1,
          isOnLink: body.u32(8) & UInt32(RTNH_F_ONLINK) != 0)
      ]
    } else if var rest = attributes[Int(RTA_MULTIPATH.rawValue)] {
      // struct rtnexthop: length, flags, hops (the weight less one), interface; then attributes.
      while rest.count >= 8 {
        let length = Int(rest.u16())
        guard length >= 8, length <= rest.count else { break }
        let hop = rest.prefix(length)
        nextHops.append(
          NextHop(
            gateway: KernelRoute.gateway(hop.attributes(from: 8)), interface: hop.i32(4), weight: Int(hop.u8(3)) + 1,
            isOnLink: hop.u8(2) & UInt8(RTNH_F_ONLINK) != 0))
        rest = rest.dropping((length + 3) & ~3)
      }
    }
  }

  private static func gateway(_ attributes: [Int: NetlinkReader]) -> IPAddress? {
    if let gateway = attributes[Int(RTA_GATEWAY.rawValue)] { return IPAddress(octets: gateway.octets) }
    // struct rtvia: the family, then the address.
    return attributes[Int(RTA_VIA.rawValue)].flatMap { IPAddress(octets: $0.dropping(2).octets) }
  }
}

extension Netlink {
  /// The routes of a table, of both families or of one.
  public func routes(
    table: UInt32 = KernelRoute.mainTable, family: IPFamily? = nil
  ) throws(NodeError) -> [KernelRoute] {
    var result: [KernelRoute] = []
    for family in family.map({ [$0] }) ?? IPFamily.allCases {
      var message = NetlinkMessage(RTM_GETROUTE, flags: NLM_F_DUMP)
      message.put([family.number, 0, 0, 0, 0, 0, 0, 0])
      message.put(UInt32(0))
      message.attribute(Int(RTA_TABLE.rawValue), table)
      do throws(NodeError) {
        result += try request(message, "table \(table)", "list the routes").compactMap { KernelRoute($0.body) }
          .filter { $0.table == table }
      } catch {
        // A table exists once it has had a route.
        guard error.code == ENOENT else { throw error }
      }
    }
    return result
  }

  /// Adds a route; one to the same destination with the same metric must not be there.
  public func addRoute(_ route: KernelRoute) throws(NodeError) {
    try change(route, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, "add")
  }

  /// Adds a route, or puts it in the place of the one to the same destination with the same metric.
  public func replaceRoute(_ route: KernelRoute) throws(NodeError) {
    try change(route, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, "replace")
  }

  /// Removes a route. ESRCH where there is none.
  public func deleteRoute(_ route: KernelRoute) throws(NodeError) { try change(route, RTM_DELROUTE, 0, "remove") }

  private func change(
    _ route: KernelRoute, _ type: Int, _ flags: Int32, _ verb: String
  ) throws(NodeError) {
    var message = NetlinkMessage(type, flags: flags)
    let only = route.nextHops.count == 1 ? route.nextHops[0] : nil
    message.put([
      route.destination.family.number, UInt8(route.destination.length), 0, 0,
      route.table < 256 ? UInt8(route.table) : 0, route.origin, route.scope, route.kind.rawValue,
    ])
    message.put(only?.isOnLink == true ? UInt32(RTNH_F_ONLINK) : 0)
    message.attribute(Int(RTA_DST.rawValue), route.destination.address.octets)
    message.attribute(Int(RTA_TABLE.rawValue), route.table)
    if route.metric != 0 { message.attribute(Int(RTA_PRIORITY.rawValue), route.metric) }
    if let source = route.preferredSource { message.attribute(Int(RTA_PREFSRC.rawValue), source.octets) }
    if let mtu = route.mtu {
      message.nested(Int(RTA_METRICS.rawValue)) { $0.attribute(Int(RTAX_MTU), UInt32(clamping: mtu)) }
    }
    if let only {
      message.putGateway(only, of: route.destination.family)
      if only.interface != 0 { message.attribute(Int(RTA_OIF.rawValue), only.interface) }
    } else if !route.nextHops.isEmpty {
      var hops = NetlinkMessage(0)
      for hop in route.nextHops {
        var gateway = NetlinkMessage(0)
        gateway.putGateway(hop, of: route.destination.family)
        hops.put(UInt16(8 + gateway.payload.count))
        hops.put([hop.isOnLink ? UInt8(RTNH_F_ONLINK) : 0, UInt8(clamping: hop.weight - 1)])
        hops.put(hop.interface)
        hops.put(gateway.payload)
      }
      message.attribute(Int(RTA_MULTIPATH.rawValue), hops.payload)
    }
    try request(message, "route to \(route.destination)", verb + " the route")
  }
}

extension NetlinkMessage {
  fileprivate mutating func putGateway(_ hop: KernelRoute.NextHop, of family: IPFamily) {
    guard let gateway = hop.gateway else { return }
    if gateway.family == family {
      attribute(Int(RTA_GATEWAY.rawValue), gateway.octets)
    } else {
      attribute(Int(RTA_VIA.rawValue), [gateway.family.number, 0] + gateway.octets)
    }
  }
}
