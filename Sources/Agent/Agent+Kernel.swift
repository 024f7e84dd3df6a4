import Addresses
import CLinux
import Compiler
import Dataplane
import Node

/// What the kernel tells, and what the worker asks.
extension Agent {
  /// Reads what the kernel's tables hold now; afterwards events tell what changes.
  func readKernel() throws(NodeError) {
    links = Dictionary(uniqueKeysWithValues: try netlink.links().map { ($0.index, $0) })
    addresses = Set(try netlink.addresses())
    defaultRoutes = Set(try netlink.routes().filter(Agent.isDefault))
    noteChange()
  }

  private static func isDefault(_ route: KernelRoute) -> Bool {
    route.destination.length == 0 && route.kind == .unicast && route.table == KernelRoute.mainTable
  }

  func take(_ events: [NetlinkEvent]) {
    for event in events {
      switch event {
      case .link(let link):
        if let old = links[link.index], old.isSame(as: link) {
          links[link.index] = link
          continue
        }
        links[link.index] = link
        refreshPort(of: link.index)
        noteChange()
      case .linkRemoved(let link):
        links[link.index] = nil
        steered?.forget(link.index)
        refreshPort(of: link.index)
        noteChange()
      case .address(let address):
        // The same address with other flags takes the place of the old one.
        addresses = addresses.filter { ($0.interface, $0.address) != (address.interface, address.address) }
        addresses.insert(address)
        noteChange()
      case .addressRemoved(let address):
        addresses = addresses.filter { ($0.interface, $0.address) != (address.interface, address.address) }
        noteChange()
      case .route(let route) where Agent.isDefault(route):
        defaultRoutes = defaultRoutes.filter { ($0.destination, $0.metric) != (route.destination, route.metric) }
        defaultRoutes.insert(route)
        noteChange()
      case .routeRemoved(let route) where Agent.isDefault(route):
        defaultRoutes = defaultRoutes.filter { ($0.destination, $0.metric) != (route.destination, route.metric) }
        noteChange()
      case .route, .routeRemoved: break
      case .neighbour(let neighbour): take(neighbour)
      case .neighbourRemoved(let neighbour): takeLost(neighbour)
      case .overrun:
        do {
          try readKernel()
          readNeighbours()
        } catch {
          trouble("rtnetlink", "\(error)")
        }
      }
    }
  }

  // MARK: Neighbours

  private func take(_ neighbour: KernelNeighbour) {
    guard neighbour.interface == underlay?.port.interfaceIndex, !neighbour.isProxy else { return }
    if neighbour.isUsable, let mac = neighbour.mac {
      compiler.setNeighbour(neighbour.address, .reachable(mac))
      clearTrouble("neighbour \(neighbour.address)")
    } else if neighbour.state == .failed {
      compiler.setNeighbour(neighbour.address, .failed)
      if keptNeighbours[neighbour.address] != nil {
        trouble("neighbour \(neighbour.address)", "does not answer on the underlay", level: .warning)
      }
    } else if compiler.neighbour(neighbour.address) == .failed {
      // It is being asked again: packets wait instead of being refused.
      compiler.setNeighbour(neighbour.address, nil)
    }
    noteNeighbours()
  }

  private func takeLost(_ neighbour: KernelNeighbour) {
    guard neighbour.interface == underlay?.port.interfaceIndex, !neighbour.isProxy else { return }
    compiler.setNeighbour(neighbour.address, nil)
    keptNeighbours[neighbour.address] = nil
    noteNeighbours()
  }

  /// Takes over what the kernel knows of the underlay's neighbours.
  func readNeighbours() {
    guard let interface = underlay?.port.interfaceIndex else { return }
    do throws(NodeError) {
      for neighbour in try netlink.neighbours(of: interface) { take(neighbour) }
    } catch {
      trouble("neighbours", "\(error)")
    }
  }

  /// Has the kernel find out, and keep fresh, the neighbours that hops need: packets that the data plane sends do not
  /// pass the kernel's table, so entries would age although they are used.
  func settleNeighbours() {
    guard let interface = underlay?.port.interfaceIndex else { return }
    let wanted = compiler.neighboursInUse
    for (address, _) in keptNeighbours where !wanted.contains(address) { forgetNeighbour(address) }
    for address in wanted where keptNeighbours[address] == nil {
      keptNeighbours[address] = interface
      resolve(address)
    }
  }

  func forgetNeighbour(_ address: IPAddress) {
    guard let interface = keptNeighbours.removeValue(forKey: address) else { return }
    // It may be gone already, with its device or by somebody's hand.
    try? netlink.forget(address, interface: interface)
  }

  private func resolve(_ address: IPAddress) {
    guard let interface = underlay?.port.interfaceIndex else { return }
    lastAsked[address] = kalsae_monotonic()
    do throws(NodeError) {
      try netlink.resolve(address, interface: interface, keepAlive: true)
    } catch {
      trouble("neighbour \(address)", "\(error)")
    }
  }

  // MARK: Requests of the worker

  func take(_ requests: [ControlRequest]) {
    for request in requests {
      switch request {
      case .resolve(let index):
        let hop = dataPath.change { $0.hop(index) }
        guard let address = hop?.neighbour else { continue }
        // The kernel asks for a second by itself; asking more often would begin anew each time.
        guard kalsae_monotonic() &- (lastAsked[address] ?? 0) > 200_000_000 else { continue }
        resolve(address)
      case .pathMTU(let index, let mtu):
        let hop = dataPath.change { $0.hop(index) }
        log.info(
          "path to \(hop?.tunnel?.remote.description ?? "hop \(index)"): packets of \(mtu) octets fit its tunnel")
      }
    }
  }
}

extension KernelLink {
  /// Whether nothing but counters differs.
  fileprivate func isSame(as other: KernelLink) -> Bool {
    var copy = other
    copy.transmitDrops = transmitDrops
    copy.receiveDrops = receiveDrops
    return self == copy
  }
}
