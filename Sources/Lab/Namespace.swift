import Addresses

/// One end of a link that a lab makes.
public struct Endpoint: Sendable {
  public var namespace: Namespace
  /// The device's name, 1 to 15 characters.
  public var device: String
  /// The device's address; nil: the kernel chooses.
  public var mac: MACAddress?
  /// The device's MTU in octets; nil: 1500.
  public var mtu: Int?
  /// Addresses with their prefix lengths, such as `10.0.0.1/24`.
  public var addresses: [String]

  public init(
    _ namespace: Namespace, _ device: String, mac: MACAddress? = nil, mtu: Int? = nil, addresses: [String] = []
  ) {
    self.namespace = namespace
    self.device = device
    self.mac = mac
    self.mtu = mtu
    self.addresses = addresses
  }

  var linkArguments: [String] {
    (mac.map { ["address", "\($0)"] } ?? []) + (mtu.map { ["mtu", "\($0)"] } ?? [])
  }

  /// Sets the addresses, and the device up.
  func configure() throws {
    try namespace.ip(addresses.map { Namespace.addressCommand($0, device) } + ["link set \(device) up"])
  }
}

/// A network namespace of a lab.
public struct Namespace: Sendable {
  /// The name for `ip netns exec`.
  public let name: String
  public let lab: Lab

  /// The file that stands for the namespace.
  public var path: String { "/run/netns/\(name)" }

  // MARK: Programs

  /// Runs a program inside, as `ip netns exec` does, and returns how it ended. Throws when it cannot be started, and
  /// when it takes longer than `timeout`: it is then ended.
  public func run(_ command: String..., input: String? = nil, timeout: Duration = .seconds(30)) throws -> ProcessResult
  {
    try run(command, input: input, timeout: timeout)
  }

  /// Runs a program inside; see `run(_:input:timeout:)`.
  public func run(_ command: [String], input: String? = nil, timeout: Duration = .seconds(30)) throws -> ProcessResult {
    try lab.run(command, in: path, input: input, timeout: timeout)
  }

  /// Starts a program inside that goes on running; the lab ends it when it is cleaned up. `log` is a file for all that
  /// it prints; without one both outputs are kept in memory, each by itself.
  public func spawn(_ command: String..., log: String? = nil) throws -> Child {
    try spawn(command, log: log)
  }

  /// Starts a program inside; see `spawn(_:log:)`.
  public func spawn(_ command: [String], log: String? = nil) throws -> Child {
    let file = try log.map(Files.create)
    return try lab.spawn(command, in: path, output: file, errors: file)
  }

  /// Runs `body` on a thread of its own inside the namespace: sockets and TAP devices that it opens belong there, also
  /// afterwards. /sys still shows the devices of the caller's namespace.
  public func withNamespace<R>(_ body: () throws -> R) throws -> R {
    try onThread(inNamespaceOf: path, body)
  }

  // MARK: Devices, addresses, routes

  /// Runs commands of ip(8), without the word `ip`, such as `link set eth0 up`; all or up to the first that fails.
  public func ip(_ commands: String...) throws { try ip(commands) }

  /// Runs commands of ip(8); see `ip(_:)`.
  public func ip(_ commands: [String]) throws {
    guard !commands.isEmpty else { return }
    let result = try lab.run(
      ["ip", "-n", name, "-batch", "-"], in: nil, input: commands.joined(separator: "\n") + "\n",
      timeout: .seconds(30))
    guard !result.isSuccess else { return }
    // `Command failed -:3` tells which line it was.
    let line = result.standardError.split(separator: "\n").last { $0.hasPrefix("Command failed") }
    let number = line.flatMap { Int($0.split(separator: ":").last ?? "") } ?? 1
    let failed = commands.indices.contains(number - 1) ? commands[number - 1] : commands.joined(separator: "; ")
    let reason = result.standardError.split(separator: "\n").filter { !$0.hasPrefix("Command failed") }
    throw LabError.failed(
      command: ["ip", "-n", name, failed], status: result.status, output: reason.joined(separator: "\n"))
  }

  static func addressCommand(_ address: String, _ device: String) -> String {
    "addr add \(address) dev \(device)" + (address.contains(":") ? " nodad" : "")
  }

  /// Gives a device an address with its prefix length, such as `10.0.0.1/24` or `fd00::1/64`.
  public func addAddress(_ address: String, to device: String) throws { try ip(Self.addressCommand(address, device)) }

  /// Adds a route: `10.1.0.0/16 via 10.0.0.2`, `default dev eth0`. The family is that of the text.
  public func addRoute(_ route: String) throws {
    // A batch of ip(8) takes no options, so that this is no `ip(_:)`.
    let family = route.contains(":") ? ["-6"] : ["-4"]
    try lab.run(["ip", "-n", name] + family + ["route", "replace"] + route.split(separator: " ").map(String.init))
  }

  public func setUp(_ device: String) throws { try ip("link set \(device) up") }
  public func setDown(_ device: String) throws { try ip("link set \(device) down") }
  public func setMTU(_ mtu: Int, of device: String) throws { try ip("link set \(device) mtu \(mtu)") }
  public func setMAC(_ mac: MACAddress, of device: String) throws { try ip("link set \(device) address \(mac)") }

  /// A device's Ethernet address.
  public func mac(of device: String) throws -> MACAddress {
    let result = try run("ip", "-o", "link", "show", "dev", device).check()
    let words = result.standardOutput.split(whereSeparator: \.isWhitespace)
    guard let index = words.firstIndex(of: "link/ether"), index + 1 < words.count,
      let mac = MACAddress(parsing: words[index + 1])
    else { throw LabError.invalid("\(device) in \(name) has no Ethernet address: \(result.standardOutput)") }
    return mac
  }

  /// The names of the namespace's devices.
  public func devices() throws -> [String] {
    try run("ip", "-br", "link").check().standardOutput.split(separator: "\n").compactMap { line in
      line.split(whereSeparator: { $0 == " " || $0 == "@" }).first.map(String.init)
    }
  }

  /// Sets a kernel parameter of the namespace: `net/ipv4/ip_forward`. Dots may stand for slashes where no part has one.
  public func sysctl(_ key: String, _ value: String) throws {
    let path = "/proc/sys/" + (key.contains("/") ? key : String(key.map { $0 == "." ? "/" : $0 }))
    try withNamespace { try Files.write(value, to: path) }
  }

  /// Reads a kernel parameter of the namespace.
  public func sysctl(_ key: String) throws -> String {
    let path = "/proc/sys/" + (key.contains("/") ? key : String(key.map { $0 == "." ? "/" : $0 }))
    return try withNamespace { trimmed(try Files.read(path)) }
  }

  /// Lets the namespace forward packets, of both families, or not.
  public func setForwarding(_ isOn: Bool) throws {
    try sysctl("net/ipv4/ip_forward", isOn ? "1" : "0")
    try sysctl("net/ipv6/conf/all/forwarding", isOn ? "1" : "0")
  }

  /// Turns a device's offloads (checksums, segmentation, aggregation) on or off. Off, every frame is on the wire as it
  /// is sent: with its checksums, and no longer than the MTU.
  public func setOffloads(_ isOn: Bool, of device: String) throws {
    let value = isOn ? "on" : "off"
    let features = ["tx", "rx", "tso", "gso", "gro"].flatMap { [$0, value] }
    try run(["ethtool", "-K", device] + features).check()
  }
}
