public import CLinux
import Dataplane

/// Several sockets on one device that share what comes in (PACKET_FANOUT, packet(7)), one for each thread that receives. Each
/// has a ring of its own. Whoever goes leaves the group, and its share goes to the others.
extension AFPacketPort {
  /// Makes the port the first of a group, unless it is in one. Of each packet `spread`, a classic BPF program, says which of
  /// the group gets it: its result modulo their number. It sees packets from their network-layer header on.
  public func lead(_ spread: [sock_filter]) throws(PortError) {
    let result = unsafe spread.withUnsafeBufferPointer {
      unsafe kalsae_packet_lead(descriptor!, $0.baseAddress!, UInt16($0.count))
    }
    guard result == 0 else {
      throw PortError(device: name, operation: "have several sockets share its packets", code: -result)
    }
  }

  /// Joins the group of another port of the device, unless it is there. Super-frames go out as they do by that one.
  public func follow(_ leader: AFPacketPort) throws(PortError) {
    let result = kalsae_packet_follow(descriptor!, leader.descriptor!)
    guard result == 0 else {
      throw PortError(device: name, operation: "share its packets with another socket", code: -result)
    }
    // The program at the device's egress is for all of its sockets.
    if leader.capabilities.contains(.tunnels) { capabilities.insert(.tunnels) }
  }
}
