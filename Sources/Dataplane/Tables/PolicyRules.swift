import Addresses

/// The number of a set of pods that no rule can tell apart: same namespace, labels and named ports. 0: no pod.
public typealias IdentityIndex = UInt32
/// The number of a set of rules that pods share. 0: not isolated.
public typealias PolicyGroupIndex = UInt32
/// The number of a peer that rules name: what a selector selects, or a block with its exceptions. 0: anybody.
public typealias PeerIndex = UInt32
/// The number of a port's name together with its protocol.
public typealias PortNameIndex = UInt32

extension PeerIndex {
  /// Whoever it may be.
  public static var anyPeer: PeerIndex { 0 }
  /// The peer that is block `number` of those that rules name.
  public static func block(_ number: UInt32) -> PeerIndex { 1 << 31 | number }
  public var isBlock: Bool { self >> 31 != 0 }
}

/// What policies say of one pod.
public struct PodPolicy: Sendable, Hashable {
  public var identity: IdentityIndex
  /// The rules for what the pod sends; 0: it is not isolated in this direction (NP-1).
  public var egress: PolicyGroupIndex
  /// The rules for what is sent to the pod.
  public var ingress: PolicyGroupIndex
  /// The number of the node that the pod runs on; 0: not known.
  public var node: UInt32

  public init(
    identity: IdentityIndex, egress: PolicyGroupIndex = 0, ingress: PolicyGroupIndex = 0, node: UInt32 = 0
  ) {
    self.node = node
    self.identity = identity
    self.egress = egress
    self.ingress = ingress
  }
}

/// A port of a pod that has a name.
public struct NamedPolicyPort: Sendable, Hashable {
  /// The IP protocol number.
  public var transport: UInt8
  public var port: UInt16
  public var name: PortNameIndex

  public init(transport: UInt8, port: UInt16, name: PortNameIndex) {
    self.transport = transport
    self.port = port
    self.name = name
  }
}

/// The protocols and ports that rules allow, in one way to write them: what allows the same is equal.
public struct PolicyPorts: Sendable, Hashable {
  /// Neighbouring ports of one protocol.
  public struct Range: Sendable, Hashable {
    /// The IP protocol number.
    public var transport: UInt8
    public var first: UInt16
    public var last: UInt16
  }

  /// Every protocol and every port.
  public private(set) var isAny = false
  /// Apart from each other, in order.
  public private(set) var ranges: [Range] = []
  /// What the destination calls by a name (NP-5), in order.
  public private(set) var names: [PortNameIndex] = []

  public init() {}

  public static var any: PolicyPorts {
    var ports = PolicyPorts()
    ports.isAny = true
    return ports
  }

  public static func ports(_ transport: UInt8, _ range: ClosedRange<UInt16> = 0...65535) -> PolicyPorts {
    var ports = PolicyPorts()
    ports.ranges = [Range(transport: transport, first: range.lowerBound, last: range.upperBound)]
    return ports
  }

  public static func named(_ name: PortNameIndex) -> PolicyPorts {
    var ports = PolicyPorts()
    ports.names = [name]
    return ports
  }

  /// Allows what any of the others allows, too.
  public mutating func formUnion(_ others: some Sequence<PolicyPorts>) {
    var (all, names) = (ranges, Set(names))
    for other in others {
      if other.isAny { self = .any }
      all += other.ranges
      names.formUnion(other.names)
    }
    if isAny { return }
    self.names = names.sorted()
    ranges = []
    for range in all.sorted(by: { ($0.transport, $0.first) < ($1.transport, $1.first) }) {
      if let previous = ranges.last, previous.transport == range.transport,
        Int(range.first) <= Int(previous.last) + 1
      {
        ranges[ranges.count - 1].last = max(previous.last, range.last)
      } else {
        ranges.append(range)
      }
    }
  }

  public func union(_ other: PolicyPorts) -> PolicyPorts {
    var result = self
    result.formUnion(CollectionOfOne(other))
    return result
  }
}
