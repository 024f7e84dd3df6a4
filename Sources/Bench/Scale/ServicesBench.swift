import Addresses
import Compiler
import Dataplane
import Model

/// What services cost, with few and with many of them.
public struct ServicesResult: Sendable, Encodable {
  /// The figures for a number of services.
  public struct Side: Sendable, Encodable {
    public var services: Int
    /// From parsed objects and empty tables to all of them programmed, nodes and pods included.
    public var loadMilliseconds: Double
    /// From the moment at which a changed endpoint slice is known until a packet of a flow to the endpoint that went has
    /// gone to another one, in microseconds.
    public var changeToPacket: Spread
    /// Nanoseconds a packet of established flows to ten services, and of their first packets.
    public var established: Double
    public var first: Double
    /// The same where the flows are spread over all services.
    public var establishedSpread: Double
    public var firstSpread: Double
  }

  public var endpointsPerService: Int
  public var changes: Int
  public var flows: Int
  public var few: Side
  public var many: Side
  /// The process before anything, and with the many services and all of their objects.
  public var memoryBefore: ProcessMemory
  public var memory: ProcessMemory
}

public enum ServicesBench {
  private static let few = 10
  /// Services that the flows of the comparison go to, whatever the number of others.
  private static let used = 10

  public static func run(
    services: Int, flows: Int, changes: Int, windows: Int, _ progress: (String) -> Void
  ) throws(BenchFailure) -> ServicesResult {
    let before = ProcessMemory.now
    progress("loading \(services) services…")
    let many = load(services)
    let memory = ProcessMemory.now
    let less = load(few)
    let nodes = [less, many]
    let counts = [few, services]
    var spreads: [Spread] = []
    for (node, count) in zip(nodes, counts) {
      progress("\(changes) changes among \(count) services…")
      spreads.append(try measureChanges(node, services: count, changes: changes))
    }
    progress("established flows and first packets…")
    var costs: [FlowCost] = []
    for isFirst in [false, true] {
      for isSpread in [false, true] {
        for (node, count) in zip(nodes, counts) {
          let source = source(node, flows: flows, services: isSpread ? count : min(used, count))
          try check(node, source)
          costs.append(FlowCost(node, source, isFirst: isFirst))
        }
      }
    }
    let nanoseconds = FlowCost.compare(costs, windows: windows)
    func side(_ index: Int) -> ServicesResult.Side {
      ServicesResult.Side(
        services: counts[index], loadMilliseconds: Double(nodes[index].loadTime) / 1_000_000,
        changeToPacket: spreads[index], established: nanoseconds[index], first: nanoseconds[4 + index],
        establishedSpread: nanoseconds[2 + index], firstSpread: nanoseconds[6 + index])
    }
    return ServicesResult(
      endpointsPerService: ScaleCluster.endpointsPerService, changes: changes, flows: flows, few: side(0),
      many: side(1), memoryBefore: before, memory: memory)
  }

  private static func load(_ services: Int) -> ScaleNode {
    ScaleNode(ScaleCluster.services(services), client: ScaleCluster.client)
  }

  /// A source of `flows` flows from the client to the first `services` services in turn.
  private static func source(_ node: ScaleNode, flows: Int, services: Int) -> NumberedPort {
    // Neighbouring flows go to services far apart.
    let step = services > 1 ? services / 2 + (services / 2 % 2 == 0 ? 1 : 0) : 1
    return NumberedPort(
      end: flows, sourceMAC: node.clientMAC, destinationMAC: PodAttachment.hostMAC, sink: node.sink
    ) { flow in
      PacketAddresses(
        ScaleCluster.localAddress(0), UInt16(1024 + flow % 64_000),
        to: ScaleCluster.clusterIP((flow &* step + flow / 64_000) % services), 53)
    }
  }

