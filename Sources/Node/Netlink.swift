import CNetlink
import Glibc
import Synchronization

/// A conversation with the kernel about links, addresses, routes, neighbours and traffic control (rtnetlink(7)), in one
/// network namespace. May be used from any thread; requests go one after the other.
public final class Netlink: Sendable {
  /// The namespace that it speaks about; nil for that of the process when it was made.
  public let namespace: NetworkNamespace?
  private let socket: Mutex<NetlinkSocket>

  /// Opens a socket in `namespace`, or in the current one.
  public init(in namespace: NetworkNamespace? = nil) throws(NodeError) {
    self.namespace = namespace
    socket = Mutex(try NetlinkSocket(in: namespace))
  }

  /// Sends `message` and returns the answers, as their types and what follows the netlink header. `subject` and
  /// `operation` describe the request in an error.
  @discardableResult
  func request(
    _ message: NetlinkMessage, _ subject: @autoclosure () -> String, _ operation: @autoclosure () -> String
  ) throws(NodeError) -> [(type: UInt16, body: NetlinkReader)] {
    let (code, detail, answers) = socket.withLock { socket in
      // A table that changes while it is read is read again; one that never rests is taken as it is.
      var result = socket.request(message)
      for _ in 0..<8 where result.0 == -EINTR { result = socket.request(message) }
      return result
    }
    guard code == 0 || code == -EINTR else {
      throw NodeError(
        subject: subject(), operation: operation(), code: -code, detail: detail.isEmpty ? nil : detail)
    }
    return answers
  }
}

/// The one place that holds libnl's socket.
@safe
struct NetlinkSocket: ~Copyable, @unchecked Sendable {
  private let socket: OpaquePointer

  init(in namespace: NetworkNamespace?) throws(NodeError) {
    // Pointers do not leave the namespace's thread, their numbers do.
    func open() throws(NodeError) -> UInt {
      var socket: OpaquePointer?
      let result = unsafe kalsae_netlink_open(&socket, 8 << 20)
      guard result == 0 else {
        throw NodeError(subject: "rtnetlink", operation: "open a netlink socket", code: -result)
      }
      return UInt(bitPattern: socket)
    }
    let number = if let namespace { try namespace.run(open) } else { try open() }
    unsafe socket = OpaquePointer(bitPattern: number)!
  }

  deinit { unsafe nl_socket_free(socket) }

  var descriptor: Int32 { unsafe nl_socket_get_fd(socket) }

  private final class Answers {
    var messages: [(type: UInt16, body: NetlinkReader)] = []
  }

  private static let sink: kalsae_netlink_sink = { context, type, payload, length in
    let bytes = unsafe Array(UnsafeRawBufferPointer(start: payload, count: Int(length)))
    unsafe Unmanaged<Answers>.fromOpaque(context!).takeUnretainedValue().messages.append(
      (type, NetlinkReader(bytes[...])))
  }

  mutating func request(_ message: NetlinkMessage) -> (Int32, String, [(type: UInt16, body: NetlinkReader)]) {
    let answers = Answers()
    var text = [CChar](repeating: 0, count: 256)
    let code = withExtendedLifetime(answers) {
      unsafe kalsae_netlink_request(
        socket, message.type, message.flags, message.payload, UInt32(message.payload.count), NetlinkSocket.sink,
        Unmanaged.passUnretained(answers).toOpaque(), &text, UInt32(text.count))
    }
    let detail = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return (code, detail, answers.messages)
  }

  /// Joins a multicast group; 0 or a negated error number.
  mutating func join(_ group: Int32) -> Int32 { unsafe kalsae_netlink_join(socket, group) }

  mutating func makeNonBlocking() { unsafe nl_socket_set_nonblocking(socket) }

  /// Reads the notifications that wait; 0 or a negated error number.
  mutating func notifications() -> (Int32, [(type: UInt16, body: NetlinkReader)]) {
    let answers = Answers()
    let code = withExtendedLifetime(answers) {
      unsafe kalsae_netlink_notifications(
        socket, 64, NetlinkSocket.sink, Unmanaged.passUnretained(answers).toOpaque())
    }
    return (code, answers.messages)
  }
}
