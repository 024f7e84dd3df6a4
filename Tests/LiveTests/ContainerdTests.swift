import Addresses
import CNI
import Glibc
import Lab
import Testing

/// A real container runtime on two nodes: it finds the plugin where `kalsae cni install` puts it.
@Suite(
  "containerd", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces),
  .enabled(if: Containerd.isInstalled, "needs containerd, runc and busybox (Debian: containerd, busybox-static)"),
  .timeLimit(.minutes(4)))
struct ContainerdTests {
  @Test(
    "CNI-12 NODE-5 NODE-8: containers reach each other across two nodes, a ClusterIP, and, masqueraded, what is outside, in every mode"
  )
  func containers() throws {
    let test = try TestCluster("ctr", [.init("a", pods: []), .init("b", pods: [])], outside: true)
    defer { test.lab.cleanUp() }
    let cluster = test.cluster
    try ServicePeer.serve("outside", in: try #require(cluster.outside))
    try test.start()
    let runtime = try Containerd(lab: test.lab)
    let kalsae = try builtProgram("kalsae")
    for node in cluster.nodes {
      let plugin = cluster.runtime(of: node, plugin: try builtProgram("kalsae-cni"))
      let places = runtime.places(of: node)
      let ipam =
        #"{"type": "host-local", "dataDir": "\#(plugin.addresses)", "ranges": [[{"subnet": "\#(node.block4)"}]]}"#
      try test.lab.run([
        kalsae, "cni", "install", "--socket", plugin.socket, "--data", plugin.dataDirectory, "--ipam", ipam,
        "--bin-dir",
        places.programs, "--conf-dir", places.configurations,
      ])
    }
    try runtime.start("server", on: test.b, ["/bin/httpd", "-f", "-p", "8080", "-h", "/bin"])
    try runtime.start("client", on: test.a, ["/bin/sleep", "600"])
    let text = try runtime.execute("server", on: test.b, ["/bin/ip", "-4", "-o", "addr", "show", "eth0"]).check()
      .standardOutput
    let word = text.split(separator: " ").first { $0.contains("/32") }
    let address = try #require(word.flatMap { IPAddress(String($0.split(separator: "/")[0])) }, "\(text)")
    try cluster.write(
      "web.yaml",
      """
      apiVersion: v1
      kind: Service
      metadata: {name: web, namespace: default}
      spec:
        clusterIP: 10.96.0.80
        clusterIPs: [10.96.0.80]
        ports: [{port: 80, targetPort: 8080, protocol: TCP}]
      ---
      apiVersion: discovery.k8s.io/v1
      kind: EndpointSlice
      metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
      addressType: IPv4
      ports: [{port: 8080, protocol: TCP}]
      endpoints: [{addresses: ["\(address)"], conditions: {ready: true}, nodeName: node-b}]
      """)
    try waitUntil("the service to be read") { cluster.logText(of: test.a).contains("Service default/web") }
    for mode in Cluster.Mode.allCases {
      try cluster.setMode(mode, natOutgoing: true)
      let ping = try runtime.execute("client", on: test.a, ["/bin/ping", "-c", "2", "-W", "3", "\(address)"])
      #expect(ping.isSuccess, "\(mode): \(ping.standardOutput)\(ping.standardError)")
      for target in ["\(address):8080", "10.96.0.80"] {
        let get = try runtime.execute(
          "client", on: test.a, ["/bin/wget", "-q", "-O", "/dev/null", "http://\(target)/busybox"])
        #expect(get.isSuccess, "\(mode) \(target): \(get.standardError)")
      }
      let away = try runtime.execute(
        "client", on: test.a, ["/bin/sh", "-c", "nc \(Cluster.outside4) 8080 < /dev/null"])
      #expect(
        away.standardOutput.hasPrefix("outside \(test.a.ipv4) "),
        "\(mode): \(away.standardOutput)\(away.standardError)")
    }
    let node = try runtime.execute("client", on: test.a, ["/bin/ping", "-c", "1", "-W", "3", "\(test.a.ipv4)"])
    #expect(node.isSuccess, "\(node.standardOutput)")
    // A container that ends by itself has the runtime send a DEL without a namespace.
    let short = try runtime.run("short", on: test.a, ["/bin/ping", "-c", "1", "-W", "3", "\(address)"])
    #expect(short.isSuccess, "\(short.standardOutput)\(short.standardError)")
    let devices = try test.a.namespace.devices().filter { $0.hasPrefix("kal") && $0 != "kalsae0" }
    #expect(devices.count == 1)
    // The others end without one: their namespaces go, and their interfaces with them.
    try runtime.remove("client", on: test.a)
    try runtime.remove("server", on: test.b)
    try waitUntil("the interfaces to go") {
      try cluster.nodes.allSatisfy {
        try $0.namespace.devices().filter { $0.hasPrefix("kal") && $0 != "kalsae0" }.isEmpty
      }
    }
    for node in cluster.nodes {
      let places = runtime.places(of: node)
      try test.lab.run([
        kalsae, "cni", "uninstall", "--bin-dir", places.programs, "--conf-dir", places.configurations,
      ])
      let left = try test.lab.run(["find", places.programs, places.configurations, "-type", "f"]).standardOutput
      #expect(left.isEmpty)
    }
  }
}
