import Addresses
import CLinux
import Glibc
import Lab
import Synchronization
import Testing

@testable import Node

@Suite("Netlink messages")
struct NetlinkMessageTests {
  @Test("attributes are padded, nested, and lengths that lie are not followed")
  func attributes() {
    var message = NetlinkMessage(16, flags: 1)
    message.put(UInt32(0x0102_0304))
    message.attribute(3, "eth0")
    message.nested(18) { $0.attribute(1, UInt16(7)) }
    #expect(
      message.payload == [
        4, 3, 2, 1, 9, 0, 3, 0, 0x65, 0x74, 0x68, 0x30, 0, 0, 0, 0, 12, 0, 18, 0x80, 6, 0, 1, 0, 7, 0, 0, 0,
      ])
    let read = NetlinkReader(message.payload[...]).attributes(from: 4)
    #expect(read[3]?.text == "eth0")
    #expect(read[18]?.attributes()[1]?.u16() == 7)
    for bad in [[3, 0, 1, 0, 0], [200, 0, 1, 0, 9, 9, 9, 9], [0, 0, 0, 0], [4]] as [[UInt8]] {
      #expect(NetlinkReader(bad[...]).attributes().isEmpty)
    }
    #expect(NetlinkReader([1, 2][...]).u32() == 0)
  }

  @Test("messages of the kernel that are cut short are left out, not crashed on")
  func truncated() {
    for count in 0..<40 {
      let reader = NetlinkReader([UInt8](repeating: 2, count: count)[...])
      for type in 16...30 { _ = NetlinkEvent(type: UInt16(type), body: reader) }
    }
    #expect(KernelLink(NetlinkReader([][...])) == nil)
  }
}

/// These tests make network namespaces, which needs root; elsewhere they are reported as skipped.
@Suite("Netlink", .enabled(if: Lab.isAvailable, "needs root and network namespaces"))
struct NetlinkTests {
  private func two(_ name: String) throws -> (lab: Lab, a: Namespace, n: Namespace, netlink: Netlink) {
    let lab = try Lab(name: name)
    let (a, n) = (try lab.namespace("a"), try lab.namespace("n"))
    try lab.veth(Endpoint(a, "eth0", addresses: ["10.6.0.1/24", "fd06::1/64"]), Endpoint(n, "host0"))
    return (lab, a, n, try Netlink(in: NetworkNamespace(n.path)))
  }

  @Test("links are made, read, changed and removed")
  func links() throws {
    let (lab, a, n, netlink) = try two("links")
    defer { lab.cleanUp() }
    let mac = MACAddress("ee:ee:ee:ee:ee:ee")!
    try netlink.addVeth(
      .init("kal01234567890", mac: mac), .init("pod0", namespace: NetworkNamespace(a.path)), mtu: 1450)
    var link = try netlink.link(named: "kal01234567890")
    #expect(link.mac == mac && link.mtu == 1450 && link.kind == "veth" && !link.isUp && !link.isLoopback)
    #expect(link.peerNamespaceID != nil)
    #expect(try a.devices().contains("pod0"))
    try netlink.disableIPv6Addresses(interface: link.index)
    try netlink.setMTU(1400, interface: link.index)
    try netlink.setMAC(MACAddress("02:00:00:00:00:07")!, interface: link.index)
    try netlink.setUp(true, interface: link.index)
    try a.setUp("pod0")
    link = try netlink.link(index: link.index)
    #expect(link.mtu == 1400 && link.mac == MACAddress("02:00:00:00:00:07") && link.isUp)
    #expect(try netlink.addresses(of: link.index).isEmpty, "no link-local address of its own making")
    #expect(Set(try netlink.links().map(\.name)).isSuperset(of: ["lo", "host0", "kal01234567890"]))
    try netlink.setUp(false, interface: link.index)
    #expect(try !netlink.link(index: link.index).isUp)
    try netlink.deleteLink(link.index)
    #expect(try !n.devices().contains("kal01234567890"))
    #expect(try !a.devices().contains("pod0"))
  }

  @Test("addresses are added, listed and removed, in both families")
  func addresses() throws {
    let (lab, _, _, netlink) = try two("addr")
    defer { lab.cleanUp() }
    let device = try netlink.link(named: "host0").index
    for text in [("10.6.0.2", 24), ("fd06::2", 64)] {
      let address = KernelAddress(interface: device, address: IPAddress(text.0)!, prefixLength: text.1)
      try netlink.addAddress(address)
      try netlink.addAddress(address)
      let found = try netlink.addresses(of: device).first { $0.address == address.address }
      #expect(found?.prefixLength == text.1 && found?.isTentative == false)
      #expect(found?.prefix.description == (text.1 == 24 ? "10.6.0.0/24" : "fd06::/64"))
      try netlink.deleteAddress(address)
      #expect(try !netlink.addresses(of: device).contains { $0.address == address.address })
      let error = #expect(throws: NodeError.self) { try netlink.deleteAddress(address) }
      #expect(error?.code == EADDRNOTAVAIL && error?.subject == "host0")
    }
  }

