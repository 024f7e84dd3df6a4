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
  /// Why a device is left to a packet socket, until the setting changes.
  private(set) var refusals: [Int32: String] = [:]

  /// As many as wait for the worker while somebody else has its processor.
  private static let podSlots = 2048
  private static let underlaySlots = 4096

  /// `mtu`: of the devices.
  init(frames: Int, mtu: Int) throws {
    memory = try XDPMemory(chunks: frames, mtu: mtu)
    steerer = try Steerer(steering)
  }

  /// Opens a pod's device, all of whose packets are the data plane's.
  func openPod(_ interface: Int32) throws -> XDPPort {
    var options = XDPPort.Options()
    options.slots = SteeredDevices.podSlots
    return try open(interface, options) { $0.ownDevices.append(interface) }
  }

  /// Opens the underlay's device, which is shared with the host; `port` gets what the program passes on.
  func openUnderlay(_ port: AFPacketPort, _ classifier: PacketClassifier) throws -> XDPPort {
    var options = XDPPort.Options()
    options.slots = SteeredDevices.underlaySlots
    return try open(port.interfaceIndex, behind: port, options) {
      $0.sharedDevices.append(port.interfaceIndex)
      $0.take(classifier)
    }
  }

  private func open(
    _ interface: Int32, behind: AFPacketPort? = nil, _ options: XDPPort.Options, _ change: (inout Steering) -> Void
  ) throws -> XDPPort {
    let port = try XDPPort(interface: interface, memory: memory, behind: behind, options: options)
    change(&steering)
    do {
      try steerer.set(steering)
      try steerer.setSocket(port.socketDescriptor, of: interface)
      try steerer.attach(to: interface)
    } catch {
      close(interface)
      throw error
    }
    return port
  }

  /// Follows what is the data plane's of the packets that the underlay's device brings.
  func set(_ classifier: PacketClassifier) throws(EBPFError) {
    steering.take(classifier)
    try steerer.set(steering)
  }

  /// Takes the program from a device; what comes next the packet socket gets, if there is one.
  func close(_ interface: Int32) {
    steerer.detach(from: interface)
    try? steerer.setSocket(nil, of: interface)
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
    guard workers.count == 1 else {
      steeringRefusal = "there are \(workers.count) workers"
      return trouble(
        Agent.steeringSubject,
        "no AF_XDP by \(workers.count) workers: packet sockets are used; start with one",
        level: .warning)
    }
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
    guard compiler.settings.ports != .afXDP, underlay?.xdp == nil, !pods.values.contains(where: { $0.port is XDPPort })
    else { return }
    steered = nil
  }

  /// Whether a device's packets should come by another kind of port than they do.
  func isWronglyPorted(_ interface: Int32, isSteered: Bool) -> Bool {
    guard compiler.settings.ports == .afXDP, let steered else { return isSteered }
    return !isSteered && steered.refusals[interface] == nil
  }

  /// The AF_XDP port of a device; nil where a packet socket has to do, and the log says why.
  func openSteered(_ interface: Int32, _ label: String, _ open: (SteeredDevices) throws -> XDPPort) -> XDPPort? {
    guard compiler.settings.ports == .afXDP, let steered, steered.refusals[interface] == nil else { return nil }
    do {
      let port = try open(steered)
      if let refusal = port.moderationRefusal { log.notice("\(label): \(refusal)") }
      return port
    } catch {
      steered.refuse(interface, "\(error)")
      log.warning("\(label): no AF_XDP: \(error): a packet socket is used")
      return nil
    }
  }
}
