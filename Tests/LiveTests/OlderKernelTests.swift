import Addresses
import Lab
import Testing

/// What the kernel does where it is older: Debian 12's Linux 6.1 has no links to devices (tcx).
///
///     pods a1, a2 ── machine (10.0.0.2) ── outside (10.0.0.1)
@Suite(
  "An older kernel's help", .serialized,
  .enabled(if: Lab.isAvailable && KernelPeer.isPrepared, "needs root, and tools/kernel-peer prepare"),
  .timeLimit(.minutes(5)))
struct OlderKernelTests {
  /// Two pods on veth pairs, and the manifests of their node and of a service before a2.
  private static let setUp = """
    mkdir -p /run/netns /tmp/state
    mount -t cgroup2 none /sys/fs/cgroup
    for number in 1 2; do
      ip netns add a$number
      ip link add kala$number type veth peer name eth0 address 02:00:00:00:01:0$number netns a$number
      ip link set kala$number up
      ip -n a$number link set lo up
      ip -n a$number addr add 10.244.0.1$number/32 dev eth0
      ip -n a$number link set eth0 up
      ip -n a$number route add 169.254.1.1 dev eth0
      ip -n a$number route add default via 169.254.1.1 dev eth0
      cat >> /tmp/state/pods.yaml <<END
    ---
    apiVersion: v1
    kind: Pod
    metadata:
      name: a$number
      namespace: demo
      annotations: {kalsae.io/interface: kala$number, kalsae.io/mac: "02:00:00:00:01:0$number"}
    spec: {nodeName: node-o, containers: []}
    status: {phase: Running, podIPs: [{ip: 10.244.0.1$number}]}
    END
    done
    cat > /tmp/state/node.yaml <<END
    apiVersion: v1
    kind: Node
    metadata: {name: node-o}
    spec: {podCIDR: 10.244.0.0/24}
    status: {addresses: [{type: InternalIP, address: 10.0.0.2}]}
    ---
    apiVersion: kalsae.io/v1alpha1
    kind: NodeConfiguration
    metadata: {name: default}
    spec: {ebpf: required, serviceCIDRs: [10.96.0.0/16], clusterCIDRs: [10.244.0.0/16]}
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: web, namespace: demo}
    spec:
      type: NodePort
      clusterIP: 10.96.0.10
      clusterIPs: [10.96.0.10]
      ipFamilies: [IPv4]
      ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}]
    ---
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {name: web-1, namespace: demo, labels: {kubernetes.io/service-name: web}}
    addressType: IPv4
    ports: [{name: http, port: 8080, protocol: TCP}]
    endpoints: [{addresses: [10.244.0.12], nodeName: node-o, conditions: {ready: true}}]
    END
    (while :; do echo hello | ip netns exec a2 nc -l -p 8080; done) </dev/null >/dev/null 2>&1 &

    """

  /// What the kernel holds of programs.
  private static let inventory =
    "bpftool prog; bpftool map; bpftool link; bpftool net; tc qdisc show; ls /run/kalsae/bpf || true"

  private func machine(_ lab: Lab) throws -> KernelPeer {
    let outside = try lab.namespace("out")
    let machine = try KernelPeer(
      in: outside, tap: "tap0", addresses: ["10.0.0.2/24"], program: try builtProgram("kalsae"))
    try outside.ip("addr add 10.0.0.1/24 dev tap0")
    try shell(machine, OlderKernelTests.setUp)
    return machine
  }

  @discardableResult
  private func shell(_ machine: KernelPeer, _ script: String) throws -> String {
    try machine.shell("export PATH=/tools:/bin HOME=/tmp\n\(script)", timeout: .seconds(90))
  }

  private func status(_ machine: KernelPeer) throws -> Status { Status(try shell(machine, "kalsae ebpf status")) }

  /// What `kalsae ebpf status` says of a hook, and what it has counted.
  private struct Status {
    let text: String
    init(_ text: String) { self.text = text }

    func line(_ hook: String) -> String {
      String(text.split(separator: "\n").first { $0.hasPrefix("\(hook) ") } ?? "")
    }

    func count(_ counter: String) -> Int {
      let line = text.split(separator: "\n").first { $0.split(separator: " ").dropFirst().first == counter[...] }
      return line.flatMap { Int($0.split(separator: " ")[0]) } ?? -1
    }
  }

  /// The server takes one connection after another: waits until it listens again.
  private func waitForServer(_ machine: KernelPeer) throws {
    try shell(
      machine,
      """
      for try in $(seq 100); do
        ip netns exec a2 grep -q ':1F90 [0-9A-F]*:0000 0A' /proc/net/tcp /proc/net/tcp6 && exit 0
        sleep 0.1
      done
      exit 1
      """)
  }

  /// What whoever asks a service's address gets: a pod, or the machine itself.
  private func get(_ machine: KernelPeer, pod: String? = nil, _ address: String) throws -> String {
    try waitForServer(machine)
    let prefix = pod.map { "ip netns exec \($0) " } ?? ""
    return try machine.run(
      "sh", "-c", "PATH=/tools:/bin; \(prefix)timeout 10 nc -w 5 \(address) </dev/null"
    ).standardOutput
  }

  private func getFromOutside(_ machine: KernelPeer) throws -> String {
    try waitForServer(machine)
    return try machine.namespace.run("timeout", "10", "bash", "-c", "exec 3<>/dev/tcp/10.0.0.2/30080; cat <&3")
      .standardOutput
  }

