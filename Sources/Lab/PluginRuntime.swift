import Addresses

/// Starts and ends containers' networks by the CNI plugin, as a container runtime does (section 2 of the specification).
public struct PluginRuntime: Sendable {
  public let node: Cluster.Node
  /// The path of `kalsae-cni`.
  public let plugin: String
  public let socket: String
  public let dataDirectory: String
  /// The folder of host-local's store.
  public let addresses: String
  public var version = "1.1.0"
  public var network = "pods"
  /// The section "ipam"; nil: addresses of the node's block in the way of host-local.
  public var ipam: String?
  /// Further members of the configuration, each with a comma before it: `, "interface": "tap"`.
  public var more = ""

  public init(node: Cluster.Node, plugin: String, socket: String, dataDirectory: String, addresses: String) {
    self.node = node
    self.plugin = plugin
    self.socket = socket
    self.dataDirectory = dataDirectory
    self.addresses = addresses
  }

  /// The section "ipam" as it is.
  public var addressing: String {
    ipam ?? """
      {"type": "host-local", "dataDir": "\(addresses)", "ranges": [[{"subnet": "\(node.block4)"}], [{"subnet": "\(node.block6)"}]]}
      """
  }

  /// The configuration as a runtime derives it for the plugin.
  public var configuration: String {
    """
    {"cniVersion": "\(version)", "name": "\(network)", "type": "kalsae-cni", "agentSocket": "\(socket)",
     "dataDirectory": "\(dataDirectory)", "ipam": \(addressing)\(more)}
    """
  }

  /// Runs the plugin. `arguments`: of CNI_ARGS.
  public func run(
    _ command: String, container: String = "", interface: String = "eth0", namespace: String? = nil,
    arguments: String = "", configuration: String? = nil
  ) throws -> ProcessResult {
    var variables = ["CNI_COMMAND=\(command)", "CNI_PATH=/opt/cni/bin:/usr/lib/cni"]
    if !container.isEmpty { variables += ["CNI_CONTAINERID=\(container)", "CNI_IFNAME=\(interface)"] }
    if let namespace { variables.append("CNI_NETNS=\(namespace)") }
    if !arguments.isEmpty { variables.append("CNI_ARGS=\(arguments)") }
    return try node.namespace.run(
      ["env", "-i"] + variables + [plugin], input: configuration ?? self.configuration, timeout: .seconds(60))
  }

  /// ADD; throws unless it succeeds. Returns what the plugin printed.
  @discardableResult
  public func add(
    _ container: String, to namespace: Namespace, interface: String = "eth0", arguments: String = ""
  ) throws -> String {
    try run("ADD", container: container, interface: interface, namespace: namespace.path, arguments: arguments).check()
      .standardOutput
  }

  /// DEL; throws unless it succeeds.
  public func delete(_ container: String, interface: String = "eth0", namespace: Namespace? = nil) throws {
    try run("DEL", container: container, interface: interface, namespace: namespace?.path).check()
  }
}

extension LabError {
  /// What a program that failed printed.
  public var output: String? { if case .failed(_, _, let output) = self { output } else { nil } }
}
