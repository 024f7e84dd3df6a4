import CLinux
import FoundationEssentials
import Glibc
import Lab

/// What is measured of a subject.
public enum LiveMeasure: String, CaseIterable, Sendable, Codable {
  /// TCP by one stream from the first pod to the second, and from the second to the first; Gbit/s.
  case tcp1, tcp1Back
  /// TCP by four streams; Gbit/s.
  case tcp4
  /// UDP packets of 18 octets that arrive when the sender sends all it can; thousands a second.
  case packets
  /// The most of them that can be offered with at most one in a hundred lost; thousands a second.
  case packetsLossless
  /// A UDP packet and its echo; µs, the median and the 99th percentile.
  case latency50, latency99
  /// Processor time that the daemons take when nothing happens, both together; per cent of one processor.
  case idle
  /// Processor time of the daemons for a packet while `packets` was measured, both together; ns.
  case packetCost

  public var isBetterWhenLess: Bool {
    switch self {
    case .latency50, .latency99, .idle, .packetCost: true
    default: false
    }
  }
}

extension LiveSubject {
  /// Of the second pod: for UDP, and iperf3's own for TCP.
  static var port: UInt16 { 5301 }
  static var streamPort: UInt16 { 5201 }

  private func daemonTime() -> UInt64 { daemons.reduce(0) { $0 + Processors.time(of: $1.pid) } }

  /// Whether packets pass, and neighbours and flows are known: what comes first is not measured.
  func warmUp() throws {
    try waitUntil("\(name): packets to pass", timeout: .seconds(10), every: .milliseconds(50)) {
      try pods[0].namespace.ping("\(pods[1].address)", count: 2, interval: .milliseconds(10), wait: .seconds(1))
        .isComplete
    }
  }

  /// Gbit/s of payload that the receiver got. `back`: the second pod sends, over a connection of its own where it can
  /// reach the first.
  func tcp(streams: Int, back: Bool, seconds: Double) throws -> Double {
    let isService = targets.tcp != pods[1].address
    let (from, to) = back && !isService ? (pods[1], pods[0]) : (pods[0], pods[1])
    let target = isService ? targets.tcp : to.address
    let server = try to.namespace.spawn("iperf3", "-s", "-1", "-J", "-B", "\(to.address)")
    defer { server.terminate() }
    // iperf3 knows whole seconds only, and 0 means without end. The server says nothing when it listens; a refused
    // connection does.
    var result: ProcessResult?
    try waitUntil("\(name): iperf3 to connect", timeout: .seconds(5), every: .milliseconds(20)) {
      let run = try from.namespace.run(
        [
          "iperf3", "-c", "\(target)", "-B", "\(from.address)", "-t", "\(max(1, Int(seconds.rounded(.up))))", "-P",
          "\(streams)", "-C", "cubic", "-J", "--connect-timeout", "2000",
        ] + (back && isService ? ["-R"] : []), timeout: .seconds(seconds + 20))
      result = run
      // With -J its exit status is 0 all the same.
      return !run.standardOutput.contains("onnection refused")
    }
    guard let text = try result?.check().standardOutput else { return 0 }
    struct Report: Decodable {
      struct End: Decodable {
        var received: Sum?
        enum CodingKeys: String, CodingKey { case received = "sum_received" }
      }
      struct Sum: Decodable {
        var rate: Double
        enum CodingKeys: String, CodingKey { case rate = "bits_per_second" }
      }
      var end: End
    }
    guard let sum = try JSONDecoder().decode(Report.self, from: Data(text.utf8)).end.received else {
      throw LabError.invalid("\(name): iperf3 gives no result: \(text.prefix(300))")
    }
    return sum.rate / 1e9
  }

  /// A socket in each pod, the first connected to the second.
  private func withSockets<R>(_ body: (_ client: Int32, _ server: Int32) throws -> R) throws -> R {
    let client = try pods[0].namespace.withNamespace { kalsae_udp_open(0) }
    defer { if client >= 0 { close(client) } }
    let server = try pods[1].namespace.withNamespace { kalsae_udp_open(LiveSubject.port) }
    defer { if server >= 0 { close(server) } }
    guard client >= 0, server >= 0,
      kalsae_udp_connect(client, targets.udp.rawValue, LiveSubject.port) == 0
    else { throw LabError.invalid("\(name): no UDP sockets") }
    return try body(client, server)
  }

  private func rate(_ client: Int32, _ server: Int32, offered: UInt64, seconds: Double) throws -> kalsae_rate {
    var result = kalsae_rate()
    let error = unsafe kalsae_udp_rate(client, server, offered, UInt64(seconds * 1e9), 18, &result)
    guard error == 0 else { throw LabError.system(what: "\(name): send", errno: -error) }
    return result
  }

  /// Packets a second that arrive, and the daemons' nanoseconds for each.
  func packets(seconds: Double) throws -> (rate: Double, cost: Double?) {
    try withSockets { client, server in
      let before = daemonTime()
      let result = try rate(client, server, offered: 0, seconds: seconds)
      let used = daemonTime() - before
      let arrived = Double(result.received)
      return (
        arrived / Double(result.nanoseconds) * 1e9,
        daemons.isEmpty || arrived == 0 ? nil : Double(used) / arrived
      )
    }
  }

  /// The most packets a second that can be offered with one in a hundred lost at most: halving the interval.
  func packetsLossless(seconds: Double, ceiling: Double) throws -> Double {
    try withSockets { client, server in
      var (low, high) = (0.0, ceiling * 1.3)
      for _ in 0..<7 {
        let offered = low == 0 ? high * 0.6 : (low + high) / 2
        let result = try rate(client, server, offered: UInt64(offered), seconds: seconds)
        let sent = Double(result.sent) / Double(result.nanoseconds) * 1e9
        if Double(result.received) >= 0.99 * Double(result.sent) {
          low = max(low, sent)
          // A sender that cannot do more is the limit.
          if sent < offered * 0.97 { break }
        } else {
          high = min(offered, sent)
        }
        if high - low < 0.03 * high { break }
      }
      return low
    }
  }

  /// Round-trip times in nanoseconds, ascending.
  func roundTrips(count: Int, seconds: Double) throws -> [UInt64] {
    try withSockets { client, server in
      var samples = [UInt64](repeating: 0, count: count)
      let error = kalsae_keep_awake()
      guard error == 0 else { throw LabError.system(what: "keep the processors awake", errno: -error) }
      defer { kalsae_let_sleep() }
      let done = unsafe kalsae_udp_round_trips(client, server, 18, UInt32(count), UInt64(seconds * 1e9), &samples)
      guard done > 0 else { throw LabError.invalid("\(name): no echo came back") }
      return samples.prefix(Int(done)).sorted()
    }
  }

  /// The share of one processor that the daemons use when nothing happens; nil where there are none.
  func idle(seconds: Double) -> Double? {
    guard !daemons.isEmpty else { return nil }
    let before = daemonTime()
    usleep(UInt32(seconds * 1e6))
    return Double(daemonTime() - before) / (seconds * 1e9)
  }
}
