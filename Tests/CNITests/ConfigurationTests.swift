import Addresses
import CNI
import Testing

@Suite("CNI requests and configurations")
struct ConfigurationTests {
  /// Section 1 of the specification, "Example configuration", as section 3 derives it for the first plugin.
  static let bridge = """
    {"cniVersion": "1.1.0", "name": "dbnet", "type": "bridge", "bridge": "cni0", "keyA": ["some more", "plugin specific", "configuration"],
     "ipam": {"type": "host-local", "subnet": "10.1.0.0/16", "gateway": "10.1.0.1"}, "dns": {"nameservers": ["10.1.0.1"]}}
    """

  /// Section 3, "Example": what the second plugin of the chain gets, with the result of the first.
  static let tuning = """
    {"cniVersion": "1.1.0", "name": "dbnet", "type": "tuning", "sysctl": {"net.core.somaxconn": "500"},
     "runtimeConfig": {"mac": "00:11:22:33:44:66"},
     "prevResult": {
       "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2}],
       "routes": [{"dst": "0.0.0.0/0"}],
       "interfaces": [{"name": "cni0", "mac": "00:11:22:33:44:55"}, {"name": "veth3243", "mac": "55:44:33:22:11:11"},
         {"name": "eth0", "mac": "99:88:77:66:55:44", "sandbox": "/var/run/netns/blue"}],
       "dns": {"nameservers": ["10.1.0.1"]}}}
    """

  static let environment = [
    "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "cnitool-77383ca0a0715733ca6f", "CNI_NETNS": "/var/run/netns/blue",
    "CNI_IFNAME": "eth0", "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
  ]

  private func request(
    _ changes: [String: String?] = [:], _ configuration: String = bridge
  ) throws(CNIError) -> CNIRequest {
    var variables = Self.environment
    for (key, value) in changes { variables[key] = value }
    return try CNIRequest(environment: { variables[$0] }, input: Array(configuration.utf8))
  }

  private func code(_ changes: [String: String?] = [:], _ configuration: String = bridge) -> CNIError? {
    do throws(CNIError) {
      _ = try request(changes, configuration)
      return nil
    } catch {
      return error
    }
  }

  @Test("CNI-1 CNI-2: the specification's own configuration and environment are understood")
  func specification() throws {
    let request = try request()
    #expect(request.command == .add)
    #expect(request.containerID == "cnitool-77383ca0a0715733ca6f")
    #expect(request.path == ["/opt/cni/bin", "/usr/lib/cni"])
    #expect(request.arguments["K8S_POD_NAME"] == "web-0")
    let configuration = request.configuration
    #expect(configuration.name == "dbnet")
    #expect(configuration.addressManager == "host-local")
    #expect(configuration.dns?["nameservers"]?.elements == [.string("10.1.0.1")])
    #expect(configuration.json["keyA"]?.elements?.count == 3)
    #expect(configuration.previous == nil)
    #expect(configuration.interface == .veth)
  }

