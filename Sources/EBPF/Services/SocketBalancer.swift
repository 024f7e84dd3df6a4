public import Addresses
import CEBPF
public import Dataplane
import Glibc

/// A network namespace whose sockets are looked after.
public struct SocketNamespace: Sendable, Hashable {
  public enum Role: Sendable, Hashable {
    case node
    case pod
  }

  public var role: Role
  /// Its file; nil: the namespace is the caller's.
  public var path: String?
  /// What its connections come from (KP-38, KP-50).
  public var addresses: [IPAddress]
  /// The families whose connections to cluster IPs are masqueraded (KP-34), and so left to the packet path.
  public var foreign: Set<IPFamily>

  public init(role: Role, path: String? = nil, addresses: [IPAddress], foreign: Set<IPFamily> = []) {
    self.role = role
    self.path = path
    self.addresses = addresses
    self.foreign = foreign
  }

  /// The kernel's own number for a network namespace, given by its file; nil: the caller's.
  public static func cookie(of path: String? = nil) throws(EBPFError) -> UInt64 {
    var cookie: UInt64 = 0
    let result = unsafe kalsae_netns_cookie(path, &cookie)
    try check(result, "cannot tell the network namespace \(path ?? "of this process") apart")
    return cookie
  }

  var record: kalsae_namespace {
    func first(_ family: IPFamily) -> kalsae_address {
      addresses.first { $0.family == family }.map { kalsae_address($0) } ?? kalsae_address(any: family)
    }
    return kalsae_namespace(
      address4: first(.ipv4), address6: first(.ipv6),
      role: UInt32(role == .node ? KALSAE_ROLE_NODE : KALSAE_ROLE_POD),
      flags: (foreign.contains(.ipv4) ? UInt32(KALSAE_NAMESPACE_FOREIGN4) : 0)
        | (foreign.contains(.ipv6) ? UInt32(KALSAE_NAMESPACE_FOREIGN6) : 0))
  }
}

/// Services at the socket: loads `sock_lb`, attaches it to a control group, and keeps its maps equal to the tables.
///
/// What is loaded outlives the process; `unload` takes it away. Used from one thread.
public final class SocketBalancer {
  public struct Options: Sendable {
    public var hooks = Set(Hook.allCases)
    /// The control group whose processes' sockets are looked after; all of the machine's by default.
    public var cgroup: String?
    /// Whether packets are served too, while no data plane runs; nil: no.
    public var packets: PacketBalancer.Options?
    /// Whether `FlowOffloader` and `PolicyEnforcer` are wanted as well: for the status alone.
    public var carriesFlows = true
    public var enforcesPolicy = true
    /// Clients that are remembered (KP-50).
    public var affinityLimit = 1 << 16
    /// Flows of sockets that are remembered.
    public var socketLimit = 1 << 16
    public init() {}
  }

  public let folder: PinFolder
  public let plan: [Hook: HookPlan]
  /// What serves packets; nil: it is not wanted, or the kernel cannot.
  public let packets: PacketBalancer?
  private var mirror: ServiceMirror
  private let maps: ServiceMaps
  private let namespaceMap: BPFMap<UInt64, kalsae_namespace>
  private let socketMap: BPFMap<kalsae_socket_key, kalsae_socket>
  private var namespaces: [UInt64: SocketNamespace]

  /// The maps that go on from one agent to the next.
  private static let kept = ["affinity", "sockets"]
  static let mapNames = ServiceMaps.names + ["namespaces", "sockets", "meta"]

