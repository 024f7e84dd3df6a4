import Addresses
import Compiler
import Dataplane
import Model

/// What network policies cost, with few and with many of them.
public struct PolicyResult: Sendable, Encodable {
  public struct Side: Sendable, Encodable {
    public var policies: Int
    public var pods: Int
    /// How many of the pods are on the node itself.
    public var localPods: Int
    /// From parsed objects and empty tables to all of them programmed, nodes included.
    public var loadMilliseconds: Double
    /// From the moment at which a change is known until the tables have it, in microseconds: a pod comes, a pod goes, in
    /// turn.
    public var podChange: Spread
    /// The same for a policy that changes a rule.
    public var policyChange: Spread
    /// Nanoseconds a packet of established flows between pods of the node whose traffic is restricted in both directions.
    public var established: Double
    /// The same for the flows' first packets.
    public var first: Double
  }

  public var flows: Int
  public var sides: [Side]
  public var memory: ProcessMemory
}

public enum PolicyBench {
  /// Measures few policies, `policies` of them, and those with all pods on the node.
  public static func run(
    pods: Int, policies: Int, localPods: Int, flows: Int, windows: Int, _ progress: (String) -> Void
  ) throws(BenchFailure) -> PolicyResult {
    // The fewest that isolate the client and all servers of the node.
    let clusters = [
      PolicyCluster(
        pods: pods, policies: min(policies, PolicyCluster.teams * PolicyCluster.apps / 10), localPods: localPods),
      PolicyCluster(pods: pods, policies: policies, localPods: localPods),
      PolicyCluster(pods: pods, policies: policies, localPods: pods),
    ]
    var nodes: [ScaleNode] = []
    for cluster in clusters {
      progress("loading \(cluster.policies) policies, \(cluster.pods) pods, \(cluster.localPods) of them local…")
      nodes.append(ScaleNode(cluster.resources, client: PolicyCluster.key(0)))
    }
    let memory = ProcessMemory.now
    progress("established flows and first packets…")
    var costs: [FlowCost] = []
    for isFirst in [false, true] {
      for (node, cluster) in zip(nodes, clusters) {
        // The same servers everywhere.
        let source = source(node, cluster, flows: flows, servers: Array(clusters[0].servers.prefix(200)))
        try check(node, source)
        costs.append(FlowCost(node, source, isFirst: isFirst))
      }
    }
    let nanoseconds = FlowCost.compare(costs, windows: windows)
    var sides: [PolicyResult.Side] = []
    for (index, (node, cluster)) in zip(nodes, clusters).enumerated() {
      progress("changes among \(cluster.policies) policies…")
      sides.append(
        PolicyResult.Side(
          policies: cluster.policies, pods: cluster.pods, localPods: cluster.localPods,
          loadMilliseconds: Double(node.loadTime) / 1_000_000,
          podChange: podChanges(node, cluster), policyChange: policyChanges(node, cluster),
          established: nanoseconds[index], first: nanoseconds[clusters.count + index]))
    }
    return PolicyResult(flows: flows, sides: sides, memory: memory)
  }

  private static func source(
    _ node: ScaleNode, _ cluster: PolicyCluster, flows: Int, servers: [Int]
  ) -> NumberedPort {
    let client = cluster.address(0)
    let addresses = servers.map(cluster.address)
    return NumberedPort(
      end: flows, sourceMAC: node.clientMAC, destinationMAC: PodAttachment.hostMAC, sink: node.sink
    ) { flow in
      PacketAddresses(
        client, UInt16(1024 + flow % 64_000), to: addresses[flow % addresses.count],
        UInt16(8000 + (flow / 64_000 + flow) % 1000))
    }
  }

  /// Sends packets that are allowed, and others that are not.
  private static func check(_ node: ScaleNode, _ source: NumberedPort) throws(BenchFailure) {
    let received = node.exchange(source, at: node.client)
    guard received.count == source.batchSize else {
      throw BenchFailure(description: "\(received.count) of \(source.batchSize) packets came out: \(node.drops)")
    }
    let refused = NumberedPort(
      end: 1 << 16, sourceMAC: node.clientMAC, destinationMAC: PodAttachment.hostMAC, sink: node.sink
    ) { number in
      let allowed = source.addresses(of: number)
      return PacketAddresses(allowed.source, allowed.sourcePort, to: allowed.destination, 9000)
    }
    let escaped = node.exchange(refused, at: node.client)
    guard escaped.isEmpty else {
      throw BenchFailure(description: "\(escaped.count) packets came through that no policy allows")
    }
  }

  /// A pod with labels that no other has comes on another node, and goes.
  private static func podChanges(_ node: ScaleNode, _ cluster: PolicyCluster) -> Spread {
    var times: [UInt64] = []
    for round in 0..<200 {
      let key = ObjectKey(.pod, namespace: PolicyCluster.namespace(round % PolicyCluster.teams), name: "new-\(round)")
      let pod = Pod(
        metadata: ObjectMetadata(
          name: key.name, namespace: key.namespace,
          labels: ["app": "app-\(round % PolicyCluster.apps)", "tier": "server", "new": key.name]),
        nodeName: ScaleCluster.peerName(round), addresses: [.v4(ScaleCluster.address(cluster.pods + round))],
        phase: .running)
      for change in [Change.upsert(.pod(pod)), .delete(key)] {
        let start = PipelineBench.now()
        node.apply([change])
        times.append(PipelineBench.now() - start)
      }
    }
    return Spread(nanoseconds: times)
  }

  /// A policy's first rule allows any port, and no longer.
  private static func policyChanges(_ node: ScaleNode, _ cluster: PolicyCluster) -> Spread {
    var times: [UInt64] = []
    let policies = node.compiler.state.networkPolicies.values.sorted { $0.name < $1.name }.prefix(100)
    for policy in policies {
      var changed = policy
      changed.ingress[0].ports = []
      for version in [changed, policy] {
        let start = PipelineBench.now()
        node.apply([.upsert(.networkPolicy(version))])
        times.append(PipelineBench.now() - start)
      }
    }
    return Spread(nanoseconds: times)
  }
}
