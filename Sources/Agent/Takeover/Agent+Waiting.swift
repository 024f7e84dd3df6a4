import CLinux
import Compiler
import Dataplane
import Glibc
import Ports

/// What waits in the ports of an agent that ends as it is told to is kept for the next one, beside its flows.
extension Agent {
  /// For how long frames are worth sending on, in nanoseconds: later their senders have sent them again.
  private static let waitingLifetime: UInt64 = 1_000_000_000

  /// All ports by names that the next agent has too, those of each name in the workers' order.
  private var portsByName: [(name: String, index: PortIndex, ports: [any Port])] {
    var result = pods.values.map { ($0.attachment.interface, $0.index, $0.ports) }
    if let underlay { result.append((underlay.port.name, underlay.index, [underlay.port] + underlay.others)) }
    if let host { result.append((host.port.name, host.index, [host.port])) }
    return result
  }

  /// Leaves what waits to the next agent. Nobody may move packets any more, best for some milliseconds: by then senders
  /// have all under way that they will send without an answer.
  func saveWaiting() {
    var waiting = WaitingFrames(time: kalsae_monotonic())
    for (name, _, ports) in portsByName { for port in ports { waiting.take(from: port, named: name) } }
    guard waiting.count > 0 else { return }
    _ = FlowFile.save(waiting.octets(owner: AttachmentStore.boot), as: .frames, in: configuration.dataDirectory)
  }

  /// Moves what waits in sockets of the underlay that an agent with more workers has handed over, and closes them: what the
  /// kernel gave to them comes to the others then. To be called before the worker runs.
  func moveSurplus() {
    guard let underlay else { return }
    for inherited in inheritance.takeOthers(of: underlay.port.name) {
      guard let port = try? adopt(inherited) else { continue }
      let moved = move(from: port, at: underlay.index)
      log.info("\(moved) packets that waited in a socket too many are sent on")
    }
  }

  /// Moves what the agent before has left. To be called before the worker runs: what came since waits in the ports.
  func moveWaiting() {
    let octets = FlowFile.take(.frames, from: configuration.dataDirectory)
    guard let waiting = WaitingFrames(octets, owner: AttachmentStore.boot),
      kalsae_monotonic() &- waiting.time < Agent.waitingLifetime
    else { return }
    var moved = 0
    for (name, index, ports) in portsByName {
      guard let frames = waiting.frames[name] else { continue }
      let memory = MemoryPort(name: name, mtu: ports[0].mtu, capabilities: ports[0].capabilities)
      for frame in frames { memory.enqueue(frame) }
      moved += move(from: memory, at: index)
    }
    log.info("\(moved) packets that waited are sent on")
  }

  /// Moves all that waits in a port, as if it were the one at a place, before the workers run. How many packets that were.
  func move(from port: any Port, at index: PortIndex) -> Int {
    let lane = workers.lane
    let own = lane[port: index]
    lane[port: index] = port
    defer { lane[port: index] = own }
    var moved = 0
    // No more than what a ring holds: others may come as fast.
    while moved < 1 << 16, case let count = lane.poll(index, at: .at(kalsae_monotonic())), count > 0 { moved += count }
    return moved
  }
}