  /// Loads and attaches, or takes over what is attached: programs are changed for those of this version at once, and
  /// connections and clients that are remembered stay so. `changes` is all that the tables hold.
  public init(
    node: String, _ changes: ServiceChanges, namespaces: [UInt64: SocketNamespace], options: Options = Options()
  ) throws(EBPFError) {
    let cgroup = if let chosen = options.cgroup { chosen } else { try SocketBalancer.rootGroup() }
    guard unsafe kalsae_is_cgroup2(cgroup) else {
      throw EBPFError("\(cgroup) is no control group of version 2", hint: "give one below the mount of cgroup2")
    }
    let support = KernelSupport.probe()
    let plan = support.plan(wanted: options.hooks)
    var packetOptions = DeviceWay.refusal() == nil ? options.packets : nil
    if PacketBalancer.earlyRefusal() != nil { packetOptions?.programs.remove(.xdp) }
    guard plan.values.contains(.use) || packetOptions != nil else {
      throw EBPFError("no hook for services can be used", hint: "kalsae ebpf status says why")
    }
    let folder = PinFolder(node: node)
    let wasThere = PinFolder.isThere(folder.links)
    self.folder = folder
    self.plan = plan
    self.namespaces = namespaces
    try folder.make()
    try PinFolder.makeFolder(folder.links)
    do throws(EBPFError) {
      let object = try BPFObject("sock_lb", EmbeddedObjects.sock_lb)
      let capacity = ServiceMirror.Capacity(for: changes)
      try SocketBalancer.prepare(object, capacity, folder, options, plan, support)
      try object.load()
      maps = try ServiceMaps { (name) throws(EBPFError) -> Descriptor in try object.map(name) }
      mirror = ServiceMirror(capacity: capacity)
      guard let writes = try? mirror.apply(changes) else {
        throw EBPFError("the maps are too small for what they were made for")
      }
      try maps.write(writes)
      namespaceMap = try BPFMap("namespaces", object.map("namespaces"))
      try namespaceMap.write(Array(namespaces.keys), namespaces.values.map(\.record))
      socketMap = try BPFMap("sockets", object.map("sockets"))
      try SocketBalancer.writeMeta(object, options, support)
      packets = try packetOptions.map { options throws(EBPFError) in
        try PacketBalancer(
          in: folder, sharing: { (name) throws(EBPFError) in try object.map(name) },
          known: { PinFolder.get("\(folder.maps)/\($0)") }, options: options)
      }
      try SocketBalancer.pinMaps(of: object, packets, folder)
      try SocketBalancer.attach(object, folder, cgroup, plan)
      if packets == nil { PacketBalancer.detachAll(folder) }
      try folder.settleMaps()
    } catch {
      // What was there before goes on as it was.
      if wasThere { PinFolder.clear(folder.nextMaps) } else { folder.remove(SocketBalancer.owns) }
      throw error
    }
  }

