import Glibc

/// A container runtime of the lab's own: containerd with its configuration, sockets and state in the lab's folder, and
/// `ctr` as its client. It ends with the lab.
public final class Containerd: Sendable {
  public let lab: Lab
  private let folder: String
  private let daemon: Child

  /// Whether this machine has what it takes.
  public static var isInstalled: Bool {
    Lab.has(["containerd", "ctr", "runc"]) && Files.isExecutable("/bin/busybox")
  }

  /// Starts containerd and waits until it answers.
  public init(lab: Lab) throws {
    self.lab = lab
    folder = "\(try lab.directory())/containerd"
    let folder = folder
    let commands = ["sh", "ping", "wget", "nc", "ip", "sleep", "cat", "httpd", "true"]
    try lab.run([
      "sh", "-c",
      """
      set -e; mkdir -p \(folder)/rootfs/bin \(folder)/rootfs/proc \(folder)/rootfs/sys \(folder)/rootfs/dev \(folder)/rootfs/etc
      cp /bin/busybox \(folder)/rootfs/bin/
      for name in \(commands.joined(separator: " ")); do ln -s busybox \(folder)/rootfs/bin/$name; done
      """,
    ])
    // No plugin for Kubernetes, and nothing outside of the folder.
    let configuration = """
      version = 2
      root = "\(folder)/root"
      state = "\(folder)/state"
      disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
      [grpc]
        address = "\(folder)/containerd.sock"
      """
    try Files.write(configuration, to: try Files.create("\(folder)/config.toml"), "\(folder)/config.toml")
    try lab.onCleanUp { Containerd.endAll(folder) }
    daemon = try lab.spawn(["containerd", "--config", "\(folder)/config.toml"], log: "\(folder)/containerd.log")
    let daemon = daemon
    try waitUntil("containerd to answer", timeout: .seconds(20)) {
      guard daemon.isRunning else {
        throw LabError.invalid("containerd ended: \((try? Files.read("\(folder)/containerd.log")) ?? "")")
      }
      return try lab.runUnchecked(["ctr", "-a", "\(folder)/containerd.sock", "version"]).isSuccess
    }
  }

  /// What a node's runtime finds as /etc/cni/net.d and /opt/cni/bin.
  public func places(of node: Cluster.Node) -> (configurations: String, programs: String) {
    ("\(folder)/\(node.name)/etc/cni/net.d", "\(folder)/\(node.name)/opt/cni/bin")
  }

  /// Starts a container on a node, with a network by CNI, and leaves it running.
  public func start(_ name: String, on node: Cluster.Node, _ command: [String]) throws {
    try client(
      node, ["run", "--detach", "--cni", "--rootfs", "\(folder)/rootfs", name] + command, timeout: .seconds(60)
    ).check()
  }

  /// Runs a program in a container that runs.
  public func execute(
    _ name: String, on node: Cluster.Node, _ command: [String], timeout: Duration = .seconds(30)
  ) throws -> ProcessResult {
    try client(
      node, ["task", "exec", "--exec-id", "e\(Int.random(in: 0..<1 << 40))", name] + command, timeout: timeout)
  }

  /// Ends and removes a container, with its network.
  public func remove(_ name: String, on node: Cluster.Node) throws {
    _ = try client(node, ["task", "kill", "--signal", "SIGKILL", name])
    try waitUntil("the container \(name) to end") {
      try client(node, ["task", "rm", name]).isSuccess
        || !client(node, ["task", "ls", "-q"]).standardOutput.split(separator: "\n").contains(Substring(name))
    }
    try client(node, ["container", "rm", name]).check()
  }

  /// Runs a container to its end; its network is taken back by the runtime.
  public func run(_ name: String, on node: Cluster.Node, _ command: [String]) throws -> ProcessResult {
    try client(
      node, ["run", "--rm", "--cni", "--rootfs", "\(folder)/rootfs", name] + command, timeout: .seconds(60))
  }

  /// `ctr` in the node's network namespace: it is the client that runs the plugins, from places that only it sees.
  private func client(
    _ node: Cluster.Node, _ arguments: [String], timeout: Duration = .seconds(30)
  ) throws -> ProcessResult {
    let own = "\(folder)/\(node.name)"
    let script = """
      set -e
      mkdir -p \(own)/etc \(own)/work \(own)/opt/cni/bin
      mount -t overlay overlay -o lowerdir=/etc,upperdir=\(own)/etc,workdir=\(own)/work /etc
      mount --bind \(own)/opt /opt
      exec ctr -a \(folder)/containerd.sock -n \(node.namespace.name) "$@"
      """
    return try node.namespace.run(["unshare", "-m", "sh", "-c", script, "sh"] + arguments, timeout: timeout)
  }

  // MARK: Cleaning up

  /// Ends what outlives containerd: its shims, which name the lab's folder, and their containers; and removes the empty
  /// control groups of the lab's containers.
  private static func endAll(_ folder: String) {
    var parents: [Int32: Int32] = [:]
    var shims: Set<Int32> = []
    for name in Files.list("/proc") {
      guard let pid = Int32(name), let status = try? Files.read("/proc/\(pid)/stat") else { continue }
      // The name in parentheses may hold anything; state and parent come after it.
      let fields = status.split(separator: ")").last?.split(separator: " ") ?? []
      parents[pid] = fields.count > 1 ? Int32(fields[1]) : nil
      let command = (try? Files.read("/proc/\(pid)/cmdline")) ?? ""
      if command.contains("containerd-shim"), command.contains("\(folder)/containerd.sock") { shims.insert(pid) }
    }
    // With its first process a container's others end too.
    for (pid, parent) in parents where shims.contains(parent) { kill(pid, SIGKILL) }
    for pid in shims { kill(pid, SIGKILL) }
    let prefix = "kl\(getpid())-"
    for controller in Files.list("/sys/fs/cgroup") {
      for group in Files.list("/sys/fs/cgroup/\(controller)") where group.hasPrefix(prefix) {
        let path = "/sys/fs/cgroup/\(controller)/\(group)"
        for _ in 0..<50 {
          for inner in Files.list(path) { _ = unsafe rmdir("\(path)/\(inner)") }
          if unsafe rmdir(path) == 0 || errno == ENOENT { break }
          usleep(20_000)
        }
      }
    }
  }
}
