import Addresses
import Dataplane
import Datastore
import Model
import Ports

/// Runs captures through the packet path of a node: the pipeline that moves live packets, with the captures' time for a
/// clock. The same input gives the same output, to the octet. Memory is bounded by the flow limit, whatever the captures'
/// size.
public final class ReplayRun {
  let request: ReplayRequest
  let node: VirtualNode
  private let clock = ReplayClock()
  private(set) var ports: [ReplayPort] = []
  /// The ports that captures come in by, in the order of the command line.
  private var sources: [(index: PortIndex, capture: CapturePort)] = []
  private var files: [FileSink] = []
  private(set) var comparisons: [ExpectedCapture] = []
  private(set) var learned: Set<String> = []
  private(set) var firstTime = UInt64.max
  private(set) var lastTime: UInt64 = 0
  private var lastTick: UInt64 = 0

  /// The longest span of time in one batch: all its packets have the time of the first.
  private static let batchSpan: UInt64 = 1_000_000
  /// How often time passes between packets.
  private static let tickInterval: UInt64 = 100_000_000
  /// How long after the last packet the replay goes on: what waits for a neighbour or a fragment goes out or is given up.
  private static let epilogue: UInt64 = 60_000_000_000

  /// Reads the state and opens the captures; nothing is written yet.
  public init(_ request: ReplayRequest) throws(ReplayError) {
    self.request = request
    guard !request.inputs.isEmpty else {
      throw ReplayError(.usage, "no capture to replay: name a pcap or pcapng file")
    }
    var inputs = request.inputs
    if let directory = request.stateDirectory {
      guard let name = request.node else {
        throw ReplayError(.usage, "--state needs --node NAME: whose ports are they?")
      }
      let state = try loadWholeState(directory)
      for index in inputs.indices where inputs[index].port == nil { inputs[index].port = "underlay" }
      let plain = try VirtualNode(name, in: state, macs: request.macs, flowLimit: 1)
      for port in request.macs.keys.sorted() { _ = try plain.port(named: port) }
      for index in inputs.indices { inputs[index].port = try plain.port(named: inputs[index].port ?? "").name }
      var macs: VirtualNode.MACs = [:]
      for (port, mac) in request.macs { macs[try plain.port(named: port).name] = mac }
      for (port, mac) in ReplayRun.survey(inputs, plain) where macs[port] == nil {
        macs[port] = mac
        learned.insert(port)
      }
      node = try VirtualNode(name, in: state, macs: macs, flowLimit: request.flowLimit)
    } else {
      if request.node != nil { throw ReplayError(.usage, "--node needs --state DIR") }
      for index in inputs.indices where inputs[index].port == nil {
        inputs[index].port = ReplayRun.wireName(inputs[index].path)
      }
      let names = inputs.compactMap(\.port)
      guard !names.contains("out") else {
        throw ReplayError(.usage, "the port named out is where packets leave; name the capture otherwise: NAME=FILE")
      }
      guard names.count < 1024 else { throw ReplayError(.usage, "more than 1024 captures at once") }
      node = VirtualNode(
        wires: names.reduce(into: []) { if !$0.contains($1) { $0.append($1) } }, flowLimit: request.flowLimit)
    }
    try open(inputs)
  }

  private static func survey(_ inputs: [ReplayRequest.Input], _ node: VirtualNode) -> [String: MACAddress] {
    var found: [String: MACAddress] = [:]
    let own = node.state.node(node.name)
    for input in inputs {
      guard let name = input.port, let port = node.ports.first(where: { $0.name == name }), found[name] == nil else {
        continue
      }
      switch port.role {
      case .underlay:
        let addresses = Set(own?.addresses.map(\.address) ?? []).union(
          IPFamily.allCases.compactMap { own?.address($0) })
        if let mac = AddressSurvey.destination(of: addresses, in: input.path), mac != port.mac { found[name] = mac }
      case .pod(let key):
        guard let pod = node.state.pods[key], pod.attachment.macAddress == nil else { continue }
        if let mac = AddressSurvey.source(of: Set(pod.addresses), in: input.path), mac != port.peerMAC {
          found[name] = mac
        }
      case .host, .wire: continue
      }
    }
    return found
  }

  /// The name of a file without directories and ending.
  private static func wireName(_ path: String) -> String {
    let file = path.split(separator: "/").last.map(String.init) ?? path
    for ending in [".pcapng", ".pcap", ".cap"] where file.hasSuffix(ending) && file != ending {
      return String(file.dropLast(ending.count))
    }
    return file
  }

