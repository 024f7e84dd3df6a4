import Addresses
import Dataplane
import EBPF
import Glibc

/// How long a program in the kernel takes for a packet; medians, in nanoseconds.
public struct PacketServiceResult: Sendable, Codable {
  /// The program: tc_lb, xdp_lb or policy, or one in its place that only reads the headers.
  public var program: String
  public var family: String
  public var services: Int
  /// Of a connection that it knows, to the endpoint and back; nil: it does not translate.
  public var hit: UInt32?
  public var back: UInt32?
  /// The first of a connection.
  public var new: UInt32?
  /// To no service, or forbidden.
  public var miss: UInt32
}

/// How long it takes to load services.
public struct ServiceLoadResult: Sendable, Codable {
  public var services: Int
  public var endpoints: Int
  /// Milliseconds from the tables' changes to maps that hold them all.
  public var milliseconds: Int64
}

/// Runs the programs by BPF_PROG_RUN. Nothing is attached to a device.
public enum PacketServiceBench {
  private static let runs = 2001
  private static let node4 = IPv4Address(192, 0, 2, 1)
  private static let node6 = IPv6Address(high: 0x2001_0db8_0000_0000, low: 1)
  private static let mac = MACAddress("02:00:00:00:00:01")!
  private static let other = MACAddress("02:00:00:00:00:02")!

  public static func run(services: [Int]) throws -> [PacketServiceResult] {
    var results: [PacketServiceResult] = []
    for (name, program) in [("tc_parse", PacketBalancer.Program.tc), ("xdp_parse", .xdp)] {
      let parser = try HeaderReader(program)
      for family in IPFamily.allCases {
        let frame = frame(family, from: client(family), to: address(family, 0), 40000, 80)
        results.append(
          PacketServiceResult(
            program: name, family: "\(family)", services: 0, miss: try median { try parser.run(frame) }))
      }
    }
    for number in services { results += try measure(number) }
    return try results + measurePolicy()
  }

  /// A pod that a policy restricts, by a block and a port among others, and its packets to somebody outside.
  private static func measurePolicy() throws -> [PacketServiceResult] {
    var tables = Tables()
    let port = tables.addPort(PortDescription(name: "pod", role: .pod, mac: mac, mtu: 1500))
    tables.setPolicyIdentity(1, peers: [1], ports: [])
    var results: [PacketServiceResult] = []
    for family in IPFamily.allCases {
      tables.setPolicyBlock(IPPrefix(family == .ipv4 ? "198.51.100.0/24" : "2001:db8:c::/64")!, peers: [.block(1)])
      tables.setPodAddress(endpoint(family, 0), port: port)
    }
    var ports = PolicyPorts.ports(6, 80...80)
    ports.formUnion((0..<32).map { .ports(6, 1000 + 10 * $0...1004 + 10 * $0) })
    tables.setPolicyGroup(1, [.block(1): ports], pods: [])
    for family in IPFamily.allCases {
      tables.setPodPolicy(endpoint(family, 0), PodPolicy(identity: 1, egress: 1, ingress: 1))
    }
    tables.followPolicies()
    let enforcer = try PolicyEnforcer(node: "bench", tables.takePolicyChanges(), devices: [port: 100])
    for family in IPFamily.allCases {
      var source: UInt16 = 20000
      func request(_ port: UInt16 = 80) -> [UInt8] {
        source += 1
        return frame(family, from: endpoint(family, 0), to: client(family), source, port)
      }
      let first = request()
      let answer = answer(to: first, family)
      func run(_ frame: [UInt8], _ isDropped: Bool = false, fromPod: Bool = true) throws -> UInt32 {
        let result = try enforcer.run(frame, fromPod: fromPod, interface: fromPod ? 100 : 0)
        guard (result.dropped != nil) == isDropped else {
          throw SocketBenchError(description: "policy: \(result.dropped ?? "not dropped"), \(family)")
        }
        return result.nanoseconds
      }
      _ = try run(first)
      results.append(
        PacketServiceResult(
          program: "policy", family: "\(family)", services: 0, hit: try median { try run(first) },
          back: try median { try run(answer, fromPod: false) }, new: try median { try run(request()) },
          miss: try median { try run(request(81), true) }))
    }
    return results
  }

