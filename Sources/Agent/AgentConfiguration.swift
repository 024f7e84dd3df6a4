public import IPAM

/// What the agent is told when it is started; all else stands in the manifests.
public struct AgentConfiguration: Sendable {
  /// The name of the node's manifest.
  public var node: String
  /// The directory of the manifests.
  public var stateDirectory: String
  /// Where the agent answers; see `AgentClient`.
  public var socketPath: String
  /// What outlives the agent: containers' attachments, addresses, flows.
  public var dataDirectory: String
  /// Whether an agent that runs hands over and ends, instead of being in the way.
  public var takesOver = false
  /// The host's own device into the data plane.
  public var hostInterface = "kalsae0"
  /// The control group whose processes' connections the programs in the kernel look after; nil: all of the machine's.
  public var controlGroup: String?
  /// Where warm pools get their addresses from (IPAM-3); nil: there are no warm pools.
  public var addressProvider: (any AddressProvider)?

  public init(
    node: String, stateDirectory: String, socketPath: String? = nil, dataDirectory: String? = nil,
    controlGroup: String? = nil
  ) {
    self.node = node
    self.stateDirectory = stateDirectory
    self.controlGroup = controlGroup
    self.socketPath = socketPath ?? AgentConfiguration.defaultSocketPath(node: node)
    self.dataDirectory = dataDirectory ?? AgentConfiguration.defaultDataDirectory(node: node)
  }

  /// Where the plugin is answered: beside the local API.
  public var pluginSocketPath: String { CNIServer.path(besides: socketPath) }

  /// The folder of the sockets of this machine's agents.
  public static let socketFolder = "/run/kalsae"

  public static func defaultDataDirectory(node: String) -> String { "/var/lib/kalsae/\(node)" }

  public static func defaultSocketPath(node: String) -> String { "\(socketFolder)/\(node).sock" }
}
