import Addresses

/// A range of pod addresses and how packets to it travel (projectcalico.org/v3).
public struct IPPool: KubernetesObject {
  public static let kind = Kind.ipPool
  /// Calico keeps the same object in the Kubernetes API under its second name.
  public static let apiVersions = ["projectcalico.org/v3", "crd.projectcalico.org/v1"]

  public var metadata: ObjectMetadata
  public var cidr: IPPrefix
  /// The length of the blocks that nodes take from the pool. Default 26 (IPv4), 122 (IPv6).
  public var blockSize: Int
  /// When packets between nodes are encapsulated, for each tunnel protocol; at most one differs from `never` (NODE-5).
  /// `greMode` and `geneveMode` are Kalsae's own additions.
  public var ipipMode: EncapsulationMode
  public var vxlanMode: EncapsulationMode
  public var greMode: EncapsulationMode
  public var geneveMode: EncapsulationMode
  /// Whether packets from the pool to addresses outside of every pool are masqueraded (NODE-8). Default false.
  public var natOutgoing: Bool
  /// The nodes that take addresses from the pool. Default all.
  public var nodeSelector: Selector
  /// Whether no new addresses are given out. Addresses in use stay reachable. Default false.
  public var disabled: Bool

  public var resource: Resource { .ipPool(self) }

  public init(
    metadata: ObjectMetadata, cidr: IPPrefix, blockSize: Int? = nil, ipipMode: EncapsulationMode = .never,
    vxlanMode: EncapsulationMode = .never, greMode: EncapsulationMode = .never,
    geneveMode: EncapsulationMode = .never, natOutgoing: Bool = false, nodeSelector: Selector = .all,
    disabled: Bool = false
  ) {
    self.metadata = metadata
    self.cidr = cidr
    self.blockSize = blockSize ?? Self.defaultBlockSize(cidr.family)
    self.ipipMode = ipipMode
    self.vxlanMode = vxlanMode
    self.greMode = greMode
    self.geneveMode = geneveMode
    self.natOutgoing = natOutgoing
    self.nodeSelector = nodeSelector
    self.disabled = disabled
  }

  public enum EncapsulationMode: String, Sendable, Hashable, CaseIterable {
    /// To every other node.
    case always = "Always"
    /// Only to nodes outside of the own subnet of the underlay.
    case crossSubnet = "CrossSubnet"
    /// Never: packets travel as they are.
    case never = "Never"
  }

  public enum Tunnel: String, Sendable, Hashable, CaseIterable {
    case ipip = "IPIP"
    case vxlan = "VXLAN"
    case gre = "GRE"
    case geneve = "Geneve"
  }

  /// The pool's tunnel protocol and when it is used; nil where packets are never encapsulated.
  public var encapsulation: (tunnel: Tunnel, mode: EncapsulationMode)? {
    for tunnel in Tunnel.allCases where mode(of: tunnel) != .never { return (tunnel, mode(of: tunnel)) }
    return nil
  }

  public func mode(of tunnel: Tunnel) -> EncapsulationMode {
    switch tunnel {
    case .ipip: ipipMode
    case .vxlan: vxlanMode
    case .gre: greMode
    case .geneve: geneveMode
    }
  }

  static func defaultBlockSize(_ family: IPFamily) -> Int { family == .ipv4 ? 26 : 122 }
}

extension IPPool {
  public init?(metadata: ObjectMetadata, reading root: Field) {
    let spec = root["spec"].required()
    func mode(_ name: String) -> EncapsulationMode {
      // An empty string is Calico's old way to say Never.
      spec[name].document?.string == "" ? .never : spec[name].choice(EncapsulationMode.self) ?? .never
    }
    let natOutgoing = spec["natOutgoing"].bool() ?? false
    let disabled = spec["disabled"].bool() ?? false
    let nodeSelector = spec["nodeSelector"].selector() ?? .all
    let modes = (ipip: mode("ipipMode"), vxlan: mode("vxlanMode"), gre: mode("greMode"), geneve: mode("geneveMode"))
    guard let cidr = spec["cidr"].required().prefix(strict: true) else { return nil }

    let range = cidr.family == .ipv4 ? 20...32 : 116...128
    let blockSize = spec["blockSize"].int(in: range)
    self.init(
      metadata: metadata, cidr: cidr, blockSize: blockSize, ipipMode: modes.ipip, vxlanMode: modes.vxlan,
      greMode: modes.gre, geneveMode: modes.geneve, natOutgoing: natOutgoing, nodeSelector: nodeSelector,
      disabled: disabled)

    if self.blockSize < cidr.length {
      spec["blockSize"].fail(
        "a block of /\(self.blockSize) is larger than the pool \(cidr); set blockSize to \(cidr.length) or more")
    }
    for (reserved, what) in Self.reserved where reserved.contains(cidr) || cidr.contains(reserved) {
      spec["cidr"].fail("\(cidr) overlaps the \(what) addresses \(reserved); choose another block")
    }
    let used = Tunnel.allCases.filter { self.mode(of: $0) != .never }
    if used.count > 1 {
      let fields = used.map { "\($0.rawValue.lowercased())Mode" }
      spec[fields[1]].fail("\(fields.joined(separator: " and ")) are both set; set all but one of them to Never")
    }
  }

  private static let reserved: [(IPPrefix, String)] = [
    (IPPrefix("169.254.0.0/16")!, "link-local"), (IPPrefix("fe80::/10")!, "link-local"),
    (IPPrefix("127.0.0.0/8")!, "loopback"), (IPPrefix("::1/128")!, "loopback"),
    (IPPrefix("224.0.0.0/4")!, "multicast"), (IPPrefix("ff00::/8")!, "multicast"),
  ]
}
