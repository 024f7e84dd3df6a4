import Addresses
import CEBPF
import Dataplane

/// What of a node's is loaded, read from the kernel.
public struct EBPFReport: Sendable, Codable {
  public struct HookLine: Sendable, Codable {
    public var hook: String
    public var kernel: String
    public var state: String
    public var purpose: String
  }

  public struct Counter: Sendable, Codable {
    public var name: String
    public var count: UInt64
    public var meaning: String

    /// The counters of a map, in the order of their names, and what they were before, if anything.
    static func sum(
      _ names: [(name: String, meaning: String)], of map: Descriptor, and before: [Counter]
    ) -> [Counter] {
      names.indices.map { index in
        let count = kalsae_bpf_lookup_sum(map.number, UInt32(index))
        return Counter(
          name: names[index].name, count: count + (before.isEmpty ? 0 : before[index].count),
          meaning: names[index].meaning)
      }
    }
  }

  /// nil: nothing is loaded; then the lines say what the kernel can do.
  public var node: String?
  public var folder: String?
  public var hooks: [HookLine]
  public var counters: [Counter] = []
  public var namespaces = 0
  public var frontends = 0
  public var notes: [String] = []
  /// nil: the kernel carries no flows.
  public var overlay: OverlayReport?
  /// nil: the kernel enforces no policy.
  public var policy: PolicyReport?

  /// The state of a node's programs; nil: of none.
  public static func read(node: String?) -> EBPFReport {
    let support = KernelSupport.probe()
    let folder = node.map { PinFolder(node: $0) }
    var wanted = Set(Hook.allCases)
    var marks = UInt64.max
    var report = EBPFReport(node: node, folder: folder?.path, hooks: [])
    if let folder, let meta = PinFolder.get("\(folder.maps)/meta"),
      let map = try? BPFMap<UInt32, UInt64>("meta", meta), let mask = map.value(1, 0)
    {
      marks = mask
      wanted = wanted.filter { mask & 1 << UInt64($0.number) != 0 }
    }
    let plan = support.plan(wanted: wanted)
    for hook in Hook.allCases {
      let isAttached = folder.map { PinFolder.isThere("\($0.links)/\(hook.rawValue)") } ?? false
      let state: String
      if isAttached {
        state = "attached"
      } else if case .off(let reason)? = plan[hook] {
        state = "\(reason): left to user space"
      } else {
        state = node == nil ? "not loaded" : "not attached: left to user space"
      }
      report.hooks.append(
        HookLine(
          hook: "sock_lb/\(hook.rawValue)", kernel: support.missing[hook].map { "no: \($0)" } ?? "yes", state: state,
          purpose: hook.purpose))
    }
    report.addDevices(folder, marks)
    if let folder {
      report.overlay = OverlayReport.read(folder)
      report.policy = PolicyReport.read(folder)
    }
    if !support.canRefuse {
      report.notes.append(
        "this kernel has no bpf_set_retval (Linux 5.18): connections that nobody can serve are refused in user space")
    }
    for hooks: (connect: Hook, answer: Hook, name: Hook) in [
      (.connect4, .recvmsg4, .getpeername4), (.connect6, .recvmsg6, .getpeername6),
    ] where plan[hooks.connect] == .use {
      if plan[hooks.answer] != .use {
        report.notes.append(
          "without \(hooks.answer.rawValue) user space translates datagrams, not \(hooks.connect.rawValue)")
      }
      if plan[hooks.name] != .use {
        report.notes.append("without \(hooks.name.rawValue) programs see the endpoint as their peer, not the service")
      }
    }
    guard let folder, folder.exists else { return report }
    report.counters = counters(folder)
    if let pinned = PinFolder.get("\(folder.maps)/namespaces"),
      let map = try? BPFMap<UInt64, kalsae_namespace>("namespaces", pinned)
    {
      let empty = SocketNamespace(role: .node, addresses: []).record
      report.namespaces = map.entries(0, empty).count
    }
    report.frontends = EBPFDump.services(node: folder.node).count
    return report
  }

