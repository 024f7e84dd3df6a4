import Addresses
import CFuzz
import Dataplane
import FuzzEntry
import Glibc
import Ports
import Replay

/// The whole pipeline: batches of frames by any port of a node, with every tunnel over both families. What it sends must
/// be whole: headers with right lengths and checksums.
///
/// The input is a choice of node, then records of two octets of choices, an octet of length (times four) and the frame.
/// The choices say by which port, whether Ethernet addresses and the IPv4 checksum are put right (so that what lies
/// behind is reached), and what a device claims about checksum and segmentation.
final class PipelineTarget: FuzzTarget {
  private let nodes: [VirtualNode]
  private let ports: [FuzzPort]
  private let wire = FuzzWire()
  private var now: UInt64 = 1_000_000_000

  private static let cases = [
    "direct", "ipip-over-ipv4", "ipip-over-ipv6", "gre-over-ipv4", "gre-over-ipv6", "vxlan-over-ipv4",
    "vxlan-over-ipv6", "geneve-over-ipv4", "geneve-over-ipv6", "gre-key-checksum-sequence", "vxlan-udp-checksum",
    "dscp-ttl-uniform",
  ]

  init() {
    let folder = unsafe getenv("KALSAE_GOLDEN").map { unsafe String(cString: $0) } ?? "Tests/Golden"
    var nodes: [VirtualNode] = []
    for name in PipelineTarget.cases {
      do {
        nodes.append(
          try VirtualNode("node-a", in: loadWholeState("\(folder)/\(name)/state"), flowLimit: 64))
      } catch {
        unsafe kalsae_complain("\(error)")
        exit(66)
      }
    }
    nodes.append(VirtualNode(wires: ["in"], flowLimit: 64))
    self.nodes = nodes
    let port = FuzzPort(wire)
    ports = [port]
    for node in nodes { node.connect { _ in port } }
  }

  func run(_ input: UnsafeRawBufferPointer) {
    guard input.count > 3 else { return }
    let node = unsafe nodes[Int(input[0]) % nodes.count]
    // Nothing of the last input is left, so that each can be run again alone.
    now += 700_000_000_000
    node.lane.tick(at: now)
    node.lane.withPipeline { $0.forgetFlows() }
    var offset = 1
    var records = 0
    while offset + 3 <= input.count, records < 64 {
      let choices = unsafe UInt16(input[offset]) << 8 | UInt16(input[offset + 1])
      let length = min(unsafe Int(input[offset + 2]) * 4 + Int(choices >> 14), input.count - offset - 3)
      let frame = unsafe UnsafeRawBufferPointer(rebasing: input[(offset + 3)..<(offset + 3 + length)])
      offset += 3 + length
      records += 1
      let port = node.ports[Int(choices & 7) % node.ports.count]
      guard unsafe wire.add(frame, choices, port) else { continue }
      // Some come together, some apart.
      if choices & 8 == 0 || offset + 3 > input.count {
        now += choices & 16 == 0 ? 1_000 : 2_000_000_000
        _ = node.lane.poll(port.index, at: .at(now))
        wire.reset()
        if choices & 16 != 0 { node.lane.tick(at: now) }
      }
    }
    wire.reset()
    node.lane.tick(at: now)
  }
}

/// The frames on their way into the pipeline.
final class FuzzWire {
  private var arena = FrameArena(capacity: 1 << 18)
  fileprivate var batch = FrameBatch(capacity: 64)

  func reset() {
    batch.removeAll()
    arena.reset()
  }

  func add(_ octets: UnsafeRawBufferPointer, _ choices: UInt16, _ port: NodePort) -> Bool {
    guard !batch.isFull, octets.count > 0, var frame = arena.frame(length: octets.count, headroom: 192) else {
      return false
    }
    let view = frame.octets
    for offset in 0..<octets.count { unsafe view[offset] = octets[offset] }
    if choices & 32 != 0, view.count >= 14 {
      view[mac: 0] = port.mac
      if let peer = port.peerMAC { view[mac: 6] = peer }
      if choices & 64 != 0, let header = IPv4Header(view.dropping(14)) {
        if choices & 128 != 0 { header.totalLength = view.count - 14 }
        header.updateChecksum()
      }
    }
    describe(&frame, choices)
    batch.append(frame)
    return true
  }

  /// What a device may say, within what the ports let through.
  private func describe(_ frame: inout Frame, _ choices: UInt16) {
    let length = Int(frame.length)
    if choices & 256 != 0, length >= 40 {
      let start = 14 + Int(frame.octets[15]) % 40
      if start + 16 + 2 <= length {
        frame.flags.insert(.checksumPartial)
        frame.checksumStart = frame.start + UInt32(start)
        frame.checksumOffset = choices & 512 == 0 ? 16 : 6
      }
    }
    if choices & 1024 != 0 {
      frame.segmentation = choices & 2048 == 0 ? .tcp4 : choices & 512 == 0 ? .tcp6 : .udp
      frame.segmentSize = UInt16(frame.octets[0]) + 1
    }
    if choices & 4096 != 0 {
      frame.wireLength = frame.length + 100
      frame.flags.insert(.truncated)
    }
    if choices & 8192 != 0 { frame.flags.insert(.checksumVerified) }
  }
}

/// All ports of all nodes: what comes in is what the wire holds, what goes out is looked at.
final class FuzzPort: Port {
  let name = "fuzz"
  let mtu = 1500
  // Whatever a device claims has to be finished here, so that it can be looked at.
  var capabilities: PortCapabilities { [] }
  var statistics: PortStatistics { PortStatistics() }
  var descriptor: Int32? { nil }
  var isExhausted: Bool { false }
  private let wire: FuzzWire

  init(_ wire: FuzzWire) { self.wire = wire }

  func receive(into batch: inout FrameBatch) -> Int {
    for index in 0..<wire.batch.count { batch.append(wire.batch[index]) }
    defer { wire.batch.removeAll() }
    return wire.batch.count
  }

  func release(_ batch: inout FrameBatch) { batch.removeAll() }

  func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    for position in 0..<indices.count { judge(batch[indices[position]]) }
    return indices.count
  }

  private func judge(_ frame: Frame) {
    precondition(frame.segmentation == .none && !frame.flags.contains(.checksumPartial), "left unfinished")
    guard let ethernet = EthernetHeader(frame.octets) else { preconditionFailure("sent without an Ethernet header") }
    let isWhole = !frame.flags.contains(.truncated)
    switch ethernet.etherType {
    case .ipv4:
      guard let header = IPv4Header(ethernet.payload) else { preconditionFailure("sent with a bad IPv4 header") }
      precondition(header.isChecksumValid, "sent with a bad IPv4 checksum")
      precondition(!isWhole || header.totalLength == ethernet.payload.count, "sent with a bad IPv4 length")
    case .ipv6:
      guard let header = IPv6Header(ethernet.payload) else { preconditionFailure("sent with a bad IPv6 header") }
      precondition(!isWhole || header.payloadLength + 40 == ethernet.payload.count, "sent with a bad IPv6 length")
    case .arp: precondition(ARPPacket(ethernet.payload) != nil)
    default: preconditionFailure("sent what is neither IP nor ARP")
    }
  }
}
