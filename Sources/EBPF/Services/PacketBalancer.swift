import Addresses
import CEBPF
public import Dataplane
import Glibc

/// Services on packets in the kernel: `tc_lb` at the ingress of pods' devices and of the underlay, and `xdp_lb` in front
/// of the underlay's.
///
/// They act while no data plane holds the lease: what is loaded outlives the process, and `unload` takes it away. Used
/// from one thread.
public final class PacketBalancer {
  public enum Program: String, Sendable, CaseIterable {
    case tc = "tc_lb"
    case xdp = "xdp_lb"

    /// Says in the map `meta` that the program is wanted; the lower half is the hooks'.
    var mark: UInt64 { self == .tc ? 1 << 32 : 1 << 33 }
  }

  /// What a program makes of a frame.
  public enum Verdict: Sendable, Equatable {
    /// Left to whoever comes next.
    case passed
    case dropped
    case sent
  }

  public struct Options: Sendable {
    public var programs: Set<Program> = [.tc]
    /// Directions of connections that are remembered; some 200 octets of the kernel's memory each.
    public var connectionLimit = 1 << 17
    public init() {}
  }

  private let tc: BPFObject
  private let xdp: BPFObject?
  private let options: Options
  private let config: BPFMap<UInt32, kalsae_lb_config>
  private var ports: Replica<UInt32, kalsae_lb_port, Int32, PortContent>
  private var places: Replica<kalsae_place_key, kalsae_place, IPPrefix, PlaceContent>
  private let connections: BPFMap<kalsae_connection_key, kalsae_connection>
  private let leaseMap: Descriptor
  private let counters: Descriptor
  /// Only where nobody else keeps the service tables.
  private var services: (mirror: ServiceMirror, maps: ServiceMaps)?

  /// Where the devices' links are pinned; nil: nothing is attached.
  private let folder: PinFolder?
  /// The devices that packets are looked at on, and those that pods are behind.
  private var devices: [Int32: Bool] = [:]

  private struct PortContent: Hashable {
    var port: BalancedPort
    var pod: Surroundings.Pod?
  }

  private struct PlaceContent: Hashable {
    var place: Surroundings.Place
    var port: BalancedPort?
  }

  /// Those that all programs share.
  static let mapNames = ["lb_config", "lb_ports", "lb_places", "connections", "lb_fragments", "lb_lease"]

  /// Loads the programs to read service tables that another keeps: `shared` gives the maps by their names. `known` gives
  /// the map of an earlier balancer that is to go on, by its name.
  init(
    in folder: PinFolder, sharing shared: (String) throws(EBPFError) -> Descriptor, known: (String) -> Descriptor?,
    options: Options
  ) throws(EBPFError) {
    self.options = options
    self.folder = folder
    tc = try BPFObject("tc_lb", EmbeddedObjects.tc_lb)
    for name in ServiceMaps.names { try tc.reuse(name, shared(name)) }
    try tc.resize("connections", options.connectionLimit)
    if let old = known("connections") {
      var (key, value, entries) = (UInt32(0), UInt32(0), UInt32(0))
      if unsafe kalsae_bpf_map_sizes(old.number, &key, &value, &entries) == 0,
        entries == UInt32(options.connectionLimit), key == UInt32(MemoryLayout<kalsae_connection_key>.size),
        value == UInt32(MemoryLayout<kalsae_connection>.size)
      {
        try tc.reuse("connections", old)
      }
    }
    // Whoever runs goes on running.
    if let old = known("lb_lease") { try tc.reuse("lb_lease", old) }
    (xdp, config, ports, places, connections, leaseMap, counters) = try PacketBalancer.load(tc, options)
  }

  /// Loads the programs with service tables of their own, attached to nothing.
  public init(_ changes: ServiceChanges, options: Options = Options()) throws(EBPFError) {
    self.options = options
    folder = nil
    tc = try BPFObject("tc_lb", EmbeddedObjects.tc_lb)
    let capacity = ServiceMirror.Capacity(for: changes)
    try tc.resize(capacity)
    try tc.resize("connections", options.connectionLimit)
    (xdp, config, ports, places, connections, leaseMap, counters) = try PacketBalancer.load(tc, options)
    var mirror = ServiceMirror(capacity: capacity)
    let maps = try ServiceMaps { [tc] (name) throws(EBPFError) -> Descriptor in try tc.map(name) }
    guard let writes = try? mirror.apply(changes) else {
      throw EBPFError("the maps are too small for what they were made for")
    }
    try maps.write(writes)
    services = (mirror, maps)
  }

  private typealias Loaded = (
    BPFObject?, BPFMap<UInt32, kalsae_lb_config>, Replica<UInt32, kalsae_lb_port, Int32, PortContent>,
    Replica<kalsae_place_key, kalsae_place, IPPrefix, PlaceContent>,
    BPFMap<kalsae_connection_key, kalsae_connection>, Descriptor, Descriptor
  )

