import Addresses

extension Core {
  /// Whether policy lets a connection be: the source's egress and the destination's ingress (NP-6), by the addresses
  /// before source translation and after destination translation (NP-10).
  @inline(__always)
  mutating func policyProblem(
    source: IPAddress, sourcePod: UInt32, destination: IPAddress, destinationPod: UInt32, transport: UInt8,
    port: UInt16, _ pods: MemoryView<PolicyTable.PodRecord>, _ tables: borrowing Tables
  ) -> DropReason? {
    guard sourcePod != 0 || destinationPod != 0 else { return nil }
    // NP-7: a pod and itself, a pod and its own node.
    if source == destination { return nil }
    // Most pods have no policy at all, which is asked first.
    let egress = sourcePod != 0 ? pods[Int(sourcePod)].egress : 0
    if egress != 0, tables.podAddresses.find(source) != nil, !isOwnNode(destination, of: sourcePod, tables),
      !tables.policies.allows(
        egress, peer: destination, pod: destinationPod, receiver: destinationPod, transport: transport, port: port)
    {
      return .policyEgress
    }
    let ingress = destinationPod != 0 ? pods[Int(destinationPod)].ingress : 0
    if ingress != 0, tables.podAddresses.find(destination) != nil, !isOwnNode(source, of: destinationPod, tables),
      !tables.policies.allows(
        ingress, peer: source, pod: sourcePod, receiver: destinationPod, transport: transport, port: port)
    {
      return .policyIngress
    }
    return nil
  }

  /// Whether an address is of the node that a pod of this node runs on (NP-7).
  @inline(__always)
  private mutating func isOwnNode(_ address: IPAddress, of pod: UInt32, _ tables: borrowing Tables) -> Bool {
    if tables.policies.isNode(address, of: pod) { return true }
    return tables.isOwn(address)
  }

  /// The same for a pod, which has another address, of whatever node.
  private mutating func isOwnNode(
    _ address: IPAddress, of podAddress: IPAddress, _ pod: UInt32, _ tables: borrowing Tables
  ) -> Bool {
    tables.policies.isNode(address, of: pod) || tables.isOwn(address) && tables.podAddresses.find(podAddress) != nil
  }

  /// Records what both sides' policies say, whichever node enforces them.
  mutating func tracePolicy(
    source: IPAddress, _ sourcePod: UInt32, destination: IPAddress, _ destinationPod: UInt32, _ transport: UInt8,
    _ port: UInt16, _ tables: borrowing Tables
  ) {
    func allows(_ group: PolicyGroupIndex, _ peer: IPAddress, _ pod: UInt32) -> Bool {
      group == 0 || source == destination
        || tables.policies.allows(
          group, peer: peer, pod: pod, receiver: destinationPod, transport: transport, port: port)
    }
    let egress =
      sourcePod == 0 || isOwnNode(destination, of: source, sourcePod, tables)
      || allows(tables.policies.records[Int(sourcePod)].egress, destination, destinationPod)
    let ingress =
      destinationPod == 0 || isOwnNode(source, of: destination, destinationPod, tables)
      || allows(tables.policies.records[Int(destinationPod)].ingress, source, sourcePod)
    record(.policyDecided(egress: egress, ingress: ingress, destination: destination))
  }
}
