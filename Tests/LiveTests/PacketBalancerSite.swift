import Addresses
import Glibc
import Lab
import Testing

extension PacketBalancerLiveTests {
  /// A node whose kernel routes between pods and an outside, without an agent, and the services of a state.
  final class Site {
    let lab: Lab
    let node: Namespace
    let pods: [Namespace]
    let outside: Namespace
    let state: String
    let group: String
    let name = "lb-\(getpid())"

    init(_ label: String) throws {
      lab = try Lab(name: label)
      node = try lab.namespace("node")
      outside = try lab.namespace("out")
      let lab = lab
      pods = try ["a", "b", "c"].map { try lab.namespace($0) }
      state = try lab.directory()
      group = try lab.controlGroup()
      do { try build() } catch {
        lab.cleanUp()
        throw error
      }
    }

    deinit {
      _ = try? kalsae("ebpf", "unload", "--node", name)
      lab.cleanUp()
    }

    private func build() throws {
      try node.ip("link set lo up")
      try node.setForwarding(true)
      try lab.veth(
        Endpoint(node, "eth0", addresses: ["10.9.0.1/24", "fd00:9::1/64"]),
        Endpoint(outside, "eth0", addresses: ["10.9.0.100/24", "fd00:9::100/64"]))
      try outside.addRoute("10.9.1.0/24 via 10.9.0.1")
      try outside.addRoute("fd00:91::/64 via fd00:9::1")
      for (number, pod) in pods.enumerated() {
        let (address, address6, device) = ("10.244.1.\(number + 2)", "fd00:1::\(number + 2)", "pod\(number)")
        try pod.ip("link set lo up")
        try lab.veth(
          Endpoint(node, device, addresses: []),
          Endpoint(pod, "eth0", addresses: ["\(address)/32", "\(address6)/128"]))
        try node.addAddress("169.254.1.1/32", to: device)
        try node.addAddress("fe80::1/64", to: device)
        try node.addRoute("\(address) dev \(device)")
        try node.addRoute("\(address6) dev \(device)")
        try pod.ip("route add 169.254.1.1 dev eth0 scope link", "route add default via 169.254.1.1")
        try pod.addRoute("::/0 via fe80::1 dev eth0")
      }
      try write(
        "node.yaml",
        """
        apiVersion: v1
        kind: Node
        metadata: {name: \(name)}
        spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, "fd00:1::/64"]}
        status: {addresses: [{type: InternalIP, address: 10.9.0.1}, {type: InternalIP, address: "fd00:9::1"}]}
        ---
        apiVersion: kalsae.io/v1alpha1
        kind: NodeConfiguration
        metadata: {name: default}
        spec: {ebpf: auto, clusterCIDRs: [10.244.0.0/16, "fd00:1::/48"], serviceCIDRs: [10.96.0.0/16, "fd00:96::/112"]}

        """)
      for (number, label) in ["a", "b", "c"].enumerated() {
        try write(
          "pod-\(label).yaml",
          """
          apiVersion: v1
          kind: Pod
          metadata: {name: \(label), namespace: demo, annotations: {kalsae.io/interface: pod\(number)}}
          spec: {nodeName: \(name), containers: []}
          status: {phase: Running, podIPs: [{ip: 10.244.1.\(number + 2)}, {ip: "fd00:1::\(number + 2)"}]}

          """)
      }
    }

    func write(_ file: String, _ text: String) throws { _ = try lab.run(["tee", "\(state)/\(file)"], input: text) }

    /// A service before the pods with these numbers, in every way that it can be reached.
    func serve(_ endpoints: [Int], port: Int = 80) throws {
      var text = """
        apiVersion: v1
        kind: Service
        metadata: {name: web, namespace: demo}
        spec:
          type: LoadBalancer
          clusterIP: 10.96.0.10
          clusterIPs: [10.96.0.10, "fd00:96::10"]
          ipFamilyPolicy: RequireDualStack
          ipFamilies: [IPv4, IPv6]
          ports: [{name: http, port: \(port), targetPort: 8080, nodePort: 30080, protocol: TCP}]
        status: {loadBalancer: {ingress: [{ip: 10.9.1.20}, {ip: "fd00:91::20"}]}}

        """
      for (family, prefix) in [("IPv4", "10.244.1."), ("IPv6", "fd00:1::")] {
        let list = endpoints.map {
          "{addresses: [\"\(prefix)\($0 + 2)\"], nodeName: \(name), conditions: {ready: true}}"
        }
        text += """
          ---
          apiVersion: discovery.k8s.io/v1
          kind: EndpointSlice
          metadata: {name: web-\(family.lowercased()), namespace: demo, labels: {kubernetes.io/service-name: web}}
          addressType: \(family)
          ports: [{name: http, port: 8080, protocol: TCP}]
          endpoints: [\(list.joined(separator: ", "))]

          """
      }
      try write("web.yaml", text)
    }