  /// What is attached to devices. `marks` says what is wanted.
  private mutating func addDevices(_ folder: PinFolder?, _ marks: UInt64) {
    let refusal = DeviceWay.refusal()
    let ability =
      refusal.map { "no: \($0)" }
      ?? (DeviceWay.probe() == .link ? "yes" : "by filters of traffic control: no tcx (Linux 6.6)")
    func add(_ hook: String, _ ability: String, _ devices: Int, _ mark: UInt64, _ purpose: String) {
      let state: String
      if devices > 0 {
        state = "attached to \(devices) devices"
      } else if marks & mark == 0 {
        state = "switched off: left to user space"
      } else {
        state = node != nil || ability.hasPrefix("no:") ? "not attached: left to user space" : "not loaded"
      }
      hooks.append(HookLine(hook: hook, kernel: ability, state: state, purpose: purpose))
    }
    let attached = folder.map { PacketBalancer.devices(of: $0) } ?? []
    add(
      "overlay/ingress", ability, folder.map { FlowOffloader.devices(of: $0) } ?? 0, FlowOffloader.mark,
      "established flows are carried from device to device")
    let purpose = "packets to services while no data plane runs"
    add(
      "tc_lb/ingress", ability, attached.count { $0.program == .tc }, PacketBalancer.Program.tc.mark, purpose)
    add(
      "xdp_lb/xdp", PacketBalancer.earlyRefusal().map { "no: \($0)" } ?? "yes", attached.count { $0.program == .xdp },
      PacketBalancer.Program.xdp.mark, purpose)
    add(
      "policy/pods", ability, folder.map { PolicyEnforcer.devices(of: $0) } ?? 0, PolicyEnforcer.mark,
      "network policy, where no agent runs and the kernel routes")
  }

  static let counterNames: [(name: String, meaning: String)] = [
    ("translated", "connections that were made to an endpoint"),
    ("rejectedNoEndpoint", "refused: the service has no endpoint (KP-30)"),
    ("rejectedNoServicePort", "refused: the service has no such port (KP-37)"),
    ("leftNoLocalEndpoint", "left to the packet path, which drops them: no endpoint on this node (KP-31)"),
    ("leftSourceRange", "left to the packet path, which drops them: source not allowed (KP-38)"),
    ("leftMasquerade", "left to the packet path, which masquerades them (KP-34)"),
    ("leftNoEndpoint", "left to the packet path, which answers: nobody can serve them (KP-30, KP-37)"),
    ("bindRefused", "programs that wanted to listen on a NodePort"),
    ("tableFull", "flows that could not be remembered"),
    ("forwarded", "packets that were sent to an endpoint while no data plane ran"),
    ("answered", "packets of endpoints that were sent to their clients"),
    ("errors", "ICMP errors that were sent to whom they are about"),
    ("connections", "connections that packets opened"),
    ("noEndpoint", "packets dropped: the service has no endpoint (KP-30), or no more the one that sent them (KP-51)"),
    ("noLocalEndpoint", "packets dropped: no endpoint on this node (KP-31)"),
    ("sourceRange", "packets dropped: source not allowed (KP-38)"),
    ("noFreePort", "packets dropped: no port for a masqueraded connection (KP-36)"),
    ("leftRefusal", "fragments left to user space, which answers: nobody can serve them (KP-30, KP-37)"),
    ("leftPolicy", "packets left to user space: a network policy decides"),
    ("leftRoute", "packets left to user space: no way that the kernel knows"),
    ("leftSize", "packets left to user space: too big"),
    ("failed", "packets lost: the kernel could not change them"),
    ("noServicePort", "packets dropped: the service has no such port (KP-37)"),
    ("icmpRateLimited", "packets dropped without an answer: too many were told why"),
  ]

  private static func counters(_ folder: PinFolder) -> [Counter] {
    guard let pinned = PinFolder.get("\(folder.maps)/counters") else { return [] }
    return counterNames.indices.map { index in
      Counter(
        name: counterNames[index].name, count: kalsae_bpf_lookup_sum(pinned.number, UInt32(index)),
        meaning: counterNames[index].meaning)
    }
  }
}

/// What the maps of a node's programs hold.
public enum EBPFDump {
  public struct Service: Sendable, Codable {
    public var address: String
    public var transport: String
    public var port: UInt16
    public var kind: String
    public var isLocal: Bool
    public var affinity: UInt64
    public var endpoints: [String]
    public var localEndpoints: [String]
  }

