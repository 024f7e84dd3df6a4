public import Addresses
import CEBPF

/// Which packets that a device brings are the data plane's: the fields of the packet classifier, for a program that looks
/// them up in maps.
public struct Steering: Sendable, Equatable {
  /// Ports of a transport protocol at some of the host's addresses.
  public struct Door: Sendable, Equatable {
    public var addresses: [IPAddress]
    public var transport: UInt8
    public var ports: [ClosedRange<UInt16>]

    public init(_ addresses: [IPAddress], transport: UInt8, ports: [ClosedRange<UInt16>]) {
      self.addresses = addresses
      self.transport = transport
      self.ports = ports
    }
  }

  /// The addresses that tunnels end at; UDP ports and protocols of tunnels count for these alone.
  public var localAddresses: [IPAddress] = []
  public var udpPorts: [UInt16] = []
  public var protocols: [UInt8] = []
  public var doors: [Door] = []
  /// Pods and services: ours whatever is sent there.
  public var destinations: [IPPrefix] = []
  /// The addresses that the data plane answers for by ARP and neighbour discovery.
  public var targets: [IPAddress] = []
  /// The devices that are shared with the host, and those that are the data plane's alone.
  public var sharedDevices: [Int32] = []
  public var ownDevices: [Int32] = []

  public init() {}
}

/// Steers packets before the kernel has made its own of them: the data plane's to its AF_XDP sockets, where there are some,
/// all others on.
public final class Steerer {
  private let object: BPFObject
  private let devices: BPFMap<UInt32, UInt32>
  private let addresses: BPFMap<kalsae_address, UInt32>
  private let prefixes: BPFMap<kalsae_steer_prefix_key, UInt32>
  private let ports: BPFMap<kalsae_steer_port_key, UInt32>
  private let protocols: BPFMap<UInt32, UInt64>
  private let targets: BPFMap<kalsae_address, UInt32>
  private let sockets: BPFMap<UInt32, UInt32>
  private let counts: Descriptor
  /// Where the sockets of devices' queues are in `steer_sockets`.
  private var places: [Int32: Range<UInt32>] = [:]
  private var steering = Steering()
  /// What keeps the program at devices.
  private var links: [Int32: Descriptor] = [:]

  private struct Image: Equatable {
    var devices: [UInt32: UInt32] = [:]
    var addresses: [IPAddress: UInt32] = [:]
    var prefixes: Set<IPPrefix> = []
    var ports: Set<PortPrefix> = []
    var protocols: [UInt64] = [0, 0, 0, 0]
    var targets: Set<IPAddress> = []
  }

  /// Neighbouring ports of a group that begin with the same bits.
  private struct PortPrefix: Hashable {
    var group: UInt32
    var transport: UInt8
    var port: UInt16
    var length: Int

    var key: kalsae_steer_port_key {
      kalsae_steer_port_key(
        length: 64 + UInt32(length), group: group, transport: UInt32(transport), port: port.bigEndian, zero: 0)
    }
  }

  private var written = Image()
  private var groups: [[UInt8: [ClosedRange<UInt16>]]: UInt32] = [:]

  public init(_ steering: Steering) throws(EBPFError) {
    object = try BPFObject("steer", EmbeddedObjects.steer)
    try object.load()
    devices = try BPFMap("steer_devices", object.map("steer_devices"))
    addresses = try BPFMap("steer_addresses", object.map("steer_addresses"))
    prefixes = try BPFMap("steer_prefixes", object.map("steer_prefixes"))
    ports = try BPFMap("steer_ports", object.map("steer_ports"))
    protocols = try BPFMap("steer_protocols", object.map("steer_protocols"))
    targets = try BPFMap("steer_targets", object.map("steer_targets"))
    sockets = try BPFMap("steer_sockets", object.map("steer_sockets"))
    counts = try object.map("steer_counts")
    try set(steering)
  }

