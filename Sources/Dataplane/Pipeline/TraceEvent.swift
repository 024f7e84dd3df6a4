import Addresses

/// A decision of the pipeline about a packet, in order, for `kalsae trace` and for tests.
public enum TraceEvent: Sendable, Equatable {
  case received(port: PortIndex, length: Int)
  /// A tunnel packet from a peer was unwrapped.
  case decapsulated(Encapsulation, peer: String)
  case flowFound
  /// The first packet of a flow: it is classified.
  case flowMissing
  /// What the flow was decided from has changed: it is classified again.
  case flowStale
  case sourceAccepted
  case routed(prefix: IPPrefix, RouteAction)
  case hopChosen(HopIndex)
  case timeToLive(Int)
  case encapsulated(Encapsulation, remote: IPAddress)
  /// ARP, NDP or an echo request was answered from here.
  case answered(String)
  /// An ICMP error goes back to the sender.
  case errorSent(type: UInt8, code: UInt8)
  case queued(neighbour: IPAddress?)
  /// Goes out with the batch.
  case sent(port: PortIndex, hop: HopIndex)
  case dropped(DropReason)
}
