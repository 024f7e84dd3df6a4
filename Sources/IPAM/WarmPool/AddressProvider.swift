import Addresses

/// Where a warm pool gets its addresses from: a cloud that attaches network interfaces to the machine and gives each of
/// them addresses (IPAM-3). Calls block for as long as the cloud takes, and may fail at any time.
public protocol AddressProvider: Sendable {
  var limits: InterfaceLimits { get }

  /// What is attached to the machine now: the provider's truth.
  func interfaces() throws(ProviderError) -> [ProviderInterface]

  /// Attaches one more interface, with its own (primary) address and `addresses` further ones, or as many as there are.
  func attachInterface(addresses: Int) throws(ProviderError) -> ProviderInterface

  /// Detaches an interface, and gives all of its addresses up.
  func detachInterface(_ id: String) throws(ProviderError)

  /// Gives an interface `count` further addresses, or as many as there are; gives those that it got.
  func addAddresses(_ count: Int, to id: String) throws(ProviderError) -> [IPAddress]

  func removeAddresses(_ addresses: [IPAddress], from id: String) throws(ProviderError)
}

/// A network interface of the machine.
public struct ProviderInterface: Sendable, Hashable, Codable {
  public var id: String
  /// The machine's own interface, which cannot be detached.
  public var isPrimary: Bool
  /// The interface's own address, which no pod gets.
  public var primary: IPAddress
  /// What pods can get.
  public var addresses: [IPAddress]

  public init(id: String, isPrimary: Bool, primary: IPAddress, addresses: [IPAddress]) {
    self.id = id
    self.isPrimary = isPrimary
    self.primary = primary
    self.addresses = addresses
  }
}

public struct ProviderError: Error, Sendable, Hashable, CustomStringConvertible {
  public enum Kind: Sendable, Hashable {
    /// The subnet has no free address.
    case subnetFull
    /// The machine has as many as its kind may have.
    case limit
    /// Too many calls: later.
    case throttled
    case unknownInterface
    case failed
  }

  public var kind: Kind
  public var message: String

  public init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  public var description: String { message }
}

/// What a kind of machine may have.
public struct InterfaceLimits: Sendable, Hashable, Codable {
  /// Network interfaces, the first one included.
  public var interfaces: Int
  /// Addresses of an interface, its own one included.
  public var addressesPerInterface: Int

  public init(interfaces: Int, addressesPerInterface: Int) {
    self.interfaces = interfaces
    self.addressesPerInterface = addressesPerInterface
  }

  /// The addresses that pods can have on one interface.
  public var podAddressesPerInterface: Int { addressesPerInterface - 1 }

  /// The most pods: one for each address, and two that use the machine's own (IPAM-3).
  public var maxPods: Int { interfaces * podAddressesPerInterface + 2 }
}
