import Addresses
import Glibc

extension Cluster {
  /// A service with its endpoints, as a Service and an EndpointSlice for each family.
  public struct ServicePlan: Sendable {
    public var name: String
    public var clusterIPs: [IPAddress]
    /// `TCP`, `UDP` or `SCTP`.
    public var transport = "TCP"
    public var port: UInt16 = 80
    public var targetPort: UInt16 = 8080
    public var nodePort: UInt16?
    public var loadBalancerIPs: [IPAddress] = []
    public var externalIPs: [IPAddress] = []
    public var healthCheckNodePort: UInt16?
    /// `Cluster` or `Local`.
    public var externalTrafficPolicy = "Cluster"
    public var hasAffinity = false
    public var endpoints: [Pod]

    public init(_ name: String, _ clusterIPs: [IPAddress], _ endpoints: [Pod]) {
      self.name = name
      self.clusterIPs = clusterIPs
      self.endpoints = endpoints
    }

    var manifests: String {
      func list(_ addresses: [IPAddress]) -> String { addresses.map { "\"\($0)\"" }.joined(separator: ", ") }
      let type = !loadBalancerIPs.isEmpty ? "LoadBalancer" : nodePort != nil ? "NodePort" : "ClusterIP"
      let families = clusterIPs.map { $0.family == .ipv4 ? "IPv4" : "IPv6" }
      var text = """
        apiVersion: v1
        kind: Service
        metadata: {name: \(name), namespace: demo}
        spec:
          type: \(type)
          clusterIP: "\(clusterIPs[0])"
          clusterIPs: [\(list(clusterIPs))]
          ipFamilies: [\(families.joined(separator: ", "))]
          ports: [{name: main, port: \(port), targetPort: \(targetPort), protocol: \(transport)\(nodePort.map { ", nodePort: \($0)" } ?? "")}]

        """
      if type != "ClusterIP" { text += "  externalTrafficPolicy: \(externalTrafficPolicy)\n" }
      if !externalIPs.isEmpty { text += "  externalIPs: [\(list(externalIPs))]\n" }
      if let healthCheckNodePort { text += "  healthCheckNodePort: \(healthCheckNodePort)\n" }
      if hasAffinity { text += "  sessionAffinity: ClientIP\n" }
      if !loadBalancerIPs.isEmpty {
        let ingress = loadBalancerIPs.map { "{ip: \"\($0)\"}" }.joined(separator: ", ")
        text += "status: {loadBalancer: {ingress: [\(ingress)]}}\n"
      }
      for (address, family) in zip(clusterIPs, families) {
        text += """
          ---
          apiVersion: discovery.k8s.io/v1
          kind: EndpointSlice
          metadata:
            name: \(name)-\(family.lowercased())
            namespace: demo
            labels: {kubernetes.io/service-name: \(name)}
          addressType: \(family)
          ports: [{name: main, port: \(targetPort), protocol: \(transport)}]

          """
        guard !endpoints.isEmpty else {
          text += "endpoints: []\n"
          continue
        }
        text += "endpoints:\n"
        for pod in endpoints {
          text +=
            "  - {addresses: [\"\(pod.address(address.family))\"], nodeName: \(pod.node), conditions: {ready: true}}\n"
        }
      }
      return text
    }
  }

  /// Writes a service and its endpoints, or what they are now, into a file of the state.
  public func write(_ plan: ServicePlan) throws { try write("service-\(plan.name).yaml", plan.manifests) }

  public func remove(_ plan: ServicePlan) throws { try remove("service-\(plan.name).yaml") }

  /// Has all agents read the manifests now, and waits until they have done what these say.
  public func settle() throws {
    for node in nodes where node.runsAgent {
      func count() -> Int { logText(of: node).ranges(of: "manifests read again").count }
      let before = count()
      guard let pid = number("processID", in: try ask("status", node)), kill(Int32(pid), SIGHUP) == 0 else {
        throw LabError.invalid("the agent of \(node.name) does not run")
      }
      try waitUntil("agent of \(node.name) to read the manifests", timeout: .seconds(10), every: .milliseconds(10)) {
        count() > before
      }
    }
  }

  /// Writes a policy that lets nothing in to the pods of the namespace.
  public func writeDefaultDeny() throws {
    try write(
      "default-deny.yaml",
      """
      apiVersion: networking.k8s.io/v1
      kind: NetworkPolicy
      metadata: {name: default-deny, namespace: demo}
      spec: {podSelector: {}, policyTypes: [Ingress]}

      """)
  }

  public func removeDefaultDeny() throws { try remove("default-deny.yaml") }
}