  /// Services with three endpoints each.
  public static func load(services number: Int) throws -> ServiceLoadResult {
    var tables = tables(number)
    tables.followServices()
    let start = ContinuousClock.now
    let balancer = try PacketBalancer(tables.takeServiceChanges())
    let time = (ContinuousClock.now - start).components
    _ = balancer
    return ServiceLoadResult(
      services: number, endpoints: number * 3,
      milliseconds: time.seconds * 1000 + time.attoseconds / 1_000_000_000_000_000)
  }

  private static func measure(_ number: Int) throws -> [PacketServiceResult] {
    var tables = tables(number)
    tables.followServices()
    var options = PacketBalancer.Options()
    options.programs = [.tc, .xdp]
    let balancer = try PacketBalancer(tables.takeServiceChanges(), options: options)
    // All that comes by the underlay and goes out by it again: what both programs do.
    var surroundings = Surroundings()
    for prefix in ["0.0.0.0/0", "::/0"] {
      surroundings.places[IPPrefix(prefix)!] = Surroundings.Place(
        way: .frame(destination: other, source: mac), port: PortIndex(0))
    }
    let port = BalancedPort(interface: 100, mac: mac, pod: nil, isPair: false)
    try balancer.set(tables.settings, surroundings, [port], underlay: PortIndex(0))
    var results: [PacketServiceResult] = []
    for program in PacketBalancer.Program.allCases {
      for family in IPFamily.allCases {
        var source: UInt16 = 20000
        func request() -> [UInt8] {
          source += 1
          return frame(family, from: client(family), to: address(family, 0), source, 80)
        }
        let first = request()
        let sent = try balancer.run(first, at: port, surroundings, by: program)
        guard sent.verdict == .sent else {
          throw SocketBenchError(description: "\(program.rawValue) does not serve \(family)")
        }
        let answer = answer(to: sent.frame, family)
        let none = frame(family, from: client(family), to: outside(family), source, 80)
        results.append(
          PacketServiceResult(
            program: program.rawValue, family: "\(family)", services: number,
            hit: try median { try balancer.run(first, by: program).nanoseconds },
            back: try median { try balancer.run(answer, by: program).nanoseconds },
            new: try median { try balancer.run(request(), by: program).nanoseconds },
            miss: try median { try balancer.run(none, by: program).nanoseconds }))
      }
    }
    return results
  }

  private static func median(_ body: () throws -> UInt32) rethrows -> UInt32 {
    try (0..<runs).map { _ in try body() }.sorted()[runs / 2]
  }

  // MARK: Services and packets

  private static func tables(_ number: Int) -> Tables {
    var tables = Tables()
    tables.settings.nodeAddress4 = node4
    tables.settings.nodeAddress6 = node6
    for service in 0..<number {
      for family in IPFamily.allCases where family == .ipv4 || service == 0 {
        let endpoints = (0..<3).map { ServicePort.Endpoint(endpoint(family, service * 3 + $0), 8080) }
        let index = tables.addService(
          ServicePort(name: "bench/s\(service):\(family)", cluster: endpoints, local: []))
        // An external address, so that the connection is masqueraded and comes back.
        tables.setFrontend(
          Frontend(
            service == 0 ? .externalIP : .clusterIP, address: address(family, service), family: family, transport: 6,
            port: 80), FrontendPolicy(isLocal: false), service: index)
      }
    }
    return tables
  }

