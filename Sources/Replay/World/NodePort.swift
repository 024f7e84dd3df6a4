import Addresses
import Dataplane
import Model

/// A port of a node that exists in memory only, as users name it.
public struct NodePort: Sendable {
  public enum Role: Sendable, Equatable {
    case underlay
    case host
    case pod(ObjectKey)
    /// A capture without a state: everything is accepted.
    case wire
  }

  public var role: Role
  /// `underlay`, `host`, `namespace/pod`, or the name of a wire.
  public var name: String
  /// The pod's interface on the host.
  public var interface: String?
  /// The address that frames to the port carry.
  public var mac: MACAddress
  /// The address that the pod's or the host's frames carry.
  public var peerMAC: MACAddress?
  public var mtu: Int
  public var index: PortIndex

  /// The name in file names: `namespace_pod`. An underscore stands in no Kubernetes name.
  public var fileName: String { String(name.map { $0 == "/" ? "_" : $0 }) }

  /// Whether a user who writes `name` means this port.
  func isNamed(_ name: String) -> Bool { name == self.name || name == interface || name == fileName }

  var pod: ObjectKey? { if case .pod(let key) = role { key } else { nil } }
}
