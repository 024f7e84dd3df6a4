import Addresses
import Agent
import Lab
import Replay

/// The part of the demo that shows services and policy: three web servers on two nodes, and clients that know nothing
/// of Kalsae: a pod, a node, and a machine outside.
final class DemoServices {
  private let lab: Lab
  let cluster: Cluster
  private let report: DemoReport
  private let program: String
  private var rows = TextTable(["STEP", "CLIENT", "TO", ">REQUESTS", "ANSWERED BY", "SEEN AS"])
  private static let title = "services"

  private static let clusterIP = IPAddress("10.96.0.10")!
  private static let balancer = IPAddress("192.0.2.10")!
  private static let nodePort: UInt16 = 30080
  private static let localPort: UInt16 = 30081
  private static let requests = 24

  init(lab: Lab, program: String, ebpf: Bool, report: DemoReport) throws {
    self.lab = lab
    self.program = program
    self.report = report
    cluster = try Cluster(lab: lab, program: program, plans: [.init("a"), .init("b")], outside: true, ebpf: ebpf)
  }

  private var a: Cluster.Node { cluster.nodes[0] }
  private var b: Cluster.Node { cluster.nodes[1] }
  private var servers: [Cluster.Pod] { [a.pods[0], b.pods[0], b.pods[1]] }

  /// A client with the words for it.
  private struct Client {
    var name: String
    var namespace: Namespace
  }

  func run() throws {
    report.progress = "services"
    var outputs = ""
    defer {
      report.clearProgress()
      report.say(
        "\nThree web servers on two nodes behind a ClusterIP, a NodePort and a load balancer's address, in VXLAN:\n")
      report.say(rows.text + outputs)
    }
    report.step("two nodes, three web servers")
    let outside = Client(name: "outside \(Cluster.outside4)", namespace: try cluster.outside.unwrapped)
    let pod = Client(name: "pod a2 \(a.pods[1].ipv4)", namespace: a.pods[1].namespace)
    let node = Client(name: "node-a \(a.ipv4)", namespace: a.namespace)
    try cluster.configureNodes(
      "clusterCIDRs: [\(Cluster.pool4), \"\(Cluster.pool6)\"]", "serviceCIDRs: [10.96.0.0/16]",
      "localhostNodePorts: true")
    try cluster.start()
    try cluster.setMode(.vxlan)
    for server in servers { try serve(server) }
    try outside.namespace.addRoute("\(Self.balancer)/32 via \(a.ipv4)")
    var web = Cluster.ServicePlan("web", [Self.clusterIP], servers)
    web.nodePort = Self.nodePort
    web.loadBalancerIPs = [Self.balancer]
    var local = Cluster.ServicePlan("web-local", [IPAddress("10.96.0.11")!], servers)
    local.nodePort = Self.localPort
    local.externalTrafficPolicy = "Local"
    try cluster.write(web)
    try cluster.write(local)
    try cluster.settle()

    let all: Set<String> = ["a1", "b1", "b2"]
    let clusterIP = "\(Self.clusterIP)"
    try expect("ClusterIP", pod, clusterIP, by: all, seenAs: "\(a.pods[1].ipv4)")
    try expect("ClusterIP", node, clusterIP, by: all, seenAs: "\(a.ipv4)")
    try expect("NodePort", outside, "\(b.ipv4):\(Self.nodePort)", by: all, seenAs: "\(b.ipv4)")
    try expect("NodePort", node, "127.0.0.1:\(Self.nodePort)", by: all, seenAs: "\(a.ipv4)")
    try expect("load balancer", outside, "\(Self.balancer)", by: all, seenAs: "\(a.ipv4)")
    try expect(
      "policy Local", outside, "\(b.ipv4):\(Self.localPort)", by: ["b1", "b2"], seenAs: "\(Cluster.outside4)")
    let flows = try lab.run([program, "flows", "--port", "8080", "--limit", "6", "--socket", cluster.socket(of: a)])
    outputs += "\nkalsae flows --port 8080, on node-a before b2 was removed:\n\(flows.standardOutput)"

    web.endpoints = [a.pods[0], b.pods[0]]
    try cluster.write(web)
    try wait("endpoint b2 to be gone") { try !self.ask(pod, clusterIP).contains { $0.server == "b2" } }
    try expect("b2 removed", pod, clusterIP, by: ["a1", "b1"], seenAs: "\(a.pods[1].ipv4)")

    try cluster.writeDefaultDeny()
    try wait("the policy to hold") { try self.status(pod, clusterIP, wait: "0.3") == 28 }
    let denied = try status(pod, clusterIP, wait: "1")
    add("default-deny", pod, clusterIP, 1, denied == 28 ? "nobody: no answer" : "FAILED: curl \(denied)", "-")
    report.check(denied == 28, Self.title, "default-deny: curl ended with \(denied), not with 28 (timeout)")
    // A node drops what is for its own pods, and which endpoint a connection gets is chance.
    var drops = ""
    try wait("node-a to drop a packet for the policy") {
      _ = try self.status(pod, clusterIP, wait: "0.3")
      drops = try self.lab.run([self.program, "drops", "--limit", "4", "--socket", self.cluster.socket(of: a)])
        .standardOutput
      return drops.contains("policyIngress")
    }
    outputs += "\nkalsae drops, on node-a under default-deny:\n\(drops)"
    try cluster.removeDefaultDeny()
    try wait("the policy to be lifted") { try self.status(pod, clusterIP, wait: "0.3") == 0 }
    try expect("deny lifted", pod, clusterIP, by: ["a1", "b1"], seenAs: "\(a.pods[1].ipv4)")

    web.endpoints = []
    try cluster.write(web)
    try wait("all endpoints to be gone") { try self.status(pod, clusterIP, wait: "0.3") == 7 }
    for (client, address) in [(pod, clusterIP), (outside, "\(a.ipv4):\(Self.nodePort)")] {
      let refused = try status(client, address, wait: "3")
      add("no endpoints", client, address, 1, refused == 7 ? "nobody: refused" : "FAILED: curl \(refused)", "-")
      report.check(refused == 7, Self.title, "no endpoints: curl ended with \(refused), not with 7 (refused)")
    }
  }

