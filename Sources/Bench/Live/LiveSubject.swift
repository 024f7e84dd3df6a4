import Addresses
import CLinux
import Dataplane
import Glibc
import Lab
import Ports

/// Two pods and what carries packets between them.
final class LiveSubject {
  let name: String
  let lab: Lab
  /// The pods, with their IPv4 addresses.
  let pods: [(namespace: Namespace, address: IPv4Address)]
  /// Where programs of the first pod reach the second, by TCP and by UDP: its own address, or services'.
  let targets: (tcp: IPv4Address, udp: IPv4Address)
  /// The programs that move packets; none where the kernel does.
  let daemons: [Child]
  private let forwarder: PortForwarder?
  private var steered: SteeredPorts?

  init(
    _ name: String, _ lab: Lab, pods: [(namespace: Namespace, address: IPv4Address)],
    targets: (tcp: IPv4Address, udp: IPv4Address)? = nil, daemons: [Child] = [], forwarder: PortForwarder? = nil,
    steered: SteeredPorts? = nil
  ) {
    self.name = name
    self.lab = lab
    self.pods = pods
    self.targets = targets ?? (pods[1].address, pods[1].address)
    self.daemons = daemons
    self.forwarder = forwarder
    self.steered = steered
  }

  /// Stops the daemons while others are measured: one that polls takes a processor from all of them, and what others do
  /// when nothing happens is little, but not nothing.
  func rest() { for daemon in daemons { daemon.signal(SIGSTOP) } }

  /// Has the daemons go on.
  func resume() { for daemon in daemons { daemon.signal(SIGCONT) } }

  /// Takes everything away.
  func tearDown() {
    resume()
    forwarder?.stop()
    steered = nil
    lab.cleanUp()
  }
}

/// What packets can be carried by.
enum LiveKind: Equatable {
  /// The pods on one veth pair: the least that there is.
  case veth
  /// The kernel routes; `tunnel` is a link type of ip(8), nil: none. To services: by kube-proxy's rules for nftables.
  case kernel(tunnel: String?, toServices: Bool = false)
  /// Kalsae's agents; `attachment` is how the pods are attached, `settings` what the nodes' configuration says.
  case kalsae(Cluster.Mode, Cluster.Attachment, settings: [String] = [], toServices: Bool = false)
  /// Kalsae on the first node, the kernel's VXLAN on the second: `out` is wrapped here, `back` unwrapped.
  case kalsaeToKernel(settings: [String])
  /// Two ports with a thread between them that only forwards.
  case ports(PortKind)
  /// Open vSwitch in user space; `tunnel` is its type of interface.
  case openVSwitch(OpenVSwitchPort, tunnel: String)

  enum PortKind {
    /// AF_PACKET, with super-frames in the socket's queue, as agents have it; or in the ring.
    case packetQueue, packetRing
    case tap
    case xdp
  }

  /// What `kalsae bench ports` measures, by name.
  static let ports: [(name: String, kind: LiveKind)] = [
    ("veth", .veth), ("kernel-route", .kernel(tunnel: nil)), ("packet-queue", .ports(.packetQueue)),
    ("packet-ring", .ports(.packetRing)), ("tap", .ports(.tap)), ("xdp", .ports(.xdp)),
  ]

