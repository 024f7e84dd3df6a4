import Addresses
import CCounting
import Compiler
import Dataplane
import Model
import Ports
import Replay

// Counts allocations and reference counting while packets go through the hot loop, for the test that says there are none
// for each packet. Prints a line for each way a packet can take:
//   NAME BATCH-SIZE PACKETS SENT BATCHES ALLOCATIONS FREES OBJECTS RETAINS RELEASES
//
//   allocation-probe STATE-DIRECTORY PACKETS

/// A frame of 100 octets from and to these addresses; the flow is told by the source port.
func frame(_ flow: Int, to mac: MACAddress, from peer: MACAddress, _ source: String, _ destination: String) -> [UInt8] {
  let source = IPv4Address(source)!
  let destination = IPv4Address(destination)!
  var octets = [UInt8](repeating: 0, count: 100)
  withOctets(&octets) { octets in
    EthernetHeader.write(to: octets, destination: mac, source: peer, etherType: .ipv4)
    let network = octets.dropping(14)
    IPv4Header.write(
      to: network, totalLength: 86, dontFragment: true, protocol: .udp, source: source, destination: destination)
    let datagram = network.dropping(20)
    UDPHeader.write(to: datagram, sourcePort: UInt16(20_000 + flow), destinationPort: 9, length: 66)
    UDPHeader(datagram)?.updateChecksum(
      InternetChecksum(pseudoHeaderOf: source, destination, protocol: .udp, length: 66))
  }
  return octets
}

/// Sends frames by one port of a node and catches what leaves by its underlay, to be sent back as if by the peer.
func throughUnderlay(_ frames: [[UInt8]], _ node: VirtualNode, by port: NodePort) -> [[UInt8]] {
  let inward = MemoryPort(slots: 256)
  let outward = MemoryPort(slots: 1)
  node.connect { $0.index == port.index ? inward : outward }
  for frame in frames { inward.enqueue(frame) }
  while node.lane.poll(port.index, at: .at(1_000_000_000)) > 0 {}
  return outward.takeOutbox().map(\.octets)
}

func measure(_ name: String, _ node: VirtualNode, by port: NodePort, _ frames: [[UInt8]], packets: Int) {
  let source = LoopPort(templates: frames.map { MemoryFrame($0) })
  let sink = LoopPort(templates: [MemoryFrame([0])])
  node.connect { $0.index == port.index ? source : sink }
  var now: UInt64 = 2_000_000_000
  func run(_ count: Int) -> Int {
    var done = 0
    var batches = 0
    while done < count {
      now += 10_000
      done += node.lane.poll(port.index, at: .at(now))
      batches += 1
    }
    return batches
  }
  // Flows are entered and tables grow in the first rounds.
  _ = run(20_000)
  let sent = sink.statistics.sentFrames
  kalsae_counting_start()
  let batches = run(packets)
  let found = kalsae_counting_stop()
  let counts = [found.allocations, found.frees, found.objects, found.retains, found.releases]
  let numbers = [UInt64(frames.count), UInt64(packets), sink.statistics.sentFrames - sent, UInt64(batches)] + counts
  print(name, numbers.map(String.init).joined(separator: " "))
}

/// An object a packet, kept and given up again: what the counting must see.
final class Control {
  let number: Int
  init(_ number: Int) { self.number = number }
}

func measureControl(packets: Int) {
  var kept: [Control?] = [nil, nil]
  kalsae_counting_start()
  for number in 0..<packets {
    kept[number & 1] = Control(number)
    kept[(number + 1) & 1] = kept[number & 1]
  }
  let found = kalsae_counting_stop()
  precondition(kept[0]?.number == packets - 1)
  let numbers = [1, packets, packets, packets].map(UInt64.init)
  let counts = [found.allocations, found.frees, found.objects, found.retains, found.releases]
  print("control", (numbers + counts).map(String.init).joined(separator: " "))
}

func probe(_ directory: String, packets: Int) throws {
  let state = try loadWholeState(directory)
  measureControl(packets: packets)
  for size in [32, 256] {
    let node = try VirtualNode("node-a", in: state)
    let peer = try VirtualNode("node-b", in: state)
    let pod = try node.port(named: "default/a")
    let other = try peer.port(named: "default/b")
    let mac = pod.peerMAC!
    let out = (0..<size).map { frame($0, to: pod.mac, from: mac, "10.244.0.5", "10.244.1.7") }
    let between = (0..<size).map { frame($0, to: pod.mac, from: mac, "10.244.0.5", "10.244.0.6") }
    let back = (0..<size).map { frame($0, to: other.mac, from: other.peerMAC!, "10.244.1.7", "10.244.0.5") }
    let wrapped = throughUnderlay(back, peer, by: other)
    measure("forward", node, by: pod, between, packets: packets)
    measure("encapsulate", node, by: pod, out, packets: packets)
    measure("decapsulate", node, by: node.ports[0], wrapped, packets: packets)
  }
}

guard CommandLine.arguments.count == 3, let packets = Int(CommandLine.arguments[2]) else {
  fatalError("usage: allocation-probe STATE-DIRECTORY PACKETS")
}
try probe(CommandLine.arguments[1], packets: packets)
