public import Addresses
import Glibc

/// The end of an interface that is inside of a container: its addresses and routes (NODE-1).
public struct PodInterface: Sendable {
  public let name: String
  public let index: Int32
  private let netlink: Netlink
  private let namespace: NetworkNamespace

  /// The interface of that name in a container's namespace.
  public init(_ name: String, in namespace: NetworkNamespace) throws(NodeError) {
    self.namespace = namespace
    netlink = try Netlink(in: namespace)
    self.name = name
    index = try netlink.link(named: name).index
  }

  public func link() throws(NodeError) -> KernelLink { try netlink.link(index: index) }

  /// The addresses of the interface.
  public func addresses() throws(NodeError) -> [KernelAddress] { try netlink.addresses(of: index) }

  /// The routes of the namespace that lead by the interface.
  public func routes() throws(NodeError) -> [KernelRoute] {
    try netlink.routes().filter { $0.nextHops.contains { $0.interface == index } }
  }

  public func setMTU(_ mtu: Int) throws(NodeError) { try netlink.setMTU(mtu, interface: index) }

  /// Gives the interface its addresses and sends what has another route's destination to the gateways.
  ///
  /// Where the namespace has a default route already this is a further interface: then it gets only the routes that are
  /// named and leaves the default alone. What the container sends from its addresses leaves by it all the same, by a rule
  /// and a table of its own: so answers go where they were asked, and no address is seen on an interface that does not
  /// have it (NODE-4, CNI-12).
  ///
  /// - Returns: the routes that were made, in the order of `routes`, the default routes last.
  public func configure(
    addresses: [IPAddress], routes: [IPPrefix], gateways: [IPFamily: IPAddress], mtu: Int
  ) throws(NodeError) -> [KernelRoute] {
    let families = Set(addresses.map(\.family))
    // IPv6 may be switched off for new interfaces, and nobody here sends router advertisements.
    if families.contains(.ipv6) {
      try namespace.writeSysctls([
        ("net/ipv6/conf/\(name)/disable_ipv6", "0"), ("net/ipv6/conf/\(name)/accept_ra", "0"),
      ])
    }
    if try netlink.link(index: index).mtu != mtu { try netlink.setMTU(mtu, interface: index) }
    try netlink.setUp(true, interface: index)
    for address in addresses {
      try netlink.addAddress(
        KernelAddress(interface: index, address: address, prefixLength: address.family == .ipv4 ? 32 : 128))
    }
    var made: [KernelRoute] = []
    let defaults = try netlink.routes().filter { $0.destination.length == 0 }
    for family in IPFamily.allCases where families.contains(family) {
      guard let gateway = gateways[family] else { continue }
      let isFurther = defaults.contains {
        $0.destination.family == family && !$0.nextHops.contains { $0.interface == index }
      }
      if family == .ipv4, !isFurther {
        try netlink.replaceRoute(
          KernelRoute(IPPrefix(host: gateway), nextHops: [.init(interface: index)], origin: PodInterface.origin))
      }
      var wanted = routes.filter { $0.family == family && $0.length > 0 }
      let any: IPAddress = family == .ipv4 ? .v4(.any) : .v6(.any)
      if !isFurther, let all = IPPrefix(any, length: 0) { wanted.append(all) }
      for destination in wanted {
        let route = KernelRoute(
          destination, nextHops: [.init(gateway: gateway, interface: index, isOnLink: isFurther)],
          origin: PodInterface.origin)
        try netlink.replaceRoute(route)
        made.append(route)
      }
      if isFurther, let all = IPPrefix(any, length: 0) {
        try lead(addresses.filter { $0.family == family }, by: gateway, all)
      }
    }
    return made
  }

  /// What comes from these addresses of the container's leaves by the interface.
  private func lead(_ addresses: [IPAddress], by gateway: IPAddress, _ all: IPPrefix) throws(NodeError) {
    try netlink.replaceRoute(
      KernelRoute(
        all, nextHops: [.init(gateway: gateway, interface: index, isOnLink: true)], table: ownTable,
        origin: PodInterface.origin))
    for address in addresses {
      try netlink.addRule(
        KernelRule(
          address.family, priority: PodInterface.rulePriority, table: ownTable, source: IPPrefix(host: address),
          origin: PodInterface.origin))
    }
  }

  /// The routing table of a further interface. No two interfaces of a namespace have the same.
  private var ownTable: UInt32 { 107_000 + UInt32(bitPattern: index) }

  /// Before the main table, which has 32766.
  private static let rulePriority: UInt32 = 30_107

  /// Enters a neighbour of the interface for good, so that nobody has to be asked.
  public func setNeighbour(_ address: IPAddress, mac: MACAddress) throws(NodeError) {
    try netlink.setNeighbour(address, mac: mac, interface: index)
  }

  /// Who made the routes: 3, as container runtimes' plugins do (`proto boot`).
  private static let origin: UInt8 = 3

  /// Removes the rules for what comes from addresses of a further interface: they do not go with it.
  public static func removeRules(for addresses: [IPAddress], in namespace: NetworkNamespace) {
    guard let netlink = try? Netlink(in: namespace) else { return }
    let sources = Set(addresses.map { IPPrefix(host: $0) })
    for family in Set(addresses.map(\.family)) {
      for rule in (try? netlink.rules(family)) ?? []
      where rule.priority == rulePriority && rule.source.map(sources.contains) ?? false {
        // Somebody may have been quicker.
        try? netlink.deleteRule(rule)
      }
    }
  }

  /// Removes the interface, and its peer with it.
  public func remove() throws(NodeError) { try netlink.deleteLink(index) }
}
