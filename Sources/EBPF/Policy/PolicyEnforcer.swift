import CEBPF
public import Dataplane
import Glibc

/// Network policy in the kernel, for a node whose packets the kernel routes: loads `policy`, attaches it to pods' devices,
/// and keeps its maps equal to the tables.
///
/// What is attached outlives the process; `unload` takes it away. Used from one thread.
public final class PolicyEnforcer {
  /// Says in the map `meta` that policy in the kernel is wanted.
  static let mark: UInt64 = 1 << 35

  public struct Options: Sendable {
    /// Seconds that connections may be silent.
    public var timeouts = Settings.Timeouts()
    /// Seconds that the ports of a fragmented datagram are remembered.
    public var fragmentLifetime: UInt32 = 30
    /// Connections that are remembered; the longest silent ones give way.
    public var connectionLimit = 1 << 16
    /// Whether connections of TCP may be seen from the middle on (KP-39).
    public var tcpBeLiberal = true
    /// Whether endpoints may answer by a service's address what `tc_lb` sent them whole, in IPIP.
    public var isDirect = false
    /// The ports of tunnels, which no pod may send to (NODE-4).
    public var tunnelPorts: (vxlan: UInt16, geneve: UInt16) = (4789, 6081)

    public init() {}

    public init(_ settings: Settings, connectionLimit: Int) {
      timeouts = settings.timeouts
      fragmentLifetime = settings.fragmentLifetime
      tcpBeLiberal = settings.tcpBeLiberal
      tunnelPorts = (settings.vxlanPort, settings.genevePort)
      self.connectionLimit = connectionLimit
    }
  }

  public let folder: PinFolder
  /// Where this network namespace's programs and maps are pinned.
  private let place: String
  private let object: BPFObject
  private let maps: PolicyMaps
  private var mirror: PolicyMirror
  private var epoch: UInt64

  /// Loads the programs with all that the tables hold. What was attached before goes on until `attach` puts these in its
  /// place; connections that are remembered stay so, and are asked about anew.
  public init(
    node: String, _ changes: PolicyChanges, devices: [PortIndex: Int32], options: Options = Options()
  ) throws(EBPFError) {
    folder = PinFolder(node: node)
    place = folder.policy(try SocketNamespace.cookie())
    var capacity = PolicyMirror.Capacity()
    var (mirror, first) = (PolicyMirror(capacity: capacity), PolicyWrites())
    while true {
      do {
        first = try mirror.apply(changes, devices: devices)
        break
      } catch {
        capacity = capacity.doubled
        if capacity.rules > 1 << 26 { throw EBPFError("the rules are more than the kernel's maps take") }
        mirror = PolicyMirror(capacity: capacity)
      }
    }
    // Changes need room beside what is there.
    capacity = capacity.doubled
    mirror.widen(to: capacity)
    self.mirror = mirror
    object = try BPFObject("policy", EmbeddedObjects.policy)
    for (name, entries) in [
      ("policy_addresses", capacity.addresses), ("policy_pods", capacity.pods), ("policy_blocks", capacity.blocks),
      ("policy_rules", capacity.rules), ("policy_ranges", capacity.ranges), ("policy_conns", options.connectionLimit),
    ] { try object.resize(name, entries) }
    if options.isDirect, let connections = PinFolder.get("\(folder.maps)/connections") {
      try object.reuse("connections", connections)
    } else {
      try object.resize("connections", 1)
    }
    epoch = 1
    if let old = PinFolder.get("\(place)/policy_conns"), let state = PinFolder.get("\(place)/policy_state"),
      let words: BPFMap<UInt32, UInt64> = try? BPFMap("policy_state", state),
      let before = words.value(KALSAE_POLICY_EPOCH.rawValue, 0),
      let known: BPFMap<kalsae_policy_connection_key, kalsae_policy_connection> = try? BPFMap("policy_conns", old),
      known.limit == options.connectionLimit
    {
      try object.reuse("policy_conns", old)
      epoch = UInt64(UInt32(truncatingIfNeeded: before) &+ 1)
    }
    try object.load()
    let object = object
    maps = try PolicyMaps { (name) throws(EBPFError) -> Descriptor in try object.map(name) }
    let timeouts = options.timeouts
    let words: [(kalsae_policy_state, UInt64)] = [
      (KALSAE_POLICY_EPOCH, epoch), (KALSAE_POLICY_TCP_ESTABLISHED, UInt64(timeouts.tcpEstablished)),
      (KALSAE_POLICY_TCP_TRANSIENT, UInt64(timeouts.tcpTransient)), (KALSAE_POLICY_UDP, UInt64(timeouts.udp)),
      (KALSAE_POLICY_SCTP, UInt64(timeouts.sctp)), (KALSAE_POLICY_ICMP, UInt64(timeouts.icmp)),
      (KALSAE_POLICY_OTHER, UInt64(timeouts.other)), (KALSAE_POLICY_FRAGMENT, UInt64(options.fragmentLifetime)),
      (KALSAE_POLICY_STRICT, options.tcpBeLiberal ? 0 : 1), (KALSAE_POLICY_VXLAN, UInt64(options.tunnelPorts.vxlan)),
      (KALSAE_POLICY_GENEVE, UInt64(options.tunnelPorts.geneve)),
    ]
    try maps.state.write(words.map(\.0.rawValue), words.map(\.1))
    try maps.write(first)
  }

