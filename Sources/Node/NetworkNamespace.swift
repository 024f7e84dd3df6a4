import CLinux
import Glibc

/// A network namespace that is known by a file, so that it can be entered.
public struct NetworkNamespace: Sendable, Hashable, CustomStringConvertible {
  /// `/run/netns/NAME`, `/proc/PID/ns/net` or wherever else it is mounted.
  public let path: String

  /// The namespace at `path`; a text without `/` is the name of one under /run/netns, as `ip netns` lists them.
  public init(_ path: String) { self.path = path.contains("/") ? path : "/run/netns/\(path)" }

  public var description: String { path }

  /// Runs `body` on a thread of its own in the namespace and waits for it. Sockets and devices made there stay in the
  /// namespace; the caller's thread never leaves its own.
  public func run<Result>(_ body: () throws(NodeError) -> Result) throws(NodeError) -> Result {
    var outcome: Swift.Result<Result, NodeError>?
    let error = withoutActuallyEscaping(body) { escapable in
      let run = {
        do throws(NodeError) { outcome = .success(try escapable()) } catch { outcome = .failure(error) }
      }
      return unsafe withUnsafePointer(to: run) { context in
        unsafe kalsae_in_namespace(
          path, { unsafe $0!.assumingMemoryBound(to: (() -> Void).self).pointee() },
          UnsafeMutableRawPointer(mutating: context))
      }
    }
    guard let outcome else {
      throw NodeError(
        subject: path, operation: "enter the network namespace", code: -error,
        remedy: error == -ENOENT ? "no such namespace; `ip netns` lists them" : nil)
    }
    return try outcome.get()
  }

  /// What tells the namespace from all others of this machine while it lasts: a namespace of the same path may be
  /// another one later.
  public struct Identity: Sendable, Hashable {
    public var device: UInt64
    public var inode: UInt64
  }

  /// The namespace's identity; throws where there is none at the path, or something else.
  public func identity() throws(NodeError) -> Identity {
    var identity = kalsae_namespace_identity()
    let result = unsafe kalsae_namespace_identify(path, &identity)
    guard result == 0 else {
      throw NodeError(
        subject: path, operation: "find the network namespace", code: -result,
        remedy: result == -EINVAL ? "the path is no network namespace; `ip netns` lists them" : "no such namespace")
    }
    return Identity(device: identity.device, inode: identity.inode)
  }

  /// Writes kernel parameters of the namespace, such as `net/ipv6/conf/eth0/accept_ra`; those that the kernel does not
  /// have are left out.
  public func writeSysctls(_ values: [(name: String, value: String)]) throws(NodeError) {
    try run { () throws(NodeError) in
      for (name, value) in values {
        let file = unsafe open("/proc/sys/\(name)", O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { continue }
        defer { close(file) }
        let octets = Array(value.utf8)
        let count = unsafe octets.withUnsafeBytes { unsafe write(file, $0.baseAddress, $0.count) }
        guard count == octets.count else {
          throw NodeError(subject: name, operation: "write \(value)", code: errno)
        }
      }
    }
  }
}
