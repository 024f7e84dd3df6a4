import Addresses
import Compiler
import Dataplane
import Model

/// What many flows cost, and what a flood of first packets does to those that are established.
public struct FlowsResult: Sendable, Encodable {
  public var flows: Int
  /// Octets of the flow tables, and of the process before and after, with all flows in them.
  public var flowMemory: Int
  public var memoryBefore: ProcessMemory
  public var memory: ProcessMemory
  /// Nanoseconds a packet of the flows.
  public var established: Double

  public var flood: Flood
  public struct Flood: Sendable, Encodable {
    public var firstPackets: Int
    /// The most flows that the table takes, and those in it at the end.
    public var limit: Int
    public var inTable: Int
    public var created: UInt64
    public var evicted: UInt64
    public var refused: UInt64
    public var expired: UInt64
    public var replaced: UInt64
    /// Connections that were established before, and their packets during the flood: all sent, and those that came out
    /// where the first ones had.
    public var established: Int
    public var packets: Int
    public var packetsInPlace: Int
    /// Million first packets a second.
    public var mpps: Double
    public var flowMemoryBefore: Int
    public var flowMemory: Int
    public var memoryBefore: ProcessMemory
    public var memory: ProcessMemory
  }
}

public enum FlowsBench {
  public static func run(
    flows: Int, flood: Int, limit: Int, established: Int, _ progress: (String) -> Void
  ) throws(BenchFailure) -> FlowsResult {
    let before = ProcessMemory.now
    progress("\(flows) flows…")
    let node = ScaleNode(ScaleCluster.services(10), client: ScaleCluster.client, flowLimit: flows)
    let source = NumberedPort(
      end: flows, sourceMAC: node.clientMAC, destinationMAC: PodAttachment.hostMAC, sink: node.sink, FlowsBench.flow)
    node.lane[port: node.client] = source
    for _ in 0..<(flows + source.batchSize - 1) / source.batchSize {
      source.refill()
      _ = node.lane.poll(node.client, at: .at(1_000_000_000))
    }
    let (count, statistics, flowMemory) = node.lane.withPipeline {
      ($0.flowCount, $0.flowStatistics, $0.flowMemory)
    }
    guard count == flows, statistics.evicted == 0, statistics.refused == 0 else {
      throw BenchFailure(description: "\(count) of \(flows) flows are in the table: \(statistics); \(node.drops)")
    }
    let memory = ProcessMemory.now
    let cost = FlowCost.compare([FlowCost(node, source, isFirst: false)], windows: 3)[0]
    progress("a flood of \(flood) first packets…")
    var flooded = try Flood(limit: limit, established: established)
    return FlowsResult(
      flows: flows, flowMemory: flowMemory, memoryBefore: before, memory: memory, established: cost,
      flood: try flooded.run(flood))
  }

  /// The addresses of a flow: distinct for 2^32 numbers.
  fileprivate static func flow(_ number: Int) -> PacketAddresses {
    PacketAddresses(
      ScaleCluster.localAddress(0), UInt16(1024 + number & 0x7fff), to: ScaleCluster.address(number >> 15 & 0x1ffff),
      UInt16(1024 + number >> 32))
  }
}

/// A node with established connections to services, which the flood must not touch.
private struct Flood {
  let node: ScaleNode
  let limit: Int
  let established: Int
  let connections: NumberedPort
  let answers: NumberedPort
  /// Where the connections went with their first packets.
  private var places: Set<PacketAddresses> = []
  private var now: UInt64 = 1_000_000_000

  init(limit: Int, established: Int) throws(BenchFailure) {
    node = ScaleNode(ScaleCluster.services(10), client: ScaleCluster.client, flowLimit: limit)
    self.limit = limit
    self.established = established
    let (node, services) = (node, 10)
    connections = NumberedPort(
      end: established, sourceMAC: node.clientMAC, destinationMAC: PodAttachment.hostMAC, sink: node.sink
    ) { number in
      PacketAddresses(
        ScaleCluster.localAddress(0), UInt16(1024 + number / services),
        to: ScaleCluster.clusterIP(number % services), 53)
    }
    var places: [PacketAddresses] = []
    while places.count < established {
      connections.batchSize = min(FrameBatch.standardCapacity, established - places.count)
      for frame in node.exchange(connections, at: node.client) {
        guard let place = PacketAddresses(frame: frame) else {
          throw BenchFailure(description: "a packet to a service came out damaged")
        }
        places.append(place)
      }
    }
    let copy = places
    self.places = Set(places)
    answers = NumberedPort(
      end: established, sourceMAC: MACAddress(rawValue: 0x02_00_00_00_00_02), destinationMAC: BenchNode.underlayMAC,
      sink: node.sink
    ) { copy[$0].reversed }
    // The answers come back to the client with the service's address.
    for number in stride(from: 0, to: established, by: answers.batchSize) {
      let received = node.exchange(answers, at: node.underlay)
      guard received.count == answers.batchSize,
        PacketAddresses(frame: received[0])?.source == connections.addresses(of: number).destination
      else { throw BenchFailure(description: "answers do not come back: \(node.drops)") }
    }
  }

  mutating func run(_ flood: Int) throws(BenchFailure) -> FlowsResult.Flood {
    let source = NumberedPort(
      end: flood, sourceMAC: node.clientMAC, destinationMAC: PodAttachment.hostMAC, sink: node.sink, FlowsBench.flow)
    let memoryBefore = ProcessMemory.now
    let flowMemoryBefore = node.lane.withPipeline { $0.flowMemory }
    var (spent, sent, packets, inPlace): (UInt64, Int, Int, Int) = (0, 0, 0, 0)
    while sent < flood {
      node.lane[port: node.client] = source
      for _ in 0..<1024 where sent < flood {
        source.batchSize = min(256, flood - sent)
        source.refill()
        now += 100_000
        let start = PipelineBench.now()
        _ = node.lane.poll(node.client, at: .at(now))
        spent += PipelineBench.now() - start
        sent += source.batchSize
      }
      node.lane.tick(at: now)
      // Every established connection goes on meanwhile.
      connections.next = 0
      packets += established
      inPlace += inPlaceCount()
    }
    let (count, statistics, flowMemory) = node.lane.withPipeline { ($0.flowCount, $0.flowStatistics, $0.flowMemory) }
    let gone = statistics.evicted + statistics.expired + statistics.replaced
    guard UInt64(count) + gone == statistics.created, statistics.created + statistics.refused >= UInt64(flood) else {
      throw BenchFailure(description: "the counts do not add up: \(count) flows are left of \(statistics)")
    }
    return FlowsResult.Flood(
      firstPackets: flood, limit: limit, inTable: count, created: statistics.created, evicted: statistics.evicted,
      refused: statistics.refused, expired: statistics.expired, replaced: statistics.replaced,
      established: established, packets: packets, packetsInPlace: inPlace,
      mpps: Double(flood) * 1000 / Double(max(spent, 1)), flowMemoryBefore: flowMemoryBefore, flowMemory: flowMemory,
      memoryBefore: memoryBefore, memory: ProcessMemory.now)
  }

  /// Sends a packet of every established connection; how many went where the first one had gone.
  private func inPlaceCount() -> Int {
    var (sent, count) = (0, 0)
    while sent < established {
      connections.batchSize = min(FrameBatch.standardCapacity, established - sent)
      // In no order: what has no flow any more comes last.
      for frame in node.exchange(connections, at: node.client, now: now) {
        if let place = PacketAddresses(frame: frame), places.contains(place) { count += 1 }
      }
      sent += connections.batchSize
    }
    return count
  }
}
