import Addresses
import Lab

/// What Open vSwitch forwards with: its data path in user space, without DPDK.
enum OpenVSwitchPort {
  /// AF_PACKET.
  case packet
  /// AF_XDP, with a thread that polls.
  case xdp
}

/// A node on which Open vSwitch carries pods' packets in user space: a bridge with the underlay's device and the node's
/// address, and one with the pod's device and a tunnel to the other node.
struct OpenVSwitchNode {
  let namespace: Namespace
  /// Where its database and sockets are.
  let folder: String
  let daemons: [Child]

  private static let schema = "/usr/share/openvswitch/vswitch.ovsschema"

  /// Whether this machine has what it takes.
  static var isInstalled: Bool { Lab.has(["ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl"]) }

  /// Starts the two daemons. `processor` is the one that polls for AF_XDP.
  init(_ namespace: Namespace, _ port: OpenVSwitchPort, processor: Int) throws {
    self.namespace = namespace
    folder = "\(try namespace.lab.directory())/\(namespace.name)"
    try namespace.run("mkdir", folder).check()
    let environment = ["env"] + ["RUN", "DB", "LOG", "SYSCONF"].map { [folder] in "OVS_\($0)DIR=\(folder)" }
    try namespace.run("ovsdb-tool", "create", "\(folder)/conf.db", OpenVSwitchNode.schema).check()
    let server = try namespace.spawn(
      environment + [
        "ovsdb-server", "\(folder)/conf.db", "--remote=punix:\(folder)/db.sock", "--unixctl=\(folder)/ovsdb.ctl",
      ], log: "\(folder)/ovsdb.log")
    let control = OpenVSwitchNode.control(folder)
    try waitUntil("Open vSwitch's database", timeout: .seconds(5), every: .milliseconds(50)) {
      try namespace.run(control + ["--no-wait", "init"]).isSuccess
    }
    if case .xdp = port {
      try namespace.run(
        control + [
          "--no-wait", "set", "Open_vSwitch", ".", "other_config:pmd-cpu-mask=0x\(String(1 << processor, radix: 16))",
        ]
      ).check()
    }
    let vswitch = try namespace.spawn(
      environment + ["ovs-vswitchd", "unix:\(folder)/db.sock", "--unixctl=\(folder)/vswitchd.ctl"],
      log: "\(folder)/vswitchd.log")
    daemons = [server, vswitch]
  }

  private static func control(_ folder: String) -> [String] {
    ["ovs-vsctl", "--timeout=20", "--db=unix:\(folder)/db.sock"]
  }

  /// Makes both bridges. The underlay's address moves to the first, as Open vSwitch wants it where it makes the outer
  /// headers itself.
  func connect(
    _ port: OpenVSwitchPort, underlay: String, mac: MACAddress, local: String, remote: String, pod: String,
    tunnel: String
  ) throws {
    var kind: (String) -> [String] = { _ in [] }
    if case .xdp = port { kind = { ["--", "set", "interface", $0, "type=afxdp", "options:xdp-mode=best-effort"] } }
    let control = OpenVSwitchNode.control(folder)
    try namespace.run(
      control + [
        "add-br", "outside", "--", "set", "bridge", "outside", "datapath_type=netdev", "other-config:hwaddr=\(mac)",
        "fail-mode=standalone",
      ]
    ).check()
    try namespace.ip("addr flush dev \(underlay)")
    try namespace.run(control + ["add-port", "outside", underlay] + kind(underlay)).check()
    try namespace.ip("addr add \(local)/24 dev outside", "link set outside up")
    try namespace.run(
      control + ["add-br", "inside", "--", "set", "bridge", "inside", "datapath_type=netdev", "fail-mode=standalone"]
    ).check()
    try namespace.run(control + ["add-port", "inside", pod] + kind(pod)).check()
    try namespace.run(
      control + [
        "add-port", "inside", "tun0", "--", "set", "interface", "tun0", "type=\(tunnel)",
        "options:remote_ip=\(remote)", "options:local_ip=\(local)",
      ]
    ).check()
  }
}

extension LiveKind {
  /// Two nodes with Open vSwitch; the pods are in one segment, as a bridge has them.
  static func makeOpenVSwitch(_ name: String, _ port: OpenVSwitchPort, _ tunnel: String) throws -> LiveSubject {
    let lab = try Lab(name: "live-\(name)")
    let nodes = [try lab.namespace("a"), try lab.namespace("b")]
    let pods = [try lab.namespace("pod-a"), try lab.namespace("pod-b")]
    let macs = ["a", "b"].map { MACAddress(derivedFrom: "\(name)-\($0)") }
    try lab.veth(Endpoint(nodes[0], "eth0", mac: macs[0]), Endpoint(nodes[1], "eth0", mac: macs[1]))
    // VXLAN takes 50 octets; GRE with Ethernet inside 38.
    let mtu = tunnel == "vxlan" ? 1450 : 1462
    var daemons: [Child] = []
    for number in 0...1 {
      try lab.veth(
        Endpoint(nodes[number], "pod0"),
        Endpoint(pods[number], "eth0", mtu: mtu, addresses: ["10.244.\(number).2/16"]))
      // It sees frames as they are on the wire only.
      try pods[number].setOffloads(false, of: "eth0")
      try nodes[number].setOffloads(false, of: "eth0")
      let node = try OpenVSwitchNode(nodes[number], port, processor: number % Processors.count)
      try node.connect(
        port, underlay: "eth0", mac: macs[number], local: "10.0.0.\(number + 1)", remote: "10.0.0.\(2 - number)",
        pod: "pod0", tunnel: tunnel)
      daemons += node.daemons
    }
    return LiveSubject(
      name, lab, pods: (0...1).map { (pods[$0], IPv4Address(10, 244, UInt8($0), 2)) }, daemons: daemons)
  }
}
