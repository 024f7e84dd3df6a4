import Addresses
import Compiler
import Dataplane
import Glibc
import Node
import Ports

/// The node's own door into the data plane.
struct HostDevice {
  var index: PortIndex
  var port: TAPPort
  var routes: [KernelRouteKey: KernelRoute] = [:]
}

extension Agent {
  /// Routes that the agent made in the kernel, as `ip route` shows them: `proto 107`.
  static let routeOrigin: UInt8 = 107

  /// Makes the device by which the host reaches pods. It goes with the agent, and its routes and neighbours go with it.
  func openHost() throws {
    var options = TAPPort.Options()
    options.up = false
    options.mtu = compiler.podMTU
    let port: TAPPort
    do throws(PortError) {
      if let inherited = inheritance.take(configuration.hostInterface, .tap) {
        port = try TAPPort(adopting: inherited, options: options)
      } else {
        port = try TAPPort(name: configuration.hostInterface, options: options)
      }
    } catch {
      guard error.code == EBUSY else { throw error }
      throw AgentError(
        .alreadyRunning,
        "\(configuration.hostInterface) belongs to another process: another agent runs in this network namespace")
    }
    let interface = port.interfaceIndex
    try netlink.disableIPv6Addresses(interface: interface)
    try netlink.setUp(true, interface: interface)
    try prepareHostDevice(port.name, interface)
    try netlink.setNeighbour(.v4(PodAttachment.gateway4), mac: PodAttachment.hostMAC, interface: interface)
    // Without IPv6 in the kernel there is nothing to enter.
    try? netlink.setNeighbour(.v6(PodAttachment.gateway6), mac: PodAttachment.hostMAC, interface: interface)
    let index = try dataPath.change { tables in
      port.refresh()
      let index = tables.addPort(describe(port, mtu: port.mtu))
      try workers.add([port], at: index)
      return index
    }
    host = HostDevice(index: index, port: port)
    compiler.setHostPort(HostPort(port: index, mac: PodAttachment.hostMAC, hostMAC: port.mac, mtu: port.mtu))
  }

  private func describe(_ port: TAPPort, mtu: Int) -> PortDescription {
    PortDescription(
      name: port.name, role: .host, mac: PodAttachment.hostMAC, mtu: mtu, capabilities: port.capabilities,
      checksSource: false)
  }

  /// Gives the host's device the pods' MTU (NODE-6); returns whether the compiler was told anything new.
  func settleHost() -> Bool {
    let isGone = host.map { host in
      links[host.port.interfaceIndex] == nil && dataPath.change { _ in host.port.isExhausted }
    }
    if isGone ?? true {
      closeHost()
      do {
        try openHost()
        clearTrouble(configuration.hostInterface)
        return true
      } catch {
        trouble(configuration.hostInterface, "\(error)")
      }
    }
    guard let host, var fact = compiler.hostPort, fact.mtu != compiler.podMTU else { return false }
    do throws(NodeError) {
      try netlink.setMTU(compiler.podMTU, interface: host.port.interfaceIndex)
      clearTrouble(host.port.name)
    } catch {
      trouble(host.port.name, "\(error)")
      return false
    }
    fact.mtu = compiler.podMTU
    dataPath.change { $0.updatePort(host.index, describe(host.port, mtu: fact.mtu)) }
    compiler.setHostPort(fact)
    return true
  }

  /// Routes to pools, blocks and services lead into the data plane.
  func settleHostRoutes() {
    guard var device = host else { return }
    defer { host = device }
    let wanted = wantedHostRoutes(device.port.interfaceIndex)
    for (key, route) in device.routes where wanted[key] == nil {
      // It may be gone already, by somebody's hand.
      try? netlink.deleteRoute(route)
      device.routes[key] = nil
    }
    for (key, route) in wanted where device.routes[key] != route {
      do throws(NodeError) {
        try netlink.replaceRoute(route)
        device.routes[key] = route
        clearTrouble("route to \(key.prefix)")
      } catch {
        // A kernel without IPv6 says so for each prefix; pods do not need the host's route.
        trouble("route to \(key.prefix)", "\(error)", level: .warning)
      }
    }
  }

  func closeHost() {
    guard let device = host else { return }
    host = nil
    compiler.setHostPort(nil)
    dataPath.change { tables in
      workers.remove(device.index)
      tables.removePort(device.index)
    }
    for route in device.routes.values { try? netlink.deleteRoute(route) }
  }
}
