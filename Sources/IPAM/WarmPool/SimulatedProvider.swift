import Addresses
import Glibc
import Synchronization

/// A provider that behaves as EC2 does, in memory: limits, a subnet that runs out, calls that take time and fail.
public final class SimulatedProvider: AddressProvider {
  public struct Behaviour: Sendable {
    /// How long a call takes.
    public var latency: Duration = .zero
    /// Called with the name of each call and its number; what it gives is thrown. For faults.
    public var fault: (@Sendable (_ call: String, _ number: Int) -> ProviderError?)?

    public init() {}
  }

  private struct Cloud {
    var interfaces: [ProviderInterface]
    var free: [IPAddress]
    var nextInterface = 1
    var calls = 0
  }

  public let limits: InterfaceLimits
  public let subnet: IPPrefix
  private let behaviour: Mutex<Behaviour>
  private let cloud: Mutex<Cloud>

  /// A machine with its first interface, in an IPv4 subnet whose first four and last addresses are the cloud's.
  public init(limits: InterfaceLimits, subnet: IPPrefix, behaviour: Behaviour = Behaviour()) {
    precondition((1...28).contains(subnet.length) && subnet.family == .ipv4)
    self.limits = limits
    self.subnet = subnet
    self.behaviour = Mutex(behaviour)
    var free = (4..<Int(min(subnet.size - 1, 1 << 16))).map { subnet.address(at: $0) }
    let first = ProviderInterface(id: "eni-0", isPrimary: true, primary: free.removeFirst(), addresses: [])
    cloud = Mutex(Cloud(interfaces: [first], free: free))
  }

  public func change(_ body: (inout Behaviour) -> Void) { behaviour.withLock { body(&$0) } }

  /// The addresses of the subnet that nobody has.
  public var freeAddresses: Int { cloud.withLock { $0.free.count } }

  public var calls: Int { cloud.withLock { $0.calls } }

  private func call<R>(
    _ name: String, _ body: (inout Cloud) throws(ProviderError) -> R
  ) throws(ProviderError) -> R {
    let (behaviour, number) = (
      self.behaviour.withLock { $0 },
      cloud.withLock { cloud in
        cloud.calls += 1
        return cloud.calls
      }
    )
    let microseconds = behaviour.latency / .microseconds(1)
    if microseconds > 0 { usleep(UInt32(min(microseconds, 60_000_000))) }
    if let error = behaviour.fault?(name, number) { throw error }
    return try cloud.withLock { cloud throws(ProviderError) in try body(&cloud) }
  }

  public func interfaces() throws(ProviderError) -> [ProviderInterface] {
    try call("interfaces") { cloud throws(ProviderError) in cloud.interfaces }
  }

  public func attachInterface(addresses: Int) throws(ProviderError) -> ProviderInterface {
    try call("attachInterface") { cloud throws(ProviderError) in
      guard cloud.interfaces.count < limits.interfaces else {
        throw ProviderError(.limit, "the machine has \(limits.interfaces) interfaces, and may have no more")
      }
      guard !cloud.free.isEmpty else { throw ProviderError(.subnetFull, "the subnet \(subnet) has no free address") }
      let primary = cloud.free.removeFirst()
      let count = min(addresses, limits.podAddressesPerInterface, cloud.free.count)
      let interface = ProviderInterface(
        id: "eni-\(cloud.nextInterface)", isPrimary: false, primary: primary,
        addresses: Array(cloud.free.prefix(count)))
      cloud.free.removeFirst(count)
      cloud.nextInterface += 1
      cloud.interfaces.append(interface)
      return interface
    }
  }

  public func detachInterface(_ id: String) throws(ProviderError) {
    try call("detachInterface") { cloud throws(ProviderError) in
      let index = try Self.index(id, cloud)
      guard !cloud.interfaces[index].isPrimary else {
        throw ProviderError(.failed, "\(id) is the machine's first interface: it cannot be detached")
      }
      let interface = cloud.interfaces.remove(at: index)
      cloud.free += [interface.primary] + interface.addresses
    }
  }

  public func addAddresses(_ count: Int, to id: String) throws(ProviderError) -> [IPAddress] {
    try call("addAddresses") { cloud throws(ProviderError) in
      let index = try Self.index(id, cloud)
      let room = limits.podAddressesPerInterface - cloud.interfaces[index].addresses.count
      guard room > 0 else { throw ProviderError(.limit, "\(id) has as many addresses as it may have") }
      guard !cloud.free.isEmpty else { throw ProviderError(.subnetFull, "the subnet \(subnet) has no free address") }
      let given = Array(cloud.free.prefix(min(count, room)))
      cloud.free.removeFirst(given.count)
      cloud.interfaces[index].addresses += given
      return given
    }
  }

  public func removeAddresses(_ addresses: [IPAddress], from id: String) throws(ProviderError) {
    try call("removeAddresses") { cloud throws(ProviderError) in
      let index = try Self.index(id, cloud)
      for address in addresses {
        guard let place = cloud.interfaces[index].addresses.firstIndex(of: address) else {
          throw ProviderError(.failed, "\(id) does not have \(address)")
        }
        cloud.interfaces[index].addresses.remove(at: place)
        cloud.free.append(address)
      }
    }
  }

  private static func index(_ id: String, _ cloud: Cloud) throws(ProviderError) -> Int {
    guard let index = cloud.interfaces.firstIndex(where: { $0.id == id }) else {
      throw ProviderError(.unknownInterface, "there is no interface \(id)")
    }
    return index
  }
}
