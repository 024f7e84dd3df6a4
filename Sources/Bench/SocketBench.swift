import Addresses
import CLinux
import Dataplane
import EBPF
import Glibc
import Lab

/// How long connect(2) takes to an endpoint and to a service in front of it, translated at the socket or, as kube-proxy
/// has it done, by nftables on the packets.
public struct SocketResult: Sendable, Codable {
  /// endpoint, sock_lb or nftables.
  public var way: String
  public var services: Int
  /// Nanoseconds, the least and the median of the windows.
  public var tcpMin: Int64
  public var tcpMedian: Int64
  public var udpMin: Int64
  public var udpMedian: Int64
  /// An octet there and back on a connection that stands.
  public var roundTripMin: Int64
  /// Milliseconds to load the services.
  public var load: Int64
}

public struct SocketBenchError: Error, CustomStringConvertible {
  public var description: String
}

/// In a network namespace and a control group of its own.
public enum SocketBench {
  private static let port: UInt16 = 8080
  private static let endpoints = (1...3).map { IPv4Address(10, 200, 0, $0) }
  private static let clusterIP = IPv4Address(10, 96, 0, 1)

  private struct Window {
    var tcp: [Int64] = []
    var udp: [Int64] = []
    var roundTrip: [Int64] = []
    var load: Int64 = 0

    mutating func add(_ values: (Int64, Int64, Int64)) {
      tcp.append(values.0)
      udp.append(values.1)
      roundTrip.append(values.2)
    }
  }

  /// Measures with each number of services. `windows` windows of `count` connections for each way, by turns.
  public static func run(
    services: [Int], windows: Int, count: Int, withNFTables: Bool, progress: (String) -> Void
  ) throws -> [SocketResult] {
    let lab = try Lab(name: "bench")
    defer { lab.cleanUp() }
    let space = try lab.namespace("b")
    try space.ip("link set lo up")
    for address in endpoints { try space.addAddress("\(address)/32", to: "lo") }
    // Without a route to it a connection to a cluster IP fails before any packet that nftables could translate.
    try space.addRoute("10.96.0.0/12 dev lo")
    let group = try ControlGroup(lab.controlGroup())
    defer { group.leave() }
    let node = "bench-\(getpid())"
    try lab.onCleanUp { SocketBalancer.unload(node: node) }
    var results: [SocketResult] = []
    for number in services {
      progress("\(number) services: sock_lb…")
      results += try withSockets(number, space, node, group.path, windows, count)
      guard withNFTables else { continue }
      progress("\(number) services: nftables…")
      results += try withRules(number, space, windows, count)
    }
    return results
  }

  private static func withSockets(
    _ number: Int, _ space: Namespace, _ node: String, _ group: String, _ windows: Int, _ count: Int
  ) throws -> [SocketResult] {
    var tables = Tables()
    fill(&tables, number)
    defer { SocketBalancer.unload(node: node) }
    var options = SocketBalancer.Options()
    options.cgroup = group
    let cookie = try SocketNamespace.cookie(of: space.path)
    let start = ContinuousClock.now
    tables.followServices()
    let balancer = try SocketBalancer(
      node: node, tables.takeServiceChanges(),
      namespaces: [cookie: SocketNamespace(role: .node, addresses: [.v4(endpoints[0])])], options: options)
    let load = (ContinuousClock.now - start).components
    var (direct, service) = try measure(space, windows, count)
    service.load = load.seconds * 1000 + load.attoseconds / 1_000_000_000_000_000
    direct.load = 0
    _ = balancer
    return [result("endpoint", number, direct), result("sock_lb", number, service)]
  }

  private static func withRules(
    _ number: Int, _ space: Namespace, _ windows: Int, _ count: Int
  ) throws -> [SocketResult] {
    let start = ContinuousClock.now
    let load = try space.run("nft", "-f", "-", input: rules(number), timeout: .seconds(240))
    guard load.isSuccess else { throw SocketBenchError(description: "nft: \(load.standardError.prefix(300))") }
    defer { _ = try? space.run("nft", "flush", "ruleset", timeout: .seconds(240)) }
    let time = (ContinuousClock.now - start).components
    var (direct, service) = try measure(space, windows, count)
    service.load = time.seconds * 1000 + time.attoseconds / 1_000_000_000_000_000
    direct.load = 0
    return [result("endpoint, rules there", number, direct), result("nftables", number, service)]
  }

