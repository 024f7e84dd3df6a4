import Addresses
import Lab

/// A machine with another kernel, booted by tools/kernel-peer, its eth0 on a TAP device in a namespace of a lab.
final class KernelPeer {
  private static let tool =
    #filePath.split(separator: "/").dropLast(3).reduce("") { "\($0)/\($1)" } + "/tools/kernel-peer"

  /// Whether it can be booted without fetching anything.
  static let isPrepared: Bool = {
    guard let lab = try? Lab(name: "check") else { return false }
    defer { lab.cleanUp() }
    return (try? lab.run([tool, "prepare", "--check"])) != nil
  }()

  let namespace: Namespace
  private let folder: String

  /// Boots it and waits until commands can be run. `tap` is made in `namespace` unless it is there, and set up.
  ///
  /// - Parameter program: the path of a program that it holds besides, in /tools.
  /// - Parameter offload: whether it leaves checksums and segmentation to the TAP device, in both directions.
  init(
    in namespace: Namespace, tap: String, mac: MACAddress? = nil, addresses: [String], mtu: Int? = nil,
    offload: Bool = false, program: String? = nil
  ) throws {
    self.namespace = namespace
    folder = "\(try namespace.lab.directory())/\(tap)"
    var command = [Self.tool, "start", "--dir", folder, "--tap", tap, "--offload", offload ? "on" : "off"]
    // Memory holds the program three times: packed, unpacked, and as it runs.
    if let program { command += ["--program", program, "--memory", "1024"] }
    if let mac { command += ["--mac", "\(mac)"] }
    if let mtu { command += ["--mtu", "\(mtu)"] }
    for address in addresses { command += ["--address", address] }
    try namespace.run(command, timeout: .seconds(120)).check()
  }

  /// Runs a command in it.
  func run(_ command: String..., timeout: Duration = .seconds(30)) throws -> ProcessResult {
    let seconds = "\(timeout.inSeconds)"
    let result = try namespace.lab.runUnchecked(
      [Self.tool, "exec", "--dir", folder, "--timeout", seconds, "--"] + command, timeout: timeout + .seconds(15))
    // 125 is the tool's own: the command never ran, or did not end.
    if result.status == .exited(125) { try result.check() }
    return result
  }

  /// Runs a shell script in it that must succeed, and returns what it prints.
  @discardableResult
  func shell(_ script: String, timeout: Duration = .seconds(30)) throws -> String {
    try run("sh", "-e", "-c", script, timeout: timeout).check().standardOutput
  }

  /// Sends a payload from a namespace to `address` of the machine; throws unless it arrives intact.
  @discardableResult
  func receive(
    _ payload: Payload, from sender: Namespace, at address: IPAddress, port: UInt16, timeout: Duration = .seconds(60)
  ) throws -> Sent {
    let lab = namespace.lab
    let receiver = try lab.spawn(
      [Self.tool, "exec", "--dir", folder, "--timeout", "\(timeout.inSeconds)", "--", "receive", "\(port)"])
    defer { receiver.terminate() }
    let hexadecimal = String(port, radix: 16, uppercase: true)
    let padded = String(repeating: "0", count: 4 - hexadecimal.count) + hexadecimal
    try waitUntil("the machine to listen on port \(port)") {
      // 0A is the state LISTEN.
      try run("grep", "-q", ":\(padded) [0-9A-F]*:0000 0A", "/proc/net/tcp", "/proc/net/tcp6").isSuccess
    }
    let sent = try TransferClient.send(payload, from: sender, to: address, port: port, timeout: timeout)
    let result = try receiver.wait(timeout: timeout).check().standardOutput
    try expect(result, payload.sha256, payload.byteCount)
    return sent
  }

  /// Has the machine send random octets to `address` of a namespace; throws unless they arrive intact.
  @discardableResult
  func send(
    byteCount: Int, to receiver: Namespace, at address: IPAddress, timeout: Duration = .seconds(60)
  ) throws -> Received {
    let server = try TransferServer(in: receiver, family: address.family, limit: byteCount)
    let sender = try namespace.lab.spawn(
      [
        Self.tool, "exec", "--dir", folder, "--timeout", "\(timeout.inSeconds)", "--", "send", "\(address)",
        "\(server.port)", "\(byteCount)",
      ])
    defer { sender.terminate() }
    let received = try server.receive(timeout: timeout)
    try expect(try sender.wait(timeout: timeout).check().standardOutput, received.sha256, received.byteCount)
    return received
  }

  private func expect(_ printed: String, _ sha256: String, _ byteCount: Int) throws {
    let words = printed.split(whereSeparator: \.isWhitespace).map(String.init)
    guard words == [sha256, "\(byteCount)"] else {
      throw LabError.corrupted("\(byteCount) octets with SHA-256 \(sha256) here are \(words) in the machine")
    }
  }

  func stop() throws { try namespace.lab.run([Self.tool, "stop", "--dir", folder]) }
}
