import Addresses
import CNI
import Compiler
import IPAM
import Model
import Node
import Ports

extension CNIService {
  /// ADD: the interface is whole, with policy and routes in the tables, when this returns; or nothing of it is left
  /// (CNI-3, NP-9).
  func add(_ request: CNIRequest) throws(CNIError) -> JSON {
    let attachment = request.attachment
    let path = request.namespacePath ?? ""
    let (namespace, identity) = try namespace(path)
    if let known = store[attachment], known.phase == .ready {
      throw CNIError(
        .interfaceExists, "container \(attachment.containerID) has the interface \(attachment.interface) already",
        remedy: "remove it with DEL first, or choose another CNI_IFNAME")
    } else if let known = store[attachment] {
      // What an earlier ADD or DEL could not finish.
      try takeBack(known, try manager(request))
    }
    let facts = try prepare(request)
    var record = AttachmentRecord(
      phase: .adding, attachment: attachment, namespacePath: path, namespaceInode: identity.inode,
      boot: AttachmentStore.boot, pod: request.pod, type: request.configuration.interface,
      hostInterface: AttachmentRecord.hostInterface(attachment), isForeign: false,
      configuration: request.configuration.json)
    let manager: (any AddressManager)?
    let chained = request.configuration.previous
    if let chained { try adopt(chained, namespace, &record, request) }
    manager = chained == nil || request.configuration.addressManager != nil ? try self.manager(request) : nil
    if chained == nil {
      try refuseDHCP(request)
      try refuseExisting(request, namespace)
    }
    // From here on there may be something to take back, whoever is killed.
    try keep(record)
    do throws(CNIError) {
      let result = try make(&record, request, namespace, facts, manager)
      record.phase = .ready
      record.result = result.json(version: .newest)
      try keep(record)
      let pod = record.pod.map { "\($0)" } ?? "no pod"
      let list = record.addresses.map(\.description).joined(separator: ", ")
      log.info("CNI ADD \(attachment): \(pod), \(list) by \(record.hostInterface)")
      return result.json(version: request.configuration.version)
    } catch {
      log.error("CNI ADD \(attachment): \(error)")
      try? takeBack(record, manager)
      throw error
    }
  }

  /// What the control side says before anything is made.
  struct Facts: Sendable {
    var mtu: Int
    /// The queues of its device.
    var queues: Int
    var refusal: CNIError?
  }

  private func prepare(_ request: CNIRequest) throws(CNIError) -> Facts {
    let pod = request.pod
    let facts = try onControl(settles: false) { agent in
      Facts(
        mtu: agent.compiler.podMTU,
        queues: agent.wantedQueues,
        refusal: pod.flatMap { CNIService.unknownPolicy(of: $0, agent.compiler.state) })
    }
    if let refusal = facts.refusal { throw refusal }
    return facts
  }

  /// NP-9: a pod whose labels are not known yet, in a namespace whose policies go by labels, could be one that they
  /// isolate. It is refused until they are known.
  private static func unknownPolicy(of pod: PodName, _ state: State) -> CNIError? {
    guard state.pod(pod.namespace, pod.name) == nil else { return nil }
    let policies = state.networkPolicies.values.filter {
      $0.namespace == pod.namespace && $0.podSelector != LabelSelector()
    }
    guard let first = policies.map(\.name).min() else { return nil }
    return CNIError(
      .tryAgain,
      "pod \(pod) is not known here yet, so that nobody can tell whether NetworkPolicy \(pod.namespace)/\(first) selects it",
      remedy: "the runtime asks again; if it lasts, see whether the agent's state has the Pod")
  }

  /// CNI-3: an interface of that name is somebody's.
  private func refuseExisting(_ request: CNIRequest, _ namespace: NetworkNamespace) throws(CNIError) {
    guard (try? PodInterface(request.interface, in: namespace)) != nil else { return }
    throw CNIError(
      .interfaceExists, "the container's namespace has an interface \(request.interface) already",
      remedy: "choose another CNI_IFNAME, or remove the interface")
  }

