import CLinux
import Glibc

extension XDPPort {
  public struct Options: Sendable {
    /// The network namespace of the device, `/run/netns/NAME` for example; nil for the current one.
    public var namespace: String?
    /// The queues of the device that are the port's; nil: all that it receives by.
    public var queues: [Int]?
    /// The frames that can wait to be received by each queue: a power of two from 64 to 32,768. So much of the memory is the
    /// port's for each.
    public var slots = 2048
    /// The frames that can wait to be sent: such a power as well.
    public var sendSlots = 2048
    /// Whether the device holds packets back for some microseconds while many come.
    public var moderates = true

    public init() {}
  }

  /// What became of the device.
  public enum State: Sendable, Equatable { case up, down, removed }

  /// What the kernel counts for the port's sockets.
  public struct Counters: Sendable, Equatable {
    /// Frames that found no chunk in the fill ring, or were too long.
    public var receiveDropped: UInt64 = 0
    /// Frames that found the receive ring full.
    public var receiveRingFull: UInt64 = 0
    /// How often the fill ring was found empty.
    public var fillRingEmpty: UInt64 = 0
    /// How often there was nothing to send.
    public var transmitRingEmpty: UInt64 = 0
    /// Entries of the fill and the transmit ring that made no sense.
    public var invalidReceive: UInt64 = 0
    public var invalidTransmit: UInt64 = 0
    /// Frames whose checksum was finished on their way in.
    public var finishedChecksums: UInt64 = 0
    /// Frames that went out by descriptor, and those that had to be copied.
    public var sentInPlace: UInt64 = 0
    public var sentCopies: UInt64 = 0

    public init() {}

    public static func + (a: Counters, b: Counters) -> Counters {
      var sum = a
      sum.receiveDropped += b.receiveDropped
      sum.receiveRingFull += b.receiveRingFull
      sum.fillRingEmpty += b.fillRingEmpty
      sum.transmitRingEmpty += b.transmitRingEmpty
      sum.invalidReceive += b.invalidReceive
      sum.invalidTransmit += b.invalidTransmit
      sum.finishedChecksums += b.finishedChecksums
      sum.sentInPlace += b.sentInPlace
      sum.sentCopies += b.sentCopies
      return sum
    }
  }

  /// Has a device receive and send by at least `count` queues, where its driver counts them apart, as a veth pair's does.
  /// `namespace`: the path of its network namespace; nil for the current one.
  public static func raiseQueues(of device: String, to count: Int, namespace: String? = nil) throws(PortError) {
    let result = try inNamespace(namespace, device: device) { () throws(PortError) in
      unsafe kalsae_xdp_raise_queues(device, UInt32(clamping: count))
    }
    guard result != 0 else { return }
    throw PortError(
      device: device, operation: "have it receive and send by \(count) queues", code: -result,
      remedy: result == -ERANGE ? "its driver has fewer: use fewer workers" : nil)
  }

  /// How many queues a device of the calling thread's network namespace receives by, and how many it sends by.
  public static func queues(of device: String) -> (receive: Int, send: Int) {
    var send: UInt32 = 1
    let receive = unsafe kalsae_xdp_queues(device, &send)
    return (Int(receive), Int(send))
  }
}
