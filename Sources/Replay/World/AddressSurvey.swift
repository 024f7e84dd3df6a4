import Addresses
import Dataplane
import Model
import Ports

/// Looks at the beginning of captures for the Ethernet addresses of the ports, so that a capture of a real machine can be
/// replayed: the state does not say them.
struct AddressSurvey {
  /// Frames that are looked at in a file.
  private static let depth = 4096

  /// The address that frames to any of `addresses` carry in the capture at `path`: the underlay's own.
  static func destination(of addresses: Set<IPAddress>, in path: String) -> MACAddress? {
    find(path) { ethernet, _, destination in
      addresses.contains(destination) && !ethernet.destination.isGroup ? ethernet.destination : nil
    }
  }

  /// The address that frames from any of `addresses` carry: a pod's.
  static func source(of addresses: Set<IPAddress>, in path: String) -> MACAddress? {
    find(path) { ethernet, source, _ in
      addresses.contains(source) && !ethernet.source.isGroup ? ethernet.source : nil
    }
  }

  private static func find(
    _ path: String, _ body: (borrowing EthernetHeader, IPAddress, IPAddress) -> MACAddress?
  ) -> MACAddress? {
    // What is wrong with the file is told when it is replayed. A pipe can be read only once.
    guard isRegularFile(path), let capture = try? CapturePort(path: path) else { return nil }
    var batch = FrameBatch()
    var seen = 0
    while seen < depth, capture.receive(into: &batch) > 0 {
      for index in 0..<batch.count {
        let frame = batch[index]
        guard let ethernet = EthernetHeader(frame.octets), ethernet.destination != .zero || ethernet.source != .zero
        else { continue }
        var found: MACAddress?
        if ethernet.etherType == .ipv4, let header = IPv4Header(ethernet.payload) {
          found = body(ethernet, .v4(header.source), .v4(header.destination))
        } else if ethernet.etherType == .ipv6, let header = IPv6Header(ethernet.payload) {
          found = body(ethernet, .v6(header.source), .v6(header.destination))
        }
        if let found { return found }
      }
      seen += batch.count
      capture.release(&batch)
    }
    return nil
  }
}
