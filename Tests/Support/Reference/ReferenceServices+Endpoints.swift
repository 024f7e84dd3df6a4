import Addresses
import Model

/// An endpoint that could be chosen, with what the choice depends on.
struct Candidate {
  var address: SocketAddress
  var isReady: Bool
  var isServing: Bool
  var isTerminating: Bool
  var isLocal: Bool
  var nodeHints: [String]
  var zoneHints: [String]
}

extension ReferenceServices {
  /// The endpoints of a service's port in a family, good or not (KP-3, KP-5). Slices count in the order of their names.
  func candidates(_ service: Service, _ port: ServicePort, _ family: IPFamily) -> [Candidate] {
    let slices = state.endpointSlices.values
      .filter { slice in
        slice.namespace == service.namespace
          && slice.metadata.labels["kubernetes.io/service-name"] == service.name
          && slice.metadata.labels["service.kubernetes.io/headless"] == nil
          && slice.addressType.rawValue == family.rawValue
      }
      .sorted { $0.name < $1.name }
    var candidates: [Candidate] = []
    for slice in slices {
      for slicePort in slice.ports where slicePort.name == port.name && slicePort.protocol == port.protocol {
        guard let number = slicePort.port, number != 0 else { continue }
        for endpoint in slice.endpoints {
          guard let address = endpoint.addresses.first, address.family == family else { continue }
          let candidate = Candidate(
            address: SocketAddress(address, port: number), isReady: endpoint.isReady, isServing: endpoint.isServing,
            isTerminating: endpoint.isTerminating, isLocal: endpoint.nodeName == nodeName,
            nodeHints: endpoint.nodeHints, zoneHints: endpoint.zoneHints)
          if let index = candidates.firstIndex(where: { $0.address == candidate.address }) {
            if candidates[index].isTerminating && !candidate.isTerminating { candidates[index] = candidate }
          } else {
            candidates.append(candidate)
          }
        }
      }
    }
    return candidates
  }

  /// KP-10
  func clusterSet(_ candidates: [Candidate]) -> [Candidate] {
    let ready = withinTopology(candidates.filter(\.isReady))
    return ready.isEmpty ? candidates.filter { $0.isServing && $0.isTerminating } : ready
  }

  /// KP-11
  func localSet(_ candidates: [Candidate]) -> [Candidate] {
    let local = candidates.filter(\.isLocal)
    let ready = local.filter(\.isReady)
    return ready.isEmpty ? local.filter { $0.isServing && $0.isTerminating } : ready
  }

  /// KP-13
  private func withinTopology(_ ready: [Candidate]) -> [Candidate] {
    if ready.allSatisfy({ !$0.nodeHints.isEmpty }) {
      let sameNode = ready.filter { $0.nodeHints.contains(nodeName) }
      if !sameNode.isEmpty { return sameNode }
    }
    if let zone = state.node(nodeName)?.metadata.labels["topology.kubernetes.io/zone"],
      ready.allSatisfy({ !$0.zoneHints.isEmpty })
    {
      let sameZone = ready.filter { $0.zoneHints.contains(zone) }
      if !sameZone.isEmpty { return sameZone }
    }
    return ready
  }
}
