/// What a replay came to. Its JSON form is part of the command's interface: fields are added, never renamed.
public struct ReplayReport: Codable, Sendable, Equatable {
  public struct Traffic: Codable, Sendable, Equatable {
    public var packets: UInt64 = 0
    public var octets: UInt64 = 0
  }

  public struct Port: Codable, Sendable, Equatable {
    public var name: String
    /// The pod's interface on the host.
    public var interface: String?
    /// The address that frames to the port carry.
    public var mac: String
    /// The address that the pod or the host sends from.
    public var peerMAC: String?
    /// The capture that was read.
    public var file: String?
    /// Where an address was learned from the capture instead of the state.
    public var isMACLearned: Bool
    public var received: Traffic
    public var sent: Traffic
    /// Frames of the capture that could not be read.
    public var unreadable: UInt64
    /// Packets that came in here and were dropped, by reason.
    public var drops: [String: UInt64]
  }

  public struct Drop: Codable, Sendable, Equatable {
    public var reason: String
    public var port: String
    public var packets: UInt64
    public var explanation: String
    /// The first packet that was dropped for this reason here, from its IP header on.
    public var example: String?
  }

  public struct Flow: Codable, Sendable, Equatable {
    public var transport: String
    public var source: String
    public var destination: String
    /// The service that translates the flow, as `namespace/name:port`; nil: none.
    public var service: String?
    /// Where its packets go, and where they seem to come from: the ends of the answers.
    public var endpoint: String
    public var seenAs: String
    public var state: String
    public var forward: Traffic
    public var reply: Traffic
    /// Where packets of the first direction go.
    public var to: String
  }

  public struct Flows: Codable, Sendable, Equatable {
    /// Those in the table at the end.
    public var present: Int
    public var created: UInt64
    public var expired: UInt64
    public var evicted: UInt64
    public var refused: UInt64
    public var replaced: UInt64
    /// Those with the most octets.
    public var top: [Flow]
  }

  public struct Verdicts: Codable, Sendable, Equatable {
    /// Packets that left for other nodes or, without a state, by `out`.
    public var forwarded: UInt64
    /// Packets that went to pods and to the host.
    public var delivered: UInt64
    public var dropped: UInt64
    /// Packets that still wait at the end.
    public var waiting: UInt64
  }

  public struct Time: Codable, Sendable, Equatable {
    /// Nanoseconds since 1970 of the earliest and the latest frame.
    public var first: UInt64
    public var last: UInt64
    public var seconds: Double
  }

  public var node: String?
  public var received: Traffic
  public var sent: Traffic
  public var verdicts: Verdicts
  public var ports: [Port]
  public var drops: [Drop]
  public var flows: Flows
  public var time: Time
  /// What ended a capture early: a file that is cut short.
  public var warnings: [String]
  /// The first difference of each port from what was expected; nil where nothing was.
  public var differences: [String]?

  /// The numbers that a golden case keeps in `counters.json`.
  public var counters: ReplayCounters {
    ReplayCounters(
      ports: Dictionary(
        uniqueKeysWithValues: ports.filter { $0.received.packets + $0.sent.packets + $0.unreadable > 0 }.map {
          (
            $0.name,
            ReplayCounters.Port(
              received: $0.received, sent: $0.sent, unreadable: $0.unreadable, drops: $0.drops)
          )
        }),
      flows: ReplayCounters.Flows(
        created: flows.created, expired: flows.expired, evicted: flows.evicted, refused: flows.refused,
        replaced: flows.replaced))
  }
}

/// The counters of a replay, as a golden case keeps them.
public struct ReplayCounters: Codable, Sendable, Equatable {
  public struct Port: Codable, Sendable, Equatable {
    public var received: ReplayReport.Traffic
    public var sent: ReplayReport.Traffic
    public var unreadable: UInt64
    public var drops: [String: UInt64]
  }
  public struct Flows: Codable, Sendable, Equatable {
    public var created: UInt64
    public var expired: UInt64
    public var evicted: UInt64
    public var refused: UInt64
    public var replaced: UInt64
  }
  public var ports: [String: Port]
  public var flows: Flows
}