    func kalsae(_ arguments: String...) throws -> ProcessResult {
      try lab.runUnchecked([try builtProgram("kalsae")] + arguments)
    }

    /// `without`: what the kernel is taken not to have.
    func load(without: String = "") throws -> String {
      try lab.run([
        "nsenter", "--net=\(node.path)", "env", "KALSAE_EBPF_WITHOUT=\(without)", try builtProgram("kalsae"), "ebpf",
        "load", "--state", state, "--node", name, "--cgroup", group,
      ]).standardOutput
    }

    /// HTTP servers in the pods with these numbers, which answer with their letter and the client's address.
    func startServers(_ numbers: [Int], address: String? = nil) throws {
      for number in numbers {
        let pod = pods[number]
        _ = try pod.spawn(
          "/usr/bin/python3", "-c",
          """
          import socket, threading
          def serve(family, address):
              s = socket.socket(family, socket.SOCK_STREAM)
              s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
              s.bind((address, 8080)); s.listen(64)
              while True:
                  c, peer = s.accept()
                  c.recv(4096)
                  text = f"{'abc'[\(number)]} {peer[0]}"
                  c.sendall(f"HTTP/1.0 200 OK\\r\\nContent-Length: {len(text)}\\r\\n\\r\\n{text}".encode())
                  c.close()
          threading.Thread(target=serve, args=(socket.AF_INET6, "fd00:1::\(number + 2)"), daemon=True).start()
          serve(socket.AF_INET, "\(address ?? "10.244.1.\(number + 2)")")
          """)
        try waitUntil("the servers") {
          try pod.run("ss", "-Hlnt").standardOutput.split(separator: "\n").count { $0.contains(":8080") } == 2
        }
      }
    }

    func get(_ space: Namespace, _ address: String) throws -> String {
      let result = try space.run("curl", "-s", "-m", "3", "http://\(address)/")
      return result.isSuccess ? result.standardOutput : "failed"
    }

    /// The numbers of the programs, links and maps that are pinned, as `kind number`.
    func pinned() throws -> Set<String> {
      let text = try lab.run(["/usr/bin/python3", "-c", Site.numbers, name]).standardOutput
      return Set(text.split(separator: "\n").map(String.init))
    }

    /// Those of them that the kernel still has.
    func alive(_ numbers: Set<String>) throws -> Set<String> {
      let text = try lab.run(["/usr/bin/python3", "-c", Site.living] + numbers.sorted()).standardOutput
      return Set(text.split(separator: "\n").map(String.init))
    }

    private static let prelude = """
      import ctypes, os, sys
      bpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
      def info(fd):
          buffer = ctypes.create_string_buffer(512)
          size = ctypes.c_uint32(512)
          if bpf.bpf_obj_get_info_by_fd(fd, buffer, ctypes.byref(size)): return None
          return [int.from_bytes(buffer.raw[n:n + 4], "little") for n in range(0, 16, 4)]

      """
    private static let numbers =
      prelude + """
        for root in ("/sys/fs/bpf", "/run/kalsae/bpf"):
            for folder, _, files in os.walk(f"{root}/kalsae/{sys.argv[1]}"):
                for name in files:
                    fd = bpf.bpf_obj_get(f"{folder}/{name}".encode())
                    is_hook = folder.endswith("links") or name.startswith(("policy_in-", "policy_out-", "filter-"))
                    kind = "map" if not is_hook else "prog" if name.startswith("filter-") else "link"
                    words = info(fd)
                    # A link says which program it holds.
                    print(kind, words[1])
                    if kind == "link": print("prog", words[2])
        """
    private static let living =
      prelude + """
        for text in sys.argv[1:]:
            kind, number = text.split()
            fd = getattr(bpf, f"bpf_{kind}_get_fd_by_id")(int(number))
            if fd >= 0: print(text)
        """
  }
}