  // MARK: Changes

  /// Brings the maps up to date. False where they are too small: then another enforcer is to be made with all that the
  /// tables hold, which takes over from this one. After this no connection goes on that the rules do not allow any more.
  public func apply(_ changes: PolicyChanges, devices: [PortIndex: Int32]? = nil) throws(EBPFError) -> Bool {
    if changes.isEmpty, devices == nil { return true }
    if mirror.isWaiting {
      try check(kalsae_bpf_wait_for_programs(), "cannot wait for the programs that run")
      try maps.rules.remove(mirror.release())
    }
    let writes: PolicyWrites
    do { writes = try mirror.apply(changes, devices: devices) } catch { return false }
    try maps.write(writes)
    epoch = UInt64(UInt32(truncatingIfNeeded: epoch) &+ 1)
    try maps.state.write([KALSAE_POLICY_EPOCH.rawValue], [epoch])
    return true
  }

  public var ruleCount: Int { mirror.ruleCount }

  // MARK: Devices

  /// Attaches to these devices, and to no others any more.
  public func attach(_ interfaces: Set<Int32>) throws(EBPFError) {
    try folder.make()
    try PinFolder.makeFolder(place)
    for name in PolicyMaps.names {
      let path = "\(place)/\(name)"
      unsafe unlink(path)
      let map = try object.map(name)
      let result = withExtendedLifetime(map) { unsafe kalsae_bpf_pin(map.number, path) }
      try check(result, "cannot pin map \(name) at \(path)")
    }
    let way = DeviceWay.probe()
    for interface in interfaces {
      for (program, name) in [(DeviceProgram.policyFromPod, "policy_from_pod"), (.policyToPod, "policy_to_pod")] {
        try DeviceHook(place: place, program: program, interface: interface).attach(object.program(name), by: way)
      }
    }
    for hook in DeviceHook.all(in: place) where !interfaces.contains(hook.interface) { hook.detach() }
  }

  /// Takes the programs of a node out of the caller's network namespace, or out of all. False where there were none.
  @discardableResult
  public static func unload(node: String, everywhere: Bool = false) -> Bool {
    let folder = PinFolder(node: node)
    var places = folder.policies
    if !everywhere {
      let own = (try? SocketNamespace.cookie()).map { folder.policy($0) }
      places = places.filter { $0 == own }
    }
    for place in places { for hook in DeviceHook.all(in: place) { hook.detach() } }
    folder.remove { places.contains("\(folder.path)/\($0)") }
    return !places.isEmpty
  }

  /// The number of devices that a node's programs are attached to.
  static func devices(of folder: PinFolder) -> Int {
    folder.policies.reduce(0) { $0 + Set(DeviceHook.all(in: $1).map(\.interface)).count }
  }

  // MARK: Runs

  /// What a program makes of a frame that came in by the device with index `interface` (0: the node's own): why it is
  /// dropped, by the data plane's name, or nil. For tests and measurements.
  public func run(
    _ frame: [UInt8], fromPod: Bool, interface: Int32, repeating: UInt32 = 1
  ) throws(EBPFError) -> (dropped: String?, nanoseconds: UInt32) {
    if drops.isEmpty { drops = dropCounts }
    var octets = frame
    var capacity = UInt32(octets.count)
    var verdict: UInt32 = 0
    var nanoseconds: UInt32 = 0
    let program = try object.program(fromPod ? "policy_from_pod" : "policy_to_pod")
    let result = unsafe octets.withUnsafeMutableBytes { buffer in
      unsafe kalsae_bpf_run(
        program, 1, interface, 0, buffer.baseAddress!, UInt32(frame.count), &capacity, repeating, &verdict, &nanoseconds
      )
    }
    try check(result, "cannot run the program")
    guard octets == frame else { throw EBPFError("the program changed the packet") }
    // TC_ACT_SHOT
    if verdict != 2 { return (nil, nanoseconds) }
    let before = drops
    drops = dropCounts
    let changed = zip(PolicyReport.dropReasons, zip(before, drops)).first { $1.0 != $1.1 }?.0
    return (changed?.name ?? "nothing counted", nanoseconds)
  }

  /// What was dropped when a run last was, by reason.
  private var drops: [UInt64] = []

  private var dropCounts: [UInt64] {
    PolicyReport.dropReasons.indices.map {
      kalsae_bpf_lookup_sum(maps.counts.number, KALSAE_POLICY_DROP_EGRESS.rawValue + UInt32($0))
    }
  }
}
