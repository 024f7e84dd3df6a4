import Addresses
import Testing

@testable import Model

@Suite struct NodeConfigurationTests {
  private func settings(_ spec: String) throws -> NodeSettings {
    NodeSettings(default: try Read(nodeConfiguration(spec)).only(NodeConfiguration.self).spec)
  }

  @Test("KP-15 KP-23 KP-34 KP-37 KP-39 KP-50 KP-53 KP-54 NODE-5 the defaults are those of the field")
  func defaults() throws {
    for settings in [NodeSettings(), try settings("{}")] {
      #expect(settings.clusterCIDRs == [] && settings.serviceCIDRs == [] && !settings.masqueradeAll)
      #expect(!settings.localhostNodePorts && settings.nodePortAddresses == .all)
      #expect(settings.loadBalancing == .random && settings.affinityTableSize == 65536 && settings.tcpBeLiberal)
      #expect(settings.healthzBindAddress == .at(SocketAddress("0.0.0.0:10256")!))
      #expect(settings.metricsBindAddress == .at(SocketAddress("127.0.0.1:10249")!))
      #expect(settings.vxlanPort == 4789 && settings.vxlanVNI == 4096)
      #expect(settings.genevePort == 6081 && settings.geneveVNI == 4096)
      #expect(settings.greKey == nil && !settings.greChecksum && !settings.greSequence)
      #expect(!settings.udpTunnelChecksum(over: .ipv4) && settings.udpTunnelChecksum(over: .ipv6))
      #expect(settings.tunnelOffload)
      #expect(settings.dscpMode == .uniform && settings.ttlMode == .pipe && settings.ttl == 64)
      #expect(settings.mtu == nil && settings.sourceCheck && settings.workers == 1 && !settings.busyPoll)
      #expect(settings.ports == .afPacket && settings.xdpFrames == 32768)
      #expect(settings.ebpf == .auto && settings.ebpfHooks == [.overlay])
      #expect(settings.loadBalancerMode == .snat)
      #expect(settings.flowTimeouts.tcpEstablished == .seconds(86400))
      #expect(settings.icmpErrorRate == 1000 && settings.flowTableSize == 262_144)
    }
  }

  @Test("where ebpf is said, all hooks are used that a virtual device bears")
  func kernel() throws {
    for word in ["auto", "required", "'off'"] {
      let hooks = try settings("ebpf: \(word)").ebpfHooks
      #expect(hooks == Set(EBPFHook.allCases).subtracting([.xdpLB]))
    }
    #expect(try settings("ebpfHooks: [connect4]").ebpf == .auto)
  }

