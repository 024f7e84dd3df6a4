import Addresses
import Lab

/// One row of the demo: a way from node to node and the family of the pods' packets.
enum DemoMode: String, CaseIterable {
  case direct, ipip, vxlan, gre, geneve
  case vxlan6 = "ipv6-vxlan"

  static let names = allCases.map(\.rawValue).joined(separator: ", ")

  var family: IPFamily { self == .vxlan6 ? .ipv6 : .ipv4 }

  /// How packets of that family go.
  var mode: Cluster.Mode { self == .vxlan6 ? .vxlan : Cluster.Mode(rawValue: rawValue)! }

  var title: String {
    switch self {
    case .direct: "direct"
    case .ipip: "IPIP"
    case .vxlan: "VXLAN"
    case .gre: "GRE"
    case .geneve: "Geneve"
    case .vxlan6: "IPv6 in VXLAN"
    }
  }

  /// What a capture of the wire must show, as tshark's display filter.
  var filter: String {
    switch self {
    case .direct: "icmp && ip.src == 10.244.0.0/16 && ip.dst == 10.244.0.0/16"
    case .ipip: "ip.proto == 4 && icmp"
    case .vxlan: "vxlan.vni == 4096 && icmp"
    case .gre: "gre.proto == 0x0800 && icmp"
    case .geneve: "geneve.vni == 4096 && icmp"
    case .vxlan6: "vxlan.vni == 4096 && icmpv6"
    }
  }
}
