import Addresses
import Testing

@testable import Model

@Suite struct NodeTests {
  @Test("NODE-5 a Node tells its addresses, blocks, subnet and tunnel MAC address")
  func node() throws {
    let node = try Read(
      """
      apiVersion: v1
      kind: Node
      metadata:
        name: n1
        labels: {topology.kubernetes.io/zone: z1}
        annotations: {projectcalico.org/IPv4Address: 10.0.0.1/24}
      spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"], taints: [{key: a, effect: b}]}
      status:
        addresses:
        - {type: ExternalIP, address: 192.0.2.1}
        - {type: InternalIP, address: 10.0.0.9}
        - {type: InternalIP, address: "fd00::9"}
        - {type: Hostname, address: n1}
      """
    ).only(Node.self)
    #expect(node.key == ObjectKey(.node, name: "n1"))
    #expect(node.podCIDRs.map(\.description) == ["10.244.1.0/24", "fd00:10:244:1::/64"])
    #expect(node.address(.ipv4) == IPAddress("10.0.0.1"))
    #expect(node.address(.ipv6) == IPAddress("fd00::9"))
    #expect(node.subnet(.ipv4) == IPPrefix("10.0.0.0/24") && node.subnet(.ipv6) == nil)
    #expect(node.addresses.count == 3)
    #expect(node.zone == "z1")
    #expect(node.tunnelMAC == MACAddress(derivedFrom: "n1"))
  }

  @Test("without an annotation the internal address counts before the external one")
  func addressOrder() throws {
    var node = Node(metadata: ObjectMetadata(name: "n"), addresses: [NodeAddress(.externalIP, IPAddress("192.0.2.1")!)])
    #expect(node.address(.ipv4) == IPAddress("192.0.2.1"))
    node.addresses.append(NodeAddress(.internalIP, IPAddress("10.0.0.1")!))
    #expect(node.address(.ipv4) == IPAddress("10.0.0.1"))
    #expect(node.address(.ipv6) == nil)
  }

  @Test("all errors of a Node are told, each with its field and line")
  func errors() throws {
    let read = try Read(
      """
      apiVersion: v1
      kind: Node
      metadata:
        name: n1
        annotations:
          projectcalico.org/IPv4Address: fd00::1/64
          kalsae.io/vtep-mac: "01:00:00:00:00:01"
      spec:
        podCIDR: 10.244.1.0/33
        podCIDRs: [10.244.1.0/24, 10.244.2.0/24]
      status:
        addresses:
        - {type: InternalIP, address: 10.0.0.256}
        - {type: Internal, address: 10.0.0.1}
      """)
    #expect(
      Set(read.errors) == [
        "test.yaml:9:12: Node n1: spec.podCIDR: expected a block in CIDR notation such as 10.244.0.0/16 or"
          + " fd00:10::/64, found \"10.244.1.0/33\"",
        "test.yaml:10:13: Node n1: spec.podCIDRs: holds more than one IPv4 block; at most one of each family is"
          + " allowed",
        "test.yaml:13:33: Node n1: status.addresses[0].address: expected an IPv4 or IPv6 address such as 10.0.0.1 or"
          + " fd00::1, found \"10.0.0.256\"",
        "test.yaml:14:12: Node n1: status.addresses[1].type: expected one of InternalIP, ExternalIP, Hostname,"
          + " InternalDNS, ExternalDNS, found \"Internal\"",
        "test.yaml:6:36: Node n1: metadata.annotations[\"projectcalico.org/IPv4Address\"]: expected an IPv4 address"
          + " with the length of its subnet such as 10.0.0.1/24, found \"fd00::1/64\"",
        "test.yaml:7:25: Node n1: metadata.annotations[\"kalsae.io/vtep-mac\"]: expected a unicast MAC address such as"
          + " 02:00:00:00:00:01, found \"01:00:00:00:00:01\"",
      ])
  }
}

@Suite struct NamespaceTests {
  @Test("NP-4 a Namespace always carries its name as a label")
  func label() throws {
    let namespace = try Read("{apiVersion: v1, kind: Namespace, metadata: {name: dev, labels: {team: a}}}")
      .only(Namespace.self)
    #expect(namespace.metadata.labels == ["team": "a", "kubernetes.io/metadata.name": "dev"])
  }
}