  /// The reference plugin `dhcp` asks by the container's interface, before that has an address. Ours is a link to the data
  /// plane alone: no server hears it, and an address of the network's would not be found here by its neighbours.
  private func refuseDHCP(_ request: CNIRequest) throws(CNIError) {
    guard request.configuration.addressManager == "dhcp" else { return }
    throw CNIError(
      .invalidConfiguration, "\"ipam\": no DHCP server is reached by the interface that this plugin makes",
      remedy:
        "take addresses from \"kalsae\" or \"host-local\"; \"dhcp\" goes with an interface on the network itself, "
        + "such as macvlan's, as a further one of the container or before this plugin in the chain")
  }

  private func make(
    _ record: inout AttachmentRecord, _ request: CNIRequest, _ namespace: NetworkNamespace, _ facts: Facts,
    _ manager: (any AddressManager)?
  ) throws(CNIError) -> CNIResult {
    var assignment = Assignment(addresses: [])
    if let manager {
      do throws(IPAMError) {
        assignment = try manager.assign(try managers.assignRequest(for: request))
      } catch { throw CNIError(error) }
      record.addresses = assignment.addresses.map(\.address)
      try announceBlocks(of: record.addresses)
    }
    guard !record.addresses.isEmpty else {
      throw CNIError(
        .invalidConfiguration, "the interface would have no address",
        remedy:
          "name an \"ipam\" section in the network configuration, or chain the plugin behind one that gives addresses")
    }
    if record.mac == nil {
      record.mac = request.configuration.runtime.mac ?? record.addresses.first.map { MACAddress(pod: $0) }
    }
    let mtu = request.configuration.mtu.map { min($0, facts.mtu) } ?? facts.mtu
    if !record.isForeign { try makeInterface(record, namespace, mtu, facts.queues) }
    let entered = enter(record)
    // A TAP device comes with its port, which the control side opens; of a veth pair both ends are made ready at once.
    if record.type == .tap { try confirm(entered, record) }
    let inside: PodInterface
    var result = CNIResult()
    do throws(NodeError) {
      inside = try PodInterface(request.interface, in: namespace)
      if record.isForeign {
        result = request.configuration.previous ?? result
        // The gateways that the plugin before chose are the data plane by now, which has no reason to answer for them.
        for gateway in Set(result.addresses.compactMap(\.gateway) + result.routes.compactMap(\.gateway)) {
          try inside.setNeighbour(gateway, mac: PodAttachment.hostMAC)
        }
      } else {
        let routes = try inside.configure(
          addresses: record.addresses, routes: assignment.routes.map(\.destination), gateways: CNIService.gateways,
          mtu: mtu)
        result = CNIService.result(record, request, assignment, routes, mtu)
      }
    } catch { throw CNIService.kernel(error) }
    if record.type == .veth { try confirm(entered, record) }
    return result
  }

  /// Blocks that are new are told to the tables before a pod has an address of theirs.
  private func announceBlocks(of addresses: [IPAddress]) throws(CNIError) {
    let isKnown = known.withLock { known in
      addresses.allSatisfy { address in (known[node] ?? []).contains { $0.contains(address) } }
    }
    guard !isKnown, let blocks = newBlocks() else { return }
    try onControl(first: { $0.setBlocks(blocks) }, then: { _ in })
  }

  /// Looks whether other nodes have taken or given up blocks since.
  func refreshBlocks() {
    guard let blocks = newBlocks() else { return }
    _ = try? onControl(first: { $0.setBlocks(blocks) }, then: { _ in })
  }

  /// The blocks of all nodes; nil where they are what the tables know.
  private func newBlocks() -> [String: [IPPrefix]]? {
    let blocks = managers.blocks()
    return known.withLock { known in
      guard blocks != known else { return nil }
      known = blocks
      return blocks
    }
  }

  static let gateways: [IPFamily: IPAddress] = [
    .ipv4: .v4(PodAttachment.gateway4), .ipv6: .v6(PodAttachment.gateway6),
  ]

  /// The MTU of the host's end of a veth pair whose other end has `mtu`.
  static func hostMTU(_ mtu: Int) -> Int { max(mtu, 1500) }

