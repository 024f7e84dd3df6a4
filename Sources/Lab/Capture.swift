import Glibc

/// A running tcpdump(8) that writes what passes a device into a pcap file.
public final class Capture: Sendable {
  public let path: String
  private let child: Child

  init(_ child: Child, path: String) throws {
    self.child = child
    self.path = path
    do {
      try waitUntil("tcpdump to listen", timeout: .seconds(10), every: .milliseconds(5)) {
        if let status = child.status {
          throw LabError.failed(command: child.command, status: status, output: trimmed(child.standardError))
        }
        return child.standardError.contains("listening on")
      }
    } catch {
      child.terminate()
      throw error
    }
  }

  /// Ends the capture once what has passed is in the file, and returns how many packets are in it and how many the
  /// kernel could not hand over in time.
  @discardableResult
  public func stop() throws -> (captured: Int, lost: Int) {
    // What passed before this call may still be on its way to tcpdump, which would end without it.
    pause(.milliseconds(100))
    child.signal(SIGINT)
    guard let result = try child.waitForEnd(.seconds(10)) else {
      child.terminate()
      throw LabError.timedOut(what: "tcpdump's end", after: .seconds(10))
    }
    try result.check()
    func number(_ suffix: String) -> Int {
      let line = result.standardError.split(separator: "\n").first { $0.contains(suffix) }
      return line.flatMap { Int($0.prefix { $0.isNumber }) } ?? 0
    }
    return (number(" captured"), number(" dropped by kernel"))
  }
}

extension Namespace {
  /// Begins to write what passes `device` to the pcap file `path`; it is listening when this returns.
  ///
  /// - Parameter filter: which packets, as pcap-filter(7) says; nil: all.
  /// - Parameter snapLength: how many octets of each; nil: all.
  /// - Parameter limit: the number of packets after which nothing more is written; nil: none.
  public func capture(
    on device: String, to path: String, filter: String? = nil, snapLength: Int? = nil, limit: Int? = nil
  ) throws -> Capture {
    // -Z root: the file may be in a folder that only root can write to.
    var command = ["tcpdump", "-n", "-U", "-i", device, "-w", path, "-Z", "root", "-B", "16384"]
    command += ["--nano", "--immediate-mode", "-s", "\(snapLength ?? 0)"]
    if let limit { command += ["-c", "\(limit)"] }
    if let filter { command.append(filter) }
    return try Capture(try spawn(command), path: path)
  }
}
