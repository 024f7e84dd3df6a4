import Addresses

/// Addresses that are not given to pods unless they are asked for (projectcalico.org/v3, IPAM-2).
public struct IPReservation: KubernetesObject {
  public static let kind = Kind.ipReservation
  /// Calico keeps the same object in the Kubernetes API under its second name.
  public static let apiVersions = ["projectcalico.org/v3", "crd.projectcalico.org/v1"]

  public var metadata: ObjectMetadata
  /// Blocks, and single addresses as blocks of one.
  public var reservedCIDRs: [IPPrefix]

  public var resource: Resource { .ipReservation(self) }

  public init(metadata: ObjectMetadata, reservedCIDRs: [IPPrefix]) {
    self.metadata = metadata
    self.reservedCIDRs = reservedCIDRs
  }

  public init?(metadata: ObjectMetadata, reading root: Field) {
    let cidrs = root["spec"].required()["reservedCIDRs"].list { field in
      // Calico takes a single address too.
      field.document?.string.flatMap { IPAddress($0) }.map { IPPrefix(host: $0) } ?? field.prefix()
    }
    self.init(metadata: metadata, reservedCIDRs: cidrs)
  }
}
