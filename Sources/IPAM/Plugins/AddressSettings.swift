import Addresses
import CNI
import Model

/// The `ipam` section of a network configuration, as far as Kalsae itself gives the addresses.
///
/// | member | meaning |
/// |---|---|
/// | `type` | `kalsae`; any other is the name of a plugin that is run |
/// | `mode` | `block` (default), `host-local` or `warm-pool` |
/// | `families` | `["IPv4", "IPv6"]`: the families of which block mode gives an address; else those that the node has pools of |
/// | `assign_ipv4`, `assign_ipv6` | the same, as Calico writes it |
/// | `pools` (and `ipv4_pools`, `ipv6_pools`) | names or CIDRs of the pools that block mode takes from |
/// | `store` | the file of the store |
/// | `ranges`, `routes`, `dataDir` (and `subnet`, `rangeStart`, `rangeEnd`, `gateway`) | as `host-local` has them |
/// | `warm_ip_target`, `minimum_ip_target`, `warm_eni_target` | what a warm pool keeps at hand |
public struct AddressSettings: Sendable, Equatable {
  public enum Mode: String, Sendable, CaseIterable {
    case block
    case hostLocal = "host-local"
    case warmPool = "warm-pool"
  }

  public var mode: Mode
  /// nil where the section does not say.
  public var families: Set<IPFamily>?
  public var pools: [String] = []
  public var targets = WarmPoolTargets()

