import Addresses
import Dataplane
import Model

/// Which endpoints of a service port new connections may go to, from all slices of the service (KP-3, KP-10 to KP-14).
struct EndpointSets {
  var cluster: [Dataplane.ServicePort.Endpoint] = []
  var local: [Dataplane.ServicePort.Endpoint] = []

  /// An endpoint of a slice with the port that is asked for, and what is of interest of it.
  private struct Candidate {
    var endpoint: Dataplane.ServicePort.Endpoint
    var isReady: Bool
    var isServing: Bool
    var isTerminating: Bool
    var isLocal: Bool
    /// Whether it has hints for nodes and for zones, and whether this node or zone is among them.
    var nodeHints: Hints
    var zoneHints: Hints

    init(_ endpoint: Dataplane.ServicePort.Endpoint, _ details: EndpointSlice.Endpoint, node: String, zone: String?) {
      self.endpoint = endpoint
      isReady = details.isReady
      isServing = details.isServing
      isTerminating = details.isTerminating
      isLocal = details.nodeName == node
      nodeHints = Hints(details.nodeHints, node)
      zoneHints = Hints(details.zoneHints, zone)
    }

    var isDraining: Bool { isServing && isTerminating }
  }

  private enum Hints {
    case none
    case others
    case here

    init(_ hints: [String], _ own: String?) {
      self = hints.isEmpty ? .none : own.map(hints.contains) ?? false ? .here : .others
    }
  }

  init(_ slices: [EndpointSlice], port: Model.ServicePort, family: IPFamily, node: String, zone: String?) {
    // The same address and port in several slices counts once, preferring the one that stays.
    var places: [Dataplane.ServicePort.Endpoint: Int] = [:]
    var candidates: [Candidate] = []
    for slice in slices where slice.addressType.family == family {
      for slicePort in slice.ports where slicePort.name == port.name && slicePort.protocol == port.protocol {
        guard let number = slicePort.port, number != 0 else { continue }
        for details in slice.endpoints {
          guard let address = details.addresses.first else { continue }
          let endpoint = Dataplane.ServicePort.Endpoint(address, number)
          let candidate = Candidate(endpoint, details, node: node, zone: zone)
          // A few are compared one by one.
          if candidates.count == 16, places.isEmpty {
            for (place, candidate) in candidates.enumerated() { places[candidate.endpoint] = place }
          }
          let known = places.isEmpty ? candidates.firstIndex { $0.endpoint == endpoint } : places[endpoint]
          if let known {
            if candidates[known].isTerminating, !details.isTerminating { candidates[known] = candidate }
          } else {
            if !places.isEmpty { places[endpoint] = candidates.count }
            candidates.append(candidate)
          }
        }
      }
    }
    let ready = candidates.filter(\.isReady)
    let near = EndpointSets.nearest(ready)
    cluster = EndpointSets.sorted(near.isEmpty ? candidates.filter(\.isDraining) : near)
    let localReady = ready.filter(\.isLocal)
    local = EndpointSets.sorted(
      localReady.isEmpty ? candidates.filter { $0.isDraining && $0.isLocal } : localReady)
  }

  private static func sorted(_ candidates: [Candidate]) -> [Dataplane.ServicePort.Endpoint] {
    candidates.map(\.endpoint).sorted()
  }

  /// KP-13: the endpoints that are meant for this node, or for its zone; all, where the hints are incomplete.
  private static func nearest(_ ready: [Candidate]) -> [Candidate] {
    if ready.allSatisfy({ $0.nodeHints != .none }) {
      let near = ready.filter { $0.nodeHints == .here }
      if !near.isEmpty { return near }
    }
    if ready.allSatisfy({ $0.zoneHints != .none }) {
      let near = ready.filter { $0.zoneHints == .here }
      if !near.isEmpty { return near }
    }
    return ready
  }
}