  /// Where cgroup2 is mounted.
  public static func rootGroup() throws(EBPFError) -> String {
    for path in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] where unsafe kalsae_is_cgroup2(path) { return path }
    throw EBPFError(
      "no control groups of version 2 at /sys/fs/cgroup",
      hint: "mount -t cgroup2 none /sys/fs/cgroup/unified, or name the control group")
  }

  private static func prepare(
    _ object: BPFObject, _ capacity: ServiceMirror.Capacity, _ folder: PinFolder, _ options: Options,
    _ plan: [Hook: HookPlan], _ support: KernelSupport
  ) throws(EBPFError) {
    try object.resize(capacity)
    try object.setConstant(at: 0, support.canRefuse ? 1 : 0)
    try object.setConstant(at: 1, (plan[.recvmsg4] == .use ? 0 : 1) | (plan[.recvmsg6] == .use ? 0 : 2))
    for hook in Hook.allCases where plan[hook] != .use { try object.leaveOut(hook.rawValue) }
    for (name, limit) in zip(kept, [options.affinityLimit, options.socketLimit]) {
      try object.resize(name, limit)
      guard let old = PinFolder.get("\(folder.maps)/\(name)") else { continue }
      var key: UInt32 = 0
      var value: UInt32 = 0
      var entries: UInt32 = 0
      if unsafe kalsae_bpf_map_sizes(old.number, &key, &value, &entries) == 0, entries == UInt32(limit) {
        try object.reuse(name, old)
      }
    }
  }

  private static func writeMeta(
    _ object: BPFObject, _ options: Options, _ support: KernelSupport
  ) throws(EBPFError) {
    var wanted: UInt64 = 0
    for hook in options.hooks { wanted |= 1 << UInt64(hook.number) }
    for program in options.packets?.programs ?? [] { wanted |= program.mark }
    if options.carriesFlows { wanted |= FlowOffloader.mark }
    if options.enforcesPolicy { wanted |= PolicyEnforcer.mark }
    let meta: BPFMap<UInt32, UInt64> = try BPFMap("meta", object.map("meta"))
    try meta.write([0, 1, 2], [UInt64(KALSAE_EBPF_LAYOUT), wanted, support.canRefuse ? 1 : 0])
  }

  private static func pinMaps(
    of object: BPFObject, _ packets: PacketBalancer?, _ folder: PinFolder
  ) throws(EBPFError) {
    PinFolder.clear(folder.nextMaps)
    try PinFolder.makeFolder(folder.nextMaps)
    for name in mapNames + (packets == nil ? [] : PacketBalancer.mapNames) {
      let map =
        if let packets, PacketBalancer.mapNames.contains(name) { try packets.map(name) } else { try object.map(name) }
      let path = "\(folder.nextMaps)/\(name)"
      try check(unsafe kalsae_bpf_pin(map.number, path), "cannot pin map \(name) at \(path)")
    }
  }

  /// Puts the programs in place of those that are attached, and attaches the others.
  private static func attach(
    _ object: BPFObject, _ folder: PinFolder, _ cgroup: String, _ plan: [Hook: HookPlan]
  ) throws(EBPFError) {
    let group = Descriptor(
      try check(unsafe kalsae_open_folder(cgroup), "cannot open control group \(cgroup)"))
    for hook in Hook.order {
      let path = "\(folder.links)/\(hook.rawValue)"
      guard plan[hook] == .use else {
        detach(path)
        continue
      }
      let program = try object.program(hook.rawValue)
      if let link = PinFolder.get(path) {
        if kalsae_bpf_link_update(link.number, program) == 0 { continue }
        // Its control group is gone: a link that leads nowhere.
        detach(path)
      }
      let link = Descriptor(
        try check(
          kalsae_bpf_attach_cgroup(program, group.number, hook.number), "cannot attach \(hook.rawValue) to \(cgroup)"))
      try check(unsafe kalsae_bpf_pin(link.number, path), "cannot pin link \(hook.rawValue) at \(path)")
    }
  }

  private static func detach(_ path: String) {
    guard let link = PinFolder.get(path) else { return }
    _ = kalsae_bpf_link_detach(link.number)
    unsafe unlink(path)
  }

  // MARK: Changes

  /// Brings the maps up to date. False where they are too small: then another balancer is to be made with all that the
  /// tables hold, which takes over from this one.
  public func apply(_ changes: ServiceChanges) throws(EBPFError) -> Bool {
    if changes.isEmpty { return true }
    if mirror.isWaiting {
      try check(kalsae_bpf_wait_for_programs(), "cannot wait for the programs that run")
      mirror.release()
    }
    let writes: MapWrites
    do { writes = try mirror.apply(changes) } catch { return false }
    try maps.write(writes)
    try closeSockets(to: writes.removedMembers)
    return true
  }

  /// KP-51: datagrams to an endpoint that went are not sent into the void. A connected socket cannot be led elsewhere:
  /// it is closed, its program is told (ECONNABORTED), and connects anew.
  private func closeSockets(to gone: [kalsae_member_key]) throws(EBPFError) {
    if gone.isEmpty { return }
    final class Search {
      let gone: Set<ServicePort.Endpoint>
      let sockets: BPFMap<kalsae_socket_key, kalsae_socket>
      init(_ gone: Set<ServicePort.Endpoint>, _ sockets: BPFMap<kalsae_socket_key, kalsae_socket>) {
        self.gone = gone
        self.sockets = sockets
      }
    }
    let search = Search(
      Set(gone.map { ServicePort.Endpoint($0.address.address, UInt16(bigEndian: $0.port)) }), socketMap)
    for space in namespaces.values {
      let result = unsafe kalsae_udp_close(
        space.path,
        { context, socket in
          let search = unsafe Unmanaged<Search>.fromOpaque(context!).takeUnretainedValue()
          let peer = unsafe kalsae_address(word: socket!.pointee.peer)
          let port = unsafe socket!.pointee.port
          guard search.gone.contains(ServicePort.Endpoint(peer.address, UInt16(bigEndian: port))) else { return 0 }
          // Only one that was led there by a service.
          let key = unsafe kalsae_socket_key(
            cookie: socket!.pointee.cookie, address: peer, port: port, transport: 17,
            direction: UInt8(KALSAE_BACKWARD), zero: 0)
          let empty = kalsae_socket(address: .zero, port: 0, zero: 0, zero2: 0, service: 0)
          return search.sockets.value(key, empty) == nil ? 0 : 1
        }, Unmanaged.passUnretained(search).toOpaque())
      // A namespace that has gone has no sockets either.
      if result == -ENOENT { continue }
      try check(result, "cannot close the sockets that are connected to endpoints that went")
    }
  }

  /// Says which network namespaces are looked after.
  public func set(_ wanted: [UInt64: SocketNamespace]) throws(EBPFError) {
    let changed = wanted.filter { namespaces[$0.key] != $0.value }
    try namespaceMap.write(Array(changed.keys), changed.values.map(\.record))
    try namespaceMap.remove(namespaces.keys.filter { wanted[$0] == nil })
    namespaces = wanted
  }

  /// Whether what was loaded is still there: somebody may unload it.
  public var isThere: Bool { PinFolder.isThere(folder.links) }

  public var serviceCount: Int { mirror.serviceCount }
  public var frontendCount: Int { mirror.frontendCount }
  public var endpointCount: Int { mirror.endpointCount }

  // MARK: The end

  private static func owns(_ folder: String) -> Bool { folder == "links" || folder.hasPrefix("maps-") }

  /// Detaches all programs of a node and takes programs, maps and folders away. False where there was nothing.
  @discardableResult
  public static func unload(node: String) -> Bool {
    let folder = PinFolder(node: node)
    guard PinFolder.isThere(folder.links) else { return false }
    for hook in Hook.order.reversed() { detach("\(folder.links)/\(hook.rawValue)") }
    PacketBalancer.detachAll(folder)
    folder.remove(owns)
    return true
  }
}
