import Addresses
import CNI
import Foundation
import IPAM
import Lab
import Testing

/// Other IPAM plugins, run as the specification says.
@Suite("Delegation", .serialized)
struct DelegateTests {
  private func request(
    _ command: CNIRequest.Command, _ ipam: String, container: String = "c1", netns: String = "/proc/self/ns/net",
    version: String = "1.1.0", path: [String] = [ReferencePlugin.folder]
  ) throws -> CNIRequest {
    CNIRequest(
      command, containerID: container, namespacePath: netns, interface: "eth0", path: path,
      configuration: try NetworkConfiguration(
        parsing: Array("{\"cniVersion\": \"\(version)\", \"name\": \"net\", \"type\": \"x\", \"ipam\": \(ipam)}".utf8)))
  }

  private func manager(_ request: CNIRequest) throws -> any AddressManager { try DelegatedManager(request) }

  private func assign(_ request: CNIRequest) throws -> Assignment {
    try manager(request).assign(AssignRequest(request.attachment, node: "a"))
  }

  @Test(
    "The reference host-local gives, checks and takes back, though it knows older versions only",
    .enabled(if: ReferencePlugin.hasHostLocal, ReferencePlugin.needed))
  func hostLocal() throws {
    let folder = try TemporaryFolder("delegate")
    let ipam = """
      {"type": "host-local", "dataDir": "\(folder.path)", "ranges": [[{"subnet": "10.3.0.0/24"}], [{"subnet": "fd03::/64"}]],
       "routes": [{"dst": "0.0.0.0/0"}]}
      """
    let given = try assign(request(.add, ipam))
    #expect(given.addresses.map { "\($0.address)/\($0.prefixLength)" } == ["10.3.0.2/24", "fd03::2/64"])
    #expect(given.addresses[0].gateway == IPAddress("10.3.0.1"))
    #expect(given.routes == [AssignedRoute(destination: IPPrefix("0.0.0.0/0")!)])
    try manager(request(.check, ipam)).check(attachment("c1"), has: given.addresses.map(\.address))
    let again = #expect(throws: IPAMError.self) { try assign(request(.add, ipam)) }
    #expect(again?.message.contains("duplicate allocation is not allowed") == true)
    // What failed was given back: the plugin is called with DEL.
    #expect(!FileManager.default.fileExists(atPath: "\(folder.path)/net/10.3.0.2"))
    try manager(request(.delete, ipam)).release(attachment("c1"))
    // It cannot collect, and has no status: nothing is asked of it.
    #expect(try manager(request(.collect, ipam)).collect(keeping: [], network: "net") == [])
    try manager(request(.status, ipam)).ready()
  }

