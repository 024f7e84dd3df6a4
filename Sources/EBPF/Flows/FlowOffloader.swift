public import Addresses
import CEBPF
public import Dataplane
import Glibc

/// A device whose packets the kernel may carry.
public struct OverlayPort: Sendable, Hashable {
  public var interface: Int32
  /// Its own Ethernet address, and the one that must send to it (NODE-4).
  public var mac: MACAddress
  public var peer: MACAddress?
  /// Where its packets come in, as the flows' keys have it: the pod's port; nil: the underlay.
  public var pod: PortIndex?
  /// Whether it is one end of a pair of which the other is in another network namespace.
  public var isPair: Bool
  /// The UDP ports of VXLAN and Geneve, and the Ethernet address inside; for the underlay.
  public var vxlanPort: UInt16 = 0
  public var genevePort: UInt16 = 0
  public var vtep = MACAddress.zero

  public init(interface: Int32, mac: MACAddress, peer: MACAddress? = nil, pod: PortIndex?, isPair: Bool) {
    self.interface = interface
    self.mac = mac
    self.peer = peer
    self.pod = pod
    self.isPair = isPair
  }

  var record: kalsae_port {
    kalsae_port(
      mac: mac.octets, peer: (peer ?? .zero).octets, zone: pod?.rawValue ?? 0xffff, checks_peer: peer == nil ? 0 : 1,
      is_underlay: pod == nil ? 1 : 0, vxlan_port: vxlanPort.bigEndian, geneve_port: genevePort.bigEndian,
      vtep: vtep.octets, zero: 0)
  }
}

/// Flows in the kernel: `overlay` carries packets of flows that the pipeline has decided from device to device.
///
/// What is attached outlives the process, so that flows go on without it; a new process begins with no flows and puts its
/// own programs in place. Bounded: `limit` directions of flows, some 200 octets of the kernel's memory each.
@safe
public final class FlowOffloader: FlowOffload {
  public let folder: PinFolder
  /// Where the programs of this network namespace are pinned: its devices' numbers mean nothing in another.
  private let place: String
  /// The most directions of flows.
  public let limit: Int
  private let object: BPFObject
  private let flows: BPFMap<kalsae_flow_key, kalsae_flow>
  private let portMap: BPFMap<UInt32, kalsae_port>
  private let claims: BPFMap<UInt32, Int32>
  private let counts: Descriptor
  private let epoch: UnsafeMutablePointer<UInt32>
  /// Where there is room for one value the kernel maps a page.
  private static let epochSize = 4096

  /// What is in the kernel: with which epoch, and what was counted of it.
  private struct Entry {
    var epoch: UInt32
    var packets: UInt64
    var octets: UInt64
  }
  private var entries: [OffloadKey: Entry] = [:]
  private var ports: [PortIndex: (interface: Int32, isPair: Bool)] = [:]
  public private(set) var installed: [Int32: OverlayPort] = [:]
  /// What keeps the programs at their devices: a socket's filter that leaves packets to a program that is gone would lose
  /// them, and what is pinned may go with its file system.
  private var attached: [Int32: Descriptor] = [:]
  /// Flows that were not taken for want of room.
  public private(set) var refused: UInt64 = 0

  private let way = DeviceWay.probe()

  /// Says in the map `meta` that flows in the kernel are wanted.
  static let mark: UInt64 = 1 << 34

  /// Why this kernel cannot; nil: it can.
  public static func refusal() -> String? { DeviceWay.refusal() }

  /// Loads the programs for a node. What was attached before goes on until `set` puts these in its place.
  public init(node: String, limit: Int = 1 << 16) throws(EBPFError) {
    if let refusal = FlowOffloader.refusal() { throw EBPFError(refusal) }
    self.limit = limit
    folder = PinFolder(node: node)
    place = folder.overlay(try SocketNamespace.cookie())
    object = try BPFObject("overlay", EmbeddedObjects.overlay)
    try object.resize("overlay_flows", limit)
    try object.load()
    flows = try BPFMap("overlay_flows", object.map("overlay_flows"))
    portMap = try BPFMap("overlay_ports", object.map("overlay_ports"))
    claims = try BPFMap("overlay_claims", object.map("overlay_claims"))
    counts = try object.map("overlay_counts")
    let epochMap = try object.map("overlay_epoch")
    var memory: UnsafeMutableRawPointer?
    try check(
      unsafe kalsae_bpf_map_memory(epochMap.number, FlowOffloader.epochSize, &memory), "cannot map the flows' epoch")
    unsafe epoch = memory!.bindMemory(to: UInt32.self, capacity: 1)
    unsafe epoch.pointee = 1
    try folder.make()
    try PinFolder.makeFolder(place)
    for (name, map) in [("flows", flows.descriptor), ("counts", counts), ("ports", portMap.descriptor)] {
      let path = "\(place)/\(name)"
      unsafe unlink(path)
      try check(unsafe kalsae_bpf_pin(map.number, path), "cannot pin map \(name) at \(path)")
    }
  }

  /// Whether what was loaded is still there: somebody may unload it.
  public var isThere: Bool { PinFolder.isThere(place) }

