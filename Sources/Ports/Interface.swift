import Addresses
import CLinux
import Glibc

/// A network device as a port sees it.
public struct InterfaceDescription: Sendable, Equatable {
  public let name: String
  public let index: Int32
  /// Octets of the largest network-layer packet.
  public let mtu: Int
  public let mac: MACAddress
  public let isUp: Bool

  /// Looks up the device of that name in the current network namespace.
  public init(named name: String) throws(PortError) {
    guard !name.isEmpty else {
      throw PortError(device: "(no name)", operation: "find the interface", remedy: "name an interface")
    }
    try self.init(name: name, index: 0)
  }

  /// Looks up the device of that index in the current network namespace.
  public init(index: Int32) throws(PortError) { try self.init(name: "", index: index) }

  private init(name: String, index: Int32) throws(PortError) {
    var found = kalsae_interface()
    found.index = index
    let result = unsafe kalsae_interface_get(name, &found)
    let label = name.isEmpty ? "interface \(index)" : name
    guard result == 0 else { throw PortError(device: label, operation: "find the interface", code: -result) }
    let ethernet: UInt16 = 1
    let loopback: UInt16 = 772
    guard found.hardware_type == ethernet || found.hardware_type == loopback else {
      throw PortError(
        device: label, operation: "use the interface", detail: "its hardware type is \(found.hardware_type)",
        remedy: "only Ethernet devices can be ports")
    }
    self.name = unsafe withUnsafeBytes(of: &found.name) { bytes in
      unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
    self.index = found.index
    mtu = Int(found.mtu)
    let m = found.mac
    mac = MACAddress(
      rawValue: [m.0, m.1, m.2, m.3, m.4, m.5].reduce(0) { $0 << 8 | UInt64($1) })
    isUp = found.flags & UInt32(IFF_UP) != 0
  }
}

/// Runs `body` in the network namespace at `path` (`/run/netns/NAME`, `/proc/PID/ns/net`), on a thread of its own;
/// where `path` is nil, right here.
func inNamespace<Result>(
  _ path: String?, device: String, _ body: () throws(PortError) -> Result
) throws(PortError) -> Result {
  guard let path else { return try body() }
  var outcome: Swift.Result<Result, PortError>?
  let error = withoutActuallyEscaping(body) { escapable in
    let run = {
      do throws(PortError) { outcome = .success(try escapable()) } catch { outcome = .failure(error) }
    }
    return unsafe withUnsafePointer(to: run) { context in
      unsafe kalsae_in_namespace(
        path, { unsafe $0!.assumingMemoryBound(to: (() -> Void).self).pointee() },
        UnsafeMutableRawPointer(mutating: context))
    }
  }
  guard let outcome else {
    throw PortError(
      device: device, operation: "enter the network namespace \(path)", code: -error,
      remedy: error == -ENOENT ? "no such namespace; `ip netns` lists them" : nil)
  }
  return try outcome.get()
}
