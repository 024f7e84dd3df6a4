/// What the agent is told when it is started; all else stands in the manifests.
public struct AgentConfiguration: Sendable {
  /// The name of the node's manifest.
  public var node: String
  /// The directory of the manifests.
  public var stateDirectory: String
  /// Where the agent answers; see `AgentClient`.
  public var socketPath: String
  /// The host's own device into the data plane.
  public var hostInterface = "kalsae0"

  public init(node: String, stateDirectory: String, socketPath: String? = nil) {
    self.node = node
    self.stateDirectory = stateDirectory
    self.socketPath = socketPath ?? AgentConfiguration.defaultSocketPath(node: node)
  }

  /// The folder of the sockets of this machine's agents.
  public static let socketFolder = "/run/kalsae"

  public static func defaultSocketPath(node: String) -> String { "\(socketFolder)/\(node).sock" }
}
