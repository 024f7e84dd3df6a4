import Addresses

/// The rules that kube-proxy's nftables mode makes for services, with its chains and maps: for nft(8).
struct KubeProxyRules {
  private var chains: [String] = []
  private var known: Set<String> = []
  private var elements: [String] = []
  private var addresses: [IPv4Address] = []

  /// A service's port. `chains` names its chains; services of one name share those of the first.
  mutating func add(
    _ address: IPv4Address, _ transport: String, _ port: UInt16, to endpoints: [IPv4Address], targetPort: UInt16,
    chains name: String
  ) {
    let service = "\(name)-\(transport)"
    elements.append("\(address) . \(transport) . \(port) : goto service-\(service)")
    if addresses.last != address { addresses.append(address) }
    guard known.insert(service).inserted else { return }
    for (place, endpoint) in endpoints.enumerated() {
      chains.append(
        "chain endpoint-\(service)-\(place) { ip saddr \(endpoint) jump mark-for-masquerade; "
          + "meta l4proto \(transport) dnat to \(endpoint):\(targetPort); }")
    }
    let choices = endpoints.indices.map { "\($0) : goto endpoint-\(service)-\($0)" }.joined(separator: ", ")
    chains.append("chain service-\(service) { numgen random mod \(endpoints.count) vmap { \(choices) }; }")
  }

  /// What `nft -f` takes. Elements come in parts, because a command of all would not fit into one message to the kernel.
  var text: String {
    var text = """
      table ip kube-proxy {
        chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
        chain masquerading { meta mark & 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }
        chain reject-chain { reject; }
        map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
        map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
        set cluster-ips { type ipv4_addr; }
        map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
        chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
        chain endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
        chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
        chain cluster-ips-check { ip daddr @cluster-ips reject; }
        chain filter-prerouting-pre-dnat { type filter hook prerouting priority -110; ct state new jump firewall-check; }
        chain filter-output-pre-dnat { type filter hook output priority -110; ct state new jump firewall-check; }
        chain filter-forward { type filter hook forward priority 0; ct state new jump endpoints-check; ct state new jump cluster-ips-check; }
        chain filter-output { type filter hook output priority 0; ct state new jump endpoints-check; ct state new jump cluster-ips-check; }
        chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
        chain nat-output { type nat hook output priority -100; jump services; }
        chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }

      """
    text += chains.map { "  \($0)\n" }.joined() + "}\n"
    func add(_ list: [String], to name: String) {
      for part in stride(from: 0, to: list.count, by: 1000) {
        let some = list[part..<min(part + 1000, list.count)].joined(separator: ", ")
        text += "add element ip kube-proxy \(name) { \(some) }\n"
      }
    }
    add(elements, to: "service-ips")
    add(addresses.map { "\($0)" }, to: "cluster-ips")
    return text
  }
}
