import Addresses

/// Some of the endpoints of a service (discovery.k8s.io/v1).
public struct EndpointSlice: KubernetesObject {
  public static let kind = Kind.endpointSlice
  public static let apiVersions = ["discovery.k8s.io/v1"]
  public static let isNamespaced = true

  public var metadata: ObjectMetadata
  public var addressType: AddressType
  public var endpoints: [Endpoint]
  /// The ports of every endpoint of the slice.
  public var ports: [Port]

  public var resource: Resource { .endpointSlice(self) }

  public init(
    metadata: ObjectMetadata, addressType: AddressType = .ipv4, endpoints: [Endpoint] = [], ports: [Port] = []
  ) {
    self.metadata = metadata
    self.addressType = addressType
    self.endpoints = endpoints
    self.ports = ports
  }

  public static let serviceNameLabel = "kubernetes.io/service-name"
  /// Slices with this label, whatever its value, are of no interest to the data plane (KP-1).
  public static let headlessLabel = "service.kubernetes.io/headless"
  public static let triggerTimeAnnotation = "endpoints.kubernetes.io/last-change-trigger-time"

  /// The service that the slice belongs to (KP-3); nil where the label is missing.
  public var service: ObjectKey? {
    guard let name = metadata.labels[Self.serviceNameLabel], !name.isEmpty else { return nil }
    return ObjectKey(.service, namespace: metadata.namespace, name: name)
  }

  /// Whether the data plane leaves the slice alone (KP-1).
  public var isHeadless: Bool { metadata.labels[Self.headlessLabel] != nil }

  /// When the change was made that led to this slice, since 1970-01-01T00:00:00Z (KP-55); nil where the annotation is
  /// missing or malformed.
  public var lastChangeTriggerTime: Duration? {
    metadata.annotations[Self.triggerTimeAnnotation].flatMap { Duration(sinceEpoch: $0) }
  }

  public enum AddressType: String, Sendable, Hashable, CaseIterable {
    case ipv4 = "IPv4"
    case ipv6 = "IPv6"
    case fqdn = "FQDN"

    /// The family of the addresses; nil for names.
    public var family: IPFamily? {
      switch self {
      case .ipv4: .ipv4
      case .ipv6: .ipv6
      case .fqdn: nil
      }
    }
  }

  /// One of `endpoints`. The conditions have their defaults already (KP-5).
  public struct Endpoint: Sendable, Hashable {
    /// All ways to the same endpoint: only the first is used (KP-3). Empty in slices of names.
    public var addresses: [IPAddress]
    public var isReady: Bool
    public var isServing: Bool
    public var isTerminating: Bool
    public var nodeName: String?
    public var zone: String?
    /// `hints.forZones[].name`: the zones whose clients shall use the endpoint (KP-13).
    public var zoneHints: [String]
    /// `hints.forNodes[].name`
    public var nodeHints: [String]
    /// The pod behind the endpoint, where `targetRef` names one.
    public var pod: ObjectKey?

    public init(
      _ addresses: [IPAddress], isReady: Bool = true, isServing: Bool = true, isTerminating: Bool = false,
      nodeName: String? = nil, zone: String? = nil, zoneHints: [String] = [], nodeHints: [String] = [],
      pod: ObjectKey? = nil
    ) {
      self.addresses = addresses
      self.isReady = isReady
      self.isServing = isServing
      self.isTerminating = isTerminating
      self.nodeName = nodeName
      self.zone = zone
      self.zoneHints = zoneHints
      self.nodeHints = nodeHints
      self.pod = pod
    }
  }

  /// One of `ports`. It belongs to the service's port of the same name and protocol.
  public struct Port: Sendable, Hashable {
    /// Empty where the service's only port has no name.
    public var name: String
    public var `protocol`: TransportProtocol
    /// nil for any port, which the data plane does not serve (KP-3).
    public var port: UInt16?

    public init(name: String = "", protocol: TransportProtocol = .tcp, port: UInt16?) {
      self.name = name
      self.protocol = `protocol`
      self.port = port
    }
  }
}

extension EndpointSlice {
  public init?(metadata: ObjectMetadata, reading root: Field) {
    let addressType = root["addressType"].required().choice(AddressType.self)
    var names: Set<String> = []
    let ports: [Port] = root["ports"].list { field in
      guard let port = Port(reading: field) else { return nil }
      if !names.insert(port.name).inserted {
        field["name"].fail("\(quoted(port.name)) stands in this list twice; give every port a name of its own")
      }
      return port
    }
    guard let addressType else { return nil }
    let endpoints = root["endpoints"].list {
      Endpoint(reading: $0, addressType: addressType, namespace: metadata.namespace)
    }
    root["endpoints"].refuseMore(than: 1000, endpoints.count, "endpoints")
    root["ports"].refuseMore(than: 20000, ports.count, "ports")
    self.init(metadata: metadata, addressType: addressType, endpoints: endpoints, ports: ports)
  }
}

