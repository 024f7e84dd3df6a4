import Addresses
import Compiler
import Dataplane
import Model
import Node
import Ports

/// A pod's port, as it is open.
struct PodPort {
  var attachment: PodAttachment
  var index: PortIndex
  /// What the workers receive and send by, in their order; one: one of them receives, the others only send by it.
  var ports: [any Port]
  /// The device's index: in the agent's namespace for veth, in the pod's for TAP.
  var interface: Int32
  /// Keeps the host's stack from what the pod sends; TAP devices do not need it.
  var guardian: IngressGuard?

  var isVeth: Bool { attachment.type == .veth }
  /// Whether its packets come by AF_XDP.
  var isSteered: Bool { port is XDPPort }
  var port: any Port { ports[0] }
}

extension Agent {
  /// Opens and closes pods' ports as the compiler wants them; returns whether it was told anything new.
  func settlePods() -> Bool {
    var isNew = false
    let wanted = compiler.attachments
    for (key, open) in pods {
      if let attachment = wanted[key], isUsable(open, for: attachment) { continue }
      close(pod: key, isGone: wanted[key] == nil)
      isNew = true
    }
    for (key, attachment) in wanted {
      if let open = pods[key] {
        if open.attachment != attachment { update(key, open, attachment) }
        continue
      }
      do {
        guard let open = try open(attachment) else { continue }
        pods[key] = open
        compiler.setPort(open.index, for: key)
        clearTrouble("pod \(key.namespace)/\(key.name)")
        log.info("pod \(key.namespace)/\(key.name): attached by \(attachment.label), MTU \(attachment.mtu)")
        isNew = true
      } catch {
        trouble("pod \(key.namespace)/\(key.name)", "\(error)")
      }
    }
    return isNew
  }

  /// Whether an open port still is what the attachment asks for.
  private func isUsable(_ open: PodPort, for attachment: PodAttachment) -> Bool {
    let old = open.attachment
    guard old.type == attachment.type, old.interface == attachment.interface,
      old.networkNamespace == attachment.networkNamespace, old.containerInterface == attachment.containerInterface,
      old.mac == attachment.mac || open.isVeth
    else { return false }
    if open.isVeth {
      return links[open.interface]?.name == attachment.interface
        && !isWronglyPorted(open.interface, isSteered: open.isSteered)
    }
    return dataPath.change { _ in !open.port.isExhausted }
  }

  private func open(_ attachment: PodAttachment) throws -> PodPort? {
    switch attachment.type {
    case .veth: try openVeth(attachment)
    case .tap: try openTAP(attachment)
    }
  }

  private func openVeth(_ attachment: PodAttachment) throws -> PodPort? {
    guard let link = links.values.first(where: { $0.name == attachment.interface }) else {
      let pod = attachment.pod
      trouble(
        "pod \(pod.namespace)/\(pod.name)", "waiting for its interface \(attachment.interface)", level: .notice)
      return nil
    }
    // The host must not speak by the device: no new addresses of its own, and whatever comes in is the data plane's.
    try? netlink.disableIPv6Addresses(interface: link.index)
    let guardian = try IngressGuard(interface: link.index, classifier: .everything, netlink: netlink)
    let pod = attachment.pod
    let ports: [any Port]
    let steered = openSteered(link.index, "pod \(pod.namespace)/\(pod.name)") {
      try $0.openPod(link, workers: workers.count)
    }
    if !steered.isEmpty {
      ports = steered
    } else if let inherited = inheritance.take(attachment.interface, .packet) {
      ports = [try adopt(inherited)]
    } else {
      ports = [try spares.open(interface: link.index)]
      prepareSpares()
    }
    do {
      if !link.isUp { try netlink.setUp(true, interface: link.index) }
      let index = try add(ports, attachment)
      return PodPort(attachment: attachment, index: index, ports: ports, interface: link.index, guardian: guardian)
    } catch {
      if !steered.isEmpty { self.steered?.close(link.index) }
      throw error
    }
  }

  /// Has sockets prepared for pods to come, where they are missing.
  func prepareSpares() { prepare(spares, spares.reserve()) }

  /// From now on pods come one by one, with devices of this MTU.
  func keepSpares() {
    spares.trim()
    let mtu = CNIService.hostMTU(compiler.podMTU)
    if spares.mtu != mtu { spares = PacketSpares(mtu: mtu, limit: Agent.sparesKept) }
    prepareSpares()
  }

  /// As many as pods may come at once before one has to wait for its socket.
  static let sparesKept = 8
  /// The most threads that wait for sockets at once.
  private static let preparers = 64

