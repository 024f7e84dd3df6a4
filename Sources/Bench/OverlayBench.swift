import Addresses
import Dataplane
import EBPF
import Glibc
import Ports

/// How long the program that carries flows in the kernel takes for a packet; medians, in nanoseconds.
public struct OverlayResult: Sendable, Codable {
  public var name: String
  /// Of a flow that it knows: until it would be redirected.
  public var hit: UInt32
  /// Of none.
  public var miss: UInt32
  /// Of one that was entered before something changed.
  public var stale: UInt32
}

/// Runs the program by BPF_PROG_RUN on flows that the pipeline has decided. Nothing is attached to a device.
public enum OverlayBench {
  private static let names = [
    "forward", "ipip-encap", "ipip-decap", "gre-encap", "gre-decap", "vxlan-encap", "vxlan-decap", "geneve-encap",
    "geneve-decap", "service", "service+vxlan",
  ]
  /// A packet that was carried is another one: each run is one call, and many are needed.
  private static let runs = 2001

  public static func run() throws -> [OverlayResult] {
    try PipelineCase.all.filter { names.contains($0.name) }.map { try measure($0) }
  }

  private static func measure(_ bench: PipelineCase) throws -> OverlayResult {
    let node = BenchNode(bench.shape)
    let offload = try FlowOffloader(node: "bench-\(getpid())", limit: 1024)
    defer { FlowOffloader.unload(node: offload.folder.node) }
    let (index, port) = enter(node, offload, isReceiving: bench.kind == .receive)
    let packets = bench.packets(node, flows: 2, size: 64, Share())
    let source = MemoryPort(slots: 32)
    node.path.lanes[0][port: index] = source
    node.path.setOffload(offload)
    for _ in 0..<16 { source.enqueue(packets.octets(0)) }
    while node.path.lanes[0].poll(index, at: .at(1_000_000_000_000)) > 0 {}
    guard try offload.run(packets.octets(0), at: port).isCarried else {
      throw SocketBenchError(description: "\(bench.name): the kernel does not carry the flow")
    }
    let hit = try median(offload, packets.octets(0), port)
    let miss = try median(offload, packets.octets(1), port)
    offload.invalidate()
    return OverlayResult(name: bench.name, hit: hit, miss: miss, stale: try median(offload, packets.octets(0), port))
  }

  /// Makes the node's ports known; returns the one that packets come in by.
  private static func enter(
    _ node: BenchNode, _ offload: FlowOffloader, isReceiving: Bool
  ) -> (PortIndex, OverlayPort) {
    let (description, settings) = node.path.change { ($0.port(node.pod)!, $0.settings) }
    let pod = OverlayPort(
      interface: 100, mac: description.mac, peer: description.peerMAC, pod: node.pod, isPair: true)
    var underlay = OverlayPort(interface: 200, mac: BenchNode.underlayMAC, pod: nil, isPair: false)
    underlay.vxlanPort = settings.vxlanPort
    underlay.genevePort = settings.genevePort
    underlay.vtep = settings.vtepMAC
    offload.pretend(pod)
    offload.pretend(underlay)
    offload.underlayPort = node.underlay
    return isReceiving ? (node.underlay, underlay) : (node.pod, pod)
  }

  private static func median(_ offload: FlowOffloader, _ frame: [UInt8], _ port: OverlayPort) throws -> UInt32 {
    try (0..<runs).map { _ in try offload.run(frame, at: port).nanoseconds }.sorted()[runs / 2]
  }
}
