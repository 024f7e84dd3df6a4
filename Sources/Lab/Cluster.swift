import Addresses
import Glibc

/// Nodes on one wire, with pods, manifests and an agent each: what the demo shows and the live tests test.
///
/// The manifests lie in one directory that all agents read; a change of it is a change of the cluster.
public final class Cluster: Sendable {
  /// How pods' packets get from node to node.
  public enum Mode: String, Sendable, CaseIterable {
    case direct, ipip, vxlan, gre, geneve

    /// The field of an IPPool's spec.
    var field: String? { self == .direct ? nil : "\(rawValue)Mode" }

    /// The octets that it takes from the underlay's MTU, over IPv4.
    public var overhead: Int {
      switch self {
      case .direct: 0
      case .ipip: 20
      case .gre: 24
      case .vxlan, .geneve: 50
      }
    }
  }

  public enum Attachment: String, Sendable {
    case veth, tap
  }

  /// What a node is to be.
  public struct NodePlan: Sendable {
    public var name: String
    public var pods: [Attachment]
    /// Whether Kalsae runs on it.
    public var runsAgent: Bool
    /// Whether its namespace has the node's address.
    public var hasAddress: Bool

    public init(_ name: String, pods: [Attachment] = [.veth, .tap]) {
      self.name = name
      self.pods = pods
      runsAgent = true
      hasAddress = true
    }

    /// A node where other software than Kalsae does the work. `hasAddress`: it runs in the node's namespace; else behind
    /// it, on a machine of its own.
    public static func foreign(_ name: String, hasAddress: Bool = true) -> NodePlan {
      var plan = NodePlan(name, pods: [])
      plan.runsAgent = false
      plan.hasAddress = hasAddress
      return plan
    }
  }

  public struct Pod: Sendable {
    /// The pod's name and that of its manifest.
    public let name: String
    public let node: String
    public let namespace: Namespace
    public let attachment: Attachment
    /// The device on the node's side; nil for TAP.
    public let interface: String?
    public let ipv4: IPv4Address
    public let ipv6: IPv6Address
    public var mac: MACAddress { MACAddress(pod: .v4(ipv4)) }

    public func address(_ family: IPFamily) -> IPAddress { family == .ipv4 ? .v4(ipv4) : .v6(ipv6) }
  }

  public struct Node: Sendable {
    public let name: String
    public let namespace: Namespace
    public let ipv4: IPv4Address
    public let ipv6: IPv6Address
    public let block4: IPPrefix
    public let block6: IPPrefix
    public let pods: [Pod]
    public let runsAgent: Bool
  }

  public static let pool4 = "10.244.0.0/16"
  public static let pool6 = "fd00:10:244::/48"
  public static let gateway4 = IPv4Address(169, 254, 1, 1)
  public static let gateway6 = IPv6Address("fe80::ecee:eeff:feee:eeee")!

  public let lab: Lab
  public let nodes: [Node]
  public var pods: [Pod] { nodes.flatMap(\.pods) }
  /// The directory of the manifests.
  public let state: String
  /// The router between the nodes, where they are in networks of their own.
  public let router: Namespace?
  /// A machine on the nodes' wire that is no node and has no route to pods and services, where one was asked for. It is
  /// the nodes' default gateway.
  public let outside: Namespace?
  public static let outside4 = IPv4Address(10, 0, 0, 100)
  public static let outside6 = IPv6Address("fd00::100")!
  private let folder: String
  private let program: String
  private let underlayMTU: Int
  private let routedMTU: Int?
  private let wantsKernel: Bool

