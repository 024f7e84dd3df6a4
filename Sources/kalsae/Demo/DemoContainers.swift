import Addresses
import Lab
import Replay

/// The part of the demo that starts containers: the runtime calls the CNI plugin, and the container has its network before
/// its first process runs.
final class DemoContainers {
  private let lab: Lab
  let cluster: Cluster
  private let report: DemoReport
  private let program: String
  private static let title = "containers"
  private static let clusterIP = IPAddress("10.96.0.80")!

  init(lab: Lab, program: String, ebpf: Bool, report: DemoReport) throws {
    self.lab = lab
    self.program = program
    self.report = report
    cluster = try Cluster(
      lab: lab, program: program, plans: [.init("a", pods: []), .init("b", pods: [])], outside: true, ebpf: ebpf)
  }

  private var a: Cluster.Node { cluster.nodes[0] }
  private var b: Cluster.Node { cluster.nodes[1] }

  func run() throws {
    report.progress = Self.title
    defer { report.clearProgress() }
    guard let outside = cluster.outside else { throw LabError.invalid("the cluster has no machine outside") }
    report.step("two nodes, a container on each")
    try cluster.configureNodes(
      "clusterCIDRs: [\(Cluster.pool4), \"\(Cluster.pool6)\"]", "serviceCIDRs: [10.96.0.0/16]")
    try cluster.start()
    let runtime = try DemoRuntime(lab: lab, cluster: cluster, program: program)
    _ = try outside.spawn(["busybox"] + Self.server("outside", in: try lab.directory() + "/www"))
    try runtime.start("server", on: b, Self.server("server", in: "/tmp/kalsae-www"))
    try runtime.start("client", on: a, ["sleep", "600"])
    let server = try address(of: "server", on: b, runtime)
    let client = try address(of: "client", on: a, runtime)
    try cluster.write("service-containers.yaml", Self.service(endpoint: server, node: b.name))
    try cluster.settle()

    var rows = TextTable(["MODE", "FROM", "SERVER", "ANSWER", "CLUSTERIP", "ANSWER", "OUTSIDE", "ANSWER"])
    for mode in Cluster.Mode.allCases {
      report.step("\(mode.rawValue): asking the server, its ClusterIP and a machine outside")
      try cluster.setMode(mode, natOutgoing: true)
      var cells = [mode.rawValue, client]
      let targets = [
        ("\(server):8080", "server saw \(client)"), ("\(Self.clusterIP)", "server saw \(client)"),
        ("\(Cluster.outside4):8080", "outside saw \(a.ipv4)"),
      ]
      for (target, wanted) in targets {
        let result = try runtime.execute(
          "client", on: a, ["wget", "-q", "-O", "-", "http://\(target)/cgi-bin/who"])
        let answer = result.standardOutput.split(separator: "\n").first.map(String.init) ?? "FAILED: nobody"
        cells += [target, answer]
        report.check(
          answer == wanted, "\(Self.title), \(mode.rawValue)",
          "\(target): \(answer), not \(wanted); \(result.standardError)")
      }
      rows.add(cells)
    }
    report.step("ending both")
    try runtime.remove("client", on: a)
    try runtime.remove("server", on: b)
    try waitUntil("the containers' interfaces to go", timeout: .seconds(10), every: .milliseconds(50)) {
      try cluster.nodes.allSatisfy {
        try $0.namespace.devices().allSatisfy { !$0.hasPrefix("kal") || $0 == "kalsae0" }
      }
    }
    report.clearProgress()
    report.say("\n\(runtime.title):\n")
    report.say(rows.text)
    report.say("Both were ended, and their interfaces and addresses are gone.\n")
  }

  private func address(of name: String, on node: Cluster.Node, _ runtime: DemoRuntime) throws -> String {
    let text = try runtime.execute(name, on: node, ["ip", "-4", "-o", "addr", "show", "eth0"]).check().standardOutput
    guard let word = text.split(separator: " ").first(where: { $0.hasSuffix("/32") }) else {
      throw LabError.invalid("\(name) has no address: \(text)")
    }
    return String(word.dropLast(3))
  }

  /// A web server of busybox that says its name and whom it sees.
  private static func server(_ name: String, in folder: String) -> [String] {
    let script = """
      busybox=$(command -v busybox || echo /bin/busybox)
      $busybox mkdir -p \(folder)/cgi-bin
      printf '%s\\n' '#!/bin/sh' "echo 'Content-Type: text/plain'" echo 'echo "\(name) saw $REMOTE_ADDR"' \
        > \(folder)/cgi-bin/who
      $busybox chmod 755 \(folder)/cgi-bin/who
      exec $busybox httpd -f -p 0.0.0.0:8080 -h \(folder)
      """
    return ["sh", "-c", script]
  }

  private static func service(endpoint: String, node: String) -> String {
    """
    apiVersion: v1
    kind: Service
    metadata: {name: containers, namespace: default}
    spec:
      clusterIP: \(clusterIP)
      clusterIPs: [\(clusterIP)]
      ports: [{port: 80, targetPort: 8080, protocol: TCP}]
    ---
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {name: containers-1, namespace: default, labels: {kubernetes.io/service-name: containers}}
    addressType: IPv4
    ports: [{port: 8080, protocol: TCP}]
    endpoints: [{addresses: [\(endpoint)], conditions: {ready: true}, nodeName: \(node)}]
    """
  }
}