  @Test("CNI-11: prevResult is taken as the plugin before left it")
  func chained() throws {
    let configuration = try request([:], Self.tuning).configuration
    let previous = try #require(configuration.previous)
    #expect(previous.interfaces.map(\.name) == ["cni0", "veth3243", "eth0"])
    #expect(previous.interfaces[2].sandbox == "/var/run/netns/blue")
    #expect(
      previous.addresses == [
        .init(.v4(IPv4Address(10, 1, 0, 5)), prefixLength: 16, gateway: IPAddress("10.1.0.1"), interface: 2)
      ])
    #expect(previous.routes.map(\.destination) == [IPPrefix("0.0.0.0/0")!])
    #expect(configuration.runtime.mac == MACAddress("00:11:22:33:44:66"))
  }

  @Test("CNI-10: capabilities are read")
  func capabilities() throws {
    let runtime = try request(
      [:],
      """
      {"cniVersion": "1.0.0", "name": "n", "type": "kalsae", "runtimeConfig": {
        "ips": ["10.244.0.9/26", "fd00::9"], "ipRanges": [[{"subnet": "10.1.2.0/24"}]],
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
                         {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
                         {"hostPort": 54, "containerPort": 54, "protocol": "udp", "hostIP": "0.0.0.0"}],
        "bandwidth": {"ingressRate": 1000000, "ingressBurst": 80000, "egressRate": 2000000, "egressBurst": 0}}}
      """
    ).configuration.runtime
    #expect(runtime.addresses == [IPAddress("10.244.0.9")!, IPAddress("fd00::9")!])
    #expect(runtime.portMappings[0] == .init(hostPort: 8080, containerPort: 80, transport: .tcp))
    #expect(runtime.portMappings[1].hostAddress == IPAddress("192.0.2.1"))
    #expect(runtime.portMappings[2].hostAddress == nil)
    #expect(runtime.ingress == .init(bitsPerSecond: 1_000_000, burstBits: 80_000))
    #expect(runtime.egress?.bitsPerSecond == 2_000_000)
    #expect(runtime.ipRanges != nil)
  }

  @Test("CNI-2: what each command needs, and that DEL needs no namespace")
  func environment() throws {
    for command in ["ADD", "CHECK"] {
      for key in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        let error = code(["CNI_COMMAND": command, key: nil])
        #expect(error?.code == .invalidEnvironment)
        #expect(error?.message.contains(key) == true)
      }
    }
    #expect(try request(["CNI_COMMAND": "DEL", "CNI_NETNS": ""]).namespacePath == nil)
    #expect(code(["CNI_COMMAND": "DEL", "CNI_IFNAME": ""])?.code == .invalidEnvironment)
    for command in ["GC", "STATUS"] {
      let changes: [String: String?] = [
        "CNI_COMMAND": command, "CNI_CONTAINERID": nil, "CNI_NETNS": nil, "CNI_IFNAME": nil,
      ]
      #expect(code(changes) == nil)
    }
    for (key, value) in [
      ("CNI_COMMAND", "add"), ("CNI_CONTAINERID", "_x"), ("CNI_CONTAINERID", "a/b"), ("CNI_CONTAINERID", "../x"),
      ("CNI_IFNAME", "."), ("CNI_IFNAME", "eth0:1"), ("CNI_IFNAME", "a b"), ("CNI_IFNAME", "sixteenletters16"),
      ("CNI_ARGS", "novalue"), ("CNI_ARGS", "=x"),
    ] {
      let error = code([key: value])
      #expect(error?.code == .invalidEnvironment, "\(key)=\(value)")
      #expect(error?.remedy.isEmpty == false)
    }
  }

  @Test(
    "CNI-9: what is wrong with a configuration has its code, its field and a remedy",
    arguments: [
      (1, #"{"name": "n", "type": "kalsae"}"#, "cniVersion"),
      (1, #"{"cniVersion": "0.2.0", "name": "n"}"#, "0.2.0"), (1, #"{"cniVersion": "2.0.0", "name": "n"}"#, "2.0.0"),
      (1, #"{"cniVersion": "1.1.0", "name": "n", "prevResult": {"cniVersion": "9.0.0"}}"#, "prevResult"),
      (2, #"{"cniVersion": "1.1.0", "name": "n", "interface": "macvlan"}"#, "interface"),
      (2, #"{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {"deviceID": "0000:00:1f.6"}}"#, "deviceID"),
      (6, "", "empty"), (6, "[]", "a list"), (6, "{\"a\": }", "column 7"),
      (6, #"{"cniVersion": 1, "name": "n"}"#, "cniVersion"), (6, #"{"cniVersion": "1.1.0", "name": 7}"#, "name"),
      (6, #"{"cniVersion": "1.1.0", "name": "n", "mtu": "x"}"#, "mtu"),
      (6, #"{"cniVersion": "1.1.0", "name": "n", "ipam": "x"}"#, "ipam"),
      (7, #"{"cniVersion": "1.1.0"}"#, "name"), (7, #"{"cniVersion": "1.1.0", "name": "a/b"}"#, "name"),
      (7, #"{"cniVersion": "1.1.0", "name": "n", "interface": "carrier-pigeon"}"#, "interface"),
      (7, #"{"cniVersion": "1.1.0", "name": "n", "mtu": 20}"#, "mtu"),
      (7, #"{"cniVersion": "1.1.0", "name": "n", "ipam": {}}"#, "ipam.type"),
      (7, #"{"cniVersion": "1.1.0", "name": "n", "ipam": {"type": "../sh"}}"#, "ipam.type"),
      (7, #"{"cniVersion": "1.1.0", "name": "n", "agentSocket": "x"}"#, "agentSocket"),
      (7, #"{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {"mac": "01:00:00:00:00:00"}}"#, "runtimeConfig.mac"),
      (7, #"{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {"ips": ["x"]}}"#, "runtimeConfig.ips"),
      (
        7, #"{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {"portMappings": [{"hostPort": 1}]}}"#,
        "containerPort"
      ),
      (
        7,
        #"{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {"portMappings": [{"containerPort": 1, "protocol": "x"}]}}"#,
        "protocol"
      ),
      (
        7, #"{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {"bandwidth": {"ingressBurst": 5}}}"#, "ingressBurst"
      ),
      (
        7, #"{"cniVersion": "1.1.0", "name": "n", "prevResult": {"ips": [{"address": "10.0.0.1"}]}}"#,
        "prevResult.ips[].address"
      ),
      (
        7,
        #"{"cniVersion": "1.1.0", "name": "n", "prevResult": {"interfaces": [{"name": "a"}], "ips": [{"address": "10.0.0.1/8", "interface": 4}]}}"#,
        "interface"
      ),
    ])
  func wrong(number: Int, configuration: String, says: String) throws {
    let error = try #require(code([:], configuration))
    #expect(error.code.rawValue == number, "\(error)")
    #expect(error.message.contains(says), "\(error)")
    #expect(!error.remedy.isEmpty)
    let json = error.json(version: "1.0.0")
    #expect(json["cniVersion"]?.text == "1.0.0")
    #expect(json["code"]?.integer == number)
    #expect(json["details"]?.text == error.remedy)
    #expect(CNIError(json) == error)
  }

  @Test("CNI-1: CHECK came with 0.4.0, GC and STATUS with 1.1.0")
  func commandVersions() {
    func answer(_ command: String, _ version: String) -> Int? {
      code(["CNI_COMMAND": command], #"{"cniVersion": "\#(version)", "name": "n", "type": "kalsae"}"#)?.code.rawValue
    }
    #expect(answer("CHECK", "0.3.1") == 1)
    #expect(answer("CHECK", "0.4.0") == nil)
    for command in ["GC", "STATUS"] {
      #expect(answer(command, "1.0.0") == 1)
      #expect(answer(command, "1.1.0") == nil)
    }
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
      #expect(answer("ADD", version) == nil)
      #expect(answer("DEL", version) == nil)
    }
  }

  @Test("CNI-6: GC's valid attachments; an entry that is not whole collects nothing")
  func validAttachments() throws {
    let gc: [String: String?] = ["CNI_COMMAND": "GC"]
    let request = try request(
      gc,
      #"{"cniVersion": "1.1.0", "name": "n", "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}"#)
    #expect(request.configuration.validAttachments == [.init(containerID: "a", interface: "eth0")])
    #expect(
      code(gc, #"{"cniVersion": "1.1.0", "name": "n", "cni.dev/valid-attachments": [{"containerID": "a"}]}"#)?.code
        == .invalidConfiguration)
    #expect(
      code(gc, #"{"cniVersion": "1.1.0", "name": "n", "cni.dev/valid-attachments": 7}"#)?.code == .invalidConfiguration)
    #expect(try self.request(gc).configuration.validAttachments == nil)
  }

  @Test("what the plugin sends to the agent comes out as it went in")
  func message() throws {
    for configuration in [Self.bridge, Self.tuning] {
      let request = try request([:], configuration)
      let sent = try JSON(parsing: request.message.serialized)
      #expect(try CNIRequest(message: sent) == request)
    }
    let bare = try request([
      "CNI_COMMAND": "DEL", "CNI_NETNS": nil, "CNI_ARGS": nil, "CNI_PATH": nil,
    ])
    #expect(try CNIRequest(message: JSON(parsing: bare.message.serialized)) == bare)
    #expect(throws: CNIError.self) { try CNIRequest(message: .object([])) }
  }
}
