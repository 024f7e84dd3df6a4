import Addresses

/// Gives addresses to the interfaces of containers and takes them back.
///
/// Calls block, may come from any thread, and from several processes on one store at once. What a call has returned
/// survives the end of the process and of the machine (IPAM-6).
public protocol AddressManager: Sendable {
  /// Gives an attachment its addresses: all that it asks for, or none.
  func assign(_ request: AssignRequest) throws(IPAMError) -> Assignment

  /// Takes all addresses of an attachment back. An attachment that has none is no error (CNI-4).
  func release(_ attachment: Attachment) throws(IPAMError)

  /// Takes the addresses of all attachments of a network back that are not among the valid ones (CNI-6, GC), and
  /// tells whose they were.
  func collect(keeping valid: Set<Attachment>, network: String) throws(IPAMError) -> [Attachment]

  /// Throws where an attachment does not have exactly these addresses (CNI-5, CHECK).
  func check(_ attachment: Attachment, has addresses: [IPAddress]) throws(IPAMError)

  /// Throws where no address could be given now (CNI-6, STATUS).
  func ready() throws(IPAMError)

  /// Does what is due from time to time: to be called every few seconds, and after the start. Most have nothing to do.
  func maintain() throws(IPAMError)
}

extension AddressManager {
  public func maintain() {}
}

/// An interface of a container in a network: what addresses belong to.
public struct Attachment: Hashable, Sendable, Codable {
  /// The name of the network configuration.
  public var network: String
  public var containerID: String
  /// The interface inside of the container (CNI_IFNAME).
  public var interface: String

  public init(network: String, containerID: String, interface: String) {
    self.network = network
    self.containerID = containerID
    self.interface = interface
  }
}

extension Attachment: Comparable, CustomStringConvertible {
  public static func < (a: Attachment, b: Attachment) -> Bool {
    (a.network, a.containerID, a.interface) < (b.network, b.containerID, b.interface)
  }

  public var description: String { "\(network)/\(containerID)/\(interface)" }
}

/// The pod that a container belongs to (K8S_POD_NAMESPACE and K8S_POD_NAME of CNI_ARGS).
public struct PodName: Hashable, Sendable, Codable, CustomStringConvertible {
  public var namespace: String
  public var name: String

  public init(namespace: String, name: String) {
    self.namespace = namespace
    self.name = name
  }

  public var description: String { "\(namespace)/\(name)" }
}

public struct AssignRequest: Sendable {
  public var attachment: Attachment
  public var pod: PodName?
  /// The node that the container runs on.
  public var node: String
  /// One address of each of these families is given.
  public var families: Set<IPFamily>
  /// Exactly these addresses are asked for (CNI-10, `ips`); where there are any, `families` does not count.
  public var requested: [IPAddress]
  /// Names or CIDRs of the pools to take from; empty = all that select the node.
  public var pools: [String]

  public init(
    _ attachment: Attachment, pod: PodName? = nil, node: String, families: Set<IPFamily> = [.ipv4],
    requested: [IPAddress] = [], pools: [String] = []
  ) {
    self.attachment = attachment
    self.pod = pod
    self.node = node
    self.families = families
    self.requested = requested
    self.pools = pools
  }
}

/// What an attachment was given. IPv4 comes before IPv6.
public struct Assignment: Sendable, Equatable {
  public var addresses: [AssignedAddress]
  /// Routes that the address manager asks for; block mode has none of its own.
  public var routes: [AssignedRoute]
  /// What the address manager says of name resolution, where it says anything.
  public var dns: NameResolution?

  public init(addresses: [AssignedAddress], routes: [AssignedRoute] = [], dns: NameResolution? = nil) {
    self.addresses = addresses
    self.routes = routes
    self.dns = dns
  }
}

public struct AssignedAddress: Sendable, Hashable {
  public var address: IPAddress
  /// The length of the subnet that the address is configured with: 32 or 128 in block mode.
  public var prefixLength: Int
  /// The pool that it comes from, where there are pools.
  public var pool: String?
  /// The gateway of the subnet, where the address manager knows one.
  public var gateway: IPAddress?

  public init(address: IPAddress, prefixLength: Int, pool: String? = nil, gateway: IPAddress? = nil) {
    self.address = address
    self.prefixLength = prefixLength
    self.pool = pool
    self.gateway = gateway
  }
}

public struct AssignedRoute: Sendable, Hashable, Codable {
  public var destination: IPPrefix
  /// nil = the gateway of the address.
  public var gateway: IPAddress?

  public init(destination: IPPrefix, gateway: IPAddress? = nil) {
    self.destination = destination
    self.gateway = gateway
  }

  private enum CodingKeys: String, CodingKey {
    case destination = "dst"
    case gateway = "gw"
  }
}

/// The `dns` of a CNI result.
public struct NameResolution: Sendable, Hashable, Codable {
  public var nameservers: [String]?
  public var domain: String?
  public var search: [String]?
  public var options: [String]?

  public init(
    nameservers: [String]? = nil, domain: String? = nil, search: [String]? = nil, options: [String]? = nil
  ) {
    self.nameservers = nameservers
    self.domain = domain
    self.search = search
    self.options = options
  }
}
