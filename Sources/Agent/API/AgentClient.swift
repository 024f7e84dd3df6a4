import CLinux
import CNI
import FoundationEssentials
import Glibc

/// Asks a running agent.
public struct AgentClient: Sendable {
  public let socketPath: String

  public init(socketPath: String) { self.socketPath = socketPath }

  /// The sockets of the agents that run on this machine, in order.
  public static func sockets(in folder: String = AgentConfiguration.socketFolder) -> [String] {
    (Folders.names(in: folder) ?? []).filter { $0.hasSuffix(".sock") }.map { "\(folder)/\($0)" }
  }

  /// The agent to ask where the user names none: the only one that runs.
  public static func find(socketPath: String?, node: String?) throws -> AgentClient {
    if let socketPath { return AgentClient(socketPath: socketPath) }
    if let node { return AgentClient(socketPath: AgentConfiguration.defaultSocketPath(node: node)) }
    let found = sockets()
    switch found.count {
    case 1: return AgentClient(socketPath: found[0])
    case 0:
      throw AgentError(
        .unavailable,
        "no agent runs here (\(AgentConfiguration.socketFolder) has no socket): start one with "
          + "`kalsae run`, or name its socket with --socket")
    default:
      throw AgentError(
        .unavailable, "several agents run here: choose one with --socket: \(found.joined(separator: ", "))")
    }
  }

  /// The longest answer that is taken, in octets.
  private static let replyLimit = 256 << 20

  /// Sends a request and waits for the answer, some seconds at most. `raw` is the answer as it came.
  public func ask(_ request: AgentRequest) throws -> (reply: AgentReply, raw: String) {
    let descriptor = unsafe kalsae_unix_connect(socketPath, 10)
    switch -descriptor {
    case _ where descriptor >= 0: break
    case ENOENT, ECONNREFUSED:
      throw AgentError(.unavailable, "no agent answers at \(socketPath): start it with `kalsae run`")
    case EACCES, EPERM:
      throw AgentError(.notPermitted, "\(socketPath): only root may ask the agent; use sudo")
    default: throw AgentError(.unavailable, "cannot connect to \(socketPath): \(systemErrorText(-descriptor))")
    }
    defer { close(descriptor) }
    var message = [UInt8](try JSONEncoder().encode(request))
    message.append(UInt8(ascii: "\n"))
    let sent = unsafe message.withUnsafeBytes { unsafe kalsae_unix_send(descriptor, $0.baseAddress!, UInt($0.count)) }
    guard sent == message.count else {
      throw AgentError(.unavailable, "cannot send to the agent at \(socketPath): \(systemErrorText(Int32(-sent)))")
    }
    var received: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while received.last != UInt8(ascii: "\n") {
      let count = unsafe buffer.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else {
        let why = count == 0 ? "it ended the connection" : systemErrorText(errno)
        throw AgentError(.unavailable, "the agent at \(socketPath) did not answer: \(why)")
      }
      received += buffer[..<count]
      guard received.count <= AgentClient.replyLimit else {
        throw AgentError(.failed, "the agent's answer is longer than \(AgentClient.replyLimit >> 20) MiB")
      }
    }
    guard let reply = try? JSONDecoder().decode(AgentReply.self, from: Data(received)) else {
      throw AgentError(.failed, "the agent at \(socketPath) answered what is not understood: is it another version?")
    }
    if let error = reply.error { throw AgentError(.failed, "the agent says: \(error)") }
    return (reply, String(decoding: received.dropLast(), as: UTF8.self))
  }
}
