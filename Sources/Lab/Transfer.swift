import Addresses
import CLinux
import Glibc
import Synchronization

/// A stream of pseudo-random octets to be sent, the same for the same seed. It is made once and lies in memory.
public final class Payload: Sendable {
  public let byteCount: Int
  /// SHA-256 (FIPS 180-4) in hexadecimal.
  public let sha256: String
  let file: Descriptor

  public init(byteCount: Int, seed: UInt64 = 1) throws {
    guard byteCount > 0 else { throw LabError.invalid("a payload of \(byteCount) octets cannot be sent") }
    file = try Files.inMemory("payload")
    self.byteCount = byteCount
    let number = lab_fill(file.number, byteCount, seed)
    if number != 0 { throw failure("keep \(byteCount) octets in memory", number) }
    sha256 = try Payload.sha256(of: file)
  }

  /// The hash of a file from its beginning, by a program that shares nothing with what is tested.
  static func sha256(of file: Descriptor) throws -> String {
    guard lseek(file.number, 0, SEEK_SET) == 0 else { throw failure("lseek") }
    let child = try Child(["sha256sum"], netns: nil, input: file, output: nil, errors: nil)
    guard let result = try child.waitForEnd(.seconds(120)) else {
      child.terminate()
      throw LabError.timedOut(what: "sha256sum", after: .seconds(120))
    }
    return String(try result.check().standardOutput.prefix { $0.isHexDigit })
  }
}

/// What a receiver got.
public struct Received: Sendable {
  public let byteCount: Int
  public let sha256: String
  /// From the connection's acceptance to its end.
  public let duration: Duration
}

/// What a sender knows when all it sent has been acknowledged.
public struct Sent: Sendable {
  public let byteCount: Int
  /// From the first attempt to connect to the receiver's end of the connection.
  public let duration: Duration
  public let retransmittedSegments: Int
  /// The largest TCP payload of a segment, and the path's MTU that the kernel has learnt; in octets.
  public let segmentSize: Int
  public let pathMTU: Int
}

/// A TCP transfer that arrived intact.
public struct TransferResult: Sendable, CustomStringConvertible {
  public let sent: Sent
  public let received: Received

  public var bitsPerSecond: Double {
    Double(received.byteCount) * 8 / max(received.duration.inSeconds, 1e-9)
  }

  public var description: String {
    let rate = bitsPerSecond / 1e6
    return "\(received.byteCount) octets intact, \(Int(rate)) Mbit/s, \(sent.retransmittedSegments) retransmitted"
  }
}

/// Takes one TCP connection in a namespace and keeps what comes, to be hashed once it has all come.
public final class TransferServer: Sendable {
  public let port: UInt16
  private let listener: Descriptor
  private let limit: Int

  /// Listens on every address of the family in `namespace`; port 0 lets the kernel choose. More than `limit` octets
  /// are an error.
  public init(in namespace: Namespace, family: IPFamily, port: UInt16 = 0, limit: Int) throws {
    var chosen: UInt16 = 0
    listener = try namespace.withNamespace {
      try Descriptor(
        unsafe lab_listen(family == .ipv4 ? AF_INET : AF_INET6, port, &chosen),
        "listen on TCP port \(port) in \(namespace.name)")
    }
    self.port = chosen
    self.limit = limit
  }

  /// Takes one connection, receives until the sender closes it, and closes it then.
  public func receive(timeout: Duration = .seconds(60)) throws -> Received {
    let deadline = Deadline(after: timeout)
    guard try listener.wait(for: POLLIN, until: deadline) else {
      throw LabError.timedOut(what: "a connection to TCP port \(port)", after: timeout)
    }
    let connection = try Descriptor(lab_accept(listener.number), "accept on TCP port \(port)")
    let start = ContinuousClock.now
    let file = try Files.inMemory("received")
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    var total = 0
    while true {
      guard try connection.wait(for: POLLIN, until: deadline) else {
        throw LabError.timedOut(
          what: "the end of a transfer to TCP port \(port), after \(total) octets", after: timeout)
      }
      let count = unsafe buffer.withUnsafeMutableBytes {
        unsafe recv(connection.number, $0.baseAddress, $0.count, 0)
      }
      if count < 0 && (errno == EAGAIN || errno == EINTR) { continue }
      if count < 0 { throw failure("receive on TCP port \(port) after \(total) octets") }
      if count == 0 { break }
      guard total + count <= limit else {
        throw LabError.corrupted("TCP port \(port) received more than the \(limit) octets that were sent")
      }
      let stored = unsafe buffer.withUnsafeBytes {
        unsafe pwrite(file.number, $0.baseAddress, count, off_t(total))
      }
      guard stored == count else { throw failure("keep \(total + count) octets in memory") }
      total += count
    }
    let duration = start.duration(to: .now)
    withExtendedLifetime(connection) {}
    return Received(byteCount: total, sha256: try Payload.sha256(of: file), duration: duration)
  }
}

