import Addresses
import CLinux
import Compiler
import Dataplane
import Model
import Node
import Ports

/// The port to the other nodes, as it is open.
struct UnderlayPort {
  var index: PortIndex
  /// The packet socket.
  var port: AFPacketPort
  /// Those of the other workers, which share the device's packets with it.
  var others: [AFPacketPort] = []
  /// What is in front of them, where packets come by AF_XDP: of the first workers where the device has fewer queues.
  var xdp: [XDPPort] = []
  var guardian: IngressGuard
  var classifier: PacketClassifier
  var takesQueryReplies = false
  /// The setting that it was opened with.
  var tunnelOffload: Bool

  /// What the workers receive and send by, in their order; one: the others only send by it.
  var ports: [any Port] { xdp + ([port] + others).dropFirst(xdp.count) }
}

extension Agent {
  /// Opens, changes or closes the port to the other nodes; returns whether the compiler was told anything new.
  func settleUnderlay() -> Bool {
    guard let link = findUnderlay() else {
      let had = underlay != nil
      closeUnderlay()
      return had
    }
    if let open = underlay,
      open.port.interfaceIndex != link.index || open.port.mac != link.mac
        || open.tunnelOffload != compiler.settings.tunnelOffload
        || isWronglyPorted(link.index, isSteered: !open.xdp.isEmpty)
    {
      closeUnderlay()
    }
    if underlay == nil {
      do {
        try openUnderlay(link)
        clearTrouble("underlay")
      } catch {
        trouble("underlay", "\(error)")
        return false
      }
    }
    guard let open = underlay else { return false }
    let fact = Underlay(
      port: open.index, mac: open.port.mac, mtu: link.mtu,
      addresses: addresses.filter { $0.interface == link.index && $0.scope == 0 && !$0.isTentative }
        .map { InterfaceAddress($0.address, prefix: $0.prefix) }.sorted { $0.address < $1.address },
      gateways: defaultRoutes.sorted { $0.metric < $1.metric }.flatMap(\.nextHops)
        .filter { $0.interface == link.index }.compactMap(\.gateway))
    guard fact != compiler.underlay else { return false }
    if compiler.underlay?.mtu != fact.mtu {
      dataPath.change { $0.updatePort(open.index, describe(open.port, mtu: fact.mtu)) }
    }
    compiler.setUnderlay(fact)
    return true
  }

  private func describe(_ port: AFPacketPort, mtu: Int) -> PortDescription {
    PortDescription(
      name: port.name, role: .underlay, mac: port.mac, mtu: mtu, capabilities: port.capabilities, checksSource: true)
  }

  /// The device that the manifests mean: the one that they name, else the one that has the node's address.
  func findUnderlay() -> KernelLink? {
    if let name = compiler.settings.underlayInterface {
      if let link = links.values.first(where: { $0.name == name }) { return link }
      trouble("underlay", "waiting for the device \(name), which underlayInterface names", level: .warning)
      return nil
    }
    guard let node = compiler.ownNode else {
      trouble("underlay", "the node's manifest is gone: its address is not known")
      return nil
    }
    let own = IPFamily.allCases.compactMap { node.address($0) }
    guard !own.isEmpty else {
      trouble(
        "underlay", "the Node manifest has no InternalIP, so its device cannot be told; add one to status.addresses")
      return nil
    }
    for address in own {
      for found in addresses where found.address == address {
        if let link = links[found.interface], !link.isLoopback { return link }
      }
    }
    let text = own.map(\.description).joined(separator: " or ")
    trouble(
      "underlay",
      "waiting for a device with the node's address \(text) (`ip address` shows none); "
        + "if it is on none, name the device with underlayInterface in a NodeConfiguration", level: .warning)
    return nil
  }

  func underlayOptions() -> AFPacketPort.Options {
    var options = AFPacketPort.Options.underlay
    options.finishesTunnels = compiler.settings.tunnelOffload
    return options
  }

  private func openUnderlay(_ link: KernelLink) throws {
    let classifier = underlayClassifier()
    // The guard first: what comes before the socket is open is lost, not answered by the host.
    let guardian = try IngressGuard(interface: link.index, classifier: classifier, netlink: netlink)
    let options = underlayOptions()
    let filter = try socketFilter(classifier)
    let port: AFPacketPort
    if let inherited = inheritance.take(link.name, .packet) {
      port = try adopt(inherited, finishesTunnels: options.finishesTunnels)
      try port.setFilter(filter)
    } else {
      // Whichever socket it is, it goes with its ring where it does not suit the device.
      let spares = underlaySpare ?? PacketSpares(options: options, mtu: link.mtu, limit: 0)
      underlaySpare = nil
      port = try spares.open(interface: link.index, filter: filter)
    }
    let others = openOthers(port, filter)
    let xdp = openSteered(link.index, "underlay") { try $0.openUnderlay([port] + others, classifier) }
    var open = UnderlayPort(
      index: .none, port: port, others: others, xdp: xdp, guardian: guardian, classifier: classifier,
      takesQueryReplies: compiler.masqueradesOutgoing, tunnelOffload: options.finishesTunnels)
    open.index = try dataPath.change { tables in
      let index = tables.addPort(describe(port, mtu: link.mtu))
      do {
        try workers.add(open.ports, at: index, weight: Workers.underlayWeight)
      } catch {
        if !xdp.isEmpty { steered?.close(link.index) }
        tables.removePort(index)
        throw error
      }
      return index
    }
    underlay = open
    loosenReversePath(of: link.name)
    readNeighbours()
    if let refusal = port.tunnelRefusal { log.notice("underlay: \(refusal)") }
    log.info(
      "underlay: \(link.name), \(link.mac?.description ?? "?"), MTU \(link.mtu)\(xdp.isEmpty ? "" : ", by AF_XDP")")
  }

