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
      that carries flows needs for a packet: of a known flow, of none, and of one that has to be decided anew; the medians \
      of single runs. Needs root; nothing is left behind.
      """)

  @Option(help: ArgumentHelp("Numbers of services, separated by commas.", valueName: "n"))
  var services = "10,30000"

  @Option(help: ArgumentHelp("Windows that are measured.", valueName: "n"))
  var windows = 15

  @Option(help: ArgumentHelp("Connections in a window.", valueName: "n"))
  var connections = 1000

  @Flag(help: "Leave out kube-proxy's rules: thirty thousand take some time to load.")
  var noNftables = false

  @Option(help: "How the result is written.")
  var output = OutputFormat.text

  func validate() throws {
    try requireNumber("--windows", windows, in: 1...1000)
    try requireNumber("--connections", connections, in: 10...100_000)
  }

  /// What is measured: both, as JSON.
  private struct Report: Encodable {
    var sockets: [SocketResult]
    var overlay: [OverlayResult]
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
    do {
      progress.show { _ in "packets of flows…" }
      overlay = try OverlayBench.run()
      results = try SocketBench.run(
        services: numbers, windows: windows, count: connections, withNFTables: !noNftables
      ) { text in progress.show { _ in text } }
    } catch {
      progress.clear()
      throw Failure(.difference, "bench: \(error)")
    }
    progress.clear()
    if output == .json { return try Standard.output(try EBPFCommand.json(Report(sockets: results, overlay: overlay))) }
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
    var packets = TextTable(["PACKETS", ">CARRIED NS", ">OF NO FLOW", ">STALE"])
    for result in overlay { packets.add([result.name, "\(result.hit)", "\(result.miss)", "\(result.stale)"]) }
    try Standard.output(table.text + "\n" + packets.text)
  }
}
