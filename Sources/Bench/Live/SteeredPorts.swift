import Dataplane
import EBPF
import Glibc
import Lab
import Ports

/// AF_XDP ports that share memory, all of whose devices' packets are theirs as long as this is there.
final class SteeredPorts {
  private let namespace: Namespace
  private let memory: XDPMemory
  private let steerer: Steerer
  private var steering = Steering()

  init(_ namespace: Namespace) throws {
    self.namespace = namespace
    memory = try XDPMemory(chunks: 1 << 14)
    steerer = try Steerer(steering)
  }

  func open(_ interface: String) throws -> any Port {
    var options = XDPPort.Options()
    options.namespace = namespace.path
    let port = try XDPPort(interface: interface, memory: memory, options: options)
    steering.ownDevices.append(port.interfaceIndex)
    try steerer.set(steering)
    try steerer.setSockets(port.socketDescriptors, of: port.interfaceIndex)
    try namespace.withNamespace { try steerer.attach(to: port.interfaceIndex) }
    return port
  }
}