extension EndpointSlice.Port {
  init?(reading field: Field) {
    let name = field["name"].optionalString().flatMap { _ in field["name"].name(.label) } ?? ""
    let transport = field["protocol"].choice(TransportProtocol.self)
    if field["protocol"].exists, transport == nil { return nil }
    let port = field["port"].int(in: 0...65535)
    self.init(name: name, protocol: transport ?? .tcp, port: port.map(UInt16.init))
  }
}

extension EndpointSlice.Endpoint {
  init?(reading field: Field, addressType: EndpointSlice.AddressType, namespace: String) {
    let list = field["addresses"]
    let fields = list.elements()
    if fields.isEmpty { list.fail("must not be empty; give the endpoint an address") }
    list.refuseMore(than: 100, fields.count, "addresses")
    var addresses: [IPAddress] = []
    for element in fields {
      guard element.exists else {
        element.fail("is null; remove it or give it a value")
        continue
      }
      guard let family = addressType.family else {
        _ = element.name(.subdomain)
        continue
      }
      guard let address = element.ordinaryAddress() else { continue }
      if address.family != family {
        element.fail("\(address) is no \(family.rawValue) address, but addressType is \(addressType.rawValue)")
      }
      addresses.append(address)
    }
    let conditions = field["conditions"]
    let hints = field["hints"]
    self.init(
      addresses,
      isReady: conditions["ready"].bool() ?? true,
      isServing: conditions["serving"].bool() ?? true,
      isTerminating: conditions["terminating"].bool() ?? false,
      nodeName: field["nodeName"].optionalString().flatMap { _ in field["nodeName"].name(.subdomain) },
      zone: field["zone"].optionalString(),
      zoneHints: hints["forZones"].hintNames("zones"),
      nodeHints: hints["forNodes"].hintNames("nodes"),
      pod: Self.pod(field["targetRef"], defaultNamespace: namespace))
  }

  private static func pod(_ field: Field, defaultNamespace: String) -> ObjectKey? {
    let name = field["name"].optionalString()
    let namespace = field["namespace"].optionalString() ?? defaultNamespace
    guard field["kind"].string() == "Pod", let name else { return nil }
    return ObjectKey(.pod, namespace: namespace, name: name)
  }
}

extension Field {
  /// The names of `hints.forZones` or `hints.forNodes`.
  fileprivate func hintNames(_ what: String) -> [String] {
    let names: [String] = list { $0["name"].required().string() }
    refuseMore(than: 8, names.count, what)
    return names
  }

  /// Reports a list that is longer than the API server allows.
  fileprivate func refuseMore(than limit: Int, _ count: Int, _ what: String) {
    if count > limit { fail("holds \(count) \(what); at most \(limit) are allowed") }
  }
}

extension Duration {
  /// Reads a time of day in UTC or with an offset (RFC 3339, section 5.6) as the time since 1970-01-01T00:00:00Z; nil
  /// where it is malformed.
  init?(sinceEpoch text: String) {
    let bytes = Array(text.utf8)
    func number(_ range: Range<Int>) -> Int? {
      guard range.upperBound <= bytes.count else { return nil }
      var value = 0
      for byte in bytes[range] {
        guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
        value = value * 10 + Int(byte - UInt8(ascii: "0"))
      }
      return value
    }
    func has(_ character: Character, at index: Int) -> Bool {
      index < bytes.count && Character(UnicodeScalar(bytes[index])).uppercased() == String(character)
    }
    guard
      let year = number(0..<4), has("-", at: 4), let month = number(5..<7), has("-", at: 7), let day = number(8..<10),
      has("T", at: 10), let hour = number(11..<13), has(":", at: 13), let minute = number(14..<16),
      has(":", at: 16), let second = number(17..<19),
      (1...12).contains(month), (1...31).contains(day), hour < 24, minute < 60, second <= 60
    else { return nil }
    var index = 19
    var nanoseconds = 0
    if has(".", at: index) {
      var scale = 100_000_000
      index += 1
      let start = index
      while let digit = number(index..<index + 1) {
        nanoseconds += digit * scale
        scale /= 10
        index += 1
      }
      guard index > start else { return nil }
    }
    var offset = 0
    if has("Z", at: index) {
      index += 1
    } else if has("+", at: index) || has("-", at: index) {
      guard let hours = number(index + 1..<index + 3), has(":", at: index + 3),
        let minutes = number(index + 4..<index + 6), hours < 24, minutes < 60
      else { return nil }
      offset = (hours * 3600 + minutes * 60) * (has("-", at: index) ? -1 : 1)
      index += 6
    } else {
      return nil
    }
    guard index == bytes.count else { return nil }
    // Days since 1970-01-01 in the proleptic Gregorian calendar, with years that begin in March.
    let y = month > 2 ? year : year - 1
    let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
    let days = 365 * y + y / 4 - y / 100 + y / 400 + dayOfYear - 719_468
    self = .seconds(days * 86400 + hour * 3600 + minute * 60 + second - offset) + .nanoseconds(nanoseconds)
  }
}
