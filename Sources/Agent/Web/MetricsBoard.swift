import CLinux
import Dataplane
import Glibc
import Ports
import Synchronization

/// What `/metrics` says (KP-54, KP-55): what the control side has noted, and the counters of the data path as they are.
final class MetricsBoard: Sendable {
  /// What the control side knows.
  struct Facts: Sendable {
    var services = 0
    var nodes = 0
    var pods = 0
    var attachedPods = 0
    var troubles = 0
    var manifestProblems = 0
    var flowLimit = 0
    var withoutLocalInternal = 0
    var withoutLocalExternal = 0
    /// The neighbours on the underlay that hops lead to, by what is known of them.
    var neighbours: [(state: String, count: Int)] = []
    /// The ports that are open.
    var ports: [(index: PortIndex, name: String)] = []
  }

  private struct State {
    var facts = Facts()
    var synchronisation = Histogram.synchronisation
    var programming = Histogram.programming
    var serviceChanges: UInt64 = 0
    var endpointChanges: UInt64 = 0
    var changes: UInt64 = 0
    /// Changes that were noticed and are not programmed yet.
    var pendingServices = 0
    var pendingEndpoints = 0
  }

  private let state = Mutex(State())
  private let dataPath: DataPath
  private let board: HealthBoard
  private let startTime: UInt64

  /// `startTime`: of the process, in nanoseconds since 1970.
  init(_ dataPath: DataPath, _ board: HealthBoard, startTime: UInt64) {
    self.dataPath = dataPath
    self.board = board
    self.startTime = startTime
  }

  func note(_ facts: Facts) { state.withLock { $0.facts = facts } }

  /// Notes changes of the desired state.
  func noteChanges(services: Int, endpoints: Int, all: Int) {
    state.withLock { state in
      state.serviceChanges += UInt64(services)
      state.endpointChanges += UInt64(endpoints)
      state.changes += UInt64(all)
      state.pendingServices += services
      state.pendingEndpoints += endpoints
    }
  }

  /// Notes how long it took to bring everything up to date, in seconds.
  func observeSynchronisation(_ seconds: Double) {
    state.withLock { state in
      state.synchronisation.observe(seconds)
      state.pendingServices = 0
      state.pendingEndpoints = 0
    }
  }

  /// Notes how long after an endpoint's change it was programmed, in seconds.
  func observeProgramming(_ seconds: Double) { state.withLock { $0.programming.observe(seconds) } }

  // MARK: The text

  /// Called on any thread.
  func text() -> String {
    let state = self.state.withLock { $0 }
    var text = MetricsText()
    addPeers(state, &text)
    addDataPath(state.facts, &text)
    addControl(state, &text)
    return text.text
  }

  /// What kube-proxy has too, under its names.
  private func addPeers(_ state: State, _ text: inout MetricsText) {
    text.histogram(
      "kubeproxy_sync_proxy_rules_duration_seconds", "Seconds that it took to bring everything up to date.",
      state.synchronisation)
    text.histogram(
      "kubeproxy_network_programming_duration_seconds",
      "Seconds from the change of an endpoint to its being programmed.", state.programming)
    let times = board.times
    text.single(
      "kubeproxy_sync_proxy_rules_last_timestamp_seconds", .gauge, "When everything was last brought up to date.",
      Double(times.programmed) / 1e9)
    text.single(
      "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", .gauge, "When a change was last noticed.",
      Double(times.queued) / 1e9)
    text.single(
      "kubeproxy_sync_proxy_rules_service_changes_total", .counter, "Changes of services.", state.serviceChanges)
    text.single(
      "kubeproxy_sync_proxy_rules_endpoint_changes_total", .counter, "Changes of endpoint slices.",
      state.endpointChanges)
    text.single(
      "kubeproxy_sync_proxy_rules_service_changes_pending", .gauge, "Changes of services that are not programmed yet.",
      state.pendingServices)
    text.single(
      "kubeproxy_sync_proxy_rules_endpoint_changes_pending", .gauge,
      "Changes of endpoint slices that are not programmed yet.", state.pendingEndpoints)
    let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    text.begin(name, .gauge, "Service ports that have endpoints but none here, where only those count.")
    text.sample(name, ["traffic_policy": "internal"], state.facts.withoutLocalInternal)
    text.sample(name, ["traffic_policy": "external"], state.facts.withoutLocalExternal)
    for (name, path) in [("kubeproxy_proxy_healthz_total", "/healthz"), ("kubeproxy_proxy_livez_total", "/livez")] {
      text.begin(name, .counter, "Answers of \(path) by status.")
      let answers = board.answers.filter { $0.path == path }
      for status in [200, 503] {
        text.sample(name, ["code": "\(status)"], answers.first { $0.status == status }?.count ?? 0)
      }
    }
  }