  @Test(
    "KP-20 KP-22 KP-32 services at the socket, and on packets by filters of traffic control; status says so; unload leaves nothing"
  )
  func services() throws {
    let lab = try Lab(name: "older")
    defer { lab.cleanUp() }
    let machine = try machine(lab)
    defer { try? machine.stop() }
    let before = try shell(machine, OlderKernelTests.inventory)
    // Nothing else runs there: the kernel is the pods' router.
    try shell(
      machine,
      """
      echo 1 > /proc/sys/net/ipv4/ip_forward
      for number in 1 2; do
        ip route add 10.244.0.1$number dev kala$number
        echo 1 > /proc/sys/net/ipv4/conf/kala$number/proxy_arp
      done
      ip addr add 169.254.1.1/32 dev lo
      kalsae ebpf load --state /tmp/state --node node-o
      """)
    let loaded = try status(machine)
    #expect(loaded.line("sock_lb/connect4").contains("attached"))
    for hook in ["tc_lb/ingress", "overlay/ingress"] {
      #expect(loaded.line(hook).contains("by filters of traffic control: no tcx (Linux 6.6)"), "\(loaded.text)")
    }
    #expect(loaded.line("tc_lb/ingress").contains("attached to 3 devices"), "\(loaded.text)")
    #expect(loaded.line("overlay/ingress").contains("not attached: left to user space"), "\(loaded.text)")
    #expect(try shell(machine, "tc filter show dev kala1 ingress").contains("pref 10 bpf"))
    #expect(try get(machine, "10.96.0.10 80") == "hello\n")
    #expect(try get(machine, pod: "a1", "10.96.0.10 80") == "hello\n")
    #expect(try getFromOutside(machine) == "hello\n")
    let after = try status(machine)
    #expect(after.count("translated") == 1, "\(after.text)")
    #expect(after.count("connections") == 2, "\(after.text)")
    #expect(after.count("failed") == 0, "\(after.text)")
    #expect(try shell(machine, "kalsae ebpf unload") == "unloaded: node node-o\n")
    #expect(try shell(machine, OlderKernelTests.inventory) == before)
    #expect(try get(machine, pod: "a1", "10.96.0.10 80") == "")
  }

  @Test("KP-20 an agent's flows are carried by filters, those of an agent that was killed too; SIGTERM leaves nothing")
  func flows() throws {
    let lab = try Lab(name: "olderf")
    defer { lab.cleanUp() }
    let machine = try machine(lab)
    defer { try? machine.stop() }
    let before = try shell(machine, OlderKernelTests.inventory)
    func start() throws {
      try shell(
        machine,
        """
        kalsae run --state /tmp/state --node node-o --socket /tmp/agent.sock --data /tmp/data > /tmp/agent.log 2>&1 &
        echo $! > /tmp/agent.pid
        for try in $(seq 200); do
          grep -q 'node node-o: ready' /tmp/agent.log && exit 0
          sleep 0.3
        done
        cat /tmp/agent.log; exit 1
        """)
    }
    func end(_ signal: String) throws {
      try shell(
        machine,
        """
        kill -\(signal) $(cat /tmp/agent.pid)
        for try in $(seq 100); do [ -d /proc/$(cat /tmp/agent.pid) ] || exit 0; sleep 0.2; done
        exit 1
        """)
    }
    try start()
    #expect(try get(machine, "10.96.0.10 80") == "hello\n")
    #expect(try get(machine, pod: "a1", "10.96.0.10 80") == "hello\n")
    #expect(try getFromOutside(machine) == "hello\n")
    // One connection outlives an agent. (Its end would need one.)
    try shell(
      machine,
      """
      # Whoever has nothing more to say must not end the connection.
      sleep 100 | ip netns exec a2 nc -l -p 9000 > /tmp/received &
      head -c 3000000 /dev/urandom > /tmp/sent
      mkfifo /tmp/way
      ip netns exec a1 nc 10.244.0.12 9000 < /tmp/way > /dev/null &
      (head -c 1000000 /tmp/sent; while [ ! -e /tmp/go ]; do sleep 0.1; done; tail -c 2000000 /tmp/sent; sleep 100) > /tmp/way &
      for try in $(seq 100); do [ $(wc -c < /tmp/received) = 1000000 ] && exit 0; sleep 0.1; done
      wc -c /tmp/received; exit 1
      """)
    let running = try status(machine)
    #expect(running.line("overlay/ingress").contains("attached to 3 devices"), "\(running.text)")
    #expect(running.count("carried") > 20, "\(running.text)")
    #expect(running.count("forwarded") == 0, "while an agent runs tc_lb stands by: \(running.text)")
    try end("KILL")
    try shell(
      machine,
      """
      touch /tmp/go
      for try in $(seq 100); do [ $(wc -c < /tmp/received) = 3000000 ] && break; sleep 0.1; done
      cmp /tmp/sent /tmp/received
      """)
    #expect(try get(machine, pod: "a1", "10.96.0.10 80") == "hello\n", "a service, too")
    let alone = try status(machine)
    #expect(alone.count("carried") > running.count("carried") + 20, "\(alone.text)")
    #expect(alone.count("forwarded") > 0, "\(alone.text)")
    try start()
    #expect(try get(machine, pod: "a1", "10.96.0.10 80") == "hello\n")
    #expect(
      try shell(machine, "tc filter show dev kala1 ingress").split(separator: "\n").count { $0.contains("handle") } == 3
    )
    try end("TERM")
    #expect(try shell(machine, OlderKernelTests.inventory) == before)
  }
}
