import Addresses

/// What ping(8) of iputils found.
public struct PingResult: Sendable, CustomStringConvertible {
  public let transmitted: Int
  public let received: Int
  /// Replies beyond one for each request.
  public let duplicates: Int
  /// Round-trip times in milliseconds; nil when nothing came back.
  public let roundTrip: (minimum: Double, average: Double, maximum: Double)?
  /// The MTU of the last ICMP fragmentation-needed or packet-too-big that came back from the network, in octets.
  public let reportedMTU: Int?
  /// The MTU that the sender's own kernel refused the packet for, in octets: learnt earlier, or the device's.
  public let localMTU: Int?
  /// All that ping printed.
  public let output: String

  public var isComplete: Bool { transmitted > 0 && received == transmitted && duplicates == 0 }

  public var description: String {
    "\(received) of \(transmitted) answered" + (roundTrip.map { ", \($0.average) ms on average" } ?? "")
  }

  init(parsing output: String) throws {
    self.output = output
    var numbers: (transmitted: Int, received: Int, duplicates: Int)?
    var times: (Double, Double, Double)?
    var reported: Int?
    var local: Int?
    for line in output.split(whereSeparator: \.isNewline) {
      if line.contains(" packets transmitted, ") {
        // 3 packets transmitted, 3 received, +1 duplicates, 0% packet loss, time 404ms
        let parts = line.split(separator: ", ")
        func number(_ suffix: String) -> Int? {
          parts.first { $0.hasSuffix(suffix) }.flatMap { Int($0.dropLast(suffix.count).drop { $0 == "+" }) }
        }
        if let transmitted = number(" packets transmitted"), let received = number(" received") {
          numbers = (transmitted, received, number(" duplicates") ?? 0)
        }
      } else if line.hasPrefix("rtt ") || line.hasPrefix("round-trip ") {
        // rtt min/avg/max/mdev = 0.031/0.040/0.052/0.008 ms
        let values = (line.split(separator: "=").last ?? "").split { $0 == "/" || $0 == " " }.compactMap { Double($0) }
        if values.count >= 3 { times = (values[0], values[1], values[2]) }
      } else if line.contains("local error") {
        local = PingResult.mtu(in: line) ?? local
      } else {
        reported = PingResult.mtu(in: line) ?? reported
      }
    }
    guard let numbers else { throw LabError.invalid("ping printed no statistics: \(trimmed(output))") }
    (transmitted, received, duplicates) = numbers
    roundTrip = times.map { (minimum: $0.0, average: $0.1, maximum: $0.2) }
    reportedMTU = reported
    localMTU = local
  }

  /// The number in `mtu=1480` and `mtu = 1480`.
  private static func mtu(in line: Substring) -> Int? {
    guard let start = line.firstRange(of: "mtu")?.upperBound else { return nil }
    return Int(line[start...].drop { $0 == " " || $0 == "=" }.prefix { $0.isNumber })
  }
}

extension Namespace {
  /// Pings an address and returns the statistics, whether or not anything came back.
  ///
  /// - Parameter size: octets of ICMP payload; nil: 56. 65,507 makes the largest IPv4 packet that there is.
  /// - Parameter dontFragment: forbids fragmentation on the way, and by the sender.
  /// - Parameter source: a source address or device.
  /// - Parameter wait: how long to wait for the answer to the last request.
  public func ping(
    _ address: String, count: Int = 3, interval: Duration = .milliseconds(200), size: Int? = nil,
    dontFragment: Bool = false, source: String? = nil, wait: Duration = .seconds(2)
  ) throws -> PingResult {
    var command = ["ping", "-n", "-c", "\(count)", "-i", "\(interval.inSeconds)", "-W", "\(wait.inSeconds)"]
    if let size { command += ["-s", "\(size)"] }
    if dontFragment { command += ["-M", "do"] }
    if let source { command += ["-I", source] }
    let bound = interval * count + wait + .seconds(10)
    let result = try run(command + [address], timeout: bound)
    let output = result.standardOutput + result.standardError
    // 1: no or not all answers; 2: another error, as when the kernel refuses each packet for its size.
    guard output.contains("packets transmitted") else { return try PingResult(parsing: result.check().standardOutput) }
    return try PingResult(parsing: output)
  }

  /// Asks by ARP (RFC 826) who has an IPv4 address on a device; nil when nobody answers within `timeout`.
  ///
  /// - Parameter source: the sender's address in the request; nil: the device's. `0.0.0.0` makes it the probe of
  ///   duplicate-address detection (RFC 5227).
  public func arping(
    _ address: IPv4Address, on device: String, source: IPv4Address? = nil, timeout: Duration = .seconds(1)
  ) throws -> MACAddress? {
    var command = ["arping", "-f", "-I", device, "-w", "\(max(1, Int(timeout.inSeconds.rounded(.up))))"]
    if let source { command += source == .any ? ["-D"] : ["-s", "\(source)"] }
    let result = try run(command + ["\(address)"], timeout: timeout + .seconds(10))
    // Unicast reply from 169.254.1.1 [EE:EE:EE:EE:EE:EE]  0.551ms
    for line in result.standardOutput.split(separator: "\n") where line.contains("reply from") {
      if let start = line.firstIndex(of: "["), let end = line.firstIndex(of: "]") {
        return MACAddress(parsing: line[line.index(after: start)..<end])
      }
    }
    guard result.status == .exited(0) || result.status == .exited(1) else { throw try failureOf(result) }
    return nil
  }

  private func failureOf(_ result: ProcessResult) throws -> any Error {
    LabError.failed(
      command: result.command, status: result.status, output: trimmed(result.standardError + result.standardOutput))
  }
}