  /// All that `kalsae bench live` knows, by name, in the order of the table.
  static let all: [(name: String, kind: LiveKind)] =
    [
      ("veth", .veth), ("kernel-route", .kernel(tunnel: nil)), ("kernel-vxlan", .kernel(tunnel: "vxlan")),
      ("kernel-ipip", .kernel(tunnel: "ipip")), ("kernel-gre", .kernel(tunnel: "gre")),
    ]
    + [Cluster.Mode.direct, .vxlan, .ipip, .gre, .geneve].map {
      ("kalsae-\($0.rawValue)", .kalsae($0, .veth, settings: userSpace))
    }
    + [Cluster.Mode.direct, .vxlan, .ipip, .gre, .geneve].map {
      ("kalsae-\($0.rawValue)-ebpf", .kalsae($0, .veth, settings: offloading))
    } + [
      ("kalsae-kernel-vxlan", .kalsaeToKernel(settings: userSpace)),
      ("kalsae-kernel-vxlan-ebpf", .kalsaeToKernel(settings: offloading)),
      ("kalsae-vxlan-tap", .kalsae(.vxlan, .tap)),
      ("kalsae-vxlan-cut", .kalsae(.vxlan, .veth, settings: ["tunnelOffload: false"] + userSpace)),
      ("kalsae-vxlan-xdp", .kalsae(.vxlan, .veth, settings: ["ports: af_xdp"] + userSpace)),
      ("kalsae-vxlan-xdp-poll", .kalsae(.vxlan, .veth, settings: ["ports: af_xdp", polling] + userSpace)),
      ("kalsae-vxlan-workers", .kalsae(.vxlan, .veth, settings: ["workers: 2"] + userSpace)),
      ("kalsae-vxlan-poll", .kalsae(.vxlan, .veth, settings: [polling] + userSpace)),
      ("service-nftables", .kernel(tunnel: "vxlan", toServices: true)),
      ("service-kalsae", .kalsae(.vxlan, .veth, settings: userSpace, toServices: true)),
      ("service-kalsae-ebpf", .kalsae(.vxlan, .veth, settings: offloading, toServices: true)),
      ("ovs-vxlan", .openVSwitch(.packet, tunnel: "vxlan")), ("ovs-gre", .openVSwitch(.packet, tunnel: "gre")),
      ("ovs-vxlan-afxdp", .openVSwitch(.xdp, tunnel: "vxlan")),
    ]

  private static let polling = "busyPoll: true"
  /// Every packet is carried by the agent.
  private static let userSpace = ["ebpf: 'off'"]
  /// Established flows are carried in the kernel.
  private static let offloading = ["ebpf: required", "ebpfHooks: [overlay]"]

  /// What is measured where nothing is chosen.
  static let usual =
    [
      "veth", "kernel-route", "kernel-vxlan", "kalsae-direct", "kalsae-direct-ebpf", "kalsae-vxlan",
      "kalsae-vxlan-ebpf", "kalsae-vxlan-xdp", "kalsae-ipip", "kalsae-ipip-ebpf", "kalsae-gre", "kalsae-gre-ebpf",
      "service-nftables", "service-kalsae", "service-kalsae-ebpf",
    ] + (OpenVSwitchNode.isInstalled ? ["ovs-vxlan", "ovs-gre", "ovs-vxlan-afxdp"] : [])

  func make(_ name: String, program: String) throws -> LiveSubject {
    switch self {
    case .veth: try LiveKind.makeVeth(name)
    case .kalsaeToKernel(let settings): try LiveKind.makeKalsaeToKernel(name, program, settings)
    case .ports(let kind): try LiveKind.makePorts(name, kind)
    case .kernel(let tunnel, let toServices): try LiveKind.makeKernel(name, tunnel, toServices)
    case .openVSwitch(let port, let tunnel): try LiveKind.makeOpenVSwitch(name, port, tunnel)
    case .kalsae(let mode, let attachment, let settings, let toServices):
      try LiveKind.makeKalsae(name, program, mode, attachment, settings, toServices)
    }
  }

  private static func makeVeth(_ name: String) throws -> LiveSubject {
    let lab = try Lab(name: "live-\(name)")
    let (a, b) = (try lab.namespace("a"), try lab.namespace("b"))
    try lab.veth(Endpoint(a, "eth0", addresses: ["10.244.0.2/16"]), Endpoint(b, "eth0", addresses: ["10.244.1.2/16"]))
    return LiveSubject(
      name, lab, pods: [(a, IPv4Address(10, 244, 0, 2)), (b, IPv4Address(10, 244, 1, 2))])
  }

