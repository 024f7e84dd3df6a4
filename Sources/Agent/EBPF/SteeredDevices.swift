import Dataplane
import EBPF
import Model
import Node
import Ports

/// The devices whose packets come and go by AF_XDP: their memory, and the program that hands them over.
final class SteeredDevices {
  let memory: XDPMemory
  private let steerer: Steerer
  private var steering = Steering()
  private var podsOpened = 0
  /// Why a device is left to a packet socket, until the setting changes.
  private(set) var refusals: [Int32: String] = [:]

  /// As many as wait for the workers while somebody else has their processors; and the fewest for one queue of several.
  private static let podSlots = 2048
  private static let underlaySlots = 4096
  private static let leastSlots = 128

  /// `mtu`: of the devices.
  init(frames: Int, mtu: Int) throws {
    memory = try XDPMemory(chunks: frames, mtu: mtu)
    steerer = try Steerer(steering)
  }

  /// Opens a pod's device, all of whose packets are the data plane's: a port for each worker, so that each has a queue to
  /// receive and send by.
  func openPod(_ link: KernelLink, workers: Int) throws -> [XDPPort] {
    if workers > 1 { try XDPPort.raiseQueues(of: link.name, to: workers) }
    let behind = [AFPacketPort?](repeating: nil, count: workers)
    // Pods whose stacks send by one queue are so dealt out to the workers.
    podsOpened += 1
    return try open(link.index, link.name, behind, SteeredDevices.podSlots, shift: podsOpened) {
      $0.ownDevices.append(link.index)
    }
  }

  /// Opens the underlay's device, which is shared with the host. `ports`, one for each worker or the only one that receives,
  /// get what the program passes on. Workers beyond the device's queues get no port.
  func openUnderlay(_ ports: [AFPacketPort], _ classifier: PacketClassifier) throws -> [XDPPort] {
    let (name, interface) = (ports[0].name, ports[0].interfaceIndex)
    let queues = XDPPort.queues(of: name)
    let behind = ports.prefix(min(queues.receive, queues.send))
    return try open(interface, name, Array(behind), SteeredDevices.underlaySlots) {
      $0.sharedDevices.append(interface)
      $0.take(classifier)
    }
  }

  /// Opens as many ports as there are in `behind`, which the queues of the device are dealt out to.
  private func open(
    _ interface: Int32, _ name: String, _ behind: [AFPacketPort?], _ slots: Int, shift: Int = 0,
    _ change: (inout Steering) -> Void
  ) throws -> [XDPPort] {
    let queues = XDPPort.queues(of: name).receive
    var options = XDPPort.Options()
    (options.slots, options.sendSlots) = (slots, slots)
    while options.slots > SteeredDevices.leastSlots, options.slots * queues > slots { options.slots /= 2 }
    var ports: [XDPPort] = []
    for (number, port) in behind.enumerated() {
      options.queues = Array(stride(from: (number + shift) % behind.count, to: queues, by: behind.count))
      ports.append(
        try XDPPort(interface: interface, memory: memory, behind: port, beside: ports.first, options: options))
    }
    change(&steering)
    do {
      try steerer.set(steering)
      try steerer.setSockets(ports.flatMap(\.socketDescriptors), of: interface)
      try steerer.attach(to: interface)
    } catch {
      close(interface)
      throw error
    }
    return ports
  }

  /// Follows what is the data plane's of the packets that the underlay's device brings.
  func set(_ classifier: PacketClassifier) throws(EBPFError) {
    steering.take(classifier)
    try steerer.set(steering)
  }

  /// Takes the program from a device; what comes next the packet socket gets, if there is one.
  func close(_ interface: Int32) {
    steerer.detach(from: interface)
    try? steerer.setSockets([], of: interface)
    steering.ownDevices.removeAll { $0 == interface }
    steering.sharedDevices.removeAll { $0 == interface }
    try? steerer.set(steering)
  }

  /// Leaves a device to a packet socket.
  func refuse(_ interface: Int32, _ reason: String) { refusals[interface] = reason }

  /// A device that is gone: another one may get its number.
  func forget(_ interface: Int32) { refusals[interface] = nil }
}

extension Port {
  /// How the port's packets come and go, in a word: see `PortView.kind`.
  var kindName: String {
    if let xdp = self as? XDPPort { return xdp.isZeroCopy ? "af_xdp-zc" : "af_xdp" }
    return self is TAPPort ? "tap" : "af_packet"
  }
}

extension Steering {
  /// What is the data plane's of a shared device's packets: as the classifier says.
  fileprivate mutating func take(_ classifier: PacketClassifier) {
    localAddresses = classifier.localAddresses
    udpPorts = classifier.udpPorts
    protocols = classifier.protocols
    destinations = classifier.destinations
    doors = classifier.doors.map { Door($0.addresses, transport: $0.transport, ports: $0.ports) }
  }
}

/// AF_XDP in the place of packet sockets, where the settings want it and the kernel can.
extension Agent {
  static let steeringSubject = "ports"

  /// Makes ready for AF_XDP, or gives up what was made for it.
  func settleSteering() {
    guard compiler.settings.ports == .afXDP else {
      steeringRefusal = nil
      clearTrouble(Agent.steeringSubject)
      return
    }
    guard steered == nil, steeringRefusal == nil else { return }
    let mtu = max(1500, findUnderlay()?.mtu ?? 0)
    do {
      steered = try SteeredDevices(frames: compiler.settings.xdpFrames, mtu: mtu)
      log.info("ports: AF_XDP; established flows stay in user space")
    } catch {
      steeringRefusal = "\(error)"
      trouble(Agent.steeringSubject, "no AF_XDP: \(error): packet sockets are used", level: .warning)
    }
  }

  /// Lets go of AF_XDP's memory where it is not wanted and nobody uses it any more.
  func leaveSteering() {
    guard compiler.settings.ports != .afXDP, underlay?.xdp.isEmpty ?? true,
      !pods.values.contains(where: \.isSteered)
    else { return }
    steered = nil
  }

  /// Whether a device's packets should come by another kind of port than they do.
  func isWronglyPorted(_ interface: Int32, isSteered: Bool) -> Bool {
    guard compiler.settings.ports == .afXDP, let steered else { return isSteered }
    return !isSteered && steered.refusals[interface] == nil
  }

  /// The queues that a device wants so that each worker has one.
  var wantedQueues: Int { compiler.settings.ports == .afXDP ? workers.count : 1 }

  /// The AF_XDP ports of a device; none where packet sockets have to do, and the log says why.
  func openSteered(_ interface: Int32, _ label: String, _ open: (SteeredDevices) throws -> [XDPPort]) -> [XDPPort] {
    guard compiler.settings.ports == .afXDP, let steered, steered.refusals[interface] == nil else { return [] }
    do {
      let ports = try open(steered)
      if let refusal = ports.lazy.compactMap(\.moderationRefusal).first { log.notice("\(label): \(refusal)") }
      return ports
    } catch {
      steered.refuse(interface, "\(error)")
      log.warning("\(label): no AF_XDP: \(error): a packet socket is used")
      return []
    }
  }
}
