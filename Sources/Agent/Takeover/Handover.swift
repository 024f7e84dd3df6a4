import CLinux
import FoundationEssentials
import Glibc
import Logging
import Ports

/// What an agent gives to the one that takes its place: its ports with all that waits in their queues, and its flows.
public struct HandoverView: Codable, Sendable {
  /// The ports by the names that the tables have for them, in the order of the descriptors.
  var names: [String]
  var ports: [InheritedPort]
  /// Kernel parameters to be put back at the end, as name and value.
  var restore: [[String]]
}

/// What was taken over.
struct Inheritance {
  var ports: [String: InheritedPort] = [:]
  var flows: [UInt8] = []
  var restore: [(name: String, value: String)] = []

  mutating func take(_ name: String, _ kind: InheritedPort.Kind) -> InheritedPort? {
    guard ports[name]?.kind == kind else { return nil }
    return ports.removeValue(forKey: name)
  }

  /// What a further socket of a device is handed over as; no device has such a name.
  static func name(_ device: String, socket number: Int) -> String { "\(device)/\(number)" }

  /// What nobody has taken of a device's further sockets.
  mutating func takeOthers(of device: String) -> [InheritedPort] {
    let names = ports.keys.filter { $0.hasPrefix(Inheritance.name(device, socket: 0).dropLast()) }
    return names.compactMap { ports.removeValue(forKey: $0) }
  }

  /// Whether the port of that name was handed over.
  func has(_ name: String) -> Bool { ports[name] != nil }

  /// Closes what nobody wanted.
  mutating func discard() {
    for port in ports.values { close(port.descriptor) }
    ports = [:]
    flows = []
  }
}

extension Inheritance {
  /// Asks the agent at `socketPath` to hand over and to end; nil where none runs. From the answer on nobody moves
  /// packets: what comes waits in the ports' queues.
  static func ask(_ socketPath: String) throws(AgentError) -> Inheritance? {
    let socket = unsafe kalsae_unix_connect(socketPath, 20)
    if -socket == ENOENT || -socket == ECONNREFUSED { return nil }
    guard socket >= 0 else {
      throw AgentError(
        .unavailable, "cannot ask the agent at \(socketPath) to hand over: \(systemErrorText(-socket))")
    }
    defer { close(socket) }
    let request = Array(#"{"topic":"handover"}"#.utf8) + [UInt8(ascii: "\n")]
    let sent = unsafe request.withUnsafeBytes { unsafe kalsae_unix_send(socket, $0.baseAddress!, UInt($0.count)) }
    guard sent == request.count else { throw failure("it does not take the request") }
    var text: [UInt8] = []
    var descriptors: [Int32] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    var found = [Int32](repeating: -1, count: Int(KALSAE_DESCRIPTORS))
    while text.last != UInt8(ascii: "\n") {
      var count: Int32 = 0
      let capacity = UInt(buffer.count)
      let octets = unsafe kalsae_receive_descriptors(socket, &buffer, capacity, &found, &count)
      descriptors += found.prefix(Int(count))
      guard octets > 0, text.count < 1 << 24 else {
        for descriptor in descriptors { close(descriptor) }
        throw failure(octets == 0 ? "it ended the connection" : systemErrorText(Int32(-octets)))
      }
      text += buffer.prefix(octets)
    }
    guard let reply = try? JSONDecoder().decode(AgentReply.self, from: Data(text)), let view = reply.handover,
      view.ports.count == view.names.count, descriptors.count == view.ports.count + 1
    else {
      for descriptor in descriptors { close(descriptor) }
      throw failure("what it answers is not understood: is it another version?")
    }
    var result = Inheritance()
    for (number, name) in view.names.enumerated() {
      var port = view.ports[number]
      port.descriptor = descriptors[number]
      result.ports[name] = port
    }
    result.flows = FlowFile.readAll(descriptors[view.ports.count])
    close(descriptors[view.ports.count])
    result.restore = view.restore.filter { $0.count == 2 }.map { ($0[0], $0[1]) }
    return result
  }

  private static func failure(_ problem: String) -> AgentError {
    AgentError(
      .unavailable, "the agent that runs did not hand over: \(problem); stop it, and start this one without --takeover")
  }
}

extension Agent {
  /// Goes on with a packet socket that was handed over. One with which that cannot be is closed: it would go on taking packets
  /// that nobody reads.
  func adopt(_ inherited: InheritedPort, finishesTunnels: Bool = false) throws -> AFPacketPort {
    do { return try AFPacketPort(adopting: inherited, finishesTunnels: finishesTunnels) } catch {
      Glibc.close(inherited.descriptor)
      throw error
    }
  }

  /// Stops moving packets and describes what another process needs to go on. Afterwards this process only ends.
  func handOver() -> (view: HandoverView, descriptors: [Int32]) {
    log.notice("node \(configuration.node): another agent takes over")
    endRequests()
    spares.close()
    workers.stop()
    pauseOffload()
    // The other one puts its own programs there; its packet socket is the same.
    for open in pods.values where open.isSteered { steered?.close(open.interface) }
    if let underlay, !underlay.xdp.isEmpty { steered?.close(underlay.port.interfaceIndex) }
    var view = HandoverView(names: [], ports: [], restore: restore.map { [$0.name, $0.value] })
    var flows: [UInt8] = []
    dataPath.change { tables in
      flows = workers.lane.withPipeline { $0.saveFlows(tables, owner: AttachmentStore.boot) }
    }
    func add(_ name: String, _ port: InheritedPort) {
      view.names.append(name)
      view.ports.append(port)
    }
    if let underlay {
      add(underlay.port.name, underlay.port.handover)
      for (number, port) in underlay.others.enumerated() {
        add(Inheritance.name(underlay.port.name, socket: number + 1), port.handover)
      }
    }
    if let host { add(host.port.name, host.port.handover) }
    for open in pods.values {
      if let port = open.port as? AFPacketPort { add(open.attachment.interface, port.handover) }
      if let port = open.port as? TAPPort { add(open.attachment.interface, port.handover) }
    }
    let file = FlowFile.inMemory(flows)
    return (view, view.ports.map(\.descriptor) + [file])
  }
}