@Suite struct PodTests {
  private static let manifest = """
    apiVersion: v1
    kind: Pod
    metadata:
      name: web-0
      labels: {app: web}
      annotations:
        kalsae.io/interface: kalweb0
        kalsae.io/mac: 02:00:00:00:00:07
        kalsae.io/interface-type: tap
        kalsae.io/netns: web
    spec:
      nodeName: n1
      restartPolicy: Always
      initContainers:
      - {name: setup, ports: [{name: setup, containerPort: 1}]}
      - {name: mesh, restartPolicy: Always, ports: [{name: mesh, containerPort: 15001}]}
      containers:
      - name: main
        ports:
        - {name: http, containerPort: 8080}
        - {name: dns, containerPort: 53, protocol: UDP, hostPort: 5353}
    status:
      phase: Running
      podIP: 10.244.1.2
      podIPs: [{ip: 10.244.1.2}, {ip: "fd00:10:244:1::2"}]
    """

  @Test("NP-5 a Pod tells its ports by name, its addresses and how it is attached")
  func pod() throws {
    let pod = try Read(Self.manifest).only(Pod.self)
    #expect(pod.key == ObjectKey(.pod, namespace: "default", name: "web-0"))
    #expect(pod.key.description == "Pod default/web-0")
    #expect(pod.nodeName == "n1" && !pod.hostNetwork && pod.phase == .running && pod.hasOwnNetwork)
    #expect(pod.port(named: "http", protocol: .tcp) == 8080)
    #expect(pod.port(named: "http", protocol: .udp) == nil)
    #expect(pod.port(named: "dns", protocol: .udp) == 53)
    // A sidecar's ports count, those of a container that ends before the others start do not.
    #expect(pod.port(named: "mesh", protocol: .tcp) == 15001)
    #expect(pod.port(named: "setup", protocol: .tcp) == nil)
    #expect(pod.address(.ipv6) == IPAddress("fd00:10:244:1::2"))
    #expect(pod.attachment.interface == "kalweb0" && pod.attachment.type == .tap)
    #expect(pod.attachment.networkNamespace == "web")
    #expect(pod.macAddress == MACAddress("02:00:00:00:00:07"))
  }

  @Test("a Pod without annotations is on a veth, with a MAC address made from its first address")
  func defaults() throws {
    let pod = try Read(
      """
      {apiVersion: v1, kind: Pod, metadata: {name: a, namespace: dev}, spec: {nodeName: n1},
       status: {podIP: 10.244.1.3}}
      """
    ).only(Pod.self)
    #expect(pod.attachment == Pod.Attachment() && pod.attachment.type == .veth)
    #expect(pod.addresses == [IPAddress("10.244.1.3")!])
    #expect(pod.macAddress == MACAddress("0a:58:0a:f4:01:03"))
  }

  @Test("a Pod that has ended, waits for an address or is on the host's network has no network of its own")
  func withoutNetwork() throws {
    for (spec, status, expected) in [
      ("nodeName: n1", "phase: Running, podIP: 10.0.0.1", true), ("", "podIP: ''", false), ("", "", false),
      ("", "phase: Succeeded, podIP: 10.0.0.1", false), ("", "phase: Failed, podIP: 10.0.0.1", false),
      ("hostNetwork: true", "phase: Running, podIP: 10.0.0.1", false),
    ] {
      let pod = try Read("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {\(spec)}, status: {\(status)}}")
        .only(Pod.self)
      #expect(pod.hasOwnNetwork == expected, "\(spec) \(status)")
    }
  }

