import Addresses
import Glibc
import Lab
import Testing

/// A lab with a cluster in it.
struct TestCluster {
  let lab: Lab
  let cluster: Cluster
  var a: Cluster.Node { cluster.nodes[0] }
  var b: Cluster.Node { cluster.nodes[1] }

  /// `offload`: whether nodes' devices on the wire carry super-frames and partial checksums, as veth pairs do. Without,
  /// the wire is as between machines: what a capture of it holds is finished.
  init(
    _ name: String, _ plans: [Cluster.NodePlan] = [.init("a"), .init("b")], underlayMTU: Int = 1500,
    routedMTU: Int? = nil, outside: Bool = false, offload: Bool = false
  ) throws {
    lab = try Lab(name: name)
    cluster = try Cluster(
      lab: lab, program: try builtProgram("kalsae"), plans: plans, underlayMTU: underlayMTU, routedMTU: routedMTU,
      outside: outside)
    guard !offload else { return }
    for node in cluster.nodes { try node.namespace.setOffloads(false, of: "eth0") }
    if let router = cluster.router { for number in 0...1 { try router.setOffloads(false, of: "eth\(number)") } }
    try cluster.outside?.setOffloads(false, of: "eth0")
  }

  /// Starts the agents; each is there to be stopped by its node's position.
  @discardableResult
  func start() throws -> [Child] { try cluster.start() }

  /// Pings from one pod to another and sends it what must arrive whole, over both families.
  func exchange(_ pairs: [(Cluster.Pod, Cluster.Pod)]) throws {
    let payload = try Payload(byteCount: 4_000_000)
    for (from, to) in pairs {
      for family in IPFamily.allCases {
        #expect(try from.namespace.ping("\(to.address(family))", count: 3, interval: .milliseconds(20)).isComplete)
        try lab.transfer(payload, from: from.namespace, to: to.namespace, address: to.address(family))
      }
    }
  }

  /// A file of the lab.
  func path(_ name: String) throws -> String { "\(try lab.directory())/\(name)" }
}

/// The value of a numeric field in compact JSON: the sum of all that there are.
func sum(of field: String, in json: String) -> Int {
  json.ranges(of: "\"\(field)\":").reduce(0) { total, range in
    total + (Int(json[range.upperBound...].prefix { $0.isNumber }) ?? 0)
  }
}

/// Captures all that passes a device while `body` runs and judges it: no malformed packet, no wrong checksum, and no
/// refusal by a host's own stack (NODE-3).
func judged(_ namespace: Namespace, _ device: String, _ path: String, limit: Int = 4000, _ body: () throws -> Void)
  throws
{
  let capture = try namespace.capture(on: device, to: path, limit: limit)
  try body()
  // The capture ends by itself where there was more than the limit.
  _ = try? capture.stop()
  #expect(try PacketCheck.findMalformed(in: path).prefix(5).isEmpty)
  try expectNoRefusal(path)
}

/// NODE-3: no TCP reset of an attempt to connect, and no ICMP port or protocol unreachable. A host that sees packets sees
/// the first one too, and resets that with the ACK flag. A reset without it is an endpoint's, of an acknowledgement that
/// came twice, when its socket was gone already.
func expectNoRefusal(_ path: String) throws {
  let filter =
    "(tcp.flags.reset == 1 && tcp.flags.ack == 1) || (icmp.type == 3 && (icmp.code == 2 || icmp.code == 3)) "
    + "|| (icmpv6.type == 1 && icmpv6.code == 4) || icmpv6.type == 4"
  #expect(try PacketCheck.list(in: path, filter: filter).isEmpty, "a host's own stack answered")
}

/// Takes away what nodes' agents left in the kernel because they were killed, or could not reach it any more. Their own lab
/// is closed by then and starts nothing.
func unload(_ nodes: [Cluster.Node]) {
  guard let lab = try? Lab(name: "unload"), let program = try? builtProgram("kalsae") else { return }
  defer { lab.cleanUp() }
  for node in nodes { _ = try? lab.runUnchecked([program, "ebpf", "unload", "--node", node.name]) }
}