  private static func load(_ tc: BPFObject, _ options: Options) throws(EBPFError) -> Loaded {
    try tc.load()
    var xdp: BPFObject?
    if options.programs.contains(.xdp) {
      let object = try BPFObject("xdp_lb", EmbeddedObjects.xdp_lb)
      for name in ServiceMaps.names + mapNames { try object.reuse(name, tc.map(name)) }
      try object.load()
      xdp = object
    }
    return (
      xdp, try BPFMap("lb_config", tc.map("lb_config")), Replica(try BPFMap("lb_ports", tc.map("lb_ports"))),
      Replica(try BPFMap("lb_places", tc.map("lb_places"))), try BPFMap("connections", tc.map("connections")),
      try tc.map("lb_lease"), try tc.map("counters")
    )
  }

  func map(_ name: String) throws(EBPFError) -> Descriptor { try tc.map(name) }

  // MARK: What the programs know

  /// Says what there is around: settings, addresses, and the devices that packets are looked at on. `underlay` is the
  /// port of the data path that the device without a pod stands for. `isDirect`: what comes from outside goes to endpoints
  /// whole, in IPIP (RFC 2003).
  public func set(
    _ settings: Settings, _ surroundings: Surroundings, _ list: [BalancedPort], underlay: PortIndex?,
    isDirect: Bool = false
  ) throws(EBPFError) {
    var record = kalsae_lb_config(settings)
    if isDirect { record.flags |= UInt32(KALSAE_LB_DIRECT) }
    try config.write([0], [record])
    var byPort: [PortIndex?: BalancedPort] = [:]
    for port in list { byPort[port.pod] = port }
    var wantedPlaces: [IPPrefix: PlaceContent] = [:]
    for (prefix, place) in surroundings.places {
      var content = PlaceContent(place: place)
      if let index = place.port { content.port = byPort[index == underlay ? nil : index] }
      wantedPlaces[prefix] = content
    }
    try places.set(wantedPlaces) {
      kalsae_place_key($0)
    } value: {
      kalsae_place($1.place, byPort, underlay: underlay)
    }
    var wantedPorts: [Int32: PortContent] = [:]
    var records: [Int32: kalsae_lb_port] = [:]
    for port in list {
      guard let record = port.record(surroundings) else { continue }
      records[port.interface] = record
      wantedPorts[port.interface] = PortContent(port: port, pod: port.pod.flatMap { surroundings.pods[$0] })
    }
    try ports.set(wantedPorts) {
      UInt32($0)
    } value: { interface, _ in
      records[interface]!
    }
    devices = wantedPorts.mapValues { $0.port.pod != nil }
  }

  // MARK: Devices

  /// Why packets cannot be served in front of a device; nil: they can.
  static func earlyRefusal() -> String? {
    let result = Withheld.probe("xdp", kalsae_bpf_probe_xdp)
    return result < 0 ? "programs for XDP cannot be loaded: \(errorText(-result))" : nil
  }

  /// Attaches the programs to the devices that were told, and takes them from all others.
  public func attach() throws(EBPFError) {
    guard let folder else { return }
    for (program, interface) in PacketBalancer.devices(of: folder)
    where devices[interface] == nil || program == .xdp && xdp == nil {
      PacketBalancer.detach(program, interface, folder)
    }
    let way = DeviceWay.probe()
    for (interface, isPod) in devices {
      try PacketBalancer.hook(interface, folder).attach(tc.program("tc_lb"), by: way)
      if let xdp, !isPod { try attachEarly(interface, xdp.program("xdp_lb"), folder) }
    }
  }

  private static func hook(_ interface: Int32, _ folder: PinFolder) -> DeviceHook {
    DeviceHook(place: folder.links, program: .balancer, interface: interface)
  }

  private static func earlyPath(_ interface: Int32, _ folder: PinFolder) -> String {
    "\(folder.links)/\(Program.xdp.rawValue)-\(interface)"
  }

  private func attachEarly(_ interface: Int32, _ number: Int32, _ folder: PinFolder) throws(EBPFError) {
    let path = PacketBalancer.earlyPath(interface, folder)
    if let link = PinFolder.get(path) {
      if kalsae_bpf_link_update(link.number, number) == 0 { return }
      // Its device is gone, and another has its number.
      unsafe unlink(path)
    }
    var isGeneric = false
    let link = Descriptor(
      try check(
        unsafe kalsae_bpf_attach_xdp(number, interface, &isGeneric), "cannot attach xdp_lb to interface \(interface)"))
    try check(unsafe kalsae_bpf_pin(link.number, path), "cannot pin the link of xdp_lb at \(path)")
  }

  /// The devices that a node's programs are attached to.
  static func devices(of folder: PinFolder) -> [(program: Program, interface: Int32)] {
    let early = PinFolder.list(folder.links).compactMap { name -> Int32? in
      name.hasPrefix("\(Program.xdp.rawValue)-") ? Int32(name.dropFirst(Program.xdp.rawValue.count + 1)) : nil
    }
    return DeviceHook.all(in: folder.links).map { (.tc, $0.interface) } + early.map { (.xdp, $0) }
  }