  // MARK: Servers and clients

  /// A web server that says its name and who asked.
  private func serve(_ pod: Cluster.Pod) throws {
    let root = "\(try lab.directory())/www-\(pod.name)"
    let script =
      "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n\(pod.name) %s\\n' \"$REMOTE_ADDR\"\n"
    try lab.run(["mkdir", "-p", "\(root)/cgi-bin"])
    try lab.run(["tee", "\(root)/cgi-bin/who"], input: script)
    try lab.run(["chmod", "755", "\(root)/cgi-bin/who"])
    _ = try pod.namespace.spawn("busybox", "httpd", "-f", "-p", "0.0.0.0:8080", "-h", root)
    try wait("the web server of \(pod.name)") {
      try pod.namespace.run("curl", "-s", "-m", "1", "-o", "/dev/null", "http://127.0.0.1:8080/cgi-bin/who").isSuccess
    }
  }

  /// Who answered, and as whom the client was seen, for requests of one connection each.
  private func ask(_ client: Client, _ address: String) throws -> [(server: String, client: String)] {
    let url = "http://\(address)/cgi-bin/who"
    let result = try client.namespace.run(
      ["curl", "-s", "--noproxy", "*", "-m", "10", "-H", "Connection: close"]
        + [String](repeating: url, count: Self.requests))
    return result.standardOutput.split(separator: "\n").compactMap { line in
      let words = line.split(separator: " ")
      return words.count == 2 ? (String(words[0]), String(words[1])) : nil
    }
  }

  /// How curl ends: 0 with an answer, 7 refused, 28 without an answer in time.
  private func status(_ client: Client, _ address: String, wait: String) throws -> Int32 {
    let result = try client.namespace.run(
      "curl", "-s", "--noproxy", "*", "-m", wait, "-o", "/dev/null", "http://\(address)/cgi-bin/who")
    if case .exited(let code) = result.status { return code }
    return -1
  }

  /// Sends requests, adds a row, and checks who answered.
  private func expect(
    _ step: String, _ client: Client, _ address: String, by wanted: Set<String>, seenAs: String
  ) throws {
    report.step("\(step), from \(client.name)")
    let answers = try ask(client, address)
    var counts: [String: Int] = [:]
    for answer in answers { counts[answer.server, default: 0] += 1 }
    let seen = Set(answers.map(\.client)).sorted().joined(separator: ", ")
    let text = counts.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
    add(step, client, address, answers.count, text.isEmpty ? "FAILED: nobody" : text, seen.isEmpty ? "-" : seen)
    let subject = "\(Self.title), \(step) from \(client.name)"
    report.check(answers.count == Self.requests, subject, "\(answers.count) of \(Self.requests) requests were answered")
    report.check(Set(counts.keys) == wanted, subject, "answered by \(text), not by all of \(wanted.sorted())")
    report.check(seen == seenAs, subject, "the servers saw \(seen), not \(seenAs)")
  }

  private func add(_ step: String, _ client: Client, _ to: String, _ requests: Int, _ by: String, _ seen: String) {
    rows.add([step, client.name, to, "\(requests)", by, seen])
  }

  private func wait(_ what: String, _ condition: () throws -> Bool) throws {
    report.step("waiting for \(what)")
    try waitUntil(what, timeout: .seconds(10), every: .milliseconds(50), condition)
  }
}

extension Namespace? {
  fileprivate var unwrapped: Namespace {
    get throws {
      guard let self else { throw LabError.invalid("the cluster has no machine outside") }
      return self
    }
  }
}
