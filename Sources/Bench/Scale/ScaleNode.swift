import Addresses
import Compiler
import Dataplane
import Model

/// A node of a large cluster, whose tables the real compiler made from resources: the pod that packets are sent from has
/// a port of its own, all others share what swallows them.
final class ScaleNode {
  let path: DataPath
  let compiler = NodeCompiler(node: ScaleCluster.node, derivesNeighbours: true)
  /// Nanoseconds from empty tables to those of all resources, the pods' ports included.
  let loadTime: UInt64
  let client: PortIndex
  let underlay: PortIndex
  let sink = SinkPort(name: "sink")
  let clientMAC: MACAddress

  var lane: Lane { path.lanes[0] }

  /// Loads `resources`, of which `client` is a pod of this node.
  init(_ resources: [Resource], client: ObjectKey, flowLimit: Int = 1 << 20) {
    path = DataPath(flowLimit: flowLimit, seed: 1)
    let (path, compiler, sink) = (path, compiler, sink)
    underlay = path.change { tables in
      let underlay = tables.addPort(
        PortDescription(name: "underlay", role: .underlay, mac: BenchNode.underlayMAC, mtu: BenchNode.mtu))
      path.lanes[0][port: underlay] = sink
      compiler.setUnderlay(Underlay(port: underlay, mac: BenchNode.underlayMAC, mtu: BenchNode.mtu))
      return underlay
    }
    let start = PipelineBench.now()
    compiler.apply(resources.map(Change.upsert))
    path.change { tables in
      compiler.commit(to: &tables)
      for (key, attachment) in compiler.attachments {
        let port = tables.addPort(attachment.portDescription(capabilities: []))
        compiler.setPort(port, for: key)
        path.lanes[0][port: port] = sink
      }
      compiler.commit(to: &tables)
    }
    loadTime = PipelineBench.now() - start
    self.client = compiler.port(of: client)!
    clientMAC = compiler.attachments[client]!.mac
  }

  /// Takes in changes and brings the tables up to date, as the agent does.
  func apply(_ changes: [Change]) {
    compiler.apply(changes)
    path.change { tables in compiler.commit(to: &tables) }
  }

  /// Sends what the source has next and returns what came out of it.
  func exchange(_ source: NumberedPort, at port: PortIndex, now: UInt64 = 1_000_000_000) -> [[UInt8]] {
    lane[port: port] = source
    sink.isKeeping = true
    source.refill()
    _ = lane.poll(port, at: .at(now))
    sink.isKeeping = false
    return sink.takeKept()
  }

  /// What was dropped, for the message of a check that failed.
  var drops: String {
    let counts = lane.withPipeline { $0.dropCounts(ports: compiler.attachments.count + 1) }
    return counts.isEmpty ? "nothing was dropped" : counts.map { "\($0.reason) \($0.packets)" }.joined(separator: ", ")
  }
}