  static func detach(_ program: Program, _ interface: Int32, _ folder: PinFolder) {
    switch program {
    case .tc: hook(interface, folder).detach()
    case .xdp: unsafe unlink(earlyPath(interface, folder))
    }
  }

  /// Takes the programs from all devices of a node.
  static func detachAll(_ folder: PinFolder) {
    for (program, interface) in devices(of: folder) { detach(program, interface, folder) }
  }

  /// Brings service tables of one's own up to date. False where the maps are too small.
  public func apply(_ changes: ServiceChanges) throws(EBPFError) -> Bool {
    guard let maps = services?.maps, var mirror = services?.mirror else { return true }
    if mirror.isWaiting {
      try check(kalsae_bpf_wait_for_programs(), "cannot wait for the programs that run")
      mirror.release()
    }
    guard let writes = try? mirror.apply(changes) else { return false }
    services = (mirror, maps)
    try maps.write(writes)
    return true
  }

  /// What says that a data plane runs in this process: while it is held, and until the process ends, in whatever way,
  /// packets are left to the data plane.
  public final class Lease {
    private let socket: Descriptor
    /// The balancer that it was taken from; nil: another process's.
    fileprivate let owner: ObjectIdentifier?
    fileprivate init(_ map: Descriptor, owner: ObjectIdentifier?) throws(EBPFError) {
      self.owner = owner
      socket = Descriptor(try check(kalsae_bpf_hold(map.number), "cannot say that the data plane runs"))
    }
  }

  public func lease() throws(EBPFError) -> Lease { try Lease(leaseMap, owner: ObjectIdentifier(self)) }

  /// Whether a lease is of these programs, and not of earlier ones.
  public func isLeased(by lease: Lease?) -> Bool { lease?.owner == ObjectIdentifier(self) }

  /// The lease of what another process has loaded for a node; nil: there is nothing to be leased.
  public static func lease(node: String) -> Lease? {
    PinFolder.get("\(PinFolder(node: node).maps)/lb_lease").flatMap { try? Lease($0, owner: nil) }
  }

  /// The number of directions of connections.
  public var connectionCount: Int { connections.keyCount(kalsae_connection_key()) }

  func count(_ counter: kalsae_counter) -> UInt64 { kalsae_bpf_lookup_sum(counters.number, counter.rawValue) }

  /// What was dropped, by the data plane's reasons.
  public var drops: [DropReason: UInt64] {
    [
      .noEndpoint: count(KALSAE_LB_NO_ENDPOINT), .noLocalEndpoint: count(KALSAE_LB_NO_LOCAL_ENDPOINT),
      .sourceRange: count(KALSAE_LB_SOURCE_RANGE),
      .noFreePort: count(KALSAE_LB_NO_FREE_PORT), .noServicePort: count(KALSAE_LB_NO_PORT),
      .icmpRateLimited: count(KALSAE_LB_LIMITED),
    ]
  }

  /// Packets that were sent on: to endpoints, and back.
  public var forwarded: UInt64 { count(KALSAE_LB_FORWARDED) + count(KALSAE_LB_ANSWERED) }

  // MARK: Runs

  /// What a program makes of a frame that comes in by a port: the frame, the verdict, and how long that took. For tests and
  /// measurements: the frame goes nowhere, and the loopback device stands for the port's.
  public func run(
    _ frame: [UInt8], at port: BalancedPort, _ surroundings: Surroundings, by program: Program = .tc,
    segment: UInt32 = 0, repeating: UInt32 = 1
  ) throws(EBPFError) -> (frame: [UInt8], verdict: Verdict, nanoseconds: UInt32) {
    let interface: UInt32 = 1
    if let record = port.record(surroundings) {
      try ports.map.write([interface], [record])
    } else {
      try ports.map.remove([interface])
    }
    return try run(frame, by: program, segment: segment, repeating: repeating)
  }

  /// As before, of a frame that comes in by the port that the last one came in by.
  public func run(
    _ frame: [UInt8], by program: Program = .tc, segment: UInt32 = 0, repeating: UInt32 = 1
  ) throws(EBPFError) -> (frame: [UInt8], verdict: Verdict, nanoseconds: UInt32) {
    let object = program == .tc ? tc : xdp
    guard let object else { throw EBPFError("\(program.rawValue) is not loaded") }
    let (octets, result, nanoseconds) = try object.run(
      program, program.rawValue, frame, segment: segment, repeating: repeating)
    let verdict: Verdict
    switch (program, Int32(bitPattern: result)) {
    // TC_ACT_SHOT, XDP_DROP
    case (.tc, 2), (.xdp, 1): verdict = .dropped
    // TC_ACT_REDIRECT, XDP_TX, XDP_REDIRECT
    case (.tc, 7), (.xdp, 3), (.xdp, 4): verdict = .sent
    default: verdict = .passed
    }
    return (octets, verdict, nanoseconds)
  }
}