  /// Makes namespaces, links and manifests; no agent runs yet.
  ///
  /// - Parameter program: the path of `kalsae`.
  /// - Parameter routedMTU: not nil: the nodes are in networks of their own with a router between them, and the second
  ///   node's network has this MTU.
  /// - Parameter outside: whether there is a machine on the nodes' wire that is no node.
  /// - Parameter ebpf: whether agents must have the kernel's help, with all hooks that this machine can have.
  public init(
    lab: Lab, program: String, plans: [NodePlan], underlayMTU: Int = 1500, routedMTU: Int? = nil,
    outside wantsOutside: Bool = false, ebpf wantsKernel: Bool = false
  ) throws {
    guard plans.count == 2 else { throw LabError.invalid("a cluster has two nodes here, not \(plans.count)") }
    self.lab = lab
    self.program = program
    self.underlayMTU = underlayMTU
    self.routedMTU = routedMTU
    self.wantsKernel = wantsKernel
    folder = try lab.directory()
    state = "\(folder)/state"
    guard unsafe mkdir(state, 0o755) == 0 else { throw failure("make the folder \(state)") }
    nodes = try plans.enumerated().map { number, plan in
      let namespace = try lab.namespace(plan.name)
      let pods = try plan.pods.enumerated().map { position, attachment in
        let name = "\(plan.name)\(position + 1)"
        return Pod(
          name: name, node: "node-\(plan.name)", namespace: try lab.namespace("pod-\(name)"), attachment: attachment,
          interface: attachment == .veth ? "kal\(name)" : nil,
          ipv4: IPv4Address(10, 244, UInt8(number), UInt8(2 + position)),
          ipv6: IPv6Address("fd00:10:244:\(number)::\(2 + position)")!)
      }
      return Node(
        name: "node-\(plan.name)", namespace: namespace,
        ipv4: IPv4Address(10, 0, routedMTU == nil ? 0 : UInt8(number), UInt8(number + 1)),
        ipv6: IPv6Address(routedMTU == nil ? "fd00::\(number + 1)" : "fd00:\(number)::\(number + 1)")!,
        block4: IPPrefix("10.244.\(number).0/24")!,
        block6: IPPrefix("fd00:10:244:\(number)::/64")!, pods: pods, runsAgent: plan.runsAgent)
    }
    let ends = zip(nodes, plans).map { node, plan in
      Endpoint(
        node.namespace, "eth0", mtu: underlayMTU,
        addresses: plan.hasAddress ? ["\(node.ipv4)/24", "\(node.ipv6)/64"] : [])
    }
    if wantsOutside {
      guard routedMTU == nil else { throw LabError.invalid("either a router or a machine outside") }
      let (outside, wire) = (try lab.namespace("outside"), try lab.namespace("wire"))
      let third = Endpoint(
        outside, "eth0", mtu: underlayMTU, addresses: ["\(Self.outside4)/24", "\(Self.outside6)/64"])
      for (end, port) in zip(ends + [third], ["port-a", "port-b", "port-o"]) {
        try lab.veth(end, Endpoint(wire, port, mtu: underlayMTU))
      }
      try lab.bridge(Endpoint(wire, "br0", mtu: underlayMTU), ports: ["port-a", "port-b", "port-o"])
      for node in nodes {
        try node.namespace.addRoute("default via \(Self.outside4)")
        try node.namespace.addRoute("::/0 via \(Self.outside6)")
      }
      self.outside = outside
      router = nil
    } else if let routedMTU {
      outside = nil
      let router = try lab.namespace("router")
      self.router = router
      try router.setForwarding(true)
      for (number, end) in ends.enumerated() {
        var near = end
        if number == 1 { near.mtu = routedMTU }
        try lab.veth(
          near,
          Endpoint(
            router, "eth\(number)", mtu: near.mtu, addresses: ["10.0.\(number).254/24", "fd00:\(number)::fe/64"]))
        try end.namespace.addRoute("default via 10.0.\(number).254")
        try end.namespace.addRoute("::/0 via fd00:\(number)::fe")
      }
    } else {
      (router, outside) = (nil, nil)
      try lab.veth(ends[0], ends[1])
    }
    for node in nodes {
      for pod in node.pods where pod.attachment == .veth {
        try lab.veth(
          Endpoint(node.namespace, pod.interface!, mac: MACAddress("ee:ee:ee:ee:ee:ee")),
          Endpoint(pod.namespace, "eth0", mac: pod.mac))
        try configure(pod)
      }
    }
    try writeNodes()
    for pod in pods { try write("pod-\(pod.name).yaml", manifest(of: pod)) }
    try writePools(.direct, .direct)
  }

  /// Gives a pod's device its addresses and routes, as a CNI plugin would (NODE-1).
  public func configure(_ pod: Pod) throws {
    try pod.namespace.ip(
      "link set eth0 up", "addr replace \(pod.ipv4)/32 dev eth0", "addr replace \(pod.ipv6)/128 dev eth0 nodad",
      "route replace \(Self.gateway4) dev eth0 scope link", "route replace default via \(Self.gateway4) dev eth0",
      "route replace ::/0 via \(Self.gateway6) dev eth0")
  }

  // MARK: Manifests