/// The sending side of a TCP transfer.
public enum TransferClient {
  /// Connects from `namespace`, sends the payload and nothing else, and waits until the receiver has closed too.
  public static func send(
    _ payload: Payload, from namespace: Namespace, to address: IPAddress, port: UInt16,
    timeout: Duration = .seconds(60)
  ) throws -> Sent {
    let deadline = Deadline(after: timeout)
    let start = ContinuousClock.now
    let target = "TCP \(address) port \(port) from \(namespace.name)"
    let socket = try namespace.withNamespace {
      try Descriptor(
        unsafe address.octets.withUnsafeBufferPointer {
          unsafe lab_connect(address.family == .ipv4 ? AF_INET : AF_INET6, $0.baseAddress!, port)
        }, "connect to \(target)")
    }
    guard try socket.wait(for: POLLOUT, until: deadline) else {
      throw LabError.timedOut(what: "connect to \(target)", after: timeout)
    }
    let error = lab_socket_error(socket.number)
    if error != 0 { throw failure("connect to \(target)", error) }

    var offset: off_t = 0
    while offset < off_t(payload.byteCount) {
      guard try socket.wait(for: POLLOUT, until: deadline) else {
        throw LabError.timedOut(what: "send to \(target), after \(offset) octets", after: timeout)
      }
      let part = min(1 << 20, payload.byteCount - Int(offset))
      let count = unsafe sendfile(socket.number, payload.file.number, &offset, part)
      if count < 0 && (errno == EAGAIN || errno == EINTR) { continue }
      if count <= 0 { throw failure("send to \(target) after \(offset) octets") }
    }
    guard shutdown(socket.number, Int32(SHUT_WR)) == 0 else { throw failure("shut down \(target)") }
    // The other side closes when it has read all: only then has everything arrived.
    guard try socket.wait(for: POLLIN, until: deadline) else {
      throw LabError.timedOut(what: "acknowledgement of all octets by \(target)", after: timeout)
    }
    var info = lab_tcp_info()
    guard unsafe lab_tcp_info(socket.number, &info) == 0 else { throw failure("TCP_INFO of \(target)") }
    let left = lab_socket_error(socket.number)
    if left != 0 { throw failure("send to \(target)", left) }
    return Sent(
      byteCount: payload.byteCount, duration: start.duration(to: .now),
      retransmittedSegments: Int(info.retransmitted_segments), segmentSize: Int(info.send_segment_size),
      pathMTU: Int(info.path_mtu))
  }
}

extension Lab {
  /// Sends a payload over one TCP connection and compares hash and length. Throws unless every octet arrived as sent.
  ///
  /// - Parameter address: where `receiver` is reached from `sender`: an address of its own, or a service's.
  /// - Parameter port: the port to listen on; 0: any free one.
  /// - Parameter servicePort: the port to connect to where it is another one, as with a service.
  @discardableResult
  public func transfer(
    _ payload: Payload, from sender: Namespace, to receiver: Namespace, address: IPAddress, port: UInt16 = 0,
    servicePort: UInt16? = nil, timeout: Duration = .seconds(60)
  ) throws -> TransferResult {
    let server = try TransferServer(
      in: receiver, family: address.family, port: port, limit: payload.byteCount)
    let outcome = Mutex<Result<Received, any Error>?>(nil)
    let shared = Shared(outcome)
    try startThread {
      let result = Result { try server.receive(timeout: timeout) }
      shared.value.withLock { $0 = result }
    }
    let sent: Sent
    do {
      sent = try TransferClient.send(
        payload, from: sender, to: address, port: servicePort ?? server.port, timeout: timeout)
    } catch {
      Interruption.holdIfInterrupted()
      // Where the receiver knows more, it is told: what it threw is then the cause.
      if case .failure(let cause) = shared.value.withLock({ $0 }) { throw cause }
      throw error
    }
    // Hashing takes a while after the last octet has come.
    let received = try waitFor("the receiver's hash", timeout: .seconds(120), every: .milliseconds(5)) {
      shared.value.withLock { $0 }
    }.get()
    guard received.byteCount == payload.byteCount, received.sha256 == payload.sha256 else {
      throw LabError.corrupted(
        "\(payload.byteCount) octets with SHA-256 \(payload.sha256) were sent to \(address), but \(received.byteCount) "
          + "octets with SHA-256 \(received.sha256) arrived")
    }
    return TransferResult(sent: sent, received: received)
  }
}

/// A lock that several closures hold.
private final class Shared<T: Sendable>: Sendable {
  let value: Mutex<T>
  init(_ value: consuming Mutex<T>) { self.value = value }
}

extension IPAddress {
  /// The address as it is on the wire: 4 or 16 octets.
  var octets: [UInt8] {
    switch self {
    case .v4(let a): (0..<4).map { UInt8(truncatingIfNeeded: a.rawValue >> (24 - 8 * $0)) }
    case .v6(let a):
      (0..<16).map { UInt8(truncatingIfNeeded: ($0 < 8 ? a.high : a.low) >> (56 - 8 * UInt64($0 % 8))) }
    }
  }
}
