import Dataplane
import FoundationEssentials

/// A question: what would become of the first packet of a flow?
public struct Probe: Decodable, Sendable, Equatable {
  /// An address, or `namespace/pod`.
  public var from: String
  public var to: String
  /// TCP, UDP, SCTP or ICMP, in letters of either case.
  public var `protocol`: String
  /// The destination port: a number, or the name of a port of the destination pod.
  public var port: String?
  public var sourcePort: UInt16?
  /// The octets of the IP packet; nil: as few as there can be. A packet of a given size says Don't Fragment.
  public var size: Int?

  public init(
    from: String, to: String, protocol: String, port: String? = nil, sourcePort: UInt16? = nil, size: Int? = nil
  ) {
    self.from = from
    self.to = to
    self.protocol = `protocol`
    self.port = port
    self.sourcePort = sourcePort
    self.size = size
  }

  private enum Key: String, CodingKey { case from, to, `protocol`, port, sourcePort, size }

  public init(from decoder: any Decoder) throws {
    let fields = try decoder.container(keyedBy: Key.self)
    from = try fields.decode(String.self, forKey: .from)
    to = try fields.decode(String.self, forKey: .to)
    `protocol` = try fields.decode(String.self, forKey: .protocol)
    if let number = try? fields.decodeIfPresent(Int.self, forKey: .port) {
      port = String(number)
    } else {
      port = try fields.decodeIfPresent(String.self, forKey: .port)
    }
    sourcePort = try fields.decodeIfPresent(Int.self, forKey: .sourcePort).map { number in
      guard let port = UInt16(exactly: number) else {
        throw DecodingError.dataCorruptedError(forKey: .sourcePort, in: fields, debugDescription: "not a port")
      }
      return port
    }
    size = try fields.decodeIfPresent(Int.self, forKey: .size)
  }

  /// Reads one JSON object.
  public init(json: some Sequence<UInt8>) throws(ReplayError) {
    do {
      self = try JSONDecoder().decode(Probe.self, from: Data(json))
    } catch DecodingError.keyNotFound(let key, _) {
      throw ReplayError(.data, "\(key.stringValue): is missing; a probe has from, to, protocol and mostly port")
    } catch DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context) {
      let field = context.codingPath.last?.stringValue ?? ""
      throw ReplayError(.data, field.isEmpty ? "not a JSON object" : "\(field): has the wrong type")
    } catch DecodingError.dataCorrupted(let context) {
      let field = context.codingPath.last?.stringValue
      throw ReplayError(.data, field.map { "\($0): is out of range" } ?? "not valid JSON")
    } catch {
      throw ReplayError(.data, "not valid JSON: \(error)")
    }
  }
}

/// The answer to a probe. Its JSON form is part of the command's interface.
public struct ProbeAnswer: Encodable, Sendable, Equatable {
  public enum Verdict: String, Encodable, Sendable {
    /// Leaves to another node or to the outside.
    case forward
    /// Reaches a pod of this node, or the host.
    case deliver
    /// Is answered here: an echo to a gateway.
    case answer
    /// Is dropped in silence.
    case drop
    /// Is dropped, and its sender told.
    case reject
  }

  /// The way that the packet, the answer or the error goes.
  public struct Out: Encodable, Sendable, Equatable {
    /// `underlay`, `host` or `namespace/pod`.
    public var port: String
    /// IPIP, GRE, VXLAN or Geneve; nil: goes as it is.
    public var tunnel: String?
    /// The neighbour on the underlay that it is sent to, or the remote end of the tunnel.
    public var nextHop: String?

    private enum Key: String, CodingKey { case port, tunnel, nextHop }

    // What is nil is written as null: a reader need not tell absent from nil.
    public func encode(to encoder: any Encoder) throws {
      var fields = encoder.container(keyedBy: Key.self)
      try fields.encode(port, forKey: .port)
      try fields.encode(tunnel, forKey: .tunnel)
      try fields.encode(nextHop, forKey: .nextHop)
    }
  }

  public struct Step: Encodable, Sendable, Equatable {
    public var stage: String
    public var detail: String
  }

  public var verdict: Verdict
  /// The name of a `DropReason`.
  public var reason: String?
  public var out: Out?
  /// What was decided, in order, and why.
  public var steps: [Step]
  public var service: Service
  public var policy: Policy

  private enum Key: String, CodingKey { case verdict, reason, out, steps, service, policy }

  /// What the services say, whether or not there is a way to the endpoint.
  public struct Service: Encodable, Sendable, Equatable {
    /// `namespace/name:port`; nil: no service has the address and port.
    public var name: String?
    /// translate, reject, drop or none.
    public var verdict: String
    /// Every endpoint that the packet could go to, sorted.
    public var endpoints: [String]
    /// Whether the endpoint sees an address of the node.
    public var masquerade: Bool

    private enum Key: String, CodingKey { case name, verdict, endpoints, masquerade }

    public func encode(to encoder: any Encoder) throws {
      var fields = encoder.container(keyedBy: Key.self)
      try fields.encode(name, forKey: .name)
      try fields.encode(verdict, forKey: .verdict)
      try fields.encode(endpoints, forKey: .endpoints)
      try fields.encode(masquerade, forKey: .masquerade)
    }
  }

  /// What network policies say of both ends, whichever node enforces them.
  public struct Policy: Encodable, Sendable, Equatable {
    public enum Verdict: String, Encodable, Sendable { case allow, deny }

    public var egress: Verdict
    public var ingress: Verdict
    /// The policies that select the source for egress, sorted.
    public var egressPolicies: [String]
    /// The policies that select the destination, after translation, for ingress, sorted.
    public var ingressPolicies: [String]
  }

  public func encode(to encoder: any Encoder) throws {
    var fields = encoder.container(keyedBy: Key.self)
    try fields.encode(verdict, forKey: .verdict)
    try fields.encode(reason, forKey: .reason)
    try fields.encode(out, forKey: .out)
    try fields.encode(steps, forKey: .steps)
    try fields.encode(service, forKey: .service)
    try fields.encode(policy, forKey: .policy)
  }

  /// The answer as one JSON object on one line, or in lines for people.
  public func json(pretty: Bool) -> String { pretty ? prettyJSON(self) : line }

  /// The answer in lines for people.
  public var text: String {
    let width = steps.map(\.stage.count).max() ?? 0
    var text = ""
    for step in steps {
      text += "  \(step.stage)\(String(repeating: " ", count: width - step.stage.count))  \(step.detail)\n"
    }
    text += "\(verdict.rawValue)"
    if let reason { text += " (\(reason))" }
    if let out {
      text += verdict == .answer || verdict == .reject ? ": the answer goes by \(out.port)" : " by \(out.port)"
      if let tunnel = out.tunnel { text += " in \(tunnel)" }
      if let nextHop = out.nextHop { text += " to \(nextHop)" }
    }
    return text + "\n"
  }
}

/// What is answered to a line that is no probe.
public struct ProbeFailure: Encodable, Sendable, Equatable {
  public var error: String
  public init(error: String) { self.error = error }
  public var json: String { lineJSON(self) }
}

func lineJSON(_ value: some Encodable) -> String {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
  guard let data = try? encoder.encode(value) else { return "{}" }
  return String(decoding: data, as: UTF8.self)
}

extension ProbeAnswer.Service {
  init(_ decision: ServiceDecision) {
    self.init(
      name: decision.name, verdict: decision.verdict.rawValue,
      endpoints: decision.endpoints.map(\.description).sorted(),
      masquerade: decision.masquerade)
  }
}