  /// Writes a file of the state as careful tools do: whole, under another name, then renamed.
  public func write(_ name: String, _ text: String) throws {
    let path = "\(state)/\(name)"
    let hidden = "\(state)/.\(name).new"
    try Files.write(text, to: try Files.create(hidden), hidden)
    guard unsafe rename(hidden, path) == 0 else { throw failure("rename \(hidden)") }
  }

  public func remove(_ name: String) throws {
    guard unsafe unlink("\(state)/\(name)") == 0 else { throw failure("remove \(state)/\(name)") }
  }

  private func writeNodes() throws {
    for node in nodes {
      try write(
        "\(node.name).yaml",
        """
        apiVersion: v1
        kind: Node
        metadata:
          name: \(node.name)
          annotations:
            projectcalico.org/IPv4Address: \(node.ipv4)/24
            projectcalico.org/IPv6Address: \(node.ipv6)/64
        spec:
          podCIDR: \(node.block4)
          podCIDRs: ["\(node.block4)", "\(node.block6)"]
        status:
          addresses:
            - {type: InternalIP, address: \(node.ipv4)}
            - {type: InternalIP, address: "\(node.ipv6)"}

        """)
    }
  }

  /// Writes the NodeConfiguration of all nodes: lines of its spec.
  public func configureNodes(_ lines: String...) throws { try configureNodes(lines) }

  /// Writes the NodeConfiguration of all nodes; see `configureNodes(_:)`.
  public func configureNodes(_ lines: [String]) throws {
    var lines = lines
    if wantsKernel {
      lines.append("ebpf: required")
      // Without control groups no hook is for sockets.
      if Lab.controlGroupRoot == nil { lines.append("ebpfHooks: [overlay]") }
    }
    let spec = lines.map { "  \($0)\n" }.joined()
    try write(
      "configuration.yaml",
      "apiVersion: kalsae.io/v1alpha1\nkind: NodeConfiguration\nmetadata:\n  name: default\nspec:\n\(spec)")
  }

  public func manifest(of pod: Pod) -> String {
    let annotations =
      pod.attachment == .veth
      ? "kalsae.io/interface: \(pod.interface!)"
      : "kalsae.io/interface-type: tap\n    kalsae.io/netns: \(pod.namespace.path)"
    return """
      apiVersion: v1
      kind: Pod
      metadata:
        name: \(pod.name)
        namespace: demo
        annotations:
          \(annotations)
      spec:
        nodeName: \(pod.node)
        containers: [{name: main, image: none}]
      status:
        phase: Running
        podIP: \(pod.ipv4)
        podIPs: [{ip: \(pod.ipv4)}, {ip: "\(pod.ipv6)"}]

      """
  }

  /// Writes the pools; see `setMode`, which also waits until the agents follow.
  ///
  /// - Parameter natOutgoing: whether pods are masqueraded on their way out of all pools (NODE-8).
  public func writePools(
    _ mode4: Mode, _ mode6: Mode, when: String = "Always", natOutgoing: Bool = false
  ) throws {
    func pool(_ name: String, _ cidr: String, _ mode: Mode) -> String {
      """
      apiVersion: projectcalico.org/v3
      kind: IPPool
      metadata:
        name: \(name)
      spec:
        cidr: "\(cidr)"
      \(natOutgoing ? "  natOutgoing: true\n" : "")\(mode.field.map { "  \($0): \(when)\n" } ?? "")
      """
    }
    try write("pools.yaml", pool("pods-ipv4", Self.pool4, mode4) + "---\n" + pool("pods-ipv6", Self.pool6, mode6))
  }

  // MARK: Agents

  public func socket(of node: Node) -> String { "\(folder)/\(node.name).sock" }
  public func log(of node: Node) -> String { "\(folder)/\(node.name).log" }

  /// What the agent of a node has logged.
  public func logText(of node: Node) -> String { (try? Files.read(log(of: node))) ?? "" }

  /// Starts the agent of a node; `waitUntilReady` waits for it.
  public func startAgent(of node: Node) throws -> Child {
    let command = [
      program, "run", "--state", state, "--node", node.name, "--socket", socket(of: node), "--data", data(of: node),
    ]
    if !wantsKernel { return try node.namespace.spawn(command, log: log(of: node)) }
    // Programs in a namespace of their own have a /sys of their own as well, without control groups and what is pinned.
    return try lab.spawn(["nsenter", "--net=\(node.namespace.path)"] + command, log: log(of: node))
  }

