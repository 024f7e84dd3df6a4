import Addresses
import Dataplane
import Testing

@testable import Agent

/// What `/metrics` says.
@Suite("Metrics")
struct MetricsTests {
  private func text(_ change: (MetricsBoard, HealthBoard) -> Void = { _, _ in }) -> String {
    let dataPath = DataPath(flowLimit: 2048, affinityLimit: 4096)
    let health = HealthBoard()
    let board = MetricsBoard(dataPath, health, startTime: 7_000_000_000)
    change(board, health)
    return board.text()
  }

  private func value(_ sample: String, _ text: String) -> Double? {
    text.split(separator: "\n").first { $0.hasPrefix("\(sample) ") }.flatMap {
      Double($0.split(separator: " ").last ?? "")
    }
  }

  @Test("KP-55 what means the same as in kube-proxy has its name, type and labels there; all else is kalsae's")
  func names() {
    let text = text { board, health in
      board.noteChanges(services: 2, endpoints: 3, all: 6)
      board.observeSynchronisation(0.5)
      board.noteChanges(services: 1, endpoints: 4, all: 5)
      board.observeProgramming(1.5)
      var facts = MetricsBoard.Facts()
      facts.withoutLocalInternal = 5
      facts.withoutLocalExternal = 6
      facts.neighbours = [("reachable", 3), ("pending", 1), ("failed", 2)]
      board.note(facts)
      health.noteProgrammed(noticedBefore: 0, time: 9_000_000_000)
      health.noteQueued(at: 0, time: 8_000_000_000)
      _ = health.node("/healthz", at: 0, time: 0, date: { "\($0)" })
      health.setNodeBeingDeleted(true)
      _ = health.node("/healthz", at: 0, time: 0, date: { "\($0)" })
      _ = health.node("/livez", at: 0, time: 0, date: { "\($0)" })
    }
    for (sample, expected) in [
      ("kubeproxy_sync_proxy_rules_duration_seconds_count", 1),
      ("kubeproxy_sync_proxy_rules_duration_seconds_sum", 0.5),
      (#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.256"}"#, 0),
      (#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.512"}"#, 1),
      ("kubeproxy_network_programming_duration_seconds_count", 1),
      (#"kubeproxy_network_programming_duration_seconds_bucket{le="1"}"#, 0),
      (#"kubeproxy_network_programming_duration_seconds_bucket{le="2"}"#, 1),
      ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", 9),
      ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", 8),
      ("kubeproxy_sync_proxy_rules_service_changes_total", 3), ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 7),
      ("kubeproxy_sync_proxy_rules_service_changes_pending", 1),
      ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 4),
      (#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="internal"}"#, 5),
      (#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="external"}"#, 6),
      (#"kubeproxy_proxy_healthz_total{code="200"}"#, 1), (#"kubeproxy_proxy_healthz_total{code="503"}"#, 1),
      (#"kubeproxy_proxy_livez_total{code="200"}"#, 1), ("process_start_time_seconds", 7),
      (#"kalsae_neighbours{state="failed"}"#, 2),
    ] { #expect(value(sample, text) == expected, "\(sample)") }
    let names = Set(
      text.split(separator: "\n").filter { $0.hasPrefix("# TYPE ") }.map { String($0.split(separator: " ")[2]) })
    for name in names where !name.hasPrefix("kalsae_") {
      #expect(name.hasPrefix("kubeproxy_") || name.hasPrefix("process_"), "\(name)")
    }
  }

  @Test("KP-54 every table tells its entries and its memory, and how many it holds where it does not grow")
  func pressure() {
    let text = text()
    for table in TableUse.Table.allCases {
      #expect(value("kalsae_table_entries{table=\"\(table.rawValue)\"}", text) == 0, "\(table)")
      #expect(value("kalsae_table_memory_bytes{table=\"\(table.rawValue)\"}", text) ?? 0 > 0, "\(table)")
    }
    for (table, capacity) in [
      ("flowsIPv4", 2048), ("flowsIPv6", 2048), ("affinity", 4096), ("fragments", 1024), ("reassembly", 64),
      ("waiting", 128),
    ] { #expect(value("kalsae_table_capacity{table=\"\(table)\"}", text) == Double(capacity), "\(table)") }
    #expect(value(#"kalsae_table_capacity{table="services"}"#, text) == nil)
    for table in ["flowsIPv4", "flowsIPv6", "affinity", "fragments", "reassembly"] {
      #expect(value("kalsae_table_evictions_total{table=\"\(table)\"}", text) == 0, "\(table)")
    }
  }
}