  deinit { unsafe munmap(epoch, FlowOffloader.epochSize) }

  // MARK: Devices

  /// Says which devices there are. `sockets` gives a device's packet sockets.
  public func set(_ wanted: [OverlayPort], sockets: (OverlayPort) -> [Int32]) throws(EBPFError) {
    let kept = Set(wanted.map(\.interface))
    for hook in DeviceHook.all(in: place) where !kept.contains(hook.interface) { hook.detach() }
    for interface in installed.keys where !kept.contains(interface) { forget(interface) }
    for port in wanted {
      let before = installed[port.interface]
      if before == port { continue }
      try portMap.write([UInt32(port.interface)], [port.record])
      if before == nil {
        // The sockets first: a packet that both take is better than one that nobody does.
        for socket in sockets(port) { try attachSocket(of: port, socket) }
        attached[port.interface] = try hook(port.interface).attach(object.program("overlay_carry"), by: way)
      }
      installed[port.interface] = port
      if let pod = port.pod { ports[pod] = (port.interface, port.isPair) } else { underlay = port.interface }
    }
  }

  /// The place of the underlay's port, to which flows that leave the node go.
  public var underlayPort: PortIndex? {
    didSet { if underlayPort != oldValue { invalidate() } }
  }
  private var underlay: Int32?

  /// Whether super-frames go into tunnels whole.
  public var wrapsSuperFrames = true {
    didSet { if wrapsSuperFrames != oldValue { invalidate() } }
  }

  /// Leaves a device to user space; its filter stays with its socket.
  public func forget(_ interface: Int32) {
    guard let port = installed.removeValue(forKey: interface) else { return }
    invalidate()
    if let pod = port.pod { ports[pod] = nil } else { underlay = nil }
    try? portMap.remove([UInt32(interface)])
    attached[interface] = nil
    hook(interface).detach()
  }

  private func hook(_ interface: Int32) -> DeviceHook {
    DeviceHook(place: place, program: .overlay, interface: interface)
  }

  /// The number of devices that a node's programs are attached to.
  static func devices(of folder: PinFolder) -> Int {
    folder.overlays.reduce(0) { total, place in total + DeviceHook.all(in: place).count }
  }

  private func attachSocket(of port: OverlayPort, _ socket: Int32) throws(EBPFError) {
    let program = try object.program(port.pod == nil ? "overlay_claim" : "overlay_filter")
    try check(kalsae_bpf_attach_socket(program, socket), "cannot filter what interface \(port.interface) receives")
  }

  /// Says what the underlay's socket takes besides: a classic filter of `count` instructions.
  public func setClaims(_ instructions: UnsafeRawBufferPointer, count: Int) throws(EBPFError) {
    let program = Descriptor(
      try check(
        unsafe kalsae_bpf_load_classic(instructions.baseAddress!, count), "cannot load the underlay's packet filter"))
    try claims.write([0], [program.number])
  }

  // MARK: Flows

  public func wants(_ key: OffloadKey, to port: PortIndex) -> Bool {
    let zone = UInt16(truncatingIfNeeded: key.tail >> 48)
    guard zone == 0xffff ? underlay != nil : ports[PortIndex(zone)] != nil, target(port) != nil else { return false }
    let now = unsafe epoch.pointee
    return entries[key]?.epoch != now
  }

  /// The device of a port, and whether packets go to its peer.
  private func target(_ port: PortIndex) -> (interface: Int32, isPair: Bool)? {
    port == underlayPort ? underlay.map { ($0, false) } : ports[port]
  }

  public func enter(_ flow: OffloadedFlow) -> Bool {
    let now = unsafe epoch.pointee
    let known = entries[flow.key]
    guard let target = target(flow.port) else { return false }
    guard known != nil || entries.count < limit else {
      refused &+= 1
      return false
    }
    var record = FlowOffloader.record(flow, epoch: now, out: target.interface, toPeer: target.isPair)
    if !wrapsSuperFrames, flow.encapsulation != .none { record.flags |= UInt8(KALSAE_FLOW_NO_SUPER_FRAMES) }
    guard (try? flows.write([flow.key.record], [record])) != nil else {
      refused &+= 1
      return false
    }
    entries[flow.key] = Entry(epoch: now, packets: 0, octets: 0)
    return true
  }

  public func remove(_ key: OffloadKey) {
    guard entries.removeValue(forKey: key) != nil else { return }
    try? flows.remove([key.record])
  }

  public func takeCounts(of key: OffloadKey) -> OffloadCounts? {
    guard var entry = entries[key], let value = flows.value(key.record, kalsae_flow()) else { return nil }
    let counts = OffloadCounts(
      packets: value.packets &- entry.packets, octets: value.octets &- entry.octets,
      lastSeen: UInt32(truncatingIfNeeded: value.last_seen / 1_000_000_000))
    entry.packets = value.packets
    entry.octets = value.octets
    entries[key] = entry
    return counts
  }

  public func invalidate() {
    // 0 is what entries have that nobody has written.
    unsafe epoch.pointee = epoch.pointee == .max ? 1 : epoch.pointee + 1
  }

