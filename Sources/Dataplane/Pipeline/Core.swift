import Addresses

/// What all stages share, and the stages behind the look-up.
///
/// Methods that only read are `mutating` all the same where packets pass: of a value that is merely borrowed Swift 6.3.1
/// passes a copy, some 700 octets a call.
struct Core: ~Copyable {
  let contexts = PerPacket<PacketContext>()
  var hopStates = Memory<HopState>(count: 256)
  var drops = DropCounters()
  var output = Output()
  var fragments = FragmentTracker()
  var reassembler = Reassembler()
  var waiting = WaitingRoom()
  /// Packets of this batch that were put together here.
  var scratch = FrameArena(capacity: 512 << 10)
  /// Fragments on their way to the waiting room.
  var pieces = FrameBatch(capacity: 64)
  var cutting = FrameArena(capacity: 160 << 10)
  var errorBudget = TokenBucket()
  /// How far each port with a limit is ahead of it.
  var paces = Memory<PortPace>(count: 64)
  var requests = RequestQueue()
  var affinity: AffinityTable
  /// Chooses endpoints and ports.
  var random: RandomSource

  /// Nanoseconds of the pipeline's clock: the machine's, or the capture's in replay.
  private(set) var now: UInt64 = 0
  /// `now` in seconds.
  private(set) var second: UInt32 = 0
  /// The port that the batch came in by, and its record.
  private(set) var ingress = PortIndex.none
  private(set) var ingressRecord = PortRecord.none
  /// Who asked for whom in the batch's last ARP request that was answered: who asks once more has the same answer. 0: nobody.
  var answeredPair: UInt64 = 0
  /// Whether there is a limit to what may come in by it.
  private(set) var isLimited = false
  /// What plain packets from there begin with.
  private(set) var link = LinkGuard.none
  /// What plain tunnel packets have between the headers.
  private(set) var vxlan = TunnelGuard.none
  private(set) var geneve = TunnelGuard.none
  /// How plain packets from the underlay came last: most come so.
  var arrival = Arrival()
  /// How many plain packets are read, looked up and sent at a time: 8, 4 or 1, and not more than the processor can.
  var lanes = Core.mostLanes
  /// How many were sent in such groups.
  var sentInGroups = 0
  /// Whether plain packets take the fast path; without it they go the general way, with the same result.
  var usesFastPath = true
  /// Whether some hop's path has taught a smaller MTU than its link has.
  var hasLearnedMTU = false
  /// Who carries packets of flows that are known, where somebody does.
  var offload: (any FlowOffload)?
  /// A plain packet goes the general way, which offers its flow, where these bits of its number are all set.
  var offloadMask = UInt32.max

  var isTracing = false
  var trace: [TraceEvent] = []

  init(affinityLimit: Int, seed: UInt64) {
    affinity = AffinityTable(limit: affinityLimit)
    random = RandomSource(seed: seed)
  }

  /// The most frames of a batch: places in it have room in 8 bits.
  static var batchLimit: Int { FrameBatch.standardCapacity }

  /// Sets the clock and makes room for what the tables hold by now.
  mutating func begin(at now: UInt64, _ tables: borrowing Tables) {
    scratch.reset()
    if !TunnelPeers.isLocal(arrival.local, tables) { arrival.local = TunnelPeers.noLocal }
    vxlan = .vxlan(tables.settings)
    geneve = .geneve(tables.settings)
    hopStates.grow(to: tables.hops.records.count)
    drops.reserve(ports: tables.ports.records.count)
    output.reserve(ports: tables.ports.records.count)
    paces.grow(to: tables.ports.records.count)
    fragments.lifetime = tables.settings.fragmentLifetime
    reassembler.timeout = UInt64(tables.settings.fragmentLifetime) * 1_000_000_000
    // A capture's time may jump back; the pipeline's does not.
    guard now > self.now || !errorBudget.isFilled else { return }
    self.now = now
    // The clock of flows stands still from the year 2097 on: a capture may say so, and no time-out may end where its
    // seconds cannot be counted.
    second = UInt32(truncatingIfNeeded: min(now / 1_000_000_000, 0xf000_0000))
    errorBudget.refill(at: now, rate: tables.settings.icmpErrorRate, burst: tables.settings.icmpErrorBurst)
  }

