import Addresses
import CLinux
import Compiler
import Dataplane
import Foundation
import Model

extension Agent {
  /// Starts what the servers need; they themselves come with the first `settleWeb`.
  func makeServers() throws -> WebServers {
    let events = webEvents
    try loop.add(events.descriptor) { [unowned self] in for event in events.takeAll() { take(event) } }
    let handler: WebServers.Handler = { [board, metrics] place, path in
      let now = kalsae_monotonic()
      switch place.content {
      case .service: return board.service(onPort: place.port, at: now)
      case .health: return board.node(path, at: now, time: kalsae_realtime(), date: Agent.date)
      case .metrics:
        guard path == "/metrics" else { return nil }
        return HealthBoard.Answer(
          status: 200, body: metrics.text(), headers: [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")])
      }
    }
    return WebServers(onEvent: { events.put([$0]) }, handler: handler)
  }

  private func take(_ event: WebServers.Event) {
    if let problem = event.problem {
      trouble("\(event.place)", problem, level: .warning)
    } else {
      clearTrouble("\(event.place)")
    }
  }

  private static func date(_ nanoseconds: UInt64) -> String {
    Date(timeIntervalSince1970: Double(nanoseconds) / 1e9).formatted(.iso8601)
  }

  /// Tells the servers what was programmed, and has those run that are wanted. `began` is when that began, since the
  /// machine's start: what was noticed later is not done yet.
  func settleWeb(since began: UInt64) {
    var services: [UInt16: HealthBoard.ServiceHealth] = [:]
    for (key, health) in compiler.serviceHealth {
      guard let port = health.port else { continue }
      services[port] = HealthBoard.ServiceHealth(
        namespace: key.namespace, name: key.name, localEndpoints: health.localEndpoints)
    }
    board.setServices(services)
    board.setNodeBeingDeleted(compiler.ownNode?.metadata.isBeingDeleted ?? false)
    if underlay == nil || host == nil {
      // Without its ways in and out nothing that is programmed has an effect.
      board.noteQueued(at: began, time: kalsae_realtime())
    } else {
      board.noteProgrammed(noticedBefore: began, time: kalsae_realtime())
    }
    metrics.note(facts())
    var wanted: Set<WebServers.Place> = []
    func want(_ content: WebServers.Place.Content, _ address: BindAddress) {
      guard case .at(let address) = address else { return }
      wanted.insert(
        WebServers.Place(
          content: content, address: "\(address.address)", isIPv6: address.address.family == .ipv6, port: address.port))
    }
    want(.health, compiler.settings.healthzBindAddress)
    want(.metrics, compiler.settings.metricsBindAddress)
    // KP-23 holds for the ports of health checks too.
    let isEverywhere = compiler.settings.nodePortAddresses == .all
    for port in services.keys {
      if isEverywhere {
        wanted.insert(WebServers.Place(content: .service, port: port))
      } else {
        for address in compiler.nodePortAddresses {
          wanted.insert(
            WebServers.Place(content: .service, address: "\(address)", isIPv6: address.family == .ipv6, port: port))
        }
      }
    }
    servers?.settle(wanted)
  }

  private func facts() -> MetricsBoard.Facts {
    var facts = MetricsBoard.Facts()
    for health in compiler.serviceHealth.values {
      facts.withoutLocalInternal += health.withoutLocalInternal
      facts.withoutLocalExternal += health.withoutLocalExternal
    }
    facts.services = compiler.serviceCount
    facts.nodes = compiler.state.nodes.count
    facts.pods = compiler.attachments.count
    facts.attachedPods = pods.count
    facts.troubles = troubles.count
    facts.manifestProblems = source.problems.count
    facts.flowLimit = max(1024, compiler.settings.flowTableSize)
    facts.ports = openPortNames
    let states = compiler.neighboursInUse.map { compiler.neighbour($0) }
    facts.neighbours = [
      ("reachable", states.count { if case .reachable = $0 { true } else { false } }),
      ("pending", states.count { $0 == nil }), ("failed", states.count { $0 == .failed }),
    ]
    return facts
  }

  /// Notes when the endpoints that these changes bring were changed, for the time that programming them takes (KP-55).
  func noteTriggers(_ changes: [Change]) {
    for change in changes {
      guard case .upsert(.endpointSlice(let slice)) = change, let time = slice.lastChangeTriggerTime else { continue }
      triggers.append(Double(time.components.seconds) + Double(time.components.attoseconds) / 1e18)
    }
  }

  /// Observes the time since the endpoints' changes that are programmed now.
  func observeTriggers() {
    guard !triggers.isEmpty else { return }
    let now = Double(kalsae_realtime()) / 1e9
    for time in triggers { metrics.observeProgramming(max(0, now - time)) }
    triggers = []
  }
}
