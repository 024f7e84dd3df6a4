import Addresses

/// A network policy (networking.k8s.io/v1).
///
/// Policies add up, without order (NP-1). What is unknown in one is refused, because a rule whose restriction is not
/// understood would allow too much.
public struct NetworkPolicy: KubernetesObject {
  public static let kind = Kind.networkPolicy
  public static let apiVersions = ["networking.k8s.io/v1"]
  public static let isNamespaced = true

  public var metadata: ObjectMetadata
  /// The pods of the policy's namespace that it isolates; empty = all of them (NP-1).
  public var podSelector: LabelSelector
  /// The directions in which it isolates them (NP-2).
  public var policyTypes: Set<Direction>
  /// What may come in; counts only where `policyTypes` holds Ingress. Empty = nothing.
  public var ingress: [Rule]
  /// What may go out; counts only where `policyTypes` holds Egress. Empty = nothing.
  public var egress: [Rule]

  public var resource: Resource { .networkPolicy(self) }

  /// `policyTypes`: nil = as NP-2 says.
  public init(
    metadata: ObjectMetadata, podSelector: LabelSelector = LabelSelector(), policyTypes: Set<Direction>? = nil,
    ingress: [Rule] = [], egress: [Rule] = []
  ) {
    self.metadata = metadata
    self.podSelector = podSelector
    // NP-2: Ingress always, Egress where there are rules for it.
    self.policyTypes = policyTypes ?? (egress.isEmpty ? [.ingress] : [.ingress, .egress])
    self.ingress = ingress
    self.egress = egress
  }

  public enum Direction: String, Sendable, Hashable, CaseIterable {
    case ingress = "Ingress"
    case egress = "Egress"
  }

  /// One of `ingress` or `egress`: one of the peers AND one of the ports (NP-3).
  public struct Rule: Sendable, Hashable {
    /// `from` or `to`; empty = any.
    public var peers: [Peer]
    /// Empty = any, of any protocol.
    public var ports: [Port]

    public init(peers: [Peer] = [], ports: [Port] = []) {
      self.peers = peers
      self.ports = ports
    }
  }

  public enum Peer: Sendable, Hashable {
    /// Pods of the namespaces that `namespaces` selects (nil = the policy's own) that `pods` selects (nil = all of
    /// them). At least one is given (NP-4).
    case pods(namespaces: LabelSelector?, pods: LabelSelector?)
    case block(IPBlock)
  }

  /// The addresses of `cidr` that are in none of `except` (NP-4).
  public struct IPBlock: Sendable, Hashable {
    public var cidr: IPPrefix
    /// Blocks inside of `cidr`, and smaller.
    public var except: [IPPrefix]

    public init(_ cidr: IPPrefix, except: [IPPrefix] = []) {
      self.cidr = cidr
      self.except = except
    }

    public func contains(_ address: IPAddress) -> Bool {
      cidr.contains(address) && !except.contains { $0.contains(address) }
    }
  }

  /// One of a rule's `ports` (NP-5).
  public struct Port: Sendable, Hashable {
    public enum Destination: Sendable, Hashable {
      /// The whole protocol.
      case any
      /// A number alone, or `port` to `endPort`.
      case range(ClosedRange<UInt16>)
      /// What the destination pod calls by this name.
      case named(String)
    }

    public var `protocol`: TransportProtocol
    public var destination: Destination

    public init(_ protocol: TransportProtocol = .tcp, _ destination: Destination = .any) {
      self.protocol = `protocol`
      self.destination = destination
    }
  }
}

extension NetworkPolicy {
  public init?(metadata: ObjectMetadata, reading root: Field) {
    root.refuseUnknown(["apiVersion", "kind", "metadata", "spec", "status"])
    let spec = root["spec"].required()
    spec.refuseUnknown(["podSelector", "policyTypes", "ingress", "egress"])
    let types = spec["policyTypes"].list { $0.choice(Direction.self) }
    let ingress = spec["ingress"].list { Rule(reading: $0, peers: "from") }
    let egress = spec["egress"].list { Rule(reading: $0, peers: "to") }
    self.init(
      metadata: metadata, podSelector: spec["podSelector"].labelSelector() ?? LabelSelector(),
      policyTypes: types.isEmpty ? nil : Set(types), ingress: ingress, egress: egress)
  }
}

extension NetworkPolicy.Rule {
  /// `peers`: the name of the field that holds them.
  init?(reading field: Field, peers: String) {
    field.refuseUnknown([peers, "ports"])
    self.init(
      peers: field[peers].list { NetworkPolicy.Peer(reading: $0) },
      ports: field["ports"].list { NetworkPolicy.Port(reading: $0) })
  }
}

extension NetworkPolicy.Peer {
  init?(reading field: Field) {
    field.refuseUnknown(["podSelector", "namespaceSelector", "ipBlock"])
    let block = field["ipBlock"]
    let pods = field["podSelector"]
    let namespaces = field["namespaceSelector"]
    if block.exists {
      for other in [pods, namespaces] where other.exists {
        other.fail("may not stand beside ipBlock; make it a peer of its own")
      }
      guard let block = NetworkPolicy.IPBlock(reading: block) else { return nil }
      self = .block(block)
      return
    }
    guard pods.exists || namespaces.exists else {
      if field.exists, field.mapping() != nil {
        field.fail("names no peer; give it podSelector, namespaceSelector or ipBlock")
      }
      return nil
    }
    self = .pods(namespaces: namespaces.labelSelector(), pods: pods.labelSelector())
  }
}

extension NetworkPolicy.IPBlock {
  init?(reading field: Field) {
    field.refuseUnknown(["cidr", "except"])
    let cidr = field["cidr"].required().prefix()
    let except = field["except"].list { element -> IPPrefix? in
      guard let prefix = element.prefix(), let cidr else { return nil }
      guard cidr.contains(prefix), cidr.length < prefix.length else {
        element.fail("\(prefix) is not a smaller block inside of cidr, which is \(cidr); choose one that is")
        return nil
      }
      return prefix
    }
    guard let cidr else { return nil }
    self.init(cidr, except: except)
  }
}

extension NetworkPolicy.Port {
  init?(reading field: Field) {
    field.refuseUnknown(["protocol", "port", "endPort"])
    let transport = field["protocol"].choice(TransportProtocol.self)
    if field["protocol"].exists, transport == nil { return nil }
    let first = field["port"].portReference()
    let end = field["endPort"]
    let last = end.int(in: 1...65535).map(UInt16.init)
    switch first {
    case .number(let number):
      if let last, last < number {
        end.fail("\(last) is less than port, which is \(number); make it \(number) or more")
        return nil
      }
      self.init(transport ?? .tcp, .range(number...(last ?? number)))
    case .name(let name):
      if end.exists { end.fail("may not be used with a named port; remove it, or give port a number") }
      self.init(transport ?? .tcp, .named(name))
    case nil:
      if end.exists, !field["port"].exists {
        end.fail("is given without port; set port to the first port of the range, or remove endPort")
      }
      self.init(transport ?? .tcp, .any)
    }
  }
}
