import Addresses
import Testing

@testable import Model

/// A Service with this text as its `spec`, and whatever follows.
private func service(_ spec: String, metadata: String = "name: web", status: String = "{}") -> String {
  """
  apiVersion: v1
  kind: Service
  metadata: {\(metadata)}
  spec: {\(spec)}
  status: \(status)
  """
}

@Suite struct ServiceTests {
  @Test("KP-7 KP-20 KP-31 KP-50 a Service has the API's defaults")
  func defaults() throws {
    let read = try Read(service("clusterIP: 10.96.0.1, ports: [{port: 80}]")).only(Service.self)
    #expect(read.key == ObjectKey(.service, namespace: "default", name: "web"))
    #expect(read.type == .clusterIP && read.clusterIPs == [IPAddress("10.96.0.1")!] && !read.isHeadless)
    #expect(read.ipFamilies == [.ipv4] && read.ipFamilyPolicy == .singleStack)
    #expect(read.ports == [ServicePort(name: "", protocol: .tcp, port: 80)])
    #expect(read.internalTrafficPolicy == .cluster && read.externalTrafficPolicy == .cluster)
    #expect(read.affinitySeconds == nil && read.healthCheckNodePort == nil && !read.publishNotReadyAddresses)
    #expect(read.externalIPs == [] && read.loadBalancerIngress == [] && read.loadBalancerSourceRanges == [])
    #expect(read.loadBalancing == nil && read.trafficDistribution == nil && read.isServed)
    #expect(
      read == Service(metadata: read.metadata, clusterIPs: read.clusterIPs, ports: [ServicePort(port: 80)]))
  }

  @Test("KP-6 KP-15 KP-21 KP-22 KP-38 KP-50 KP-52 a Service tells all that the data plane needs")
  func all() throws {
    let read = try Read(
      """
      apiVersion: v1
      kind: Service
      metadata:
        name: web
        namespace: shop
        annotations: {kalsae.io/load-balancing: maglev}
      spec:
        type: LoadBalancer
        selector: {app: web}
        clusterIP: 10.96.0.1
        clusterIPs: [10.96.0.1, "fd00:96::1"]
        ipFamilies: [IPv4, IPv6]
        ipFamilyPolicy: PreferDualStack
        ports:
        - {name: http, port: 80, targetPort: web, nodePort: 30080, appProtocol: kubernetes.io/h2c}
        - {name: dns, protocol: UDP, port: 53, targetPort: 5353, nodePort: 30053}
        - {name: dns-tcp, protocol: TCP, port: 53}
        - {name: sig, protocol: SCTP, port: 80}
        externalIPs: [192.0.2.7]
        loadBalancerSourceRanges: [" 10.0.0.0/8", "fd00::/8\\t"]
        internalTrafficPolicy: Local
        externalTrafficPolicy: Local
        healthCheckNodePort: 31000
        sessionAffinity: ClientIP
        sessionAffinityConfig: {clientIP: {timeoutSeconds: 86400}}
        publishNotReadyAddresses: true
        trafficDistribution: PreferSameZone
        allocateLoadBalancerNodePorts: true
      status:
        loadBalancer:
          ingress:
          - {ip: 203.0.113.1}
          - {ip: 203.0.113.2, ipMode: VIP, ports: [{port: 80, protocol: TCP}]}
          - {ip: 203.0.113.3, ipMode: Proxy}
          - {hostname: lb.example.com}
      """
    ).only(Service.self)
    #expect(read.type == .loadBalancer && read.selector == ["app": "web"])
    #expect(read.clusterIP(.ipv6) == IPAddress("fd00:96::1") && read.ipFamilies == [.ipv4, .ipv6])
    #expect(read.ipFamilyPolicy == .preferDualStack)
    #expect(
      read.ports == [
        ServicePort(
          name: "http", port: 80, targetPort: .name("web"), nodePort: 30080, appProtocol: "kubernetes.io/h2c"),
        ServicePort(name: "dns", protocol: .udp, port: 53, targetPort: .number(5353), nodePort: 30053),
        ServicePort(name: "dns-tcp", port: 53), ServicePort(name: "sig", protocol: .sctp, port: 80),
      ])
    #expect(read.externalIPs == [IPAddress("192.0.2.7")!])
    #expect(read.loadBalancerSourceRanges == [IPPrefix("10.0.0.0/8")!, IPPrefix("fd00::/8")!])
    #expect(read.internalTrafficPolicy == .local && read.externalTrafficPolicy == .local)
    #expect(read.healthCheckNodePort == 31000 && read.needsHealthCheck && read.affinitySeconds == 86400)
    #expect(read.publishNotReadyAddresses && read.trafficDistribution == .preferSameZone)
    #expect(read.loadBalancing == .maglev)
    #expect(read.loadBalancerIngress.map(\.ipMode) == [.vip, .vip, .proxy, .vip])
    #expect(read.loadBalancerIngress[3].hostname == "lb.example.com")
    #expect(read.loadBalancerVIPs == [IPAddress("203.0.113.1")!, IPAddress("203.0.113.2")!])
  }

  @Test("KP-38 the older annotation gives the source ranges where the field does not")
  func sourceRangesAnnotation() throws {
    let annotation = "annotations: {\(Service.sourceRangesAnnotation): ' 10.0.0.0/8 , 192.168.0.0/16'}"
    let old = try Read(service("type: LoadBalancer, ports: [{port: 80}]", metadata: "name: web, \(annotation)"))
      .only(Service.self)
    #expect(old.loadBalancerSourceRanges.map(\.description) == ["10.0.0.0/8", "192.168.0.0/16"])
    let both = try Read(
      service(
        "type: LoadBalancer, ports: [{port: 80}], loadBalancerSourceRanges: [172.16.0.0/12]",
        metadata: "name: web, \(annotation)")
    ).only(Service.self)
    #expect(both.loadBalancerSourceRanges.map(\.description) == ["172.16.0.0/12"])
  }

  @Test(
    "KP-1 KP-2 headless services, those without an address, external names and another proxy's are not served",
    arguments: [
      ("clusterIP: None, ports: [{port: 80}]", "name: web"), ("clusterIP: None", "name: web"),
      ("ports: [{port: 80}]", "name: web"), ("clusterIP: '', ports: [{port: 80}]", "name: web"),
      ("clusterIPs: [None]", "name: web"), ("type: ExternalName, externalName: example.com.", "name: web"),
      (
        "clusterIP: 10.96.0.1, ports: [{port: 80}]", "name: web, labels: {service.kubernetes.io/service-proxy-name: ''}"
      ),
    ])
  func notServed(spec: String, metadata: String) throws {
    let read = try Read(service(spec, metadata: metadata)).only(Service.self)
    #expect(!read.isServed)
    #expect(read.isHeadless == spec.contains("None"))
  }

  @Test(
    "what the API server would refuse in a Service is refused, with the remedy",
    arguments: [
      ("", "spec.ports: must not be empty; give the service at least one port, or set clusterIP to \"None\""),
      ("ports: []", "spec.ports: must not be empty"),
      ("ports: [{port: 80}, {name: b, port: 81}]", "spec.ports[0].name: is missing; a service with several"),
      (
        "ports: [{name: a, port: 80}, {name: a, port: 81}]",
        "spec.ports[1].name: \"a\" is the name of spec.ports[0] already; choose another"
      ),
      (
        "ports: [{name: a, port: 80}, {name: b, port: 80}]",
        "spec.ports[1].port: TCP 80 is in spec.ports[0] already; choose another port, or remove one of them"
      ),
      (
        "type: NodePort, ports: [{name: a, port: 80, nodePort: 30000}, {name: b, port: 81, nodePort: 30000}]",
        "spec.ports[1].nodePort: TCP 30000 is the node port of spec.ports[0] already; choose another"
      ),
      ("ports: [{port: 80, protocol: ICMP}]", "spec.ports[0].protocol: expected one of TCP, UDP, SCTP, found"),
      ("ports: [{port: 0}]", "spec.ports[0].port: expected a whole number from 1 to 65535, found the number 0"),
      ("ports: [{name: a}]", "spec.ports[0].port: is missing"), ("ports: [null]", "spec.ports[0]: is null"),
      ("ports: [{port: 80, name: Web}]", "\"Web\" is not a valid DNS label"),
      ("type: NodePort, ports: [{port: 80, nodePort: 65536}]", "spec.ports[0].nodePort: expected a whole number"),
      ("type: NodePort, ports: [{port: 80, nodePort: -1}]", "spec.ports[0].nodePort: expected a whole number"),
      ("ports: [{port: 80, nodePort: 30000}]", "spec.ports[0].nodePort: may not be used with type ClusterIP"),
      ("ports: [{port: 80, targetPort: '80'}]", "write 80 without the quotes"),
      ("ports: [{port: 80, targetPort: 65536}]", "spec.ports[0].targetPort: expected a whole number"),
      ("ports: [{port: 80, targetPort: 1-}]", "\"1-\" is not a valid port name"),
      ("type: LoadBalancer, ports: [{port: 10250}]", "10250 is the kubelet's"),
      ("type: Clusterip, ports: [{port: 80}]", "expected one of ClusterIP, NodePort, LoadBalancer, ExternalName"),
      ("clusterIP: 10.96.0, ports: [{port: 80}]", "spec.clusterIP: expected an IPv4 or IPv6 address"),
      ("clusterIP: 127.0.0.1, ports: [{port: 80}]", "127.0.0.1 is a loopback address"),
      ("clusterIPs: [10.96.0.1, 10.96.0.2], ports: [{port: 80}]", "holds more than one IPv4 address"),
      ("clusterIP: 10.96.0.1, clusterIPs: [10.96.0.2], ports: [{port: 80}]", "differs from spec.clusterIPs[0]"),
      ("clusterIPs: [None, 10.96.0.2], ports: [{port: 80}]", "\"None\" stands for the whole list"),
      ("type: NodePort, clusterIP: None, ports: [{port: 80}]", "may not be \"None\" for a service of type NodePort"),
      ("type: ExternalName, externalName: a.b, clusterIP: 10.96.0.1", "may not be set for a service of type External"),
      ("type: ExternalName", "spec.externalName: is missing"),
      ("type: ExternalName, externalName: a_b", "expected DNS name"),
      (
        "clusterIP: 10.96.0.1, ipFamilies: [IPv6], ports: [{port: 80}]",
        "spec.ipFamilies: entry 0 is IPv6, but spec.clusterIPs[0] is 10.96.0.1; put them in the same order"
      ),
      (
        "clusterIPs: [10.96.0.1, 'fd00::1'], ipFamilies: [IPv4], ports: [{port: 80}]",
        "spec.ipFamilies: has no entry for spec.clusterIPs[1], which is fd00::1; add IPv6"
      ),
      ("ipFamilies: [IPv4, IPv4], ports: [{port: 80}]", "holds more than one IPv4 entry"),
      (
        "clusterIPs: [10.96.0.1, 'fd00::1'], ipFamilyPolicy: SingleStack, ports: [{port: 80}]",
        "set it to PreferDualStack or RequireDualStack"
      ),
      ("externalIPs: [224.0.0.1], ports: [{port: 80}]", "spec.externalIPs[0]: 224.0.0.1 is a multicast address"),
      ("externalIPs: [0.0.0.0], ports: [{port: 80}]", "0.0.0.0 is a wildcard address"),
      ("externalTrafficPolicy: Local, ports: [{port: 80}]", "may only be set where the service is reached from"),
      ("internalTrafficPolicy: local, ports: [{port: 80}]", "expected one of Cluster, Local, found \"local\""),
      ("type: NodePort, healthCheckNodePort: 30000, ports: [{port: 80}]", "spec.healthCheckNodePort: may only be set"),
      ("sessionAffinity: Client, ports: [{port: 80}]", "expected one of None, ClientIP"),
      (
        "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}, ports: [{port: 80}]",
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: expected a whole number from 1 to 86400"
      ),
      (
        "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}, ports: [{port: 80}]",
        "from 1 to 86400, found the number 86401"
      ),
      ("sessionAffinityConfig: {clientIP: {}}, ports: [{port: 80}]", "may not be set where sessionAffinity is None"),
      ("loadBalancerSourceRanges: [10.0.0.0/8], ports: [{port: 80}]", "may only be used with type LoadBalancer"),
      (
        "type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8, 10.0.0.1], ports: [{port: 80}]",
        "spec.loadBalancerSourceRanges[1]: expected a block in CIDR notation"
      ),
      ("trafficDistribution: Close, ports: [{port: 80}]", "expected one of PreferClose, PreferSameZone"),
      ("selector: {app: a b}, ports: [{port: 80}]", "is not a valid label value"),
    ])
  func refused(spec: String, message: String) throws {
    let read = try Read(service(spec))
    #expect(read.resources.isEmpty)
    #expect(read.errors.count == 1 && read.errors[0].contains(message), "\(read.errors)")
    #expect(read.errors.allSatisfy { $0.hasPrefix("test.yaml:4:") && $0.contains(": Service default/web: spec") })
  }

  @Test(
    "KP-22 what the API server would refuse in a Service's status is refused",
    arguments: [
      ("[{ip: 10.0.0}]", "status.loadBalancer.ingress[0].ip: expected an IPv4 or IPv6 address"),
      ("[{ip: 10.0.0.1, ipMode: Vip}]", "expected one of VIP, Proxy"),
      ("[{hostname: a.b, ipMode: VIP}]", "may not be set without ip"), ("[{}]", "has neither ip nor hostname"),
      ("[{hostname: A}]", "is not a valid DNS name"),
    ])
  func refusedStatus(ingress: String, message: String) throws {
    let status = "{loadBalancer: {ingress: \(ingress)}}"
    let read = try Read(service("type: LoadBalancer, ports: [{port: 80}]", status: status))
    #expect(read.errors.count == 1 && read.errors[0].contains(message), "\(read.errors)")
    let other = try Read(service("ports: [{port: 80}]", status: "{loadBalancer: {ingress: [{ip: 10.0.0.1}]}}"))
    #expect(other.errors.count == 1 && other.errors[0].contains("may only be used with type LoadBalancer"))
  }

  @Test("KP-50 a client keeps its endpoint for three hours, or for what is given, a second to a day")
  func affinity() throws {
    func seconds(_ config: String) throws -> [UInt32?] {
      try Read(service("sessionAffinity: ClientIP, \(config) ports: [{port: 80}]")).resources.map { resource in
        if case .service(let service) = resource { service.affinitySeconds } else { nil }
      }
    }
    #expect(try seconds("") == [10800])
    #expect(try seconds("sessionAffinityConfig: {clientIP: {}},") == [10800])
    for (given, expected) in [("1", [1]), ("86400", [86400]), ("0", []), ("86401", [])] as [(String, [UInt32])] {
      #expect(try seconds("sessionAffinityConfig: {clientIP: {timeoutSeconds: \(given)}},") == expected, "\(given)")
    }
  }

  @Test("KP-15 a way of load balancing that nobody knows is refused")
  func loadBalancing() throws {
    let metadata = "name: web, annotations: {kalsae.io/load-balancing: roundrobin}"
    let read = try Read(service("ports: [{port: 80}]", metadata: metadata))
    #expect(read.errors.count == 1 && read.errors[0].contains("expected one of random, maglev"), "\(read.errors)")
  }
}

@Suite struct SocketAddressTests {
  @Test("addresses with ports are read and written")
  func text() {
    for text in ["10.0.0.1:80", "[fd00::1]:65535", "0.0.0.0:0"] {
      #expect(SocketAddress(text)?.description == text)
    }
    for text in ["10.0.0.1", "fd00::1:80", "[10.0.0.1]:80", "10.0.0.1:", "10.0.0.1:65536", "10.0.0.1:+8", ":80", ""] {
      #expect(SocketAddress(text) == nil, "\(text)")
    }
  }
}
