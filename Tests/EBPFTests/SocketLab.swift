import Addresses
import Dataplane
import Glibc
import Lab

@testable import EBPF

/// A node, a pod of it and a machine with endpoints, in namespaces, and a control group whose sockets are looked after.
///
///     node (192.168.7.1)  pod (10.7.0.5)  ── bridge ──  far (10.7.1.1 … 10.7.1.3)
final class SocketLab {
  let lab: Lab
  let node: Namespace
  let pod: Namespace
  let far: Namespace
  let cgroup: String
  let name: String
  var tables = Tables()
  var balancer: SocketBalancer?
  var options = SocketBalancer.Options()
  private(set) var namespaces: [UInt64: SocketNamespace] = [:]

  static let clusterIP = IPAddress("10.96.0.10")!
  static let clusterIP6 = IPAddress("fd00:96::10")!
  static let externalIP = IPAddress("192.0.2.10")!
  static let loadBalancer = IPAddress("192.0.2.20")!
  static let nodeIP = IPAddress("192.168.7.1")!

  init(_ name: String) throws {
    self.name = "test-\(getpid())-\(name).local"
    lab = try Lab(name: name)
    node = try lab.namespace("node")
    pod = try lab.namespace("pod")
    far = try lab.namespace("far")
    try lab.veth(
      Endpoint(node, "eth0", addresses: ["192.168.7.1/32", "fd00:7::1/128"]),
      Endpoint(far, "node0", addresses: ["10.7.9.1/32"]))
    try lab.veth(
      Endpoint(pod, "eth0", addresses: ["10.7.0.5/32", "fd00:7::5/128"]),
      Endpoint(far, "pod0", addresses: ["10.7.9.2/32"]))
    for (space, device, address, address6) in [
      (node, "node0", "192.168.7.1", "fd00:7::1"), (pod, "pod0", "10.7.0.5", "fd00:7::5"),
    ] {
      try space.addRoute("default dev eth0")
      try far.addAddress("fe80::1/64", to: device)
      try space.addRoute("::/0 via fe80::1 dev eth0")
      try far.addRoute("\(address) dev \(device)")
      try far.addRoute("\(address6) dev \(device)")
      try far.sysctl("net/ipv4/conf/\(device)/proxy_arp", "1")
      try space.sysctl("net/ipv4/conf/all/rp_filter", "0")
    }
    try far.ip("link set lo up")
    for number in 1...3 {
      try far.addAddress("10.7.1.\(number)/32", to: "lo")
      try far.addAddress("fd00:8::\(number)/128", to: "lo")
    }
    try node.ip("link set lo up")
    try pod.ip("link set lo up")
    cgroup = try lab.controlGroup()
    // What a test that was killed has left.
    for node in PinFolder.nodes() {
      let words = node.split(separator: "-")
      guard words.first == "test", words.count > 1, let process = Int32(words[1]), kill(process, 0) != 0,
        errno == ESRCH
      else { continue }
      SocketBalancer.unload(node: node)
    }
    try lab.onCleanUp { [name = self.name] in SocketBalancer.unload(node: name) }
    options.cgroup = cgroup
    namespaces[try SocketNamespace.cookie(of: node.path)] = SocketNamespace(
      role: .node, path: node.path, addresses: [SocketLab.nodeIP, IPAddress("fd00:7::1")!])
    namespaces[try SocketNamespace.cookie(of: pod.path)] = SocketNamespace(
      role: .pod, path: pod.path, addresses: [IPAddress("10.7.0.5")!, IPAddress("fd00:7::5")!])
  }

  func cleanUp() { lab.cleanUp() }

  static func endpoint(_ number: Int, _ port: UInt16 = 8080) -> ServicePort.Endpoint {
    ServicePort.Endpoint(.v4(IPv4Address(10, 7, 1, UInt8(number))), port)
  }

  static func endpoint6(_ number: Int, _ port: UInt16 = 8080) -> ServicePort.Endpoint {
    ServicePort.Endpoint(.v6(IPv6Address(high: 0xfd00_0008_0000_0000, low: UInt64(number))), port)
  }

