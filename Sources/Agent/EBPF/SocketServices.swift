import Addresses
import Compiler
import Dataplane
import Datastore
import EBPF
import Model
import Node

/// The node's services in the kernel: at the sockets of the node and of those pods whose network namespaces are known.
struct SocketServices {
  let balancer: SocketBalancer
  let hooks: Set<EBPFHook>

  /// The network namespaces of a node and its pods. What cannot be looked after is told by `problem`.
  static func namespaces(
    _ compiler: NodeCompiler, _ problem: (_ pod: ObjectKey, _ text: String) -> Void
  ) throws(EBPFError) -> [UInt64: SocketNamespace] {
    var namespaces: [UInt64: SocketNamespace] = [:]
    for (key, attachment) in compiler.attachments {
      // A pod whose namespace nobody names is served by the packet path.
      guard let path = attachment.networkNamespace else { continue }
      do throws(EBPFError) {
        let file = NetworkNamespace(path).path
        namespaces[try SocketNamespace.cookie(of: file)] = SocketNamespace(
          role: .pod, path: file, addresses: attachment.addresses,
          foreign: foreign(attachment.addresses, compiler.settings))
      } catch {
        problem(key, error.description)
      }
    }
    let own = IPFamily.allCases.compactMap { compiler.ownNode?.address($0) }
    namespaces[try SocketNamespace.cookie()] = SocketNamespace(role: .node, addresses: own)
    return namespaces
  }

  /// The families in which a pod's connections to cluster IPs are masqueraded (KP-34).
  private static func foreign(_ addresses: [IPAddress], _ settings: NodeSettings) -> Set<IPFamily> {
    Set(
      addresses.filter { address in
        let blocks = settings.clusterCIDRs.filter { $0.family == address.family }
        return settings.masqueradeAll || !blocks.isEmpty && !blocks.contains { $0.contains(address) }
      }.map(\.family))
  }

  /// Whether one of these is for services.
  static func isWanted(_ hooks: Set<EBPFHook>) -> Bool { !hooks.subtracting([.overlay, .policy]).isEmpty }

  static func options(
    _ settings: NodeSettings, _ hooks: Set<EBPFHook>, controlGroup: String?
  ) -> SocketBalancer.Options {
    var options = SocketBalancer.Options()
    options.hooks = Set(hooks.compactMap { Hook(rawValue: $0.rawValue) })
    let programs = Set(hooks.compactMap { PacketBalancer.Program(rawValue: $0.rawValue) })
    if !programs.isEmpty {
      var packets = PacketBalancer.Options()
      packets.programs = programs
      packets.connectionLimit = min(max(1024, settings.flowTableSize * 2), 1 << 17)
      options.packets = packets
    }
    options.carriesFlows = settings.ebpfHooks.contains(.overlay)
    options.enforcesPolicy = settings.ebpfHooks.contains(.policy)
    options.cgroup = controlGroup
    options.affinityLimit = settings.affinityTableSize
    return options
  }
}

/// Services in the kernel without an agent: they are there until they are unloaded or an agent takes them over.
public enum SocketLoader {
  /// The hooks that are loaded. Without a word for one that an agent is not needed for, all but `xdp_lb`.
  private static func hooks(_ settings: NodeSettings) -> Set<EBPFHook> {
    let named = settings.ebpfHooks.subtracting([.overlay])
    return named.isEmpty ? Set(EBPFHook.allCases).subtracting([.overlay, .xdpLB]) : named
  }

  /// Compiles the manifests of a directory and loads what they say for a node, whose network namespace is the caller's.
  /// Returns what was loaded, in words.
  public static func load(
    stateDirectory: String, node: String, controlGroup: String?
  ) throws -> (summary: String, problems: [String]) {
    if (try? AgentClient(socketPath: AgentConfiguration.defaultSocketPath(node: node)).ask(AgentRequest(.status)))
      != nil
    {
      throw AgentError(
        .alreadyRunning, "the agent of node \(node) runs: it looks after this itself, see `ebpf` in NodeConfiguration")
    }
    let source = ManifestDirectory(stateDirectory)
    let update: Update
    do throws(ManifestError) { update = try source.load() } catch { throw AgentError(.missing, "\(error)") }
    guard source.state.node(node) != nil else {
      let known = source.state.nodes.values.map(\.name).sorted()
      throw AgentError(
        .missing, "no Node named '\(node)' in \(stateDirectory); it has: \(known.joined(separator: ", "))")
    }
    let compiler = NodeCompiler(node: node)
    compiler.apply(update.changes)
    var tables = Tables()
    tables.followServices()
    let devices: (ports: [BalancedPort], underlay: PortIndex?)
    do throws(NodeError) { devices = try Machine().describe(to: compiler, &tables) } catch {
      throw AgentError(Agent.code(error.code), "\(error)")
    }
    var problems = update.problems.map(\.description)
    do throws(EBPFError) {
      let hooks = hooks(compiler.settings)
      guard SocketServices.isWanted(hooks) else {
        SocketBalancer.unload(node: node)
        let policy = try PolicyLoader.load(node: node, compiler.settings, hooks, devices.ports, &tables)
        return ("no services\(policy)", problems)
      }
      let namespaces = try SocketServices.namespaces(compiler) {
        problems.append("pod \($0.namespace)/\($0.name): \($1)")
      }
      let balancer = try SocketBalancer(
        node: node, tables.takeServiceChanges(), namespaces: namespaces,
        options: SocketServices.options(compiler.settings, hooks, controlGroup: controlGroup))
      var packets = ""
      if let programs = balancer.packets {
        try programs.set(
          tables.settings, tables.surroundings(.none), devices.ports, underlay: devices.underlay,
          isDirect: compiler.settings.loadBalancerMode == .dsr)
        try programs.attach()
        packets = "; packets of \(devices.ports.count) devices"
      }
      // In front of those that translate: both see a connection's packets the same way.
      let policy = try PolicyLoader.load(node: node, compiler.settings, hooks, devices.ports, &tables)
      let used = balancer.plan.values.count { $0 == .use }
      return (
        "\(balancer.serviceCount) service ports, \(balancer.frontendCount) frontends, \(balancer.endpointCount) endpoints; "
          + "\(namespaces.count) network namespaces; \(used) of \(balancer.plan.count) hooks\(packets)\(policy)",
        problems
      )
    } catch {
      throw AgentError(Agent.code(error.code), "\(error)")
    }
  }
}
