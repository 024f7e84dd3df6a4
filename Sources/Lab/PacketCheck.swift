/// Judges captures by tshark, which shares nothing with what made them.
public enum PacketCheck {
  /// The kinds of packet that are wrong in themselves.
  static let filter =
    "_ws.malformed || _ws.expert.group == \"Malformed\" || ip.checksum.status == \"Bad\" "
    + "|| tcp.checksum.status == \"Bad\" || udp.checksum.status == \"Bad\" || icmp.checksum.status == \"Bad\" "
    + "|| icmpv6.checksum.status == \"Bad\" || sctp.checksum.status == \"Bad\" || gre.checksum.status == \"Bad\""

  static let preferences = [
    "ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE", "sctp.checksum:CRC 32c",
    // Each segment is judged by itself.
    "tcp.desegment_tcp_streams:FALSE", "tcp.analyze_sequence_numbers:FALSE",
  ]

  /// What is judged: headers up to the transport. What lies above would be guessed from octets that may be random.
  static let protocols: Set<String> = [
    "frame", "pkt_ccc", "sll", "raw", "eth", "ethertype", "llc", "vlan", "ieee8021ad", "arp", "ip", "ipv6", "icmp",
    "icmpv6", "igmp", "tcp", "udp", "udplite", "sctp", "gre", "vxlan", "geneve", "esp", "ah", "wg", "data",
  ]

  /// tshark's options that switch all other protocols off.
  private static func restriction() throws -> [String] {
    let list = try run(["tshark", "-G", "protocols"], timeout: .seconds(30))
    var options: [String] = []
    for line in list.split(separator: "\n") {
      let columns = line.split(separator: "\t", omittingEmptySubsequences: false)
      guard columns.count >= 3, !columns[2].hasPrefix("_ws") else { continue }
      // `ip.option` belongs to `ip`.
      guard !protocols.contains(String(columns[2].prefix { $0 != "." })) else { continue }
      options += ["--disable-protocol", String(columns[2])]
    }
    return options
  }

  /// Looks for malformed packets and wrong checksums (IPv4, TCP, UDP, ICMP, ICMPv6, SCTP, GRE; inside of tunnels too)
  /// in a pcap or pcapng file: one line for each packet that has one, none if all are right.
  ///
  /// Packets captured from a device whose checksums are finished later (offload) count as wrong: turn offloads off, or
  /// capture behind that point.
  ///
  /// - Parameter limit: how many packets to read; nil: all.
  /// - Parameter filter: which packets to judge, as a display filter; nil: all.
  public static func findMalformed(
    in path: String, limit: Int? = nil, filter wanted: String? = nil, timeout: Duration = .seconds(120)
  ) throws -> [String] {
    let chosen = wanted.map { "(\($0)) && (\(filter))" } ?? filter
    let result = try tshark(
      path, limit: limit, timeout: timeout,
      [
        "-Y", chosen, "-T", "fields", "-E", "separator=;", "-E", "occurrence=a", "-e", "frame.number", "-e",
        "frame.protocols", "-e", "_ws.expert.message", "-e", "_ws.col.Info",
      ])
    return result.split(separator: "\n").map { line in
      let fields = line.split(separator: ";", omittingEmptySubsequences: false).map(String.init)
      return "\(path): packet \(fields[0]): " + fields.dropFirst().filter { !$0.isEmpty }.joined(separator: "; ")
    }
  }

  /// How many packets of a file match a display filter; nil: how many there are.
  public static func count(in path: String, filter: String? = nil, timeout: Duration = .seconds(120)) throws -> Int {
    let result = try tshark(
      path, limit: nil, timeout: timeout,
      (filter.map { ["-Y", $0] } ?? []) + ["-T", "fields", "-e", "frame.number"])
    return result.split(separator: "\n").count
  }

  /// The packets of a file that match a display filter: a line for each, with its number, addresses and what it is.
  public static func list(in path: String, filter: String, timeout: Duration = .seconds(120)) throws -> [String] {
    let columns = ["frame.number", "frame.time_relative", "ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "_ws.col.Info"]
    let result = try tshark(
      path, limit: nil, timeout: timeout, ["-Y", filter, "-T", "fields"] + columns.flatMap { ["-e", $0] })
    return result.split(separator: "\n").map(String.init)
  }

  static func tshark(_ path: String, limit: Int?, timeout: Duration, _ arguments: [String]) throws -> String {
    var command = ["tshark", "-n", "-r", path] + (try restriction())
    for preference in preferences { command += ["-o", preference] }
    if let limit { command += ["-c", "\(limit)"] }
    return try run(command + arguments, name: ["tshark", "-n", "-r", path] + arguments, timeout: timeout)
  }

  private static func run(_ command: [String], name: [String]? = nil, timeout: Duration) throws -> String {
    let child = try Child(command, netns: nil, input: nil, output: nil, errors: nil)
    let result = try child.waitForEnd(timeout)
    if result == nil { child.terminate(patience: .zero) }
    Interruption.holdIfInterrupted()
    let shown = name ?? command
    guard let result else { throw LabError.timedOut(what: "`\(shown.joined(separator: " "))`", after: timeout) }
    guard result.isSuccess else {
      throw LabError.failed(command: shown, status: result.status, output: trimmed(result.standardError))
    }
    return result.standardOutput
  }
}
