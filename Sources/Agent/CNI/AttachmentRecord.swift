import Addresses
import CNI
import Compiler
import Glibc
import IPAM
import Model

/// What the agent knows of a container's interface: enough to adopt it after a restart, and to take it back.
struct AttachmentRecord: Sendable, Equatable {
  enum Phase: String, Sendable {
    /// ADD has begun: what there is of it is taken back where it does not end.
    case adding
    case ready
    /// DEL has begun.
    case deleting
  }

  var phase: Phase
  var attachment: Attachment
  var namespacePath: String
  var namespaceInode: UInt64
  /// The machine's start that the interface belongs to: none outlives it.
  var boot: String
  /// The pod, where the runtime named one.
  var pod: PodName?
  var type: NetworkConfiguration.InterfaceType
  /// The host's end; for TAP a name that only tables know.
  var hostInterface: String
  /// Whether another plugin made the interface, and takes it away.
  var isForeign: Bool
  var mac: MACAddress?
  var addresses: [IPAddress] = []
  /// The configuration as it came with ADD: an IPAM plugin that is delegated to wants it again.
  var configuration: JSON
  var result: JSON?

  /// The name under which the tables know it.
  var key: ObjectKey {
    guard let pod else {
      // No namespace of Kubernetes has such a name, so that no policy selects it.
      return ObjectKey(.pod, namespace: "@\(attachment.network)", name: suffixed(attachment.containerID))
    }
    return ObjectKey(.pod, namespace: pod.namespace, name: suffixed(pod.name))
  }

  private func suffixed(_ name: String) -> String {
    attachment.interface == "eth0" ? name : "\(name)@\(attachment.interface)"
  }

  /// What the tables are to hold.
  var container: ContainerAttachment {
    var container = ContainerAttachment(
      pod: key, labelsOf: pod.map { ObjectKey(.pod, namespace: $0.namespace, name: $0.name) },
      attachment: Pod.Attachment(
        interface: hostInterface, macAddress: mac, type: type == .veth ? .veth : .tap,
        networkNamespace: type == .tap ? namespacePath : nil, containerInterface: attachment.interface),
      addresses: addresses)
    let configuration = try? NetworkConfiguration(configuration, for: .delete)
    container.attachment.masquerades = configuration?.masquerades ?? false
    container.attachment.ingress = configuration?.runtime.ingress.map(Pod.Attachment.Rate.init)
    container.attachment.egress = configuration?.runtime.egress.map(Pod.Attachment.Rate.init)
    container.mappings = (configuration?.runtime.portMappings ?? []).filter { $0.hostPort > 0 }.map { mapping in
      let transport: TransportProtocol =
        switch mapping.transport {
        case .tcp: .tcp
        case .udp: .udp
        case .sctp: .sctp
        }
      return ContainerPortMapping(
        number: mapping.hostPort, containerPort: mapping.containerPort, transport: transport,
        address: mapping.hostAddress)
    }
    return container
  }

  /// The name of the host's end for a container's interface: the same whenever it is asked for (NODE-1).
  static func hostInterface(_ attachment: Attachment) -> String {
    PodAttachment.interfaceName(
      pod: ObjectKey(.pod, namespace: attachment.network, name: attachment.containerID),
      interface: attachment.interface)
  }

  /// What is written down at the host's end, so that it is known for ours whatever happens to the records.
  var alias: String { "\(AttachmentRecord.aliasPrefix)\(attachment.interface) of \(attachment.containerID)".prefix255 }
  static let aliasPrefix = "kalsae: "
}

extension String {
  fileprivate var prefix255: String { String(decoding: utf8.prefix(255), as: UTF8.self) }
}

extension Pod.Attachment.Rate {
  init(_ rate: RuntimeConfiguration.Rate) { self.init(bitsPerSecond: rate.bitsPerSecond, burstBits: rate.burstBits) }
}

// MARK: As text

extension AttachmentRecord {
  var json: JSON {
    JSON([
      "phase": .string(phase.rawValue), "network": .string(attachment.network),
      "containerID": .string(attachment.containerID), "interface": .string(attachment.interface),
      "namespacePath": .string(namespacePath), "namespaceInode": .number(String(namespaceInode)),
      "boot": .string(boot), "podNamespace": pod.map { .string($0.namespace) },
      "podName": pod.map { .string($0.name) }, "type": .string(type.rawValue),
      "hostInterface": .string(hostInterface), "isForeign": .bool(isForeign),
      "mac": mac.map { .string($0.description) },
      "addresses": .array(addresses.map { .string($0.description) }), "configuration": configuration,
      "result": result,
    ])
  }

  init?(_ json: JSON) {
    guard let phase = json["phase"]?.text.flatMap(Phase.init(rawValue:)), let network = json["network"]?.text,
      let container = json["containerID"]?.text, let interface = json["interface"]?.text,
      let path = json["namespacePath"]?.text, let type = json["type"]?.text,
      let type = NetworkConfiguration.InterfaceType(rawValue: type),
      let hostInterface = json["hostInterface"]?.text, let configuration = json["configuration"],
      case .number(let digits)? = json["namespaceInode"], let inode = UInt64(digits)
    else { return nil }
    self.phase = phase
    attachment = Attachment(network: network, containerID: container, interface: interface)
    namespacePath = path
    namespaceInode = inode
    boot = json["boot"]?.text ?? ""
    if let namespace = json["podNamespace"]?.text, let name = json["podName"]?.text {
      pod = PodName(namespace: namespace, name: name)
    }
    self.type = type
    self.hostInterface = hostInterface
    isForeign = json["isForeign"]?.flag ?? false
    mac = json["mac"]?.text.flatMap { MACAddress($0) }
    addresses = json["addresses"]?.elements?.compactMap { $0.text.flatMap { IPAddress($0) } } ?? []
    self.configuration = configuration
    result = json["result"]
  }
}
