import ArgumentParser
import Bench
import FoundationEssentials
import Replay

/// `kalsae bench ebpf`
struct SocketBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ebpf", abstract: "Measure connect(2) to services that the kernel's programs translate.",
    discussion: """
      One thread connects within a network namespace of its own: to an endpoint, and to a service in front of it and two \
      others, which sock_lb translates at the socket, or nftables on the packets with the rules that kube-proxy makes. By \
      turns, window by window. MORE is what the service costs above the endpoint. The second table is what the program \
      that carries flows needs for a packet: of a known flow, of none, and of one that has to be decided anew; the third \
      what those that serve packets or enforce policy need, beside programs that only read headers; the medians of single \
      runs. The last is \
      how long services with three endpoints each take to load. Needs root; nothing is left behind.
      """)

  @Option(help: ArgumentHelp("Numbers of services, separated by commas.", valueName: "n"))
  var services = "10,30000"

  @Option(help: ArgumentHelp("Windows that are measured.", valueName: "n"))
  var windows = 15

  @Option(help: ArgumentHelp("Connections in a window.", valueName: "n"))
  var connections = 1000

  @Option(help: ArgumentHelp("Services whose loading is measured.", valueName: "n"))
  var load = 100_000

  @Flag(help: "Leave out kube-proxy's rules: thirty thousand take some time to load.")
  var noNftables = false

  @Option(help: "How the result is written.")
  var output = OutputFormat.text

  func validate() throws {
    try requireNumber("--windows", windows, in: 1...1000)
    try requireNumber("--connections", connections, in: 10...100_000)
    try requireNumber("--load", load, in: 1...200_000)
  }

  /// What is measured: both, as JSON.
  private struct Report: Encodable {
    var sockets: [SocketResult]
    var overlay: [OverlayResult]
    var packets: [PacketServiceResult]
    var loads: [ServiceLoadResult]
  }

  func run() throws {
    try EBPFCommand.needsRoot()
    let numbers = try services.split(separator: ",").map { text in
      guard let number = Int(text), (1...200_000).contains(number) else {
        throw Failure(.usage, "--services: \(text) is no number from 1 to 200000")
      }
      return number
    }
    var progress = ProgressLine()
    let results: [SocketResult]
    let overlay: [OverlayResult]
    let packets: [PacketServiceResult]
    let loads: [ServiceLoadResult]
    do {
      progress.show { _ in "packets of flows…" }
      overlay = try OverlayBench.run()
      progress.show { _ in "packets to services…" }
      packets = try PacketServiceBench.run(services: numbers)
      progress.show { _ in "loading \(load) services…" }
      loads = try [PacketServiceBench.load(services: load)]
      results = try SocketBench.run(
        services: numbers, windows: windows, count: connections, withNFTables: !noNftables
      ) { text in progress.show { _ in text } }
    } catch {
      progress.clear()
      throw Failure(.difference, "bench: \(error)")
    }
    progress.clear()
    if output == .json {
      return try Standard.output(
        try EBPFCommand.json(Report(sockets: results, overlay: overlay, packets: packets, loads: loads)))
    }
    var table = TextTable([
      ">SERVICES", "TO", ">TCP NS MIN", ">MEDIAN", ">MORE", ">UDP NS MIN", ">MEDIAN", ">MORE", ">ROUND TRIP NS",
      ">LOAD MS",
    ])
    var base: SocketResult?
    for result in results {
      if result.way.hasPrefix("endpoint") { base = result }
      let isBase = result.way == base?.way
      table.add([
        "\(result.services)", result.way, "\(result.tcpMin)", "\(result.tcpMedian)",
        isBase ? "" : "\(result.tcpMin - (base?.tcpMin ?? 0))", "\(result.udpMin)", "\(result.udpMedian)",
        isBase ? "" : "\(result.udpMin - (base?.udpMin ?? 0))", "\(result.roundTripMin)",
        isBase ? "" : "\(result.load)",
      ])
    }
    var flows = TextTable(["PACKETS", ">CARRIED NS", ">OF NO FLOW", ">STALE"])
    for result in overlay { flows.add([result.name, "\(result.hit)", "\(result.miss)", "\(result.stale)"]) }
    try Standard.output(table.text + "\n" + flows.text + "\n" + text(packets, loads))
  }

  private func text(_ packets: [PacketServiceResult], _ loads: [ServiceLoadResult]) -> String {
    func number(_ value: UInt32?) -> String { value.map { "\($0)" } ?? "-" }
    var table = TextTable([
      "PROGRAM", "FAMILY", ">SERVICES", ">HIT NS", ">BACK", ">FIRST PACKET", ">NO SERVICE, FORBIDDEN",
    ])
    for result in packets {
      table.add([
        result.program, result.family, result.services == 0 ? "-" : "\(result.services)", number(result.hit),
        number(result.back), number(result.new), "\(result.miss)",
      ])
    }
    let lines = loads.map {
      "\($0.services) services with \($0.endpoints) endpoints: loaded in \($0.milliseconds) ms\n"
    }
    return table.text + "\n" + lines.joined()
  }
}
