import Addresses
import Ports
import Testing

@testable import Dataplane

/// The transports that services have (KP-7).
enum Transport: String, CaseIterable {
  case tcp, udp, sctp

  var number: UInt8 {
    switch self {
    case .tcp: 6
    case .udp: 17
    case .sctp: 132
    }
  }
}

/// A transport over a family: what most rules hold for alike.
struct Wire: CustomTestStringConvertible {
  var family: IPFamily
  var transport: Transport

  var testDescription: String { "\(family) \(transport)" }
  static var all: [Wire] {
    IPFamily.allCases.flatMap { family in Transport.allCases.map { Wire(family: family, transport: $0) } }
  }
}

let bothFamilies: [IPFamily] = [.ipv4, .ipv6]

/// CRC32c bit by bit (RFC 9260, appendix A).
func slowCRC32c(_ octets: [UInt8]) -> UInt32 {
  var crc = UInt32.max
  for octet in octets {
    crc ^= UInt32(octet)
    for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82f6_3b78 : crc >> 1 }
  }
  return ~crc
}

func sctp(
  _ source: IPAddress, _ destination: IPAddress, from: Int = 1000, to: Int = 2000,
  _ payload: [UInt8] = Array("data".utf8),
  with fields: IPFields = IPFields()
) -> [UInt8] {
  var packet = u16(from) + u16(to) + u32(0x0102_0304) + u32(0) + [0, 3] + u16(4 + payload.count) + payload
  let crc = slowCRC32c(packet)
  packet.replaceSubrange(8..<12, with: (0..<4).map { UInt8(truncatingIfNeeded: crc >> (8 * UInt32($0))) })
  return ip(source, destination, 132, packet, with: fields)
}

/// A packet of a transport; TCP: a segment with these flags.
func packet(
  _ transport: Transport, _ source: IPAddress, _ destination: IPAddress, from: Int, to: Int,
  _ payload: [UInt8] = Array("some octets!".utf8), flags: Int = Flag.syn, with fields: IPFields = IPFields()
) -> [UInt8] {
  switch transport {
  case .tcp: tcp(source, destination, from: from, to: to, flags, payload, with: fields)
  case .udp: udp(source, destination, from: from, to: to, payload, with: fields)
  case .sctp: sctp(source, destination, from: from, to: to, payload, with: fields)
  }
}

extension Bench {
  /// A cluster IP.
  func vip(_ family: IPFamily = .ipv4, _ number: Int = 1) -> IPAddress {
    IPAddress(family == .ipv4 ? "10.96.0.\(number)" : "fd00:96::\(number)")!
  }

  /// A client in the world outside.
  func client(_ family: IPFamily = .ipv4, _ number: Int = 7) -> IPAddress {
    IPAddress(family == .ipv4 ? "198.51.100.\(number)" : "2001:db8:c::\(number)")!
  }

  /// This node's address.
  func node(_ family: IPFamily = .ipv4) -> IPAddress { family == .ipv4 ? Bench.node4(own) : Bench.node6(own) }

  func otherNode(_ family: IPFamily = .ipv4) -> IPAddress { family == .ipv4 ? Bench.node4(other) : Bench.node6(other) }

  static let routerMAC = MACAddress("02:00:00:00:00:aa")!

  /// A bench with what services need: the node's addresses to masquerade with and to serve NodePorts on, a way to the
  /// outside.
  static func forServices(
    _ encapsulation: Encapsulation = .none, mtu: Int = 1500, podMTU: Int = 1500, capabilities: PortCapabilities = [],
    flowLimit: Int = 4096, seed: UInt64 = 0, settings change: (inout Settings) -> Void = { _ in }
  ) -> Bench {
    let bench = Bench(
      encapsulation, mtu: mtu, podMTU: podMTU, capabilities: capabilities, flowLimit: flowLimit,
      settings: {
        $0.nodeAddress4 = Bench.node4(1).v4
        $0.nodeAddress6 = Bench.node6(1).v6
        change(&$0)
      })
    if seed != 0 {
      bench.pipeline = Pipeline(flowLimit: flowLimit, seed: seed)
      bench.pipeline.isTracing = true
    }
    for family in bothFamilies { bench.tables.addNodePortAddress(bench.node(family)) }
    let out = bench.tables.addHop(
      Hop(
        port: bench.underlay, source: Bench.underlayMAC(1), destination: routerMAC,
        neighbour: IPAddress("192.0.2.254")!,
        linkMTU: mtu))
    bench.tables.setRoute(Route(IPPrefix("198.51.100.0/24")!, hops: [out]))
    bench.tables.setRoute(Route(IPPrefix("2001:db8:c::/64")!, hops: [out]))
    if Subject.current == .kernel { bench.kernel = KernelSubject() }
    return bench
  }

