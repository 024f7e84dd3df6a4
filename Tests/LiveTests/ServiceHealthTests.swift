import Addresses
import Glibc
import Lab
import Testing

/// Health checks and metrics over HTTP, and connections that must not notice what else happens.
@Suite(
  "Service health, live", .serialized, .enabled(if: Lab.isAvailable, needsNamespaces), .timeLimit(.minutes(5)))
struct ServiceHealthTests {
  /// What an HTTP client gets: the status, then the headers that were asked for, then the body.
  private func get(_ namespace: Namespace, _ url: String) throws -> (status: Int, headers: String, body: String) {
    let script = """
      import sys, urllib.request, urllib.error
      opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
      try: answer = opener.open(sys.argv[1], timeout=5)
      except urllib.error.HTTPError as e: answer = e
      print(answer.status); print(str(answer.headers).strip()); print('--'); print(answer.read().decode(), end='')
      """
    let text = try namespace.run("python3", "-c", script, url).check().standardOutput
    let parts = text.split(separator: "\n--\n", maxSplits: 1, omittingEmptySubsequences: false)
    let head = parts[0].split(separator: "\n", maxSplits: 1)
    return (Int(head[0]) ?? 0, String(head.last ?? ""), parts.count > 1 ? String(parts[1]) : "")
  }