  /// The sockets of all workers but the first, which share the device's packets with the first one's; none where the kernel
  /// does not want it: then one worker receives.
  private func openOthers(_ leader: AFPacketPort, _ filter: [sock_filter]) -> [AFPacketPort] {
    guard workers.count > 1 else { return [] }
    do {
      try leader.lead(FlowSpread.program)
      return try (1..<workers.count).map { number in
        let port: AFPacketPort
        if let inherited = inheritance.take(Inheritance.name(leader.name, socket: number), .packet) {
          port = try adopt(inherited)
        } else {
          var options = underlayOptions()
          options.finishesTunnels = false
          options.filter = FlowSpread.nothing
          port = try AFPacketPort(interface: leader.interfaceIndex, options: options)
        }
        // Before it shares: for a moment two sockets get a packet, rather than none.
        try port.setFilter(filter)
        try port.follow(leader)
        return port
      }
    } catch {
      log.notice("underlay: \(error): one worker receives what comes by it")
      return []
    }
  }

  func closeUnderlay() {
    guard let open = underlay else { return }
    leaveOffload(open.port.interfaceIndex)
    if !open.xdp.isEmpty { steered?.close(open.port.interfaceIndex) }
    underlay = nil
    compiler.setUnderlay(nil)
    dataPath.change { tables in
      compiler.commit(to: &tables)
      workers.remove(open.index)
      tables.removePort(open.index)
    }
    do { try open.guardian.remove() } catch { log.error("\(error)") }
  }

  /// Answers of pods to other nodes' own addresses come without a tunnel, while the host's route to the pods leads into
  /// the data plane: strict reverse path filtering (RFC 3704, section 2.2) would drop them, the loose one does not.
  private func loosenReversePath(of device: String) {
    let own = "net/ipv4/conf/\(device)/rp_filter"
    guard let value = Sysctl.read(own), let all = Sysctl.read("net/ipv4/conf/all/rp_filter") else { return }
    guard max(Int(value) ?? 0, Int(all) ?? 0) == 1, Sysctl.write("2", to: own) else { return }
    if !restore.contains(where: { $0.name == own }) { restore.append((own, value)) }
    log.info("underlay: reverse path filtering of \(device) is loose (2) while the agent runs")
  }

  // MARK: What is ours

  /// Keeps filter and guard of the underlay equal to what the tables want.
  func settleClassifier() {
    guard var open = underlay else { return }
    let wanted = underlayClassifier()
    guard wanted != open.classifier || open.takesQueryReplies != compiler.masqueradesOutgoing else { return }
    do {
      // Both or none: one that is too long for the kernel must not leave the other alone.
      let filter = try socketFilter(wanted)
      try open.guardian.update(wanted)
      try setUnderlayFilter(open, filter)
      if !open.xdp.isEmpty { try steered?.set(wanted) }
      open.classifier = wanted
      open.takesQueryReplies = compiler.masqueradesOutgoing
      underlay = open
      clearTrouble("packet filter")
    } catch {
      trouble("packet filter", "\(error)")
    }
  }

  private func underlayClassifier() -> PacketClassifier {
    // What was ours once stays ours: while a pool changes its encapsulation, other nodes still send in the old one, and
    // the host would refuse it aloud (NODE-3).
    tunnelsSeen.formUnion(compiler.encapsulations)
    var protocols: [UInt8] = []
    var ports: [UInt16] = []
    if tunnelsSeen.contains(.ipip) { protocols += [IPProtocol.ipv4.rawValue, IPProtocol.ipv6.rawValue] }
    if tunnelsSeen.contains(.gre) { protocols.append(IPProtocol.gre.rawValue) }
    if tunnelsSeen.contains(.vxlan) { ports.append(compiler.settings.vxlanPort) }
    if tunnelsSeen.contains(.geneve) { ports.append(compiler.settings.genevePort) }
    return PacketClassifier(
      localAddresses: compiler.nodeAddresses.sorted(), udpPorts: ports, protocols: protocols,
      destinations: compiler.ownPodPrefixes + doors.prefixes, doors: doors.atHost)
  }

  func socketFilter(_ classifier: PacketClassifier) throws(NodeError) -> [sock_filter] {
    var classifier = classifier
    classifier.takesShared = true
    classifier.takesQueryReplies = compiler.masqueradesOutgoing
    return try classifier.socketFilter()
  }

  /// Has a port look at its device after an event about it.
  func refreshPort(of interface: Int32) {
    let ports: [any Port] =
      if let open = underlay, open.port.interfaceIndex == interface {
        open.ports
      } else if let host, host.port.interfaceIndex == interface {
        [host.port]
      } else {
        pods.values.first { $0.isVeth && $0.interface == interface }?.ports ?? []
      }
    dataPath.change { _ in
      for port in ports {
        (port as? AFPacketPort)?.refresh()
        (port as? TAPPort)?.refresh()
        (port as? XDPPort)?.refresh()
      }
    }
  }
}