  /// The frontends with their endpoints, sorted.
  public static func services(node: String) -> [Service] {
    let folder = PinFolder(node: node)
    let maps = try? ServiceMaps { name throws(EBPFError) in
      guard let map = PinFolder.get("\(folder.maps)/\(name)") else { throw EBPFError("no map \(name)") }
      return map
    }
    guard let maps else { return [] }
    let empty = kalsae_frontend_key(address: .zero, port: 0, transport: 0, zero: 0)
    func endpoints(_ list: UInt32, _ range: Range<UInt32>) -> [String] {
      range.compactMap { offset in
        guard let place = maps.lists.value(list + UInt32(KALSAE_LIST_HEAD) + offset, 0),
          let backend = maps.backends.value(
            UInt32(truncatingIfNeeded: place), kalsae_backend(address: .zero, port: 0, zero: 0, zero2: 0))
        else { return nil }
        return backend.endpoint.description
      }
    }
    return maps.frontends.entries(empty, 0).compactMap { entry -> (kalsae_frontend_key, Service)? in
      guard entry.value != 0,
        let record = maps.frontendRecords.value(entry.value, kalsae_frontend(service: 0, kind: 0, flags: 0, zero: 0)),
        let service = maps.services.value(record.service, kalsae_service(list: 0, zero: 0)), service.list != 0
      else { return nil }
      let counts = maps.lists.value(service.list + UInt32(KALSAE_LIST_COUNTS), 0) ?? 0
      let cluster = UInt32(truncatingIfNeeded: counts)
      let local = UInt32(truncatingIfNeeded: counts >> 32)
      return (
        entry.key,
        Service(
          address: record.kind == UInt8(KALSAE_NODE_PORT)
            ? (entry.key.address.address.family == .ipv4 ? "*" : "[*]") : "\(entry.key.address.address)",
          transport: transportName(entry.key.transport), port: UInt16(bigEndian: entry.key.port),
          kind: ["ClusterIP", "ExternalIP", "LoadBalancer", "NodePort"][Int(record.kind & 3)],
          isLocal: record.flags & UInt8(KALSAE_FRONTEND_LOCAL) != 0,
          affinity: maps.lists.value(service.list + UInt32(KALSAE_LIST_AFFINITY), 0) ?? 0,
          endpoints: endpoints(service.list, 0..<cluster),
          localEndpoints: endpoints(service.list, cluster..<cluster + local))
      )
    }
    .sorted { a, b in
      (a.0.address.address, a.1.port, a.1.transport) < (b.0.address.address, b.1.port, b.1.transport)
    }.map(\.1)
  }

  public struct Flow: Sendable, Codable {
    /// The cookie of the socket whose peer was translated; nil: packets were.
    public var socket: UInt64?
    /// Who opened the connection, where packets were translated.
    public var client: String?
    public var transport: String
    public var service: String
    public var endpoint: String
  }

  /// The sockets whose peers were translated, and the connections whose packets were: those that ended stay until their
  /// place is needed.
  public static func flows(node: String, limit: Int) -> [Flow] {
    let folder = PinFolder(node: node)
    let sockets = sockets(folder, limit: limit)
    return sockets + connections(folder, limit: limit - sockets.count)
  }

  private static func connections(_ folder: PinFolder, limit: Int) -> [Flow] {
    guard limit > 0, let pinned = PinFolder.get("\(folder.maps)/connections"),
      let map = try? BPFMap<kalsae_connection_key, kalsae_connection>("connections", pinned)
    else { return [] }
    func end(_ address: kalsae_address, _ port: UInt16) -> String {
      ServicePort.Endpoint(address.address, UInt16(bigEndian: port)).description
    }
    return map.entries(kalsae_connection_key(), kalsae_connection(), limit: limit * 2)
      .filter { $0.value.flags & UInt32(KALSAE_CONNECTION_REPLY) == 0 }.prefix(limit).map { key, value in
        Flow(
          client: end(key.source, key.source_port), transport: transportName(UInt8(truncatingIfNeeded: key.transport)),
          service: end(key.destination, key.destination_port),
          endpoint: end(value.destination, value.destination_port))
      }
  }

  private static func sockets(_ folder: PinFolder, limit: Int) -> [Flow] {
    guard let pinned = PinFolder.get("\(folder.maps)/sockets"),
      let map = try? BPFMap<kalsae_socket_key, kalsae_socket>("sockets", pinned)
    else { return [] }
    let key = kalsae_socket_key(cookie: 0, address: .zero, port: 0, transport: 0, direction: 0, zero: 0)
    let value = kalsae_socket(address: .zero, port: 0, zero: 0, zero2: 0, service: 0)
    return map.entries(key, value, limit: limit * 2).filter { $0.key.direction == UInt8(KALSAE_BACKWARD) }
      .prefix(limit).map {
        Flow(
          socket: $0.key.cookie, transport: transportName($0.key.transport),
          service: ServicePort.Endpoint($0.value.address.address, UInt16(bigEndian: $0.value.port)).description,
          endpoint: ServicePort.Endpoint($0.key.address.address, UInt16(bigEndian: $0.key.port)).description)
      }
  }

  private static func transportName(_ number: UInt8) -> String {
    switch number {
    case 6: "TCP"
    case 17: "UDP"
    case 132: "SCTP"
    default: "\(number)"
    }
  }
}