  private func open(_ inputs: [ReplayRequest.Input]) throws(ReplayError) {
    var captures: [PortIndex: CapturePort] = [:]
    for input in inputs {
      let port = try node.port(named: input.port ?? "")
      guard captures[port.index] == nil else {
        throw ReplayError(.usage, "\(input.path): port \(port.name) has a capture already; merge them: mergecap -w")
      }
      do throws(PortError) {
        let capture = try CapturePort(path: input.path, name: port.name, mtu: port.mtu)
        captures[port.index] = capture
        sources.append((port.index, capture))
      } catch {
        throw ReplayError(error)
      }
    }
    if let directory = request.expectedDirectory, !isDirectory(directory) {
      throw ReplayError(.missing, "\(directory): no such directory of expected captures")
    }
    var everything: FileSink?
    if let path = request.outputFile {
      let sink = FileSink(path: path)
      everything = sink
      files.append(sink)
    }
    if let directory = request.outputDirectory { try makeDirectory(directory) }
    for port in node.ports {
      var sinks: [any FrameSink] = everything.map { [$0] } ?? []
      if let directory = request.outputDirectory {
        let sink = FileSink(path: "\(directory)/\(port.fileName).pcap")
        files.append(sink)
        sinks.append(sink)
      }
      if let directory = request.expectedDirectory {
        let path = "\(directory)/\(port.fileName).pcap"
        let comparison = try ExpectedCapture(name: port.name, path: fileExists(path) ? path : nil)
        comparisons.append(comparison)
        sinks.append(comparison)
      }
      ports.append(
        ReplayPort(name: port.name, mtu: port.mtu, source: captures[port.index], sinks: sinks, clock: clock))
    }
    node.connect { ports[Int($0.index.rawValue)] }
  }

  /// Runs the captures to their end. `progress` is told now and then; it may throw to end the replay.
  public func run(progress: (ReplayProgress) throws(ReplayError) -> Void = { _ in }) throws(ReplayError) -> ReplayReport
  {
    let size = sources.reduce(0) { $0 + $1.capture.size }
    var packets: UInt64 = 0
    var reported: UInt64 = 0
    var batches = 0
    while let (source, horizon, first) = nextSource() {
      let now = max(first, 1)
      advance(to: now)
      sources[source].capture.horizon = horizon
      let count = node.lane.poll(sources[source].index, at: .at(now))
      packets += UInt64(count)
      batches += 1
      lastTime = max(lastTime, first)
      firstTime = min(firstTime, first)
      guard batches & 0xff == 0 || packets >= reported + 8192 else { continue }
      reported = packets
      try progress(
        ReplayProgress(packets: packets, position: sources.reduce(0) { $0 + $1.capture.position }, size: size))
      for file in files { if let problem = file.problem { throw ReplayError(problem) } }
    }
    // Let what still waits come to its end.
    if lastTime > 0 { settle(until: lastTime &+ ReplayRun.epilogue) }
    try progress(ReplayProgress(packets: packets, position: size, size: size))
    for file in files { try file.finish() }
    for comparison in comparisons { try comparison.finish() }
    return try report()
  }

  /// The capture whose next frame is the earliest, how late the frames of a batch from it may be, and the time of that
  /// frame. Where two have the same time the one named first on the command line goes first.
  private func nextSource() -> (Int, horizon: UInt64, first: UInt64)? {
    var best = -1
    var first = UInt64.max
    var second = UInt64.max
    for number in sources.indices {
      guard let time = sources[number].capture.nextTimestamp else { continue }
      if best < 0 || time < first {
        if best >= 0 { second = min(second, first == 0 ? 0 : first - 1) }
        first = time
        best = number
      } else {
        second = min(second, time)
      }
    }
    guard best >= 0 else { return nil }
    return (best, max(first, min(second, first &+ ReplayRun.batchSpan)), first)
  }

  /// Lets time pass up to the next batch.
  private func advance(to now: UInt64) {
    clock.now = max(clock.now, now)
    guard now > lastTick, now - lastTick >= ReplayRun.tickInterval else { return }
    // After a gap, what was to happen in it happens at its own time, as far as it is about waiting packets.
    if lastTick > 0, now - lastTick > ReplayRun.tickInterval * 2 { settle(until: now) }
    tick(now)
  }

  private func settle(until end: UInt64) {
    guard lastTick > 0 else { return tick(end) }
    var time = lastTick
    // The waiting of a packet ends within seconds, of a datagram within a minute.
    let stop = min(end, lastTick &+ ReplayRun.epilogue)
    while time < stop {
      time = min(time &+ ReplayRun.tickInterval, stop)
      clock.now = max(clock.now, time)
      node.lane.tick(at: time)
    }
    lastTick = time
  }

  private func tick(_ now: UInt64) {
    lastTick = now
    var before = Int.max
    // Each call expires a bounded number of flows; after a gap all that are due go.
    while true {
      node.lane.tick(at: now)
      let count = node.lane.withPipeline { $0.flowCount }
      guard before - count >= 256 else { return }
      before = count
    }
  }
}
