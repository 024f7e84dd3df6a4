import CLinux
import Compiler
import Dataplane
import Glibc
import Ports

/// What waits in the ports of an agent that ends as it is told to is kept for the next one, beside its flows.
extension Agent {
  /// For how long frames are worth sending on, in nanoseconds: later their senders have sent them again.
  private static let waitingLifetime: UInt64 = 1_000_000_000

  /// All ports by names that the next agent has too.
  private var portsByName: [(name: String, index: PortIndex, port: any Port)] {
    var result = pods.values.map { ($0.attachment.interface, $0.index, $0.port) }
    if let underlay { result.append((underlay.port.name, underlay.index, underlay.port)) }
    if let host { result.append((host.port.name, host.index, host.port)) }
    return result
  }

  /// Leaves what waits to the next agent. Nobody may move packets any more, best for some milliseconds: by then senders
  /// have all under way that they will send without an answer.
  func saveWaiting() {
    var waiting = WaitingFrames(time: kalsae_monotonic())
    for (name, _, port) in portsByName { waiting.take(from: port, named: name) }
    guard waiting.count > 0 else { return }
    _ = FlowFile.save(waiting.octets(owner: AttachmentStore.boot), as: .frames, in: configuration.dataDirectory)
  }

  /// Moves what the agent before has left. To be called before the worker runs: what came since waits in the ports.
  func moveWaiting() {
    let octets = FlowFile.take(.frames, from: configuration.dataDirectory)
    guard let waiting = WaitingFrames(octets, owner: AttachmentStore.boot),
      kalsae_monotonic() &- waiting.time < Agent.waitingLifetime
    else { return }
    var moved = 0
    for (name, index, port) in portsByName {
      guard let frames = waiting.frames[name] else { continue }
      let memory = MemoryPort(name: name, mtu: port.mtu, capabilities: port.capabilities)
      for frame in frames { memory.enqueue(frame) }
      let lane = workers.lane
      let own = lane[port: index]
      lane[port: index] = memory
      while case let count = lane.poll(index, at: .at(kalsae_monotonic())), count > 0 { moved += count }
      lane[port: index] = own
    }
    log.info("\(moved) packets that waited are sent on")
  }
}
