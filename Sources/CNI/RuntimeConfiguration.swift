public import Addresses

/// What the runtime fills in for one container, as far as the configuration's `capabilities` ask for it (CNI-10).
public struct RuntimeConfiguration: Sendable, Equatable {
  /// A port of the node that leads to the container.
  public struct PortMapping: Sendable, Hashable {
    public enum Transport: String, Sendable, CaseIterable { case tcp, udp, sctp }

    public var hostPort: UInt16
    public var containerPort: UInt16
    public var transport: Transport
    /// nil: every address of the node.
    public var hostAddress: IPAddress?

    public init(hostPort: UInt16, containerPort: UInt16, transport: Transport, hostAddress: IPAddress? = nil) {
      self.hostPort = hostPort
      self.containerPort = containerPort
      self.transport = transport
      self.hostAddress = hostAddress
    }
  }

  /// A token bucket: bits a second, and bits that may come at once; 0 for no limit.
  public struct Rate: Sendable, Hashable {
    public var bitsPerSecond: Int
    public var burstBits: Int

    public init(bitsPerSecond: Int, burstBits: Int) {
      self.bitsPerSecond = bitsPerSecond
      self.burstBits = burstBits
    }
  }

  public var mac: MACAddress?
  /// Addresses that are asked for, with their prefix lengths where they are given.
  public var addresses: [IPAddress] = []
  public var portMappings: [PortMapping] = []
  /// Towards the container, and from it.
  public var ingress: Rate?
  public var egress: Rate?
  /// `ipRanges`, in the form of host-local's `ranges`.
  public var ipRanges: JSON?

  public init() {}

  init(_ reader: Reader?) throws(CNIError) {
    guard let reader else { return }
    for field in ["infinibandGUID", "deviceID"] where reader.json[field]?.text?.isEmpty == false {
      throw CNIError(
        .unsupportedField, "runtimeConfig.\(field) is for devices that Kalsae does not make",
        remedy: "take the capability '\(field)' out of the network configuration")
    }
    if let text = try reader.string("mac"), !text.isEmpty {
      guard let mac = MACAddress(text), mac.rawValue != 0, mac.rawValue >> 40 & 1 == 0 else {
        throw reader.invalid("mac", "is '\(text)', no unicast MAC address", "write it as 02:00:00:00:00:01")
      }
      self.mac = mac
    }
    for value in try reader.list("ips") {
      let text = value.text.map { $0.split(separator: "/", maxSplits: 1).first.map(String.init) ?? "" }
      guard let text, let address = IPAddress(text) else {
        throw reader.invalid("ips", "has \(value.serialized), no IP address", "write it as 10.244.0.7/26")
      }
      addresses.append(address)
    }
    for value in try reader.list("portMappings") { portMappings.append(try PortMapping(value, reader)) }
    if let bandwidth = try reader.object("bandwidth") {
      ingress = try Rate(bandwidth, "ingress")
      egress = try Rate(bandwidth, "egress")
    }
    let ranges = try reader.list("ipRanges")
    ipRanges = ranges.isEmpty ? nil : .array(ranges)
  }
}

extension RuntimeConfiguration.PortMapping {
  init(_ json: JSON, _ parent: Reader) throws(CNIError) {
    guard case .object = json else {
      throw parent.invalid("portMappings", "has \(json.kind) in it, not an object", "it is the runtime's to set")
    }
    let reader = Reader(json: json, path: parent.name("portMappings[]"))
    hostPort = UInt16(try reader.integer("hostPort", 0...65_535) ?? 0)
    guard let port = try reader.integer("containerPort", 1...65_535) else {
      throw reader.invalid("containerPort", "is missing", "give the container's port, 1 to 65535")
    }
    containerPort = UInt16(port)
    let word = (try reader.string("protocol") ?? "tcp").lowercased()
    guard let transport = Transport(rawValue: word) else {
      throw reader.invalid("protocol", "is '\(word)'", "it is one of tcp, udp, sctp")
    }
    self.transport = transport
    if let text = try reader.string("hostIP"), !text.isEmpty {
      guard let address = IPAddress(text) else {
        throw reader.invalid("hostIP", "is '\(text)', no IP address", "leave it out for all of the node's addresses")
      }
      let isAny = address == .v4(.any) || address == .v6(.any)
      hostAddress = isAny ? nil : address
    } else {
      hostAddress = nil
    }
  }
}

extension RuntimeConfiguration.Rate {
  /// `ingressRate` and `ingressBurst` for example.
  init?(_ reader: Reader, _ direction: String) throws(CNIError) {
    let rate = try reader.integer("\(direction)Rate", 0...Int.max) ?? 0
    let burst = try reader.integer("\(direction)Burst", 0...Int.max) ?? 0
    guard rate > 0 else {
      if burst == 0 { return nil }
      throw reader.invalid(
        "\(direction)Burst", "is set without \(direction)Rate", "set both, in bits and bits a second")
    }
    // A burst of less than one large packet would let none through.
    guard burst >= 12_000 || burst == 0 else {
      throw reader.invalid("\(direction)Burst", "is \(burst) bits, less than a packet", "make it 12000 bits or more")
    }
    self.init(bitsPerSecond: rate, burstBits: burst == 0 ? max(rate / 8, 512_000) : burst)
  }
}

/// Reads the fields of one object, and says of one that is wrong where it is.
struct Reader {
  var json: JSON
  /// Where the object is: `runtimeConfig`.
  var path: String

  func name(_ field: String) -> String { path.isEmpty ? field : "\(path).\(field)" }

  func invalid(_ field: String, _ problem: String, _ remedy: String) -> CNIError {
    CNIError(.invalidConfiguration, "\(name(field)) \(problem)", remedy: remedy)
  }

  private func wrongKind(_ field: String, _ value: JSON, _ wanted: String) -> CNIError {
    CNIError(
      .undecodable, "\(name(field)) is \(value.kind), not \(wanted)",
      remedy: "mend the network configuration in the runtime's CNI configuration directory")
  }

  private func value(_ field: String) -> JSON? { json[field].flatMap { $0 == .null ? nil : $0 } }

  func string(_ field: String) throws(CNIError) -> String? {
    guard let value = value(field) else { return nil }
    guard let text = value.text else { throw wrongKind(field, value, "a string") }
    return text
  }

  func bool(_ field: String) throws(CNIError) -> Bool? {
    guard let value = value(field) else { return nil }
    guard let flag = value.flag else { throw wrongKind(field, value, "a boolean") }
    return flag
  }

  func integer(_ field: String, _ range: ClosedRange<Int>) throws(CNIError) -> Int? {
    guard let value = value(field) else { return nil }
    guard let number = value.integer else { throw wrongKind(field, value, "a whole number") }
    guard range.contains(number) else {
      throw invalid(field, "is \(number)", "it is from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  func object(_ field: String) throws(CNIError) -> Reader? {
    guard let value = value(field) else { return nil }
    guard case .object = value else { throw wrongKind(field, value, "an object") }
    return Reader(json: value, path: name(field))
  }

  func list(_ field: String) throws(CNIError) -> [JSON] {
    guard let value = value(field) else { return [] }
    guard let elements = value.elements else { throw wrongKind(field, value, "a list") }
    return elements
  }

  func absolutePath(_ field: String) throws(CNIError) -> String? {
    guard let text = try string(field), !text.isEmpty else { return nil }
    guard text.hasPrefix("/"), !text.utf8.contains(0), text.utf8.count < 1024 else {
      throw invalid(field, "is '\(text)'", "write an absolute path")
    }
    return text
  }
}
