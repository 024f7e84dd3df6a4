public import Addresses

/// The addresses and ports at which services are met, whatever becomes of packets to them: what the host must leave to
/// the data plane, and what its own programs reach through it.
public struct ServiceDoors: Sendable {
  /// A port of a transport protocol: 6 for TCP, 17 for UDP, 132 for SCTP.
  public struct Port: Sendable, Hashable, Comparable {
    public var transport: UInt8
    public var number: UInt16

    public static func < (a: Port, b: Port) -> Bool { (a.transport, a.number) < (b.transport, b.number) }
  }

  /// The blocks of cluster IPs: addresses in them are not among `addresses`.
  public private(set) var blocks: [IPPrefix] = []
  /// Cluster IPs outside of the blocks, external IPs and load balancers' IPs, with their ports.
  public private(set) var addresses: [IPAddress: [Port]] = [:]
  /// The NodePorts of each family (KP-23).
  public private(set) var nodePorts: [IPFamily: Set<Port>] = [:]
  /// Advances with every change.
  public private(set) var version = 1

  public var isEmpty: Bool { blocks.isEmpty && addresses.isEmpty && nodePorts.values.allSatisfy(\.isEmpty) }

  init() {}

  /// The same services with other blocks.
  mutating func setBlocks(_ blocks: [IPPrefix], _ claims: some Sequence<ServiceCompiler.Claim>) {
    self.blocks = blocks
    (addresses, nodePorts) = ([:], [:])
    version += 1
    for claim in claims { enter(claim) }
  }

  mutating func enter(_ claim: ServiceCompiler.Claim) {
    let port = Port(transport: claim.transport, number: claim.port)
    guard let address = claim.address else {
      nodePorts[claim.family, default: []].insert(port)
      version += 1
      return
    }
    guard !isInBlock(address) else { return }
    addresses[address, default: []].append(port)
    version += 1
  }

  mutating func withdraw(_ claim: ServiceCompiler.Claim) {
    let port = Port(transport: claim.transport, number: claim.port)
    guard let address = claim.address else {
      nodePorts[claim.family]?.remove(port)
      version += 1
      return
    }
    guard !isInBlock(address) else { return }
    addresses[address]?.removeAll { $0 == port }
    if addresses[address]?.isEmpty == true { addresses[address] = nil }
    version += 1
  }

  private func isInBlock(_ address: IPAddress) -> Bool { blocks.contains { $0.contains(address) } }
}
