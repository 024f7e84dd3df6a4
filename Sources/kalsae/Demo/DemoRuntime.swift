import Lab

/// What starts the demo's containers: containerd where it is installed, else the plugin is called as a runtime calls it,
/// for processes in network namespaces.
final class DemoRuntime {
  private let lab: Lab
  private let cluster: Cluster
  private let plugin: String
  private let containerd: Containerd?
  /// Of containers without a runtime.
  private var namespaces: [String: Namespace] = [:]

  /// `program`: the path of `kalsae`, beside which the plugin lies.
  init(lab: Lab, cluster: Cluster, program: String) throws {
    self.lab = lab
    self.cluster = cluster
    plugin = "\(program)-cni"
    containerd = Containerd.isInstalled ? try Containerd(lab: lab) : nil
    guard let containerd else { return }
    for node in cluster.nodes {
      let places = containerd.places(of: node)
      let runtime = cluster.runtime(of: node, plugin: plugin)
      try lab.run([
        program, "cni", "install", "--socket", runtime.socket, "--data", runtime.dataDirectory, "--ipam",
        runtime.addressing, "--bin-dir", places.programs, "--conf-dir", places.configurations,
      ])
    }
  }

  var title: String {
    containerd != nil
      ? "Containers that containerd starts, with kalsae-cni as its plugin"
      : "Containers without a runtime (containerd is not installed): kalsae-cni is called as one calls it"
  }

  /// Starts a container that runs a program of busybox.
  func start(_ name: String, on node: Cluster.Node, _ command: [String]) throws {
    if let containerd { return try containerd.start(name, on: node, ["/bin/busybox"] + command) }
    let namespace = try lab.namespace(name)
    namespaces[name] = namespace
    try cluster.runtime(of: node, plugin: plugin).add(name, to: namespace)
    _ = try namespace.spawn(["busybox"] + command)
  }

  /// Runs a program of busybox in a container.
  func execute(_ name: String, on node: Cluster.Node, _ command: [String]) throws -> ProcessResult {
    if let namespace = namespaces[name] { return try namespace.run(["busybox"] + command, timeout: .seconds(10)) }
    guard let containerd else { throw LabError.invalid("there is no container '\(name)'") }
    return try containerd.execute(name, on: node, ["/bin/busybox"] + command, timeout: .seconds(10))
  }

  /// Ends a container and takes its network back.
  func remove(_ name: String, on node: Cluster.Node) throws {
    if let containerd { return try containerd.remove(name, on: node) }
    try cluster.runtime(of: node, plugin: plugin).delete(name, namespace: namespaces[name])
  }
}