  /// Reads the section. Throws where it names what there is not.
  public init(_ ipam: JSON) throws(IPAMError) {
    let text = ipam["mode"]?.text ?? Mode.block.rawValue
    guard let mode = Mode(rawValue: text) else {
      throw IPAMError(
        .configuration,
        "ipam.mode is '\(text)'; make it one of \(Mode.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    self.mode = mode
    var assigns: [IPFamily: Bool] = [:]
    for (family, name) in [(IPFamily.ipv4, "assign_ipv4"), (.ipv6, "assign_ipv6")] {
      guard let value = ipam[name], value != .null else { continue }
      // Calico writes them as strings.
      guard let flag = value.flag ?? ["true": true, "false": false][value.text ?? ""] else {
        throw IPAMError(.configuration, "ipam.\(name) is \(value.serialized); make it true or false")
      }
      assigns[family] = flag
    }
    if !assigns.isEmpty { families = Set(IPFamily.allCases.filter { assigns[$0] ?? ($0 == .ipv4) }) }
    if let list = ipam["families"], list != .null {
      let named = (list.elements ?? []).map { element in
        element.text.flatMap { ["4": .ipv4, "IPv4": .ipv4, "6": .ipv6, "IPv6": IPFamily.ipv6][$0] }
      }
      guard !named.isEmpty, !named.contains(nil) else {
        throw IPAMError(.configuration, "ipam.families is \(list.serialized); make it a list of IPv4 and IPv6")
      }
      families = Set(named.compactMap(\.self))
    }
    for name in ["pools", "ipv4_pools", "ipv6_pools"] {
      guard let value = ipam[name], value != .null else { continue }
      let names = value.elements?.compactMap(\.text) ?? []
      guard let count = value.elements?.count, count == names.count else {
        throw IPAMError(.configuration, "ipam.\(name) is no list of names or CIDRs of IPPools; make it one")
      }
      pools += names
    }
    func target(_ name: String) throws(IPAMError) -> Int? {
      guard let value = ipam[name], value != .null else { return nil }
      guard let number = value.integer ?? value.text.flatMap({ Int($0) }), (0...1000).contains(number) else {
        throw IPAMError(.configuration, "ipam.\(name) is \(value.serialized); make it a number from 0 to 1000")
      }
      return number
    }
    targets.warmIPTarget = try target("warm_ip_target")
    targets.minimumIPTarget = try target("minimum_ip_target")
    if let interfaces = try target("warm_eni_target") { targets.warmENITarget = interfaces }
  }

  /// The families of which an address is given.
  func families(node: String, catalog: PoolCatalog) -> Set<IPFamily> {
    if mode == .warmPool { return [.ipv4] }
    return families ?? catalog.families(ofNode: node, chosen: pools)
  }
}

extension PoolCatalog {
  /// The families that the node can take addresses of; IPv4 where there is no pool, so that the error names it.
  public func families(ofNode node: String, chosen: [String] = []) -> Set<IPFamily> {
    let families = IPFamily.allCases.filter { (try? usable($0, node: node, chosen: chosen)) != nil }
    return families.isEmpty ? [.ipv4] : Set(families)
  }
}

extension HostLocalManager.Settings {
  /// Reads the `ipam` section of the reference plugin `host-local` (IPAM-1).
  public init(_ configuration: NetworkConfiguration) throws(IPAMError) {
    let ipam = configuration.json["ipam"] ?? .object([])
    func range(_ json: JSON) throws(IPAMError) -> AddressRange {
      func address(_ name: String) throws(IPAMError) -> IPAddress? {
        guard let text = json[name]?.text, !text.isEmpty else { return nil }
        guard let address = IPAddress(text) else {
          throw IPAMError(.configuration, "ipam: \(name) is '\(text)', which is no IP address; write it as 10.1.2.3")
        }
        return address
      }
      let text = json["subnet"]?.text ?? ""
      guard let subnet = IPPrefix(text), text.hasPrefix("\(subnet.address)/") || text.contains(":") else {
        throw IPAMError(
          .configuration, "ipam: subnet is '\(text)', which is no subnet; write it as 10.1.2.0/24, without host bits")
      }
      return try AddressRange(
        subnet: subnet, start: address("rangeStart"), end: address("rangeEnd"), gateway: address("gateway"))
    }
    func sets(_ json: JSON?) throws(IPAMError) -> [RangeSet] {
      var sets: [RangeSet] = []
      for element in json?.elements ?? [] {
        var ranges: [AddressRange] = []
        for one in element.elements ?? [] { ranges.append(try range(one)) }
        sets.append(try RangeSet(ranges))
      }
      return sets
    }
    // In the reference plugin's order, on which the numbers of the range sets in the store depend.
    let single = ipam["subnet"] == nil ? [] : [try RangeSet([try range(ipam)])]
    try self.init(
      network: configuration.name,
      rangeSets: sets(configuration.runtime.ipRanges) + single + sets(ipam["ranges"]))
    for route in ipam["routes"]?.elements ?? [] {
      guard let destination = route["dst"]?.text.flatMap({ IPPrefix($0) }) else {
        throw IPAMError(.configuration, "ipam.routes has \(route.serialized); give it \"dst\": \"0.0.0.0/0\"")
      }
      routes.append(AssignedRoute(destination: destination, gateway: route["gw"]?.text.flatMap { IPAddress($0) }))
    }
    dataFolder = ipam["dataDir"]?.text
    if let path = ipam["resolvConf"]?.text, !path.isEmpty { dns = try NameResolution(resolverFile: path) }
  }
}

extension NameResolution {
  /// Reads a resolv.conf(5).
  init(resolverFile path: String) throws(IPAMError) {
    guard let text = try Files.contents(path, limit: 65_536) else {
      throw IPAMError(.configuration, "ipam.resolvConf: \(path) is not there; correct the path")
    }
    var (servers, search, options): ([String], [String], [String]) = ([], [], [])
    var domain: String?
    for line in text.split(separator: "\n") {
      let words = line.split(whereSeparator: \.isWhitespace).map(String.init)
      guard let first = words.first, !first.hasPrefix("#"), !first.hasPrefix(";"), words.count > 1 else { continue }
      switch first {
      case "nameserver": servers.append(words[1])
      case "domain": domain = words[1]
      case "search": search += words.dropFirst()
      case "options": options += words.dropFirst()
      default: break
      }
    }
    self.init(nameservers: servers, domain: domain, search: search, options: options)
  }
}