  @Test(
    "The reference static gives what is configured, with routes and names",
    .enabled(if: ReferencePlugin.hasHostLocal, ReferencePlugin.needed))
  func fixed() throws {
    let ipam = """
      {"type": "static", "addresses": [{"address": "10.4.0.7/24", "gateway": "10.4.0.1"}, {"address": "fd04::7/64"}],
       "routes": [{"dst": "10.5.0.0/16", "gw": "10.4.0.2"}], "dns": {"nameservers": ["10.4.0.53"], "search": ["example"]}}
      """
    let given = try assign(request(.add, ipam, version: "0.4.0"))
    #expect(given.addresses.map { "\($0.address)/\($0.prefixLength)" } == ["10.4.0.7/24", "fd04::7/64"])
    #expect(
      given.routes == [AssignedRoute(destination: IPPrefix("10.5.0.0/16")!, gateway: IPAddress("10.4.0.2"))])
    #expect(given.dns?.nameservers == ["10.4.0.53"] && given.dns?.search == ["example"])
    try manager(request(.delete, ipam)).release(attachment("c1"))
  }

  @Test("CNI-9: a plugin that is missing, fails, says nonsense or does not end is told with its name and a remedy")
  func failures() throws {
    let folder = try TemporaryFolder("plugins")
    func write(_ name: String, _ script: String) throws {
      let path = "\(folder.path)/\(name)"
      try Data("#!/bin/sh\n\(script)\n".utf8).write(to: URL(filePath: path))
      try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: path)
    }
    let versions = "[ $CNI_COMMAND = VERSION ] && echo '{\"supportedVersions\": [\"1.1.0\"]}' && exit 0"
    try write("refuses", "\(versions); echo '{\"code\": 7, \"msg\": \"bad field\", \"details\": \"mend it\"}'; exit 1")
    try write("nonsense", "\(versions); echo hello")
    try write("empty", "\(versions); echo '{\"cniVersion\": \"1.1.0\"}'")
    try write("dies", "\(versions); echo why >&2; kill -9 $$")
    try write("old", "echo '{\"supportedVersions\": [\"0.1.0\"]}'")
    try write("sleeps", "\(versions); [ $CNI_COMMAND = DEL ] || sleep 30; exit 0")
    func failure(_ type: String) throws -> IPAMError? {
      let request = try request(.add, "{\"type\": \"\(type)\"}", path: [folder.path])
      return #expect(throws: IPAMError.self) {
        try DelegatedManager(request, timeout: .milliseconds(300)).assign(AssignRequest(request.attachment, node: "a"))
      }
    }
    let refused = try failure("refuses")
    #expect(refused?.code == 7 && refused?.message.contains("/refuses: bad field (mend it)") == true)
    #expect(try failure("nonsense")?.message.contains("no JSON") == true)
    #expect(try failure("empty")?.message.contains("gave no address") == true)
    #expect(try failure("dies")?.message.contains("was killed and no CNI error: why") == true)
    #expect(try failure("old")?.code == 1)
    #expect(try failure("sleeps")?.kind == .busy)
    let missing = #expect(throws: IPAMError.self) { try manager(request(.add, "{\"type\": \"absent\"}")) }
    #expect(missing?.code == CNIError.Code.delegate.rawValue && missing?.message.contains("CNI_PATH") == true)
  }

  private static let hasDHCP =
    ReferencePlugin.hasHostLocal
    && ["/usr/sbin/dnsmasq", "/sbin/dnsmasq"].contains { FileManager.default.isExecutableFile(atPath: $0) }

  @Test(
    "IPAM-4: a lease from a real DHCP server, renewed at T1, which outlives those who asked and is released at DEL",
    .enabled(if: hasDHCP && Lab.isAvailable, "needs root, dnsmasq-base and containernetworking-plugins"),
    .timeLimit(.minutes(5)))
  func dhcp() throws {
    let lab = try Lab(name: "dhcp")
    defer { lab.cleanUp() }
    let (server, pod) = (try lab.namespace("server"), try lab.namespace("pod"))
    try lab.veth(
      Endpoint(server, "eth0", addresses: ["10.50.0.1/24"]), Endpoint(pod, "eth0"))
    let folder = try lab.directory()
    let log = "\(folder)/dnsmasq.log"
    let dnsmasq = try server.spawn(
      "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces",
      "--dhcp-range=10.50.0.100,10.50.0.110,255.255.255.0,2m", "--dhcp-option=3,10.50.0.1",
      // T1 (RFC 2132, option 58) after three seconds.
      "--dhcp-option-force=58,3", "--dhcp-option-force=59,60",
      "--dhcp-leasefile=\(folder)/leases", "--log-dhcp", "--user=root",
      "--dhcp-authoritative", log: log)
    let daemon = try lab.spawn(
      ["\(ReferencePlugin.folder)/dhcp", "daemon", "-socketpath", "\(folder)/dhcp.sock"], log: "\(folder)/daemon.log")
    func text(_ path: String) -> String { (try? String(contentsOfFile: path, encoding: .utf8)) ?? "" }
    func wait(_ seconds: Double, _ what: () -> Bool) -> Bool {
      let deadline = Date().addingTimeInterval(seconds)
      while Date() < deadline {
        if what() { return true }
        usleep(50_000)
      }
      return what()
    }
    #expect(
      wait(5) { FileManager.default.fileExists(atPath: "\(folder)/dhcp.sock") && text(log).contains("DHCP, IP range") })
    #expect(dnsmasq.isRunning && daemon.isRunning)
    let ipam = "{\"type\": \"dhcp\", \"daemonSocketPath\": \"\(folder)/dhcp.sock\"}"
    let given = try assign(request(.add, ipam, netns: pod.path))
    let address = try #require(given.addresses.first).address
    #expect(IPPrefix("10.50.0.96/28")!.contains(address) && given.addresses[0].prefixLength == 24)
    #expect(text("\(folder)/leases").contains(" \(address) "))
    func acknowledged() -> Int { text(log).ranges(of: "DHCPACK(eth0) \(address)").count }
    #expect(wait(30) { acknowledged() >= 2 }, "\(text(log))")
    // Whoever asked for it keeps nothing: another process gives it back.
    try manager(request(.delete, ipam, netns: pod.path)).release(attachment("c1"))
    #expect(wait(5) { text(log).contains("DHCPRELEASE(eth0) \(address)") }, "\(text(log))")
    #expect(wait(5) { !text("\(folder)/leases").contains(" \(address) ") })
  }
}