  @Test(
    "what the API server would refuse in a Pod is refused, with the remedy",
    arguments: [
      ("status: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}", "holds more than one IPv4 address"),
      ("status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.2}]}", "differs from status.podIPs[0].ip"),
      ("status: {podIPs: [{address: 10.0.0.1}]}", "status.podIPs[0].ip: is missing"),
      ("status: {podIP: 10.0.0}", "expected an IPv4 or IPv6 address"),
      ("status: {podIP: 10}", "expected a string, found the number 10; put it in quotation marks"),
      ("status: {phase: Ready}", "expected one of Pending, Running, Succeeded, Failed, Unknown, found \"Ready\""),
      ("spec: {hostNetwork: maybe}", "expected true or false, found the string \"maybe\""),
      ("spec: {containers: {name: a}}", "spec.containers: expected a list, found a mapping"),
      (
        "spec: {containers: [{ports: [{containerPort: 0}]}]}",
        "expected a whole number from 1 to 65535, found the number 0"
      ),
      ("spec: {containers: [{ports: [{containerPort: '80'}]}]}", "remove the quotation marks"),
      ("spec: {containers: [{ports: [{containerPort: 80.5}]}]}", "found the number 80.5"),
      ("spec: {containers: [{ports: [{name: a}]}]}", "spec.containers[0].ports[0].containerPort: is missing"),
      ("spec: {containers: [{ports: [{containerPort: 80, name: HTTP}]}]}", "is not a valid port name"),
      ("spec: {containers: [{ports: [{containerPort: 80, protocol: ICMP}]}]}", "expected one of TCP, UDP, SCTP"),
      ("spec: hello", "spec: expected a mapping (key: value), found the string \"hello\""),
    ])
  func refused(text: String, message: String) throws {
    let read = try Read("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n\(text)\n")
    #expect(read.resources.isEmpty)
    #expect(read.errors.contains { $0.hasPrefix("test.yaml:4:") && $0.contains(message) }, "\(read.errors)")
  }

  @Test(
    "wrong annotations of ours are refused, with the remedy",
    arguments: [
      ("kalsae.io/interface: a-name-that-is-too-long", "is not a valid interface name"),
      ("kalsae.io/interface: a/b", "is not a valid interface name"),
      ("kalsae.io/mac: ff:ff:ff:ff:ff:ff", "expected a unicast MAC address"),
      ("kalsae.io/interface-type: macvlan", "expected one of veth, tap"),
      ("kalsae.io/interface-type: tap", "needs the network namespace"),
      ("kalsae.io/netns: a/b", "the name of a network namespace or an absolute path"),
      ("kalsae.io/netns: ''", "the name of a network namespace or an absolute path"),
    ])
  func annotations(text: String, message: String) throws {
    let read = try Read(
      "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n    \(text)\n")
    #expect(read.errors.count == 1 && read.errors[0].contains(message), "\(read.errors)")
    #expect(read.errors[0].contains("metadata.annotations[\"kalsae.io/"))
  }

  @Test(
    "names and labels keep Kubernetes' rules",
    arguments: [
      ("name: Web", "is not a valid DNS name"), ("name: a..b", "is not a valid DNS name"),
      ("name: -a", "is not a valid DNS name"), ("name: 7", "put it in quotation marks"),
      ("namespace: a", "metadata.name: is missing"), ("name: a, namespace: a.b", "is not a valid DNS label"),
      ("name: a, labels: {a: b c}", "is not a valid label value"),
      ("name: a, labels: {a/b/c: d}", "is not a valid label key"),
      ("name: a, labels: {a: true}", "found the boolean true; put it in quotation marks"),
      ("name: a, annotations: {'a b': c}", "is not a valid annotation key"),
    ])
  func metadata(text: String, message: String) throws {
    let read = try Read("{apiVersion: v1, kind: Pod, metadata: {\(text)}}")
    #expect(read.errors.count == 1 && read.errors[0].contains(message), "\(read.errors)")
  }
}

@Suite struct IPReservationTests {
  @Test("IPAM-2 an IPReservation names blocks and single addresses; what is neither is refused")
  func reads() throws {
    func manifest(_ list: String) -> String {
      """
      apiVersion: projectcalico.org/v3
      kind: IPReservation
      metadata: {name: kept}
      spec: {reservedCIDRs: [\(list)]}
      """
    }
    let read = try Read(manifest("10.0.0.0/29, 10.0.1.7, 'fd00::/120'")).only(IPReservation.self)
    #expect(read.reservedCIDRs.map(\.description) == ["10.0.0.0/29", "10.0.1.7/32", "fd00::/120"])
    #expect(try Read(manifest("10.0.0")).errors.first?.contains("spec.reservedCIDRs[0]") == true)
  }
}

