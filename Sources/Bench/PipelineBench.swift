import Addresses
import Compiler
import Dataplane
import Glibc
import Model

/// Two nodes as the compiler sees them, with pods on the first: the real pipeline on memory ports.
public final class BenchNode {
  let path: DataPath
  let compiler: NodeCompiler
  let pod: SourcePort
  let underlaySink = SinkPort(name: "underlay")
  let podIndex: PortIndex
  let underlayIndex: PortIndex
  static let podAddress = IPv4Address(10, 244, 0, 2)
  static let podAddress6 = IPv6Address("fd00:244::2")!

  init(mode: IPPool.Tunnel?, routes: Int, templates: (BenchNode.Addressing) -> [[UInt8]], batch: Int) {
    compiler = NodeCompiler(node: "a", derivesNeighbours: true)
    path = DataPath(flowLimit: 1 << 21)
    var changes: [Change] = []
    func node(_ name: String, _ address: String, _ blocks: [String]) {
      changes.append(
        .upsert(
          .node(
            Node(
              metadata: ObjectMetadata(name: name), podCIDRs: blocks.map { IPPrefix($0)! },
              addresses: [NodeAddress(.internalIP, IPAddress(address)!)],
              underlayIPv4: InterfaceAddress("\(address)/8")))))
    }
    node("a", "10.0.0.1", ["10.244.0.0/24", "fd00:244::/64"])
    for index in 1...max(1, routes) {
      node(
        "b\(index)", "10.0.\(index >> 8 & 255).\(index & 255 | 2)",
        ["10.\(index >> 8 & 127).\(index & 255).0/24", "fd00:244:0:\(String(index, radix: 16))::/64"])
    }
    for cidr in ["10.0.0.0/8", "fd00:244::/48"] {
      changes.append(
        .upsert(
          .ipPool(
            IPPool(
              metadata: ObjectMetadata(name: "pool"), cidr: IPPrefix(cidr)!, ipipMode: mode == .ipip ? .always : .never,
              vxlanMode: mode == .vxlan ? .always : .never, greMode: mode == .gre ? .always : .never,
              geneveMode: mode == .geneve ? .always : .never))))
      break
    }
    let pod = Pod(
      metadata: ObjectMetadata(name: "pod", namespace: "default"), nodeName: "a",
      addresses: [.v4(BenchNode.podAddress), .v6(BenchNode.podAddress6)], phase: .running)
    changes.append(.upsert(.pod(pod)))
    compiler.apply(changes)
    let addressing = Addressing(podMAC: pod.macAddress!)
    self.pod = SourcePort(templates: templates(addressing), batch: batch)
    let (compiler, path, source, sink) = (self.compiler, self.path, self.pod, underlaySink)
    (podIndex, underlayIndex) = path.change { tables in
      let underlay = tables.addPort(
        PortDescription(name: "underlay", role: .underlay, mac: Addressing.underlayMAC, mtu: 9000))
      compiler.setUnderlay(Underlay(port: underlay, mac: Addressing.underlayMAC, mtu: 9000))
      compiler.commit(to: &tables)
      let attachment = compiler.attachments[pod.key]!
      let index = tables.addPort(attachment.portDescription(capabilities: []))
      compiler.setPort(index, for: pod.key)
      compiler.commit(to: &tables)
      path.lanes[0][port: index] = source
      path.lanes[0][port: underlay] = sink
      return (index, underlay)
    }
  }

  struct Addressing {
    var podMAC: MACAddress
    static let underlayMAC = MACAddress("02:00:00:00:00:01")!
  }
}

public enum PipelineBench {
  public struct Result {
    public var name: String
    public var flows: Int
    public var nsMin: Double
    public var nsMedian: Double
  }

  public static func run(
    flows: Int, routes: Int, mode: IPPool.Tunnel?, name: String, isIPv6: Bool = false, windows: Int = 9
  ) -> Result {
    let batch = 256
    let node = BenchNode(
      mode: mode, routes: routes,
      templates: { addressing in
        (0..<flows).map { flow in
          let peer = flow % routes + 1
          let destination: IPAddress =
            isIPv6
            ? .v6(IPv6Address(high: 0xfd00_0244_0000_0000 | UInt64(peer), low: UInt64(flow / routes % 200 + 2)))
            : .v4(IPv4Address(10, UInt8(peer >> 8 & 127), UInt8(peer & 255), UInt8(flow / routes % 200 + 2)))
          return Packets.udp(
            isIPv6 ? .v6(BenchNode.podAddress6) : .v4(BenchNode.podAddress), destination,
            ports: (UInt16(1024 + flow % 60000), 53), size: 64,
            sourceMAC: addressing.podMAC, destinationMAC: PodAttachment.hostMAC)
        }
      }, batch: batch)
    let lane = node.path.lanes[0]
    let rounds = max(flows / batch + 1, 500)
    func window() -> Double {
      var total: UInt64 = 0
      for _ in 0..<rounds {
        node.pod.refill()
        let start = nanoseconds()
        _ = lane.poll(node.podIndex, at: .at(1_000_000_000))
        total += nanoseconds() - start
      }
      return Double(total) / Double(rounds * batch)
    }
    _ = window()
    let before = node.underlaySink.statistics.sentFrames
    let times = (0..<windows).map { _ in window() }.sorted()
    let sent = node.underlaySink.statistics.sentFrames - before
    precondition(
      sent == UInt64(windows * rounds * batch),
      "packets were lost: \(sent) of \(windows * rounds * batch); \(lane.withPipeline { $0.dropCounts(ports: 4) })")
    return Result(name: name, flows: flows, nsMin: times[0], nsMedian: times[windows / 2])
  }

  static func nanoseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }
}
