import Addresses
import Compiler
import Dataplane
import Node

/// Where packets to services enter: what the host leaves to the data plane of what others send, and how the host's own
/// programs get there.
struct Doors {
  /// Ports of the host's own addresses that are the data plane's.
  var atHost: [PacketClassifier.Door] = []
  /// What is the data plane's whatever it carries: cluster IPs, and other addresses of services that the host does not
  /// have itself.
  var prefixes: [IPPrefix] = []
  /// What leads the host's own programs, and whoever sends by another device than the underlay, to services at the
  /// host's addresses, and the programs' answers back (KP-23, KP-24).
  var rules: Set<KernelRule> = []
  /// The host's addresses that those rules lead to the data plane.
  var addresses: [IPAddress] = []

  /// What it was made from.
  struct Source: Equatable {
    var version: Int
    var own: Set<IPAddress>
    var nodePortAddresses: Set<IPAddress>
    var masquerade: [IPAddress]
    var blocks: [IPPrefix]
    var usesMasquerade: Bool
    /// The devices, besides the underlay, that others may send to services by.
    var devices: [String] = []
  }
}

extension Agent {
  /// The transport protocols that have ports: TCP, UDP, SCTP.
  private static let transports: [UInt8] = [6, 17, 132]
  /// The routing table of services at the host's own addresses.
  static let doorTable: UInt32 = 107
  /// An address for `kalsae0`: with one, the kernel lets loose reverse path filtering pass what comes by the device from
  /// the host's own addresses. Nobody uses it.
  static let hostDeviceAddress = IPAddress.v4(IPv4Address(169, 254, 1, 2))

  /// Works out anew where services are entered, if anything about that has changed.
  func refreshDoors() {
    let services = compiler.serviceDoors
    let own = Set(addresses.filter { !$0.isTentative && $0.interface != host?.port.interfaceIndex }.map(\.address))
    let masquerade = IPFamily.allCases.compactMap(compiler.ownAddress)
    let source = Doors.Source(
      version: services.version, own: own, nodePortAddresses: compiler.nodePortAddresses, masquerade: masquerade,
      blocks: services.blocks, usesMasquerade: !services.isEmpty || compiler.masqueradesOutgoing,
      devices: otherDevices)
    if source != doorSource {
      doorSource = source
      doors = Agent.doors(services, source, masqueradePorts: compiler.masqueradePorts)
    }
    checkForwarding(source.devices)
  }

  /// The addresses of the machine that others can use: neither a loopback's nor of one link alone.
  var machineAddresses: Set<IPAddress> {
    Set(
      addresses.filter { !$0.isTentative && $0.interface != host?.port.interfaceIndex }.map(\.address)
        .filter { !$0.isLoopback && !$0.isLinkLocal })
  }

  /// The devices with such an address that are no ports of the data plane.
  private var otherDevices: [String] {
    let ports = Set(pods.values.filter(\.isVeth).map(\.interface) + [underlay?.port.interfaceIndex].compactMap(\.self))
    let usable = machineAddresses
    let interfaces = Set(addresses.filter { usable.contains($0.address) }.map(\.interface)).subtracting(ports)
    return interfaces.compactMap { links[$0] }.filter { !$0.isLoopback }.map(\.name).sorted()
  }

  /// What others send to services by a device besides the underlay reaches the data plane only where the host forwards.
  private func checkForwarding(_ devices: [String]) {
    let subject = "services by other devices"
    let closed = doors.rules.isEmpty ? [] : devices.filter { Sysctl.read("net/ipv4/conf/\($0)/forwarding") == "0" }
    guard !closed.isEmpty else { return clearTrouble(subject) }
    trouble(
      subject,
      "the host does not forward what comes by \(closed.joined(separator: ", ")), so that NodePorts are served there to "
        + "its own programs alone; set net.ipv4.ip_forward to 1, or choose addresses with nodePortAddresses",
      level: .warning)
  }