  /// What outlives a node's agent.
  public func data(of node: Node) -> String { "\(folder)/\(node.name).data" }

  /// Starts and ends containers' networks on a node by the plugin, as a container runtime does.
  public func runtime(of node: Node, plugin: String) -> PluginRuntime {
    PluginRuntime(
      node: node, plugin: plugin, socket: "\(folder)/\(node.name).cni", dataDirectory: data(of: node),
      addresses: "\(folder)/\(node.name).addresses")
  }

  /// Starts all agents, waits until they are ready, and gives TAP pods their addresses.
  @discardableResult
  public func start() throws -> [Child] {
    let agents = try nodes.filter(\.runsAgent).map { (node: $0, child: try startAgent(of: $0)) }
    for agent in agents { try waitUntilReady(agent.node, agent.child) }
    for pod in pods where pod.attachment == .tap { try configure(pod) }
    return agents.map(\.child)
  }

  /// Waits until an agent answers and has attached all pods of its node.
  public func waitUntilReady(_ node: Node, _ child: Child) throws {
    try waitUntil("agent of \(node.name) to be ready", timeout: .seconds(30), every: .milliseconds(50)) {
      if let status = child.status {
        throw LabError.failed(command: child.command, status: status, output: trimmed(logText(of: node)))
      }
      guard let text = try? ask("status", node) else { return false }
      // Containers may be there besides.
      return number("attachedPods", in: text) ?? -1 >= node.pods.count
    }
  }

  /// What `kalsae get` prints as JSON.
  public func ask(_ topic: String, _ node: Node) throws -> String {
    let command = topic == "drops" || topic == "flows" ? [program, topic] : [program, "get", topic]
    return try lab.run(command + ["-o", "json", "--socket", socket(of: node)], timeout: .seconds(20)).standardOutput
  }

  /// The value of a numeric field in compact JSON.
  func number(_ field: String, in json: String) -> Int? {
    guard let start = json.firstRange(of: "\"\(field)\":")?.upperBound else { return nil }
    return Int(json[start...].prefix { $0.isNumber })
  }

  /// The MTU that pods get in a mode (NODE-6).
  public func podMTU(_ mode: Mode) -> Int { underlayMTU - mode.overhead }

  /// Changes the pools, waits until the agents follow, and gives pods' devices the MTU that fits.
  ///
  /// - Parameter when: `Always` or `CrossSubnet`.
  /// - Parameter extraOverhead: what tunnels take beyond the usual, as the nodes' configuration has it.
  public func setMode(
    _ mode4: Mode, ipv6 mode6: Mode = .direct, when: String = "Always", extraOverhead: Int = 0,
    natOutgoing: Bool = false
  ) throws {
    try writePools(mode4, mode6, when: when, natOutgoing: natOutgoing)
    let modes = Set([mode4, mode6]).subtracting([.direct]).map { "\"\($0.rawValue)\"" }
    for node in nodes where node.runsAgent {
      let mtu = min(podMTU(mode4), podMTU(mode6)) - (underlayMTU - mtuOfUnderlay(node)) - extraOverhead
      try waitUntil("agent of \(node.name) to follow the pools", timeout: .seconds(10), every: .milliseconds(30)) {
        let text = try ask("status", node)
        guard let start = text.firstRange(of: "\"encapsulations\":[")?.upperBound else { return false }
        let found = Set(text[start...].prefix { $0 != "]" }.split(separator: ",").map(String.init))
        return found == Set(modes) && number("podMTU", in: text) == mtu
      }
      for pod in node.pods { try setMTU(mtu, of: pod) }
    }
  }

  private func mtuOfUnderlay(_ node: Node) -> Int {
    node.name == nodes[1].name ? routedMTU ?? underlayMTU : underlayMTU
  }

  /// Sets the MTU of all pods' devices, and forgets what the pods have learnt about paths.
  public func setPodMTU(_ mtu: Int) throws {
    for pod in pods { try setMTU(mtu, of: pod) }
  }

  private func setMTU(_ mtu: Int, of pod: Pod) throws {
    try pod.namespace.setMTU(mtu, of: "eth0")
    try forgetPaths(of: pod)
  }

  public func forgetPaths(of pod: Pod) throws {
    for family in ["-4", "-6"] { try pod.namespace.run("ip", family, "route", "flush", "cache").check() }
  }
}
