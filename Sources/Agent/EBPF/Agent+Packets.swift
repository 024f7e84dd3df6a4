import Addresses
import Compiler
import Dataplane
import EBPF
import Model
import Node
import Ports

/// Keeps the kernel able to serve packets to services while no agent runs.
extension Agent {
  /// Tells the programs where everything is, and looks to it that they stand by while this agent runs.
  func settlePackets() {
    guard let packets = sockets?.balancer.packets else {
      lease = nil
      return
    }
    do throws(EBPFError) {
      // First of all: until then both would send every packet.
      if !packets.isLeased(by: lease) { lease = try packets.lease() }
      let (settings, surroundings) = dataPath.change { ($0.settings, $0.surroundings(.pods)) }
      try packets.set(
        settings, surroundings, balancedPorts(), underlay: underlay?.index,
        isDirect: compiler.settings.loadBalancerMode == .dsr)
      try packets.attach()
      clearTrouble(Agent.packetSubject)
    } catch {
      trouble(Agent.packetSubject, "\(error): without an agent nobody serves what comes by devices", level: .warning)
    }
  }

  static let packetSubject = "ebpf tc_lb"

  private func balancedPorts() -> [BalancedPort] {
    var ports: [BalancedPort] = []
    for pod in pods.values {
      guard pod.isVeth, let link = links[pod.interface],
        let description = dataPath.change({ $0.port(pod.index) })
      else { continue }
      ports.append(
        BalancedPort(
          interface: pod.interface, mac: description.mac, peer: description.peerMAC, pod: pod.index,
          isPair: link.kind == "veth" && link.peerNamespaceID != nil))
    }
    if let underlay {
      ports.append(
        BalancedPort(interface: underlay.port.interfaceIndex, mac: underlay.port.mac, pod: nil, isPair: false))
    }
    return ports
  }
}

/// What a node without an agent is made of, as the kernel shows it: its devices stand for the data plane's ports.
struct Machine {
  private let links: [KernelLink]
  private let addresses: [KernelAddress]

  init() throws(NodeError) {
    let netlink = try Netlink()
    links = try netlink.links()
    addresses = try netlink.addresses()
  }

  /// Tells the compiler what there is; returns the devices.
  func describe(to compiler: NodeCompiler, _ tables: inout Tables) -> (ports: [BalancedPort], underlay: PortIndex?) {
    compiler.setMachineAddresses(
      Set(addresses.filter { !$0.isTentative }.map(\.address).filter { !$0.isLoopback && !$0.isLinkLocal }))
    var ports: [BalancedPort] = []
    var underlay: PortIndex?
    if let link = underlayLink(compiler), let mac = link.mac {
      let port = tables.addPort(PortDescription(name: link.name, role: .underlay, mac: mac, mtu: link.mtu))
      compiler.setUnderlay(
        Underlay(
          port: port, mac: mac, mtu: link.mtu,
          addresses: addresses.filter { $0.interface == link.index && $0.scope == 0 && !$0.isTentative }
            .map { InterfaceAddress($0.address, prefix: $0.prefix) }))
      ports.append(BalancedPort(interface: link.index, mac: mac, pod: nil, isPair: false))
      underlay = port
    }
    // What the underlay is decides how large pods' packets may be.
    compiler.commit(to: &tables)
    for (key, attachment) in compiler.attachments where attachment.type == .veth {
      guard let link = links.first(where: { $0.name == attachment.interface }), let mac = link.mac else { continue }
      var description = attachment.portDescription(capabilities: [])
      description.mac = mac
      let port = tables.addPort(description)
      compiler.setPort(port, for: key)
      ports.append(BalancedPort(interface: link.index, mac: mac, pod: port, isPair: false))
    }
    compiler.commit(to: &tables)
    return (ports, underlay)
  }

  /// The device that the settings name, else the one with the node's address.
  private func underlayLink(_ compiler: NodeCompiler) -> KernelLink? {
    if let name = compiler.settings.underlayInterface { return links.first { $0.name == name } }
    let own = IPFamily.allCases.compactMap { compiler.ownNode?.address($0) }
    return addresses.first { own.contains($0.address) }.flatMap { found in
      links.first { $0.index == found.interface && !$0.isLoopback }
    }
  }
}