  mutating func enter(_ port: PortIndex, _ tables: borrowing Tables) {
    ingress = port
    ingressRecord = tables.ports.records[Int(port.rawValue)]
    answeredPair = 0
    isLimited = tables.ports.hasLimits && tables.ports.limits[Int(port.rawValue)].receive.isLimit
    // Whoever traces sees every decision, and only the general way tells of them.
    link = usesFastPath && !isTracing ? LinkGuard(ingressRecord) : .none
  }

  /// Counts a packet that goes no further.
  @inline(never)
  mutating func drop(_ index: Int, _ reason: DropReason, _ batch: borrowing FrameBatch) {
    drops.add(reason, at: batch[index].port, frame: batch[index], timestamp: now)
    record(.dropped(reason))
  }

  /// Counts a frame that a port did not take when the pipeline was done with it.
  mutating func drop(_ frame: Frame, _ reason: DropReason) {
    drops.add(reason, at: frame.port, frame: frame, timestamp: now)
  }

  @inline(__always)
  mutating func record(_ event: @autoclosure () -> TraceEvent) {
    if isTracing { trace.append(event()) }
  }
}

/// What a worker keeps for each hop.
struct HopState: BitwiseCopyable {
  /// The identification of the last outer IPv4 header.
  var identification: UInt16
  /// The sequence number of the next GRE packet.
  var greSequence: UInt32
  /// The largest inner packet, as an ICMP error taught it; 0: nothing learned (TUN-7).
  var learnedMTU: UInt32
  /// The second when what was learned is forgotten (RFC 1191, section 6.3).
  var learnedUntil: UInt32
  /// Which hop taught it: places of hops are used again.
  var learnedSerial: UInt32
}

/// Limits how many error messages go out (TUN-7; RFC 1812, section 4.3.2.8).
struct TokenBucket: BitwiseCopyable {
  private var tokens: UInt64 = 0
  private var last: UInt64 = 0
  /// Whether it was ever filled: a capture's time may begin at 0.
  private(set) var isFilled = false

  /// Adds `rate` messages a second, up to `burst`.
  mutating func refill(at now: UInt64, rate: Int, burst: Int) {
    let full = UInt64(max(min(rate, burst), 0)) * 1_000_000_000
    if !isFilled {
      isFilled = true
      tokens = full
    } else {
      let (gained, overflow) = (now - last).multipliedReportingOverflow(by: UInt64(max(rate, 0)))
      tokens = overflow ? full : min(full, tokens &+ gained)
    }
    last = now
  }

  mutating func take() -> Bool {
    guard tokens >= 1_000_000_000 else { return false }
    tokens -= 1_000_000_000
    return true
  }
}

/// What a worker asks of the control side.
public enum ControlRequest: Sendable, Equatable {
  /// Packets wait for the Ethernet address of the hop's neighbour.
  case resolve(HopIndex)
  /// The path to the hop's remote end carries inner packets of at most this many octets.
  case pathMTU(HopIndex, Int)
}

/// A short queue of requests without duplicates. Bounded: what does not fit is asked for again by the next packet.
struct RequestQueue: ~Copyable {
  private var requests: [ControlRequest] = []
  private static var limit: Int { 256 }

  var isEmpty: Bool { requests.isEmpty }

  mutating func add(_ request: ControlRequest) {
    guard requests.count < RequestQueue.limit, !requests.contains(request) else { return }
    requests.append(request)
  }

  mutating func takeAll() -> [ControlRequest] {
    defer { requests.removeAll(keepingCapacity: true) }
    return requests
  }
}