  private func makeInterface(
    _ record: AttachmentRecord, _ namespace: NetworkNamespace, _ mtu: Int, _ queues: Int
  ) throws(CNIError) {
    guard record.type == .veth else { return }
    do throws(NodeError) {
      // The host's end keeps the largest MTU: the kernel drops what is larger than the receiving end's without a word,
      // and the data plane would not get to say so (NODE-6).
      try netlink.addVeth(
        .init(
          record.hostInterface, mac: PodAttachment.hostMAC, mtu: CNIService.hostMTU(mtu), alias: record.alias),
        .init(record.attachment.interface, mac: record.mac, namespace: namespace, mtu: mtu))
    } catch { throw CNIService.kernel(error) }
    guard queues > 1 else { return }
    // So the pod's stack deals its flows out to the workers; the node's end must not have fewer. Where it cannot be, whoever
    // opens the port says why.
    try? XDPPort.raiseQueues(of: record.hostInterface, to: queues)
    try? XDPPort.raiseQueues(of: record.attachment.interface, to: queues, namespace: namespace.path)
  }

  /// Has the tables hold the interface: policy, address and route, and its port open. Tells what keeps it from that.
  private func enter(_ record: AttachmentRecord) -> Answer<String?> {
    let key = record.key
    let container = record.container
    let install: @Sendable (Agent) -> Void = { $0.compiler.setContainer(container, for: key) }
    return control.start(install) { agent in
      if agent.pods[key]?.attachment.interface == container.attachment.interface { return nil }
      return agent.troubles["pod \(key.namespace)/\(key.name)"] ?? "its port did not open"
    }
  }

  private func confirm(_ entered: Answer<String?>, _ record: AttachmentRecord) throws(CNIError) {
    guard let problem = try CNIService.wait(for: entered) else { return }
    throw CNIError(
      .kernel, "\(record.hostInterface): \(problem)", remedy: "see `kalsae get status` and the agent's log")
  }

  private static func result(
    _ record: AttachmentRecord, _ request: CNIRequest, _ assignment: Assignment, _ routes: [KernelRoute], _ mtu: Int
  ) -> CNIResult {
    var result = CNIResult()
    if record.type == .veth {
      result.interfaces.append(
        .init(name: record.hostInterface, mac: PodAttachment.hostMAC.description, mtu: hostMTU(mtu)))
    }
    result.interfaces.append(
      .init(
        name: request.interface, mac: record.mac?.description, mtu: mtu, sandbox: request.namespacePath))
    let position = result.interfaces.count - 1
    result.addresses = record.addresses.map {
      .init($0, prefixLength: $0.family == .ipv4 ? 32 : 128, gateway: gateways[$0.family], interface: position)
    }
    result.routes = routes.map { .init($0.destination, gateway: gateways[$0.destination.family]) }
    result.dns = request.configuration.dns ?? assignment.dns.map { CNIService.json($0) }
    return result
  }

  private static func json(_ dns: NameResolution) -> JSON {
    func list(_ texts: [String]?) -> JSON? { texts.map { .array($0.map { .string($0) }) } }
    return JSON([
      "nameservers": list(dns.nameservers), "domain": dns.domain.map { .string($0) }, "search": list(dns.search),
      "options": list(dns.options),
    ])
  }

  /// CNI-11: takes the interface that the plugin before made: its addresses, its MAC, and the host's end of it.
  private func adopt(
    _ previous: CNIResult, _ namespace: NetworkNamespace, _ record: inout AttachmentRecord, _ request: CNIRequest
  ) throws(CNIError) {
    func refusal(_ problem: String) -> CNIError {
      CNIError(
        .invalidConfiguration, "prevResult: \(problem)",
        remedy: "chain the plugin behind one that makes a veth pair and gives addresses, or let it be the first")
    }
    guard record.type == .veth else { throw refusal("a TAP device cannot be another plugin's") }
    do {
      let inside = try PodInterface(request.interface, in: namespace).link()
      guard let peer = inside.peerIndex, let outside = try? netlink.link(index: peer), outside.kind == "veth",
        outside.peerIndex == inside.index
      else { throw refusal("\(request.interface) is no end of a veth pair whose other end is the node's") }
      record.hostInterface = outside.name
      record.mac = inside.mac
    } catch let error as CNIError {
      throw error
    } catch {
      throw refusal("\(error)")
    }
    record.isForeign = true
    record.addresses = previous.addresses.filter { address in
      guard let position = address.interface, previous.interfaces.indices.contains(position) else { return true }
      return previous.interfaces[position].name == request.interface
    }.map(\.address)
  }
}
