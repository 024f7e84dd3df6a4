import Addresses
import Dataplane

/// The addresses and ports of a UDP packet.
struct PacketAddresses: Hashable {
  var source: IPv4Address
  var destination: IPv4Address
  var sourcePort: UInt16
  var destinationPort: UInt16

  init(_ source: IPv4Address, _ sourcePort: UInt16, to destination: IPv4Address, _ destinationPort: UInt16) {
    self.source = source
    self.destination = destination
    self.sourcePort = sourcePort
    self.destinationPort = destinationPort
  }

  /// Reads those of an Ethernet frame with a sound UDP datagram; nil for anything else.
  init?(frame: [UInt8]) {
    var frame = frame
    let read = withOctets(&frame) { octets -> PacketAddresses? in
      guard let header = IPv4Header(octets.dropping(14)), header.isChecksumValid, let udp = UDPHeader(header.payload),
        udp.isChecksumValid(header.pseudoHeader(length: header.payload.count))
      else { return nil }
      return PacketAddresses(header.source, udp.sourcePort, to: header.destination, udp.destinationPort)
    }
    guard let read else { return nil }
    self = read
  }

  /// Those of the answer.
  var reversed: PacketAddresses { PacketAddresses(destination, destinationPort, to: source, sourcePort) }
}

/// Delivers UDP packets that are made as they are asked for, by their number: as many flows as one likes, without
/// memory for each. Making them is not part of what is timed.
final class NumberedPort: Port {
  let name = "source"
  let capabilities: PortCapabilities = []
  let mtu = 65535
  let statistics = PortStatistics()
  let descriptor: Int32? = nil
  let isExhausted = false

  /// The number of the next packet, and the number after the last, where the first comes again.
  var next = 0
  var end: Int
  /// Frames a batch.
  var batchSize = FrameBatch.standardCapacity
  private let addresses: (Int) -> PacketAddresses
  private let template: [UInt8]
  private var arena: FrameArena
  private var frames: [Frame] = []
  private let sink: SinkPort

  /// A port that delivers packets 0 to `end` - 1 over and over, from `sourceMAC` to `destinationMAC`, with the addresses
  /// that `addresses` gives them; what is sent by it goes to `sink`.
  init(
    end: Int, size: Int = 64, sourceMAC: MACAddress, destinationMAC: MACAddress, sink: SinkPort,
    _ addresses: @escaping (Int) -> PacketAddresses
  ) {
    self.end = end
    self.sink = sink
    self.addresses = addresses
    template = Packets.udp(
      .v4(.any), .v4(.any), ports: (0, 0), size: size, sourceMAC: sourceMAC, destinationMAC: destinationMAC)
    arena = FrameArena(capacity: FrameBatch.standardCapacity * (size + 320))
    for _ in 0..<FrameBatch.standardCapacity { frames.append(arena.frame(length: size, headroom: 192)!) }
  }

  /// The addresses of a packet.
  func addresses(of number: Int) -> PacketAddresses { addresses(number) }

  /// Writes the next packets into the buffers.
  func refill() {
    for index in 0..<batchSize {
      let octets = frames[index].octets
      octets.copy(from: template, to: 0)
      let wanted = addresses(next)
      if let header = IPv4Header(octets.dropping(14)), let udp = UDPHeader(header.payload) {
        (header.source, header.destination) = (wanted.source, wanted.destination)
        header.updateChecksum()
        (udp.sourcePort, udp.destinationPort) = (wanted.sourcePort, wanted.destinationPort)
        udp.updateChecksum(header.pseudoHeader(length: header.payload.count))
      }
      next = next + 1 >= end ? 0 : next + 1
    }
  }

  func receive(into batch: inout FrameBatch) -> Int {
    for frame in frames.prefix(batchSize) { batch.append(frame) }
    return batchSize
  }

  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int { sink.transmit(batch, indices) }

  func release(_ batch: inout FrameBatch) { batch.removeAll() }
}
