import Addresses
import Model

/// What a service's health check says on this node, and what the node cannot serve of it.
public struct ServiceHealth: Sendable, Equatable {
  /// The port of its health check (KP-52); nil: it has none.
  public var port: UInt16?
  /// Endpoints on this node that are ready: of the family that has more of them, for pods have an address of each.
  public var localEndpoints = 0
  /// Its ports that have endpoints but none on this node, where only those count (KP-31, KP-55).
  public var withoutLocalInternal = 0
  public var withoutLocalExternal = 0

  /// Counts from all slices of a service; `ports` are what was compiled from them, with the sizes of their sets.
  init(_ service: Service, _ slices: [EndpointSlice], node: String, ports: some Sequence<(cluster: Int, local: Int)>) {
    if service.needsHealthCheck {
      port = service.healthCheckNodePort
      var local: [IPFamily: Set<IPAddress>] = [:]
      for slice in slices {
        for endpoint in slice.endpoints where endpoint.nodeName == node && endpoint.isReady {
          if let address = endpoint.addresses.first, address.family == slice.addressType.family {
            local[address.family, default: []].insert(address)
          }
        }
      }
      localEndpoints = local.values.map(\.count).max() ?? 0
    }
    let isExternalLocal = service.type != .clusterIP && service.externalTrafficPolicy == .local
    guard isExternalLocal || service.internalTrafficPolicy == .local else { return }
    for port in ports where port.cluster > 0 && port.local == 0 {
      if service.internalTrafficPolicy == .local { withoutLocalInternal += 1 }
      if isExternalLocal { withoutLocalExternal += 1 }
    }
  }

  /// Whether there is anything to tell.
  var isOfInterest: Bool { port != nil || withoutLocalInternal > 0 || withoutLocalExternal > 0 }
}