  static func doors(
    _ services: ServiceDoors, _ source: Doors.Source, masqueradePorts: ClosedRange<UInt16>
  ) -> Doors {
    var doors = Doors()
    doors.prefixes = services.blocks
    var addresses = Set<IPAddress>()
    for family in IPFamily.allCases {
      let nodePorts = services.nodePorts[family] ?? []
      let served = source.nodePortAddresses.filter { $0.family == family }.sorted()
      for transport in transports {
        let ranges = Set(nodePorts.filter { $0.transport == transport }.map(\.number)).ranges
        guard !ranges.isEmpty, !served.isEmpty else { continue }
        doors.atHost.append(PacketClassifier.Door(served, transport: transport, ports: ranges))
        addresses.formUnion(served)
        for range in ranges {
          for device in [ownPrograms] + source.devices {
            doors.rules.formUnion(Agent.rules(family, transport, range, by: device))
          }
        }
      }
      // KP-36: what comes back from masqueraded connections, from others and from servers on the host itself.
      guard source.usesMasquerade, let address = source.masquerade.first(where: { $0.family == family }) else {
        continue
      }
      addresses.insert(address)
      for transport in transports {
        doors.atHost.append(PacketClassifier.Door([address], transport: transport, ports: [masqueradePorts]))
        doors.rules.formUnion(Agent.rules(family, transport, masqueradePorts))
      }
    }
    for (address, ports) in services.addresses {
      guard source.own.contains(address) else {
        doors.prefixes.append(IPPrefix(host: address))
        continue
      }
      // An external IP that the host has itself: only the service's ports are the data plane's.
      addresses.insert(address)
      for transport in transports {
        let ranges = Set(ports.filter { $0.transport == transport }.map(\.number)).ranges
        guard !ranges.isEmpty else { continue }
        doors.atHost.append(PacketClassifier.Door([address], transport: transport, ports: ranges))
        for range in ranges {
          for device in [ownPrograms] + source.devices {
            doors.rules.formUnion(
              Agent.rules(address.family, transport, range, to: IPPrefix(host: address), by: device))
          }
        }
      }
    }
    doors.prefixes.sort { ($0.address, $0.length) < ($1.address, $1.length) }
    doors.atHost.sort { a, b in
      (a.addresses[0], a.transport, a.ports[0].lowerBound) < (b.addresses[0], b.transport, b.ports[0].lowerBound)
    }
    doors.addresses = addresses.sorted()
    return doors
  }

  /// What the kernel calls the way of packets of the host's own programs.
  private static let ownPrograms = "lo"

  /// The rules for a range of ports; Linux's cannot name port 65535, which the host's own programs then do not reach.
  private static func rules(
    _ family: IPFamily, _ transport: UInt8, _ ports: ClosedRange<UInt16>, to destination: IPPrefix? = nil,
    by device: String = ownPrograms
  ) -> [KernelRule] {
    guard ports.lowerBound < .max else { return [] }
    return [
      KernelRule(
        family, priority: 0, table: doorTable, incoming: device, destination: destination, transport: transport,
        destinationPorts: ports.lowerBound...min(ports.upperBound, .max - 1), origin: routeOrigin)
    ]
  }

  // MARK: The host's own programs

  /// The routes of the host that lead into the data plane.
  func wantedHostRoutes(_ interface: Int32) -> [KernelRouteKey: KernelRoute] {
    let present = Set(addresses.filter { !$0.isTentative }.map(\.address))
    var wanted: [KernelRouteKey: KernelRoute] = [:]
    func want(_ prefix: IPPrefix, _ table: UInt32, source: IPAddress?) {
      let gateway: IPAddress =
        prefix.family == .ipv4 ? .v4(PodAttachment.gateway4) : .v6(PodAttachment.gateway6)
      wanted[KernelRouteKey(prefix: prefix, table: table)] = KernelRoute(
        prefix, nextHops: [.init(gateway: gateway, interface: interface, isOnLink: true)], table: table,
        origin: Agent.routeOrigin, preferredSource: source.flatMap { present.contains($0) ? $0 : nil })
    }
    for prefix in compiler.podPrefixes + doors.prefixes {
      want(prefix, KernelRoute.mainTable, source: compiler.ownAddress(prefix.family))
    }
    for address in doors.addresses { want(IPPrefix(host: address), Agent.doorTable, source: address) }
    return wanted
  }