  public var totals: (flows: Int, packets: UInt64, octets: UInt64) {
    (
      entries.count,
      kalsae_bpf_lookup_sum(counts.number, KALSAE_OVERLAY_CARRIED.rawValue),
      kalsae_bpf_lookup_sum(counts.number, KALSAE_OVERLAY_CARRIED_OCTETS.rawValue)
    )
  }

  static func record(_ flow: OffloadedFlow, epoch: UInt32, out: Int32, toPeer: Bool) -> kalsae_flow {
    var record = kalsae_flow()
    record.epoch = epoch
    record.out = UInt32(out)
    record.mtu = flow.mtu
    if let arrival = flow.arrival {
      record.in_kind = arrival.encapsulation.rawValue
      record.in_source = arrival.source.rawValue.bigEndian
      record.in_destination = arrival.destination.rawValue.bigEndian
      record.in_identifier = arrival.identifier
      if arrival.wantsSameClass { record.flags |= UInt8(KALSAE_FLOW_SAME_CLASS) }
      if arrival.wantsLongerLife { record.flags |= UInt8(KALSAE_FLOW_LONGER_LIFE) }
    }
    record.out_kind = flow.encapsulation.rawValue
    record.class_mask = flow.classMask
    record.sum = flow.sum
    if toPeer { record.flags |= UInt8(KALSAE_FLOW_TO_PEER) }
    if let translation = flow.translation {
      record.flags |= UInt8(KALSAE_FLOW_TRANSLATE)
      record.source = translation.source
      record.destination = translation.destination
      record.source_port = UInt16(truncatingIfNeeded: translation.ports)
      record.destination_port = UInt16(truncatingIfNeeded: translation.ports >> 16)
      record.address_delta = translation.addressDelta
    }
    unsafe withUnsafeMutableBytes(of: &record.header) { unsafe $0.copyBytes(from: flow.header.prefix($0.count)) }
    return record
  }

  // MARK: Runs

  /// Lets flows enter whose packets leave by a port, without anything being attached to a device: for `run`.
  public func pretend(_ port: OverlayPort) {
    if let pod = port.pod { ports[pod] = (port.interface, port.isPair) } else { underlay = port.interface }
  }

  /// What the program at a port's ingress makes of a frame: the frame, whether it was carried, and how long that took. For
  /// tests and measurements: the frame goes nowhere, and the loopback device stands for the port's.
  public func run(
    _ frame: [UInt8], at port: OverlayPort, segment: UInt32 = 0, repeating: UInt32 = 1
  ) throws(EBPFError) -> (frame: [UInt8], isCarried: Bool, nanoseconds: UInt32) {
    let interface: Int32 = 1
    try portMap.write([UInt32(interface)], [port.record])
    var octets = frame + [UInt8](repeating: 0, count: 256)
    var capacity = UInt32(octets.count)
    var verdict: UInt32 = 0
    var nanoseconds: UInt32 = 0
    let program = try object.program("overlay_carry")
    let result = unsafe octets.withUnsafeMutableBytes { buffer in
      unsafe kalsae_bpf_run(
        program, interface, 0, segment, buffer.baseAddress!, UInt32(frame.count), &capacity, repeating, &verdict,
        &nanoseconds)
    }
    try check(result, "cannot run the program")
    // TC_ACT_REDIRECT
    return (Array(octets.prefix(Int(capacity))), verdict == 7, nanoseconds)
  }

  // MARK: The end

  /// Takes programs, flows and folders of a node away, those of the caller's network namespace or of all. False where
  /// there was nothing. Sockets keep their filters, which then find no flow.
  @discardableResult
  public static func unload(node: String, everywhere: Bool = false) -> Bool {
    let folder = PinFolder(node: node)
    var places = folder.overlays
    if !everywhere {
      let own = (try? SocketNamespace.cookie()).map { folder.overlay($0) }
      places = places.filter { $0 == own }
    }
    for place in places {
      // Before the first program goes: what a device no longer carries the socket's filter must not hold back.
      if let pinned = PinFolder.get("\(place)/ports"),
        let ports: BPFMap<UInt32, kalsae_port> = try? BPFMap("overlay_ports", pinned)
      {
        try? ports.remove(ports.entries(0, kalsae_port()).map(\.key))
      }
      for hook in DeviceHook.all(in: place) { hook.detach() }
    }
    folder.remove { places.contains("\(folder.path)/\($0)") }
    return !places.isEmpty
  }
}

extension OffloadKey {
  var record: kalsae_flow_key {
    kalsae_flow_key(
      source: UInt32(truncatingIfNeeded: addresses), destination: UInt32(truncatingIfNeeded: addresses >> 32),
      source_port: UInt16(truncatingIfNeeded: tail), destination_port: UInt16(truncatingIfNeeded: tail >> 16),
      transport: UInt8(truncatingIfNeeded: tail >> 32), used: UInt8(truncatingIfNeeded: tail >> 40),
      zone: UInt16(truncatingIfNeeded: tail >> 48))
  }
}