  private static func address(_ family: IPFamily, _ number: Int) -> IPAddress {
    family == .ipv4
      ? .v4(IPv4Address(rawValue: 0x0a60_0001 + UInt32(number)))
      : .v6(IPv6Address(high: 0xfd00_0096_0000_0000, low: 1 + UInt64(number)))
  }

  private static func endpoint(_ family: IPFamily, _ number: Int) -> IPAddress {
    family == .ipv4
      ? .v4(IPv4Address(rawValue: 0x0b00_0001 + UInt32(number)))
      : .v6(IPv6Address(high: 0xfd00_0011_0000_0000, low: 1 + UInt64(number)))
  }

  private static func client(_ family: IPFamily) -> IPAddress {
    IPAddress(family == .ipv4 ? "198.51.100.7" : "2001:db8:c::7")!
  }
  private static func outside(_ family: IPFamily) -> IPAddress {
    IPAddress(family == .ipv4 ? "198.51.100.9" : "2001:db8:c::9")!
  }

  /// A TCP segment of 64 octets in a frame to the node. Of its checksums that of IPv4 is right.
  private static func frame(
    _ family: IPFamily, from source: IPAddress, to destination: IPAddress, _ sourcePort: UInt16, _ port: UInt16
  ) -> [UInt8] {
    func word(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(truncatingIfNeeded: value)] }
    var segment = word(sourcePort) + word(port) + [0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x20, 0, 0x12, 0x34, 0, 0]
    segment += [UInt8](repeating: 0, count: 44)
    var header: [UInt8]
    if family == .ipv4 {
      header = [0x45, 0] + word(UInt16(20 + segment.count)) + [0, 1, 0x40, 0, 64, 6, 0, 0]
      header += octets(source) + octets(destination)
      var sum: UInt32 = 0
      for place in stride(from: 0, to: 20, by: 2) { sum += UInt32(header[place]) << 8 | UInt32(header[place + 1]) }
      while sum > 0xffff { sum = sum & 0xffff + sum >> 16 }
      header.replaceSubrange(10..<12, with: word(~UInt16(sum)))
    } else {
      header = [0x60, 0, 0, 0] + word(UInt16(segment.count)) + [6, 64] + octets(source) + octets(destination)
    }
    return octets(mac) + octets(other) + (family == .ipv4 ? [8, 0] : [0x86, 0xdd]) + header + segment
  }

  private static func octets(_ address: IPAddress) -> [UInt8] {
    func octets(_ word: UInt64, _ count: Int) -> [UInt8] {
      (0..<count).map { UInt8(truncatingIfNeeded: word >> UInt64(8 * (count - 1 - $0))) }
    }
    switch address {
    case .v4(let address): return octets(UInt64(address.rawValue), 4)
    case .v6(let address): return octets(address.high, 8) + octets(address.low, 8)
    }
  }

  private static func octets(_ mac: MACAddress) -> [UInt8] {
    stride(from: 40, through: 0, by: -8).map { UInt8(truncatingIfNeeded: mac.rawValue >> UInt64($0)) }
  }

  /// What an endpoint answers to a frame.
  private static func answer(to sent: [UInt8], _ family: IPFamily) -> [UInt8] {
    let (start, length) = family == .ipv4 ? (26, 4) : (22, 16)
    let transport = family == .ipv4 ? 34 : 54
    func address(_ place: Int) -> IPAddress {
      let octets = sent[place..<place + length]
      func number(_ part: ArraySlice<UInt8>) -> UInt64 { part.reduce(0) { $0 << 8 | UInt64($1) } }
      return family == .ipv4
        ? .v4(IPv4Address(rawValue: UInt32(number(octets))))
        : .v6(IPv6Address(high: number(octets.prefix(8)), low: number(octets.suffix(8))))
    }
    func port(_ place: Int) -> UInt16 { UInt16(sent[place]) << 8 | UInt16(sent[place + 1]) }
    return frame(
      family, from: address(start + length), to: address(start), port(transport + 2), port(transport))
  }
}