  @Test("the example of the manual and every other field is read")
  func all() throws {
    let settings = try settings(
      """
      clusterCIDRs: [10.244.0.0/16, "fd00:10:244::/48"]
      serviceCIDRs: [10.96.0.0/16]
      masqueradeAll: true
      localhostNodePorts: true
      nodePortAddresses: [primary]
      loadBalancing: maglev
      affinityTableSize: 1024
      tcpBeLiberal: false
      healthzBindAddress: "[::1]:8080"
      metricsBindAddress: ""
      underlayInterface: eth1
      mtu: 9000
      neighbors: [{address: 10.0.0.2, mac: "02:00:00:00:00:02"}]
      tunnelIPFamily: IPv6
      vxlanPort: 8472
      vxlanVNI: 16777215
      genevePort: 6082
      geneveVNI: 7
      greKey: 4294967295
      greChecksum: true
      greSequence: true
      udpTunnelChecksum: false
      tunnelOffload: false
      dscpMode: pipe
      dscp: 46
      ttlMode: uniform
      ttl: 255
      sourceCheck: false
      icmpErrorRate: 0
      icmpErrorBurst: 6
      pathMTUTimeout: 5m
      fragmentTimeout: 60
      ports: af_xdp
      xdpFrames: 8192
      workers: 2
      busyPoll: true
      ebpf: auto
      ebpfHooks: [connect4, getpeername4]
      loadBalancerMode: dsr
      flowTableSize: 1024
      flowTimeouts: {tcpEstablished: 2h5m, tcpTransient: 240, udp: 30s, sctp: 1m, icmp: 1.5s, other: 1h}
      """)
    #expect(settings.clusterCIDRs.map(\.description) == ["10.244.0.0/16", "fd00:10:244::/48"])
    #expect(settings.serviceCIDRs.map(\.description) == ["10.96.0.0/16"])
    #expect(settings.masqueradeAll && settings.localhostNodePorts && settings.nodePortAddresses == .primary)
    #expect(settings.loadBalancing == .maglev && settings.affinityTableSize == 1024 && !settings.tcpBeLiberal)
    #expect(settings.healthzBindAddress == .at(SocketAddress("[::1]:8080")!))
    #expect(settings.metricsBindAddress == .disabled)
    #expect(settings.underlayInterface == "eth1" && settings.mtu == 9000)
    #expect(
      settings.neighbors == [
        StaticNeighbor(address: IPAddress("10.0.0.2")!, macAddress: MACAddress("02:00:00:00:00:02")!)
      ])
    #expect(settings.tunnelIPFamily == .ipv6 && settings.vxlanPort == 8472 && settings.vxlanVNI == 0xff_ffff)
    #expect(settings.genevePort == 6082 && settings.geneveVNI == 7)
    #expect(settings.greKey == .max && settings.greChecksum && settings.greSequence)
    #expect(!settings.udpTunnelChecksum(over: .ipv6) && !settings.tunnelOffload)
    #expect(settings.dscpMode == .pipe && settings.dscp == 46 && settings.ttlMode == .uniform && settings.ttl == 255)
    #expect(!settings.sourceCheck && settings.icmpErrorRate == 0 && settings.icmpErrorBurst == 6)
    #expect(settings.pathMTUTimeout == .seconds(300) && settings.fragmentTimeout == .seconds(60))
    #expect(settings.workers == 2 && settings.busyPoll && settings.flowTableSize == 1024)
    #expect(settings.ports == .afXDP && settings.xdpFrames == 8192)
    #expect(settings.ebpf == .auto && settings.ebpfHooks == [.connect4, .getpeername4])
    #expect(settings.loadBalancerMode == .dsr)
    let timeouts = settings.flowTimeouts
    #expect(timeouts.tcpEstablished == .seconds(7500) && timeouts.tcpTransient == .seconds(240))
    #expect(timeouts.udp == .seconds(30) && timeouts.sctp == .seconds(60))
    #expect(timeouts.icmp == .milliseconds(1500) && timeouts.other == .seconds(3600))
  }

  @Test("every field that is known is read: the list of names has no dead entry")
  func names() throws {
    // A value of the wrong type is an error at the field itself exactly where the field is read.
    for name in NodeConfiguration.Spec.fields {
      let read = try Read(nodeConfiguration("\(name): {a: {}}"))
      #expect(read.errors.contains { $0.contains("spec.\(name)") }, "\(name)")
    }
  }

  @Test("KP-53 KP-54 an address alone has the server's own port")
  func bindAddress() throws {
    #expect(try settings("healthzBindAddress: 10.0.0.1").healthzBindAddress == .at(SocketAddress("10.0.0.1:10256")!))
    #expect(try settings("metricsBindAddress: '::'").metricsBindAddress == .at(SocketAddress("[::]:10249")!))
  }

  @Test("a node's own configuration overrides the default field by field")
  func override() {
    var common = NodeConfiguration.Spec()
    common.mtu = 1400
    common.vxlanPort = 8472
    common.flowTimeouts.udp = .seconds(10)
    common.flowTimeouts.icmp = .seconds(20)
    var own = NodeConfiguration.Spec()
    own.mtu = 9000
    own.masqueradeAll = false
    own.flowTimeouts.udp = .seconds(11)
    var state = State()
    for (name, spec) in [("default", common), ("n1", own)] {
      state.apply(.upsert(NodeConfiguration(metadata: ObjectMetadata(name: name), spec: spec).resource))
    }
    let first = state.settings(ofNode: "n1")
    #expect(first.mtu == 9000 && first.vxlanPort == 8472)
    #expect(first.flowTimeouts.udp == .seconds(11) && first.flowTimeouts.icmp == .seconds(20))
    #expect(first.flowTimeouts.tcpTransient == .seconds(240))
    let second = state.settings(ofNode: "n2")
    #expect(second.mtu == 1400 && second.flowTimeouts.udp == .seconds(10))
  }

  @Test(
    "KP-23 nodePortAddresses is primary or blocks",
    arguments: [
      ("nodePortAddresses: primary", NodePortAddresses.primary), ("nodePortAddresses: [primary]", .primary),
      ("nodePortAddresses: []", .all),
      ("nodePortAddresses: [10.0.0.0/8]", .blocks([IPPrefix("10.0.0.0/8")!])),
    ])
  func nodePorts(text: String, expected: NodePortAddresses) throws {
    #expect(try settings(text).nodePortAddresses == expected)
  }

  @Test(
    "a misspelt field is refused, with a suggestion where one is near",
    arguments: [
      ("clusterCIDR: [10.0.0.0/8]", "spec.clusterCIDR: unknown field; did you mean clusterCIDRs?"),
      ("masquaradeAll: true", "did you mean masqueradeAll?"), ("VXLANPort: 1", "did you mean vxlanPort?"),
      (
        "flowTimeouts: {tcpEstablised: 1}",
        "spec.flowTimeouts.tcpEstablised: unknown field; did you mean tcpEstablished?"
      ),
      ("neighbors: [{address: 10.0.0.1, mac: 02:00:00:00:00:01, macs: a}]", "spec.neighbors[0].macs: unknown field"),
      ("frobnicate: 1", "spec.frobnicate: unknown field; known are clusterCIDRs, serviceCIDRs"),
    ])
  func typo(text: String, message: String) throws {
    let read = try Read(nodeConfiguration(text))
    #expect(read.resources.isEmpty)
    #expect(read.errors.count == 1 && read.errors[0].contains(message), "\(read.errors)")
    #expect(read.errors[0].hasPrefix("test.yaml:5:"))
  }

  @Test(
    "values out of range or of the wrong type are refused, with the remedy",
    arguments: [
      ("mtu: 575", "expected a whole number from 576 to 65535, found the number 575"), ("mtu: 65536", "65535"),
      ("mtu: big", "found the string \"big\""), ("vxlanVNI: 16777216", "0 to 16777215"), ("dscp: 64", "0 to 63"),
      ("ttl: 0", "1 to 255"), ("vxlanPort: 0", "1 to 65535"), ("greKey: 4294967296", "0 to 4294967295"),
      ("greKey: -1", "0 to 4294967295"), ("dscpMode: copy", "expected one of uniform, pipe, found \"copy\""),
      ("tunnelIPFamily: ipv4", "expected one of IPv4, IPv6, found \"ipv4\""),
      ("clusterCIDRs: 10.0.0.0/8", "expected a list, found the string"),
      ("clusterCIDRs: [10.0.0.1/8]", "write 10.0.0.0/8"),
      ("clusterCIDRs: [10.0.0.0/8, 10.0.0.0/8]", "spec.clusterCIDRs[1]: 10.0.0.0/8 stands in this list twice"),
      ("clusterCIDRs: [null]", "spec.clusterCIDRs[0]: is null"), ("clusterCIDRs: [~, 10.0.0.0/8]", "is null"),
      ("nodePortAddresses: [primary, 10.0.0.0/8]", "\"primary\" stands for the whole list"),
      ("genevePort: 4790\nvxlanPort: 4790", "is the same as vxlanPort"),
      ("flowTimeouts: {udp: 0}", "expected a time from 1s to 8760h"),
      ("flowTimeouts: {udp: fast}", "\"30s\" or \"24h\""),
      ("flowTimeouts: {udp: 30 s}", "expected a time"), ("pathMTUTimeout: 299s", "from 5m"),
      ("neighbors: [{address: 10.0.0.1}]", "spec.neighbors[0].mac: is missing"),
      (
        "neighbors: [{address: 10.0.0.1, mac: 02:00:00:00:00:01}, {address: 10.0.0.1, mac: 02:00:00:00:00:02}]", "twice"
      ),
      ("loadBalancing: hash", "expected one of random, maglev"), ("affinityTableSize: 1023", "from 1024 to 16777216"),
      ("healthzBindAddress: localhost", "expected an address with or without a port such as 0.0.0.0:10256"),
      ("metricsBindAddress: 127.0.0.1:0", "such as 0.0.0.0:10249, or \"\" for no server, found \"127.0.0.1:0\""),
      ("underlayInterface: ''", "is not a valid interface name"), ("busyPoll: 1", "expected true or false"),
      ("ebpf: 'on'", "expected one of auto, off, required"), ("ebpfHooks: [connect5]", "expected one of connect4"),
      ("ports: xdp", "expected one of af_packet, af_xdp"), ("xdpFrames: 100", "from 8192 to 131072"),
      ("workers: .inf", "1 to 64"), ("workers: .nan", "1 to 64"), ("workers: 1e400", "1 to 64"),
    ])
  func refused(text: String, message: String) throws {
    let read = try Read(nodeConfiguration(text))
    #expect(read.resources.isEmpty)
    #expect(read.errors.count == 1 && read.errors[0].contains(message), "\(read.errors)")
  }

  @Test("an object reports all of its errors at once, and no more than can be read")
  func many() throws {
    let read = try Read(nodeConfiguration("mtu: 1\nttl: 0\nfrob: 1"))
    #expect(read.errors.count == 3)
    let flood = try Read(
      nodeConfiguration("clusterCIDRs: [\(Array(repeating: "x", count: 1000).joined(separator: ","))]"))
    #expect(flood.errors.count == Findings.limit + 1)
    #expect(flood.errors.last?.contains("more errors follow") == true)
  }
}

@Suite struct DurationTests {
  @Test(
    "Go's notation of time is read and written",
    arguments: [
      ("0", Duration.zero, "0s"), ("30s", .seconds(30), "30s"), ("1h30m", .seconds(5400), "1h30m"),
      ("24h0m0s", .seconds(86400), "24h"), ("500ms", .milliseconds(500), "500ms"), ("1.5h", .seconds(5400), "1h30m"),
      ("90s", .seconds(90), "1m30s"), ("2h45m30.5s", .milliseconds(9_930_500), "2h45m30s500ms"), ("0s", .zero, "0s"),
    ])
  func goNotation(text: String, expected: Duration, canonical: String) {
    #expect(Duration(goNotation: text) == expected)
    #expect(expected.goNotation == canonical)
  }

  @Test(
    "what is no time is refused",
    arguments: [
      "", "30", "s", "-1s", "+1s", ".s", "1..5s", "1d", "1 s", "1s ", "99999999999999999999h", "1e3s", "infs",
    ])
  func malformed(text: String) { #expect(Duration(goNotation: text) == nil) }
}
