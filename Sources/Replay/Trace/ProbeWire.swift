import Dataplane
import Model
import Ports

/// What goes into and comes out of the ports of a node that is probed: one frame at a time.
final class ProbeWire {
  /// The frame that the next `receive` of any port delivers.
  var next: [UInt8]?
  /// What was sent, in order.
  var sent: [(port: PortIndex, frame: [UInt8])] = []
  fileprivate var arena = FrameArena(capacity: 72 << 10)
}

/// A port of a node that is probed. All ports of a node share a wire.
final class ProbePort: Port {
  let name: String
  let mtu: Int
  var capabilities: PortCapabilities { [] }
  var statistics: PortStatistics { PortStatistics() }
  var descriptor: Int32? { nil }
  var isExhausted: Bool { false }
  private let index: PortIndex
  private let wire: ProbeWire

  init(_ port: NodePort, wire: ProbeWire) {
    name = port.name
    mtu = port.mtu
    index = port.index
    self.wire = wire
  }

  func receive(into batch: inout FrameBatch) -> Int {
    guard let octets = wire.next else { return 0 }
    wire.next = nil
    wire.arena.reset()
    guard let frame = wire.arena.frame(length: octets.count, headroom: 256) else { return 0 }
    frame.octets.copy(from: octets, to: 0)
    batch.append(frame)
    return 1
  }

  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    for position in 0..<indices.count { wire.sent.append((index, batch[indices[position]].octets.array)) }
    return indices.count
  }

  func release(_ batch: inout FrameBatch) { batch.removeAll() }
}

/// A node that packets are sent through one by one.
final class ProbedNode {
  let node: VirtualNode
  private let wire = ProbeWire()
  private var now: UInt64 = 1_000_000_000

  init(_ name: String, in state: State) throws(ReplayError) {
    // No flow outlives its probe.
    node = try VirtualNode(name, in: state, flowLimit: 16)
    node.connect { ProbePort($0, wire: wire) }
  }

  /// Sends a frame in by a port, with no flow known, no endpoint chosen and no limit of errors used up, so that the same
  /// frame has the same answer whatever was asked before; gives what came out and what was decided.
  func send(_ frame: [UInt8], by port: PortIndex) -> (sent: [(port: PortIndex, frame: [UInt8])], events: [TraceEvent]) {
    // Far enough apart that nothing of the last probe is left: fragments, learned path MTUs, the rate of errors.
    now += 3_600_000_000_000
    node.lane.withPipeline { pipeline in
      pipeline.forgetFlows()
      pipeline.forgetChoices(seed: 0)
      pipeline.clearTrace()
      pipeline.isTracing = true
    }
    wire.sent.removeAll(keepingCapacity: true)
    wire.next = frame
    _ = node.lane.poll(port, at: .at(now))
    // What was cut into fragments goes out behind the batch.
    node.lane.tick(at: now)
    let events = node.lane.withPipeline { $0.trace }
    return (wire.sent, events)
  }
}
