public import Addresses
public import Model

/// A port of the node that leads to a container (the capability `portMappings`, CNI-10).
public struct ContainerPortMapping: Sendable, Hashable {
  public var number: UInt16
  public var containerPort: UInt16
  public var transport: TransportProtocol
  /// nil: all addresses that NodePorts are served on (KP-23).
  public var address: IPAddress?

  public init(number: UInt16, containerPort: UInt16, transport: TransportProtocol, address: IPAddress? = nil) {
    self.number = number
    self.containerPort = containerPort
    self.transport = transport
    self.address = address
  }
}

extension ContainerAttachment {
  /// A namespace that no object of Kubernetes can be in.
  private static let namespace = "@hostports"

  /// The mappings as services of one endpoint each: the tables need to know nothing else (KP-23). Clients' addresses
  /// survive, as with externalTrafficPolicy Local.
  func services(node: String) -> [Change] {
    mappings.flatMap { mapping in
      addresses.flatMap { address -> [Change] in
        guard mapping.address == nil || mapping.address?.family == address.family else { return [] }
        let key = key(mapping, address)
        // Whoever asks by a cluster IP: an address that nobody has (RFC 7600, RFC 6666).
        let nobody: IPAddress =
          address.family == .ipv4 ? .v4(IPv4Address(192, 0, 0, 8)) : .v6(IPv6Address(high: 0x100 << 48, low: 1))
        var service = Service(
          metadata: ObjectMetadata(name: key.name, namespace: key.namespace), type: .nodePort, clusterIPs: [nobody],
          ports: [
            Model.ServicePort(
              protocol: mapping.transport, port: mapping.number,
              nodePort: mapping.address == nil ? mapping.number : nil)
          ])
        service.externalTrafficPolicy = .local
        service.externalIPs = mapping.address.map { [$0] } ?? []
        let slice = EndpointSlice(
          metadata: ObjectMetadata(
            name: key.name, namespace: key.namespace, labels: [EndpointSlice.serviceNameLabel: key.name]),
          addressType: address.family == .ipv4 ? .ipv4 : .ipv6,
          endpoints: [EndpointSlice.Endpoint([address], nodeName: node)],
          ports: [EndpointSlice.Port(protocol: mapping.transport, port: mapping.containerPort)])
        return [.upsert(.service(service)), .upsert(.endpointSlice(slice))]
      }
    }
  }

  private func key(_ mapping: ContainerPortMapping, _ address: IPAddress) -> ObjectKey {
    let place = mapping.address?.description ?? "\(address.family)"
    return ObjectKey(
      .service, namespace: Self.namespace,
      name: "\(pod.namespace)/\(pod.name) \(place) \(mapping.transport.rawValue) \(mapping.number)")
  }
}