  @Test("routes are added, replaced, listed and removed: blackholes, several next hops, IPv4 by an IPv6 router")
  func routes() throws {
    let (lab, _, n, netlink) = try two("routes")
    defer { lab.cleanUp() }
    let device = try netlink.link(named: "host0").index
    try n.ip("addr add 10.6.0.2/24 dev host0", "addr add fd06::2/64 dev host0 nodad")
    let via = { (text: String) in KernelRoute.NextHop(gateway: IPAddress(text)!, interface: device) }
    let routes = [
      KernelRoute(IPPrefix("10.244.1.0/24")!, nextHops: [via("10.6.0.7")], origin: 12, mtu: 1400),
      KernelRoute(IPPrefix("10.244.2.0/24")!, kind: .blackhole),
      KernelRoute(
        IPPrefix("10.244.3.0/24")!,
        nextHops: [
          .init(gateway: IPAddress("10.6.0.8")!, interface: device, weight: 3),
          .init(gateway: IPAddress("10.6.0.9")!, interface: device),
        ]),
      KernelRoute(IPPrefix("10.244.4.5/32")!, nextHops: [.init(interface: device)]),
      KernelRoute(IPPrefix("10.244.5.0/24")!, nextHops: [via("fd06::7")]),
      KernelRoute(
        IPPrefix("10.244.6.0/24")!,
        nextHops: [.init(gateway: IPAddress("192.0.2.1")!, interface: device, isOnLink: true)]),
      KernelRoute(IPPrefix("0.0.0.0/0")!, nextHops: [via("10.6.0.1")], metric: 50),
      KernelRoute(IPPrefix("fd00:10:244::/48")!, nextHops: [via("fd06::7")], metric: 1024),
    ]
    for route in routes {
      try netlink.addRoute(route)
      #expect(
        try netlink.routes().filter { $0.destination == route.destination && $0.metric == route.metric } == [route])
    }
    var changed = routes[0]
    changed.nextHops = [via("10.6.0.99")]
    #expect(throws: NodeError.self) { try netlink.addRoute(changed) }
    try netlink.replaceRoute(changed)
    #expect(try netlink.routes(family: .ipv4).contains(changed))
    for route in [changed] + routes.dropFirst() { try netlink.deleteRoute(route) }
    #expect(try netlink.routes(family: .ipv4).map(\.destination.description) == ["10.6.0.0/24"])
    #expect(try netlink.routes(table: 4711).isEmpty)
    let error = #expect(throws: NodeError.self) {
      try netlink.addRoute(KernelRoute(IPPrefix("10.9.0.0/16")!, nextHops: [.init(gateway: IPAddress("203.0.113.1")!)]))
    }
    #expect(error?.description.contains("route to 10.9.0.0/16") == true && error?.remedy != nil, "\(error!)")
  }

  @Test("a table of 20,000 routes is read whole and fast")
  func manyRoutes() throws {
    let (lab, _, n, netlink) = try two("many")
    defer { lab.cleanUp() }
    try n.ip((0..<20_000).map { "route add blackhole 10.\($0 / 256).\($0 % 256).0/24" })
    let start = ContinuousClock.now
    #expect(try netlink.routes(family: .ipv4).count == 20_000)
    #expect(ContinuousClock.now - start < .seconds(5))
  }

  @Test("neighbours are resolved on request, watched, kept alive and forgotten", arguments: ["10.6.0.1", "fd06::1"])
  func neighbours(text: String) throws {
    let (lab, a, n, netlink) = try two(text.contains(":") ? "neigh6" : "neigh4")
    defer { lab.cleanUp() }
    try n.ip("addr add 10.6.0.2/24 dev host0", "addr add fd06::2/64 dev host0 nodad")
    let device = try netlink.link(named: "host0").index
    let address = IPAddress(text)!
    let monitor = try NetlinkMonitor(.neighbours, in: NetworkNamespace(n.path))
    var events: [NetlinkEvent] = []
    func wait(_ what: String, _ matches: (KernelNeighbour) -> Bool) throws -> KernelNeighbour {
      try waitFor(what) {
        events += monitor.events()
        for case .neighbour(let neighbour) in events where matches(neighbour) { return neighbour }
        return nil
      }
    }
    try netlink.resolve(address, interface: device)
    let found = try wait("the neighbour") { $0.address == address && $0.isUsable }
    #expect(found.mac == (try a.mac(of: "eth0")))
    #expect(found.interface == device)
    #expect(try netlink.neighbours(of: device).contains { $0.address == address && $0.mac == found.mac })

    try netlink.forget(address, interface: device)
    try waitUntil("its removal") {
      events += monitor.events()
      return events.contains { if case .neighbourRemoved(let n) = $0 { n.address == address } else { false } }
        || events.contains {
          if case .neighbour(let n) = $0 { n.address == address && n.state == .failed } else { false }
        }
    }
    events = []
    try netlink.resolve(address, interface: device, keepAlive: true)
    _ = try wait("the managed neighbour") { $0.address == address && $0.isUsable }
    let listed = try n.run("ip", "neigh", "show", "dev", "host0").standardOutput
    #expect(listed.contains("managed") || kalsae_kernel_at_least(5, 16) == 0, "\(listed)")
  }

  @Test("a neighbour that does not answer fails, and says so")
  func failure() throws {
    let (lab, _, n, netlink) = try two("deaf")
    defer { lab.cleanUp() }
    try n.ip("addr add 10.6.0.2/24 dev host0")
    try n.sysctl("net/ipv4/neigh/host0/retrans_time_ms", "50")
    let device = try netlink.link(named: "host0").index
    let monitor = try NetlinkMonitor(.neighbours, in: NetworkNamespace(n.path))
    let missing = IPAddress("10.6.0.77")!
    try netlink.resolve(missing, interface: device)
    try waitUntil("failure") {
      monitor.events().contains {
        if case .neighbour(let n) = $0 { n.address == missing && n.state == .failed && !n.isUsable } else { false }
      }
    }
    try netlink.setNeighbour(missing, mac: MACAddress("02:00:00:00:00:77")!, interface: device)
    let entry = try netlink.neighbours(of: device).first { $0.address == missing }
    #expect(entry?.state == .permanent && entry?.isUsable == true)
  }

  @Test("a monitor's thread tells of links, addresses and routes in order, and stops")
  func monitor() throws {
    let (lab, _, n, netlink) = try two("monitor")
    defer { lab.cleanUp() }
    let monitor = try NetlinkMonitor([.links, .addresses, .routes], in: NetworkNamespace(n.path))
    let events = Mutex<[NetlinkEvent]>([])
    try monitor.start { event in events.withLock { $0.append(event) } }
    let device = try netlink.link(named: "host0").index
    try n.ip("addr add 10.6.0.2/24 dev host0", "route add 10.7.0.0/16 via 10.6.0.1", "link set host0 mtu 1300")
    try n.ip("route del 10.7.0.0/16", "addr del 10.6.0.2/24 dev host0", "link del host0")
    let route = IPPrefix("10.7.0.0/16")!
    try waitUntil("the end") {
      events.withLock { $0.contains { if case .linkRemoved(let l) = $0 { l.index == device } else { false } } }
    }
    monitor.stop()
    let seen = events.withLock { $0 }
    let steps: [(NetlinkEvent) -> Bool] = [
      { if case .address(let a) = $0 { a.address == IPAddress("10.6.0.2") && a.interface == device } else { false } },
      {
        if case .route(let r) = $0 {
          r.destination == route && r.nextHops[0].gateway == IPAddress("10.6.0.1")
        } else {
          false
        }
      },
      { if case .link(let l) = $0 { l.name == "host0" && l.mtu == 1300 } else { false } },
      { if case .routeRemoved(let r) = $0 { r.destination == route } else { false } },
      { if case .addressRemoved(let a) = $0 { a.address == IPAddress("10.6.0.2") } else { false } },
      { if case .linkRemoved(let l) = $0 { l.name == "host0" } else { false } },
    ]
    var rest = seen[...]
    for (number, step) in steps.enumerated() {
      let index = try #require(rest.firstIndex(where: step), "step \(number) is missing in \(seen)")
      rest = rest[(index + 1)...]
    }
    #expect(monitor.events().isEmpty)
  }

  @Test("errors name the device and what to do")
  func errors() throws {
    let (lab, _, n, netlink) = try two("errors")
    defer { lab.cleanUp() }
    let missing = #expect(throws: NodeError.self) { try netlink.link(named: "nope0") }
    #expect(missing?.description.contains("nope0: cannot find the device: ENODEV") == true)
    #expect(missing?.remedy?.contains("ip link") == true)
    let device = try netlink.link(named: "host0").index
    let mtu = #expect(throws: NodeError.self) { try netlink.setMTU(20, interface: device) }
    #expect(mtu?.subject == "host0" && mtu?.code == EINVAL && mtu?.detail != nil, "the kernel's own words: \(mtu!)")
    let namespace = #expect(throws: NodeError.self) { try Netlink(in: NetworkNamespace("kalsae-no-such")) }
    #expect(namespace?.description.contains("no such namespace") == true)
    #expect(throws: NodeError.self) { try netlink.addDummy("host0") }
    try n.ip("link set host0 down")
    #expect(throws: NodeError.self) {
      try netlink.addVeth(.init("x"), .init("y", namespace: NetworkNamespace("kalsae-no-such")))
    }
  }
}