@Suite struct IPPoolTests {
  @Test("IPAM-2 an IPPool has Calico's defaults")
  func defaults() throws {
    let pool = try Read(ipPool("cidr: 10.244.0.0/16")).only(IPPool.self)
    #expect(pool.blockSize == 26 && pool.encapsulation == nil && !pool.natOutgoing && !pool.disabled)
    #expect(pool.nodeSelector == .all)
    #expect(try Read(ipPool("cidr: 'fd00:10:244::/48'")).only(IPPool.self).blockSize == 122)
  }

  @Test(
    "NODE-5 each pool names its tunnel and when it is used",
    arguments: [
      ("ipipMode: Always", IPPool.Tunnel.ipip, IPPool.EncapsulationMode.always),
      ("vxlanMode: CrossSubnet, ipipMode: Never", .vxlan, .crossSubnet),
      ("greMode: Always, ipipMode: ''", .gre, .always), ("geneveMode: CrossSubnet", .geneve, .crossSubnet),
    ])
  func modes(text: String, tunnel: IPPool.Tunnel, mode: IPPool.EncapsulationMode) throws {
    let pool = try Read(ipPool("cidr: 10.244.0.0/16, \(text)")).only(IPPool.self)
    let encapsulation = try #require(pool.encapsulation)
    #expect(encapsulation.tunnel == tunnel && encapsulation.mode == mode)
  }

  @Test("IPAM-2 an IPPool reads all fields")
  func all() throws {
    let pool = try Read(
      ipPool("cidr: 10.244.0.0/16, blockSize: 24, natOutgoing: true, disabled: true, nodeSelector: \"zone == 'a'\"")
    ).only(IPPool.self)
    #expect(pool.blockSize == 24 && pool.natOutgoing && pool.disabled)
    #expect(pool.nodeSelector == .equal("zone", "a"))
    let second = "{apiVersion: crd.projectcalico.org/v1, kind: IPPool, metadata: {name: b}, spec: {cidr: 10.0.0.0/8}}"
    #expect(try Read(second).only(IPPool.self).cidr == IPPrefix("10.0.0.0/8"))
  }

  @Test(
    "IPAM-2 NODE-5 what Calico would refuse in an IPPool is refused, with the remedy",
    arguments: [
      ("blockSize: 26", "spec.cidr: is missing; this field is required"),
      ("cidr: 10.244.0.5/16", "has bits set after the prefix; write 10.244.0.0/16"),
      ("cidr: 10.244.0.0", "expected a block in CIDR notation"),
      ("cidr: 10.244.0.0/16, blockSize: 19", "expected a whole number from 20 to 32, found the number 19"),
      ("cidr: 'fd00::/64', blockSize: 26", "expected a whole number from 116 to 128"),
      ("cidr: 10.244.0.0/28, blockSize: 26", "set blockSize to 28 or more"),
      ("cidr: 10.244.0.0/28", "set blockSize to 28 or more"),
      ("cidr: 169.254.3.0/24", "overlaps the link-local addresses"), ("cidr: 0.0.0.0/0", "overlaps the"),
      ("cidr: 10.244.0.0/16, vxlanMode: always", "expected one of Always, CrossSubnet, Never, found \"always\""),
      (
        "cidr: 10.244.0.0/16, vxlanMode: Always, ipipMode: CrossSubnet",
        "spec.vxlanMode: ipipMode and vxlanMode are both set; set all but one of them to Never"
      ),
      ("cidr: 10.244.0.0/16, nodeSelector: zone = 'a'", "column 6: expected =="),
    ])
  func refused(text: String, message: String) throws {
    let read = try Read(ipPool(text))
    #expect(read.resources.isEmpty)
    #expect(read.errors.contains { $0.hasPrefix("test.yaml:4:") && $0.contains(message) }, "\(read.errors)")
  }
}