  private func addDataPath(_ facts: Facts, _ text: inout MetricsText) {
    let highest = facts.ports.map { Int($0.index.rawValue) }.max() ?? 0
    let (dataPath, lane) = (self.dataPath, self.dataPath.lanes[0])
    let (flows, memory, statistics, affinityEvictions, drops, routes, ports, use, evictions, offload, byWorker) =
      dataPath.change {
        tables in
        let ports = facts.ports.compactMap { entry in
          dataPath.port(entry.index).map {
            (
              name: entry.name, statistics: dataPath.statistics(of: entry.index), kind: $0.kindName,
              xdp: dataPath.ports(entry.index).compactMap { $0 as? XDPPort }.map {
                (sockets: $0.socketDescriptors.count, counters: $0.counters)
              }
            )
          }
        }
        return lane.withPipeline { pipeline in
          (
            pipeline.flowCount, pipeline.flowMemory, pipeline.flowStatistics, pipeline.affinityEvictions,
            pipeline.dropCounts(ports: max(64, highest + 1)), tables.routeCount, ports,
            pipeline.tableUse + tables.use, pipeline.evictions, pipeline.offloadTotals,
            dataPath.lanes.map(\.receivedFrames)
          )
        }
      }
    text.begin("kalsae_worker_received_packets_total", .counter, "Packets that came in, by the worker that took them.")
    for (number, packets) in byWorker.enumerated() {
      text.sample("kalsae_worker_received_packets_total", ["worker": "\(number)"], packets)
    }
    text.begin("kalsae_drops_total", .counter, "Packets that were not sent on, by reason.")
    var byReason: [DropReason: UInt64] = [:]
    for drop in drops { byReason[drop.reason, default: 0] += drop.packets }
    for reason in DropReason.allCases {
      text.sample("kalsae_drops_total", ["reason": reason.name], byReason[reason] ?? 0)
    }
    text.single("kalsae_flows", .gauge, "Flows that are known.", flows)
    text.single("kalsae_flow_limit", .gauge, "Flows of each family that there is room for.", facts.flowLimit)
    text.single("kalsae_flow_memory_bytes", .gauge, "Memory of the flow tables.", memory)
    text.single("kalsae_flows_created_total", .counter, "Flows that were entered.", statistics.created)
    text.single("kalsae_flows_expired_total", .counter, "Flows that were silent too long.", statistics.expired)
    text.single("kalsae_flows_evicted_total", .counter, "Flows given up early for want of room.", statistics.evicted)
    text.single("kalsae_flows_refused_total", .counter, "Flows not entered for want of room.", statistics.refused)
    text.single("kalsae_offloaded_flows", .gauge, "Directions of flows that the kernel carries.", offload.flows)
    text.single(
      "kalsae_offloaded_packets_total", .counter, "Packets that the kernel carried; ports do not count them.",
      offload.packets)
    text.single("kalsae_offloaded_bytes_total", .counter, "Octets of those packets.", offload.octets)
    text.single(
      "kalsae_affinity_evictions_total", .counter, "Clients whose endpoint was forgotten early for want of room.",
      affinityEvictions)
    text.single("kalsae_routes", .gauge, "Routes in the tables.", routes)
    addTables(use, evictions, &text)
    for (name, help, value) in [
      ("received_packets", "Packets that came in, by port.", { (s: PortStatistics) in s.receivedFrames }),
      ("received_bytes", "Octets that came in, by port.", { $0.receivedOctets }),
      ("sent_packets", "Packets that went out, by port.", { $0.sentFrames }),
      ("sent_bytes", "Octets that went out, by port.", { $0.sentOctets }),
      ("kernel_drops", "Packets lost in the kernel because a port was not read in time.", { $0.kernelDrops }),
      ("receive_errors", "Packets that could not be read, by port.", { $0.receiveErrors }),
      ("send_errors", "Packets that could not be sent, by port.", { $0.sendErrors }),
    ] as [(String, String, (PortStatistics) -> UInt64)] {
      text.begin("kalsae_port_\(name)_total", .counter, help)
      for port in ports { text.sample("kalsae_port_\(name)_total", ["port": port.name], value(port.statistics)) }
    }
    text.begin("kalsae_port_info", .gauge, "How packets come and go, by port.")
    for port in ports { text.sample("kalsae_port_info", ["port": port.name, "kind": port.kind], 1) }
    let steered = ports.filter { !$0.xdp.isEmpty }.map { port in
      (
        name: port.name, sockets: port.xdp.reduce(0) { $0 + $1.sockets },
        counters: port.xdp.reduce(XDPPort.Counters()) { $0 + $1.counters }
      )
    }
    if !steered.isEmpty {
      text.begin("kalsae_xdp_sockets", .gauge, "AF_XDP sockets, one for each queue of the device that has one.")
      for port in steered { text.sample("kalsae_xdp_sockets", ["port": port.name], port.sockets) }
    }
    for (name, help, value) in [
      (
        "receive_dropped", "Packets that found no room, or were too long.",
        { (c: XDPPort.Counters) in c.receiveDropped }
      ),
      ("receive_ring_full", "Packets that found the receive ring full.", { $0.receiveRingFull }),
      ("fill_ring_empty", "How often the kernel found the fill ring empty.", { $0.fillRingEmpty }),
      (
        "invalid_descriptors", "Entries of the rings that the kernel refused.",
        { $0.invalidReceive + $0.invalidTransmit }
      ),
      ("finished_checksums", "Packets whose checksum was finished on their way in.", { $0.finishedChecksums }),
      ("sent_in_place", "Packets that were sent from where they had come in.", { $0.sentInPlace }),
      ("sent_copies", "Packets that were copied to be sent.", { $0.sentCopies }),
    ] as [(String, String, (XDPPort.Counters) -> UInt64)] where !steered.isEmpty {
      text.begin("kalsae_xdp_\(name)_total", .counter, help)
      for port in steered { text.sample("kalsae_xdp_\(name)_total", ["port": port.name], value(port.counters)) }
    }
  }