  /// Keeps the host's routing rules equal to what services need. Those of an agent that died are taken over.
  func settleRules() {
    for family in IPFamily.allCases {
      let wanted = doors.rules.filter { $0.family == family }
      guard wanted != rules[family] ?? [] || !rulesAreRead else { continue }
      do throws(NodeError) {
        let present = try netlink.rules(family).filter { $0.origin == Agent.routeOrigin && $0.table == Agent.doorTable }
        for rule in Set(present).subtracting(wanted) { try netlink.deleteRule(rule) }
        try netlink.addRulesBeforeLocal(Array(wanted.subtracting(present)), family)
        rules[family] = wanted
        clearTrouble("rules of \(family)")
      } catch {
        trouble(
          "rules of \(family)",
          "\(error): the host's own programs do not reach services at the host's addresses", level: .warning)
      }
    }
    rulesAreRead = true
  }

  func removeRules() {
    // They may be gone already, by somebody's hand.
    for rule in rules.values.joined() { try? netlink.deleteRule(rule) }
    rules = [:]
  }

  /// Lets 127.0.0.1 reach its NodePorts by `kalsae0`, where that is wanted (KP-24).
  func settleLocalhost() {
    guard let name = host?.port.name else { return }
    let value = compiler.settings.localhostNodePorts ? "1" : "0"
    let key = "net/ipv4/conf/\(name)/route_localnet"
    if Sysctl.read(key) != value { Sysctl.write(value, to: key) }
  }

  /// Keeps the host's programs from taking ports that masqueraded connections come from.
  func reserveMasqueradePorts() {
    guard doorSource?.usesMasquerade == true else { return }
    let name = "net/ipv4/ip_local_reserved_ports"
    let ports = compiler.masqueradePorts
    let text = "\(ports.lowerBound)-\(ports.upperBound)"
    guard let value = Sysctl.read(name), !value.split(separator: ",").contains(Substring(text)) else { return }
    let joined = value.isEmpty ? text : "\(value),\(text)"
    guard Sysctl.write(joined, to: name) else {
      return trouble("ports \(text)", "cannot be reserved in \(name): no program of the host must use them")
    }
    restore.append((name, value.isEmpty ? "\n" : value))
  }

  /// Has the kernel take from `kalsae0` what comes from the host's own addresses (a NodePort's answer, a masqueraded
  /// packet on its way out), and forward what is for others.
  func prepareHostDevice(_ name: String, _ interface: Int32) throws {
    for (key, value) in [("accept_local", "1"), ("rp_filter", "2"), ("forwarding", "1")]
    where !Sysctl.write(value, to: "net/ipv4/conf/\(name)/\(key)") {
      trouble("\(name) \(key)", "cannot be set to \(value)", level: .warning)
    }
    // Linux 6.17: forwarding by one device does not turn the host into a router.
    Sysctl.write("1", to: "net/ipv6/conf/\(name)/force_forwarding")
    var address = KernelAddress(interface: interface, address: Agent.hostDeviceAddress, prefixLength: 32)
    address.scope = 253
    try netlink.addAddress(address)
  }
}

/// What tells the agent's routes apart.
struct KernelRouteKey: Hashable {
  var prefix: IPPrefix
  var table: UInt32
}

extension Set<UInt16> {
  /// The same numbers in ranges, in order.
  fileprivate var ranges: [ClosedRange<UInt16>] {
    var result: [ClosedRange<UInt16>] = []
    for number in sorted() {
      if let last = result.last, last.upperBound + 1 == number {
        result[result.count - 1] = last.lowerBound...number
      } else {
        result.append(number...number)
      }
    }
    return result
  }
}
