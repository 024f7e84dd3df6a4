import Addresses

/// A decision of the pipeline about a packet, in order, for `kalsae trace` and for tests.
public enum TraceEvent: Sendable, Equatable {
  case received(port: PortIndex, length: Int)
  /// A tunnel packet from a peer was unwrapped.
  case decapsulated(Encapsulation, peer: String)
  case flowFound
  /// The first packet of a flow: it is classified.
  case flowMissing
  /// What the flow was decided from has changed: it is classified again.
  case flowStale
  case sourceAccepted
  case serviceDecided(ServiceDecision)
  /// What the policies of the source and of the destination (after translation) say, wherever they are enforced.
  case policyDecided(egress: Bool, ingress: Bool, destination: IPAddress)
  /// The service's endpoint that the connection goes to, and the address that it seems to come from, if another.
  case translated(to: IPAddress, port: UInt16, masquerade: IPAddress?)
  case routed(prefix: IPPrefix, RouteAction)
  case hopChosen(HopIndex)
  case timeToLive(Int)
  case encapsulated(Encapsulation, remote: IPAddress)
  /// ARP, NDP or an echo request was answered from here.
  case answered(String)
  /// An ICMP error goes back to the sender.
  case errorSent(type: UInt8, code: UInt8)
  /// A TCP reset goes back to the sender.
  case resetSent
  case queued(neighbour: IPAddress?)
  /// Goes out with the batch.
  case sent(port: PortIndex, hop: HopIndex)
  case dropped(DropReason)
}

/// What the services say about a packet.
public struct ServiceDecision: Sendable, Equatable {
  public enum Verdict: String, Sendable {
    /// The destination belongs to no service.
    case none
    case translate
    case reject
    case drop
  }

  /// `namespace/name:port`; nil where no service has the address and port.
  public var name: String?
  public var verdict: Verdict
  /// Every endpoint that the connection could go to.
  public var endpoints: [ServicePort.Endpoint]
  /// Whether the endpoint sees an address of the node.
  public var masquerade: Bool

  public init(
    name: String? = nil, verdict: Verdict, endpoints: [ServicePort.Endpoint] = [], masquerade: Bool = false
  ) {
    self.name = name
    self.verdict = verdict
    self.endpoints = endpoints
    self.masquerade = masquerade
  }
}
