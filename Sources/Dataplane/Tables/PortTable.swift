import Addresses

/// What a port is to the node.
public enum PortRole: UInt8, Sendable {
  /// A pod's interface: sources are checked, ARP and NDP are answered.
  case pod
  /// The way to other nodes: tunnels end here.
  case underlay
  /// The node's own door (`kalsae0`).
  case host
  /// A wire that everything is accepted from: captures without a state.
  case wire
}

/// A port as the control side describes it.
public struct PortDescription: Sendable, Hashable {
  public var name: String
  public var role: PortRole
  /// The port's own Ethernet address: what the pod or the underlay sends to.
  public var mac: MACAddress
  /// The Ethernet address that the pod must send from (NODE-4); nil: any.
  public var peerMAC: MACAddress?
  /// The largest network-layer packet of the link.
  public var mtu: Int
  public var capabilities: PortCapabilities
  /// Whether a pod may send from its own addresses only (NODE-4).
  public var checksSource: Bool
  /// Whether what a pod sends out of all pools is masqueraded, whatever its pool says (`ipMasq` of CNI).
  public var masquerades = false
  /// What may leave by the port, and what may come in by it; nil: as much as it can carry.
  public var sendLimit: RateLimit?
  public var receiveLimit: RateLimit?

  var hasLimit: Bool { sendLimit != nil || receiveLimit != nil }

  public init(
    name: String, role: PortRole, mac: MACAddress, peerMAC: MACAddress? = nil, mtu: Int,
    capabilities: PortCapabilities = [], checksSource: Bool = true
  ) {
    self.checksSource = checksSource
    self.name = name
    self.role = role
    self.mac = mac
    self.peerMAC = peerMAC
    self.mtu = mtu
    self.capabilities = capabilities
  }
}

/// What the packet path knows of a port.
struct PortRecord: BitwiseCopyable {
  var mac: UInt64
  /// 0: any.
  var peerMAC: UInt64
  var mtu: UInt32
  var role: PortRole.RawValue
  var inUse: Bool
  var checksSource: Bool
  var masquerades: Bool
  var capabilities: PortCapabilities.RawValue
  var zone: Zone
}

/// The ports by index.
struct PortTable: ~Copyable {
  private(set) var records = Memory<PortRecord>(count: 64)
  private(set) var descriptions: [PortDescription?] = []
  private var free: [PortIndex] = []
  /// The limits of each port, and how many ports have some.
  private(set) var limits = Memory<PortLimits>(count: 64)
  private var limited = 0
  var hasLimits: Bool { limited > 0 }

  mutating func insert(_ description: PortDescription) -> PortIndex {
    let index = free.popLast() ?? PortIndex(UInt16(descriptions.count))
    if Int(index.rawValue) == descriptions.count { descriptions.append(nil) }
    if Int(index.rawValue) >= records.count {
      records.grow(to: records.count * 2)
      limits.grow(to: records.count)
    }
    update(index, description)
    return index
  }

  mutating func update(_ index: PortIndex, _ description: PortDescription) {
    if descriptions[Int(index.rawValue)]?.hasLimit == true { limited -= 1 }
    if description.hasLimit { limited += 1 }
    descriptions[Int(index.rawValue)] = description
    records[Int(index.rawValue)] = PortRecord(
      mac: description.mac.rawValue, peerMAC: description.peerMAC?.rawValue ?? 0, mtu: UInt32(description.mtu),
      role: description.role.rawValue, inUse: true, checksSource: description.checksSource,
      masquerades: description.masquerades, capabilities: description.capabilities.rawValue,
      // What the host forwards comes back by the underlay, or by another device of the host.
      zone: description.role == .underlay || description.role == .host ? .underlay : Zone(rawValue: index.rawValue))
    limits[Int(index.rawValue)] = PortLimits(
      send: PacedRate(description.sendLimit), receive: PacedRate(description.receiveLimit))
  }

  mutating func remove(_ index: PortIndex) {
    guard let old = descriptions[Int(index.rawValue)] else { return }
    if old.hasLimit { limited -= 1 }
    descriptions[Int(index.rawValue)] = nil
    records[Int(index.rawValue)].inUse = false
    limits[Int(index.rawValue)] = PortLimits()
    free.append(index)
  }

  func description(_ index: PortIndex) -> PortDescription? {
    Int(index.rawValue) < descriptions.count ? descriptions[Int(index.rawValue)] : nil
  }
}

extension PortRecord {
  static var none: PortRecord {
    PortRecord(
      mac: 0, peerMAC: 0, mtu: 0, role: 0, inUse: false, checksSource: true, masquerades: false, capabilities: 0,
      zone: Zone(rawValue: 0))
  }
}
