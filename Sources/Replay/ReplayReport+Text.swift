extension ReplayReport {
  /// The report as tables for people.
  public var text: String {
    var text = ""
    if let node { text += "node \(node), " }
    text += "\(grouped(received.packets)) packets, \(grouped(received.octets)) octets"
    if time.first > 0 { text += ", \(utcTime(time.first)) UTC and \(duration) on" }
    text += "\n\n" + portTable + "\n"
    text += "forwarded \(grouped(verdicts.forwarded)), delivered \(grouped(verdicts.delivered)), "
    text += "dropped \(grouped(verdicts.dropped))"
    if verdicts.waiting > 0 { text += ", still waiting \(grouped(verdicts.waiting))" }
    text += "\n"
    if !drops.isEmpty { text += "\n" + dropTable }
    text += "\nflows: \(grouped(flows.created)) seen, \(grouped(flows.present)) at the end"
    for (count, what) in [(flows.evicted, "evicted"), (flows.refused, "refused: raise --flow-limit")] where count > 0 {
      text += ", \(grouped(count)) \(what)"
    }
    text += "\n"
    if !flows.top.isEmpty { text += flowTable }
    for port in ports where port.isMACLearned {
      let mac = port.peerMAC ?? port.mac
      text += "\n\(port.name): Ethernet address \(mac) taken from the capture; --mac \(port.name)=… overrides it"
    }
    if ports.contains(where: \.isMACLearned) { text += "\n" }
    return text
  }

  private var duration: String {
    let milliseconds = Int((time.seconds * 1000).rounded())
    let fraction = String(milliseconds % 1000)
    return "\(grouped(milliseconds / 1000)).\(String(repeating: "0", count: 3 - fraction.count))\(fraction) s"
  }

  private var portTable: String {
    var table = TextTable([
      "PORT", "INTERFACE", ">PACKETS IN", ">OCTETS IN", ">PACKETS OUT", ">OCTETS OUT", ">DROPPED", "FILE",
    ])
    for port in ports {
      let dropped = port.drops.values.reduce(0, +) + port.unreadable
      table.add([
        port.name, port.interface ?? "-", grouped(port.received.packets), grouped(port.received.octets),
        grouped(port.sent.packets), grouped(port.sent.octets), grouped(dropped), port.file ?? "-",
      ])
    }
    return table.text
  }

  private var dropTable: String {
    var table = TextTable([">DROPPED", "REASON", "PORT", "MEANING"])
    for drop in drops { table.add([grouped(drop.packets), drop.reason, drop.port, drop.explanation]) }
    return table.text
  }

  private var flowTable: String {
    var table = TextTable(["FLOW", "STATE", "TO", ">PACKETS", ">OCTETS", ">BACK", ">OCTETS BACK"])
    for flow in flows.top {
      var ends = "\(flow.transport) \(flow.source) > \(flow.destination)"
      if flow.endpoint != flow.destination { ends += " > \(flow.endpoint)" }
      if flow.seenAs != flow.source { ends += " as \(flow.seenAs)" }
      table.add([
        ends, flow.state, flow.to, grouped(flow.forward.packets),
        grouped(flow.forward.octets), grouped(flow.reply.packets), grouped(flow.reply.octets),
      ])
    }
    return table.text
  }
}