  /// What tells of pressure: of tables that are full something gives way, others grow.
  private func addTables(
    _ use: [TableUse], _ evictions: [(table: TableUse.Table, entries: UInt64)], _ text: inout MetricsText
  ) {
    text.begin("kalsae_table_entries", .gauge, "Entries of a table; lists are counted in words.")
    for table in use { text.sample("kalsae_table_entries", ["table": table.table.rawValue], table.entries) }
    text.begin("kalsae_table_capacity", .gauge, "The most entries of a table; those without it grow as they need to.")
    for table in use where !table.grows {
      text.sample("kalsae_table_capacity", ["table": table.table.rawValue], table.capacity)
    }
    text.begin("kalsae_table_memory_bytes", .gauge, "Memory of a table.")
    for table in use { text.sample("kalsae_table_memory_bytes", ["table": table.table.rawValue], table.octets) }
    text.begin(
      "kalsae_table_evictions_total", .counter, "Entries of a table that gave way to others before their time.")
    for (table, entries) in evictions {
      text.sample("kalsae_table_evictions_total", ["table": table.rawValue], entries)
    }
  }

  private func addControl(_ state: State, _ text: inout MetricsText) {
    let facts = state.facts
    text.single("kalsae_services", .gauge, "Services that are programmed.", facts.services)
    text.single("kalsae_nodes", .gauge, "Nodes that are known.", facts.nodes)
    text.begin("kalsae_neighbours", .gauge, "Neighbours on the underlay that packets are sent to, by state.")
    for (state, count) in facts.neighbours { text.sample("kalsae_neighbours", ["state": state], count) }
    text.single("kalsae_pods", .gauge, "Pods of this node.", facts.pods)
    text.single("kalsae_pods_attached", .gauge, "Pods of this node that are attached.", facts.attachedPods)
    text.single("kalsae_changes_total", .counter, "Changes of the desired state.", state.changes)
    text.single("kalsae_problems", .gauge, "Things that are not as they should be on this node.", facts.troubles)
    text.single("kalsae_manifest_problems", .gauge, "Errors in the manifests.", facts.manifestProblems)
    text.single(
      "process_start_time_seconds", .gauge, "When the process was started, since 1970.", Double(startTime) / 1e9)
    if let pages = Sysctl.file("/proc/self/statm")?.split(separator: " ").dropFirst().first.flatMap({ Int($0) }) {
      text.single(
        "process_resident_memory_bytes", .gauge, "Resident memory.", pages * Int(getpagesize()))
    }
  }
}