  private static func makeKalsaeToKernel(
    _ name: String, _ program: String, _ settings: [String]
  ) throws -> LiveSubject {
    let lab = try Lab(name: "live-\(name)")
    let cluster = try Cluster(lab: lab, program: program, plans: [.init("a", pods: [.veth]), .foreign("b")])
    let (near, far) = (cluster.nodes[0], cluster.nodes[1])
    if !settings.isEmpty { try cluster.configureNodes(settings) }
    let agents = try cluster.start()
    try cluster.setMode(.vxlan)
    let pod = try lab.namespace("pod-b")
    let address = IPv4Address(10, 244, 1, 2)
    try far.namespace.setForwarding(true)
    try lab.veth(
      Endpoint(far.namespace, "pod0", addresses: ["169.254.1.1/32"]),
      Endpoint(pod, "eth0", mtu: 1450, addresses: ["\(address)/32"]))
    try pod.ip("route add 169.254.1.1 dev eth0", "route add default via 169.254.1.1 dev eth0")
    let mac = MACAddress(derivedFrom: near.name)
    try far.namespace.ip(
      "route add \(address) dev pod0",
      "link add vxlan0 address \(MACAddress(derivedFrom: far.name)) type vxlan id 4096 dstport 4789 local \(far.ipv4) "
        + "dev eth0 nolearning", "link set vxlan0 mtu 1450 up",
      "neigh add 10.244.0.0 lladdr \(mac) dev vxlan0 nud permanent",
      "route add \(near.block4) via 10.244.0.0 dev vxlan0 onlink")
    try far.namespace.run("bridge", "fdb", "append", "\(mac)", "dev", "vxlan0", "dst", "\(near.ipv4)").check()
    return LiveSubject(
      name, lab, pods: [(near.pods[0].namespace, near.pods[0].ipv4), (pod, address)], daemons: agents)
  }

  /// `a` and `b`, and the ports to them in `f`.
  private static func makePorts(_ name: String, _ kind: PortKind) throws -> LiveSubject {
    let lab = try Lab(name: "live-\(name)")
    let pods = [try lab.namespace("a"), try lab.namespace("b")]
    let addresses = [IPv4Address(10, 244, 0, 2), IPv4Address(10, 244, 1, 2)]
    var ports: [any Port] = []
    var steered: SteeredPorts?
    if case .tap = kind {
      for (pod, address) in zip(pods, addresses) {
        var options = TAPPort.Options()
        options.namespace = pod.path
        ports.append(try TAPPort(name: "eth0", options: options))
        try pod.addAddress("\(address)/16", to: "eth0")
      }
    } else {
      let middle = try lab.namespace("f")
      try middle.sysctl("net/ipv6/conf/default/disable_ipv6", "1")
      var options = AFPacketPort.Options.pod
      options.namespace = middle.path
      if case .packetRing = kind { options.superFrames = .ring }
      steered = kind == .xdp ? try SteeredPorts(middle) : nil
      for (number, pod) in pods.enumerated() {
        try lab.veth(Endpoint(pod, "eth0", addresses: ["\(addresses[number])/16"]), Endpoint(middle, "f\(number)"))
        ports.append(try steered?.open("f\(number)") ?? AFPacketPort(interface: "f\(number)", options: options))
      }
    }
    return LiveSubject(
      name, lab, pods: Array(zip(pods, addresses)).map { ($0.0, $0.1) },
      forwarder: try PortForwarder(ports[0], ports[1]), steered: steered)
  }

