import Addresses
import Dataplane
import Model

/// Which endpoints of a service port new connections may go to, from all slices of the service (KP-3, KP-10 to KP-14).
struct EndpointSets {
  var cluster: [Dataplane.ServicePort.Endpoint] = []
  var local: [Dataplane.ServicePort.Endpoint] = []

  /// An endpoint of a slice with the port that is asked for.
  struct Candidate {
    var endpoint: Dataplane.ServicePort.Endpoint
    var details: EndpointSlice.Endpoint
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
          if let place = places[endpoint] {
            if candidates[place].details.isTerminating, !details.isTerminating { candidates[place].details = details }
          } else {
            places[endpoint] = candidates.count
            candidates.append(Candidate(endpoint: endpoint, details: details))
          }
        }
      }
    }
    let ready = candidates.filter(\.details.isReady)
    let draining = candidates.filter { $0.details.isServing && $0.details.isTerminating }
    let near = EndpointSets.nearest(ready, node: node, zone: zone)
    cluster = (near.isEmpty ? draining : near).map(\.endpoint).sorted()
    let localReady = ready.filter { $0.details.nodeName == node }
    local = (localReady.isEmpty ? draining.filter { $0.details.nodeName == node } : localReady).map(\.endpoint).sorted()
  }

  /// KP-13: the endpoints that are meant for this node, or for its zone; all, where the hints are incomplete.
  private static func nearest(_ ready: [Candidate], node: String, zone: String?) -> [Candidate] {
    if ready.allSatisfy({ !$0.details.nodeHints.isEmpty }) {
      let near = ready.filter { $0.details.nodeHints.contains(node) }
      if !near.isEmpty { return near }
    }
    if let zone, ready.allSatisfy({ !$0.details.zoneHints.isEmpty }) {
      let near = ready.filter { $0.details.zoneHints.contains(zone) }
      if !near.isEmpty { return near }
    }
    return ready
  }
}
