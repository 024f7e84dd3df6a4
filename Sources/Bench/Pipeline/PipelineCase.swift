import Addresses
import Compiler
import Dataplane
import Model

/// A way through the pipeline that is measured, with the check of what comes out.
public struct PipelineCase: Sendable {
  public let name: String
  let shape: BenchNode.Shape
  let kind: Kind
  let isIPv6: Bool

  enum Kind: Sendable {
    /// A pod sends to pods of other nodes.
    case send
    /// Packets from other nodes reach the pod, in a tunnel or not.
    case receive
    /// A pod sends to services.
    case service
    /// Answers of services' endpoints reach the pod.
    case reply
    /// A pod asks for the address of its gateway.
    case arp
    /// As `service`, and every packet is the first of its flow.
    case newFlow
    /// A pod sends to services that have no endpoint.
    case reject
  }

  private init(
    _ name: String, _ kind: Kind, tunnel: IPPool.Tunnel? = nil, services: Int = 0, endpoints: Int = 10, rules: Int = 0,
    isIPv6: Bool = false
  ) {
    self.name = name
    self.kind = kind
    self.isIPv6 = isIPv6
    shape = BenchNode.Shape(tunnel: tunnel, services: services, endpoints: endpoints, rules: rules)
  }

  public static let all: [PipelineCase] = [
    PipelineCase("forward", .send),
    PipelineCase("forward6", .send, isIPv6: true),
    PipelineCase("receive", .receive),
    PipelineCase("receive6", .receive, isIPv6: true),
    PipelineCase("ipip-encap", .send, tunnel: .ipip),
    PipelineCase("ipip-decap", .receive, tunnel: .ipip),
    PipelineCase("vxlan-encap", .send, tunnel: .vxlan),
    PipelineCase("vxlan-decap", .receive, tunnel: .vxlan),
    PipelineCase("gre-encap", .send, tunnel: .gre),
    PipelineCase("gre-decap", .receive, tunnel: .gre),
    PipelineCase("geneve-encap", .send, tunnel: .geneve),
    PipelineCase("geneve-decap", .receive, tunnel: .geneve),
    PipelineCase("service", .service, services: 1000),
    PipelineCase("service-reply", .reply, services: 1000),
    PipelineCase("policy", .send, rules: 1000),
    PipelineCase("service+vxlan", .service, tunnel: .vxlan, services: 1000),
    PipelineCase("service+policy+vxlan", .service, tunnel: .vxlan, services: 1000, rules: 1000),
    PipelineCase("vxlan-decap+policy", .receive, tunnel: .vxlan, rules: 1000),
    PipelineCase("arp-reply", .arp),
    PipelineCase("new-flow-service", .newFlow, services: 1000),
    PipelineCase("new-flow", .newFlow, services: 1000, rules: 1000),
    PipelineCase("reject", .reject, services: 1000, endpoints: 0),
  ]

  /// The packets of `flows` flows, in frames of `size` octets before any tunnel. Not for `reply`, whose packets are the
  /// answers to others. `share`: which of
  /// all flows they are.
  func packets(_ node: BenchNode, flows: Int, size: Int, _ share: Share) -> PacketSet {
    func number(_ flow: Int) -> Int { flow * share.count + share.number }
    return packets(node, flows: flows, size: size, number)
  }

  private func packets(_ node: BenchNode, flows: Int, size: Int, _ number: (Int) -> Int) -> PacketSet {
    switch kind {
    case .arp: PacketSet(count: 1) { _ in Packets.arpRequest(from: node) }
    case .send:
      PacketSet(count: flows) {
        let flow = number($0)
        return Packets.udp(
          pod(isIPv6), remote(flow), ports: ports(flow), size: size, sourceMAC: node.podMAC,
          destinationMAC: PodAttachment.hostMAC)
      }
    case .service, .newFlow, .reject, .reply:
      PacketSet(count: flows) {
        let flow = number($0)
        return Packets.udp(
          pod(false), .v4(BenchNode.clusterIP(flow % shape.services)),
          ports: (UInt16(1024 + flow / shape.services % 64_000), 53), size: size, sourceMAC: node.podMAC,
          destinationMAC: PodAttachment.hostMAC)
      }
    case .receive:
      PacketSet(count: flows) {
        let flow = number($0)
        let peer = flow % shape.peers
        let packet = Packets.udp(
          remote(flow), pod(isIPv6), ports: ports(flow), size: size, sourceMAC: MACAddress(derivedFrom: "n\(peer)"),
          destinationMAC: BenchNode.underlayMAC)
        return shape.tunnel.map { Packets.encapsulated(packet, $0, from: peer) } ?? packet
      }
    }
  }

  private func pod(_ isIPv6: Bool) -> IPAddress {
    isIPv6 ? .v6(BenchNode.podAddress6) : .v4(BenchNode.podAddress)
  }

  private func remote(_ flow: Int) -> IPAddress {
    let (peer, host) = (flow % shape.peers, flow / shape.peers)
    return isIPv6 ? .v6(BenchNode.remote6(peer, host % 250)) : .v4(BenchNode.remote(peer, host))
  }

  /// Distinct for every flow that has the same addresses.
  private func ports(_ flow: Int) -> (UInt16, UInt16) {
    (UInt16(1024 + flow % 64_000), UInt16(1 + flow / 64_000 + flow / (shape.peers * 250) % 1000))
  }
}