  /// Sends a batch and looks whether each packet went to an endpoint of its service.
  private static func check(_ node: ScaleNode, _ source: NumberedPort) throws(BenchFailure) {
    let first = source.next
    let received = node.exchange(source, at: node.client)
    guard received.count == source.batchSize else {
      throw BenchFailure(description: "\(received.count) of \(source.batchSize) packets came out: \(node.drops)")
    }
    for (offset, frame) in received.enumerated() {
      let wanted = source.addresses(of: (first + offset) % source.end)
      let service = Int(wanted.destination.rawValue - ScaleCluster.clusterIP(0).rawValue)
      let table = node.compiler.state.endpointSlices[ScaleCluster.slice(service, []).object.key]
      guard let got = PacketAddresses(frame: frame), got.destinationPort == 5353, got.source == wanted.source,
        got.sourcePort == wanted.sourcePort,
        table?.endpoints.contains(where: { $0.addresses.first == .v4(got.destination) }) == true
      else { throw BenchFailure(description: "packet \(offset) went to no endpoint of service \(service)") }
    }
  }

  /// Replaces an endpoint of one service after the other by another one, while a flow goes to it.
  private static func measureChanges(
    _ node: ScaleNode, services: Int, changes: Int
  ) throws(BenchFailure) -> Spread {
    var current: [Int: [Int]] = [:]
    var times: [UInt64] = []
    var fresh = services * ScaleCluster.endpointsPerService
    for round in 0..<changes {
      let service = Int(truncatingIfNeeded: UInt64(round) &* 0x9e37_79b9_7f4a_7c15 >> 20) % services
      // A flow that nobody has had.
      let source = source(node, to: service, port: UInt16(1024 + round % 60_000), count: 1)
      let endpoints = current[service] ?? ScaleCluster.endpoints(of: service)
      guard let victim = try destination(node, source, endpoints) else {
        throw BenchFailure(description: "a first packet to service \(service) went nowhere: \(node.drops)")
      }
      let changed = endpoints.map { $0 == victim ? fresh : $0 }
      fresh += 1
      let change = Change.upsert(ScaleCluster.slice(service, changed))
      source.refill()
      node.sink.isKeeping = true
      let start = PipelineBench.now()
      node.apply([change])
      _ = node.lane.poll(node.client, at: .at(1_000_000_000))
      times.append(PipelineBench.now() - start)
      node.sink.isKeeping = false
      guard let frame = node.sink.takeKept().first, let got = PacketAddresses(frame: frame),
        changed.contains(where: { ScaleCluster.address($0) == got.destination })
      else { throw BenchFailure(description: "service \(service): a flow stayed with an endpoint that went") }
      try checkAll(node, service, changed)
      current[service] = changed
    }
    return Spread(nanoseconds: times)
  }

  private static func source(_ node: ScaleNode, to service: Int, port: UInt16, count: Int) -> NumberedPort {
    let source = NumberedPort(
      end: count, sourceMAC: node.clientMAC, destinationMAC: PodAttachment.hostMAC, sink: node.sink
    ) { number in
      PacketAddresses(
        ScaleCluster.localAddress(0), port &+ UInt16(number), to: ScaleCluster.clusterIP(service), 53)
    }
    source.batchSize = count
    return source
  }

  /// The endpoint that a single packet goes to.
  private static func destination(
    _ node: ScaleNode, _ source: NumberedPort, _ endpoints: [Int]
  ) throws(BenchFailure) -> Int? {
    guard let frame = node.exchange(source, at: node.client).first, let got = PacketAddresses(frame: frame) else {
      return nil
    }
    return endpoints.first { ScaleCluster.address($0) == got.destination }
  }

  /// Whether new connections reach every endpoint, and no other.
  private static func checkAll(_ node: ScaleNode, _ service: Int, _ endpoints: [Int]) throws(BenchFailure) {
    node.lane.withPipeline { $0.forgetFlows() }
    let received = node.exchange(source(node, to: service, port: 2000, count: 256), at: node.client)
    let reached = Set(received.compactMap { PacketAddresses(frame: $0)?.destination })
    guard reached == Set(endpoints.map(ScaleCluster.address)) else {
      throw BenchFailure(description: "service \(service): new connections reach \(reached) instead of its endpoints")
    }
  }
}
