public import Addresses

/// What ADD answers, and `prevResult` (section 5, Success): the types of 1.1.0, read from and written for any version
/// from 0.3.0 on (CNI-8).
public struct CNIResult: Sendable, Equatable {
  public struct Interface: Sendable, Hashable {
    public var name: String
    public var mac: String?
    /// Since 1.1.0.
    public var mtu: Int?
    /// The path of the namespace; nil for the host's.
    public var sandbox: String?
    /// Since 1.1.0.
    public var socketPath: String?
    /// Since 1.1.0.
    public var pciID: String?

    public init(name: String, mac: String? = nil, mtu: Int? = nil, sandbox: String? = nil) {
      self.name = name
      self.mac = mac
      self.mtu = mtu
      self.sandbox = sandbox
    }
  }

  public struct Address: Sendable, Hashable {
    public var address: IPAddress
    public var prefixLength: Int
    public var gateway: IPAddress?
    /// The position in `interfaces`.
    public var interface: Int?

    public init(_ address: IPAddress, prefixLength: Int, gateway: IPAddress? = nil, interface: Int? = nil) {
      self.address = address
      self.prefixLength = prefixLength
      self.gateway = gateway
      self.interface = interface
    }
  }

  public struct Route: Sendable, Hashable {
    public var destination: IPPrefix
    public var gateway: IPAddress?
    // Since 1.1.0.
    public var mtu: Int?
    public var advertisedMSS: Int?
    public var priority: Int?
    public var table: Int?
    public var scope: Int?

    public init(_ destination: IPPrefix, gateway: IPAddress? = nil) {
      self.destination = destination
      self.gateway = gateway
    }
  }

  public var interfaces: [Interface] = []
  public var addresses: [Address] = []
  public var routes: [Route] = []
  public var dns: JSON?

  public init() {}
}

// MARK: Writing

extension CNIResult {
  /// The result in the types of `version`. What that version has no word for is left out.
  public func json(version: CNIVersion) -> JSON {
    let isNewest = version >= CNIVersion(1, 1, 0)
    let dns: JSON? = if let dns, dns != .object([]) { dns } else { version < CNIVersion(1, 0, 0) ? .object([]) : nil }
    return JSON([
      "cniVersion": .string(version.description),
      "interfaces": interfaces.isEmpty ? nil : .array(interfaces.map { $0.json(isNewest) }),
      "ips": addresses.isEmpty ? nil : .array(addresses.map { $0.json(version) }),
      "routes": routes.isEmpty ? nil : .array(routes.map { $0.json(isNewest) }), "dns": dns,
    ])
  }
}

extension CNIResult.Interface {
  fileprivate func json(_ isNewest: Bool) -> JSON {
    JSON([
      "name": .string(name), "mac": mac.map { .string($0) },
      "mtu": isNewest ? mtu.map { .number($0) } : nil, "sandbox": sandbox.map { .string($0) },
      "socketPath": isNewest ? socketPath.map { .string($0) } : nil,
      "pciID": isNewest ? pciID.map { .string($0) } : nil,
    ])
  }
}

extension CNIResult.Address {
  fileprivate func json(_ version: CNIVersion) -> JSON {
    JSON([
      // Before 1.0.0 the family is told in so many words.
      "version": version < CNIVersion(1, 0, 0) ? .string(address.family == .ipv4 ? "4" : "6") : nil,
      "interface": interface.map { .number($0) }, "address": .string("\(address)/\(prefixLength)"),
      "gateway": gateway.map { .string($0.description) },
    ])
  }
}

extension CNIResult.Route {
  fileprivate func json(_ isNewest: Bool) -> JSON {
    var json = JSON(["dst": .string(destination.description), "gw": gateway.map { .string($0.description) }])
    guard isNewest else { return json }
    for (name, value) in [
      ("mtu", mtu), ("advmss", advertisedMSS), ("priority", priority), ("table", table), ("scope", scope),
    ] {
      if let value { json[name] = .number(value) }
    }
    return json
  }
}

// MARK: Reading

extension CNIResult {
  /// Reads a result of the types of `version`. `source` says in errors where it is from.
  public init(_ json: JSON, version: CNIVersion, of source: String) throws(CNIError) {
    guard case .object = json else {
      throw CNIError(
        .undecodable, "\(source) is \(json.kind), not an object", remedy: "look at the plugin before this one")
    }
    let reader = Reader(json: json, path: source)
    if let own = try reader.string("cniVersion") {
      guard let parsed = CNIVersion(own), CNIVersion.supported.contains(parsed) else {
        throw CNIError(
          .incompatibleVersion, "\(source) has the version '\(own)'",
          remedy: "let all plugins of the chain speak one of \(CNIVersion.supportedText)")
      }
    }
    for element in try reader.list("interfaces") { interfaces.append(try Interface(element, reader)) }
    for element in try reader.list("ips") {
      let address = try Address(element, reader)
      if let position = address.interface, position < 0 || position >= interfaces.count, !interfaces.isEmpty {
        throw reader.invalid(
          "ips[].interface", "is \(position), and there are \(interfaces.count) interfaces",
          "look at the plugin before this one")
      }
      addresses.append(address)
    }
    for element in try reader.list("routes") { routes.append(try Route(element, reader)) }
    dns = try reader.object("dns")?.json
  }
}

extension CNIResult.Interface {
  init(_ json: JSON, _ parent: Reader) throws(CNIError) {
    let reader = Reader(json: json, path: parent.name("interfaces[]"))
    guard let name = try reader.string("name") else {
      throw reader.invalid("name", "is missing", "look at the plugin before this one")
    }
    self.init(
      name: name, mac: try reader.string("mac"), mtu: try reader.integer("mtu", 0...Int(Int32.max)),
      sandbox: try reader.string("sandbox").flatMap { $0.isEmpty ? nil : $0 })
    socketPath = try reader.string("socketPath")
    pciID = try reader.string("pciID")
  }
}

extension CNIResult.Address {
  init(_ json: JSON, _ parent: Reader) throws(CNIError) {
    let reader = Reader(json: json, path: parent.name("ips[]"))
    let text = try reader.string("address") ?? ""
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count == 2, let address = IPAddress(String(parts[0])), let length = Int(parts[1]),
      IPPrefix(address, length: length) != nil
    else {
      throw reader.invalid("address", "is '\(text)', no address with its prefix length", "it looks like 10.1.2.3/24")
    }
    self.init(
      address, prefixLength: length, gateway: try reader.address("gateway"),
      interface: try reader.integer("interface", Int.min...Int.max))
  }
}

extension CNIResult.Route {
  init(_ json: JSON, _ parent: Reader) throws(CNIError) {
    let reader = Reader(json: json, path: parent.name("routes[]"))
    let text = try reader.string("dst") ?? ""
    guard let destination = IPPrefix(text) else {
      throw reader.invalid("dst", "is '\(text)', no prefix", "it looks like 0.0.0.0/0")
    }
    self.init(destination, gateway: try reader.address("gw"))
    mtu = try reader.integer("mtu", 0...Int(Int32.max))
    advertisedMSS = try reader.integer("advmss", 0...Int(Int32.max))
    priority = try reader.integer("priority", 0...Int(UInt32.max))
    table = try reader.integer("table", 0...Int(UInt32.max))
    scope = try reader.integer("scope", 0...255)
  }
}

extension Reader {
  func address(_ field: String) throws(CNIError) -> IPAddress? {
    guard let text = try string(field), !text.isEmpty else { return nil }
    guard let address = IPAddress(text) else {
      throw invalid(field, "is '\(text)', no IP address", "look at the plugin before this one")
    }
    return address
  }
}