  func service(
    _ name: String, _ cluster: [ServicePort.Endpoint], local: [ServicePort.Endpoint] = [], affinity: UInt32 = 0
  ) -> ServiceIndex {
    tables.addService(ServicePort(name: "test/\(name):web", cluster: cluster, local: local, affinity: affinity))
  }

  func frontend(
    _ kind: Frontend.Kind, _ address: IPAddress?, _ port: UInt16, to service: ServiceIndex, transport: UInt8 = 6,
    family: IPFamily = .ipv4, isLocal: Bool = false, ranges: [IPPrefix]? = nil
  ) {
    tables.setFrontend(
      Frontend(kind, address: address, family: address?.family ?? family, transport: transport, port: port),
      FrontendPolicy(isLocal: isLocal, sourceRanges: ranges), service: service)
  }

  /// Loads, or brings what is loaded up to date.
  func sync() throws {
    if let balancer {
      if try balancer.apply(tables.takeServiceChanges()) { return }
    }
    tables.followServices()
    balancer = try SocketBalancer(
      node: name, tables.takeServiceChanges(), namespaces: namespaces, options: options)
  }

  /// Servers on all addresses of `far`, TCP and UDP, that answer with their own address and the client's:
  /// `10.7.1.1 8080 10.7.0.5`.
  func serve(port: Int = 8080) throws {
    let script = """
      import socket, threading, sys
      def tcp(address, family):
          s = socket.socket(family, socket.SOCK_STREAM)
          s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
          s.bind((address, \(port))); s.listen(64)
          while True:
              c, peer = s.accept()
              c.sendall(f"{address} \(port) {peer[0]}".encode())
              c.close()
      def udp(address, family):
          s = socket.socket(family, socket.SOCK_DGRAM)
          s.bind((address, \(port)))
          while True:
              data, peer = s.recvfrom(2048)
              s.sendto(f"{address} \(port) {peer[0]}".encode(), peer)
      for n in (1, 2, 3):
          for f, a in ((socket.AF_INET, f"10.7.1.{n}"), (socket.AF_INET6, f"fd00:8::{n}")):
              for body in (tcp, udp):
                  threading.Thread(target=body, args=(a, f), daemon=True).start()
      print("ready", flush=True)
      threading.Event().wait()
      """
    let child = try far.spawn("/usr/bin/python3", "-c", script)
    try waitUntil("the servers") { child.standardOutput.contains("ready") }
    try waitUntil("the ports") {
      try far.run("ss", "-Hlntu").standardOutput.split(separator: "\n").filter { $0.contains(":\(port) ") }.count >= 12
    }
  }

  /// A command line that runs a shell's command in a namespace with its sockets in the control group. (`Namespace.run`
  /// shows its programs a /sys of their own, without control groups.)
  func entering(_ space: Namespace, _ command: String) -> [String] {
    ["nsenter", "--net=\(space.path)", "/bin/sh", "-c", "echo $$ > \(cgroup)/cgroup.procs && \(command)"]
  }

  /// Runs Python in a namespace with its sockets in the control group and gives what it prints.
  func python(_ space: Namespace, _ script: String) throws -> String {
    let prelude = """
      import socket, errno, sys
      def tcp(address, port, timeout=2, bind=None, show=False):
          s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_STREAM)
          s.settimeout(timeout)
          if bind: s.bind(bind)
          try:
              s.connect((address, port))
              peer = s.getpeername()
              text = s.recv(100).decode()
              return text + (f" {peer[0]} {peer[1]}" if show else "")
          except socket.timeout: return "timeout"
          except OSError as e: return errno.errorcode[e.errno]
          finally: s.close()
      """
    let result = try lab.runUnchecked(
      entering(space, "exec /usr/bin/python3 -"), input: prelude + "\n" + script, timeout: .seconds(40))
    guard result.isSuccess else { throw LabError.invalid("python: \(result.standardError)") }
    return result.standardOutput.split(separator: "\n").joined(separator: "\n")
  }
}
