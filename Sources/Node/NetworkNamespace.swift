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
}