  /// To an endpoint and to the service by turns, so that what disturbs disturbs both.
  private static func measure(_ space: Namespace, _ windows: Int, _ count: Int) throws -> (Window, Window) {
    try space.withNamespace {
      let listener = kalsae_bench_listen(port)
      guard listener >= 0 else { throw SocketBenchError(description: "cannot listen: error \(-listener)") }
      defer { close(listener) }
      var direct = Window()
      var service = Window()
      // The first window warms up.
      for turn in 0...windows {
        let endpoint = endpoints[turn % endpoints.count].rawValue
        let a = try window(listener, endpoint, port, count)
        let b = try window(listener, clusterIP.rawValue, 80, count)
        if turn == 0 { continue }
        direct.add(a)
        service.add(b)
      }
      return (direct, service)
    }
  }

  private static func window(
    _ listener: Int32, _ address: UInt32, _ port: UInt16, _ count: Int
  ) throws -> (Int64, Int64, Int64) {
    var roundTrip: Int64 = 0
    let tcp = unsafe kalsae_bench_tcp(listener, address, port, Int32(count), &roundTrip)
    let udp = kalsae_bench_udp(address, port, Int32(count))
    guard tcp >= 0, udp >= 0, roundTrip >= 0 else {
      let code = Int32(-min(tcp, udp, roundTrip))
      throw SocketBenchError(
        description: "\(IPv4Address(rawValue: address)):\(port): \(unsafe String(cString: strerror(code)))")
    }
    return (tcp, udp, roundTrip)
  }

  private static func result(_ way: String, _ services: Int, _ window: Window) -> SocketResult {
    func middle(_ values: [Int64]) -> Int64 { values.sorted()[values.count / 2] }
    return SocketResult(
      way: way, services: services, tcpMin: window.tcp.min()!, tcpMedian: middle(window.tcp),
      udpMin: window.udp.min()!, udpMedian: middle(window.udp), roundTripMin: window.roundTrip.min()!,
      load: window.load)
  }

  // MARK: The same services both ways

  private static func address(_ number: Int) -> IPv4Address {
    IPv4Address(rawValue: clusterIP.rawValue + UInt32(number))
  }

  /// An endpoint of a service that nobody connects to.
  private static func other(_ service: Int, _ place: Int) -> IPv4Address {
    IPv4Address(rawValue: 0x0b00_0000 + UInt32(service * endpoints.count + place))
  }

  private static func fill(_ tables: inout Tables, _ number: Int) {
    for service in 0..<number {
      for (name, transport) in [("tcp", UInt8(6)), ("udp", 17)] where service == 0 || transport == 6 {
        let list = endpoints.indices.map { place in
          ServicePort.Endpoint(.v4(service == 0 ? endpoints[place] : other(service, place)), port)
        }
        let index = tables.addService(
          ServicePort(name: "bench/s\(service):\(name)", cluster: list, local: []))
        tables.setFrontend(
          Frontend(.clusterIP, address: .v4(address(service)), family: .ipv4, transport: transport, port: 80),
          FrontendPolicy(isLocal: false), service: index)
      }
    }
  }

  /// The rules for these services. The services that nobody connects to are in the maps as there, but share the chains of
  /// one: what a packet of the other meets is the same, and nft(8) takes minutes for tens of thousands of chains.
  private static func rules(_ number: Int) -> String {
    var rules = KubeProxyRules()
    for service in 0..<number {
      for transport in service == 0 ? ["tcp", "udp"] : ["tcp"] {
        rules.add(
          address(service), transport, 80, to: service == 0 ? endpoints : [other(service, 0)], targetPort: port,
          chains: "\(min(service, 1))")
      }
    }
    return rules.text
  }
}

/// This process in a control group, until it leaves.
private final class ControlGroup {
  let path: String
  private let before: String

  init(_ path: String) throws {
    let own = try Self.read("/proc/self/cgroup").split(separator: "\n").first { $0.hasPrefix("0::") }
    before = (Lab.controlGroupRoot ?? "") + String(own?.dropFirst(3) ?? "/")
    self.path = path
    try Self.enter(path)
  }

  func leave() { try? Self.enter(before) }

  private static func enter(_ path: String) throws {
    let file = unsafe open("\(path)/cgroup.procs", O_WRONLY | O_CLOEXEC)
    guard file >= 0 else { throw SocketBenchError(description: "cannot enter control group \(path)") }
    defer { close(file) }
    let text = "\(getpid())\n"
    guard unsafe write(file, text, text.utf8.count) > 0 else {
      throw SocketBenchError(
        description: "cannot enter control group \(path): \(unsafe String(cString: strerror(errno)))")
    }
  }

  private static func read(_ path: String) throws -> String {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw SocketBenchError(description: "cannot read \(path)") }
    defer { close(file) }
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(file, $0.baseAddress, $0.count) }
    return String(decoding: buffer[..<max(0, count)], as: UTF8.self)
  }
}
