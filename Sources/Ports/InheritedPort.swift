import Dataplane

/// A port that another process had open, with all that it takes to go on where that one stopped: what came meanwhile is
/// still in the kernel's queue.
public struct InheritedPort: Sendable, Codable, Equatable {
  public enum Kind: String, Sendable, Codable { case packet, tap }

  public var kind: Kind
  /// The device's index in its own namespace.
  public var interface: Int32
  public var device: String
  /// What the port can carry.
  var capabilities: PortCapabilities.RawValue
  // The ring of a packet socket: its blocks, the octets of a slot, and the next slot to look at.
  var blocks = 0
  var slotSize = 0
  var next = 0
  /// The descriptor, in the process that has it.
  public var descriptor: Int32 = -1

  private enum CodingKeys: String, CodingKey { case kind, interface, device, capabilities, blocks, slotSize, next }

  init(kind: Kind, interface: Int32, device: String, capabilities: PortCapabilities) {
    self.kind = kind
    self.interface = interface
    self.device = device
    self.capabilities = capabilities.rawValue
  }
}
