import Addresses
import CEBPF

extension EBPFDump {
  /// What the kernel lets a pod of the node send, or be sent.
  public struct PolicyRule: Sendable, Codable {
    public var pod: String
    /// `egress` or `ingress`.
    public var direction: String
    /// Addresses of pods, a block, pods in a block, `everybody` or `nobody`.
    public var peer: String
    /// As `tcp 80-90`, or `all`.
    public var ports: [String]
  }

  /// The rules that hold for each of the node's pods, by address.
  public static func policy(node: String) -> [PolicyRule] {
    PinFolder(node: node).policies.flatMap { place in
      let maps = try? PolicyMaps { (name) throws(EBPFError) -> Descriptor in
        guard let map = PinFolder.get("\(place)/\(name)") else { throw EBPFError("no map \(name)") }
        return map
      }
      return maps.map { rules($0) } ?? []
    }
  }

  private static func rules(_ maps: PolicyMaps) -> [PolicyRule] {
    var pods: [(address: IPAddress, pod: kalsae_policy_pod)] = []
    var members: [UInt32: [IPAddress]] = [:]
    for (key, word) in maps.addresses.entries(.zero, 0) {
      let place = UInt32(truncatingIfNeeded: word)
      guard place != 0, let pod = maps.pods.value(place, kalsae_policy_pod()) else { continue }
      members[pod.identity, default: []].append(key.address)
      if pod.interface != 0 { pods.append((key.address, pod)) }
    }
    var blocks: [UInt32: String] = [:]
    for (key, place) in maps.blocks.entries(kalsae_policy_block_key(), 0) {
      blocks[place] = "\(key.address.address)/\(key.length - 32 - (key.family == 4 ? 96 : 0))"
    }
    var sets: [UInt32: [(peer: String, ports: [String])]] = [:]
    for (key, permit) in maps.rules.entries(kalsae_policy_rule_key(), 0) {
      var peer = key.identity == 0 && key.block == 0 ? "everybody" : blocks[key.block] ?? ""
      if key.identity != 0 {
        // An identity that nobody has any more.
        guard let pods = members[key.identity] else { continue }
        peer = pods.sorted().map(\.description).joined(separator: " ") + (peer.isEmpty ? "" : " in \(peer)")
      }
      if !peer.isEmpty { sets[key.set, default: []].append((peer, ports(permit, maps))) }
    }
    return pods.sorted { $0.address < $1.address }.flatMap { address, pod in
      [("egress", pod.egress), ("ingress", pod.ingress)].flatMap { direction, set in
        let rules = set == 0 ? [("everybody", ["all"])] : (sets[set] ?? [("nobody", [])]).sorted { $0.peer < $1.peer }
        return rules.map { PolicyRule(pod: "\(address)", direction: direction, peer: $0.0, ports: $0.1) }
      }
    }
  }

  private static func ports(_ permit: UInt64, _ maps: PolicyMaps) -> [String] {
    func text(_ first: UInt32, _ last: UInt32) -> String {
      let names: [UInt32: String] = [6: "tcp", 17: "udp", 132: "sctp"]
      let protocolName = names[first >> 16] ?? "protocol \(first >> 16)"
      let (low, high) = (first & 0xffff, last & 0xffff)
      if low == 0, high == 0xffff { return protocolName }
      return low == high ? "\(protocolName) \(low)" : "\(protocolName) \(low)-\(high)"
    }
    switch UInt32(permit >> UInt64(KALSAE_PERMIT_SHIFT)) {
    case UInt32(KALSAE_PERMIT_ANY): return ["all"]
    case UInt32(KALSAE_PERMIT_RANGE):
      return [text(UInt32(permit & 0xffffff), UInt32(permit >> 24 & 0xffffff))]
    default:
      let place = UInt32(truncatingIfNeeded: permit)
      return (0..<UInt32(permit >> 32 & 0xffffff)).compactMap { offset in
        maps.ranges.value(place + offset, 0).map { text(UInt32(truncatingIfNeeded: $0), UInt32($0 >> 32)) }
      }
    }
  }
}
