public import Addresses

/// Something that one service alone may hold in a cluster.
public enum ServiceClaim: Hashable, Sendable {
  case clusterIP(IPAddress)
  /// A port of all nodes: a node port, or that of a health-check server.
  case nodePort(TransportProtocol, UInt16)
}

extension ServiceClaim: CustomStringConvertible {
  /// `10.96.0.1`, `TCP 30080`
  public var description: String {
    switch self {
    case .clusterIP(let address): address.description
    case .nodePort(let transport, let port): "\(transport.rawValue) \(port)"
    }
  }
}

extension Service {
  /// What the service needs for itself, in the order of its fields.
  public var claims: [ServiceClaim] {
    var claims = clusterIPs.map { ServiceClaim.clusterIP($0) }
    for port in ports { if let nodePort = port.nodePort { claims.append(.nodePort(port.protocol, nodePort)) } }
    if let port = healthCheckNodePort { claims.append(.nodePort(.tcp, port)) }
    return claims
  }

  /// The field that asks for a claim, such as `spec.ports[0].nodePort`.
  public func field(of claim: ServiceClaim) -> String {
    switch claim {
    case .clusterIP(let address):
      let index = clusterIPs.firstIndex(of: address) ?? 0
      return index == 0 ? "spec.clusterIP" : "spec.clusterIPs[\(index)]"
    case .nodePort(let transport, let number):
      let index = ports.firstIndex { $0.protocol == transport && $0.nodePort == number }
      return index.map { "spec.ports[\($0)].nodePort" } ?? "spec.healthCheckNodePort"
    }
  }
}

/// Decides which services count where several claim the same cluster IP or node port: the one whose key sorts first,
/// whichever was there before, so that a restart comes to the same result. The others count as soon as what they claim
/// is free.
///
/// Work is in proportion to the services that changed and to those that share a contested claim with them.
public struct ServiceAdmission: Sendable {
  /// Why a service does not count.
  public struct Refusal: Sendable, Hashable {
    /// The service that has what the refused one claims.
    public var holder: ObjectKey
    public var claim: ServiceClaim

    /// What is wrong and what to do about it. `place`: where the holder stands.
    public func message(place: String) -> String {
      let what =
        switch claim {
        case .clusterIP(let address): "\(address) is the cluster IP"
        case .nodePort(let transport, let port): "\(transport.rawValue) \(port) is a node port"
        }
      return "\(what) of \(holder) in \(place) already, which counts; choose another, or remove one of the services"
    }
  }

  /// The services that do not count.
  public private(set) var refusals: [ObjectKey: Refusal] = [:]

  private var claims: [ObjectKey: [ServiceClaim]] = [:]
  /// Who claims what nobody else claims.
  private var holders: [ServiceClaim: ObjectKey] = [:]
  /// Who claims what others claim too: few, unless somebody made a mistake.
  private var contested: [ServiceClaim: Set<ObjectKey>] = [:]

  public init() {}

  /// Takes in services that are new, changed or (nil) gone. Returns the keys of the other services that count now and
  /// did not before, or the other way round.
  public mutating func update(_ services: [(key: ObjectKey, service: Service?)]) -> Set<ObjectKey> {
    var open: Set<ServiceClaim> = []
    for (key, service) in services {
      for claim in claims[key] ?? [] {
        open.insert(claim)
        giveUp(claim, key)
      }
      let wanted = service?.claims ?? []
      claims[key] = wanted.isEmpty ? nil : wanted
      for claim in wanted {
        open.insert(claim)
        enter(claim, key)
      }
    }
    let changed = Set(services.map(\.key))
    let concerned = rivals(over: open).union(changed)
    let before = refusals
    settle(concerned)
    return concerned.filter { (before[$0] == nil) != (refusals[$0] == nil) && !changed.contains($0) }
  }

  private mutating func enter(_ claim: ServiceClaim, _ key: ObjectKey) {
    if contested[claim] != nil {
      contested[claim]?.insert(key)
    } else if let other = holders[claim], other != key {
      holders[claim] = nil
      contested[claim] = [other, key]
    } else {
      holders[claim] = key
    }
  }

  private mutating func giveUp(_ claim: ServiceClaim, _ key: ObjectKey) {
    guard contested[claim] != nil else {
      if holders[claim] == key { holders[claim] = nil }
      return
    }
    contested[claim]?.remove(key)
    guard let last = contested[claim], last.count < 2 else { return }
    contested[claim] = nil
    holders[claim] = last.first
  }

  /// The services that these claims are contested by or were until now, those that share a contested claim with one of
  /// them, and so on.
  private func rivals(over claims: Set<ServiceClaim>) -> Set<ObjectKey> {
    var found: Set<ObjectKey> = []
    var seen = claims
    var open = Array(claims)
    while let claim = open.popLast() {
      let claimants = contested[claim] ?? holders[claim].map { [$0] } ?? []
      for key in claimants where found.insert(key).inserted {
        for other in self.claims[key] ?? [] where contested[other] != nil && seen.insert(other).inserted {
          open.append(other)
        }
      }
    }
    return found
  }

  /// Decides anew about whole groups of rivals: in the order of their keys, each counts unless one before it that counts
  /// has what it claims.
  private mutating func settle(_ keys: Set<ObjectKey>) {
    var taken: [ServiceClaim: ObjectKey] = [:]
    for key in keys.sorted() {
      let own = claims[key] ?? []
      if let claim = own.first(where: { taken[$0] != nil }), let holder = taken[claim] {
        refusals[key] = Refusal(holder: holder, claim: claim)
      } else {
        refusals[key] = nil
        // What nobody else claims cannot be in anybody's way.
        for claim in own where contested[claim] != nil { taken[claim] = key }
      }
    }
  }
}