  /// A service port `test/NAME:http` with endpoints; `local` nil: none on this node.
  @discardableResult
  func addService(
    _ name: String, _ cluster: [ServicePort.Endpoint], local: [ServicePort.Endpoint] = [],
    affinity: UInt32 = 0, balancing: LoadBalancing = .random
  ) -> ServiceIndex {
    tables.addService(
      ServicePort(name: "test/\(name):http", cluster: cluster, local: local, affinity: affinity, balancing: balancing))
  }

  @discardableResult
  func addService(
    _ cluster: [ServicePort.Endpoint], local: [ServicePort.Endpoint] = [], affinity: UInt32 = 0,
    balancing: LoadBalancing = .random
  ) -> ServiceIndex {
    addService("web", cluster, local: local, affinity: affinity, balancing: balancing)
  }

  func setFrontend(
    _ kind: Frontend.Kind, _ address: IPAddress?, _ wire: Wire, port: Int = 80, _ service: ServiceIndex,
    isLocal: Bool = false, ranges: [IPPrefix]? = nil
  ) {
    tables.setFrontend(
      Frontend(kind, address: address, family: wire.family, transport: wire.transport.number, port: UInt16(port)),
      FrontendPolicy(isLocal: isLocal, sourceRanges: ranges), service: service)
  }

  /// A cluster IP's port 80 before these endpoints.
  @discardableResult
  func serve(
    _ wire: Wire, _ cluster: [ServicePort.Endpoint], local: [ServicePort.Endpoint] = [], affinity: UInt32 = 0,
    balancing: LoadBalancing = .random, isLocal: Bool = false
  ) -> ServiceIndex {
    let service = addService(cluster, local: local, affinity: affinity, balancing: balancing)
    setFrontend(.clusterIP, vip(wire.family), wire, service, isLocal: isLocal)
    return service
  }

  /// Port 8080 of a pod: 10 or 11 of this node, or with 20 added of the other.
  func endpoint(_ pod: Int, _ family: IPFamily = .ipv4, port: UInt16 = 8080) -> ServicePort.Endpoint {
    ServicePort.Endpoint(pod >= 20 ? remote(pod - 20, family) : self.pod(pod, family), port)
  }

  /// The frame in which a packet goes out to the world.
  func toRouter(_ packet: [UInt8]) -> [UInt8] {
    ethernet(to: Bench.routerMAC, from: Bench.underlayMAC(own), packet[0] >> 4 == 6 ? 0x86dd : 0x800, packet)
  }

  /// The frame in which a packet reaches the host.
  func toHost(_ packet: [UInt8]) -> [UInt8] {
    ethernet(
      to: MACAddress("02:00:00:00:00:ff")!, from: MACAddress("02:00:00:00:00:fe")!,
      packet[0] >> 4 == 6 ? 0x86dd : 0x800, packet)
  }
}

/// Addresses and ports of a frame without tunnel.
struct Tuple: Hashable, CustomStringConvertible {
  var source: IPAddress
  var destination: IPAddress
  var sourcePort: Int
  var destinationPort: Int

  init?(_ frame: [UInt8]?) {
    guard let frame, frame.count >= 14 + 20 else { return nil }
    let isIPv6 = u16(frame, 12) == 0x86dd
    let transport = 14 + (isIPv6 ? 40 : Int(frame[14] & 15) * 4)
    guard frame.count >= transport + 4 else { return nil }
    source = IPAddress(octets: Array(isIPv6 ? frame[22..<38] : frame[26..<30]))
    destination = IPAddress(octets: Array(isIPv6 ? frame[38..<54] : frame[30..<34]))
    sourcePort = u16(frame, transport)
    destinationPort = u16(frame, transport + 2)
  }

  var description: String { "\(source) \(sourcePort) > \(destination) \(destinationPort)" }
}

extension IPAddress {
  init(octets: [UInt8]) {
    func number(_ part: ArraySlice<UInt8>) -> UInt64 { part.reduce(0) { $0 << 8 | UInt64($1) } }
    self =
      octets.count == 4
      ? .v4(IPv4Address(rawValue: UInt32(number(octets[...]))))
      : .v6(IPv6Address(high: number(octets[..<8]), low: number(octets[8...])))
  }
}

extension Sent {
  /// Addresses and ports of the only frame that went out.
  func tuple(_ port: PortIndex, sourceLocation: SourceLocation = #_sourceLocation) throws -> Tuple {
    try #require(Tuple(only(port, sourceLocation: sourceLocation)), sourceLocation: sourceLocation)
  }
  /// Of all frames that went out by a port.
  func tuples(_ port: PortIndex) -> [Tuple] { octets(port).compactMap { Tuple($0) } }
}
