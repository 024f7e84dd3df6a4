import Agent
import Lab
import Replay

/// What a mode of the demo came to.
struct DemoResult {
  var mode: DemoMode
  var mtu = 0
  var pings = 0
  var answers = 0
  /// Milliseconds between two pods on veth.
  var latency: Double?
  var isLargePingComplete = false
  var gateway = 0
  var veth: TransferResult?
  var tap: TransferResult?
  var pathMTU: Int?
  var captured = 0
  var drops = DropSummary()
  /// Packets that the kernels carried; nil: nobody asked them to.
  var carried: UInt64?

  init(mode: DemoMode) { self.mode = mode }

  static func table(_ results: [DemoResult]) -> String {
    let hasKernel = results.contains { $0.carried != nil }
    var header = [
      "MODE", ">PING", ">LATENCY", "65507", "GATEWAY", ">TCP VETH", ">TCP TAP", "SHA-256", ">POD MTU", ">TOLD",
      ">RESENT", ">RING FULL",
    ]
    if hasKernel { header.append(">IN KERNEL") }
    var table = TextTable(header + ["DROPPED"])
    for result in results {
      let resent = (result.veth?.sent.retransmittedSegments ?? 0) + (result.tap?.sent.retransmittedSegments ?? 0)
      var row = [
        result.mode.title, "\(result.answers)/\(result.pings)",
        result.latency.map { "\(fixed($0, 3)) ms" } ?? "-",
        result.isLargePingComplete ? "ok" : "FAILED",
        result.gateway == 2 ? "answers" : "SILENT", rate(result.veth), rate(result.tap),
        result.veth != nil && result.tap != nil ? "same" : "DIFFERENT", "\(result.mtu)",
        result.pathMTU.map { "\($0)" } ?? "-", "\(resent)", "\(result.drops.ringFull)",
      ]
      if hasKernel { row.append(result.carried.map { "\($0)" } ?? "-") }
      table.add(row + [result.drops.text])
    }
    return table.text
  }

  private static func rate(_ result: TransferResult?) -> String {
    guard let result else { return "-" }
    return "\(fixed(result.bitsPerSecond / 1e9, 2)) Gbit/s"
  }

  /// A number with so many digits behind the point.
  private static func fixed(_ number: Double, _ digits: Int) -> String {
    let scale = (0..<digits).reduce(1) { scale, _ in scale * 10 }
    let scaled = Int((number * Double(scale)).rounded())
    let fraction = "\(scaled % scale)"
    return "\(scaled / scale)." + String(repeating: "0", count: digits - fraction.count) + fraction
  }
}

/// What was dropped on both nodes.
struct DropSummary {
  /// Packets by reason.
  var reasons: [String: UInt64] = [:]
  /// Lost in the kernel because a port was not read in time; TCP sends those again.
  var ringFull: UInt64 = 0
  /// Lost, and no counter of the data plane says why.
  var unexplained: UInt64 = 0

  mutating func add(_ drops: AgentReply, _ ports: AgentReply) {
    for count in drops.drops?.counts ?? [] { reasons[count.reason, default: 0] += count.packets }
    for port in ports.ports ?? [] {
      ringFull += port.kernelDrops
      unexplained += port.receiveErrors
    }
  }

  func subtracting(_ before: DropSummary) -> DropSummary {
    var difference = self
    for (reason, count) in before.reasons { difference.reasons[reason]? -= count }
    difference.ringFull -= before.ringFull
    difference.unexplained -= before.unexplained
    return difference
  }

  var text: String {
    let told = reasons.filter { $0.value > 0 }.sorted { $0.value > $1.value }.map { "\($0.key) \($0.value)" }
    return told.isEmpty ? "nothing" : told.joined(separator: ", ")
  }
}