  @Test("KP-52: a load balancer's health check answers by the endpoints of the node, whatever policy says")
  func healthCheckNodePort() throws {
    let test = try ServiceTests.cluster("health")
    defer { test.lab.cleanUp() }
    let outside = try #require(test.cluster.outside)
    var plan = ServiceTests.plan(test, [test.b.pods[0], test.b.pods[1]])
    plan.loadBalancerIPs = [IPAddress("192.0.2.10")!]
    plan.nodePort = 30080
    plan.externalTrafficPolicy = "Local"
    plan.healthCheckNodePort = 30180
    try test.cluster.writeDefaultDeny()
    try ServiceTests.apply(plan, test)
    func check(_ node: Cluster.Node) throws -> (status: Int, headers: String, body: String) {
      var answer = (status: 0, headers: "", body: "")
      try waitUntil("the health check of \(node.name)", timeout: .seconds(5)) {
        answer = (try? get(outside, "http://\(node.ipv4):30180/")) ?? answer
        return answer.status != 0
      }
      return answer
    }
    let (full, empty) = (try check(test.b), try check(test.a))
    #expect(full.status == 200)
    #expect(
      full.body == #"{"service":{"namespace":"demo","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#)
    for header in [
      "Content-Type: application/json", "X-Content-Type-Options: nosniff", "X-Load-Balancing-Endpoint-Weight: 2",
    ] { #expect(full.headers.lowercased().contains(header.lowercased()), "\(full.headers)") }
    #expect(empty.status == 503)
    #expect(empty.body.contains(#""localEndpoints":0"#))
    // Over IPv6, and from a pod of the node, too.
    #expect(try get(outside, "http://[\(test.b.ipv6)]:30180/").status == 200)
    #expect(try get(test.b.pods[0].namespace, "http://\(test.b.ipv4):30180/").status == 200)
    plan.endpoints = [test.b.pods[0]]
    try ServiceTests.apply(plan, test)
    #expect(try check(test.b).body.contains(#""localEndpoints":1"#))
    try test.cluster.remove(plan)
    try test.cluster.settle()
    try waitUntil("the server to be gone") { (try? get(outside, "http://\(test.b.ipv4):30180/")) == nil }
  }

  @Test("KP-53 KP-54 KP-55: healthz, livez and metrics where kube-proxy has them")
  func healthAndMetrics() throws {
    let test = try ServiceTests.cluster("metrics")
    defer { test.lab.cleanUp() }
    let outside = try #require(test.cluster.outside)
    var plan = ServiceTests.plan(test, [test.b.pods[0]])
    plan.nodePort = 30080
    plan.externalTrafficPolicy = "Local"
    try ServiceTests.apply(plan, test)
    try waitUntil("the servers to listen") {
      (try? get(outside, "http://\(test.a.ipv4):10256/livez"))?.status == 200
        && (try? get(test.a.namespace, "http://127.0.0.1:10249/metrics"))?.status == 200
    }
    let health = try get(outside, "http://\(test.a.ipv4):10256/healthz")
    #expect(health.status == 200)
    #expect(health.body.contains(#""nodeEligible": true"#) && health.body.contains("lastUpdated"))
    #expect(try get(outside, "http://\(test.a.ipv4):10256/other").status == 404)
    // The metrics are the node's own business.
    #expect((try? get(outside, "http://\(test.a.ipv4):10249/metrics")) == nil)

    #expect(try ServicePeer.ask(test.a.pods[0].namespace, ServiceTests.vip4, 80, count: 3).count == 3)
    _ = try ServicePeer.ask(test.a.pods[0].namespace, IPAddress("10.96.0.99")!, 80, "UDP")
    var text = try get(test.a.namespace, "http://127.0.0.1:10249/metrics").body
    func value(_ sample: String) -> Double? {
      text.split(separator: "\n").first { $0.hasPrefix("\(sample) ") }.flatMap {
        Double($0.split(separator: " ").last ?? "")
      }
    }
    #expect(value("kubeproxy_sync_proxy_rules_duration_seconds_count") ?? 0 > 0)
    #expect(value(#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="external"}"#) == 2)
    #expect(value(#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="internal"}"#) == 0)
    #expect(value(#"kubeproxy_proxy_healthz_total{code="200"}"#) == 1)
    #expect(value("kubeproxy_sync_proxy_rules_service_changes_total") == 1)
    #expect(value("kubeproxy_sync_proxy_rules_endpoint_changes_total") == 2)
    #expect(value(#"kalsae_drops_total{reason="noService"}"#) ?? 0 >= 1)
    #expect(value("kalsae_flows") ?? 0 >= 3)
    #expect(value("kalsae_services") == 1)
    for (table, entries) in [("services", 2.0), ("frontends", 4), ("backends", 2), ("policyPods", 8), ("affinity", 0)] {
      #expect(value("kalsae_table_entries{table=\"\(table)\"}") == entries, "\(table)")
      #expect(value("kalsae_table_memory_bytes{table=\"\(table)\"}") ?? 0 > 0, "\(table)")
    }
    #expect(value(#"kalsae_table_entries{table="flowsIPv4"}"#) ?? 0 >= 3)
    #expect(value(#"kalsae_table_capacity{table="flowsIPv4"}"#) ?? 0 >= 1024)
    #expect(value(#"kalsae_table_entries{table="hops"}"#) ?? 0 >= 3)
    #expect(value(#"kalsae_neighbours{state="failed"}"#) != nil)
    #expect(value(#"kalsae_port_received_packets_total{port="demo/a1"}"#) ?? 0 > 10)
    // Every sample belongs to a metric with a type.
    let types = Set(
      text.split(separator: "\n").filter { $0.hasPrefix("# TYPE ") }.map { String($0.split(separator: " ")[2]) })
    for line in text.split(separator: "\n") where !line.hasPrefix("#") {
      let name = String(line.prefix { $0 != "{" && $0 != " " })
      let base = ["_bucket", "_sum", "_count"].first {
        name.hasSuffix($0) && types.contains(String(name.dropLast($0.count)))
      }
      #expect(base != nil || types.contains(name), "\(name)")
    }

    // How long ago an endpoint's change was made is told by its slice, from KP-55's annotation on.
    let programmed = "kubeproxy_network_programming_duration_seconds_count"
    #expect(value(programmed) == 0)
    try test.cluster.write(
      "triggered.yaml",
      """
      apiVersion: discovery.k8s.io/v1
      kind: EndpointSlice
      metadata:
        name: web-triggered
        namespace: demo
        labels: {kubernetes.io/service-name: web}
        annotations: {endpoints.kubernetes.io/last-change-trigger-time: "2024-02-29T12:00:01Z"}
      addressType: IPv4
      ports: [{name: main, port: 8080, protocol: TCP}]
      endpoints: [{addresses: ["\(test.b.pods[1].ipv4)"], conditions: {ready: true}, nodeName: node-b}]
      ---
      apiVersion: v1
      kind: Service
      metadata: {name: inner, namespace: demo}
      spec: {clusterIP: 10.96.0.77, internalTrafficPolicy: Local, ports: [{port: 80}]}
      ---
      apiVersion: discovery.k8s.io/v1
      kind: EndpointSlice
      metadata: {name: inner-1, namespace: demo, labels: {kubernetes.io/service-name: inner}}
      addressType: IPv4
      ports: [{port: 8080, protocol: TCP}]
      endpoints: [{addresses: ["\(test.b.pods[1].ipv4)"], conditions: {ready: true}, nodeName: node-b}]

      """)
    try test.cluster.settle()
    text = try get(test.a.namespace, "http://127.0.0.1:10249/metrics").body
    #expect(value(programmed) == 1)
    #expect(value(#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="internal"}"#) == 1)
    #expect(value(#"kubeproxy_network_programming_duration_seconds_bucket{le="300"}"#) == 0)

    // Whoever holds the port keeps it; the agent says so, and takes it when it is free.
    let holder = try ServicePeer.serve("holder", in: test.a.namespace)
    try test.cluster.write(
      "node-a-extra.yaml",
      """
      apiVersion: kalsae.io/v1alpha1
      kind: NodeConfiguration
      metadata: {name: node-a}
      spec: {healthzBindAddress: "0.0.0.0:8080"}

      """)
    try test.cluster.settle()
    try waitUntil("the agent to complain") {
      try test.cluster.ask("status", test.a).contains("health checks on 0.0.0.0:8080")
    }
    holder.signal(SIGKILL)
    try waitUntil("the agent to listen") { (try? get(outside, "http://\(test.a.ipv4):8080/healthz"))?.status == 200 }
    try waitUntil("the agent to say so") {
      try !test.cluster.ask("status", test.a).contains("health checks on 0.0.0.0:8080")
    }
    #expect((try? get(outside, "http://\(test.a.ipv4):10256/livez")) == nil)
  }

  @Test("KP-51: a TCP connection survives unrelated changes at 100 a second without one lost octet")
  func unrelatedChanges() throws {
    let test = try ServiceTests.cluster("stream")
    defer { test.lab.cleanUp() }
    try ServiceTests.apply(ServiceTests.plan(test, [test.b.pods[0]]), test)
    // Longer where somebody asks for it.
    let seconds = unsafe getenv("KALSAE_STREAM_SECONDS").flatMap { unsafe Int(String(cString: $0)) } ?? 5
    let client = try ServicePeer.stream(test.a.pods[0].namespace, ServiceTests.vip4, 80, seconds: seconds)
    let start = ContinuousClock.now
    var changes = 0
    while start.duration(to: .now) < .seconds(seconds) {
      // Services, endpoints and policies come, change and go.
      var plan = Cluster.ServicePlan(
        "other-\(changes % 40)", [IPAddress("10.96.1.\(changes % 40 + 1)")!], changes % 3 == 0 ? [test.a.pods[1]] : [])
      if changes % 5 == 0 { plan.nodePort = UInt16(31000 + changes % 40) }
      if changes % 7 == 6 {
        try test.cluster.write(
          "policy.yaml",
          """
          apiVersion: networking.k8s.io/v1
          kind: NetworkPolicy
          metadata: {name: other, namespace: demo}
          spec: {podSelector: {matchLabels: {number: "\(changes)"}}, policyTypes: [Ingress]}

          """)
      } else {
        try test.cluster.write(plan)
      }
      changes += 1
      let due = start.advanced(by: .milliseconds(10 * changes))
      let wait = ContinuousClock.now.duration(to: due)
      if wait > .zero { usleep(UInt32(wait.components.attoseconds / 1_000_000_000_000)) }
    }
    let result = try client.wait(timeout: .seconds(30))
    #expect(result.isSuccess && result.standardOutput.hasPrefix("intact"), "\(result.standardError)")
    // The changes were taken in, all along: several of one file at once count once.
    let log = test.cluster.logText(of: test.a)
    let taken = log.ranges(of: "manifests: ").reduce(0) { sum, range in
      sum + (Int(log[range.upperBound...].prefix { $0.isNumber }) ?? 0)
    }
    #expect(changes >= seconds * 50 && taken >= seconds * 10, "\(changes) changes, \(taken) taken in")
    try test.cluster.settle()
    #expect(try ServicePeer.names(test.a.pods[0].namespace, ServiceTests.vip4, 80, count: 1) == ["b1"])
    print("\(changes) changes in \(seconds) s, \(taken) objects taken in; the client: \(result.standardOutput)")
  }
}