  /// Brings the maps up to date. Ports are there before an address leads to them, and go after that; so each packet meets
  /// what was or what is.
  public func set(_ steering: Steering) throws(EBPFError) {
    self.steering = steering
    let image = image(of: steering)
    let old = written
    let newPorts = image.ports.subtracting(old.ports).map(\.key)
    try ports.write(newPorts, newPorts.map { _ in 1 })
    for word in 0..<4 where image.protocols[word] != old.protocols[word] {
      try protocols.write([UInt32(word)], [image.protocols[word]])
    }
    let newAddresses = image.addresses.filter { old.addresses[$0.key] != $0.value }
    try addresses.write(newAddresses.keys.map { kalsae_address($0) }, Array(newAddresses.values))
    let newPrefixes = image.prefixes.subtracting(old.prefixes).map { kalsae_steer_prefix_key($0) }
    try prefixes.write(newPrefixes, newPrefixes.map { _ in 1 })
    let newTargets = image.targets.subtracting(old.targets).map { kalsae_address($0) }
    try targets.write(newTargets, newTargets.map { _ in 1 })
    let newDevices = image.devices.filter { old.devices[$0.key] != $0.value }
    try devices.write(Array(newDevices.keys), Array(newDevices.values))

    try devices.remove(old.devices.keys.filter { image.devices[$0] == nil })
    try targets.remove(old.targets.subtracting(image.targets).map { kalsae_address($0) })
    try prefixes.remove(old.prefixes.subtracting(image.prefixes).map { kalsae_steer_prefix_key($0) })
    try addresses.remove(old.addresses.keys.filter { image.addresses[$0] == nil }.map { kalsae_address($0) })
    try ports.remove(old.ports.subtracting(image.ports).map(\.key))
    written = image
  }

  private func image(of steering: Steering) -> Image {
    var image = Image()
    for device in steering.sharedDevices { image.devices[UInt32(device)] = word(device, UInt32(KALSAE_STEER_SHARED)) }
    for device in steering.ownDevices { image.devices[UInt32(device)] = word(device, UInt32(KALSAE_STEER_ALL)) }
    for number in steering.protocols { image.protocols[Int(number >> 6)] |= 1 << UInt64(number & 63) }
    image.prefixes = Set(steering.destinations)
    image.targets = Set(steering.targets)
    var wanted: [IPAddress: [UInt8: [ClosedRange<UInt16>]]] = [:]
    for address in steering.localAddresses {
      wanted[address] = steering.udpPorts.isEmpty ? [:] : [17: steering.udpPorts.map { $0...$0 }]
    }
    for door in steering.doors {
      for address in door.addresses { wanted[address, default: [:]][door.transport, default: []] += door.ports }
    }
    // Addresses that want the same share their ports. Groups keep their numbers while they are used: what an address
    // leads to never changes under it.
    let known = groups
    groups = [:]
    var next = (known.values.max() ?? 0) + 1
    let locals = Set(steering.localAddresses)
    for (address, ports) in wanted.sorted(by: { $0.key < $1.key }) {
      let group: UInt32
      if ports.isEmpty {
        group = 0
      } else if let number = groups[ports] ?? known[ports] {
        group = number
      } else {
        group = next
        next += 1
      }
      if group != 0 { groups[ports] = group }
      image.addresses[address] = group | (locals.contains(address) ? KALSAE_STEER_LOCAL : 0)
    }
    for (ports, group) in groups {
      for (transport, ranges) in ports {
        for range in ranges { image.ports.formUnion(Steerer.prefixes(of: range, group, transport)) }
      }
    }
    return image
  }

  /// What `steer_devices` says of a device.
  private func word(_ device: Int32, _ kind: UInt32) -> UInt32 {
    guard let places = places[device] else { return kind }
    return kind | UInt32(places.count) << UInt32(KALSAE_STEER_QUEUES)
      | places.lowerBound << UInt32(KALSAE_STEER_PLACE)
  }

  /// The fewest prefixes that hold the ports of a range and no others.
  private static func prefixes(of range: ClosedRange<UInt16>, _ group: UInt32, _ transport: UInt8) -> [PortPrefix] {
    var list: [PortPrefix] = []
    var first = Int(range.lowerBound)
    while first <= Int(range.upperBound) {
      var size = first == 0 ? 1 << 16 : first & -first
      while first + size - 1 > Int(range.upperBound) { size /= 2 }
      list.append(
        PortPrefix(group: group, transport: transport, port: UInt16(first), length: 16 - size.trailingZeroBitCount))
      first += size
    }
    return list
  }

