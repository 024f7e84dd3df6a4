/// Where the agent answers the plugin and keeps its state: as the configuration says, or else those of the only agent of the
/// machine.
public struct AgentPlace: Sendable {
  public static let socketFolder = "/run/kalsae"
  public static let dataFolder = "/var/lib/kalsae"
  private static let suffix = ".cni"

  /// nil where it cannot be told.
  public private(set) var socket: String?
  /// nil where it cannot be told.
  public private(set) var dataDirectory: String?
  /// How many sockets there are to choose from.
  public private(set) var found = 0

  public init(
    _ configuration: NetworkConfiguration, socketFolder: String = socketFolder, dataFolder: String = dataFolder
  ) {
    socket = configuration.agentSocket
    dataDirectory = configuration.dataDirectory
    if socket == nil {
      let names = (Folders.names(in: socketFolder) ?? []).filter { $0.hasSuffix(AgentPlace.suffix) }
      found = names.count
      if names.count == 1 { socket = "\(socketFolder)/\(names[0])" }
    }
    guard dataDirectory == nil else { return }
    // Without an agent there may be no socket; the state of the only one there ever was is still there.
    if let name = socket?.split(separator: "/").last, name.hasSuffix(AgentPlace.suffix) {
      dataDirectory = "\(dataFolder)/\(name.dropLast(AgentPlace.suffix.count))"
    } else if socket == nil {
      // The store of addresses lies beside the agents' folders.
      let names = (Folders.names(in: dataFolder) ?? []).filter {
        !$0.hasPrefix(".") && Folders.names(in: "\(dataFolder)/\($0)") != nil
      }
      if names.count == 1 { dataDirectory = "\(dataFolder)/\(names[0])" }
    }
  }
}
