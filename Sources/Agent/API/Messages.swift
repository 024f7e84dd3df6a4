/// One line of JSON that a client sends to the agent's socket.
public struct AgentRequest: Codable, Sendable, Equatable {
  public enum Topic: String, Codable, Sendable, CaseIterable {
    case status, ports, pods, routes, hops, peers, neighbours, flows, drops
    /// For the agent that takes this one's place: see `HandoverView`.
    case handover
  }

  public var topic: Topic
  /// The most entries of the answer; nil: as many as the agent gives.
  public var limit: Int?
  /// Flows: an address or prefix that must be at one of the ends.
  public var address: String?
  /// Flows: a port that must be at one of the ends.
  public var port: UInt16?
  /// Flows: `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or a number.
  public var transport: String?

  public init(_ topic: Topic, limit: Int? = nil) {
    self.topic = topic
    self.limit = limit
  }
}

/// The line of JSON that the agent answers with: an error, or what was asked for.
public struct AgentReply: Codable, Sendable {
  public var error: String?
  public var status: StatusView?
  public var ports: [PortView]?
  public var pods: [PodView]?
  public var routes: [RouteView]?
  public var hops: [HopView]?
  public var peers: [PeerView]?
  public var neighbours: [NeighbourView]?
  public var flows: [FlowView]?
  public var drops: DropsView?
  public var handover: HandoverView?

  public init(error: String? = nil) { self.error = error }
}

/// How the agent is.
public struct StatusView: Codable, Sendable {
  public var node: String
  public var stateDirectory: String
  public var processID: Int32
  /// Seconds since it was started.
  public var uptime: Int
  public var underlay: String?
  public var addresses: [String]
  public var underlayMTU: Int?
  /// What pods' devices should have (NODE-6).
  public var podMTU: Int
  /// The encapsulations that pools use.
  public var encapsulations: [String]
  public var nodes: Int
  public var pods: Int
  public var attachedPods: Int
  public var routes: Int
  public var flows: Int
  public var flowStatistics: FlowStatisticsView
  public var drops: UInt64
  /// Packets of flows that the kernel has carried; nil: it carries none.
  public var carriedPackets: UInt64?
  /// What is wrong with the machine: its subject and what is the matter.
  public var troubles: [String: String]
  /// What is wrong in the manifests.
  public var manifestProblems: [String]
}

public struct FlowStatisticsView: Codable, Sendable {
  public var created: UInt64
  public var expired: UInt64
  public var evicted: UInt64
  public var refused: UInt64
}

/// A port with its counters.
public struct PortView: Codable, Sendable {
  public var index: Int
  public var name: String
  public var role: String
  /// How packets come and go: af_packet, af_xdp (the kernel copies each once) or af_xdp-zc (it copies none), tap.
  public var kind: String
  public var state: String
  /// The pod that it belongs to, as namespace/name.
  public var pod: String?
  public var mac: String
  public var peerMAC: String?
  public var mtu: Int
  public var receivedPackets: UInt64
  public var receivedOctets: UInt64
  public var sentPackets: UInt64
  public var sentOctets: UInt64
  /// Lost in the kernel because the port was not read in time.
  public var kernelDrops: UInt64
  public var receiveErrors: UInt64
  public var sendErrors: UInt64
  /// Dropped by the data plane, of what came in by this port.
  public var drops: UInt64
}

/// A pod of this node.
public struct PodView: Codable, Sendable {
  public var namespace: String
  public var name: String
  public var addresses: [String]
  public var mac: String
  public var type: String
  public var interface: String
  public var networkNamespace: String?
  public var mtu: Int
  public var isAttached: Bool
}

public struct RouteView: Codable, Sendable {
  public var prefix: String
  /// forward, local, blackhole or unreachable.
  public var action: String
  public var hops: [Int]
  /// The hops in words.
  public var via: [String]
}

public struct HopView: Codable, Sendable {
  public var index: Int
  public var port: String
  public var target: String?
  public var neighbour: String?
  /// resolved, pending or failed.
  public var state: String
  public var mac: String?
  /// The largest packet inside.
  public var mtu: Int
  public var encapsulation: String
  public var local: String?
  public var remote: String?
  public var routes: Int
}

public struct PeerView: Codable, Sendable {
  public var name: String
  public var address: String
  public var encapsulations: [String]
}

public struct NeighbourView: Codable, Sendable {
  public var address: String
  /// reachable, failed or pending.
  public var state: String
  public var mac: String?
  public var node: String?
}

public struct FlowView: Codable, Sendable {
  public var transport: String
  public var source: String
  public var sourcePort: UInt16
  public var destination: String
  public var destinationPort: UInt16
  /// `namespace/name:port`; nil where no service has translated the flow.
  public var service: String?
  /// What answers look like where they come in: from the endpoint, to the client or, where the connection is
  /// masqueraded, to the node.
  public var replySource: String
  public var replySourcePort: UInt16
  public var replyDestination: String
  public var replyDestinationPort: UInt16
  public var state: String
  /// Seconds since the first and the last packet.
  public var age: UInt32
  public var idle: UInt32
  public var packets: UInt64
  public var octets: UInt64
  public var replyPackets: UInt64
  public var replyOctets: UInt64
  public var via: String
  public var replyVia: String
}

/// What was dropped, and the last packets of it.
public struct DropsView: Codable, Sendable {
  public struct Count: Codable, Sendable {
    public var port: String
    public var reason: String
    public var explanation: String
    public var packets: UInt64
  }

  public struct Sample: Codable, Sendable {
    /// Nanoseconds since 1970.
    public var time: UInt64
    public var port: String
    public var reason: String
    public var length: Int
    /// The packet in one line.
    public var packet: String
  }

  public var counts: [Count]
  /// Oldest first.
  public var samples: [Sample]

  public init(counts: [Count], samples: [Sample]) {
    self.counts = counts
    self.samples = samples
  }
}
