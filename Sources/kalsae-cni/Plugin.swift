import CLinux
import CNI
import Glibc

/// The CNI plugin: what a runtime starts for every pod. It checks what it was given, has the node's agent do the work,
/// and prints the answer. Without the agent it refuses what would need it, but for DEL, which it records.
enum Plugin {
  static func run() -> Int32 {
    let program = PluginProgram(
      about:
        "kalsae-cni, a plugin of the Container Network Interface (https://www.cni.dev): connects containers to Kalsae.\n"
        + "Versions of the specification: \(CNIVersion.supportedText).\n"
        + "Container runtimes start it; `kalsae cni install` puts it where they look.\n",
      caller: "the runtime does")
    return program.run(perform)
  }

  // MARK: Asking the agent

  private static func perform(_ request: CNIRequest) throws(CNIError) -> JSON? {
    let place = AgentPlace(request.configuration)
    do throws(CNIError) {
      return try ask(place, request)
    } catch {
      guard error.code == .tryAgain, request.command == .delete, let folder = place.dataDirectory else {
        guard error.code == .tryAgain, request.command == .status else { throw error }
        throw CNIError(.notAvailable, error.message, remedy: error.remedy)
      }
      let spool = DeleteSpool(dataDirectory: folder)
      let entry = try spool.add(request)
      // An agent that came meanwhile may have looked already.
      if let reply = try? ask(place, request) {
        spool.remove(entry)
        return reply
      }
      return nil
    }
  }

  /// Seconds that the agent may take: what waits for a DHCP server takes long.
  private static let patience: Int32 = 110

  private static func ask(_ place: AgentPlace, _ request: CNIRequest) throws(CNIError) -> JSON? {
    guard let socket = place.socket else {
      throw CNIError(
        .tryAgain, "no agent of Kalsae runs here: \(AgentPlace.socketFolder) has \(place.found) sockets",
        remedy: "start `kalsae run`, or name the agent's socket as \"agentSocket\" in the network configuration")
    }
    let descriptor = unsafe kalsae_unix_connect(socket, patience)
    switch -descriptor {
    case _ where descriptor >= 0: break
    case EACCES, EPERM:
      throw CNIError(
        .inputOutput, "\(socket): only root may ask the agent", remedy: "run the container runtime as root")
    case let code:
      throw CNIError(
        .tryAgain, "the agent does not answer at \(socket): error \(code)",
        remedy: "start the agent with `kalsae run`; the runtime asks again")
    }
    defer { close(descriptor) }
    let message = Array((request.message.serialized + "\n").utf8)
    guard send(message[...], to: descriptor), let answer = DeleteSpool.readAll(descriptor), !answer.isEmpty else {
      throw CNIError(
        .tryAgain, "the agent at \(socket) ended, or took longer than \(patience) s, before it answered",
        remedy: "look at the agent's log; what it had begun it takes back, and the runtime asks again")
    }
    guard let reply = try? JSON(parsing: answer) else {
      throw CNIError(
        .undecodable, "the agent at \(socket) answered what is not understood",
        remedy: "install the plugin of the agent's version: `kalsae cni install`")
    }
    if let error = reply["error"] {
      throw CNIError(error) ?? CNIError(.inputOutput, "the agent failed", remedy: "look at the agent's log")
    }
    return reply["result"]
  }

  private static func send(_ octets: ArraySlice<UInt8>, to descriptor: Int32) -> Bool {
    var rest = octets
    while !rest.isEmpty {
      let count = unsafe rest.withUnsafeBytes {
        unsafe kalsae_unix_send(descriptor, $0.baseAddress!, UInt($0.count))
      }
      if count == -Int(EINTR) { continue }
      guard count > 0 else { return false }
      rest = rest.dropFirst(count)
    }
    return true
  }
}