  /// Two nodes that forward, a pod on each, as a simple CNI plugin sets them up.
  private static func makeKernel(_ name: String, _ tunnel: String?, _ toServices: Bool) throws -> LiveSubject {
    let lab = try Lab(name: "live-\(name)")
    let nodes = [try lab.namespace("a"), try lab.namespace("b")]
    let pods = [try lab.namespace("pod-a"), try lab.namespace("pod-b")]
    try lab.veth(
      Endpoint(nodes[0], "eth0", addresses: ["10.0.0.1/24"]), Endpoint(nodes[1], "eth0", addresses: ["10.0.0.2/24"]))
    for number in 0...1 {
      let (own, other) = (nodes[number], 1 - number)
      try own.setForwarding(true)
      try lab.veth(
        Endpoint(own, "pod0", addresses: ["169.254.1.1/32"]),
        Endpoint(pods[number], "eth0", addresses: ["10.244.\(number).2/32"]))
      try pods[number].ip("route add 169.254.1.1 dev eth0", "route add default via 169.254.1.1 dev eth0")
      try own.ip("route add 10.244.\(number).2 dev pod0")
      let (local, remote) = ("10.0.0.\(number + 1)", "10.0.0.\(other + 1)")
      var overhead = 0
      switch tunnel {
      case nil: try own.ip("route add 10.244.\(other).0/24 via \(remote)")
      case "vxlan":
        // As flannel does it: the other node's device is a neighbour with a known address.
        try own.ip(
          "link add tun0 address 02:88:00:00:00:0\(number + 1) type vxlan id 1 dev eth0 local \(local) dstport 4789 "
            + "nolearning", "link set tun0 mtu 1450 up", "addr add 10.244.\(number).0/32 dev tun0",
          "neigh add 10.244.\(other).0 lladdr 02:88:00:00:00:0\(other + 1) dev tun0 nud permanent",
          "route add 10.244.\(other).0/24 via 10.244.\(other).0 dev tun0 onlink")
        try own.run(
          "bridge", "fdb", "append", "02:88:00:00:00:0\(other + 1)", "dev", "tun0", "dst", remote
        ).check()
        overhead = 50
      case let kind?:
        try own.ip(
          "link add tun1 type \(kind) local \(local) remote \(remote)", "link set tun1 up",
          "route add 10.244.\(other).0/24 dev tun1")
        overhead = kind == "gre" ? 24 : 20
      }
      try pods[number].setMTU(1500 - overhead, of: "eth0")
    }
    let addresses = (0...1).map { IPv4Address(10, 244, $0, 2) }
    if toServices {
      var rules = KubeProxyRules()
      for (address, transport, port) in [
        (services.tcp, "tcp", LiveSubject.streamPort), (services.udp, "udp", LiveSubject.port),
      ] {
        rules.add(address, transport, port, to: [addresses[1]], targetPort: port, chains: "s")
      }
      try nodes[0].run("nft", "-f", "-", input: rules.text).check()
    }
    return LiveSubject(
      name, lab, pods: (0...1).map { (pods[$0], addresses[$0]) }, targets: toServices ? services : nil)
  }

  /// The addresses of the services with the second pod as their endpoint.
  private static let services = (tcp: IPv4Address(10, 96, 0, 10), udp: IPv4Address(10, 96, 0, 11))

  private static func makeKalsae(
    _ name: String, _ program: String, _ mode: Cluster.Mode, _ attachment: Cluster.Attachment, _ settings: [String],
    _ toServices: Bool
  ) throws -> LiveSubject {
    let lab = try Lab(name: "live-\(name)")
    let cluster = try Cluster(
      lab: lab, program: program, plans: [.init("a", pods: [attachment]), .init("b", pods: [attachment])])
    if !settings.isEmpty { try cluster.configureNodes(settings) }
    if toServices {
      for (address, transport, port) in [
        (services.tcp, "TCP", LiveSubject.streamPort), (services.udp, "UDP", LiveSubject.port),
      ] {
        var plan = Cluster.ServicePlan(transport.lowercased(), [.v4(address)], [cluster.pods[1]])
        plan.transport = transport
        plan.port = port
        plan.targetPort = port
        try cluster.write(plan)
      }
    }
    let agents = try cluster.start()
    if settings.contains(polling) {
      // Two that never sleep must not share a processor.
      for (number, agent) in agents.enumerated() {
        _ = kalsae_process_pin(agent.pid, Int32(number % Processors.count))
      }
    }
    try cluster.setMode(mode)
    return LiveSubject(
      name, lab, pods: cluster.pods.map { ($0.namespace, $0.ipv4) }, targets: toServices ? services : nil,
      daemons: agents)
  }
}