  /// Hands what is steered of a device to AF_XDP sockets, each bound to one of the device's queues; none: to nobody any more.
  /// What comes by a queue without one goes on to the packet socket. A socket that is closed goes by itself.
  public func setSockets(_ sockets: [(queue: Int, descriptor: Int32)], of interface: Int32) throws(EBPFError) {
    if let old = places.removeValue(forKey: interface) {
      try set(steering)
      // They may have gone with their sockets.
      for place in old { try? self.sockets.remove([place]) }
    }
    guard let last = sockets.map(\.queue).max() else { return }
    guard last < KALSAE_STEER_MOST_QUEUES, let room = room(for: UInt32(last + 1)) else {
      throw EBPFError("there is no room for \(last + 1) sockets more: there are \(self.sockets.limit) in all")
    }
    for socket in sockets {
      try self.sockets.write([room.lowerBound + UInt32(socket.queue)], [UInt32(socket.descriptor)])
    }
    places[interface] = room
    try set(steering)
  }

  /// Places in a row that nobody has. Place 0 is nobody's ever.
  private func room(for count: UInt32) -> Range<UInt32>? {
    var start: UInt32 = 1
    for taken in places.values.sorted(by: { $0.lowerBound < $1.lowerBound }) {
      if taken.lowerBound - start >= count { break }
      start = taken.upperBound
    }
    return Int(start + count) <= sockets.limit ? start..<(start + count) : nil
  }

  /// Has the packets of a device of the caller's network namespace steered, until it is detached or the steerer goes; in
  /// front of the device's ring where its driver can, else in the kernel's general path. The device must be one of
  /// `Steering`'s.
  public func attach(to interface: Int32) throws(EBPFError) {
    var isGeneric = false
    let program = try object.program("steer")
    links[interface] = Descriptor(
      try check(
        unsafe kalsae_bpf_attach_xdp(program, interface, &isGeneric), "cannot attach steer to interface \(interface)"))
  }

  public func detach(from interface: Int32) { links[interface] = nil }

  /// Packets that went to a socket, that are the data plane's and found none, and that are others'.
  public var counted: (taken: UInt64, withoutSocket: UInt64, passed: UInt64) {
    (
      kalsae_bpf_lookup_sum(counts.number, KALSAE_STEER_TAKEN.rawValue),
      kalsae_bpf_lookup_sum(counts.number, KALSAE_STEER_NO_SOCKET.rawValue),
      kalsae_bpf_lookup_sum(counts.number, KALSAE_STEER_PASSED.rawValue)
    )
  }

  /// Whether a frame that comes in by the loopback device is handed to the data plane: to a socket, or, as here there is
  /// none, past the host to the packet socket. For tests.
  func isOurs(_ frame: [UInt8]) throws(EBPFError) -> Bool {
    let program = try object.program("steer")
    let before = counted
    var octets = frame
    var capacity = UInt32(octets.count)
    var verdict: UInt32 = 0
    var nanoseconds: UInt32 = 0
    let result = unsafe octets.withUnsafeMutableBytes { buffer in
      unsafe kalsae_bpf_run_xdp(
        program, buffer.baseAddress!, UInt32(frame.count), &capacity, 1, &verdict, &nanoseconds)
    }
    try check(result, "cannot run the program")
    // XDP_PASS
    guard verdict == 2, octets == frame else { throw EBPFError("the packet was not passed on as it is") }
    let after = counted
    return (after.taken, after.withoutSocket) != (before.taken, before.withoutSocket)
  }
}

extension kalsae_steer_prefix_key {
  init(_ prefix: IPPrefix) {
    self.init(
      length: 32 + UInt32(prefix.length) + (prefix.family == .ipv4 ? 96 : 0), family: prefix.family == .ipv4 ? 4 : 6,
      address: kalsae_address(prefix.address))
  }
}