  /// Begins to prepare the sockets of all devices that are there to be opened, so that the kernel is waited for once and
  /// not for each.
  func prepareSockets() {
    let names =
      compiler.settings.ports == .afXDP
      ? []
      : Set(
        compiler.attachments.values.filter { $0.type == .veth && !inheritance.has($0.interface) }.map(\.interface))
    let devices = links.values.filter { names.contains($0.name) }
    if let mtu = devices.map(\.mtu).max() { spares = PacketSpares(mtu: mtu, limit: Agent.sparesKept) }
    prepare(spares, spares.reserve(expected: devices.count))
    guard let link = findUnderlay(), !inheritance.has(link.name) else { return }
    let spare = PacketSpares(options: underlayOptions(), mtu: link.mtu, limit: 1)
    underlaySpare = spare
    prepare(spare, spare.reserve())
  }

  private func prepare(_ spares: PacketSpares, _ count: Int) {
    let threads = min(count, Agent.preparers)
    for thread in 0..<threads {
      let mine = (count - thread + threads - 1) / threads
      // Where one cannot be had, the next pod's port says why.
      let work: @Sendable () -> Void = { for _ in 0..<mine { try? spares.prepareReserved() } }
      if startThread(named: "kalsae-spare", work) != 0 { work() }
    }
  }

  private func openTAP(_ attachment: PodAttachment) throws -> PodPort? {
    guard let name = attachment.networkNamespace else { return nil }
    var options = TAPPort.Options()
    options.namespace = NetworkNamespace(name).path
    options.mac = attachment.mac
    options.mtu = attachment.mtu
    // The device outlives the agent, with the addresses and routes that somebody gave it.
    options.persistent = true
    let port: TAPPort
    if let inherited = inheritance.take(attachment.interface, .tap) {
      port = try TAPPort(adopting: inherited, options: options)
    } else {
      port = try TAPPort(name: attachment.containerInterface, options: options)
    }
    let index = try add([port], attachment)
    return PodPort(attachment: attachment, index: index, ports: [port], interface: port.interfaceIndex)
  }

  private func add(_ ports: [any Port], _ attachment: PodAttachment) throws -> PortIndex {
    try dataPath.change { tables in
      let index = tables.addPort(attachment.portDescription(capabilities: ports[0].capabilities))
      do { try workers.add(ports, at: index) } catch {
        tables.removePort(index)
        throw error
      }
      return index
    }
  }

  /// The attachment changed in ways that the port survives: addresses, MTU, source check.
  private func update(_ key: ObjectKey, _ open: PodPort, _ attachment: PodAttachment) {
    var changed = open
    changed.attachment = attachment
    pods[key] = changed
    dataPath.change { tables in
      tables.updatePort(open.index, attachment.portDescription(capabilities: open.port.capabilities))
    }
    guard open.attachment.mtu != attachment.mtu else { return }
    log.info("pod \(key.namespace)/\(key.name): MTU \(attachment.mtu), was \(open.attachment.mtu)")
    // The device inside is ours where it is a TAP. Of a veth pair only whoever made it knows the pod's end; until that
    // is changed, too big packets are answered with the right MTU (NODE-6). Its host end keeps its MTU: a smaller one
    // would make the kernel drop too big packets without a word before they are seen here.
    guard !open.isVeth, let name = attachment.networkNamespace else { return }
    do throws(NodeError) {
      try Netlink(in: NetworkNamespace(name)).setMTU(attachment.mtu, interface: open.interface)
      clearTrouble("pod \(key.namespace)/\(key.name)")
    } catch {
      trouble("pod \(key.namespace)/\(key.name)", "\(error)")
    }
  }

  /// `isGone`: the pod is no longer desired; else its device stays for the next agent.
  func close(pod key: ObjectKey, isGone: Bool) {
    guard let open = pods.removeValue(forKey: key) else { return }
    if open.isVeth { leaveOffload(open.interface) }
    if open.isSteered { steered?.close(open.interface) }
    compiler.setPort(nil, for: key)
    dataPath.change { tables in
      compiler.commit(to: &tables)
      workers.remove(open.index)
      tables.removePort(open.index)
    }
    // Removing a filter from a device that is being removed would only make both wait for each other.
    if departing.remove(open.attachment.interface) != nil { open.guardian?.abandon() }
    do { try open.guardian?.remove() } catch { log.error("\(error)") }
    if isGone, !open.isVeth, let name = open.attachment.networkNamespace {
      // The pod's namespace may be gone, and the device with it.
      try? Netlink(in: NetworkNamespace(name)).deleteLink(open.interface)
    }
    log.info("pod \(key.namespace)/\(key.name): detached")
  }
}

extension PodAttachment {
  /// What the pod is attached by, for people.
  var label: String {
    switch type {
    case .veth: interface
    case .tap: "TAP \(containerInterface) in \(networkNamespace ?? "?")"
    }
  }
}
